/* @section block */

/*
 * @NAME@: 32 integers with a scale. A dot product adds, block by block, the exact integer sum times (weight scale times activation
 * scale).
 */
static void @NAME@_row(datum *b, int n, float *out)
{
    s8 w[32];
    int i;
    for (; n > 0; n -= 32, b += @BYTES@, out += 32) {
        float scale = @SCALE@;
        @NAME@_weights(b, w);
        for (i = 0; i < 32; i++) {
            out[i] = mul(scale, whole(w[i]));
#if @HAS_MIN@
            out[i] = add(out[i], half(half_at(b + @MIN_AT@)));
#endif
        }
    }
}

static float @NAME@_dot(datum *b, int n)
{
    float total = 0.0f;
    s8 w[32];
    int block;
    for (block = 0; block * 32 < n; block++, b += @BYTES@) {
        float scale = activation_scale[block];
        @NAME@_weights(b, w);
        total = add(total, mul(whole(products(w, activation_q[block], 32)), mul(@SCALE@, scale)));
#if @HAS_MIN@
        total = add(total, mul(half(half_at(b + @MIN_AT@)), mul(whole(activation_sum[block]), scale)));
#endif
    }
    return total;
}
/* @section superblock */

/*
 * @NAME@: blocks whose scales are small integers of a larger block. A dot product adds, block by block, the exact sum of weight times
 * activation, times ((the large scale times the block's) times activation scale); where the halves of a block have scales of their own,
 * the exact sum has them. Minimums times (the activations' sum times their scale) are taken away.
 */
static float @NAME@_scale(datum *b)
{
    return mul(@SCALE@, @FACTOR@);
}

static void @NAME@_row(datum *b, int n, float *out)
{
    s8 w[32], scales[16];
    u8 mins[16];
    int i, block;
    for (; n > 0; n -= @COUNT@ * 32, b += @BYTES@) {
        float d = @NAME@_scale(b);
        @NAME@_scales(b, scales, mins);
        for (block = 0; block < @COUNT@; block++, out += 32) {
            @NAME@_weights(b, block, w);
            for (i = 0; i < 32; i++) {
                out[i] = mul(mul(d, whole(scales[2 * block + i / 16])), whole(w[i]));
#if @HAS_MIN@
                out[i] = sub(out[i], mul(half(half_at(b + @MIN_AT@)), whole(mins[@MINS@ * block + i / 16 * (@MINS@ - 1)])));
#endif
            }
        }
    }
}

static float @NAME@_dot(datum *b, int n)
{
    float total = 0.0f;
    s8 w[32], scales[16];
    u8 mins[16];
    int at, block;
    for (at = 0; at * 32 < n; b += @BYTES@) {
        float d = @NAME@_scale(b);
        @NAME@_scales(b, scales, mins);
        for (block = 0; block < @COUNT@; block++, at++) {
            const s8 *q = activation_q[at];
            float scale = activation_scale[at];
            s32 exact;
            @NAME@_weights(b, block, w);
#if @ONE_SCALE@
            exact = products(w, q, 32);
            total = add(total, mul(whole(exact), mul(mul(d, whole(scales[2 * block])), scale)));
#else
            exact = scales[2 * block] * products(w, q, 16) + scales[2 * block + 1] * products(w + 16, q + 16, 16);
            total = add(total, mul(whole(exact), mul(d, scale)));
#endif
#if @HAS_MIN@
            {
                s32 all = activation_sum[at];
                float dmin = half(half_at(b + @MIN_AT@));
#if @MINS@ == 1
                total = add(total, mul(mul(dmin, whole(mins[block])), mul(whole(-all), scale)));
#else
                float first_below, second_below;
                s32 first = 0;
                int i;
                for (i = 0; i < 16; i++) {
                    first += q[i];
                }
                first_below = mul(mul(dmin, whole(mins[2 * block])), mul(whole(-first), scale));
                second_below = mul(mul(dmin, whole(mins[2 * block + 1])), mul(whole(first - all), scale));
                total = add(total, add(first_below, second_below));
#endif
            }
#endif
        }
    }
    return total;
}
/* @section any_width_scale */

/* A scale of one byte: five bits of exponent, three of mantissa. */
static float small_scale(u32 byte)
{
    return float_of(byte == 0 ? 0 : (byte << 20) + (97UL << 23));
}
/* @section any_width */

/*
 * @NAME@: a scale and 64 codes of @BITS@ bits; the last six bits of the stream up to the end of a code choose its level. Rows end where
 * they end: what is missing of a block is not stored.
 */
static int @NAME@_level(datum *b, int i)
{
#if @BITS@ == 8
    return b[1 + i] > 127 ? b[1 + i] - 256 : b[1 + i];
#else
    int bit = 8 + (i + 1) * @BITS@ - 6;
    int above = (bit & 7) > 2 ? b[(bit >> 3) + 1] : 0;
    return @NAME@_levels[(b[bit >> 3] | above << 8) >> (bit & 7) & 63];
#endif
}

static void @NAME@_row(datum *b, int n, float *out)
{
    int i;
    for (; n > 0; n -= 64, b += @BYTES@, out += 64) {
        float scale = small_scale(b[0]);
        for (i = 0; i < 64 && i < n; i++) {
            out[i] = mul(scale, whole(@NAME@_level(b, i)));
        }
    }
}

static float @NAME@_dot(datum *b, int n)
{
    float total = 0.0f;
    s8 w[32];
    int block, i;
    for (block = 0; block * 32 < n; block++) {
        int first = (block & 1) * 32, length = n - block * 32 < 32 ? n - block * 32 : 32;
        float exact;
        for (i = 0; i < length; i++) {
            w[i] = (s8)@NAME@_level(b, first + i);
        }
        exact = whole(products(w, activation_q[block], length));
#if @BITS@ == 8
        exact = add(exact, mul(whole(products(w, activation_rest[block], length)), quotient(1.0f, 254.0f)));
#endif
        total = add(total, mul(exact, mul(small_scale(b[0]), activation_scale[block])));
        b += first ? @BYTES@ : 0;
    }
    return total;
}
/* @section float */

/* @NAME@: one number after the other; a dot product is sixteen interleaved sums. */
static void @NAME@_row(datum *b, int n, float *out)
{
    int i;
    for (i = 0; i < n; i++) {
        out[i] = @SCALE@;
    }
}

static float @NAME@_dot(datum *b, const float *x, int n)
{
    float lanes[16];
    int i;
    for (i = 0; i < 16; i++) {
        lanes[i] = 0.0f;
    }
    for (i = 0; i < n; i++) {
        lanes[i & 15] = add(lanes[i & 15], mul(@SCALE@, x[i]));
    }
    return tree(lanes);
}
