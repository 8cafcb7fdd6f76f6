//! Attention of the newest positions over the cached ones, a few queries at a time.
//!
//! Definition: a score is the dot product of query and key in the lane order of float rows, times a scale; the largest
//! score is taken away, [`exp`](super::math::exp) applied, the sum taken in lane order; the output adds the values, positions in order,
//! each times its weight over the sum.
//!
//! Queries that look at the same head of the cache (of several tokens, or of several heads that share one) walk through it
//! together, so that a cached row is read once for all of them. Each has sums of its own, to which positions are added in order,
//! so its bits are those that it has alone. The adds of a sum wait for one another: where a head has few sums, two heads are walked through at
//! once.

// The same number indexes the arrays of every query; iterators over several at once are calls in functions as large as these.
#![allow(clippy::needless_range_loop)]

use super::matmul::Crew;
use super::softmax::Softmax;
use crate::kv::{Cache, CacheF16, CacheF32, CacheFormat, CacheQ4, CacheQ8, CacheType, PAGE, Place};
use crate::quant;
use crate::simd::{Kernel, LANES, Simd, TILE, each, padded};
use crate::store::{Head, Lost, Spill};
use crate::workers::{Columns, Single, Workers, split};
use core::ops::Range;

/// Queries that walk through the cache together, at most. Where there are no vectors, or no room for code and scores, each goes
/// alone.
pub(crate) const QUERIES: usize = if TILE == LANES && !quant::IS_FOR_ONE_MODEL { 4 } else { 1 };
/// Heads of the cache that are walked through at once where the sums of one are fewer than [`SUMS`].
const PAIR: usize = 2;
/// Sums that keep a processor busy: an add takes about as many steps, and in each another can begin.
const SUMS: usize = 4;
/// Products of a query and a key below which waking another thread costs more than it saves.
const SMALL_JOB: usize = 1 << 13;

/// Cached rows of one head that are not in the caches.
#[derive(Clone, Copy, Default)]
pub struct Old<'a> {
    /// The first position and the one behind the last; the caches have what follows.
    pub positions: (usize, usize),
    /// Their keys, one after the other.
    pub keys: &'a [u8],
    /// Their values.
    pub values: &'a [u8],
}

/// One layer's attention.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// The layer's place in the caches.
    pub place: Place,
    /// What is seen and is not there, of the only head in `kv_heads`.
    pub old: Old<'a>,
    /// The key and value heads that are attended to: the first and the one behind the last.
    pub kv_heads: (usize, usize),
    /// The cached keys, the newest included.
    pub keys: &'a Cache<'a>,
    /// The cached values, the newest included.
    pub values: &'a Cache<'a>,
    /// (tokens, n_heads, head_dim).
    pub query: &'a [f32],
    /// The position of the first token.
    pub position: usize,
    /// How many query heads.
    pub n_heads: usize,
    /// How many key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// What scores are multiplied with.
    pub scale: f32,
    /// How many positions a token sees, itself included; all of them when `None`.
    pub window: Option<usize>,
}

/// Sixteen keys of half a vector, the largest that there are.
const HALF_KEYS_BYTES: usize = LANES * LANES / 2 * size_of::<f32>();

/// A query: whose, and the positions that it sees.
#[derive(Clone, Copy, Default)]
struct Query<'a> {
    /// (head_dim).
    x: &'a [f32],
    token: usize,
    /// Where its output begins among the columns of the task.
    column: usize,
    start: usize,
    end: usize,
}

impl Attention<'_> {
    /// Writes the output of every token and of every head that looks at `kv_heads` to `out`, (tokens, n_heads, head_dim); `scores` holds for each worker as many rows
    /// of the context's length as `n_together`, the queries that may go together.
    pub fn run(&self, crew: Crew<'_>, scores: &mut [f32], n_together: usize, out: &mut [f32]) {
        let width = self.n_heads * self.head_dim;
        let n_products = self.query.len() * (self.position + self.query.len() / width);
        let workers: &dyn Workers = if n_products < SMALL_JOB { &Single } else { crew.workers };
        // Heads that share a head of the cache are one task, so that one thread alone reads it, where there are tasks enough; a
        // prompt is computed longer than it is read, and its tasks are made small, to even them out.
        let is_prompt = self.query.len() > width && workers.n_workers() > 1;
        let sharing = self.n_heads / self.n_kv_heads;
        let (first, end) = self.kv_heads;
        let n_heads = if is_prompt || end - first < workers.n_workers() { 1 } else { sharing };
        let is_alone = self.query.len() == width && n_heads == sharing;
        let has_few = sharing * self.head_dim.div_ceil(LANES) < SUMS && PAIR * sharing <= n_together;
        let n_paired = if is_alone && has_few && end - first >= PAIR * workers.n_workers() { PAIR } else { 1 };
        let scratch_len = scores.len() / workers.n_workers();
        let scratch = (scores, scratch_len);
        let range = first * sharing * self.head_dim..end * sharing * self.head_dim;
        let tasks = (n_paired * n_heads * self.head_dim, usize::MAX);
        split(workers, out, (width, range), tasks, scratch, &|scores, mut columns| {
            let n_tokens = columns.n_rows();
            let first = columns.range().start / self.head_dim;
            let n_queries = columns.range().len() / self.head_dim * n_tokens;
            let mut queries = [Query::default(); QUERIES];
            for done in (0..n_queries).step_by(n_together) {
                let n = n_together.min(n_queries - done);
                for (index, query) in queries[..n].iter_mut().enumerate() {
                    *query = self.query(first, (done + index) / n_tokens, (done + index) % n_tokens);
                }
                self.attend(crew, &queries[..n], first, scores, &mut columns);
            }
        });
    }

    /// The same for a layer whose rows of the first `n_spilled` positions `spill` keeps, one head after the other.
    ///
    /// # Errors
    /// Rows that could not be brought.
    pub fn run_spilled(
        &self,
        (crew, spill): (Crew<'_>, &dyn Spill),
        (layer, n_spilled): (usize, usize),
        (scores, n_together): (&mut [f32], usize),
        out: &mut [f32],
    ) -> Result<(), Lost> {
        let oldest = self.window.map_or(0, |window| (self.position + 1).saturating_sub(window));
        if oldest >= n_spilled {
            self.run(crew, scores, n_together, out);
            return Ok(());
        }
        let positions = (oldest / PAGE * PAGE, n_spilled);
        for head in self.kv_heads.0..self.kv_heads.1 {
            spill.lend(Head { layer, head }, positions.0..positions.1, &mut |keys, values| {
                let attention = Attention { old: Old { positions, keys, values }, kv_heads: (head, head + 1), ..*self };
                attention.run(crew, scores, n_together, out);
            })?;
        }
        Ok(())
    }

    /// The query of token `token` in the head that is `head` heads behind `first`.
    fn query(&self, first: usize, head: usize, token: usize) -> Query<'_> {
        let end = self.position + token + 1;
        let start = self.window.map_or(0, |window| end.saturating_sub(window));
        let at = (token * self.n_heads + first + head) * self.head_dim;
        Query { x: &self.query[at..at + self.head_dim], token, column: head * self.head_dim, start, end }
    }

    /// The outputs of queries that look at the same head of the cache, that of head `first`, or those of one token at it and the next.
    fn attend(
        &self,
        crew: Crew<'_>,
        queries: &[Query<'_>],
        first: usize,
        scores: &mut [f32],
        columns: &mut Columns<'_>,
    ) {
        let kv_head = |query: &Query<'_>| (first + query.column / self.head_dim) / (self.n_heads / self.n_kv_heads);
        let (Some(first), Some(last)) = (queries.first().map(kv_head), queries.last().map(kv_head)) else { return };
        let n_heads = last - first + 1;
        let n_each = queries.len() / n_heads;
        let start = queries.iter().map(|query| query.start).min().unwrap_or(0);
        let end = queries.iter().map(|query| query.end).max().unwrap_or(0);

        let stride = end - start;
        let seen = core::array::from_fn(|index| {
            queries.get(index).map_or(0..0, |query: &Query<'_>| query.start - start..query.end - start)
        });
        for (index, queries) in queries.chunks(n_each).enumerate() {
            let keys = self.rows((self.keys, self.old.keys), first + index, (start, end));
            let scores = &mut scores[index * n_each * stride..];
            run_cached(crew, self.keys.kind(), Score { queries, keys, scale: self.scale, scores, stride });
        }
        crew.isa.run(Softmax { scores, stride, seen: &seen[..queries.len()] });
        let mut values = [Rows::default(); PAIR];
        for (index, values) in values[..n_heads].iter_mut().enumerate() {
            *values = self.rows((self.values, self.old.values), first + index, (start, end));
        }
        let mix = Mix { weights: scores, stride, seen, values, n_heads, head_dim: self.head_dim, queries, columns };
        run_cached(crew, self.values.kind(), mix);
    }

    /// The rows of positions `start` to `end` of one head, of which `cache` has those behind the old ones.
    fn rows<'a>(&self, (cache, old): (&'a Cache<'_>, &'a [u8]), head: usize, (start, end): (usize, usize)) -> Rows<'a> {
        let row_bytes = cache.row_bytes();
        let (first, behind) = self.old.positions;
        let n_old = behind.saturating_sub(start);
        let old = if n_old > 0 { &old[(start - first) * row_bytes..][..n_old * row_bytes] } else { &[] };
        let [newer, newest] = cache.positions(self.place, head, (start + n_old, end));
        let n_newer = newer.len() / row_bytes;
        let counts = [n_old, n_newer, end - start - n_old - n_newer];
        Rows { pieces: [old, newer, newest], counts, row_bytes }
    }
}

/// The first piece of [`Rows`] that may have any: in a build for one model no rows are old.
const FIRST_PIECE: usize = if quant::IS_FOR_ONE_MODEL { 1 } else { 0 };

/// Cached rows of one head, positions in order, in a few pieces.
#[derive(Clone, Copy, Default)]
struct Rows<'a> {
    pieces: [&'a [u8]; 3],
    /// Rows of each piece.
    counts: [usize; 3],
    row_bytes: usize,
}

/// A kernel over cached rows, for any way of storing them.
trait CacheKernel {
    fn run<S: Simd, C: CacheFormat>(self, s: S);
}

fn run_cached<K: CacheKernel>(crew: Crew<'_>, kind: CacheType, kernel: K) {
    macro_rules! with {
        ($($kind:ident $format:ident)+) => {
            match kind {
                $(CacheType::$kind if const { CacheType::$kind.is_built() } => {
                    crew.isa.run(With::<_, $format>(kernel, core::marker::PhantomData));
                })+
                _ => unreachable!("the plan refuses caches that are not built"),
            }
        };
    }
    with!(F32 CacheF32 F16 CacheF16 Q8_0 CacheQ8 Q4_0 CacheQ4)
}

/// A kernel with its way of reading rows decided.
struct With<K, C>(K, core::marker::PhantomData<C>);

impl<K: CacheKernel, C: CacheFormat> Kernel for With<K, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.0.run::<S, C>(s);
    }
}

/// Calls a function for the next few of `$n` queries from number `$at` on, as many as an instruction set has registers for.
macro_rules! with_queries {
    ($s:ident, $S:ident, $at:ident, $n:expr, $T:ident => $call:expr) => {
        let mut $at = 0;
        while $at < $n {
            let left = $n - $at;
            $at += match if $S::VECTORS <= 8 { left.min(2) } else { left } {
                1 => with_queries!(@ 1, $T => $call),
                2 | 3 => with_queries!(@ 2, $T => $call),
                _ => with_queries!(@ QUERIES, $T => $call),
            };
        }
    };
    (@ $number:expr, $T:ident => $call:expr) => {{
        const $T: usize = if $number < QUERIES { $number } else { QUERIES };
        $call;
        $T
    }};
}

/// The dot products of queries with keys.
struct Score<'a, 'b> {
    queries: &'a [Query<'b>],
    keys: Rows<'a>,
    scale: f32,
    /// (queries, rows).
    scores: &'a mut [f32],
    /// Rows.
    stride: usize,
}

impl CacheKernel for Score<'_, '_> {
    #[inline(always)]
    fn run<S: Simd, C: CacheFormat>(mut self, s: S) {
        with_queries!(s, S, at, self.queries.len(), T => self.several::<S, C, T>(s, at));
    }
}

impl Score<'_, '_> {
    /// The scores of `T` queries from number `at` on.
    #[inline(always)]
    fn several<S: Simd, C: CacheFormat, const T: usize>(&mut self, s: S, at: usize) {
        let mut queries = [self.queries[at].x; T];
        for t in 1..T {
            queries[t] = self.queries[at + t].x;
        }
        if C::IS_PLAIN && S::SUMS_HALVES && queries[0].len() == LANES / 2 {
            return self.halves::<S, C, T>(s, at, queries);
        }
        let whole = queries[0].len() / LANES * LANES;
        let mut last = [s.splat(0.0); T];
        for t in 0..T {
            last[t] = s.load_part(&queries[t][whole..]);
        }
        let row_bytes = self.keys.row_bytes;
        let mut sums = [[s.splat(0.0); LANES]; T];
        let mut done = 0;
        for keys in &self.keys.pieces[FIRST_PIECE..] {
            // Sixteen positions share the steps of adding up their lanes; fewer add up once more, for nobody, sums of before.
            for group in keys.chunks(LANES * row_bytes) {
                let n = group.len() / row_bytes;
                for i in 0..n {
                    let products = products::<S, C, T>(s, (&queries, &last), &group[i * row_bytes..][..row_bytes]);
                    for t in 0..T {
                        sums[t][i] = products[t];
                    }
                }
                for t in 0..T {
                    let out = &mut self.scores[(at + t) * self.stride + done..][..n];
                    add_up(s, &sums[t], self.scale, out);
                }
                done += n;
            }
        }
    }

    /// The same where queries are half a vector.
    #[inline(always)]
    fn halves<S: Simd, C: CacheFormat, const T: usize>(&mut self, s: S, at: usize, queries: [&[f32]; T]) {
        let mut twice = [s.splat(0.0); T];
        for t in 0..T {
            twice[t] = s.load(&each!(16, lane => queries[t][lane % (LANES / 2)]));
        }
        let row_bytes = self.keys.row_bytes;
        let mut before = 0;
        for (keys, n_keys) in self.keys.pieces.iter().zip(self.keys.counts).skip(FIRST_PIECE) {
            let n = n_keys.min(LANES);
            for start in (0..n_keys).step_by(LANES) {
                // The last sixteen have some of those before them, whose scores come out the same once more.
                let first = start.min(n_keys - n);
                let group = &keys[first * row_bytes..][..n * row_bytes];
                let few;
                let whole = if n == LANES {
                    group
                } else {
                    few = padded::<u8, HALF_KEYS_BYTES>(group);
                    &few[..LANES * row_bytes]
                };
                for t in 0..T {
                    let out = &mut self.scores[(at + t) * self.stride + before + first..][..n];
                    pairs::<S, C>(s, twice[t], whole, self.scale, out);
                }
            }
            before += n_keys;
        }
    }
}

/// Writes the scores of a query of half a vector, which `query` has twice, with sixteen keys, of which a vector holds two.
#[inline(always)]
fn pairs<S: Simd, C: CacheFormat>(s: S, query: S::F, keys: &[u8], scale: f32, out: &mut [f32]) {
    let pair_bytes = keys.len() / (LANES / 2);
    // That a sum begins with zero shows in the sign of a zero alone, which no weight depends on.
    let products = each!(8, i => s.mul(query, C::load(s, &keys[i * pair_bytes..][..pair_bytes], 0, LANES)));
    s.store_part(s.mul(s.half_sums(&products), s.splat(scale)), out);
}

/// Writes the sums of the first vectors, times `scale`.
#[inline(always)]
fn add_up<S: Simd>(s: S, sums: &[S::F; LANES], scale: f32, out: &mut [f32]) {
    if TILE != LANES {
        // Where there are no vectors, they share nothing.
        out.iter_mut().zip(sums).for_each(|(out, &sums)| *out = s.sum(sums) * scale);
        return;
    }
    s.store_part(s.mul(s.sums(sums), s.splat(scale)), out);
}

/// The products of queries, of which `last` has the values behind the last whole vector, with a key, lane by lane.
#[inline(always)]
fn products<S: Simd, C: CacheFormat, const T: usize>(
    s: S,
    (queries, last): (&[&[f32]; T], &[S::F; T]),
    key: &[u8],
) -> [S::F; T] {
    let mut sums = [s.splat(0.0); T];
    let n = queries[0].len();
    let (whole, n_last) = (n / LANES, n % LANES);
    let mut chunks = [&[[0.0; LANES]][..0]; T];
    for t in 0..T {
        chunks[t] = &queries[t].as_chunks().0[..whole];
    }
    for i in 0..whole {
        let key = C::load(s, key, i * LANES, LANES);
        for t in 0..T {
            sums[t] = s.add(sums[t], s.mul(s.load(&chunks[t][i]), key));
        }
    }
    if n_last > 0 {
        let key = C::load(s, key, whole * LANES, n_last);
        for t in 0..T {
            sums[t] = s.add(sums[t], s.mul(last[t], key));
        }
    }
    sums
}

/// Adds up values by their weights.
struct Mix<'a, 'b, 'c> {
    /// (queries, rows).
    weights: &'a [f32],
    /// Rows.
    stride: usize,
    /// The rows that each query sees.
    seen: [Range<usize>; QUERIES],
    /// The rows of each head.
    values: [Rows<'a>; PAIR],
    /// Heads of the cache: where there are two, as many queries look at each, and all of them see the same positions.
    n_heads: usize,
    head_dim: usize,
    queries: &'a [Query<'b>],
    columns: &'a mut Columns<'c>,
}

impl CacheKernel for Mix<'_, '_, '_> {
    #[inline(always)]
    fn run<S: Simd, C: CacheFormat>(mut self, s: S) {
        if QUERIES > 1 && self.n_heads == PAIR {
            return match self.queries.len() {
                PAIR => self.several::<S, C, PAIR, PAIR>(s, 0),
                _ => self.several::<S, C, { 2 * PAIR }, PAIR>(s, 0),
            };
        }
        with_queries!(s, S, at, self.queries.len(), T => self.several::<S, C, T, 1>(s, at));
    }
}

impl Mix<'_, '_, '_> {
    /// The outputs of `T` queries from number `at` on, which look at `H` heads.
    ///
    /// Vectors are mixed side by side where a head has several: the adds of one wait for each other, those of another do not.
    #[inline(always)]
    fn several<S: Simd, C: CacheFormat, const T: usize, const H: usize>(&mut self, s: S, at: usize) {
        let n = self.head_dim;
        let mut column = 0;
        while column < n {
            column += match (n - column) / LANES {
                // Each a loop of its own, where what it loads is known beforehand.
                0 if C::IS_PLAIN && S::SUMS_HALVES && n - column == LANES / 2 => {
                    self.vectors::<S, C, T, H, 1>(s, at, column, LANES / 2)
                }
                0 => self.vectors::<S, C, T, H, 1>(s, at, column, n - column),
                // Two of two queries each have one vector: with more, one has sums enough.
                _ if T > 2 && H > 1 => self.vectors::<S, C, T, H, 1>(s, at, column, LANES),
                1 => self.vectors::<S, C, T, H, 1>(s, at, column, LANES),
                2 | 3 => self.vectors::<S, C, T, H, 2>(s, at, column, LANES),
                // Two queries take as many registers as one with twice the vectors.
                _ if (S::VECTORS <= 8 && T > 1) || H > 1 => self.vectors::<S, C, T, H, 2>(s, at, column, LANES),
                _ => self.vectors::<S, C, T, H, 4>(s, at, column, LANES),
            };
        }
    }

    /// `N` vectors of `width` lanes from column `first` on; gives how many columns that are.
    #[inline(always)]
    fn vectors<S: Simd, C: CacheFormat, const T: usize, const H: usize, const N: usize>(
        &mut self,
        s: S,
        at: usize,
        first: usize,
        width: usize,
    ) -> usize {
        let mut sums = [[s.splat(0.0); N]; T];
        let seen = &self.seen[at..at + T];
        // What all of them see; before and behind it each walks alone.
        let start = seen.iter().map(|seen| seen.start).max().unwrap_or(0);
        let end = seen.iter().map(|seen| seen.end).min().unwrap_or(0).max(start);
        let columns = (first, width);
        if T > 1 && H == 1 {
            for (t, seen) in seen.iter().enumerate() {
                let before = seen.start..start.min(seen.end);
                [sums[t]] = self.walk::<S, C, 1, 1, N>(s, at + t, before, columns, [sums[t]]);
            }
        }
        sums = self.walk::<S, C, T, H, N>(s, at, start..end, columns, sums);
        if T > 1 && H == 1 {
            for (t, seen) in seen.iter().enumerate() {
                let behind = end.max(seen.start).min(seen.end)..seen.end;
                [sums[t]] = self.walk::<S, C, 1, 1, N>(s, at + t, behind, columns, [sums[t]]);
            }
        }
        for (query, sums) in self.queries[at..].iter().zip(sums) {
            let out = &mut self.columns.row(query.token)[query.column + first..][..N * width];
            for (out, sums) in out.chunks_mut(LANES).zip(sums) {
                s.store_part(sums, out);
            }
        }
        N * width
    }

    /// `sums` of the queries from number `at` on and what `rows` add to them, in order.
    #[inline(always)]
    fn walk<S: Simd, C: CacheFormat, const T: usize, const H: usize, const N: usize>(
        &self,
        s: S,
        at: usize,
        rows: Range<usize>,
        (first, width): (usize, usize),
        mut sums: [[S::F; N]; T],
    ) -> [[S::F; N]; T] {
        let row_bytes = self.values[0].row_bytes;
        let mut before = 0;
        for piece in FIRST_PIECE..self.values[0].pieces.len() {
            let behind = before + self.values[0].counts[piece];
            let (start, end) = (rows.start.max(before), rows.end.min(behind));
            let first_row = start - before;
            before = behind;
            if start >= end {
                continue;
            }
            let mut values = [&[][..]; H];
            for h in 0..H {
                values[h] = &self.values[h].pieces[piece][first_row * row_bytes..][..(end - start) * row_bytes];
            }
            let mut weights = [&self.weights[..0]; T];
            for t in 0..T {
                weights[t] = &self.weights[(at + t) * self.stride..][start..end];
            }
            for row in 0..end - start {
                for h in 0..H {
                    let value = &values[h][row * row_bytes..][..row_bytes];
                    let mut vectors = [s.splat(0.0); N];
                    for i in 0..N {
                        vectors[i] = C::load(s, value, first + i * LANES, width);
                    }
                    for t in h * T / H..(h + 1) * T / H {
                        let weight = s.splat(weights[t][row]);
                        for i in 0..N {
                            sums[t][i] = s.add(sums[t][i], s.mul(weight, vectors[i]));
                        }
                    }
                }
            }
        }
        sums
    }
}
