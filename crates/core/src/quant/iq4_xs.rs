//! IQ4_XS: 256 values, one half-float scale, six-bit ones for each 32, one of sixteen levels each (ggml
//! `block_iq4_xs`).
//!
//! Byte map, 136 bytes: scale `d` as f16 (0..2), a u16 with the upper two bits of the eight blocks' scales, the first
//! lowest (2..4), 4 bytes with the other four bits of two each, the even one below (4..8), then 16 bytes for each block
//! (8..136) of which byte `i` holds value `i` in its low half and value `i + 16` in its high half. A value is `d *
//! (scale - 32) * level`, of IQ4_NL's levels.

use super::block::{self, bytes_at};
use super::iq4_nl::LEVELS;
use super::panel::{Halves, Weights};
use super::superblock::{self, BLOCKS, HALVES, Superblock, for_both_halves, half_at};
use super::tile::{Lanes, nibbles_at};
use super::{Format, Pack, Parts, Type};
use crate::simd::{BLOCK, Simd, each};

/// Bytes of a superblock.
const BYTES: usize = 136;

/// The format.
pub(crate) struct IQ4_XS;

impl Pack for IQ4_XS {
    /// Eight scales of -32 to 31; a code is the number of a level.
    fn pack(parts: &Parts, out: &mut [u8]) {
        block::put_half(out, 0, parts.d);
        let scales: [u16; BLOCKS] = core::array::from_fn(|i| (parts.scales[i] + 32) as u16);
        let high = scales.iter().enumerate().fold(0, |bits, (i, scale)| bits | (scale >> 4 & 3) << (2 * i));
        out[2..4].copy_from_slice(&high.to_le_bytes());
        for (i, both) in out[4..8].iter_mut().enumerate() {
            *both = (scales[2 * i] & 15 | (scales[2 * i + 1] & 15) << 4) as u8;
        }
        for (i, quants) in out[8..].as_chunks_mut::<{ BLOCK / 2 }>().0.iter_mut().enumerate() {
            block::pack_four(&block::code_bytes(parts, i * BLOCK), quants);
        }
    }
}

impl Format for IQ4_XS {
    const TYPE: Type = Type::IQ4_XS;
    const INTEGER: bool = true;
    type Rows = superblock::Rows<BYTES>;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        superblock::dequantize::<Self, BYTES>(row, out);
    }

    fn swap_endian(blocks: &mut [u8]) {
        block::swap_half::<BYTES>(blocks, 0);
        block::swap_half::<BYTES>(blocks, 2);
    }
}

impl Superblock<BYTES> for IQ4_XS {
    const BY_WORDS: bool = true;
    const SCALES_PER_BLOCK: usize = 1;
    #[inline(always)]
    fn scales(superblock: &[u8; BYTES]) -> [i8; HALVES] {
        let high = half_at(superblock, 2);
        let low: &[u8; 4] = bytes_at(superblock, 4);
        for_both_halves(core::array::from_fn(|block| {
            let low = low[block / 2] >> (block % 2 * 4) & 15;
            (low | ((high >> (2 * block) & 3) as u8) << 4) as i8 - 32
        }))
    }

    #[inline(always)]
    fn weights(superblock: &[u8; BYTES], block: usize) -> [u8; BLOCK] {
        let codes: &[u8; BLOCK / 2] = bytes_at(superblock, 8 + block * BLOCK / 2);
        core::array::from_fn(|i| LEVELS[usize::from(codes[i % 16] >> (i / 16 * 4) & 15)] as u8)
    }

    #[inline(always)]
    fn unpack_scales<S: Simd>(s: S, rows: impl Lanes<BYTES>, halves: &mut Halves) {
        let (high, low) = (rows.word(s, 0), rows.word(s, 4));
        for block in 0..BLOCKS {
            let upper = s.and(s.down(high, 16 + 2 * block), s.all(3));
            let scale = s.or(s.and(s.down(low, 4 * block), s.all(15)), s.up(upper, 4));
            s.rows_store(s.rows_sub(s.floats(scale), s.rows_splat(32.0)), &mut halves.factors[block][0]);
        }
    }

    #[inline(always)]
    fn unpack_weights<S: Simd>(s: S, rows: impl Lanes<BYTES>, out: &mut impl Weights<S>) {
        for block in 0..BLOCKS {
            let codes = nibbles_at(s, rows, 8 + block * BLOCK / 2);
            out.put_signed(s, block, each!(8, i => s.lookup(codes[i], &LEVELS)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::superblock::SUPERBLOCK;

    /// Worked out by hand from the byte map.
    #[test]
    fn golden_bytes() {
        let mut superblock = [0; BYTES];
        superblock[..4].copy_from_slice(&[0x00, 0x3c, 0x00, 0xc0]); // 1, and for block 7: 48 and more.
        superblock[7] = 0x50; // And 5.
        superblock[8 + 7 * 16 + 2] = 0xf8; // Its value 2 is level 8, its value 18 level 15.
        let mut values = [9.0; SUPERBLOCK];
        IQ4_XS::dequantize(&superblock, &mut values);
        assert_eq!(values[7 * BLOCK..][..3], [21.0 * -127.0, 21.0 * -127.0, 21.0]);
        assert_eq!(values[7 * BLOCK + 18], 21.0 * 113.0);
        assert_eq!(values[0], 32.0 * 127.0);
    }
}
