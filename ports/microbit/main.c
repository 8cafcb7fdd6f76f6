/*
 * An exported model on a BBC micro:bit (nRF51822, Cortex-M0, 256 KB of flash, 16 KB of RAM) without an operating system: where the
 * processor begins, and text by semihosting, which a debugger shows and QEMU too.
 */
#include "model.c"

extern u32 bss_start, bss_end, stack_top;

void begin(void);
static void hang(void);

/* Where the stack begins, where the program does, and what happens when it fails. */
__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    &stack_top, begin, hang, hang, 0, 0, 0, 0, 0, 0, 0, hang, 0, 0, hang, hang,
};

/* Arm's semihosting: an operation, and a pointer to its arguments or one of them. */
#define SYS_OPEN 1
#define SYS_WRITE 5
#define SYS_EXIT 0x18
#define STOPPED_BY_PROGRAM 0x20026UL
#define STOPPED_BY_FAULT 0x20024UL

static u32 semihost(u32 operation, u32 argument)
{
    register u32 r0 __asm__("r0") = operation;
    register u32 r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void hang(void)
{
    for (;;) {
        semihost(SYS_EXIT, STOPPED_BY_FAULT);
    }
}

/* The tick counter, 24 bits that count down; asked at every piece of text, which is soon enough. */
#define TICK_CONTROL (*(volatile u32 *)0xe000e010UL)
#define TICK_RELOAD (*(volatile u32 *)0xe000e014UL)
#define TICK_VALUE (*(volatile u32 *)0xe000e018UL)
#define TICK_MASK 0xffffffUL

static u32 ticks, last_tick, console;

/* The debugger's console: a file of this name, opened for writing. */
static void open_console(void)
{
    u32 arguments[3];
    arguments[0] = (u32) ":tt";
    arguments[1] = 4;
    arguments[2] = 3;
    console = semihost(SYS_OPEN, (u32)arguments);
}

static void count_ticks(void)
{
    u32 value = TICK_VALUE;
    ticks += (last_tick - value) & TICK_MASK;
    last_tick = value;
}

static void write_text(const char *text, int length)
{
    u32 arguments[3];
    count_ticks();
    arguments[0] = console;
    arguments[1] = (u32)text;
    arguments[2] = (u32)length;
    semihost(SYS_WRITE, (u32)arguments);
}

/* The deepest that the stack has reached: what lies between the statics and it was painted before. */
#define PAINT 0xdeadbeefUL

static u32 stack_bytes(void)
{
    const u32 *at = &bss_end;
    while (*at == PAINT) {
        at++;
    }
    return (u32)((const u8 *)&stack_top - (const u8 *)at);
}

void begin(void)
{
    volatile u32 *at;
    volatile u32 here = 0;
    int n;
    for (at = &bss_start; at < &bss_end; at++) {
        *at = 0;
    }
    for (at = &bss_end; at + 16 < &here; at++) {
        *at = PAINT;
    }
    open_console();
    TICK_RELOAD = TICK_MASK;
    TICK_VALUE = 0;
    TICK_CONTROL = 5;
    n = smidgen_tell(smidgen_prompt, (int)(sizeof smidgen_prompt / sizeof smidgen_prompt[0]), N_NEW, write_text);
    write_text("[smidgen] statics ", 18);
    put_number((u32)((const u8 *)&bss_end - (const u8 *)&bss_start), 10, 1, write_text);
    write_text(" bytes, stack ", 14);
    put_number(stack_bytes(), 10, 1, write_text);
    write_text(" bytes\n[smidgen] ", 17);
    /* A tick of 16 MHz is 62.5 ns. */
    put_number(n > 0 ? ticks / (u32)n * 125 / 2 : 0, 10, 1, write_text);
    write_text(" ns for each token\n", 19);
    for (;;) {
        semihost(SYS_EXIT, n > 0 ? STOPPED_BY_PROGRAM : STOPPED_BY_FAULT);
    }
}

/* Compilers call these where they like. */
void *memset(void *to, int value, unsigned int n);
void *memcpy(void *to, const void *from, unsigned int n);

void *memset(void *to, int value, unsigned int n)
{
    volatile char *at = to;
    while (n-- > 0) {
        *at++ = (char)value;
    }
    return to;
}

void *memcpy(void *to, const void *from, unsigned int n)
{
    volatile char *at = to;
    const char *source = from;
    while (n-- > 0) {
        *at++ = *source++;
    }
    return to;
}
