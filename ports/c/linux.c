/*
 * An exported model as a Linux process without a C library, for the instruction sets that QEMU's user mode runs: two system calls, and
 * where the kernel enters. The conventions are those of man 2 syscall.
 *
 * Compile it with model.c and model_data.c or with data.S, which takes in model.bin: -ffreestanding -nostdlib.
 */
#include "model.c"

#if defined(__x86_64__)
#define NR_WRITE 1
#define NR_EXIT 60
static long call(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}
__asm__(".globl _start\n_start: andq $-16, %rsp\ncall begin\n");
#elif defined(__i386__)
#define NR_WRITE 4
#define NR_EXIT 1
static long call(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}
__asm__(".globl _start\n_start: andl $-16, %esp\ncall begin\n");
#elif defined(__aarch64__)
#define NR_WRITE 64
#define NR_EXIT 93
static long call(long number, long a, long b, long c)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
}
__asm__(".globl _start\n_start: bl begin\n");
#elif defined(__arm__)
#define NR_WRITE 4
#define NR_EXIT 1
static long call(long number, long a, long b, long c)
{
    register long r7 __asm__("r7") = number;
    register long r0 __asm__("r0") = a;
    register long r1 __asm__("r1") = b;
    register long r2 __asm__("r2") = c;
    __asm__ volatile("svc #0" : "+r"(r0) : "r"(r7), "r"(r1), "r"(r2) : "memory");
    return r0;
}
__asm__(".globl _start\n_start: bic r0, sp, #15\nmov sp, r0\nbl begin\n");
#elif defined(__powerpc__)
#define NR_WRITE 4
#define NR_EXIT 1
static long call(long number, long a, long b, long c)
{
    register long r0 __asm__("r0") = number;
    register long r3 __asm__("r3") = a;
    register long r4 __asm__("r4") = b;
    register long r5 __asm__("r5") = c;
    __asm__ volatile("sc" : "+r"(r3), "+r"(r0), "+r"(r4), "+r"(r5) : : "memory", "cr0", "ctr", "r6", "r7", "r8", "r9", "r10", "r11", "r12");
    return r3;
}
__asm__(".globl _start\n_start: rlwinm 1,1,0,0,27\nli 0,0\nstwu 0,-64(1)\nbl begin\n");
#elif defined(__mips__)
#define NR_WRITE 4004
#define NR_EXIT 4001
static long call(long number, long a, long b, long c)
{
    register long v0 __asm__("$2") = number;
    register long a0 __asm__("$4") = a;
    register long a1 __asm__("$5") = b;
    register long a2 __asm__("$6") = c;
    register long a3 __asm__("$7") = 0;
    __asm__ volatile("syscall" : "+r"(v0), "+r"(a3) : "r"(a0), "r"(a1), "r"(a2) : "memory", "$8", "$9", "$10", "$11", "$12", "$13", "$14", "$15", "$24", "$25");
    return v0;
}
__asm__(".globl _start\n_start: addiu $sp, $sp, -64\njal begin\nnop\n");
#elif defined(__s390x__)
#define NR_WRITE 4
#define NR_EXIT 1
static long call(long number, long a, long b, long c)
{
    register long r1 __asm__("r1") = number;
    register long r2 __asm__("r2") = a;
    register long r3 __asm__("r3") = b;
    register long r4 __asm__("r4") = c;
    __asm__ volatile("svc 0" : "+d"(r2) : "d"(r1), "d"(r3), "d"(r4) : "memory");
    return r2;
}
__asm__(".globl _start\n_start: aghi %r15, -320\nbrasl %r14, begin\n");
#elif defined(__riscv)
#define NR_WRITE 64
#define NR_EXIT 93
static long call(long number, long a, long b, long c)
{
    register long a7 __asm__("a7") = number;
    register long a0 __asm__("a0") = a;
    register long a1 __asm__("a1") = b;
    register long a2 __asm__("a2") = c;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2) : "memory");
    return a0;
}
__asm__(".globl _start\n_start: andi sp, sp, -16\ncall begin\n");
#endif

/* Compilers call these where they like. */
void *memset(void *to, int value, unsigned long n);
void *memcpy(void *to, const void *from, unsigned long n);

void *memset(void *to, int value, unsigned long n)
{
    volatile char *at = to;
    while (n-- > 0) {
        *at++ = (char)value;
    }
    return to;
}

void *memcpy(void *to, const void *from, unsigned long n)
{
    volatile char *at = to;
    const char *source = from;
    while (n-- > 0) {
        *at++ = *source++;
    }
    return to;
}

static void write_text(const char *text, int length)
{
    while (length > 0) {
        long n = call(NR_WRITE, 1, (long)text, length);
        if (n <= 0) {
            return;
        }
        text += n;
        length -= (int)n;
    }
}

static int run(void)
{
    return smidgen_tell(smidgen_prompt, (int)(sizeof smidgen_prompt / sizeof smidgen_prompt[0]), N_NEW, write_text) < 0;
}

void begin(void);

void begin(void)
{
    call(NR_EXIT, run(), 0, 0);
    for (;;) {
    }
}
