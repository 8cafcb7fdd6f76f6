//! One offer of each part, of least damage in all, within a budget of bytes: the multiple-choice knapsack problem.
//!
//! Dynamic programming over a budget in units of a few bytes (Kellerer, Pferschy and Pisinger, "Knapsack Problems", 2004, 11.5) is
//! exact in those units; bytes that rounding to units left over then buy what they can.

/// Units that a budget is counted in: so many that rounding up loses little, so few that the table is filled at once.
const UNITS: u64 = 16 << 10;

/// A type that a part may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Offer {
    /// Bytes that the part takes then.
    pub bytes: u64,
    /// What that does to the model's output; more than 0, or 0.
    pub damage: f64,
}

/// The number of the offer to take of each of `parts`, so that their bytes are at most `budget` and the sum of their damages is
/// least. `None` when even the smallest offers take more.
pub fn choose(parts: &[Vec<Offer>], budget: u64) -> Option<Vec<usize>> {
    let smallest: u64 = parts.iter().map(|offers| offers.iter().map(|offer| offer.bytes).min()).sum::<Option<u64>>()?;
    if smallest > budget {
        return None;
    }
    let mut choice = fill_table(parts, budget).unwrap_or_else(|| cheapest(parts));
    spend_the_rest(parts, budget, &mut choice);
    Some(choice)
}

fn cheapest(parts: &[Vec<Offer>]) -> Vec<usize> {
    let of_part = |offers: &Vec<Offer>| (0..offers.len()).min_by_key(|&at| offers[at].bytes).unwrap_or(0);
    parts.iter().map(of_part).collect()
}

/// The best choice when every offer is rounded up to whole units; `None` when rounding up leaves no choice.
fn fill_table(parts: &[Vec<Offer>], budget: u64) -> Option<Vec<usize>> {
    let unit = budget.div_ceil(UNITS).max(1);
    let n_units = (budget / unit) as usize;
    // The least damage of the parts so far within each number of units, and the offer of the last part that gives it.
    let mut least = vec![0.0f64; n_units + 1];
    let mut taken: Vec<Vec<u16>> = Vec::with_capacity(parts.len());
    for offers in parts {
        let mut next = vec![f64::INFINITY; n_units + 1];
        let mut last = vec![0u16; n_units + 1];
        for (number, offer) in offers.iter().enumerate() {
            let units = offer.bytes.div_ceil(unit) as usize;
            for within in units..=n_units {
                let damage = least[within - units] + offer.damage;
                if damage < next[within] {
                    next[within] = damage;
                    last[within] = number as u16;
                }
            }
        }
        least = next;
        taken.push(last);
    }
    if least[n_units].is_infinite() {
        return None;
    }
    let mut within = n_units;
    let mut choice = vec![0; parts.len()];
    for (part, offers) in parts.iter().enumerate().rev() {
        choice[part] = usize::from(taken[part][within]);
        within -= offers[choice[part]].bytes.div_ceil(unit) as usize;
    }
    Some(choice)
}

/// Takes better offers as long as bytes are left, the most damage undone per byte first.
fn spend_the_rest(parts: &[Vec<Offer>], budget: u64, choice: &mut [usize]) {
    let bytes = |choice: &[usize]| -> u64 { parts.iter().zip(choice).map(|(offers, &at)| offers[at].bytes).sum() };
    let mut left = budget - bytes(choice);
    loop {
        let mut best: Option<(f64, usize, usize)> = None;
        for (part, offers) in parts.iter().enumerate() {
            let now = offers[choice[part]];
            for (number, offer) in offers.iter().enumerate() {
                let more = offer.bytes.saturating_sub(now.bytes);
                let gain = (now.damage - offer.damage) / more.max(1) as f64;
                if more <= left && gain > best.map_or(0.0, |(gain, ..)| gain) {
                    best = Some((gain, part, number));
                }
            }
        }
        let Some((_, part, number)) = best else { return };
        left = left + parts[part][choice[part]].bytes - parts[part][number].bytes;
        choice[part] = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random and are the same on every run.
    fn numbers() -> impl FnMut(u64) -> u64 {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        move |below| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        }
    }

    /// The least damage of any choice, by trying all.
    fn by_trying(parts: &[Vec<Offer>], budget: u64) -> Option<f64> {
        let Some((offers, rest)) = parts.split_first() else { return Some(0.0) };
        let within = offers.iter().filter(|offer| offer.bytes <= budget);
        within.filter_map(|offer| Some(offer.damage + by_trying(rest, budget - offer.bytes)?)).min_by(f64::total_cmp)
    }

    #[test]
    fn no_choice_is_better() {
        let mut next = numbers();
        for _ in 0..300 {
            let n_parts = 1 + next(5) as usize;
            let mut offer = || Offer { bytes: 1 + next(40), damage: next(1000) as f64 };
            let parts: Vec<Vec<Offer>> = (0..n_parts).map(|_| (0..4).map(|_| offer()).collect()).collect();
            let budget = 10 + next(150);
            let damage = choose(&parts, budget).map(|choice| {
                let taken: Vec<Offer> = parts.iter().zip(choice).map(|(offers, at)| offers[at]).collect();
                assert!(taken.iter().map(|offer| offer.bytes).sum::<u64>() <= budget);
                taken.iter().map(|offer| offer.damage).sum::<f64>()
            });
            assert_eq!(damage, by_trying(&parts, budget));
        }
    }

    #[test]
    fn a_large_budget_is_kept_to_the_byte() {
        let offer = |bytes, damage| Offer { bytes, damage };
        let parts = vec![vec![offer(1_000_000_007, 1.0), offer(2_000_000_014, 0.1)]; 3];
        assert_eq!(choose(&parts, 3_000_000_020), None);
        assert_eq!(choose(&parts, 3_000_000_021), Some(vec![0, 0, 0]));
        let bought = choose(&parts, 4_000_000_028).unwrap();
        assert_eq!(bought.iter().sum::<usize>(), 1, "what is left buys one better offer: {bought:?}");
    }
}
