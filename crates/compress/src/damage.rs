//! What a change did to a model, told by its logits: perplexity, and the divergence from what it predicted before.
//!
//! Everything is summed in f64 in the order of the vocabulary and of the text, so that a figure does not depend on threads or
//! on batches. Kept are three floats for each scored position and no logits.
//!
//! Sources: Jelinek et al. 1977 (perplexity); Kullback and Leibler 1951. The standard error and the way quantiles are
//! interpolated are `llama-perplexity`'s, so that its figures and these compare.

/// The logarithm of the sum of the exponentials of `logits`, (n_vocab): what turns a logit into a log-probability.
pub fn log_total(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest + logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum::<f64>().ln()
}

/// The negative log-likelihood, in nats, of `token` under `logits` whose [`log_total`] is given.
///
/// # Panics
/// When the token is not in the vocabulary.
pub fn nll(logits: &[f32], log_total: f64, token: u32) -> f64 {
    log_total - f64::from(logits[token as usize])
}

/// The Kullback-Leibler divergence, in nats, of the distribution of `logits` from that of `base`, each with its
/// [`log_total`]: what is lost when `base` is right and `logits` are believed. Exactly 0 for the same logits, never less.
pub fn kl(base: (&[f32], f64), logits: (&[f32], f64)) -> f64 {
    let pairs = base.0.iter().zip(logits.0).map(|(&b, &l)| (f64::from(b), f64::from(l)));
    let of_logits: f64 = pairs.map(|(b, l)| (b - base.1).exp() * (b - l)).sum();
    (of_logits - (base.1 - logits.1)).max(0.0)
}

/// The likeliest token, the first of those that are equal.
pub fn top(logits: &[f32]) -> usize {
    let mut best = 0;
    for (token, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = token;
        }
    }
    best
}

/// The value below which the share `q` (0 to 1) of `sorted` lies, interpolated between its neighbours; `None` of nothing.
pub fn quantile(sorted: &[f32], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = q.clamp(0.0, 1.0) * last as f64;
    let below = place as usize;
    let share = place - below as f64;
    Some((1.0 - share) * f64::from(sorted[below]) + share * f64::from(sorted[(below + 1).min(last)]))
}

/// How well a model predicted a text.
#[derive(Clone, Debug, Default)]
pub struct Likelihood {
    nlls: Vec<f32>,
    sum: f64,
    sum_of_squares: f64,
}

impl Likelihood {
    /// Room for `n` positions.
    pub fn with_capacity(n: usize) -> Self {
        Self { nlls: Vec::with_capacity(n), sum: 0.0, sum_of_squares: 0.0 }
    }

    /// Adds a position with this [`nll`].
    pub fn push(&mut self, nll: f64) {
        self.nlls.push(nll as f32);
        self.sum += nll;
        self.sum_of_squares += nll * nll;
    }

    /// The negative log-likelihood of every position, in nats, in the order of the text.
    pub fn nlls(&self) -> &[f32] {
        &self.nlls
    }

    /// The mean negative log-likelihood of a token, in nats.
    pub fn mean(&self) -> f64 {
        self.sum / self.nlls.len() as f64
    }

    /// The exponential of the mean: how many tokens the model wavers between.
    pub fn perplexity(&self) -> f64 {
        self.mean().exp()
    }

    /// One standard error of [`Likelihood::perplexity`], as if positions were independent; 0 of one position.
    pub fn perplexity_error(&self) -> f64 {
        let n = self.nlls.len() as f64;
        let variance = (self.sum_of_squares / n - self.mean() * self.mean()).max(0.0);
        if n > 1.0 { (variance / (n - 1.0)).sqrt() * self.perplexity() } else { 0.0 }
    }

    /// Bits spent on each byte, when the text of the scored tokens has `n_bytes`; comparable between vocabularies.
    pub fn bits_per_byte(&self, n_bytes: u64) -> f64 {
        self.sum / std::f64::consts::LN_2 / n_bytes as f64
    }
}

/// How far a model's predictions lie from those of the model it was made from.
#[derive(Clone, Debug, Default)]
pub struct Damage {
    /// How well the base predicted the text.
    pub base: Likelihood,
    kls: Vec<f32>,
    kl_sum: f64,
    n_same_top: usize,
}

impl Damage {
    /// Room for `n` positions.
    pub fn with_capacity(n: usize) -> Self {
        Self { base: Likelihood::with_capacity(n), kls: Vec::with_capacity(n), kl_sum: 0.0, n_same_top: 0 }
    }

    /// Compares both models' logits, (n_vocab), at a position that `token` follows. Adds the model's own likelihood to `model`.
    ///
    /// # Panics
    /// When the vocabularies differ in size or do not have the token.
    pub fn push(&mut self, base: &[f32], logits: &[f32], token: u32, model: &mut Likelihood) {
        assert_eq!(base.len(), logits.len());
        let (base_total, total) = (log_total(base), log_total(logits));
        self.base.push(nll(base, base_total, token));
        model.push(nll(logits, total, token));
        let kl = kl((base, base_total), (logits, total));
        self.kls.push(kl as f32);
        self.kl_sum += kl;
        self.n_same_top += usize::from(top(base) == top(logits));
    }

    /// The divergence at every position, in nats, in the order of the text.
    pub fn kls(&self) -> &[f32] {
        &self.kls
    }

    /// The share of positions at which both models find the same token the likeliest.
    pub fn same_top(&self) -> f64 {
        self.n_same_top as f64 / self.kls.len() as f64
    }

    /// Mean and tail of the divergence.
    pub fn kl(&self) -> Divergence {
        let mut sorted = self.kls.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        let at = |q| quantile(&sorted, q).unwrap_or(f64::NAN);
        Divergence {
            mean: self.kl_sum / self.kls.len() as f64,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: at(1.0),
        }
    }
}

/// Mean and quantiles of the divergence over the positions of a text, in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// The mean.
    pub mean: f64,
    /// Half of the positions have less.
    pub p50: f64,
    /// Nine of ten positions have less.
    pub p90: f64,
    /// 99 of 100 positions have less.
    pub p99: f64,
    /// The most.
    pub max: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-12 * b.abs().max(1.0)
    }

    /// Logits whose exponentials are 1, 2, 5 of 8.
    fn eighths() -> [f32; 3] {
        [0.0, 2f32.ln(), 5f32.ln()]
    }

    #[test]
    fn log_probabilities_are_those_worked_by_hand() {
        let logits = eighths();
        let total = log_total(&logits);
        assert!((total - 8f64.ln()).abs() < 1e-6);
        assert!((nll(&logits, total, 1) - 4f64.ln()).abs() < 1e-6);
        assert_eq!(top(&logits), 2);
        assert_eq!(top(&[1.0, 3.0, 3.0]), 1);
        // Logits that no f32 exponential holds.
        assert!(near(log_total(&[1000.0, 1000.0]), 1000.0 + 2f64.ln()));
        assert!(near(log_total(&[-1000.0, -1000.0]), -1000.0 + 2f64.ln()));
        assert!(near(log_total(&[3.0, f32::NEG_INFINITY]), 3.0));
    }

    #[test]
    fn the_divergence_of_a_coin_from_a_loaded_one_is_that_worked_by_hand() {
        // p = (1/4, 3/4), q = (1/2, 1/2): 1/4 ln(1/2) + 3/4 ln(3/2).
        let (base, logits) = ([0.0, 3f32.ln()], [7.0, 7.0]);
        let want = 0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln();
        let got = kl((&base, log_total(&base)), (&logits, log_total(&logits)));
        assert!((got - want).abs() < 1e-7, "{got}, not {want}");
        // And the other way round: 1/2 ln 2 + 1/2 ln(2/3).
        let want = 0.5 * 2f64.ln() + 0.5 * (2f64 / 3.0).ln();
        let got = kl((&logits, log_total(&logits)), (&base, log_total(&base)));
        assert!((got - want).abs() < 1e-7, "{got}, not {want}");
    }

    #[test]
    fn the_same_logits_diverge_by_nothing_at_all() {
        let logits: Vec<f32> = (0..999).map(|i| (i as f32 * 0.7).sin() * 20.0).collect();
        let total = log_total(&logits);
        assert_eq!(kl((&logits, total), (&logits, total)), 0.0);
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        assert_eq!(quantile(&sorted, 0.0), Some(1.0));
        assert_eq!(quantile(&sorted, 0.5), Some(3.0));
        assert!(near(quantile(&sorted, 0.9).unwrap(), 0.3 * 4.0 + 0.7 * 8.0));
        assert_eq!(quantile(&sorted, 1.0), Some(8.0));
        assert_eq!(quantile(&[5.0], 0.99), Some(5.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn perplexity_and_its_error_are_those_worked_by_hand() {
        let mut likelihood = Likelihood::default();
        for nll in [1.0, 2.0, 3.0] {
            likelihood.push(nll);
        }
        assert!(near(likelihood.mean(), 2.0));
        assert!(near(likelihood.perplexity(), 2f64.exp()));
        // The variance is 2/3; divided by n - 1 = 2 it is 1/3.
        assert!(near(likelihood.perplexity_error(), (1.0f64 / 3.0).sqrt() * 2f64.exp()));
        // 6 nats are 6 / ln 2 bits.
        assert!(near(likelihood.bits_per_byte(12), 6.0 / 2f64.ln() / 12.0));
        let mut one = Likelihood::default();
        one.push(5.0);
        assert_eq!(one.perplexity_error(), 0.0);
    }

    #[test]
    fn damage_is_gathered_position_by_position() {
        let (mut model, mut damage) = (Likelihood::default(), Damage::default());
        let base = eighths();
        damage.push(&base, &base, 2, &mut model);
        damage.push(&base, &[0.0, 0.0, -1.0], 0, &mut model);
        assert_eq!(damage.same_top(), 0.5);
        let kl = damage.kl();
        assert_eq!(damage.kls()[0], 0.0);
        assert_eq!(kl.max, f64::from(damage.kls()[1]));
        assert!((kl.mean * 2.0 - kl.max).abs() < 1e-6 && kl.max > 0.5);
        assert!((kl.p50 - kl.mean).abs() < 1e-6);
        assert!((damage.base.mean() - (1.6f64.ln() + 8f64.ln()) / 2.0).abs() < 1e-6);
        assert_eq!(model.nlls()[0], damage.base.nlls()[0]);
        assert!(model.nlls()[1] < damage.base.nlls()[1]);
    }
}
