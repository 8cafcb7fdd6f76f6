//! The parts in which streamed weights are read, in the order of a pass, and which of them are kept when there is room for some.

use super::residency::Range;
use super::storage::SECTOR;
use crate::machine::page_bytes;

/// Rows that are read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub at: u64,
    pub len: usize,
}

impl Part {
    /// Bytes that it takes in pages of its own, of `page_bytes` each, with what the system and we keep of it there: entries of page
    /// tables, a mapping, and a node of a tree.
    fn kept_bytes(&self, page_bytes: usize) -> u64 {
        (self.len.next_multiple_of(page_bytes) + self.len / 256 + 512) as u64
    }
}

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
        for (index, range) in ranges.iter().enumerate() {
            let (first, others) = parts.rows(range);
            parts.ranges[index].1 = parts.n_parts;
            parts.n_parts += 1 + range.n_rows.saturating_sub(first).div_ceil(others) as u32;
        }
        parts
    }

    /// How many there are.
    pub(super) fn len(&self) -> u32 {
        self.n_parts
    }

    /// Where the first begins.
    pub(super) fn first(&self) -> Place {
        Place { range: 0, row: 0, n_before: 0 }
    }

    /// Where the first part of the range begins that lies at offset `at`.
    pub(super) fn of_range_at(&self, at: u64) -> Option<Place> {
        let range = self.ranges.iter().position(|(range, _)| range.at == at)?;
        Some(Place { range, row: 0, n_before: self.ranges[range].1 })
    }

    /// Rows of the first part of a range, and of every other but its last. Parts have about the same size and fit a window, whole rows
    /// each, and whole groups of rows where a window has room for one; the first ends where a group does.
    fn rows(&self, range: &Range) -> (usize, usize) {
        let Range { row_bytes, n_rows, group_rows, lead_rows, .. } = *range;
        let (rows, group) = rows_of_read(n_rows, row_bytes, group_rows, self.window_bytes);
        (if lead_rows > 0 && group > 1 { lead_rows + rows - group } else { rows }, rows)
    }

    /// The part that begins at `place`, and where the next one does: after the last, the first.
    pub(super) fn part(&self, place: Place) -> (Part, Place) {
        let range = &self.ranges[place.range].0;
        let (first, others) = self.rows(range);
        let n_rows = if place.row == 0 { first } else { others }.min(range.n_rows - place.row);
        let part = Part { at: range.at + (place.row * range.row_bytes) as u64, len: n_rows * range.row_bytes };
        let row = place.row + n_rows;
        let n_before = place.n_before + 1;
        let next = match (row == range.n_rows, place.range + 1 == self.ranges.len()) {
            (false, _) => Place { row, n_before, ..place },
            (true, false) => Place { range: place.range + 1, row: 0, n_before },
            (true, true) => self.first(),
        };
        (part, next)
    }

    /// The part that has `n_before` before it.
    fn numbered(&self, n_before: u32) -> Part {
        let range = self.ranges.partition_point(|&(_, first)| first <= n_before) - 1;
        let (first, others) = self.rows(&self.ranges[range].0);
        let row = match (n_before - self.ranges[range].1) as usize {
            0 => 0,
            n => first + (n - 1) * others,
        };
        self.part(Place { range, row, n_before }).0
    }

    /// Bits of the number of a part.
    fn n_bits(&self) -> u32 {
        u32::BITS - self.n_parts.saturating_sub(1).leading_zeros()
    }

    /// The rank of the part that has `n_before` before it: those below any rank are spread evenly over a pass, since ranks are numbers
    /// of parts with their bits reversed.
    pub(super) fn rank(&self, n_before: u32) -> u32 {
        n_before.reverse_bits().checked_shr(u32::BITS - self.n_bits()).unwrap_or(0)
    }

    /// The parts in the order of their ranks, with these.
    fn ranked(&self) -> impl Iterator<Item = (u32, Part)> {
        let all = if self.n_parts == 0 { 0 } else { 1u64 << self.n_bits() };
        // Reversing bits twice gives what was there before.
        let numbered = |rank| Some(self.rank(rank)).filter(|&n_before| n_before < self.n_parts);
        (0..all as u32).filter_map(move |rank| numbered(rank).map(|n_before| (rank, self.numbered(n_before))))
    }

    /// The rank below which all parts fit into `room` bytes.
    pub(super) fn ranks_within(&self, room: u64) -> u32 {
        let page_bytes = page_bytes();
        let mut left = room;
        let too_much = self.ranked().find(|(_, part)| match left.checked_sub(part.kept_bytes(page_bytes)) {
            Some(less) => {
                left = less;
                false
            }
            None => true,
        });
        too_much.map_or(u32::MAX, |(rank, _)| rank)
    }

    /// The parts of ranks below `ranks`.
    pub(super) fn below(&self, ranks: u32) -> impl Iterator<Item = Part> {
        self.ranked().take_while(move |&(rank, _)| rank < ranks).map(|(_, part)| part)
    }
}

/// Rows of each read when `n_rows` of them are read through windows of `window_bytes`, about the same number in each; and the rows that are
/// read together: `group_rows` where a window has room for a group.
pub(super) fn rows_of_read(n_rows: usize, row_bytes: usize, group_rows: usize, window_bytes: usize) -> (usize, usize) {
    let most = (window_bytes.saturating_sub(SECTOR) / row_bytes).max(1);
    let group = if group_rows <= most { group_rows } else { 1 };
    (n_rows.div_ceil(n_rows.div_ceil(most / group * group)).next_multiple_of(group), group)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(n_rows: &[usize], group_rows: usize, lead_rows: usize) -> Parts {
        let range = |(index, &n_rows): (usize, &usize)| {
            let at = (index as u64) << 20;
            Range { at, row_bytes: 1000, n_rows, group_rows, lead_rows }
        };
        Parts::new(&n_rows.iter().enumerate().map(range).collect::<Vec<_>>(), 12 << 10)
    }

    /// All parts, in the order of a pass.
    fn in_order(parts: &Parts) -> Vec<(Place, Part)> {
        let mut place = parts.first();
        let mut found = Vec::new();
        for _ in 0..parts.len() {
            let (part, next) = parts.part(place);
            found.push((place, part));
            place = next;
        }
        assert_eq!(place, parts.first(), "a pass begins again");
        found
    }

    #[test]
    fn parts_follow_one_another_and_cover_every_row() {
        let lens = |parts: &Parts| in_order(parts).iter().map(|(_, part)| part.len / 1000).collect::<Vec<_>>();
        assert_eq!(lens(&parts(&[1, 20, 8, 9], 1, 0)), [1, 7, 7, 6, 8, 5, 4]);
        assert_eq!(lens(&parts(&[1, 20, 9], 3, 0)), [1, 6, 6, 6, 2, 6, 3]);
        assert_eq!(lens(&parts(&[1, 20, 9], 3, 2)), [1, 5, 6, 6, 3, 5, 4]);
        assert_eq!(lens(&parts(&[20], 9, 2)), [7, 7, 6], "a window has no room for a group");
        for (group_rows, lead_rows) in [(1, 0), (3, 0), (3, 2), (9, 2)] {
            let parts = parts(&[1, 20, 8, 9], group_rows, lead_rows);
            let found = in_order(&parts);
            for (n_before, &(place, part)) in (0..).zip(&found) {
                assert_eq!((place.n_before, part), (n_before, parts.numbered(n_before)));
                let begins = parts.of_range_at(part.at).map(|place| place.n_before);
                assert_eq!(begins, (place.row == 0).then_some(n_before));
            }
            let n_rows: usize = found.iter().map(|(_, part)| part.len / 1000).sum();
            assert_eq!(n_rows, 38);
        }
    }

    /// Whatever there is room for, it is used, and what is kept with less is kept with more; and it is spread over a pass.
    #[test]
    fn what_there_is_room_for_is_kept_and_spread() {
        for n_ranges in [0, 1, 2, 3, 37] {
            let parts = parts(&vec![8; n_ranges], 1, 0);
            let each = Part { at: 0, len: 8000 }.kept_bytes(page_bytes());
            for n_kept in 0..=n_ranges {
                for room in [each * n_kept as u64, each * n_kept as u64 + each - 1] {
                    let ranks = parts.ranks_within(room);
                    assert_eq!(parts.below(ranks).count(), n_kept, "{n_ranges} {room}");
                    let kept: Vec<bool> = (0..parts.len()).map(|n| parts.rank(n) < ranks).collect();
                    assert_eq!(kept.iter().filter(|&&is_kept| is_kept).count(), n_kept);
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
