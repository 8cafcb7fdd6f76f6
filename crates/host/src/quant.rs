//! Rows of weights to and from `f32`, in the byte order of either machine.

use smidgen_core::quant::Type;

/// A type whose blocks nothing here can read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unsupported;

/// The weights of the little-endian `row` of type `kind`.
pub(crate) fn dequantize(kind: Type, row: &[u8], out: &mut [f32]) -> Result<(), Unsupported> {
    match kind {
        Type::F32 => {
            for (bytes, out) in row.as_chunks::<4>().0.iter().zip(out) {
                *out = f32::from_le_bytes(*bytes);
            }
        }
        Type::F16 => {
            for (bytes, out) in row.as_chunks::<2>().0.iter().zip(out) {
                *out = f16_to_f32(u16::from_le_bytes(*bytes));
            }
        }
        Type::BF16 => {
            for (bytes, out) in row.as_chunks::<2>().0.iter().zip(out) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
        }
        Type::Q8_0 => {
            for (block, out) in row.as_chunks::<34>().0.iter().zip(out.as_chunks_mut::<32>().0) {
                let scale = f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
                for (&byte, out) in block[2..].iter().zip(out) {
                    *out = f32::from(byte as i8) * scale;
                }
            }
        }
        _ => return Err(Unsupported),
    }
    Ok(())
}

/// The little-endian blocks of type `kind` nearest to `row`.
pub(crate) fn quantize(kind: Type, row: &[f32], out: &mut [u8]) -> Result<(), Unsupported> {
    match kind {
        Type::F32 => {
            for (value, out) in row.iter().zip(out.as_chunks_mut::<4>().0) {
                *out = value.to_le_bytes();
            }
        }
        Type::F16 => {
            for (&value, out) in row.iter().zip(out.as_chunks_mut::<2>().0) {
                *out = f32_to_f16(value).to_le_bytes();
            }
        }
        Type::BF16 => {
            for (value, out) in row.iter().zip(out.as_chunks_mut::<2>().0) {
                let bits = value.to_bits();
                let rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
                *out = (rounded as u16).to_le_bytes();
            }
        }
        Type::Q8_0 => {
            for (values, out) in row.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<34>().0) {
                let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                let scale = largest / 127.0;
                let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
                out[..2].copy_from_slice(&f32_to_f16(scale).to_le_bytes());
                for (value, out) in values.iter().zip(&mut out[2..]) {
                    *out = (value * inverse).round() as i8 as u8;
                }
            }
        }
        _ => return Err(Unsupported),
    }
    Ok(())
}

/// Turns little-endian blocks of type `kind` into big-endian ones, and back.
pub(crate) fn swap_endian(kind: Type, blocks: &mut [u8]) -> Result<(), Unsupported> {
    match kind {
        Type::F32 => blocks.as_chunks_mut::<4>().0.iter_mut().for_each(|bytes| bytes.reverse()),
        Type::F16 | Type::BF16 => blocks.as_chunks_mut::<2>().0.iter_mut().for_each(|bytes| bytes.reverse()),
        Type::Q8_0 => blocks.as_chunks_mut::<34>().0.iter_mut().for_each(|block| block.swap(0, 1)),
        _ => return Err(Unsupported),
    }
    Ok(())
}

fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    if magnitude >= 0x7c00 {
        return f32::from_bits(sign | 0x7f80_0000 | (magnitude & 0x3ff) << 13);
    }
    // Scaling by 2^112 moves the exponent from one bias to the other, subnormal numbers included.
    let scaled = f32::from_bits(magnitude << 13) * f32::from_bits(0x7780_0000);
    f32::from_bits(sign | scaled.to_bits())
}

fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude >= 0x7f80_0000 {
        return sign | 0x7c00 | if magnitude > 0x7f80_0000 { 0x200 } else { 0 };
    }
    if magnitude >= 0x477f_f000 {
        return sign | 0x7c00;
    }
    if magnitude < 0x3880_0000 {
        // Adding 0.5 lets the float unit round to a multiple of 2^-24, the step of subnormal numbers.
        let rounded = f32::from_bits(magnitude) + 0.5;
        return sign | (rounded.to_bits() - 0x3f00_0000) as u16;
    }
    let rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
    sign | ((rounded - 0x3800_0000) >> 13) as u16
}
