//! What the boot ROMs of Raspberry Pi's chips look for at the beginning of flash; `memory.x` says where it lies. Other chips start
//! from their vectors alone.

/// The second stage of an RP2040: it has the flash read in place by the slowest command, which every chip knows. The ROM runs it if its
/// checksum is right.
#[cfg(feature = "rp2040")]
#[unsafe(link_section = ".boot2")]
#[used]
static SECOND_STAGE: [u8; 256] = rp2040_boot2::BOOT_LOADER_GENERIC_03H;

/// An RP2350's least image definition (datasheet, 5.9.5): a block of one item, which says that this is a program for its Arm cores in
/// the secure state, and whose link to the next block is to itself.
#[cfg(feature = "rp2350")]
#[unsafe(link_section = ".start_block")]
#[used]
static IMAGE_DEFINITION: [u32; 5] = [0xffff_ded3, 0x1021_0142, 0x0000_01ff, 0x0000_0000, 0xab12_3579];
