//! How much the spilled rows of a model take, and where they lie.

use std::ops::Range;

use smidgen_core::kv::PAGE;
use smidgen_core::model::Hparams;
use smidgen_core::plan::Plan;

use super::ROOMS;
use crate::weights::{READER_BYTES, SECTOR};

/// The rows that are spilled when a context is full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpillShape {
    /// The layers whose older rows are spilled, in order, each with the most rows of a head that are lent at once.
    pub layers: Vec<(usize, usize)>,
    /// Key and value heads of each.
    pub n_kv_heads: usize,
    /// Rows of each head that are kept; whole pages.
    pub n_rows: usize,
    /// Bytes of one head's keys at one position.
    pub key_row_bytes: usize,
    /// Bytes of one head's values at one position.
    pub value_row_bytes: usize,
}

impl SpillShape {
    /// What `plan` spills of a model with the dimensions `h`, if anything.
    pub fn of(h: &Hparams<'_>, plan: &Plan) -> Option<Self> {
        let spilled = (0..h.n_layers).filter(|&layer| plan.is_spilled(h, layer));
        let layers: Vec<(usize, usize)> = spilled.map(|layer| (layer, plan.lent_rows(h, layer))).collect();
        let limits = plan.limits();
        (!layers.is_empty()).then(|| SpillShape {
            layers,
            n_kv_heads: h.n_kv_heads,
            n_rows: plan.spilled_rows(),
            key_row_bytes: limits.cache_k.row_bytes(h.head_dim),
            value_row_bytes: limits.cache_v.row_bytes(h.head_dim),
        })
    }

    /// Heads in the file.
    pub(super) fn n_heads(&self) -> usize {
        self.layers.len() * self.n_kv_heads
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.n_heads() as u64 * self.head_bytes()
    }

    /// Bytes that a token reads when the context is full.
    pub fn read_bytes(&self) -> u64 {
        let rows: usize = self.layers.iter().map(|(_, n_lent)| n_lent * self.n_kv_heads).sum();
        rows as u64 * (self.key_row_bytes + self.value_row_bytes) as u64
    }

    /// Memory that spilling takes: the rooms, a sector, and the thread.
    pub fn memory_bytes(&self) -> u64 {
        (ROOMS.min(self.n_heads()) * self.room_bytes() + SECTOR) as u64 + READER_BYTES
    }

    /// Bytes of a head in the file.
    pub(super) fn head_bytes(&self) -> u64 {
        let bytes = |row_bytes: usize| (self.n_rows * row_bytes).next_multiple_of(SECTOR);
        (bytes(self.key_row_bytes) + bytes(self.value_row_bytes)) as u64
    }

    /// Bytes of the rows of a head in memory, at most.
    pub(super) fn room_bytes(&self) -> usize {
        self.room_side_bytes(self.key_row_bytes) + self.room_side_bytes(self.value_row_bytes)
    }

    /// Sectors that hold as many rows as are lent, or a page; the first may begin with others.
    fn room_side_bytes(&self, row_bytes: usize) -> usize {
        let n_lent = self.layers.iter().map(|&(_, n_lent)| n_lent).max().unwrap_or(0);
        let before = if self.n_rows > PAGE { SECTOR } else { 0 };
        (n_lent.max(PAGE) * row_bytes + before).next_multiple_of(SECTOR)
    }

    /// Keys and values.
    pub(super) fn sides(&self) -> [Side; 2] {
        let values_at = (self.n_rows * self.key_row_bytes).next_multiple_of(SECTOR);
        let room_values_at = self.room_side_bytes(self.key_row_bytes);
        [
            Side { row_bytes: self.key_row_bytes, file_at: 0, room_at: 0 },
            Side { row_bytes: self.value_row_bytes, file_at: values_at, room_at: room_values_at },
        ]
    }
}

/// The keys of a head, or its values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    pub(super) row_bytes: usize,
    /// Where they begin in the head's part of the file.
    file_at: usize,
    /// Where in a room the sectors lie that hold them.
    pub(super) room_at: usize,
}

impl Side {
    /// The sectors of the head's part that hold the rows of these positions.
    pub(super) fn sectors(&self, positions: &Range<usize>) -> Range<usize> {
        let byte = |position: usize| self.file_at + position * self.row_bytes;
        byte(positions.start) / SECTOR * SECTOR..byte(positions.end).next_multiple_of(SECTOR)
    }

    /// The bytes of a room that these rows have when it holds those sectors.
    pub(super) fn rows(&self, positions: &Range<usize>) -> Range<usize> {
        let first = self.room_at + (self.file_at + positions.start * self.row_bytes) % SECTOR;
        first..first + positions.len() * self.row_bytes
    }
}
