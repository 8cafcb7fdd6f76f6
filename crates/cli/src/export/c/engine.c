/* @section engine */

/* The forward pass: one token at a time, every buffer of a size that was planned. */

struct matrix {
    u32 at;
    u8 type;
};

struct layer {
    struct matrix query, key, value, output, gate, up, down;
    /* Where vectors lie in the data; 0 for one that is not there. */
    u32 query_bias, key_bias, value_bias, output_bias, gate_bias, up_bias, down_bias;
    u32 attention_norm, attention_norm_bias, query_norm, key_norm, post_attention_norm;
    u32 feed_forward_norm, feed_forward_norm_bias, post_feed_forward_norm;
    /* How many positions it sees; 0 for all. */
    u32 window;
};

@TABLES@
static float hidden[HIDDEN];
static float normed[NORMED];
static float work[WORK];
static float scores[CONTEXT];
@STATICS@
float smidgen_logits[N_VOCAB];
static u32 position;

static float value_at(u32 at, int i)
{
    return float_of(word_at(SMIDGEN_AT(at + 4 * (u32)i)));
}

/* One row of a matrix as floats. */
static void read_row(const struct matrix *m, u32 row, int columns, float *out)
{
    datum *b = SMIDGEN_AT(m->at + row * row_bytes(m->type, columns));
    switch (m->type) {
@ROW_CASES@    default:
        break;
    }
}

/* out = m x + bias; x is quantized already where the matrix wants integers. */
static void product(const struct matrix *m, u32 bias, const float *x, int columns, float *out, int rows)
{
    datum *b = SMIDGEN_AT(m->at);
    u32 step = row_bytes(m->type, columns);
    int row;
    for (row = 0; row < rows; row++, b += step) {
        float r = 0.0f;
        switch (m->type) {
@DOT_CASES@        default:
            break;
        }
        out[row] = bias ? add(r, value_at(bias, row)) : r;
    }
    (void)x;
}

static void scale_row(float *x, int n, u32 weight)
{
    float mean_square = quotient(dot(x, x, n), whole(n));
    float scale = quotient(1.0f, root(add(mean_square, float_of(NORM_EPSILON))));
    int i;
    for (i = 0; i < n; i++) {
        x[i] = mul(mul(x[i], scale), value_at(weight, i));
    }
}

static void norm(const float *x, u32 weight, u32 bias, float *out)
{
    int i;
#if LAYER_NORM
    float mean = quotient(sum(x, N_EMBD), whole(N_EMBD));
    for (i = 0; i < N_EMBD; i++) {
        out[i] = sub(x[i], mean);
    }
#else
    for (i = 0; i < N_EMBD; i++) {
        out[i] = x[i];
    }
#endif
    scale_row(out, N_EMBD, weight);
    for (i = 0; i < N_EMBD && bias; i++) {
        out[i] = add(out[i], value_at(bias, i));
    }
}

/* hidden += normed, normalised itself in some families. */
static void add_normed(u32 weight)
{
    int i;
    if (weight) {
        scale_row(normed, N_EMBD, weight);
    }
    for (i = 0; i < N_EMBD; i++) {
        hidden[i] = add(hidden[i], normed[i]);
    }
}
/* @section rope */

/* Cosine and sine of each frequency at this position, first those of full layers and then those of windowed ones. */
static float angles[2 * N_ROT];

/* Sine and cosine of turn / 2^32 full turns: the nearest eighth decides the quadrant, the rest goes through Cephes' polynomials. */
static void sine_and_cosine(u32 turn, float *out)
{
    static const float c[] = {1.462918e-9f, -1.9515296e-4f, 8.332161e-3f, -1.6666655e-1f,
                              2.4433157e-5f, -1.3887316e-3f, 4.1666646e-2f};
    u32 quadrant = ((turn + 0x20000000UL) & 0xffffffffUL) >> 30;
    u32 rest = (turn - (quadrant << 30)) & 0xffffffffUL;
    float x, z, sine, cosine;
    /* Rounded to 24 bits, so that it is a float exactly. */
    rest = (rest + 32) & 0xffffffc0UL;
    x = rest & 0x80000000UL ? -whole((s32)(0x3ffffffUL & (0x4000000UL - (rest >> 6)))) : whole((s32)(rest >> 6));
    x = mul(mul(x, 64.0f), c[0]);
    z = mul(x, x);
    sine = add(mul(mul(add(mul(add(mul(c[1], z), c[2]), z), c[3]), z), x), x);
    cosine = add(mul(add(mul(c[4], z), c[5]), z), c[6]);
    cosine = add(sub(mul(mul(cosine, z), z), mul(0.5f, z)), 1.0f);
    out[0] = quadrant == 0 ? cosine : quadrant == 1 ? -sine : quadrant == 2 ? -cosine : sine;
    out[1] = quadrant == 0 ? sine : quadrant == 1 ? cosine : quadrant == 2 ? -sine : -cosine;
}

/* The upper 32 bits of frequency times position, of which turns that are full fall off. */
static u32 turned(const u32 *frequency)
{
    u32 low = frequency[1], at = position;
    u32 a = (low & 0xffff) * (at & 0xffff), b = (low >> 16) * (at & 0xffff), c = (low & 0xffff) * (at >> 16);
    u32 middle, high;
    a &= 0xffffffffUL;
    b &= 0xffffffffUL;
    middle = (b + (a >> 16)) & 0xffffffffUL;
    high = middle < b ? 0x10000UL : 0;
    c &= 0xffffffffUL;
    high += middle >> 16;
    middle = (middle & 0xffff) + (c & 0xffff);
    high += (c >> 16) + (middle >> 16) + (low >> 16) * (at >> 16);
    return (high + frequency[0] * at) & 0xffffffffUL;
}

static void find_angles(void)
{
    int i;
    for (i = 0; i < N_ROT; i++) {
        sine_and_cosine(turned(frequencies[i]), angles + 2 * i);
        angles[2 * i] = mul(angles[2 * i], float_of(ROPE_MAGNITUDE));
        angles[2 * i + 1] = mul(angles[2 * i + 1], float_of(ROPE_MAGNITUDE));
    }
}

static void turn(float *heads, int n_heads, const float *by)
{
    int head, i;
    for (head = 0; head < n_heads; head++, heads += HEAD_DIM) {
        for (i = 0; i < N_ROT / 2; i++) {
            float *a = heads + i * ROPE_STEP, *b = a + ROPE_GAP;
            float cosine = by[2 * i], sine = by[2 * i + 1], x = *a, y = *b;
            *a = sub(mul(x, cosine), mul(y, sine));
            *b = add(mul(x, sine), mul(y, cosine));
        }
    }
}
/* @section spread */

/*
 * The Walsh-Hadamard transform of heads, for keys of four bits, in parts of the largest power of two that divides their width: it
 * spreads what is large in one place. Queries are transformed too, so that products stay.
 */
static void spread(float *x, int n)
{
    int half, first, i;
    for (; n > 0; n -= SPREAD, x += SPREAD) {
        for (half = 1; half < SPREAD; half *= 2) {
            for (first = 0; first < SPREAD; first += 2 * half) {
                for (i = first; i < first + half; i++) {
                    float a = x[i], b = x[i + half];
                    x[i] = add(a, b);
                    x[i + half] = sub(a, b);
                }
            }
        }
    }
}
/* @section layers */

static u8 *row_of(u8 *cache, u32 row_size, u32 layer, u32 head, u32 at)
{
    return cache + ((layer * N_KV_HEADS + head) * CONTEXT + at) * row_size;
}

/* What one head sees, its weights summing to one. */
static void attend(u32 layer, u32 head, u32 window, const float *query, float *out)
{
    u32 kv_head = head / (N_HEADS / N_KV_HEADS), end = position + 1, start = window && end > window ? end - window : 0, at;
    int n = (int)(end - start), i;
    float largest, inverse;
    for (at = start; at < end; at++) {
        const u8 *key = row_of(keys, KEY_BYTES, layer, kv_head, at);
        float lanes[16];
        for (i = 0; i < 16; i++) {
            lanes[i] = 0.0f;
        }
        for (i = 0; i < HEAD_DIM; i++) {
            lanes[i & 15] = add(lanes[i & 15], mul(query[i], K_load(key, i)));
        }
        scores[at - start] = mul(tree(lanes), float_of(ATTENTION_SCALE));
    }
    largest = scores[0];
    for (i = 1; i < n; i++) {
        largest = scores[i] > largest ? scores[i] : largest;
    }
    for (i = 0; i < n; i++) {
        scores[i] = power_of_e(sub(scores[i], largest));
    }
    inverse = quotient(1.0f, sum(scores, n));
    for (i = 0; i < n; i++) {
        scores[i] = mul(scores[i], inverse);
    }
    for (i = 0; i < HEAD_DIM; i++) {
        out[i] = 0.0f;
    }
    for (at = start; at < end; at++) {
        const u8 *value = row_of(values, VALUE_BYTES, layer, kv_head, at);
        for (i = 0; i < HEAD_DIM; i++) {
            out[i] = add(out[i], mul(scores[at - start], V_load(value, i)));
        }
    }
}

static void attention(u32 index, const struct layer *l)
{
    float *query = work, *key = query + QUERY, *value = key + KV, *mixed = value + KV;
    u32 head;
    norm(hidden, l->attention_norm, l->attention_norm_bias, normed);
    QUANTIZE(normed, N_EMBD);
    product(&l->query, l->query_bias, normed, N_EMBD, query, QUERY);
    product(&l->key, l->key_bias, normed, N_EMBD, key, KV);
    product(&l->value, l->value_bias, normed, N_EMBD, value, KV);
    for (head = 0; head < N_HEADS && l->query_norm; head++) {
        scale_row(query + head * HEAD_DIM, HEAD_DIM, l->query_norm);
    }
    for (head = 0; head < N_KV_HEADS && l->key_norm; head++) {
        scale_row(key + head * HEAD_DIM, HEAD_DIM, l->key_norm);
    }
#if N_ROT
    turn(query, N_HEADS, angles + (l->window ? N_ROT : 0));
    turn(key, N_KV_HEADS, angles + (l->window ? N_ROT : 0));
#endif
#if SPREAD
    spread(query, QUERY);
    spread(key, KV);
    for (head = 0; head < KV; head++) {
        key[head] = mul(key[head], quotient(1.0f, whole(SPREAD)));
    }
#endif
    for (head = 0; head < N_KV_HEADS; head++) {
        K_store(row_of(keys, KEY_BYTES, index, head, position), key + head * HEAD_DIM);
        V_store(row_of(values, VALUE_BYTES, index, head, position), value + head * HEAD_DIM);
    }
    for (head = 0; head < N_HEADS; head++) {
        attend(index, head, l->window, query + head * HEAD_DIM, mixed + head * HEAD_DIM);
    }
    QUANTIZE(mixed, QUERY);
    product(&l->output, l->output_bias, mixed, QUERY, normed, N_EMBD);
    add_normed(l->post_attention_norm);
}

/* x times the logistic function: of x itself, or for GELU of a polynomial of it. */
static float activated(float x)
{
#if GELU
    static const float c[] = {0.7978846f, 0.044715f};
    float u = mul(c[0], add(x, mul(mul(mul(c[1], x), x), x)));
    return quotient(x, add(1.0f, power_of_e(mul(-2.0f, u))));
#else
    return quotient(x, add(1.0f, power_of_e(-x)));
#endif
}

static void feed_forward(const struct layer *l)
{
    float *gate = work, *up = work + N_FF;
    int i;
    norm(hidden, l->feed_forward_norm, l->feed_forward_norm_bias, normed);
    QUANTIZE(normed, N_EMBD);
    product(&l->up, l->up_bias, normed, N_EMBD, up, N_FF);
#if GATED
    product(&l->gate, l->gate_bias, normed, N_EMBD, gate, N_FF);
    for (i = 0; i < N_FF; i++) {
        gate[i] = mul(activated(gate[i]), up[i]);
    }
#else
    for (i = 0; i < N_FF; i++) {
        gate[i] = activated(up[i]);
    }
#endif
    QUANTIZE(gate, N_FF);
    product(&l->down, l->down_bias, gate, N_FF, normed, N_EMBD);
    add_normed(l->post_feed_forward_norm);
}

/* Runs one token at the next position; its logits are in smidgen_logits. 0, or -1 for a token or a position that there is not. */
int smidgen_forward(unsigned long token)
{
    u32 index;
    if (token >= N_VOCAB || position >= CONTEXT) {
        return -1;
    }
    read_row(&embedding, (u32)token, N_EMBD, hidden);
#if SCALED_EMBEDDINGS
    for (index = 0; index < N_EMBD; index++) {
        hidden[index] = mul(hidden[index], root(whole(N_EMBD)));
    }
#endif
#if N_ROT
    find_angles();
#else
    read_row(&positions, position, N_EMBD, normed);
    for (index = 0; index < N_EMBD; index++) {
        hidden[index] = add(hidden[index], normed[index]);
    }
#endif
    for (index = 0; index < N_LAYERS; index++) {
        attention(index, &layers[index]);
        feed_forward(&layers[index]);
    }
    norm(hidden, output_norm, output_norm_bias, normed);
    QUANTIZE(normed, N_EMBD);
    product(&output, 0, normed, N_EMBD, smidgen_logits, N_VOCAB);
    position++;
    return 0;
}

/* Forgets every position. */
void smidgen_restart(void)
{
    position = 0;
}

/* The token with the largest logit, the first of several. */
unsigned long smidgen_likeliest(void)
{
    u32 best = 0, i;
    for (i = 1; i < N_VOCAB; i++) {
        best = smidgen_logits[i] > smidgen_logits[best] ? i : best;
    }
    return best;
}
