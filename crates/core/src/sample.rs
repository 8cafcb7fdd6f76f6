//! Choosing the next token from logits: penalties, truncation, temperature, and a seeded draw.
//!
//! The order is llama.cpp's: penalties, top-k, top-p, min-p, temperature, draw. Ties go to the lower token id and sums
//! run in one order with our own [`exp`], so a seed gives the same tokens on every machine.

use crate::ops::math::exp;

/// What shapes the choice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleParams {
    /// Logits are divided by this; 0 takes the largest one (greedy).
    pub temperature: f32,
    /// Only the `top_k` largest logits are kept; 0 keeps all.
    pub top_k: usize,
    /// The fewest largest probabilities that sum to at least this are kept; 1 keeps all.
    pub top_p: f32,
    /// Probabilities below this share of the largest are dropped; 0 keeps all.
    pub min_p: f32,
    /// Logits of recent tokens are divided by this if positive and multiplied with it if negative; 1 for no change
    /// (Keskar et al. 2019).
    pub repeat_penalty: f32,
    /// How many recent tokens are penalised.
    pub repeat_last_n: usize,
    /// Taken from the logit of every recent token.
    pub presence_penalty: f32,
    /// Taken from the logit of every recent token once for each time it occurs.
    pub frequency_penalty: f32,
    /// The seed of the draw.
    pub seed: u64,
}

impl Default for SampleParams {
    /// llama.cpp's defaults, without its repeat penalty.
    fn default() -> Self {
        SampleParams {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
        }
    }
}

/// A token and its logit, later its probability.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Candidate {
    /// The token.
    pub id: u32,
    /// Its logit or probability.
    pub p: f32,
}

/// Chooses tokens; its memory is the caller's.
#[derive(Debug)]
pub struct Sampler<'a> {
    params: SampleParams,
    candidates: &'a mut [Candidate],
    random: SplitMix,
}

/// Sebastiano Vigna's splitmix64: one word of state, every seed good.
#[derive(Clone, Copy, Debug)]
struct SplitMix(u64);

impl SplitMix {
    /// A number from 0 up to, but not including, 1, in steps of 2^-24.
    fn next_unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 * (1.0 / 16_777_216.0)
    }
}

impl<'a> Sampler<'a> {
    /// How many candidates [`Sampler::new`] needs for a vocabulary of `n_vocab`.
    pub fn scratch_len(params: &SampleParams, n_vocab: usize) -> usize {
        match params {
            SampleParams { temperature, .. } if *temperature <= 0.0 => 0,
            SampleParams { top_k: 0, .. } => n_vocab,
            SampleParams { top_k, .. } => n_vocab.min(*top_k),
        }
    }

    /// A sampler with [`Sampler::scratch_len`] candidates of scratch; with fewer, fewer tokens are considered.
    pub fn new(params: SampleParams, candidates: &'a mut [Candidate]) -> Self {
        Self { params, candidates, random: SplitMix(params.seed) }
    }

    /// Chooses a token. `logits`, (n_vocab), are changed by the penalties; `recent` holds the tokens so far, of which the
    /// last `repeat_last_n` are penalised. A logit of minus infinity is never chosen unless all are.
    pub fn sample(&mut self, logits: &mut [f32], recent: &[u32]) -> u32 {
        self.penalise(logits, recent);
        if self.params.temperature <= 0.0 || self.candidates.is_empty() {
            return greedy(logits);
        }
        let n = self.keep_largest(logits);
        let kept = &mut self.candidates[..n];
        let n = truncate(kept, self.params.top_p, self.params.min_p);
        let kept = &mut self.candidates[..n];
        // Temperature over the logits that are left.
        let largest = kept[0].p;
        for candidate in kept.iter_mut() {
            candidate.p = exp((candidate.p - largest) / self.params.temperature);
        }
        let total: f32 = kept.iter().map(|candidate| candidate.p).sum();
        let mut left = self.random.next_unit() * total;
        for candidate in kept.iter() {
            left -= candidate.p;
            if left < 0.0 {
                return candidate.id;
            }
        }
        // Rounding may leave a crumb; it belongs to the last one.
        kept[n - 1].id
    }

    fn penalise(&self, logits: &mut [f32], recent: &[u32]) {
        let p = &self.params;
        if p.repeat_penalty == 1.0 && p.presence_penalty == 0.0 && p.frequency_penalty == 0.0 {
            return;
        }
        let recent = &recent[recent.len().saturating_sub(p.repeat_last_n)..];
        for (index, &id) in recent.iter().enumerate() {
            // Each token once, at its first occurrence.
            if recent[..index].contains(&id) {
                continue;
            }
            let Some(logit) = logits.get_mut(id as usize) else { continue };
            let count = recent.iter().filter(|&&other| other == id).count();
            *logit = if *logit > 0.0 { *logit / p.repeat_penalty } else { *logit * p.repeat_penalty };
            *logit -= p.frequency_penalty * count as f32 + p.presence_penalty;
        }
    }

    /// Fills the scratch with the largest logits, largest first, and returns how many (at least one).
    fn keep_largest(&mut self, logits: &[f32]) -> usize {
        let room = self.candidates.len();
        let mut n = 0;
        for (id, &p) in logits.iter().enumerate() {
            let candidate = Candidate { id: id as u32, p };
            if n < room {
                self.candidates[n] = candidate;
                n += 1;
                if n == room && room < logits.len() {
                    make_heap(self.candidates);
                }
            } else if before(&candidate, &self.candidates[0]) {
                self.candidates[0] = candidate;
                sift_down(self.candidates, 0);
            }
        }
        let kept = &mut self.candidates[..n];
        kept.sort_unstable_by(|a, b| b.p.total_cmp(&a.p).then(a.id.cmp(&b.id)));
        n
    }
}

/// The largest logit's token, the lowest id among equals.
fn greedy(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// Whether `a` comes before `b`: a larger logit, or the lower id of two equals.
fn before(a: &Candidate, b: &Candidate) -> bool {
    a.p.total_cmp(&b.p).then(b.id.cmp(&a.id)).is_gt()
}

/// Orders `heap` so that the one that comes last stands at the root.
fn make_heap(heap: &mut [Candidate]) {
    for root in (0..heap.len() / 2).rev() {
        sift_down(heap, root);
    }
}

fn sift_down(heap: &mut [Candidate], mut root: usize) {
    loop {
        let mut last = root;
        for child in [2 * root + 1, 2 * root + 2] {
            if child < heap.len() && before(&heap[last], &heap[child]) {
                last = child;
            }
        }
        if last == root {
            return;
        }
        heap.swap(root, last);
        root = last;
    }
}

/// How many of the sorted candidates (logits) top-p and min-p leave; at least one.
fn truncate(sorted: &[Candidate], top_p: f32, min_p: f32) -> usize {
    let largest = sorted[0].p;
    let weight = |candidate: &Candidate| exp(candidate.p - largest);
    let mut n = sorted.len();
    if top_p < 1.0 {
        let total: f32 = sorted.iter().map(weight).sum();
        let mut sum = 0.0;
        let enough = sorted.iter().position(|candidate| {
            sum += weight(candidate);
            sum >= top_p * total
        });
        n = enough.map_or(n, |index| index + 1);
    }
    if min_p > 0.0 {
        // The largest has weight one, so a share of the largest probability is a share of one.
        n = sorted[..n].iter().position(|candidate| weight(candidate) < min_p).unwrap_or(n);
    }
    n.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFF: SampleParams = SampleParams {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repeat_penalty: 1.0,
        repeat_last_n: 64,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        seed: 1,
    };

    fn draw(params: SampleParams, logits: &[f32], recent: &[u32], n: usize) -> Vec<usize> {
        let mut scratch = vec![Candidate::default(); Sampler::scratch_len(&params, logits.len())];
        let mut sampler = Sampler::new(params, &mut scratch);
        let mut counts = vec![0; logits.len()];
        for _ in 0..n {
            counts[sampler.sample(&mut logits.to_vec(), recent) as usize] += 1;
        }
        counts
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let p = [0.5f32, 0.25, 0.125, 0.125];
        let logits: Vec<f32> = p.iter().map(|p| p.ln()).collect();
        let counts = draw(OFF, &logits, &[], 40_000);
        for (count, p) in counts.iter().zip(p) {
            assert!((*count as f32 / 40_000.0 - p).abs() < 0.01, "{counts:?}");
        }
        let hot = draw(SampleParams { temperature: 2.0, ..OFF }, &logits, &[], 40_000);
        let share = 0.5f32.sqrt() / p.iter().map(|p| p.sqrt()).sum::<f32>();
        assert!((hot[0] as f32 / 40_000.0 - share).abs() < 0.01, "{hot:?}");
    }

    #[test]
    fn each_truncation_keeps_what_it_says() {
        let logits: Vec<f32> = [0.1f32, 0.4, 0.05, 0.3, 0.15].iter().map(|p| p.ln()).collect();
        let kept = |params| -> Vec<bool> { draw(params, &logits, &[], 3000).iter().map(|&n| n > 0).collect() };
        assert_eq!(kept(OFF), [true; 5]);
        assert_eq!(kept(SampleParams { top_k: 2, ..OFF }), [false, true, false, true, false]);
        assert_eq!(kept(SampleParams { top_k: 99, ..OFF }), [true; 5]);
        assert_eq!(kept(SampleParams { top_p: 0.69, ..OFF }), [false, true, false, true, false]);
        assert_eq!(kept(SampleParams { top_p: 0.0, ..OFF }), [false, true, false, false, false]);
        assert_eq!(kept(SampleParams { min_p: 0.3, ..OFF }), [false, true, false, true, true]);
        assert_eq!(kept(SampleParams { temperature: 0.0, ..OFF }), [false, true, false, false, false]);
    }

    #[test]
    fn penalties_change_recent_tokens_only() {
        let greedy = SampleParams { temperature: 0.0, ..OFF };
        let pick = |params, recent: &[u32]| Sampler::new(params, &mut []).sample(&mut [2.0, 1.9, -1.0, -1.1], recent);
        assert_eq!(pick(greedy, &[0]), 0);
        assert_eq!(pick(SampleParams { repeat_penalty: 1.1, ..greedy }, &[0]), 1);
        assert_eq!(pick(SampleParams { repeat_penalty: 1.1, repeat_last_n: 1, ..greedy }, &[0, 3]), 0);
        assert_eq!(pick(SampleParams { presence_penalty: 0.05, ..greedy }, &[0, 0, 0]), 0);
        assert_eq!(pick(SampleParams { frequency_penalty: 0.05, ..greedy }, &[0, 0, 0]), 1);
        assert_eq!(pick(SampleParams { repeat_penalty: 1.1, ..greedy }, &[99]), 0, "an unknown token is no matter");
        assert_eq!(
            Sampler::new(SampleParams { repeat_penalty: 1.2, ..greedy }, &mut []).sample(&mut [-1.0, -1.1], &[0]),
            1
        );
    }

    #[test]
    fn top_k_by_heap_equals_sorting() {
        let logits: Vec<f32> = (0..1000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 22) as f32).collect();
        let mut sorted: Vec<Candidate> =
            logits.iter().enumerate().map(|(id, &p)| Candidate { id: id as u32, p }).collect();
        sorted.sort_by(|a, b| b.p.total_cmp(&a.p).then(a.id.cmp(&b.id)));
        for k in [1, 2, 3, 7, 40, 999, 1000] {
            let mut scratch = vec![Candidate::default(); k];
            let mut sampler = Sampler::new(SampleParams { top_k: k, ..OFF }, &mut scratch);
            assert_eq!(sampler.keep_largest(&logits), k);
            assert_eq!(scratch, sorted[..k]);
        }
    }

    #[test]
    fn a_seed_gives_its_own_draws_again() {
        let logits = [0.0; 50];
        let tokens = |seed| {
            let params = SampleParams { seed, ..OFF };
            let mut scratch = vec![Candidate::default(); 50];
            let mut sampler = Sampler::new(params, &mut scratch);
            (0..20).map(|_| sampler.sample(&mut logits.clone(), &[])).collect::<Vec<u32>>()
        };
        assert_eq!(tokens(7), tokens(7));
        assert_ne!(tokens(7), tokens(8));
    }

    #[test]
    fn a_forbidden_token_is_never_drawn() {
        let counts = draw(OFF, &[f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY], &[], 500);
        assert_eq!(counts, [0, 500, 0]);
    }
}
