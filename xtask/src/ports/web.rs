//! The engine as a library: in C under Valgrind, in WebAssembly in node; `page` has what is around the modules.

use super::page::{self, MODEL};
use super::story::{self, Desktop, PROMPT, Story};
use super::user::Model;
use super::{Extent, command, folder, toolchain};
use crate::install;
use crate::step::{self, Counts, ONE, Report, Stop, cargo, output, program, run, run_tests};
use std::path::PathBuf;

const MANIFEST: &str = "ports/libsmidgen/Cargo.toml";
const WASM: &str = "wasm32-unknown-unknown";
/// The modules, and what the compiler may assume of the engine that runs them. The first has kernels that no other machine has,
/// and every change has to pass it.
const MODULES: &[(&str, &str)] = &[("smidgen-simd.wasm", "+simd128"), ("smidgen.wasm", "-simd128")];
/// WebAssembly with the standard library, for core's own tests.
const WASI: &str = "wasm32-wasip1";
const CONTEXT_TOKENS: usize = 64;
const N_NEW: usize = 40;
/// A prompt for every checkpoint: ids below the size of every vocabulary, more of them than a batch.
const IDS: &str = "1 2 3 5 8 13 21 34 55 1 4 9 16 25 36 49 2 7 11 17 23 31 41 47";

/// Builds the library for this machine and for WebAssembly, and compares what it tells, and what it makes of `models`.
pub(super) fn all(report: &mut Report, desktop: &Desktop, models: &[Model], extent: Extent) {
    let model = crate::root().join(MODEL);
    let story = Story { model: &model, context_tokens: CONTEXT_TOKENS, n_new: N_NEW, cache: "f32" };
    let mut expected = String::new();
    let is_told = report.step("ports: the story of the library", |_| {
        expected = desktop.tell(&story)?;
        Ok(ONE)
    });
    if !is_told {
        return;
    }
    report.step("ports: the header of libsmidgen", |_| header());
    report.step("ports: libsmidgen in C", |_| in_c(&expected, extent));
    let built = report.step("ports: wasm", |_| {
        let counts = modules(extent)?;
        page::put_together()?;
        Ok(counts)
    });
    for (module, _) in wanted(extent).iter().filter(|_| built) {
        report.step(&format!("ports: {module} in node"), |_| in_node(module, &expected));
        report.step(&format!("ports: {module} in node, the checkpoints"), |_| checkpoints(module, models, extent));
    }
    if extent == Extent::All {
        report.step("ports: core's own tests in WebAssembly", core_tests);
    }
    if extent == Extent::All && built {
        report.step("ports: the page in Chromium", |_| page::in_chromium(&expected, CONTEXT_TOKENS, N_NEW));
        report.step("ports: the npm package", |_| page::as_package(&expected, CONTEXT_TOKENS, N_NEW));
    }
}

/// The header must be what cbindgen makes of the library.
fn header() -> Result<Counts, Stop> {
    let cbindgen = install::tool("cbindgen").ok_or(Stop::Skipped("cbindgen is not installed".into()))?;
    let words = ["--quiet", "--config", "ports/libsmidgen/cbindgen.toml", "ports/libsmidgen"];
    let header = "ports/libsmidgen/include/smidgen.h";
    let committed =
        std::fs::read_to_string(crate::root().join(header)).map_err(|error| format!("{header}: {error}"))?;
    match output(&mut program(&cbindgen, &words))? == committed {
        true => Ok(ONE),
        false => Err(Stop::Failed(format!("{header} is not what 'cbindgen {} -o {header}' writes", words.join(" ")))),
    }
}

/// The library for this machine, and where it is built: for a sample with the kernels of the definition alone.
pub(super) fn library(extent: Extent) -> Result<PathBuf, Stop> {
    let words = ["build", "--release", "--locked", "--quiet", "--manifest-path", MANIFEST, "--target-dir"];
    // A release takes what is in the first of these.
    let target = folder()?.join(if extent == Extent::All { "libsmidgen" } else { "libsmidgen-sample" });
    run(toolchain::with_kernels(extent, cargo(&words)).arg(&target))?;
    Ok(target)
}

/// The example, linked with the static library, once as it is and once with every access to memory looked at.
fn in_c(expected: &str, extent: Extent) -> Result<Counts, Stop> {
    if !install::is_on_path("gcc") {
        return Err(Stop::Skipped("there is no gcc".into()));
    }
    let target = library(extent)?;
    let example = target.join("story");
    let mut build =
        program("gcc", &["-std=c99", "-Wall", "-Wextra", "-Werror", "-O1", "ports/libsmidgen/examples/story.c"]);
    output(build.arg(target.join("release/libsmidgen.a")).arg("-o").arg(&example))?;
    let n_new = N_NEW.to_string();
    let printed = output(&mut program(&example.to_string_lossy(), &[MODEL, PROMPT, &n_new]))?;
    story::compare("libsmidgen", &printed, expected)?;
    if !install::is_on_path("valgrind") {
        return Err(Stop::Skipped("the example is right, but there is no valgrind to look at its memory".into()));
    }
    let words = ["--quiet", "--error-exitcode=1", "--leak-check=full", "--show-leak-kinds=all"];
    output(program("valgrind", &words).arg(&example).args([MODEL, PROMPT, "2"]))?;
    Ok(Counts { passed: 2, failed: 0 })
}

/// With vector instructions on every run, without them when everything is tried.
fn wanted(extent: Extent) -> &'static [(&'static str, &'static str)] {
    if extent == Extent::All { MODULES } else { &MODULES[..1] }
}

/// Builds the modules where the page will be.
pub(super) fn modules(extent: Extent) -> Result<Counts, Stop> {
    let modules = wanted(extent);
    let page = page::folder()?;
    let target = folder()?.join("boards");
    for (module, feature) in modules {
        let mut build = toolchain::bare(WASM)?;
        build.args(["--release", "--locked", "--quiet", "--manifest-path", MANIFEST, "--target-dir"]).arg(&target);
        build.env(
            "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS",
            format!("-Clink-arg=--export=__heap_base -Ctarget-feature={feature}"),
        );
        build.env_remove("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER");
        run(&mut build)?;
        let built = target.join(WASM).join("release/smidgen.wasm");
        std::fs::copy(&built, page.join(module)).map_err(|error| format!("{}: {error}", built.display()))?;
    }
    Ok(Counts { passed: modules.len(), failed: 0 })
}

fn in_node(module: &str, expected: &str) -> Result<Counts, Stop> {
    if !install::is_on_path("node") {
        return Err(Stop::Skipped("there is no node".into()));
    }
    let page = page::folder()?;
    let (library, wasm) = (page.join("smidgen.js"), page.join(module));
    let (context, n_new) = (CONTEXT_TOKENS.to_string(), N_NEW.to_string());
    let mut node = program("node", &["ports/web/test/story.mjs"]);
    let printed = output(node.arg(library).arg(wasm).args([MODEL, &context, &n_new, "f32", PROMPT]))?;
    story::compare(module, &printed, expected)
}

/// Every bit of the logits of each model's prompt, as the command writes them here; a sample of models has both blocks and floats.
fn checkpoints(module: &str, models: &[Model], extent: Extent) -> Result<Counts, Stop> {
    if !install::is_on_path("node") {
        return Err(Stop::Skipped("there is no node".into()));
    }
    if models.is_empty() {
        return Err(Stop::Failed("there is nothing to compare with".into()));
    }
    let page = page::folder()?;
    let logits = folder()?.join("web-logits.npy");
    let mut counts = Counts::default();
    let is_wanted = |model: &&Model| extent == Extent::All || model.name.ends_with("q8_0");
    for Model { name, path, .. } in models.iter().filter(is_wanted) {
        let words = ["--ids", IDS, "-n", "1", "--ignore-eos", "--temp", "0", "-t", "1", "--logits"];
        output(program(&command(), &["run"]).arg(path).args(words).arg(&logits))?;
        let mut node = program("node", &["ports/web/test/logits.mjs"]);
        node.arg(page.join("smidgen.js")).arg(page.join(module)).arg(path).arg(IDS).arg(&logits);
        match output(&mut node) {
            Ok(_) => counts.passed += 1,
            Err(Stop::Failed(reason) | Stop::Skipped(reason)) => {
                counts.failed += 1;
                step::say(&format!("{name}: {reason}"));
            }
        }
    }
    Ok(counts)
}

/// The tests of core itself, among them the one that holds the kernels for simd128 against the definition in every type.
fn core_tests(skipped: &mut Vec<String>) -> Result<Counts, Stop> {
    if !install::is_on_path("node") {
        return Err(Stop::Skipped("there is no node".into()));
    }
    if !toolchain::is_brought(WASI) {
        return Err(Stop::Skipped(format!("rustup has not brought {WASI}")));
    }
    let runner = crate::root().join("ports/web/test/wasi.mjs");
    let mut tests = cargo(&["test", "--locked", "--quiet", "--lib", "-p", "smidgen-core", "--target", WASI]);
    tests.arg("--target-dir").arg(folder()?.join("boards"));
    tests.env(toolchain::variable(WASI, "RUNNER"), format!("node --no-warnings {}", runner.display()));
    run_tests(tests.env(toolchain::variable(WASI, "RUSTFLAGS"), "-Ctarget-feature=+simd128"), skipped)
}
