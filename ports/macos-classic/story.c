/*
 * An exported model as a program for Mac OS 7 to 9: it reads prompt.txt beside it, continues it with the model in model.bin, and writes
 * output.txt. For Retro68 (see README.md); the Toolbox calls are those of Inside Macintosh: Files and Memory.
 */
#include "model.c"

#include <Files.h>
#include <Memory.h>

/* Names as the Toolbox has them, their length before them. */
#define MODEL ((ConstStr255Param) "\011model.bin")
#define PROMPT ((ConstStr255Param) "\012prompt.txt")
#define OUTPUT ((ConstStr255Param) "\012output.txt")
/* 'ttxt' and 'TEXT': a document of TeachText. */
#define TEACH_TEXT 0x74747874UL
#define TEXT_FILE 0x54455854UL
/* Bytes of output that are kept before they are written. */
#define OUTPUT_BYTES 512

static short output_file;
static char output_buffer[OUTPUT_BYTES];
static long output_length;

/* The whole of a file beside the program in a block of its own, with a zero behind it; its length, or -1. */
static long read_file(ConstStr255Param name, Ptr *block)
{
    short file;
    long length;
    if (FSOpen(name, 0, &file) != noErr) {
        return -1;
    }
    if (GetEOF(file, &length) != noErr) {
        length = -1;
    }
    *block = length < 0 ? NULL : NewPtr(length + 1);
    if (*block == NULL || FSRead(file, &length, *block) != noErr) {
        length = -1;
    } else {
        (*block)[length] = 0;
    }
    FSClose(file);
    return length;
}

static void flush(void)
{
    if (output_length > 0) {
        FSWrite(output_file, &output_length, output_buffer);
    }
    output_length = 0;
}

/* Text as Mac OS has it: lines end with a carriage return. */
static void put_text(const char *text, int length)
{
    while (length-- > 0) {
        char letter = *text++;
        if (output_length == OUTPUT_BYTES) {
            flush();
        }
        output_buffer[output_length++] = (char)(letter == '\n' ? '\r' : letter);
    }
}

static int say(const char *text, int length)
{
    put_text(text, length);
    return 1;
}

/* 0 when the story is told. */
static int tell(void)
{
    static unsigned long ids[CONTEXT];
    Ptr data = NULL, prompt = NULL;
    long length = read_file(MODEL, &data);
    int n;
    if (length < 0) {
        return say("model.bin is not beside this program, or memory is too small: Get Info gives it more\n", 85);
    }
    smidgen_data = (const unsigned char *)data;
    length = read_file(PROMPT, &prompt);
    if (length < 0) {
        return say("prompt.txt is not beside this program\n", 38);
    }
    while (length > 0 && (prompt[length - 1] == '\r' || prompt[length - 1] == '\n')) {
        prompt[--length] = 0;
    }
    n = smidgen_encode(prompt, ids, CONTEXT);
    if (n < 1) {
        return say("prompt.txt is empty, or longer than this program takes\n", 55);
    }
    return smidgen_tell(ids, n, N_NEW, put_text) < 0;
}

int main(void)
{
    MaxApplZone();
    FSDelete(OUTPUT, 0);
    if (Create(OUTPUT, 0, TEACH_TEXT, TEXT_FILE) != noErr || FSOpen(OUTPUT, 0, &output_file) != noErr) {
        return 1;
    }
    tell();
    flush();
    FSClose(output_file);
    return 0;
}
