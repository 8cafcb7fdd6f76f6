//! Half floats (IEEE binary16), bfloat16 and eight-bit scales, in plain integer arithmetic: the same bits on every machine.

/// Widens a half float; exact for every value.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff);
    let sign = u32::from(bits & 0x8000) << 16;
    if magnitude >= 0x7c00 {
        return f32::from_bits(sign | 0x7f80_0000 | (magnitude & 0x3ff) << 13);
    }
    if magnitude < 0x400 {
        // Zero or subnormal: a small integer times 2^-24. Never a subnormal f32, which some FPUs flush.
        let value = magnitude as f32 * f32::from_bits(0x3380_0000);
        return f32::from_bits(sign | value.to_bits());
    }
    f32::from_bits(sign | ((magnitude << 13) + (112 << 23)))
}

/// Rounds to the nearest half float, ties to even; too large becomes infinite.
#[inline(always)]
pub fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return sign | 0x7e00;
    }
    if magnitude >= 0x4780_0000 {
        return sign | 0x7c00;
    }
    if magnitude < 0x3880_0000 {
        // Below 2^-14: the result counts units of 2^-24. Adding 2^-1 (whose unit is 2^-24) rounds to it.
        let rounded = f32::from_bits(magnitude) + 0.5;
        return sign | (rounded.to_bits() - 0x3f00_0000) as u16;
    }
    // Rounding may carry into the exponent, and from the largest finite value into infinity: both are right.
    let odd = magnitude >> 13 & 1;
    sign | ((magnitude - (112 << 23) + 0xfff + odd) >> 13) as u16
}

/// Widens a bfloat16; exact.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Rounds to the nearest bfloat16, ties to even.
#[inline(always)]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// Widens a scale of one byte, five bits of exponent and three of mantissa without a sign: `e << 3 | m` is
/// `(1 + m / 8) * 2^(e - 30)`, and 0 is zero.
#[inline(always)]
pub fn e5m3_to_f32(byte: u8) -> f32 {
    let bits = (u32::from(byte) << 20) + E5M3_OFFSET;
    f32::from_bits(if byte == 0 { 0 } else { bits })
}

/// What the bits of a scale's float are above those of its byte.
pub(crate) const E5M3_OFFSET: u32 = (127 - 30) << 23;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_float_survives_widening() {
        for bits in 0..=u16::MAX {
            let wide = f16_to_f32(bits);
            if wide.is_nan() {
                assert!(f16_to_f32(f32_to_f16(wide)).is_nan());
            } else {
                assert_eq!(f32_to_f16(wide), bits, "{wide}");
            }
        }
    }

    /// Golden values of IEEE binary16 (IEEE 754-2019, 3.6).
    #[test]
    fn half_floats_mean_what_ieee_says() {
        let golden =
            [(0x3c00, 1.0), (0xc000, -2.0), (0x7bff, 65504.0), (0x0400, 6.103_515_6e-5), (0x0001, 5.960_464_5e-8)];
        for (bits, value) in golden {
            assert_eq!(f16_to_f32(bits), value);
        }
        assert_eq!(f16_to_f32(0xfc00), f32::NEG_INFINITY);
    }

    /// Between two neighbours the nearer wins, and half-way the even one.
    #[test]
    fn halves_round_to_nearest_even() {
        for low in 0..0x7bffu16 {
            let (a, b) = (f16_to_f32(low), f16_to_f32(low + 1));
            let middle = (f64::from(a) + f64::from(b)) / 2.0;
            let even = if low % 2 == 0 { low } else { low + 1 };
            assert_eq!(f32_to_f16(middle as f32), even, "{low:#x}");
            assert_eq!(f32_to_f16((middle as f32).next_up()), low + 1, "{low:#x}");
            assert_eq!(f32_to_f16((middle as f32).next_down()), low, "{low:#x}");
        }
        assert_eq!(f32_to_f16(65520.0), 0x7c00);
        assert_eq!(f32_to_f16(65519.99), 0x7bff);
        assert_eq!(f32_to_f16(-1e-9), 0x8000);
    }

    #[test]
    fn bfloats_round_to_nearest_even() {
        for low in 0..0x7f7fu16 {
            let middle = f32::from_bits(u32::from(low) << 16 | 0x8000);
            assert_eq!(f32_to_bf16(middle), low + (low & 1));
            assert_eq!(f32_to_bf16(middle.next_up()), low + 1);
            assert_eq!(f32_to_bf16(middle.next_down()), low);
        }
        assert!(bf16_to_f32(f32_to_bf16(f32::NAN)).is_nan());
    }
}
