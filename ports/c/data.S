/* The data of an exported model, as an assembler takes it in: faster than model_data.c. */
    .section .rodata
    .globl smidgen_data
    .balign 4
smidgen_data:
    .incbin "model.bin"
    .section .note.GNU-stack, "", %progbits
