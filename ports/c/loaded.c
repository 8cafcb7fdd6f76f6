/*
 * An exported model whose data is a file that is read at run time. `loaded model.bin` tells a story of the prompt that was exported;
 * with texts behind the file it prints the tokens of each text in a line of their own, or that it refuses it.
 *
 * Compile it with -DSMIDGEN_DATA_POINTER.
 */
#include "model.c"

#include <stdio.h>
#include <stdlib.h>

/* The whole of a file, or NULL. */
static unsigned char *contents(const char *path)
{
    FILE *file = fopen(path, "rb");
    unsigned char *bytes = NULL;
    long length;
    if (file == NULL) {
        return NULL;
    }
    if (fseek(file, 0, SEEK_END) == 0 && (length = ftell(file)) > 0 && fseek(file, 0, SEEK_SET) == 0) {
        bytes = malloc((size_t)length);
    }
    if (bytes != NULL && fread(bytes, 1, (size_t)length, file) != (size_t)length) {
        free(bytes);
        bytes = NULL;
    }
    fclose(file);
    return bytes;
}

static void put_text(const char *text, int length)
{
    fwrite(text, 1, (size_t)length, stdout);
}

#if CAN_ENCODE
static void put_tokens(const char *text)
{
    static unsigned long ids[CONTEXT];
    int n = smidgen_encode(text, ids, CONTEXT), i;
    for (i = 0; i < n; i++) {
        printf(i == 0 ? "%lu" : " %lu", ids[i]);
    }
    puts(n < 0 ? "refused" : "");
}
#endif

int main(int argc, char **argv)
{
    int n = (int)(sizeof smidgen_prompt / sizeof smidgen_prompt[0]);
    smidgen_data = argc > 1 ? contents(argv[1]) : NULL;
    if (smidgen_data == NULL) {
        fprintf(stderr, "usage: loaded model.bin [TEXT...]\n");
        return 2;
    }
    if (argc == 2) {
        return smidgen_tell(smidgen_prompt, n, N_NEW, put_text) < 0;
    }
#if CAN_ENCODE
    for (n = 2; n < argc; n++) {
        put_tokens(argv[n]);
    }
#endif
    return 0;
}
