//! What the tests need and a fresh machine lacks: emulators, nightly parts, a Python environment, three cargo tools.
//!
//! What is there already is left alone. What cannot be tried here (no root, no rustup) is skipped with a line that says
//! so, and the tests that need it skip in turn; what was tried and did not work is a failure.

use crate::step::{ONE, Report, Stop, cargo, output, program, run, works};
use std::path::{Path, PathBuf};

/// cargo-deny, cargo-fuzz and cbindgen, at the versions that the checks were written with.
const TOOLS: &[(&str, &str)] = &[("cargo-deny", "0.20.2"), ("cargo-fuzz", "0.13.2"), ("cbindgen", "0.29.4")];
/// What pip installs for tests that compare with other implementations.
const REQUIREMENTS: &str = "tools/test_requirements.txt";

/// Programs that the ports are tried with, and the packages that bring them.
const PROGRAMS: &[(&str, &str)] = &[
    ("qemu-ppc", "qemu-user"),
    ("qemu-system-arm", "qemu-system-arm"),
    ("qemu-system-ppc", "qemu-system-ppc"),
    ("qemu-system-riscv32", "qemu-system-misc"),
    ("m68k-linux-gnu-gcc", "gcc-m68k-linux-gnu"),
    ("clang", "clang"),
    ("genisoimage", "genisoimage"),
    ("node", "nodejs"),
    ("valgrind", "valgrind"),
];

/// Programs that only `cargo xtask ports` needs, as a whole.
const FURTHER: &[(&str, &str)] = &[
    ("x86_64-w64-mingw32-gcc", "gcc-mingw-w64-x86-64"),
    ("wine", "wine"),
    ("wine", "wine64"),
    ("powerpc-linux-gnu-gcc", "gcc-powerpc-linux-gnu"),
    ("powerpc-linux-gnu-gcc", "libc6-dev-powerpc-cross"),
    ("s390x-linux-gnu-gcc", "gcc-s390x-linux-gnu"),
    ("s390x-linux-gnu-gcc", "libc6-dev-s390x-cross"),
    ("xtensa-lx106-elf-gcc", "gcc-xtensa-lx106"),
    ("avr-gcc", "gcc-avr"),
    ("avr-gcc", "avr-libc"),
    ("simavr", "simavr"),
    ("chromium", "chromium"),
    ("npm", "npm"),
];

/// A copy of the requirements that were installed, so that a second run has nothing to do.
const STAMP: &str = ".venv/installed.txt";

/// Installs everything, one step each.
pub(crate) fn all(report: &mut Report) {
    report.step("install: nightly parts", |_| nightly_parts());
    report.step("install: emulators", |_| packages(PROGRAMS));
    report.step("install: Python environment", |_| python_environment());
    // A build fetches what its target needs; cargo-deny looks at the crates of all.
    report.step("install: crates of every target", |_| run(&mut cargo(&["fetch", "--locked", "--quiet"])));
    for (name, version) in TOOLS {
        report.step(&format!("install: {name}"), |_| cargo_tool(name, version));
    }
}

/// Installs what the whole of `cargo xtask ports` needs and the tests do not.
pub(crate) fn further(report: &mut Report) {
    report.step("install: emulators", |_| packages(PROGRAMS));
    report.step("install: further compilers and emulators", |_| packages(FURTHER));
}

/// Where `name` can be run: the copy that [`all`] installed.
pub(crate) fn tool(name: &str) -> Option<String> {
    let path = tools_folder().join("bin").join(name);
    path.is_file().then(|| path.to_string_lossy().into_owned())
}

/// The Python that has what [`all`] installed, for tests that ask for it by `SMIDGEN_PYTHON`.
pub(crate) fn python() -> Option<PathBuf> {
    let path = crate::root().join(".venv/bin/python");
    crate::root().join(STAMP).is_file().then_some(path)
}

/// Whether a program called `name` is on the path.
pub(crate) fn is_on_path(name: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(name).is_file())
}

/// Whether the nightly toolchain has the source of its own standard library.
pub(crate) fn has_nightly_source() -> bool {
    sysroot("nightly").is_some_and(|root| root.join("lib/rustlib/src/rust/library/core").is_dir())
}

/// The folder of a rustup toolchain.
pub(crate) fn sysroot(toolchain: &str) -> Option<PathBuf> {
    let mut command = program("rustup", &["run", toolchain, "rustc", "--print", "sysroot"]);
    output(command.env("RUSTUP_AUTO_INSTALL", "0")).ok().map(|path| PathBuf::from(path.trim()))
}

/// Whether Debian's rustc is there with the source of its standard library.
pub(crate) fn has_debian_source() -> bool {
    Path::new("/usr/bin/rustc").is_file() && Path::new("/usr/lib/rustlib/src/rust/library/core").is_dir()
}

fn tools_folder() -> PathBuf {
    crate::root().join("target/tools")
}

/// Miri and the source of the standard library, which rustup serves; foreign targets can also do with Debian's.
fn nightly_parts() -> Result<crate::step::Counts, Stop> {
    if has_nightly_source() && works(&mut cargo(&["+nightly", "miri", "--version"])) {
        return Ok(ONE);
    }
    if !is_on_path("rustup") {
        return Err(Stop::Skipped("there is no rustup".into()));
    }
    let wanted = ["toolchain", "install", "nightly", "--profile", "minimal", "-c", "miri,rust-src", "--no-self-update"];
    let added = match sysroot("nightly") {
        Some(_) => works(&mut program("rustup", &["component", "add", "--toolchain", "nightly", "miri", "rust-src"])),
        None => works(&mut program("rustup", &wanted)),
    };
    match added {
        true => Ok(ONE),
        false => Err(Stop::Skipped("rustup does not reach its server".into())),
    }
}

/// Debian's packages, through root or sudo.
fn packages(programs: &[(&str, &'static str)]) -> Result<crate::step::Counts, Stop> {
    let mut wanted = Vec::new();
    for (name, package) in programs {
        if !is_on_path(name) {
            wanted.push(*package);
        }
    }
    if !has_nightly_source() && !has_debian_source() {
        wanted.extend(["rustc-web", "rust-web-src"]);
    }
    if !works(&mut program("python3", &["-c", "import ensurepip, venv"])) {
        wanted.extend(["python3", "python3-venv"]);
    }
    if wanted.is_empty() {
        return Ok(ONE);
    }
    let missing = |reason: &str| Stop::Skipped(format!("{reason}; wanted: {}", wanted.join(" ")));
    if !is_on_path("apt-get") {
        return Err(missing("there is no apt-get"));
    }
    let root = output(&mut program("id", &["-u"])).is_ok_and(|id| id.trim() == "0");
    let sudo: &[&str] = match root {
        true => &[],
        false if works(&mut program("sudo", &["-n", "true"])) => &["sudo", "-n"],
        false => return Err(missing("neither root nor sudo without a password")),
    };
    let apt = |arguments: &[&str]| {
        let words = [sudo, &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"], arguments].concat();
        run(&mut program(words[0], &words[1..]))
    };
    apt(&["update"])?;
    apt(&[&["install", "-y", "--no-install-recommends"], wanted.as_slice()].concat())
}

/// `.venv` with the pinned requirements, made anew when they have changed.
fn python_environment() -> Result<crate::step::Counts, Stop> {
    let root = crate::root();
    let Ok(wanted) = std::fs::read_to_string(root.join(REQUIREMENTS)) else {
        return Err(Stop::Skipped(format!("there is no {REQUIREMENTS}")));
    };
    let stamp = root.join(STAMP);
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(ONE);
    }
    if !works(&mut program("python3", &["-c", "import ensurepip, venv"])) {
        return Err(Stop::Skipped("there is no python3 with venv".into()));
    }
    run(&mut program("python3", &["-m", "venv", "--clear", ".venv"]))?;
    run(&mut program(".venv/bin/python", &["-m", "pip", "install", "--quiet", "-r", REQUIREMENTS]))?;
    std::fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))?;
    Ok(ONE)
}

/// The folder of programs of a Python environment in `target/tools` that holds these packages, made when it is not there: for
/// tests that do not run on every change.
pub(crate) fn environment(name: &str, packages: &[&str]) -> Result<PathBuf, Stop> {
    if !works(&mut program("python3", &["-c", "import ensurepip, venv"])) {
        return Err(Stop::Skipped("there is no python3 with venv".into()));
    }
    let folder = tools_folder().join(name);
    let (stamp, wanted) = (folder.join("installed.txt"), packages.join("\n"));
    if !std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        run(program("python3", &["-m", "venv", "--clear"]).arg(&folder))?;
        let python = folder.join("bin/python").to_string_lossy().into_owned();
        run(program(&python, &["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages))?;
        std::fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))?;
    }
    Ok(folder.join("bin"))
}

/// A cargo tool in `target/tools`, built without optimization: building it is most of what it costs.
fn cargo_tool(name: &str, version: &str) -> Result<crate::step::Counts, Stop> {
    if let Some(path) = tool(name)
        && output(&mut program(&path, &["--version"])).is_ok_and(|line| line.trim().ends_with(version))
    {
        return Ok(ONE);
    }
    let folder = tools_folder();
    let folder = folder.to_string_lossy();
    let words = ["install", "--quiet", "--locked", "--debug", "--root", &folder, "--version", version, name];
    run(cargo(&words).env("CARGO_PROFILE_DEV_DEBUG", "false"))
}
