//! Microcontrollers: what `smidgen export firmware` writes is built and run under emulation.

use super::story::{self, Desktop, Story};
use super::weights::Weights::{self, Stories260K, Tales};
use super::{Extent, Rows, command, folder, toolchain};
use crate::install;
use crate::step::{Beside, Counts, ONE, Report, Stop, output, program, run};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A board, as `--board` names it, its target, its emulator, and the story that it tells.
struct Board {
    name: &'static str,
    /// What is said of one that `--board` does not name: its processor and its memory.
    numbers: &'static [&'static str],
    target: &'static str,
    emulator: &'static [&'static str],
    weights: Weights,
    context_tokens: usize,
    cache: &'static str,
    /// Whether every change has to pass it.
    sample: bool,
}

const M4F: &str = "thumbv7em-none-eabihf";
const M0: &str = "thumbv6m-none-eabi";
const ARM: &str = "qemu-system-arm";
const RISCV: &str = "qemu-system-riscv32";

#[rustfmt::skip]
const BOARDS: &[Board] = &[
    Board { name: "stm32f405", numbers: &[], target: M4F, emulator: &[ARM, "-M", "netduinoplus2"],
        weights: Tales("q4_w"), context_tokens: 64, cache: "q8_0", sample: true },
    // The same chip, described by its numbers; the clock is that of QEMU's, for the instructions to be counted right.
    Board { name: "thumbv7em", numbers: &["--target", "thumbv7em", "--flash", "1M", "--ram", "128K", "--clock", "168000000"],
        target: M4F, emulator: &[ARM, "-M", "netduinoplus2"],
        weights: Tales("q4_w"), context_tokens: 64, cache: "q8_0", sample: false },
    // No board with a Cortex-M0 in QEMU has the room, but a Cortex-M3 runs what is compiled for one.
    Board { name: "thumbv6m", numbers: &["--target", "thumbv6m", "--flash", "4M", "--flash-at", "0x0", "--ram", "264K", "--clock", "25000000"],
        target: M0, emulator: &[ARM, "-M", "mps2-an385"],
        weights: Tales("q8_0"), context_tokens: 24, cache: "q8_0", sample: true },
    Board { name: "virt-imc", numbers: &[], target: "riscv32imc-unknown-none-elf",
        emulator: &[RISCV, "-M", "virt", "-bios", "none", "-m", "8M", "-cpu", "rv32,a=false,f=false,d=false"],
        weights: Tales("q8_0"), context_tokens: 48, cache: "f16", sample: true },
    Board { name: "virt-imac", numbers: &[], target: "riscv32imac-unknown-none-elf",
        emulator: &[RISCV, "-M", "virt", "-bios", "none", "-m", "8M", "-cpu", "rv32,f=false,d=false"],
        weights: Tales("q8_0"), context_tokens: 48, cache: "f16", sample: false },
    Board { name: "lm3s6965", numbers: &[], target: "thumbv7m-none-eabi", emulator: &[ARM, "-M", "lm3s6965evb"],
        weights: Stories260K("q3_w"), context_tokens: 64, cache: "q8_0", sample: false },
    Board { name: "an386", numbers: &[], target: M4F, emulator: &[ARM, "-M", "mps2-an386"],
        weights: Tales("q8_0"), context_tokens: 64, cache: "f32", sample: false },
    Board { name: "an500", numbers: &[], target: M4F, emulator: &[ARM, "-M", "mps2-an500"],
        weights: Tales("q8_0"), context_tokens: 64, cache: "f32", sample: false },
    Board { name: "an505", numbers: &[], target: "thumbv8m.main-none-eabihf", emulator: &[ARM, "-M", "mps2-an505"],
        weights: Tales("q8_0"), context_tokens: 64, cache: "f32", sample: false },
];

/// Held while a board's program is built.
static BUILDING: Mutex<()> = Mutex::new(());

/// Positions that are left to the prompt.
const PROMPT_ROOM: usize = 8;

/// Runs the boards of `extent`, one while another is built; gives a row of the record for each that told its story.
pub(super) fn all(report: &mut Report, desktop: &Desktop, extent: Extent) -> Vec<Value> {
    let (rows, mut tries) = (Rows::default(), Vec::<Beside<'_>>::new());
    let rows_of = &rows;
    for (index, board) in BOARDS.iter().enumerate().filter(|(_, board)| board.sample || extent == Extent::All) {
        let try_it = move || {
            let (counts, row) = try_board(board, desktop)?;
            rows_of.put(index, row)?;
            Ok(counts)
        };
        tries.push((format!("ports: {}", board.name), Box::new(try_it)));
    }
    report.steps(tries);
    rows.take().into_values().collect()
}

fn try_board(board: &Board, desktop: &Desktop) -> Result<(Counts, Value), Stop> {
    if !install::is_on_path(board.emulator[0]) {
        return Err(Stop::Skipped(format!("there is no {}", board.emulator[0])));
    }
    let model = board.weights.model()?;
    // With the prompt they stay within the context, so that the command tells no word more.
    let n_new = board.context_tokens - PROMPT_ROOM;
    let story = Story { model: &model, context_tokens: board.context_tokens, n_new, cache: board.cache };
    let expected = desktop.tell(&story)?;
    let (program_path, needs) = build(board, &story)?;
    if names(&program_path, &crate::root())? {
        return Err(Stop::Failed("it names the folder of the checkout, by which its size would differ".into()));
    }
    let mut emulator = program(board.emulator[0], &board.emulator[1..]);
    emulator.args(["-nographic", "-icount", "shift=0,sleep=off", "-kernel"]).arg(&program_path);
    if board.emulator[0] == ARM {
        emulator.args(["-semihosting-config", "enable=on,target=native"]);
    }
    let printed = output(&mut emulator)?;
    story::compare(board.name, &printed, &expected)?;
    let row = story::row(board.name, &story, &printed);
    for (figure, place, part) in [("flash_bytes", "flash", "in all"), ("stack_bytes", "RAM", "stack")] {
        if row[figure].as_u64().is_none_or(|taken| taken > said(&needs, place, part)) {
            return Err(Stop::Failed(format!("{figure} {}; the export had said:\n{needs}", row[figure])));
        }
    }
    Ok((Counts { passed: 3, failed: 0 }, row))
}

/// Whether the file at `path` says `folder` somewhere.
fn names(path: &Path, folder: &Path) -> Result<bool, Stop> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let folder = folder.as_os_str().as_encoded_bytes();
    Ok(bytes.windows(folder.len()).any(|window| window == folder))
}

/// The number in the row `place`, `part` of the table that `smidgen export firmware` prints; 0 where there is none.
fn said(needs: &str, place: &str, part: &str) -> u64 {
    let line =
        needs.lines().find(|line| line.trim_start().starts_with(place) && line.contains(part)).unwrap_or_default();
    line.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
}

/// Has the command write the project, and builds it as its README says; with what the command says that it takes.
fn build(board: &Board, story: &Story<'_>) -> Result<(PathBuf, String), Stop> {
    let folder = folder()?;
    let (project, target) = (folder.join(format!("firmware-{}", board.name)), folder.join("boards"));
    let (context, n_new) = (story.context_tokens.to_string(), story.n_new.to_string());
    let (from, to) = (story.model.to_string_lossy(), project.to_string_lossy());
    let named = ["--board", board.name];
    let described = if board.numbers.is_empty() { &named } else { board.numbers };
    let mut export = program(&command(), &["export", "firmware", &from, "-o", &to, "-p", story::PROMPT, "-n", &n_new]);
    export.args(["-c", &context, "--ctk", board.cache, "--ctv", board.cache]).args(described);
    let needs = output(&mut export)?;
    let mut build = toolchain::bare(board.target)?;
    build.args(["--release", "--locked", "--quiet", "--target-dir"]).arg(&target).current_dir(&project);
    // Boards with the same target have the same place for what is built.
    let _alone = BUILDING.lock().map_err(|_| "another board's thread panicked".to_string())?;
    run(&mut build)?;
    let (built, kept) = (target.join(board.target).join("release/smidgen-firmware"), project.join("firmware.elf"));
    std::fs::copy(&built, &kept).map_err(|error| format!("{}: {error}", built.display()))?;
    Ok((kept, needs))
}

/// Writes what the boards took, as `bench/record/README.md` says.
pub(super) fn write_record(path: &Path, rows: &[Value]) -> Result<Counts, Stop> {
    let line = |name: &str, words: &[&str]| output(&mut program(name, words)).map(|text| text.trim().to_string());
    let record = json!({
        "command": format!("cargo xtask {}", std::env::args().skip(1).collect::<Vec<_>>().join(" ")),
        "commit": line("git", &["rev-parse", "--short", "HEAD"])?,
        "date": line("date", &["-u", "+%Y-%m-%d"])?,
        "machine": format!("QEMU {}, instructions counted", version()?),
        "results": rows,
    });
    let text = serde_json::to_string_pretty(&record).map_err(|error| error.to_string())?;
    std::fs::write(path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(ONE)
}

fn version() -> Result<String, Stop> {
    let text = output(&mut program(ARM, &["--version"]))?;
    Ok(text.split_whitespace().nth(3).unwrap_or("of an unknown version").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_a_program_names_is_found() {
        let of_this_test = std::env::current_exe().unwrap();
        assert!(matches!(names(&of_this_test, Path::new(env!("CARGO_MANIFEST_DIR"))), Ok(true)));
        assert!(matches!(names(&of_this_test, &Path::new("/no/such/folder").join("as this")), Ok(false)));
        assert!(names(Path::new("no such program"), Path::new("/")).is_err());
    }

    #[test]
    fn what_the_export_says_is_read() {
        let needs = "  flash  model      1,602,688\n  flash  in all     1,791,104\n  RAM    stack, at most  10,240\n";
        assert_eq!(said(needs, "flash", "in all"), 1_791_104);
        assert_eq!(said(needs, "RAM", "stack"), 10_240);
        assert_eq!(said(needs, "RAM", "in all"), 0);
    }
}
