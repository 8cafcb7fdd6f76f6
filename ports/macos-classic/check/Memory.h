/* Declarations of the calls that story.c makes, to compile it where there are no Toolbox headers; nothing links against this. */
#ifndef CHECK_MEMORY_H
#define CHECK_MEMORY_H
#define NULL ((void *)0)
typedef char *Ptr;
Ptr NewPtr(long bytes);
void MaxApplZone(void);
#endif
