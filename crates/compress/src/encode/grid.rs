//! The formats whose codes are points: IQ2, IQ3 and IQ1, in which 8 or 4 weights become the coordinates of one of a few
//! hundred points times a scale.
//!
//! The nearest point is found exactly, whatever the importances, and without the tables of neighbours that ggml keeps. A
//! point's error is a sum over its coordinates, each of which takes few values; so the errors of all possible first
//! halves of points are put in one table, and those of all second halves in another, and a point costs one addition.
//! First halves that are too far away already, were their second halves the best there are, are passed over with all the
//! points that begin with them; few are left.

use super::scaled::{Codebook, Measure, Scaled, Scales, targets};
use smidgen_core::quant::{Parts, Type};
use std::ops::Range;
use std::sync::LazyLock;

/// The most coordinates of a point, and weights of a group.
const MAX_GROUP: usize = 8;

/// The most values of a coordinate.
const MAX_LEVELS: usize = 8;

/// The most halves of points: four coordinates of three values.
const MAX_HALVES: usize = 81;

/// The points of a type, by their halves. The number of a half has a digit for each coordinate, the first lowest.
struct Grid {
    /// The values that coordinates take.
    levels: Vec<f32>,
    /// Coordinates of a point.
    n_dims: usize,
    /// The first halves of points.
    firsts: Vec<u16>,
    /// Where the points that begin with each half lie in `points`.
    beginning_with: Vec<Range<usize>>,
    /// The second half of each point and its number.
    points: Vec<(u16, u16)>,
    /// The coordinates of each point by number.
    coordinates: Vec<[f32; MAX_GROUP]>,
}

impl Grid {
    /// The points of `kind`, of `n_dims` coordinates each.
    fn new(kind: Type, n_dims: usize) -> Grid {
        let integers: Vec<[i8; 8]> = (0..).map_while(|number| kind.point(number)).collect();
        let mut levels: Vec<i8> = integers.iter().flat_map(|point| point[..n_dims].to_vec()).collect();
        levels.sort_unstable();
        levels.dedup();
        let digit = |coordinate: i8| levels.iter().position(|&level| level == coordinate).unwrap_or(0);
        let number = |half: &[i8]| half.iter().rev().fold(0, |number, &c| number * levels.len() + digit(c));
        let mut points: Vec<(usize, u16, u16)> = integers
            .iter()
            .enumerate()
            .map(|(i, point)| (number(&point[..n_dims / 2]), number(&point[n_dims / 2..n_dims]) as u16, i as u16))
            .collect();
        points.sort_unstable();
        let mut firsts: Vec<u16> = points.iter().map(|point| point.0 as u16).collect();
        firsts.dedup();
        let beginning_with = |half: usize| {
            points.partition_point(|point| point.0 < half)..points.partition_point(|point| point.0 <= half)
        };
        Grid {
            levels: levels.iter().map(|&level| f32::from(level)).collect(),
            n_dims,
            firsts,
            beginning_with: (0..levels.len().pow(n_dims as u32 / 2)).map(beginning_with).collect(),
            points: points.iter().map(|&(_, second, number)| (second, number)).collect(),
            coordinates: integers.iter().map(|point| point.map(f32::from)).collect(),
        }
    }

    /// The cost and the number of the cheapest point. No point that begins with a first half costs less than its `bound`;
    /// those that begin with `start` are looked at first.
    #[inline(always)]
    fn cheapest(&self, start: usize, bound: impl Fn(usize) -> f32, cost: impl Fn(usize, usize) -> f32) -> (f32, u16) {
        let mut best = (f32::INFINITY, self.points[0].1);
        let visit = |first: usize, points: &[(u16, u16)], best: &mut (f32, u16)| {
            for &(second, number) in points {
                let cost = cost(first, usize::from(second));
                if cost < best.0 {
                    *best = (cost, number);
                }
            }
        };
        visit(start, &self.points[self.beginning_with[start].clone()], &mut best);
        for &first in &self.firsts {
            let first = usize::from(first);
            if bound(first) < best.0 && first != start {
                visit(first, &self.points[self.beginning_with[first].clone()], &mut best);
            }
        }
        best
    }
}

/// What the halves of points cost: as they are, and with the sign changed of the coordinate where that costs least.
struct Costs {
    plain: [f32; MAX_HALVES],
    flipped: [f32; MAX_HALVES],
    /// The half that costs least, before any sign is changed, and bounds below which no half costs.
    cheapest: usize,
    least_plain: f32,
    least_flipped: f32,
}

impl Costs {
    /// The costs of the halves for `targets`, as many as a half has coordinates.
    fn new(levels: &[f32], shift: f32, scale: f32, targets: &[f32], importance: &[f32], flip: bool) -> Costs {
        let (plain, flipped) = ([0.0; MAX_HALVES], [f32::INFINITY; MAX_HALVES]);
        let mut costs = Costs { plain, flipped, cheapest: 0, least_plain: 0.0, least_flipped: 0.0 };
        let mut least_extra = f32::INFINITY;
        let mut len = 1;
        for (target, importance) in targets.iter().zip(importance) {
            let (mut cost, mut extra) = ([0.0; MAX_LEVELS], [0.0; MAX_LEVELS]);
            for ((cost, extra), level) in cost.iter_mut().zip(&mut extra).zip(levels) {
                let reach = scale * (level + shift);
                *cost = importance * (target - reach) * (target - reach);
                *extra = 4.0 * importance * target * reach;
            }
            let (cost, extra) = (&cost[..levels.len()], &extra[..levels.len()]);
            extend(&mut costs.plain, len, cost, |half, cost| half + cost);
            let (mut digit, mut least) = (0, cost[0]);
            for (i, &cost) in cost.iter().enumerate() {
                if cost < least {
                    (digit, least) = (i, cost);
                }
            }
            costs.cheapest += digit * len;
            costs.least_plain += least;
            if flip {
                extend(&mut costs.flipped, len, extra, |half, extra| if half < extra { half } else { extra });
                least_extra = extra.iter().fold(least_extra, |least, &extra| if extra < least { extra } else { least });
            }
            len *= levels.len();
        }
        if flip {
            for (flipped, plain) in costs.flipped[..len].iter_mut().zip(&costs.plain) {
                *flipped += plain;
            }
            costs.least_flipped = costs.least_plain + least_extra;
        }
        costs
    }
}

/// Extends a table of the first `len` numbers by a digit, of which `terms` has what each value brings.
#[inline(always)]
fn extend(table: &mut [f32; MAX_HALVES], len: usize, terms: &[f32], join: impl Fn(f32, f32) -> f32) {
    let (before, after) = table.split_at_mut(len);
    for (after, term) in after.chunks_exact_mut(len).zip(&terms[1..]) {
        for (after, before) in after.iter_mut().zip(before.iter()) {
            *after = join(*before, *term);
        }
    }
    for before in before {
        *before = join(*before, terms[0]);
    }
}

/// Which weights have signs beside the points.
#[derive(Clone, Copy, PartialEq)]
enum Signs {
    /// None: coordinates are negative themselves.
    None,
    /// All, an even number of each eight negative: the last sign is not stored.
    Even,
    /// All.
    Any,
}

/// What is added to every coordinate, besides what the point has: nothing, or -2 by a choice of its own.
#[derive(Clone, Copy, PartialEq)]
enum Shift {
    Never,
    OfPart,
    OfGroup,
}

/// The points of one format.
pub(super) struct Points {
    grid: &'static LazyLock<Grid>,
    group: usize,
    signs: Signs,
    shift: Shift,
    targets: &'static [f32],
}

/// The second of the two shifts of the IQ1 types, from the first.
const DOWN: f32 = -2.0;

/// What a group becomes.
#[derive(Clone, Copy, Default)]
struct Choice {
    cost: f32,
    /// The code of each point.
    codes: [u16; 2],
    /// The integers.
    q: [f32; MAX_GROUP],
    /// A bit for each negative sign.
    signs: u8,
}

impl Points {
    /// The nearest point to `targets`, and the nearest after changing the sign of one coordinate.
    fn nearest(&self, shift: f32, scale: f32, targets: &[f32], importance: &[f32], flip: bool) -> [(f32, u16); 2] {
        let grid: &Grid = self.grid;
        let half = grid.n_dims / 2;
        let first = Costs::new(&grid.levels, shift, scale, &targets[..half], &importance[..half], flip);
        let second = Costs::new(&grid.levels, shift, scale, &targets[half..], &importance[half..], flip);
        let plain = || {
            let bound = |f: usize| first.plain[f] + second.least_plain;
            grid.cheapest(first.cheapest, bound, |f, s| first.plain[f] + second.plain[s])
        };
        if !flip {
            return [plain(); 2];
        }
        let flipped = grid.cheapest(
            first.cheapest,
            |f| (first.plain[f] + second.least_flipped).min(first.flipped[f] + second.least_plain),
            |f, s| (first.plain[f] + second.flipped[s]).min(first.flipped[f] + second.plain[s]),
        );
        // Only where a group has two points may the other be the one that is flipped.
        [if self.group > grid.n_dims { plain() } else { flipped }, flipped]
    }

    /// What a group of weights becomes.
    fn pick(&self, shift: f32, scale: f32, values: &[f32], importance: &[f32]) -> Choice {
        let n_dims = self.grid.n_dims;
        let mut choice = Choice::default();
        let mut targets = [0.0; MAX_GROUP];
        let targets = &mut targets[..values.len()];
        targets.copy_from_slice(values);
        if self.signs != Signs::None {
            for (i, target) in targets.iter_mut().enumerate() {
                choice.signs |= u8::from(*target < 0.0) << i;
                *target = target.abs();
            }
        }
        let flip = self.signs == Signs::Even && !choice.signs.count_ones().is_multiple_of(2);
        let mut found = [[(0.0, 0); 2]; 2];
        for (i, found) in found[..values.len() / n_dims].iter_mut().enumerate() {
            let range = i * n_dims..(i + 1) * n_dims;
            *found = self.nearest(shift, scale, &targets[range.clone()], &importance[range], flip);
        }
        let [[plain, flipped], [other_plain, other_flipped]] = found;
        let other = values.len() > n_dims && plain.0 + other_flipped.0 < flipped.0 + other_plain.0;
        let (a, b) = if other { (plain, other_flipped) } else { (flipped, other_plain) };
        choice.cost = a.0 + b.0;
        choice.codes = [a.1, b.1];
        for (code, q) in choice.codes.iter().zip(choice.q[..values.len()].chunks_mut(n_dims)) {
            for (q, coordinate) in q.iter_mut().zip(&self.grid.coordinates[usize::from(*code)]) {
                *q = coordinate + shift;
            }
        }
        if flip {
            let from = if other { n_dims } else { 0 };
            let extra = |i: &usize| importance[*i] * targets[*i] * choice.q[*i];
            let cheapest = (from..from + n_dims).min_by(|a, b| extra(a).total_cmp(&extra(b)));
            choice.signs ^= 1 << cheapest.unwrap_or(from);
        }
        for (i, q) in choice.q.iter_mut().enumerate() {
            if choice.signs >> i & 1 == 1 {
                *q = -*q;
            }
        }
        choice
    }

    /// What a group becomes under the shift that is its own.
    fn pick_shift(&self, scale: f32, values: &[f32], importance: &[f32]) -> Choice {
        let up = self.pick(0.0, scale, values, importance);
        if self.shift != Shift::OfGroup {
            return up;
        }
        let mut down = self.pick(DOWN, scale, values, importance);
        down.codes[0] += self.grid.coordinates.len() as u16;
        if down.cost < up.cost { down } else { up }
    }
}

impl Codebook for Points {
    fn group(&self) -> usize {
        self.group
    }

    fn n_variants(&self) -> usize {
        if self.shift == Shift::OfPart { 2 } else { 1 }
    }

    fn targets(&self) -> &[f32] {
        self.targets
    }

    fn both_signs(&self) -> bool {
        false
    }

    fn measure(&self, variant: usize, scale: f32, values: &[f32], importance: &[f32]) -> Measure {
        let mut measure = Measure::default();
        for (x, w) in values.chunks(self.group).zip(importance.chunks(self.group)) {
            let choice = match variant {
                0 => self.pick_shift(scale, x, w),
                _ => self.pick(DOWN, scale, x, w),
            };
            for ((x, w), q) in x.iter().zip(w).zip(choice.q) {
                let miss = x - scale * q;
                measure.error += w * miss * miss;
                measure.slope += w * q * miss;
                measure.curve += w * q * q;
            }
        }
        measure
    }

    fn choose(&self, scale: f32, block: &mut Parts, at: usize, values: &mut [f32], importance: &[f32]) {
        let down = self.shift == Shift::OfPart && block.mins[at / 32] == 1;
        let least = importance.iter().sum::<f32>() * 1e-6;
        let mut even = [1.0; MAX_GROUP];
        if least > 0.0 && least.is_finite() {
            for (even, importance) in even.iter_mut().zip(importance) {
                *even = importance + least;
            }
        }
        let choice = match down {
            true => self.pick(DOWN, scale, values, &even[..values.len()]),
            false => self.pick_shift(scale, values, &even[..values.len()]),
        };
        for (i, code) in choice.codes[..self.group / self.grid.n_dims].iter().enumerate() {
            block.codes[at + i * self.grid.n_dims] = *code;
        }
        // A group of four has half of the eight signs.
        let within = at % 8;
        let mask = ((1u16 << self.group) - 1) << within;
        block.signs[at / 8] = block.signs[at / 8] & !(mask as u8) | choice.signs << within;
        values.copy_from_slice(&choice.q[..values.len()]);
    }
}

static GRID_2_XXS: LazyLock<Grid> = LazyLock::new(|| Grid::new(Type::IQ2_XXS, 8));
static GRID_2_XS: LazyLock<Grid> = LazyLock::new(|| Grid::new(Type::IQ2_XS, 8));
static GRID_2_S: LazyLock<Grid> = LazyLock::new(|| Grid::new(Type::IQ2_S, 8));
static GRID_3_XXS: LazyLock<Grid> = LazyLock::new(|| Grid::new(Type::IQ3_XXS, 4));
static GRID_3_S: LazyLock<Grid> = LazyLock::new(|| Grid::new(Type::IQ3_S, 4));
static GRID_1: LazyLock<Grid> = LazyLock::new(|| Grid::new(Type::IQ1_S, 8));

/// A superblock of points, a scale for each `part` weights.
const fn superblock(book: Points, part: usize, n_scales: i16, factor: f32) -> Scaled<Points> {
    Scaled { book, len: 256, part, scales: Scales::Odd(2 * n_scales), factor }
}

/// Points with signs.
const fn signed(grid: &'static LazyLock<Grid>, group: usize, signs: Signs, targets: &'static [f32]) -> Points {
    Points { grid, group, signs, shift: Shift::Never, targets }
}

// The largest coordinates of the IQ2 types are 43, of IQ3_XXS 62, of IQ3_S 15, of the IQ1 types 9.
static TWO_BITS: [f32; 10] = targets(8.0, 32.0, 72.0);
static SMALL_THREE_BITS: [f32; 10] = targets(4.0, 48.0, 90.0);
static THREE_BITS: [f32; 10] = targets(1.0, 11.5, 22.0);
static ONE_BIT: [f32; 10] = targets(9.0, 8.0, 26.0);

pub(super) static IQ2_XXS: Scaled<Points> = superblock(signed(&GRID_2_XXS, 8, Signs::Even, &TWO_BITS), 32, 16, 0.125);
pub(super) static IQ2_XS: Scaled<Points> = superblock(signed(&GRID_2_XS, 8, Signs::Even, &TWO_BITS), 16, 16, 0.125);
pub(super) static IQ2_S: Scaled<Points> = superblock(signed(&GRID_2_S, 8, Signs::Any, &TWO_BITS), 16, 16, 0.125);
pub(super) static IQ3_XXS: Scaled<Points> =
    superblock(signed(&GRID_3_XXS, 8, Signs::Even, &SMALL_THREE_BITS), 32, 16, 0.25);
pub(super) static IQ3_S: Scaled<Points> = superblock(signed(&GRID_3_S, 4, Signs::Any, &THREE_BITS), 32, 16, 1.0);

/// The points of the IQ1 types.
const fn shifted(shift: Shift) -> Points {
    Points { grid: &GRID_1, group: 8, signs: Signs::None, shift, targets: &ONE_BIT }
}

pub(super) static IQ1_S: Scaled<Points> = superblock(shifted(Shift::OfPart), 32, 8, 0.125);
pub(super) static IQ1_M: Scaled<Points> = superblock(shifted(Shift::OfGroup), 16, 8, 0.125);

#[cfg(test)]
mod tests {
    use super::*;

    /// What the best choice of points and signs costs, all of them tried.
    fn least_cost(points: &Points, scale: f32, values: &[f32], importance: &[f32]) -> f32 {
        let cost = |x: f32, w: f32, q: f32| w * (x - scale * q) * (x - scale * q);
        let n_dims = points.grid.n_dims;
        // For an even and for an odd number of signs that are not those of the weights.
        let mut total = [0.0, f32::INFINITY];
        for (x, w) in values.chunks(n_dims).zip(importance.chunks(n_dims)) {
            let mut least = [f32::INFINITY; 2];
            for point in &points.grid.coordinates {
                for flips in 0..1u32 << n_dims {
                    let flip = |i: usize| if flips >> i & 1 == 1 { -1.0 } else { 1.0 };
                    let sum = (0..n_dims).map(|i| cost(x[i].abs() * flip(i), w[i], point[i])).sum::<f32>();
                    let least = &mut least[flips.count_ones() as usize % 2];
                    *least = least.min(sum);
                }
            }
            total = [(total[0] + least[0]).min(total[1] + least[1]), (total[0] + least[1]).min(total[1] + least[0])];
        }
        let odd = values.iter().filter(|x| **x < 0.0).count() % 2;
        if points.signs == Signs::Even { total[odd] } else { total[0].min(total[1]) }
    }

    #[test]
    fn the_nearest_point_is_the_nearest() {
        let mut state = 9u32;
        let mut number = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32
        };
        for format in [&IQ2_XXS, &IQ2_XS, &IQ3_XXS, &IQ3_S] {
            let points = &format.book;
            for _ in 0..12 {
                let values: Vec<f32> = (0..points.group).map(|_| 60.0 * (number() - 0.5) * (2.0 * number())).collect();
                let importance: Vec<f32> = (0..points.group).map(|_| 0.1 + number().powi(3) * 9.0).collect();
                let scale = points.targets[4].recip() * 30.0;
                let (got, want) =
                    (points.pick(0.0, scale, &values, &importance), least_cost(points, scale, &values, &importance));
                assert!((got.cost - want).abs() <= 1e-4 * want, "{} instead of {want} for {values:?}", got.cost);
                let q = values.iter().zip(&importance).zip(got.q).map(|((x, w), q)| w * (x - scale * q).powi(2));
                assert!((q.sum::<f32>() - want).abs() <= 1e-4 * want, "the integers cost what was said");
            }
        }
    }
}
