/*
 * An exported model on a Macintosh Quadra 800 (68040) without an operating system, as QEMU's q800 machine starts it. The addresses
 * are those of its serial chip, a Zilog 85C30, and of its second VIA, which switches the power off.
 */
#include "model.c"

#define SERIAL_CONTROL (*(volatile unsigned char *)0x5000c022)
#define SERIAL_DATA (*(volatile unsigned char *)0x5000c026)
#define SERIAL_MAY_GO 4
#define VIA2 ((volatile unsigned char *)0x50002000)

static void put_byte(int byte)
{
    while (!(SERIAL_CONTROL & SERIAL_MAY_GO)) {
    }
    SERIAL_DATA = (unsigned char)byte;
}

static void write_text(const char *text, int length)
{
    while (length-- > 0) {
        if (*text == '\n') {
            put_byte('\r');
        }
        put_byte(*text++);
    }
}

void begin(void);

void begin(void)
{
    /* Write register 5: eight bits, the transmitter on. */
    SERIAL_CONTROL = 5;
    SERIAL_CONTROL = 0x68;
    smidgen_tell(smidgen_prompt, (int)(sizeof smidgen_prompt / sizeof smidgen_prompt[0]), N_NEW, write_text);
    /* Port B, bit 2: an output, and low. */
    VIA2[0x400] |= 4;
    VIA2[0] = (unsigned char)(VIA2[0] & ~4);
    for (;;) {
    }
}
