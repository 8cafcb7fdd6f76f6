/* @section nibbles */

/* Thirty-two numbers of four bits: the low halves of sixteen bytes, then the high ones. */
static void nibbles(datum *p, s8 *w)
{
    int i;
    for (i = 0; i < 16; i++) {
        w[i] = (s8)(p[i] & 15);
        w[i + 16] = (s8)(p[i] >> 4);
    }
}
/* @section fifths */

/* As many of five bits: four bytes of fifth bits before them. */
static void fives(datum *p, s8 *w)
{
    u32 fifth = word_at(p);
    int i;
    nibbles(p + 4, w);
    for (i = 0; i < 32; i++) {
        w[i] = (s8)(w[i] | (fifth >> i & 1) << 4);
    }
}
/* @section plane */

/* Some bits of each of 32 bytes. */
static void plane(datum *p, int shift, int mask, s8 *w)
{
    int i;
    for (i = 0; i < 32; i++) {
        w[i] = (s8)(p[i] >> shift & mask);
    }
}
/* @section join */

/* Further bits of each of 32 numbers. */
static void join(datum *p, int shift, int mask, int above, s8 *w)
{
    int i;
    for (i = 0; i < 32; i++) {
        w[i] = (s8)(w[i] | (p[i] >> shift & mask) << above);
    }
}
/* @section less */

static void less(int by, s8 *w)
{
    int i;
    for (i = 0; i < 32; i++) {
        w[i] = (s8)(w[i] - by);
    }
}
/* @section levels */

static void look_up(const s8 *levels, s8 *w)
{
    int i;
    for (i = 0; i < 32; i++) {
        w[i] = levels[w[i]];
    }
}
/* @section iq4_levels */
static const s8 iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
/* @section signs */

/* Negates the numbers of eight whose bit is set. */
static void negate(u32 signs, s8 *w)
{
    int i;
    for (i = 0; i < 8; i++) {
        w[i] = (s8)(signs >> i & 1 ? -w[i] : w[i]);
    }
}
/* @section even_signs */

/* Eight signs of which seven are stored: an even number of them is negative. */
static u32 even(u32 seven)
{
    u32 odd = seven & 127;
    odd ^= odd >> 4;
    odd ^= odd >> 2;
    odd ^= odd >> 1;
    return (seven & 127) | (odd & 1) << 7;
}
/* @section grid8 */

/* A point of eight coordinates, two bits for each. */
static void point8(u32 codes, const s8 *levels, s8 *w)
{
    int i;
    for (i = 0; i < 8; i++) {
        w[i] = levels[codes >> 2 * i & 3];
    }
}
/* @section grid4 */

/* A point of four coordinates, three bits for each. */
static void point4(u32 codes, const s8 *levels, s8 *w)
{
    int i;
    for (i = 0; i < 4; i++) {
        w[i] = levels[codes >> 3 * i & 7];
    }
}
/* @section both_halves */

/* Both halves of a block share their scale. */
static void one_scale(int block, int scale, s8 *scales)
{
    scales[2 * block] = scales[2 * block + 1] = (s8)scale;
}
/* @section odd_scales */

/* Sixteen odd scales of four bits. */
static void odd_scales(datum *p, s8 *scales)
{
    int i;
    for (i = 0; i < 16; i++) {
        scales[i] = (s8)((p[i / 2] >> i % 2 * 4 & 15) * 2 + 1);
    }
}
/* @section six_bit_scales */

/* Eight scales and minimums of six bits in twelve bytes. */
static void six_bits(datum *p, s8 *scales, u8 *mins)
{
    int i;
    for (i = 0; i < 4; i++) {
        one_scale(i, p[i] & 63, scales);
        one_scale(i + 4, (p[i + 8] & 15) | p[i] >> 6 << 4, scales);
        mins[i] = (u8)(p[i + 4] & 63);
        mins[i + 4] = (u8)(p[i + 8] >> 4 | p[i + 4] >> 6 << 4);
    }
}
/* @section Q4_0 */

static void Q4_0_weights(datum *b, s8 *w)
{
    nibbles(b + 2, w);
    less(8, w);
}
/* @section Q4_1 */

static void Q4_1_weights(datum *b, s8 *w)
{
    nibbles(b + 4, w);
}
/* @section Q5_0 */

static void Q5_0_weights(datum *b, s8 *w)
{
    fives(b + 2, w);
    less(16, w);
}
/* @section Q5_1 */

static void Q5_1_weights(datum *b, s8 *w)
{
    fives(b + 4, w);
}
/* @section Q8_0 */

static void Q8_0_weights(datum *b, s8 *w)
{
    int i;
    for (i = 0; i < 32; i++) {
        w[i] = (s8)(b[i + 2] > 127 ? b[i + 2] - 256 : b[i + 2]);
    }
}
/* @section IQ4_NL */

static void IQ4_NL_weights(datum *b, s8 *w)
{
    nibbles(b + 2, w);
    look_up(iq4_levels, w);
}
/* @section MXFP4 */

/* Two to the power of an exponent less 128; the two smallest are subnormal. */
static float mxfp4_scale(datum *b)
{
    return float_of(b[0] < 2 ? 1UL << (21 + b[0]) : (u32)(b[0] - 1) << 23);
}

static void MXFP4_weights(datum *b, s8 *w)
{
    static const s8 doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    nibbles(b + 1, w);
    look_up(doubled, w);
}
/* @section Q2_K */

static void Q2_K_scales(datum *b, s8 *scales, u8 *mins)
{
    int i;
    for (i = 0; i < 16; i++) {
        scales[i] = (s8)(b[i] & 15);
        mins[i] = (u8)(b[i] >> 4);
    }
}

static void Q2_K_weights(datum *b, int block, s8 *w)
{
    plane(b + 16 + block / 4 * 32, block % 4 * 2, 3, w);
}
/* @section Q3_K */

static void Q3_K_scales(datum *b, s8 *scales, u8 *mins)
{
    datum *p = b + 96;
    int i;
    (void)mins;
    for (i = 0; i < 16; i++) {
        scales[i] = (s8)(((p[i % 8] >> i / 8 * 4 & 15) | (p[8 + i % 4] >> i / 4 * 2 & 3) << 4) - 32);
    }
}

static void Q3_K_weights(datum *b, int block, s8 *w)
{
    plane(b + 32 + block / 4 * 32, block % 4 * 2, 3, w);
    join(b, block, 1, 2, w);
    less(4, w);
}
/* @section Q4_K */

static void Q4_K_scales(datum *b, s8 *scales, u8 *mins)
{
    six_bits(b + 4, scales, mins);
}

static void Q4_K_weights(datum *b, int block, s8 *w)
{
    plane(b + 16 + block / 2 * 32, block % 2 * 4, 15, w);
}
/* @section Q5_K */

static void Q5_K_scales(datum *b, s8 *scales, u8 *mins)
{
    six_bits(b + 4, scales, mins);
}

static void Q5_K_weights(datum *b, int block, s8 *w)
{
    plane(b + 48 + block / 2 * 32, block % 2 * 4, 15, w);
    join(b + 16, block, 1, 4, w);
}
/* @section Q6_K */

static void Q6_K_scales(datum *b, s8 *scales, u8 *mins)
{
    int i;
    (void)mins;
    for (i = 0; i < 16; i++) {
        scales[i] = (s8)(b[192 + i] > 127 ? b[192 + i] - 256 : b[192 + i]);
    }
}

static void Q6_K_weights(datum *b, int block, s8 *w)
{
    int four = block / 4, number = block % 4;
    plane(b + four * 64 + number % 2 * 32, number / 2 * 4, 15, w);
    join(b + 128 + four * 32, 2 * number, 3, 4, w);
    less(32, w);
}
/* @section IQ2_XXS */

static void IQ2_XXS_scales(datum *b, s8 *scales, u8 *mins)
{
    int i;
    (void)mins;
    for (i = 0; i < 8; i++) {
        one_scale(i, (int)(word_at(b + 6 + 8 * i) >> 28) * 2 + 1, scales);
    }
}

static void IQ2_XXS_weights(datum *b, int block, s8 *w)
{
    datum *p = b + 2 + 8 * block;
    u32 signs = word_at(p + 4);
    int i;
    for (i = 0; i < 4; i++) {
        point8(IQ2_XXS_grid[p[i]], IQ2_XXS_levels, w + 8 * i);
        negate(even(signs >> 7 * i), w + 8 * i);
    }
}
/* @section IQ2_XS */

static void IQ2_XS_scales(datum *b, s8 *scales, u8 *mins)
{
    (void)mins;
    odd_scales(b + 66, scales);
}

static void IQ2_XS_weights(datum *b, int block, s8 *w)
{
    int i;
    for (i = 0; i < 4; i++) {
        u32 packed = half_at(b + 2 + 8 * block + 2 * i);
        point8(IQ2_XS_grid[packed & 511], IQ2_XS_levels, w + 8 * i);
        negate(even(packed >> 9), w + 8 * i);
    }
}
/* @section IQ2_S */

static void IQ2_S_scales(datum *b, s8 *scales, u8 *mins)
{
    (void)mins;
    odd_scales(b + 74, scales);
}

static void IQ2_S_weights(datum *b, int block, s8 *w)
{
    int i;
    for (i = 0; i < 4; i++) {
        u32 number = b[2 + 4 * block + i] | (u32)(b[66 + block] >> 2 * i & 3) << 8;
        point8(IQ2_S_grid[number], IQ2_S_levels, w + 8 * i);
        negate(b[34 + 4 * block + i], w + 8 * i);
    }
}
/* @section IQ3_XXS */

static void IQ3_XXS_scales(datum *b, s8 *scales, u8 *mins)
{
    int i;
    (void)mins;
    for (i = 0; i < 8; i++) {
        one_scale(i, (int)(word_at(b + 66 + 4 * i) >> 28) * 2 + 1, scales);
    }
}

static void IQ3_XXS_weights(datum *b, int block, s8 *w)
{
    datum *p = b + 2 + 8 * block;
    u32 signs = word_at(b + 66 + 4 * block);
    int i;
    for (i = 0; i < 8; i++) {
        point4(IQ3_XXS_grid[p[i]], IQ3_XXS_levels, w + 4 * i);
    }
    for (i = 0; i < 4; i++) {
        negate(even(signs >> 7 * i), w + 8 * i);
    }
}
/* @section IQ3_S */

static void IQ3_S_scales(datum *b, s8 *scales, u8 *mins)
{
    int i;
    (void)mins;
    for (i = 0; i < 8; i++) {
        one_scale(i, (b[106 + i / 2] >> i % 2 * 4 & 15) * 2 + 1, scales);
    }
}

static void IQ3_S_weights(datum *b, int block, s8 *w)
{
    int i;
    for (i = 0; i < 8; i++) {
        u32 number = b[2 + 8 * block + i] | (u32)(b[66 + block] >> i & 1) << 8;
        point4(IQ3_S_grid[number], IQ3_S_levels, w + 4 * i);
    }
    for (i = 0; i < 4; i++) {
        negate(b[74 + 4 * block + i], w + 8 * i);
    }
}
/* @section IQ1_S */

static void IQ1_S_scales(datum *b, s8 *scales, u8 *mins)
{
    int i;
    (void)mins;
    for (i = 0; i < 8; i++) {
        one_scale(i, (int)(half_at(b + 34 + 2 * i) >> 12 & 7) * 2 + 1, scales);
    }
}

static void IQ1_S_weights(datum *b, int block, s8 *w)
{
    u32 high = half_at(b + 34 + 2 * block);
    int i;
    for (i = 0; i < 4; i++) {
        point8(IQ1_S_grid[b[2 + 4 * block + i] | (high >> 3 * i & 7) << 8], IQ1_S_levels, w + 8 * i);
    }
    /* The shift is up where the grid is; down it is two eighths less. */
    less(high >> 15 ? 2 : 0, w);
}
/* @section IQ1_M */

static float iq1_m_scale(datum *b)
{
    u32 bits = 0;
    int i;
    for (i = 0; i < 4; i++) {
        bits |= half_at(b + 48 + 2 * i) >> 12 << 4 * i;
    }
    return half(bits);
}

static void IQ1_M_scales(datum *b, s8 *scales, u8 *mins)
{
    int i;
    (void)mins;
    for (i = 0; i < 16; i++) {
        scales[i] = (s8)((half_at(b + 48 + i / 4 * 2) >> i % 4 * 3 & 7) * 2 + 1);
    }
}

static void IQ1_M_weights(datum *b, int block, s8 *w)
{
    u32 high = half_at(b + 32 + 2 * block);
    int i, j;
    for (i = 0; i < 4; i++) {
        point8(IQ1_M_grid[b[4 * block + i] | (high >> 4 * i & 7) << 8], IQ1_M_levels, w + 8 * i);
        for (j = 0; j < 8; j++) {
            w[8 * i + j] = (s8)(w[8 * i + j] - (high >> 4 * i & 8 ? 2 : 0));
        }
    }
}
/* @section IQ4_XS */

static void IQ4_XS_scales(datum *b, s8 *scales, u8 *mins)
{
    int i;
    (void)mins;
    for (i = 0; i < 8; i++) {
        int low = b[4 + i / 2] >> i % 2 * 4 & 15;
        one_scale(i, (low | (int)(half_at(b + 2) >> 2 * i & 3) << 4) - 32, scales);
    }
}

static void IQ4_XS_weights(datum *b, int block, s8 *w)
{
    nibbles(b + 8 + 16 * block, w);
    look_up(iq4_levels, w);
}
/* @section ones */

static void all_ones(s8 *scales)
{
    int i;
    for (i = 0; i < 16; i++) {
        scales[i] = 1;
    }
}
/* @section TQ1_0 */

static void TQ1_0_scales(datum *b, s8 *scales, u8 *mins)
{
    (void)b;
    (void)mins;
    all_ones(scales);
}

/* Digit n in base 3 of a byte that is a fraction of 256. */
static s8 digit(u8 byte, int n)
{
    static const u8 powers[5] = {1, 3, 9, 27, 81};
    return (s8)(((byte * powers[n] & 255) * 3 >> 8) - 1);
}

static void TQ1_0_weights(datum *b, int block, s8 *w)
{
    int i;
    for (i = 0; i < 32; i++) {
        if (block < 5) {
            w[i] = digit(b[i], block);
        } else if (block < 7) {
            w[i] = digit(b[32 + i % 16], 2 * (block - 5) + i / 16);
        } else {
            w[i] = i < 16 ? digit(b[32 + i], 4) : digit(b[48 + i % 4], (i - 16) / 4);
        }
    }
}
/* @section TQ2_0 */

static void TQ2_0_scales(datum *b, s8 *scales, u8 *mins)
{
    (void)b;
    (void)mins;
    all_ones(scales);
}

static void TQ2_0_weights(datum *b, int block, s8 *w)
{
    plane(b + block / 4 * 32, block % 4 * 2, 3, w);
    less(1, w);
}
/* @section Q1_0 */

static void Q1_0_scales(datum *b, s8 *scales, u8 *mins)
{
    (void)b;
    (void)mins;
    all_ones(scales);
}

static void Q1_0_weights(datum *b, int block, s8 *w)
{
    int i;
    for (i = 0; i < 32; i++) {
        w[i] = (s8)(b[2 + 4 * block + i / 8] >> i % 8 & 1 ? 1 : -1);
    }
}
/* @section Q2_0 */

static void Q2_0_scales(datum *b, s8 *scales, u8 *mins)
{
    (void)b;
    (void)mins;
    all_ones(scales);
}

static void Q2_0_weights(datum *b, int block, s8 *w)
{
    int i;
    for (i = 0; i < 32; i++) {
        w[i] = (s8)((b[2 + 8 * block + i / 4] >> i % 4 * 2 & 3) - 1);
    }
}
