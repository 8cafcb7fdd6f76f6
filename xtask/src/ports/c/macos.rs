//! The Toolbox program of `ports/macos-classic`: compiled for the processors of a Macintosh, and run here with its calls answered
//! over stdio, for no compiler of Mac OS is here.

use super::{NO_LIBRARY, compiler, tales};
use crate::install;
use crate::ports::story::{self, PROMPT};
use crate::ports::{Extent, folder};
use crate::step::{Counts, Report, Stop, output, program, run};
use std::path::{Path, PathBuf};

/// What the compilers of both processors are told.
const FLAGS: &[&str] =
    &["-std=c89", "-Wall", "-Werror", "-Os", "-ffreestanding", "-DSMIDGEN_DATA_POINTER", "-I.", NO_LIBRARY, "-c"];

/// Compiles for a 68000 and for PowerPC, and runs here and, as a whole, as a program of PowerPC.
pub(super) fn all(report: &mut Report, expected: &str, extent: Extent) {
    for (name, flags) in [
        ("m68k-linux-gnu-gcc", &["-m68000", "-msoft-float"][..]),
        ("clang", &["--target=powerpc-linux-gnu", "-mcpu=750"]),
    ] {
        report.step(&format!("ports: C89, the program for Mac OS, {name}"), |_| {
            let mut build = compiler(name, FLAGS)?;
            build.args(flags).arg(declarations()).arg(sources().join("story.c")).args(["-o", "macos.o"]);
            run(build.current_dir(tales()?))
        });
    }
    report.step("ports: C89, the program for Mac OS, its calls answered", |_| told("gcc", &[], &[], expected));
    if extent == Extent::All {
        report.step("ports: C89, the program for Mac OS, its calls answered on PowerPC", |_| {
            told("powerpc-linux-gnu-gcc", &["-static", "-mcpu=750"], &["qemu-ppc", "-cpu", "750"], expected)
        });
    }
}

fn sources() -> PathBuf {
    crate::root().join("ports/macos-classic")
}

/// Where the calls are declared.
fn declarations() -> String {
    format!("-I{}", sources().join("check").display())
}

/// Runs the program in a folder of its own: with all that it reads, without its prompt, and without its model.
fn told(name: &str, flags: &[&str], emulator: &[&str], expected: &str) -> Result<Counts, Stop> {
    let (folder, run_in) = (tales()?, folder()?.join("macos"));
    let failed = |path: &Path, error: std::io::Error| Stop::Failed(format!("{}: {error}", path.display()));
    std::fs::create_dir_all(&run_in).map_err(|error| failed(&run_in, error))?;
    let story = run_in.join("Story");
    let mut build =
        compiler(name, &["-std=c89", "-Wall", "-Wextra", "-Werror", "-O1", "-DSMIDGEN_DATA_POINTER", "-I."])?;
    build.args(flags).arg(declarations()).arg(sources().join("story.c")).arg(sources().join("check/mock.c"));
    output(build.arg("-o").arg(&story).current_dir(&folder))?;
    if emulator.first().is_some_and(|name| !install::is_on_path(name)) {
        return Err(Stop::Skipped(format!("there is no {}", emulator[0])));
    }
    let (model, prompt) = (run_in.join("model.bin"), run_in.join("prompt.txt"));
    std::fs::copy(folder.join("model.bin"), &model).map_err(|error| failed(&model, error))?;
    // A line as an editor of Mac OS leaves it.
    std::fs::write(&prompt, format!("{PROMPT}\r")).map_err(|error| failed(&prompt, error))?;
    let path = story.to_string_lossy();
    let written = || -> Result<String, Stop> {
        let words = [emulator, &[&*path]].concat();
        output(program(words[0], &words[1..]).current_dir(&run_in))?;
        let output = run_in.join("output.txt");
        let text = std::fs::read_to_string(&output).map_err(|error| failed(&output, error))?;
        match text.contains('\n') {
            false => Ok(text.replace('\r', "\n")),
            true => Err(Stop::Failed("a line of output.txt does not end as Mac OS has it".into())),
        }
    };
    story::compare("Story", &written()?, expected)?;
    for missing in [&prompt, &model] {
        std::fs::remove_file(missing).map_err(|error| failed(missing, error))?;
        let (text, name) = (written()?, missing.file_name().unwrap_or_default().to_string_lossy());
        if !text.starts_with(&*name) {
            return Err(Stop::Failed(format!("without {name} it writes {text:?}")));
        }
    }
    Ok(Counts { passed: 3, failed: 0 })
}
