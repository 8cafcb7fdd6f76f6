/* @section base */
/*
 * Numbers. Floats are IEEE 754 binary32, and every operation on them is rounded once: where the compiler keeps more bits than
 * a float has (an x87, a 68881, s390x in ISO mode), a store to memory takes them away again. Doing that after every single
 * operation gives the bits of binary32 arithmetic, because those formats have more than twice its precision.
 */
#if UINT_MAX >= 0xffffffffUL
typedef unsigned int u32;
typedef int s32;
#else
typedef unsigned long u32;
typedef long s32;
#endif
typedef unsigned char u8;
typedef signed char s8;
/* A byte of the data, or of something beside it. */
typedef const SMIDGEN_FAR u8 datum;

typedef char float_has_32_bits[sizeof(float) == 4 && sizeof(u32) >= 4 ? 1 : -1];

#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0
#define EXACT volatile
#elif defined(SMIDGEN_EXCESS)
#define EXACT volatile
#else
#define EXACT
#endif

static float add(float a, float b)
{
    EXACT float r = a + b;
    return r;
}

static float sub(float a, float b)
{
    EXACT float r = a - b;
    return r;
}

static float mul(float a, float b)
{
    EXACT float r = a * b;
    return r;
}

static float quotient(float a, float b)
{
    EXACT float r = a / b;
    return r;
}

/* An integer below 2^24 in magnitude, which a float holds exactly. */
static float whole(s32 x)
{
    EXACT float r = (float)x;
    return r;
}

union bits {
    float f;
    u32 u;
};

static u32 bits_of(float x)
{
    union bits b;
    b.u = 0;
    b.f = x;
    return b.u & 0xffffffffUL;
}

static float float_of(u32 x)
{
    union bits b;
    b.u = x;
    return b.f;
}

/* Numbers of the data: little-endian, at any address. */
static u32 word_at(datum *p)
{
    return (u32)p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24;
}

/* e^x: Cody and Waite's reduction by multiples of ln 2 in two parts, then the polynomial of Cephes' expf. */
static float power_of_e(float x)
{
    static const float c[] = {1.44269504f, 0.6933594f, -2.1219444e-4f, 1.9875691e-4f, 1.3981999e-3f,
                              8.333452e-3f, 4.1665796e-2f, 1.6666665e-1f, 0.5f};
    float shifted, n, r, p;
    u32 power;
    int i;
    if (x < -87.0f) {
        return 0.0f;
    }
    if (x > 88.0f) {
        return float_of(0x7f800000UL);
    }
    shifted = add(mul(x, c[0]), 12582912.0f);
    n = sub(shifted, 12582912.0f);
    r = sub(sub(x, mul(n, c[1])), mul(n, c[2]));
    p = c[3];
    for (i = 4; i < 9; i++) {
        p = add(mul(p, r), c[i]);
    }
    p = add(add(mul(p, mul(r, r)), r), 1.0f);
    power = (bits_of(shifted) - 0x4b400000UL + 127) & 255;
    return mul(p, float_of(power << 23));
}

/* The square root, correctly rounded: one bit of it after the other. */
static float root(float x)
{
    u32 bits = bits_of(x), mantissa, rest = 0, result = 0;
    int exponent = (int)(bits >> 23), i;
    if (bits == 0 || bits >= 0x7f800000UL) {
        return bits > 0x7f800000UL ? float_of(0x7fc00000UL) : x;
    }
    if (exponent == 0) {
        return mul(root(mul(x, 16777216.0f)), 2.44140625e-4f);
    }
    mantissa = (bits & 0x7fffffUL) | 0x800000UL;
    exponent -= 127;
    if (exponent & 1) {
        mantissa <<= 1;
        exponent--;
    }
    /* 25 bits of the root of mantissa * 2^25, from two bits of it at a time. */
    for (i = 0; i < 25; i++) {
        u32 trial = result << 2 | 1;
        rest = (rest << 2 | (mantissa >> 23 & 3)) & 0xffffffffUL;
        mantissa = mantissa << 2 & 0x1ffffffUL;
        result <<= 1;
        if (rest >= trial) {
            rest -= trial;
            result |= 1;
        }
    }
    /* The last bit is the one behind the point; the root of a float never lies half-way. */
    result = (result >> 1) + (result & 1);
    return float_of(result + ((u32)(exponent / 2 + 126) << 23));
}

/* Sixteen interleaved sums, added up in the order that every machine keeps. */
static float tree(const float *v)
{
    float e[8];
    int i;
    for (i = 0; i < 8; i++) {
        e[i] = add(v[i], v[i + 8]);
    }
    for (i = 0; i < 4; i++) {
        e[i] = add(e[i], e[i + 4]);
    }
    return add(add(e[0], e[2]), add(e[1], e[3]));
}

static float dot(const float *a, const float *b, int n)
{
    float lanes[16];
    int i;
    for (i = 0; i < 16; i++) {
        lanes[i] = 0.0f;
    }
    for (i = 0; i < n; i++) {
        lanes[i & 15] = add(lanes[i & 15], mul(a[i], b[i]));
    }
    return tree(lanes);
}

static float sum(const float *a, int n)
{
    float lanes[16];
    int i;
    for (i = 0; i < 16; i++) {
        lanes[i] = 0.0f;
    }
    for (i = 0; i < n; i++) {
        lanes[i & 15] = add(lanes[i & 15], a[i]);
    }
    return tree(lanes);
}
/* @section half_at */

static u32 half_at(datum *p)
{
    return (u32)p[0] | (u32)p[1] << 8;
}
/* @section rounded */

/* Rounds to the nearest integer, ties to even: adding 1.5 * 2^23 leaves no room for a fraction. */
static s8 rounded(float x)
{
    int low = (int)(bits_of(add(x, 12582912.0f)) & 255);
    return (s8)(low > 127 ? low - 256 : low);
}
/* @section half */

/* Widens a half float. */
static float half(u32 bits)
{
    u32 magnitude = bits & 0x7fff, sign = (bits & 0x8000UL) << 16;
    if (magnitude >= 0x7c00) {
        return float_of(sign | 0x7f800000UL | (magnitude & 0x3ff) << 13);
    }
    if (magnitude < 0x400) {
        /* A small integer times 2^-24. */
        return float_of(sign | bits_of(mul(whole((s32)magnitude), float_of(0x33800000UL))));
    }
    return float_of(sign | ((magnitude << 13) + (112UL << 23)));
}
/* @section to_half */

/* Rounds to the nearest half float, ties to even. */
static u32 to_half(float x)
{
    u32 bits = bits_of(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffffUL;
    if (magnitude > 0x7f800000UL) {
        return sign | 0x7e00;
    }
    if (magnitude >= 0x47800000UL) {
        return sign | 0x7c00;
    }
    if (magnitude < 0x38800000UL) {
        /* Adding 2^-1, whose unit is 2^-24, rounds to that. */
        return sign | (bits_of(add(float_of(magnitude), 0.5f)) - 0x3f000000UL);
    }
    return sign | ((magnitude - (112UL << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13);
}
/* @section integer */

/* What integer weights are multiplied with: blocks of 32 values in 8 bits, their scales and sums. */
static s8 activation_q[N_BLOCKS][32];
static float activation_scale[N_BLOCKS];
static s32 activation_sum[N_BLOCKS];
#if FINE
/* What rounding to 8 bits took away, in 254ths. */
static s8 activation_rest[N_BLOCKS][32];
#endif

static void quantize(const float *x, int n)
{
    int block, i;
    for (block = 0; block * 32 < n; block++) {
        const float *values = x + block * 32;
        int n_values = n - block * 32 < 32 ? n - block * 32 : 32;
        u32 largest = 0;
        float scale, inverse;
        s32 total = 0;
        for (i = 0; i < n_values; i++) {
            u32 magnitude = bits_of(values[i]) & 0x7fffffffUL;
            largest = magnitude > largest ? magnitude : largest;
        }
        scale = quotient(float_of(largest), 127.0f);
        inverse = float_of(largest) > 0.0f ? quotient(127.0f, float_of(largest)) : 0.0f;
        for (i = 0; i < 32; i++) {
            s8 q = (s8)(i < n_values ? rounded(mul(values[i], inverse)) : 0);
            activation_q[block][i] = q;
            total += q;
        }
        activation_scale[block] = scale;
        activation_sum[block] = total;
#if FINE
        inverse = bits_of(scale) >> 23 == 0 || bits_of(scale) >> 23 == 255 ? 0.0f : quotient(1.0f, scale);
        for (i = 0; i < 32; i++) {
            s8 q = activation_q[block][i];
            activation_rest[block][i] =
                (s8)(i < n_values && inverse != 0.0f ? rounded(mul(sub(mul(values[i], inverse), whole(q)), 254.0f)) : 0);
        }
#endif
    }
}

/* The exact sum of n products. */
static s32 products(const s8 *w, const s8 *a, int n)
{
    s32 total = 0;
    while (n-- > 0) {
        total += (s32)*w++ * *a++;
    }
    return total;
}
