/*
 * An exported model on an ATmega1284P (AVR, 128 KB of flash, 16 KB of RAM): the data stays in flash, of which a pointer of 24 bits
 * reaches every byte, and text goes to the serial port. Needs avr-gcc, whose address spaces are no C89:
 *
 *     avr-gcc -std=gnu99 -ffp-contract=off -Os -fno-ivopts -mmcu=atmega1284p -I. main.c data.S
 *
 * in a folder that smidgen export c has written. -fno-ivopts: avr-gcc 5.4 turns pointers of 24 bits in loops into ones of 16.
 */
#define SMIDGEN_FAR __memx
/* What is added to a pointer has 16 bits here, and a place in the data more. */
#define SMIDGEN_AT(offset) ((const __memx unsigned char *)((__uint24)smidgen_data + (__uint24)(offset)))
#include "model.c"

#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>

/* What RAM between the statics and the stack is painted with. */
#define PAINT 0xa5

extern u8 _end, __stack;

/* Runs before main, without a stack of its own. */
__attribute__((naked, used, section(".init3"))) static void paint(void)
{
    __asm__ volatile("ldi r30, lo8(_end)\n\t"
                     "ldi r31, hi8(_end)\n\t"
                     "ldi r24, %0\n\t"
                     "ldi r25, hi8(__stack)\n"
                     "1: st Z+, r24\n\t"
                     "cpi r30, lo8(__stack)\n\t"
                     "cpc r31, r25\n\t"
                     "brlo 1b" ::"M"(PAINT));
}

static u32 stack_bytes(void)
{
    const u8 *at = &_end;
    while (*at == PAINT) {
        at++;
    }
    return (u32)(&__stack - at + 1);
}

static void write_text(const __memx char *text, int length)
{
    while (length-- > 0) {
        while (!(UCSR0A & 1 << UDRE0)) {
        }
        UDR0 = (u8)*text++;
    }
}

int main(void)
{
    UCSR0B = 1 << TXEN0;
    smidgen_tell(smidgen_prompt, (int)(sizeof smidgen_prompt / sizeof smidgen_prompt[0]), N_NEW, write_text);
    write_text("[smidgen] statics ", 18);
    put_number((u32)(&_end - (u8 *)RAMSTART), 10, 1, write_text);
    write_text(" bytes, stack ", 14);
    put_number(stack_bytes(), 10, 1, write_text);
    write_text(" bytes\n", 7);
    /* Asleep with interrupts off: simavr ends. */
    cli();
    sleep_enable();
    sleep_cpu();
    return 0;
}
