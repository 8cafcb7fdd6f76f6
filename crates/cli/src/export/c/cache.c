/* @section cache_f32 */

static void @KV@_store(u8 *row, const float *x)
{
    float *out = (float *)(void *)row;
    int i;
    for (i = 0; i < HEAD_DIM; i++) {
        out[i] = x[i];
    }
}

static float @KV@_load(const u8 *row, int i)
{
    return ((const float *)(const void *)row)[i];
}
/* @section cache_f16 */

static void @KV@_store(u8 *row, const float *x)
{
    int i;
    for (i = 0; i < HEAD_DIM; i++) {
        u32 bits = to_half(x[i]);
        row[2 * i] = (u8)(bits & 255);
        row[2 * i + 1] = (u8)(bits >> 8);
    }
}

static float @KV@_load(const u8 *row, int i)
{
    return half(half_at(row + 2 * i));
}
/* @section cache_q8_0 */

/* Blocks of a half-float scale and signed bytes. */
static void @KV@_store(u8 *row, const float *x)
{
    int first, i;
    for (first = 0; first < HEAD_DIM; first += 32) {
        int n = HEAD_DIM - first < 32 ? HEAD_DIM - first : 32;
        u32 largest = 0, bits;
        float scale, inverse;
        for (i = 0; i < n; i++) {
            u32 magnitude = bits_of(x[first + i]) & 0x7fffffffUL;
            largest = magnitude > largest ? magnitude : largest;
        }
        bits = to_half(quotient(float_of(largest), 127.0f));
        scale = half(bits);
        inverse = scale > 0.0f ? quotient(1.0f, scale) : 0.0f;
        *row++ = (u8)(bits & 255);
        *row++ = (u8)(bits >> 8);
        for (i = 0; i < n; i++) {
            float q = mul(x[first + i], inverse);
            q = q < -127.0f ? -127.0f : q > 127.0f ? 127.0f : q;
            *row++ = (u8)(rounded(q) & 255);
        }
    }
}

static float @KV@_load(const u8 *row, int i)
{
    const u8 *block = row + i / 32 * 34;
    int q = block[2 + i % 32];
    return mul(whole(q > 127 ? q - 256 : q), half(half_at(block)));
}
/* @section cache_q4_0 */

/* Blocks of a half-float scale and pairs of values, the even ones in the low halves of the bytes. */
static void @KV@_store(u8 *row, const float *x)
{
    int first, i;
    for (first = 0; first < HEAD_DIM; first += 32) {
        int n = HEAD_DIM - first < 32 ? HEAD_DIM - first : 32;
        float largest = 0.0f, scale, inverse;
        u32 bits;
        for (i = 0; i < n; i++) {
            float v = x[first + i];
            largest = (bits_of(v) & 0x7fffffffUL) > (bits_of(largest) & 0x7fffffffUL) ? v : largest;
        }
        bits = to_half(quotient(largest, -8.0f));
        scale = half(bits);
        inverse = scale != 0.0f ? quotient(1.0f, scale) : 0.0f;
        *row++ = (u8)(bits & 255);
        *row++ = (u8)(bits >> 8);
        for (i = 0; i < n; i++) {
            float q = mul(x[first + i], inverse);
            int code;
            q = q < -8.0f ? -8.0f : q > 7.0f ? 7.0f : q;
            code = (rounded(q) + 8) & 15;
            if (i & 1) {
                row[i / 2] = (u8)(row[i / 2] | code << 4);
            } else {
                row[i / 2] = (u8)code;
            }
        }
        row += (n + 1) / 2;
    }
}

static float @KV@_load(const u8 *row, int i)
{
    const u8 *block = row + i / 32 * 18;
    int code = block[2 + i % 32 / 2] >> i % 2 * 4 & 15;
    return mul(whole(code - 8), half(half_at(block)));
}
