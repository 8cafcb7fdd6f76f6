/*
 * The calls that story.c makes of the File Manager and the Memory Manager, over stdio, so that its logic runs where there is no Toolbox.
 * They are as strict as Inside Macintosh has them: Create makes no file that is there, FSOpen opens none that is not, FSRead says when
 * a file is at its end, and there is no memory before MaxApplZone and none beyond what story.r asks for.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#undef NULL
#include "Files.h"

#define MOCK_FILES 4
#define HEAP_BYTES (3L * 1024 * 1024)

/* Errors of the File Manager: a name that is taken, no such file, the end of one, too many open, a reference to none. */
#define dupFNErr -48
#define fnfErr -43
#define eofErr -39
#define tmfoErr -42
#define rfNumErr -51

static FILE *files[MOCK_FILES];
static long heap_left;

/* A name with its length before it, as C has it. */
static const char *c_name(ConstStr255Param name)
{
    static char text[256];
    memcpy(text, name + 1, name[0]);
    text[name[0]] = 0;
    return text;
}

static FILE *open_file(short file)
{
    return file > 0 && file <= MOCK_FILES ? files[file - 1] : NULL;
}

OSErr FSOpen(ConstStr255Param name, short volume, short *file)
{
    short at = 0;
    (void)volume;
    while (at < MOCK_FILES && files[at] != NULL) {
        at++;
    }
    if (at == MOCK_FILES) {
        return tmfoErr;
    }
    files[at] = fopen(c_name(name), "r+b");
    *file = (short)(at + 1);
    return files[at] == NULL ? fnfErr : noErr;
}

OSErr FSClose(short file)
{
    if (open_file(file) == NULL) {
        return rfNumErr;
    }
    fclose(files[file - 1]);
    files[file - 1] = NULL;
    return noErr;
}

OSErr FSRead(short file, long *length, void *to)
{
    long asked = *length;
    if (open_file(file) == NULL) {
        return rfNumErr;
    }
    *length = (long)fread(to, 1, (size_t)asked, files[file - 1]);
    return *length < asked ? eofErr : noErr;
}

OSErr FSWrite(short file, long *length, const void *from)
{
    if (open_file(file) == NULL) {
        return rfNumErr;
    }
    *length = (long)fwrite(from, 1, (size_t)*length, files[file - 1]);
    return noErr;
}

OSErr FSDelete(ConstStr255Param name, short volume)
{
    (void)volume;
    return remove(c_name(name)) == 0 ? noErr : fnfErr;
}

OSErr GetEOF(short file, long *length)
{
    long at;
    if (open_file(file) == NULL) {
        return rfNumErr;
    }
    at = ftell(files[file - 1]);
    fseek(files[file - 1], 0, SEEK_END);
    *length = ftell(files[file - 1]);
    fseek(files[file - 1], at, SEEK_SET);
    return noErr;
}

OSErr Create(ConstStr255Param name, short volume, unsigned long creator, unsigned long type)
{
    FILE *file = fopen(c_name(name), "rb");
    (void)volume;
    (void)creator;
    (void)type;
    if (file == NULL) {
        file = fopen(c_name(name), "wb");
        return file != NULL && fclose(file) == 0 ? noErr : fnfErr;
    }
    fclose(file);
    return dupFNErr;
}

Ptr NewPtr(long bytes)
{
    if (bytes < 0 || bytes > heap_left) {
        return NULL;
    }
    heap_left -= bytes;
    return malloc((size_t)bytes);
}

void MaxApplZone(void)
{
    heap_left = HEAP_BYTES;
}
