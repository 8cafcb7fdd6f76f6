/* @section text */

/* Text of tokens: its bytes, one after the other, and where each begins. */
const SMIDGEN_FAR unsigned char *smidgen_text(unsigned long token, int *length)
{
    datum *at = SMIDGEN_AT(TEXT_STARTS + 4 * (u32)token);
    *length = token < N_VOCAB ? (int)(word_at(at + 4) - word_at(at)) : 0;
    return SMIDGEN_AT(TEXT_BYTES + (token < N_VOCAB ? word_at(at) : 0));
}

/* Whether a text ends with this token. */
int smidgen_is_end(unsigned long token)
{
    u32 i;
    for (i = 0; i < N_ENDS; i++) {
        if (ends[i] == token) {
            return 1;
        }
    }
    return 0;
}
/* @section encode */

/*
 * From text to tokens: the pair of neighbours that comes first in the model's order is joined, again and again. SYMBOLS are
 * the longest piece that is joined at once.
 */
static u32 symbols[MAX_TEXT];
static int symbol_bytes[MAX_TEXT];

/* Order of two texts: byte by byte, a shorter one before what it begins. */
static int compare(datum *a, int n_a, datum *b, int n_b)
{
    int i;
    for (i = 0; i < n_a && i < n_b; i++) {
        if (a[i] != b[i]) {
            return a[i] < b[i] ? -1 : 1;
        }
    }
    return n_a < n_b ? -1 : n_a > n_b;
}

/* The token whose text this is, of those that pieces may become; N_VOCAB if there is none. */
static u32 find(datum *text, int n)
{
    u32 low = 0, high = N_SORTED;
    while (low < high) {
        u32 middle = low + (high - low) / 2, token = word_at(SMIDGEN_AT(SORTED + 4 * middle));
        int length, order;
        datum *piece = smidgen_text(token, &length);
        order = compare(piece, length, text, n);
        if (order == 0) {
            return token;
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return N_VOCAB;
}

static u32 byte_token(u8 byte)
{
    return word_at(SMIDGEN_AT(BYTE_TOKENS + 4 * (u32)byte));
}
/* @section sentence_piece */

/* The place of a joined pair in the model's order, smallest first, and the token that it becomes; NO_PAIR if it is none. */
static u32 rank(datum *text, int i, u32 *token)
{
    *token = find(text, symbol_bytes[i] + symbol_bytes[i + 1]);
    return *token == N_VOCAB ? NO_PAIR : word_at(SMIDGEN_AT(RANKS + 4 * *token));
}

static int first_symbol(datum *text, int n)
{
    int length = text[0] < 0xc0 ? 1 : text[0] < 0xe0 ? 2 : text[0] < 0xf0 ? 3 : 4;
    return length < n ? length : n;
}
/* @section byte_level */

static u32 rank(datum *text, int i, u32 *token)
{
    u32 low = 0, high = N_MERGES;
    (void)text;
    while (low < high) {
        u32 middle = low + (high - low) / 2;
        datum *merge = SMIDGEN_AT(MERGES + 16 * middle);
        u32 left = word_at(merge), right = word_at(merge + 4);
        if (left == symbols[i] && right == symbols[i + 1]) {
            *token = word_at(merge + 8);
            return word_at(merge + 12);
        }
        if (left < symbols[i] || (left == symbols[i] && right < symbols[i + 1])) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NO_PAIR;
}

static int first_symbol(datum *text, int n)
{
    (void)text;
    (void)n;
    return 1;
}
/* @section join_symbols */

/* Tokens of one piece of text; how many, or -1 when it is too long or out has no room. */
static int encode_piece(datum *text, int n, unsigned long *out, int room)
{
    int count = 0, written = 0, at = 0, i, j;
    while (at < n) {
        if (count == MAX_TEXT) {
            return -1;
        }
        symbol_bytes[count] = first_symbol(text + at, n - at);
        symbols[count] = symbol_bytes[count] == 1 && BYTE_LEVEL ? byte_token(text[at]) : find(text + at, symbol_bytes[count]);
        at += symbol_bytes[count++];
    }
    for (;;) {
        u32 best = NO_PAIR, joined = 0;
        int where = 0;
        for (i = 0, at = 0; i + 1 < count; at += symbol_bytes[i++]) {
            u32 token = 0, place = rank(text + at, i, &token);
            if (place < best) {
                best = place;
                where = i;
                joined = token;
            }
        }
        if (best == NO_PAIR) {
            break;
        }
        symbols[where] = joined;
        symbol_bytes[where] += symbol_bytes[where + 1];
        for (i = where + 1, count--; i < count; i++) {
            symbols[i] = symbols[i + 1];
            symbol_bytes[i] = symbol_bytes[i + 1];
        }
    }
    for (i = 0, at = 0; i < count; at += symbol_bytes[i++]) {
        int known = symbols[i] < N_VOCAB;
        for (j = 0; j < (known ? 1 : symbol_bytes[i]); j++) {
            u32 token = known ? symbols[i] : byte_token(text[at + j]);
            /* A character without tokens for its bytes is one unknown token, and so are several in a row. */
            if (token >= N_VOCAB && written > 0 && out[written - 1] == UNKNOWN) {
                continue;
            }
            if (written == room || (token >= N_VOCAB && UNKNOWN >= N_VOCAB)) {
                return -1;
            }
            out[written++] = token < N_VOCAB ? token : UNKNOWN;
        }
    }
    return written;
}
/* @section encode_sentence_piece */

/* Tokens of a text, the one that begins a text before them; how many, or -1 when text or tokens are too many. */
int smidgen_encode(const char *text, unsigned long *out, int room)
{
    static u8 spaced[MAX_TEXT];
    int n = 0, written = 0, more;
    if (ADDS_BOS) {
        if (room < 1) {
            return -1;
        }
        out[written++] = BOS;
    }
    if (ADDS_SPACE && *text) {
        spaced[n++] = ' ';
    }
    for (; *text; text++) {
        if (n == MAX_TEXT) {
            return -1;
        }
        spaced[n++] = (u8)(*text & 255);
    }
    more = encode_piece(spaced, n, out + written, room - written);
    return more < 0 ? -1 : written + more;
}
/* @section encode_byte_level */

static int is_letter(int c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static int is_digit(int c)
{
    return c >= '0' && c <= '9';
}

static int is_space(int c)
{
    return c == ' ' || (c >= 9 && c <= 13);
}

/* How many bytes of text, which is ASCII, make the next word of GPT-2's pattern. */
static int word_bytes(const char *text)
{
    static const char endings[] = "s\0\0t\0\0re\0ve\0m\0\0ll\0d\0";
    int n = 0, i, start;
    for (i = 0; text[0] == '\'' && i < 21; i += 3) {
        if (text[1] == endings[i] && (!endings[i + 1] || text[2] == endings[i + 1])) {
            return endings[i + 1] ? 3 : 2;
        }
    }
    start = text[0] == ' ' && text[1] && !is_space(text[1]);
    n = start;
    if (is_letter(text[n])) {
        while (is_letter(text[n])) {
            n++;
        }
    } else if (is_digit(text[n])) {
        while (is_digit(text[n])) {
            n++;
        }
    } else if (!is_space(text[n])) {
        while (text[n] && !is_space(text[n]) && !is_letter(text[n]) && !is_digit(text[n])) {
            n++;
        }
    } else {
        while (is_space(text[n])) {
            n++;
        }
        /* The last space belongs to the word after it. */
        n -= text[n] && n > 1;
    }
    return n;
}

/* Where the piece at a place ends: each digit is one, where the model wants that, and what lies between two. */
static int piece_end(const char *text, int at)
{
    if (SINGLE_DIGITS && is_digit(text[at])) {
        return at + 1;
    }
    while (text[at] && !(SINGLE_DIGITS && is_digit(text[at]))) {
        at++;
    }
    return at;
}

/* Tokens of a text of ASCII; how many, or -1 when it is none, or when text or tokens are too many. */
int smidgen_encode(const char *text, unsigned long *out, int room)
{
    static char spaced[MAX_TEXT + 1];
    int n = 0, written = 0, at, end, more;
    if (ADDS_BOS) {
        if (room < 1) {
            return -1;
        }
        out[written++] = BOS;
    }
    if (ADDS_SPACE && *text != ' ') {
        spaced[n++] = ' ';
    }
    for (; *text; text++) {
        if (n == MAX_TEXT || *text < 1 || *text > 126) {
            return -1;
        }
        spaced[n++] = *text;
    }
    spaced[n] = 0;
    for (at = 0; at < n; at = end) {
        char after;
        end = piece_end(spaced, at);
        /* What follows a piece is nothing to the pattern. */
        after = spaced[end];
        spaced[end] = 0;
        for (; at < end; at += more) {
            int joined;
            more = word_bytes(spaced + at);
            joined = encode_piece((datum *)spaced + at, more, out + written, room - written);
            if (joined < 0) {
                return -1;
            }
            written += joined;
        }
        spaced[end] = after;
    }
    return written;
}
/* @section story */

static u32 hash_high, hash_low;

/* FNV-1a of 64 bits: the prime is 2^40 + 0x1b3. */
static void hash_byte(u32 byte)
{
    u32 low = hash_low ^ byte, a = (low & 0xffff) * 0x1b3, b = (low >> 16) * 0x1b3 + (a >> 16);
    hash_high = (hash_high * 0x1b3 + (b >> 16) + (low << 8)) & 0xffffffffUL;
    hash_low = ((b & 0xffff) << 16 | (a & 0xffff)) & 0xffffffffUL;
}

static void hash_logits(void)
{
    u32 i, bits;
    for (i = 0; i < N_VOCAB; i++) {
        bits = bits_of(smidgen_logits[i]);
        hash_byte(bits & 255);
        hash_byte(bits >> 8 & 255);
        hash_byte(bits >> 16 & 255);
        hash_byte(bits >> 24);
    }
}

static void put_number(u32 number, u32 base, int digits, void (*put)(const SMIDGEN_FAR char *, int))
{
    char text[12];
    int n = 12;
    do {
        text[--n] = "0123456789abcdef"[number % base];
        number /= base;
    } while (number || 12 - n < digits);
    put(text + n, 12 - n);
}

#if HAS_TEXT
static int is_first;

static void show(unsigned long token, void (*put)(const SMIDGEN_FAR char *, int))
{
    int length;
    datum *text = smidgen_text(token, &length);
    if (ADDS_SPACE && is_first && length > 0 && *text == ' ') {
        text++;
        length--;
    }
    is_first = is_first && length <= 0;
    put((const SMIDGEN_FAR char *)text, length);
}
#else
static int is_first;

static void show(unsigned long token, void (*put)(const SMIDGEN_FAR char *, int))
{
    put(" ", is_first ? 0 : 1);
    put_number((u32)token, 10, 1, put);
    is_first = 0;
}

int smidgen_is_end(unsigned long token)
{
    (void)token;
    return 0;
}
#endif

/*
 * Tells a story of the tokens in ids, n_prompt of them, and of as many more as n_new or the context allows; what begins with
 * [smidgen] is the proof: a hash over every bit of every logit. Of a model without texts the numbers of the tokens are
 * shown. Less than 0 when a token is unknown.
 */
int smidgen_tell(const unsigned long *ids, int n_prompt, int n_new, void (*put)(const SMIDGEN_FAR char *, int))
{
    unsigned long token = 0;
    int i;
    is_first = 1;
    hash_high = 0xcbf29ce4UL;
    hash_low = 0x84222325UL;
    smidgen_restart();
    for (i = 0; i < n_prompt || (i - n_prompt < n_new && position < CONTEXT && !smidgen_is_end(token)); i++) {
        token = i < n_prompt ? ids[i] : token;
        show(token, put);
        if (smidgen_forward(token) < 0) {
            return -1;
        }
        hash_logits();
        token = smidgen_likeliest();
    }
    put("\n[smidgen] tokens ", 18);
    put_number((u32)n_prompt, 10, 1, put);
    put(" + ", 3);
    put_number((u32)(i - n_prompt), 10, 1, put);
    put(", logits ", 9);
    put_number(hash_high, 16, 8, put);
    put_number(hash_low, 16, 8, put);
    put("\n", 1);
    return i;
}
/* @section main */

#ifdef SMIDGEN_MAIN
#include <stdio.h>

static void put(const SMIDGEN_FAR char *text, int length)
{
    fwrite(text, 1, (size_t)length, stdout);
    fflush(stdout);
}

/* With -DSMIDGEN_MAIN: a program that continues its first argument, or else the prompt that was exported with the model. */
int main(int argc, char **argv)
{
    static unsigned long ids[CONTEXT];
    int n = (int)(sizeof smidgen_prompt / sizeof smidgen_prompt[0]), i;
    for (i = 0; i < n && i < CONTEXT; i++) {
        ids[i] = smidgen_prompt[i];
    }
#if CAN_ENCODE
    if (argc > 1) {
        n = smidgen_encode(argv[1], ids, CONTEXT);
    }
#else
    (void)argv;
    n = argc > 1 ? -1 : n;
#endif
    if (n < 1) {
        fprintf(stderr, "the prompt is empty, too long for a context of %d, or not one that this program can read\n", CONTEXT);
        return 2;
    }
    return smidgen_tell(ids, n, N_NEW, put) < 0;
}
#endif
