//! The parts in which streamed weights are read, in the order of a pass, and which of them are kept when there is room for some.

use super::residency::Range;
use super::storage::SECTOR;

/// Rows that are read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub at: u64,
    pub len: usize,
}

impl Part {
    /// Bytes that it takes in memory of its own, what is kept of it there included.
    fn kept_bytes(&self) -> u64 {
        (self.len.next_multiple_of(SECTOR) + KEEPING_BYTES) as u64
    }
}

/// What it takes to remember where a part is kept, at most.
const KEEPING_BYTES: usize = 256;

/// Where a part begins: of which range it is, at which of its rows, and how many parts of a pass come before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    range: usize,
    row: usize,
    pub(super) n_before: u32,
}

/// What is read for a pass, in its order, as parts that fit windows.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    /// Each with the number of parts before it.
    ranges: Vec<(Range, u32)>,
    window_bytes: usize,
    n_parts: u32,
}

impl Parts {
    /// The parts of `ranges` for windows of `window_bytes`.
    pub(super) fn new(ranges: &[Range], window_bytes: usize) -> Self {
        let mut parts = Parts { ranges: ranges.iter().map(|&range| (range, 0)).collect(), window_bytes, n_parts: 0 };
        for index in 0..ranges.len() {
            parts.ranges[index].1 = parts.n_parts;
            parts.n_parts += parts.of_range(index).count() as u32;
        }
        parts
    }

    /// How many there are.
    pub(super) fn len(&self) -> u32 {
        self.n_parts
    }

    /// Where the first begins, or of no parts, would.
    pub(super) fn first(&self) -> Place {
        Place { range: 0, row: 0, n_before: 0 }
    }

    /// Where the first part of the range begins that lies at offset `at`.
    pub(super) fn of_range_at(&self, at: u64) -> Option<Place> {
        let range = self.ranges.iter().position(|(range, _)| range.at == at)?;
        Some(Place { range, row: 0, n_before: self.ranges[range].1 })
    }

    /// The part that begins at `place`, and where the next one does: after the last, the first. A range has parts of about the same
    /// size that fit a window, whole rows each, and whole groups of rows where a window has room for one.
    pub(super) fn part(&self, place: Place) -> (Part, Place) {
        let Range { at, row_bytes, n_rows, group_rows, lead_rows } = self.ranges[place.range].0;
        let most = (self.window_bytes.saturating_sub(SECTOR) / row_bytes).max(1);
        let group = if group_rows <= most { group_rows } else { 1 };
        let rows = n_rows.div_ceil(n_rows.div_ceil(most / group * group)).next_multiple_of(group);
        // The first part ends where a group does.
        let is_short = place.row == 0 && lead_rows > 0 && group > 1;
        let rows = if is_short { lead_rows + rows - group } else { rows }.min(n_rows - place.row);
        let part = Part { at: at + (place.row * row_bytes) as u64, len: rows * row_bytes };
        let row = place.row + rows;
        let next = match (row == n_rows, place.range + 1 == self.ranges.len()) {
            (false, _) => Place { row, n_before: place.n_before + 1, ..place },
            (true, false) => Place { range: place.range + 1, row: 0, n_before: place.n_before + 1 },
            (true, true) => self.first(),
        };
        (part, next)
    }

    /// The parts of one range.
    fn of_range(&self, range: usize) -> impl Iterator<Item = (Place, Part)> {
        let first = Place { range, row: 0, n_before: self.ranges[range].1 };
        let mut next = Some(first);
        std::iter::from_fn(move || {
            let place = next?;
            let (part, after) = self.part(place);
            next = Some(after).filter(|after| after.range == range && after.row > 0);
            Some((place, part))
        })
    }

    /// All parts, in the order of a pass.
    fn iter(&self) -> impl Iterator<Item = (Place, Part)> {
        (0..self.ranges.len()).flat_map(|range| self.of_range(range))
    }

    /// The rank of the part that has `n_before` before it: those below any rank are spread evenly over a pass, since ranks are numbers
    /// of parts with their bits reversed.
    pub(super) fn rank(&self, n_before: u32) -> u32 {
        let n_bits = u32::BITS - self.n_parts.saturating_sub(1).leading_zeros();
        n_before.reverse_bits().checked_shr(u32::BITS - n_bits).unwrap_or(0)
    }

    /// The rank below which all parts fit into `room` bytes.
    pub(super) fn ranks_within(&self, room: u64) -> u32 {
        let fits = |ranks: u32| self.below(ranks).map(|part| part.kept_bytes()).sum::<u64>() <= room;
        let (mut fitting, mut too_many) = (0, self.n_parts.next_power_of_two() + 1);
        while too_many - fitting > 1 {
            let ranks = fitting.midpoint(too_many);
            if fits(ranks) { fitting = ranks } else { too_many = ranks }
        }
        fitting
    }

    /// The parts of ranks below `ranks`.
    pub(super) fn below(&self, ranks: u32) -> impl Iterator<Item = Part> {
        self.iter().filter(move |(place, _)| self.rank(place.n_before) < ranks).map(|(_, part)| part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(n_rows: &[usize]) -> Parts {
        let range = |(index, &n_rows): (usize, &usize)| {
            let at = (index as u64) << 20;
            Range { at, row_bytes: 1000, n_rows, group_rows: 1, lead_rows: 0 }
        };
        Parts::new(&n_rows.iter().enumerate().map(range).collect::<Vec<_>>(), 12 << 10)
    }

    #[test]
    fn parts_follow_one_another_and_cover_every_row() {
        let parts = parts(&[1, 20, 8, 9]);
        let found: Vec<(Place, Part)> = parts.iter().collect();
        assert_eq!(found.len() as u32, parts.len());
        assert_eq!(
            found.iter().map(|(_, part)| part.len).collect::<Vec<_>>(),
            [1000, 7000, 7000, 6000, 8000, 5000, 4000]
        );
        let mut place = parts.first();
        for (index, &(found, part)) in found.iter().enumerate() {
            assert_eq!((found, found.n_before), (place, index as u32));
            assert_eq!(parts.of_range_at(part.at).is_some(), found.row == 0);
            place = parts.part(place).1;
        }
        assert_eq!(place, parts.first());
        assert_eq!(parts.of_range_at(2 << 20).unwrap().n_before, 4);
    }

    /// Whatever there is room for, it is used, and what is kept with less is kept with more; and it is spread over a pass.
    #[test]
    fn what_there_is_room_for_is_kept_and_spread() {
        for n_ranges in [0, 1, 2, 3, 37] {
            let parts = parts(&vec![8; n_ranges]);
            let each = 8192 + KEEPING_BYTES as u64;
            for n_kept in 0..=n_ranges {
                for room in [each * n_kept as u64, each * n_kept as u64 + each - 1] {
                    let ranks = parts.ranks_within(room);
                    assert_eq!(parts.below(ranks).count(), n_kept, "{n_ranges} {room}");
                    let kept: Vec<bool> = (0..parts.len()).map(|n| parts.rank(n) < ranks).collect();
                    for half in kept.chunks(kept.len().div_ceil(2).max(1)) {
                        let n = half.iter().filter(|&&is_kept| is_kept).count();
                        assert!(n.abs_diff(n_kept * half.len() / n_ranges.max(1)) <= 3, "{kept:?}");
                    }
                }
            }
            assert_eq!(parts.below(parts.ranks_within(u64::MAX)).count(), n_ranges);
        }
    }
}
