/* Declarations of the calls that story.c makes, to compile it where there are no Toolbox headers; nothing links against this. */
#ifndef CHECK_FILES_H
#define CHECK_FILES_H
#include "Memory.h"
#define noErr 0
typedef const unsigned char *ConstStr255Param;
typedef short OSErr;
OSErr FSOpen(ConstStr255Param name, short volume, short *file);
OSErr FSClose(short file);
OSErr FSRead(short file, long *length, void *to);
OSErr FSWrite(short file, long *length, const void *from);
OSErr FSDelete(ConstStr255Param name, short volume);
OSErr GetEOF(short file, long *length);
OSErr Create(ConstStr255Param name, short volume, unsigned long creator, unsigned long type);
#endif
