; The data of an exported model, behind the program in flash.
    .section .progmemx.data, "a", @progbits
    .globl smidgen_data
smidgen_data:
    .incbin "model.bin"
