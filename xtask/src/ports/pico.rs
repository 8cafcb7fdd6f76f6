//! Raspberry Pi's RP2040 and RP2350: firmware is built and looked at as the boot ROMs do, for no emulator here has them, and made a
//! file that their drive takes.

use super::weights::Weights;
use super::{command, folder, toolchain};
use crate::step::{Counts, Report, Stop, output, program, run};
use std::path::Path;

/// A chip: how `--board` calls it, its target, how UF2 files call it, and the model that its check is built with.
struct Chip {
    name: &'static str,
    target: &'static str,
    family: u32,
    weights: Weights,
}

const CHIPS: &[Chip] = &[
    Chip { name: "rp2040", target: "thumbv6m-none-eabi", family: 0xe48b_ff56, weights: Weights::Tales("q8_0") },
    Chip { name: "rp2350", target: "thumbv8m.main-none-eabihf", family: 0xe48b_ff59, weights: Weights::Tales("q8_0") },
];

/// Where flash begins on both, and where RAM does.
const FLASH: u32 = 0x1000_0000;
const RAM: u32 = 0x2000_0000;
/// Bytes of flash in a block of UF2, and of the block.
const PAYLOAD: usize = 256;
const BLOCK: usize = 512;
/// Bytes of flash that the RP2350's ROM searches for an image definition, and what begins and ends one.
const SEARCHED: usize = 4096;
const BLOCK_STARTS: u32 = 0xffff_ded3;
const BLOCK_ENDS: u32 = 0xab12_3579;

/// Builds firmware for both chips.
pub(super) fn all(report: &mut Report) {
    for chip in CHIPS {
        report.step(&format!("ports: {}, built", chip.name), |_| build(chip));
    }
}

fn build(chip: &Chip) -> Result<Counts, Stop> {
    let folder = folder()?;
    let (project, target) = (folder.join(format!("firmware-{}", chip.name)), folder.join("boards"));
    let mut export = program(&command(), &["export", "firmware", "--board", chip.name, "-c", "64"]);
    output(export.arg(chip.weights.model()?).arg("-o").arg(&project))?;
    let mut build = toolchain::bare(chip.target)?;
    run(build.args(["--release", "--locked", "--quiet", "--target-dir"]).arg(&target).current_dir(&project))?;
    let to = folder.join(format!("{}.uf2", chip.name));
    uf2(chip.name, &target.join(chip.target).join("release/smidgen-firmware"), &to)?;
    Ok(Counts { passed: 2, failed: 0 })
}

/// Makes a UF2 file of the program in `elf` for the chip called `name`, when the chip's ROM would start it.
pub(crate) fn uf2(name: &str, elf: &Path, to: &Path) -> Result<Counts, Stop> {
    let names: Vec<&str> = CHIPS.iter().map(|chip| chip.name).collect();
    let chip = CHIPS.iter().find(|chip| chip.name == name);
    let chip = chip.ok_or(Stop::Failed(format!("{name}: unknown; there are {}", names.join(", "))))?;
    let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let bytes = std::fs::read(elf).map_err(|error| failed(elf, error))?;
    let image = image(&bytes).ok_or(Stop::Failed(format!("{}: no program for these chips", elf.display())))?;
    starts(chip, &image).map_err(|reason| format!("{}: {reason}", elf.display()))?;
    std::fs::write(to, blocks(chip.family, &image)).map_err(|error| failed(to, error))?;
    Ok(crate::step::ONE)
}

/// The flash of a program in an ELF file of 32 bits, from its beginning.
fn image(elf: &[u8]) -> Option<Vec<u8>> {
    let half = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    if !elf.starts_with(b"\x7fELF\x01\x01") {
        return None;
    }
    let (headers, size, n) = (word(elf, 28)? as usize, half(42)?, half(44)?);
    let mut image = Vec::new();
    for index in 0..usize::from(n) {
        let header = elf.get(headers + index * usize::from(size)..)?;
        let [kind, from, _, address, n_bytes] = [0, 4, 8, 12, 16].map(|at| word(header, at).unwrap_or(0));
        // What is loaded (1), by the address where it lies and not where it runs.
        let Some(at) = address.checked_sub(FLASH).filter(|_| kind == 1 && n_bytes > 0) else { continue };
        let (at, n_bytes) = (at as usize, n_bytes as usize);
        let part = elf.get(from as usize..)?.get(..n_bytes)?;
        // Flash that was erased.
        image.resize(image.len().max(at.checked_add(n_bytes).filter(|&end| end <= 16 << 20)?), 0xff);
        image[at..at + n_bytes].copy_from_slice(part);
    }
    Some(image).filter(|image| !image.is_empty())
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Whether the ROM of `chip` would start `image`, as far as its datasheet says.
fn starts(chip: &Chip, image: &[u8]) -> Result<(), String> {
    let at = |at: usize| word(image, at).ok_or("the program is too short");
    let vectors = match chip.name {
        "rp2040" => {
            let second_stage = image.get(..252).ok_or("the program is too short")?;
            if checksum(second_stage) != at(252)? {
                return Err("the second stage of the start has another checksum".into());
            }
            256
        }
        _ => {
            let searched = image.get(..SEARCHED).unwrap_or(image);
            let mut words = searched.chunks_exact(4).map(|bytes| word(bytes, 0).unwrap_or(0));
            let found = words.any(|word| word == BLOCK_STARTS);
            // One item of one word, the last item, a link to itself.
            let block: Vec<u32> = words.take(4).collect();
            if !found || block.get(1..) != Some(&[0x1ff, 0, BLOCK_ENDS]) {
                return Err("there is no image definition in the first 4 KB".into());
            }
            0
        }
    };
    let (stack, reset) = (at(vectors)?, at(vectors + 4)?);
    let is_code = reset & 1 == 1 && reset.wrapping_sub(FLASH) < image.len() as u32;
    match stack > RAM && stack % 8 == 0 && is_code {
        true => Ok(()),
        false => Err(format!("the vectors are {stack:#x} and {reset:#x}")),
    }
}

/// CRC-32 as the RP2040's ROM reckons it: the highest bit first, nothing turned around.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte) << 24, |sum, _| (sum << 1) ^ if sum >> 31 == 1 { 0x04c1_1db7 } else { 0 })
    })
}

/// The file: a block of 512 bytes for every 256 of flash (github.com/microsoft/uf2).
fn blocks(family: u32, image: &[u8]) -> Vec<u8> {
    const HAS_FAMILY: u32 = 0x2000;
    let n_blocks = image.len().div_ceil(PAYLOAD) as u32;
    let mut out = Vec::with_capacity(n_blocks as usize * BLOCK);
    for (number, payload) in image.chunks(PAYLOAD).enumerate() {
        let address = FLASH + (number * PAYLOAD) as u32;
        let head = [0x0a32_4655, 0x9e5d_5157, HAS_FAMILY, address, PAYLOAD as u32, number as u32, n_blocks, family];
        out.extend(head.iter().flat_map(|word| word.to_le_bytes()));
        out.extend_from_slice(payload);
        out.resize(number * BLOCK + BLOCK - 4, 0);
        out.extend(0x0ab1_6f30u32.to_le_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_roms() {
        // The check value of CRC-32/MPEG-2.
        assert_eq!(checksum(b"123456789"), 0x0376_e6e7);
    }

    #[test]
    fn a_program_without_what_the_rom_wants_is_refused() {
        let mut image = vec![0u8; 600];
        image[252..256].copy_from_slice(&checksum(&[0; 252]).to_le_bytes());
        image[256..264].copy_from_slice(&[0, 0, 1, 0x20, 1, 1, 0, 0x10]);
        assert_eq!(starts(&CHIPS[0], &image), Ok(()));
        assert!(starts(&CHIPS[1], &image).is_err());
        image[3] = 1;
        assert!(starts(&CHIPS[0], &image).is_err());
        assert!(starts(&CHIPS[0], &[]).is_err());
        let block = [0x2000_8000, FLASH + 65, BLOCK_STARTS, 0x1021_0142, 0x1ff, 0, BLOCK_ENDS];
        let mut image: Vec<u8> = block.iter().flat_map(|word| word.to_le_bytes()).collect();
        image.resize(600, 0);
        assert_eq!(starts(&CHIPS[1], &image), Ok(()));
    }

    #[test]
    fn a_block_holds_its_address_and_its_bytes() {
        let file = blocks(0xe48b_ff56, &[7; 300]);
        assert_eq!(file.len(), 2 * BLOCK);
        assert_eq!(
            (word(&file, BLOCK + 12), word(&file, BLOCK + 20), word(&file, BLOCK + 24)),
            (Some(FLASH + 256), Some(1), Some(2))
        );
        assert_eq!(file[BLOCK + 32..BLOCK + 32 + 44], [7; 44]);
        assert_eq!(file[BLOCK + 32 + 44], 0);
        assert_eq!(word(&file, BLOCK + 508), Some(0x0ab1_6f30));
    }
}
