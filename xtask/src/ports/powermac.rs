//! The Power Macintosh G3 and the iMac, with 32 MB and without an operating system.

use super::story::{self, Desktop, Story};
use super::weights::Weights;
use super::{Extent, folder, toolchain};
use crate::install;
use crate::step::{self, Counts, ONE, Report, Stop, output, program, run};
use serde_json::Value;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const EMULATOR: &str = "qemu-system-ppc";
const TARGET: &str = "powerpc-unknown-linux-gnu";
/// The machines: the beige G3 of 1997, and QEMU's kin of the iMac.
const MACHINES: &[&str] = &["g3beige", "mac99"];
const MODEL: &str = "models/tales.gguf";
const CONTEXT_TOKENS: usize = 64;
const N_NEW: usize = 40;
/// Further models, and how many tokens of each are told: small ones for the text, the last for its size.
const MODELS: &[(Weights, usize)] = &[
    (Weights::Stories260K("f32"), 40),
    (Weights::Babyllama("q4_w"), 40),
    (Weights::Tales3M("q4_w"), 40),
    (LARGE, N_NEW_LARGE),
];
/// The model that comes near to what 32 MB hold, and how much of it is told.
const LARGE: Weights = Weights::Random15M("q4_0");
const N_NEW_LARGE: usize = 8;
/// What OpenBIOS says when it starts nothing, and how often a machine is started for it at most.
const NOT_LOADED: &str = "No valid state has been set";
const BOOTS: usize = 3;
/// Where the program looks for a model that is in memory already.
const MODEL_ADDRESS: &str = "0x00100000";

/// Runs the machines; gives a row of the record for each that told its story.
pub(super) fn all(report: &mut Report, desktop: &Desktop, extent: Extent) -> Vec<Value> {
    let mut rows = Vec::new();
    let mut expected = String::new();
    let model = crate::root().join(MODEL);
    let story = Story { model: &model, context_tokens: CONTEXT_TOKENS, n_new: N_NEW, cache: "f32" };
    let ready = report.step("ports: Power Macintosh, build", |_| {
        if !install::is_on_path(EMULATOR) {
            return Err(Stop::Skipped(format!("there is no {EMULATOR}")));
        }
        expected = desktop.tell(&story)?;
        build(extent, false)
    });
    if !ready || expected.is_empty() {
        return rows;
    }
    for machine in MACHINES {
        report.step(&format!("ports: {machine}, model in memory"), |_| {
            let printed = output(&mut from_memory(machine, &story)?)?;
            rows.push(story::row(machine, &story, &printed));
            story::compare(machine, &printed, &expected)
        });
    }
    if extent == Extent::All {
        for &(weights, n_new) in MODELS {
            report
                .step(&format!("ports: Power Macintosh, {weights:?}"), |_| further(desktop, weights, n_new, &mut rows));
        }
        discs(report, desktop, &story, &expected);
    }
    rows
}

/// One more model, in memory of both machines.
fn further(desktop: &Desktop, weights: Weights, n_new: usize, rows: &mut Vec<Value>) -> Result<Counts, Stop> {
    let model = weights.model()?;
    let story = Story { model: &model, context_tokens: CONTEXT_TOKENS, n_new, cache: "f32" };
    let expected = desktop.tell(&story)?;
    for machine in MACHINES {
        let printed = output(&mut from_memory(machine, &story)?)?;
        rows.push(story::row(machine, &story, &printed));
        story::compare(machine, &printed, &expected)?;
    }
    Ok(Counts { passed: MACHINES.len(), failed: 0 })
}

/// How the prompt reaches a machine that starts from a disc.
#[derive(Clone, Copy, Debug)]
enum Prompt {
    /// At the end of the boot arguments.
    InArguments,
    /// At the other end of the serial line.
    Typed,
}

/// Boots both machines from discs: the release's, in both ways to give a prompt, and one with the large model.
fn discs(report: &mut Report, desktop: &Desktop, story: &Story<'_>, expected: &str) {
    let mut image = None;
    report.step("ports: Power Macintosh, the disc", |_| {
        image = Some(disc(story.model, "disc")?);
        Ok(ONE)
    });
    let Some(image) = image else { return };
    for prompt in [Prompt::Typed, Prompt::InArguments] {
        report.step(&format!("ports: Power Macintosh, from a disc, prompt {prompt:?}"), |_| {
            boot(&image, story, prompt, expected)
        });
    }
    report.step(&format!("ports: Power Macintosh, {LARGE:?} from a disc"), |_| {
        let model = LARGE.model()?;
        let story = Story { model: &model, n_new: N_NEW_LARGE, ..*story };
        boot(&disc(&model, "disc-large")?, &story, Prompt::InArguments, &desktop.tell(&story)?)
    });
}

/// Boots both machines. Now and then the firmware says that it cannot load what it has loaded a hundred times, before our program runs and
/// however the prompt is given; why is not known. It is asked again, with a line; what fails once our program has control is a failure.
fn boot(disc: &Path, story: &Story<'_>, prompt: Prompt, expected: &str) -> Result<Counts, Stop> {
    let mut counts = Counts::default();
    for machine in MACHINES {
        let mut printed = from_disc(machine, disc, story, prompt)?;
        for _ in 1..BOOTS {
            if !printed.contains(NOT_LOADED) {
                break;
            }
            step::say(&format!("{machine}: the firmware did not load the program; once more"));
            printed = from_disc(machine, disc, story, prompt)?;
        }
        story::compare(machine, after_prompt(&printed), expected)?;
        counts.passed += 1;
    }
    Ok(counts)
}

/// Builds the program: to be loaded by QEMU itself or, for a `disc`, by Open Firmware.
fn build(extent: Extent, disc: bool) -> Result<Counts, Stop> {
    let mut command = toolchain::of(extent, toolchain::with_source()?);
    // With the other program of this target, so that `core` is built once.
    command.args(["--release", "--locked", "--quiet", "--manifest-path", "ports/powermac/Cargo.toml"]);
    command.args(["--target-dir", "ports/user/target"]);
    toolchain::add_target(&mut command, TARGET, "750")?;
    if disc {
        command.args(["--features", "disc"]);
    }
    run(&mut command)
}

fn binary() -> PathBuf {
    crate::root().join("ports/user/target").join(TARGET).join("release/smidgen-powermac")
}

/// The machine with 32 MB, its serial port where our output is. Its clock counts instructions, which are a figure of ours.
fn emulator(machine: &str) -> Command {
    let words = [
        "300",
        EMULATOR,
        "-M",
        machine,
        "-cpu",
        "750",
        "-m",
        "32",
        "-vga",
        "none",
        "-net",
        "none",
        "-nographic",
        "-monitor",
        "none",
        "-serial",
        "stdio",
        "-no-reboot",
        "-icount",
        "shift=0,sleep=off",
    ];
    program("timeout", &words)
}

/// The program and, beside it in memory, the model; the prompt in the boot arguments.
fn from_memory(machine: &str, story: &Story<'_>) -> Result<Command, Stop> {
    let Story { model, context_tokens, n_new, .. } = story;
    let n_bytes = std::fs::metadata(model).map_err(|error| format!("{}: {error}", model.display()))?.len();
    let mut command = emulator(machine);
    command.arg("-kernel").arg(binary());
    command.arg("-device").arg(format!("loader,file={},addr={MODEL_ADDRESS},force-raw=on", model.display()));
    let arguments = format!("context={context_tokens} new={n_new} prompt={}", story::PROMPT);
    command.arg("-append").arg(format!("model=@{},{n_bytes:x} {arguments}", MODEL_ADDRESS.trim_start_matches("0x")));
    Ok(command)
}

/// A disc image called `name`, HFS and ISO 9660 at once, with the program and the model.
fn disc(model: &Path, name: &str) -> Result<PathBuf, Stop> {
    if !install::is_on_path("genisoimage") {
        return Err(Stop::Skipped("there is no genisoimage".into()));
    }
    build(Extent::All, true)?;
    let folder = folder()?.join(name);
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let readme = crate::root().join("ports/powermac/README.md");
    for (from, name) in [(binary().as_path(), "smidgen.elf"), (model, "model.gguf"), (readme.as_path(), "README.md")] {
        std::fs::copy(from, folder.join(name)).map_err(|error| format!("{}: {error}", from.display()))?;
    }
    let image = folder.with_extension("iso");
    let words = ["-quiet", "-hfs", "-part", "-V", "SMIDGEN", "-hfs-volid", "SMIDGEN", "-J", "-r", "-o"];
    output(program("genisoimage", &words).arg(&image).arg(&folder))?;
    // The build that the other tests of this target expect.
    build(Extent::All, false)?;
    Ok(image)
}

/// Boots from the disc, the model read by the firmware.
fn from_disc(machine: &str, disc: &Path, story: &Story<'_>, prompt: Prompt) -> Result<String, Stop> {
    let Story { context_tokens, n_new, .. } = story;
    let mut arguments = format!("boot-file=model=cd:,\\model.gguf context={context_tokens} new={n_new}");
    if let Prompt::InArguments = prompt {
        arguments += &format!(" prompt={}", story::PROMPT);
    }
    let mut command = emulator(machine);
    command.arg("-cdrom").arg(disc).args(["-boot", "d", "-prom-env", "boot-device=cd:,\\smidgen.elf", "-prom-env"]);
    // Hexadecimal: where the firmware first puts the file, which it moves to where it is to run.
    command.arg(arguments).args(["-prom-env", "load-base=800000"]);
    let failed = |error: std::io::Error| Stop::Failed(format!("{EMULATOR}: {error}"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let mut keys = child.stdin.take().ok_or(Stop::Failed(format!("{EMULATOR} takes no input")))?;
    if let Prompt::Typed = prompt {
        // The line waits in the emulator until the program asks for it; what it echoes before is the firmware's.
        keys.write_all(format!("{}\r", story::PROMPT).as_bytes()).map_err(failed)?;
    }
    let mut from = child.stdout.take().ok_or(Stop::Failed(format!("{EMULATOR} prints nothing")))?;
    let (mut printed, mut part, mut is_over) = (String::new(), [0; 512], false);
    loop {
        let n = from.read(&mut part).map_err(failed)?;
        if n == 0 {
            break;
        }
        printed += &String::from_utf8_lossy(&part[..n]);
        if !is_over && printed.contains(NOT_LOADED) {
            // The firmware waits for words; this one ends the emulator.
            is_over = true;
            keys.write_all(b"\rreset-all\r").map_err(failed)?;
        }
    }
    child.wait().map_err(failed)?;
    Ok(printed)
}

/// What came after the line that was typed.
fn after_prompt(printed: &str) -> &str {
    printed.rsplit_once("[smidgen] a model of").map_or(printed, |(_, story)| story)
}

/// A disc image as a release has it.
pub(crate) fn image() -> Result<Counts, Stop> {
    disc(&crate::root().join(MODEL), "disc")?;
    Ok(ONE)
}
