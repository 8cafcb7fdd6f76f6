/*
 * Random numbers for programs in Rust under Wine 8, which lacks this library; Windows itself has had it since version 7. Only the tests put
 * it beside smidgen.exe:
 *
 *     x86_64-w64-mingw32-gcc -shared bcryptprimitives.c -o bcryptprimitives.dll -ladvapi32
 */
#include <windows.h>

/* RtlGenRandom, by the only name that advapi32 exports it under. */
BOOLEAN WINAPI SystemFunction036(void *to, ULONG n_bytes);

__declspec(dllexport) BOOL WINAPI ProcessPrng(BYTE *to, SIZE_T n_bytes)
{
    return n_bytes <= 0xffffffffu && SystemFunction036(to, (ULONG)n_bytes);
}
