/* Where QEMU's Quadra 800 enters a program that it loads itself: a stack, zeros where zeros are meant to be, and begin(). */
    .section .text.start, "ax"
    .globl _start
_start:
    lea     stack_top, %sp
    lea     bss_start, %a0
    lea     bss_end, %a1
clear:
    cmp.l   %a1, %a0
    jcc     cleared
    clr.l   (%a0)+
    jra     clear
cleared:
    jsr     begin
halt:
    jra     halt

    .section .rodata
    .globl smidgen_data
    .balign 4
smidgen_data:
    .incbin "model.bin"
