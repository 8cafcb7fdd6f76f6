/* Tells a story with libsmidgen: story MODEL PROMPT N. Everything it uses is what malloc gives it here. */
#include "../include/smidgen.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The whole of a file; its length goes to n_bytes. */
static uint8_t *read_file(const char *name, size_t *n_bytes)
{
    FILE *file = fopen(name, "rb");
    uint8_t *bytes = NULL;
    long length;
    if (file == NULL) {
        return NULL;
    }
    if (fseek(file, 0, SEEK_END) == 0 && (length = ftell(file)) > 0 && fseek(file, 0, SEEK_SET) == 0) {
        bytes = malloc((size_t)length);
        *n_bytes = bytes == NULL ? 0 : fread(bytes, 1, (size_t)length, file);
    }
    fclose(file);
    return bytes;
}

static int check(smidgen_status status)
{
    if (status != SMIDGEN_STATUS_DONE) {
        fprintf(stderr, "%s\n", smidgen_message(status));
    }
    return status == SMIDGEN_STATUS_DONE;
}

static uint64_t hash = 0xcbf29ce484222325u;

/* FNV-1a over the bits of the logits, the least significant byte of each first. */
static void add_logits(const float *logits, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &logits[i], sizeof bits);
        for (int byte = 0; byte < 4; byte++) {
            hash = (hash ^ (bits >> (8 * byte) & 255)) * 0x100000001b3u;
        }
    }
}

static int tell(smidgen_session *session, const char *prompt, size_t n_new)
{
    uint32_t ids[64], token = 0;
    char text[256];
    size_t n_ids = 0, n_bytes, i;
    const float *logits;
    if (!check(smidgen_encode(session, (const uint8_t *)prompt, strlen(prompt), 1, ids, 64, &n_ids))) {
        return 1;
    }
    for (i = 0; i < n_ids + n_new && (i < n_ids || !smidgen_is_end(session, token)); i++) {
        token = i < n_ids ? ids[i] : token;
        if (!check(smidgen_decode(session, token, (uint8_t *)text, sizeof text, &n_bytes))
            || !check(smidgen_forward(session, &token, 1, &logits))) {
            return 1;
        }
        fwrite(text, 1, n_bytes, stdout);
        add_logits(logits, smidgen_n_vocab(session));
        token = smidgen_sample(session);
    }
    printf("\n[smidgen] tokens %zu + %zu, logits %016" PRIx64 "\n", n_ids, i - n_ids, hash);
    return 0;
}

/* Whether the spans of a session are its memory: what a program that shows a plan would list. */
static int sums_to(const uint8_t *model, size_t model_bytes, const smidgen_limits *limits, size_t memory_bytes)
{
    smidgen_span spans[32];
    size_t n_spans = 0, sum = 0, i;
    if (!check(smidgen_spans(model, model_bytes, limits, spans, 32, &n_spans)) || n_spans > 32) {
        return 0;
    }
    for (i = 0; i < n_spans; i++) {
        sum += spans[i].bytes;
    }
    return sum == memory_bytes;
}

int main(int argc, char **argv)
{
    smidgen_limits limits = {.context_tokens = 64, .batch_tokens = 1, .text_bytes = 256, .candidates = 40, .cache = 0};
    smidgen_session *session = NULL;
    size_t model_bytes = 0, memory_bytes = 0;
    uint8_t *model, *memory = NULL;
    int status = 1;
    if (argc != 4) {
        fprintf(stderr, "usage: story MODEL PROMPT N\n");
        return 2;
    }
    model = read_file(argv[1], &model_bytes);
    if (model == NULL) {
        fprintf(stderr, "%s: cannot be read\n", argv[1]);
        return 2;
    }
    if (check(smidgen_memory_bytes(model, model_bytes, &limits, &memory_bytes))
        && sums_to(model, model_bytes, &limits, memory_bytes)) {
        memory = malloc(memory_bytes);
        if (memory != NULL && check(smidgen_open(model, model_bytes, &limits, memory, memory_bytes, &session))) {
            status = tell(session, argv[2], strtoul(argv[3], NULL, 10));
        }
    }
    free(memory);
    free(model);
    return status;
}
