//! Exported C under the strictest compilers: no warning, code and statics of the size that was promised, the engine's bits.

use super::{COMPILERS, STRICT, compiler, export, tales};
use crate::ports::story::{self, PROMPT};
use crate::ports::user::Model;
use crate::ports::{Extent, folder};
use crate::step::{self, Counts, ONE, Stop, output, program};
use std::path::Path;

/// Bytes of machine code and constants that one model may take at -Os on x86-64.
const CODE_BYTES: usize = 32 << 10;
/// The prompt of `ports/user`, what it adds, and its cache.
const IDS: [u32; 9] = [1, 2, 3, 5, 8, 13, 21, 34, 55];
const N_NEW_IDS: usize = 16;

/// What a file takes, by `size`.
pub(super) struct Sizes {
    /// Code and constants.
    pub(super) text: usize,
    /// Statics, with values and without.
    statics: usize,
}

impl Sizes {
    pub(super) fn of(file: &Path) -> Result<Sizes, Stop> {
        let listing = output(program("size", &[]).arg(file))?;
        let unread = || Stop::Failed(format!("size says what is not understood: {listing}"));
        let line = listing.lines().nth(1).ok_or_else(unread)?;
        let mut numbers = line.split_whitespace().take(3).map(str::parse::<usize>);
        let mut next = || numbers.next().and_then(Result::ok).ok_or_else(unread);
        Ok(Sizes { text: next()?, statics: next()? + next()? })
    }
}

/// Compiles the engine alone at -Os, and holds its code and its statics to what is promised of them.
fn small(name: &str, folder: &Path) -> Result<Sizes, Stop> {
    let object = folder.join(format!("model-{name}.o"));
    output(compiler(name, STRICT)?.args(["-Os", "-c", "model.c", "-o"]).arg(&object).current_dir(folder))?;
    let sizes = Sizes::of(&object)?;
    if sizes.text > CODE_BYTES {
        return Err(Stop::Failed(format!("{name}: {} bytes of code at -Os; at most {CODE_BYTES}", sizes.text)));
    }
    let path = folder.join("model.c");
    let source = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let promised = promised(&source).ok_or(Stop::Failed("model.c does not say what its statics take".into()))?;
    match sizes.statics <= promised {
        true => Ok(sizes),
        false => Err(Stop::Failed(format!("{name}: {} bytes of statics; promised {promised}", sizes.statics))),
    }
}

/// The bytes of the plan, and of the statics beside it, that the head of `model.c` names.
fn promised(source: &str) -> Option<usize> {
    let line = source.lines().find(|line| line.ends_with("with the plan, at most"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Compiles the program with every warning an error, once with its data linked and once with its data in a file, and looks at its
/// stories and its size.
pub(super) fn native(name: &str, expected: &str) -> Result<Counts, Stop> {
    let folder = tales()?;
    let Sizes { text, statics } = small(name, &folder)?;
    step::say(&format!("{text} bytes of code and constants at -Os, {statics} bytes of statics"));
    let story = folder.join(format!("story-{name}")).to_string_lossy().into_owned();
    let mut build = compiler(name, STRICT)?;
    build.args(["-O2", "-DSMIDGEN_MAIN", "model.c", "model_data.c", "-o", &story]).current_dir(&folder);
    output(&mut build)?;
    story::compare(name, &output(&mut program(&story, &[]))?, expected)?;
    // The prompt as text, which the program encodes itself.
    story::compare(name, &output(&mut program(&story, &[PROMPT]))?, expected)?;
    let loaded = loaded(name, &folder)?;
    story::compare(name, &output(program(&loaded, &["model.bin"]).current_dir(&folder))?, expected)?;
    Ok(Counts { passed: 6, failed: 0 })
}

/// Compiles `ports/c/loaded.c`, which reads its data when it runs.
pub(super) fn loaded(name: &str, folder: &Path) -> Result<String, Stop> {
    let to = folder.join(format!("loaded-{name}")).to_string_lossy().into_owned();
    let mut build = compiler(name, STRICT)?;
    build.args(["-O2", "-DSMIDGEN_DATA_POINTER", "-I."]).arg(crate::root().join("ports/c/loaded.c"));
    output(build.args(["-o", &to]).current_dir(folder))?;
    Ok(to)
}

/// Every checkpoint of the tests in every weight type, or in a sample in one, by token ids and with each compiler.
pub(super) fn families(models: &[Model], extent: Extent) -> Result<Counts, Stop> {
    let is_wanted =
        |model: &&Model| model.name.contains(' ') && (extent == Extent::All || model.name.ends_with("q8_0"));
    let mut counts = Counts::default();
    let mut largest = 0;
    for model in models.iter().filter(is_wanted) {
        let folder = by_ids(model)?;
        for name in COMPILERS {
            match try_model(name, model, &folder) {
                Ok(code) => {
                    counts.passed += 1;
                    largest = largest.max(code);
                }
                Err(Stop::Failed(reason)) => {
                    counts.failed += 1;
                    step::say(&format!("{}, {name}: {reason}", model.name));
                }
                Err(skipped) => return Err(skipped),
            }
        }
    }
    if counts == Counts::default() {
        return Err(Stop::Skipped("ports/user gave nothing to compare with".into()));
    }
    step::say(&format!("at most {largest} bytes of code and constants at -Os"));
    Ok(counts)
}

/// Exports a model with the prompt of `ports/user`; gives the folder.
fn by_ids(model: &Model) -> Result<std::path::PathBuf, Stop> {
    let folder = folder()?.join("c-ids");
    let config =
        crate::root().join("testdata/hf").join(model.name.split(' ').next().unwrap_or_default()).join("config.json");
    let text = std::fs::read_to_string(&config).map_err(|error| format!("{}: {error}", config.display()))?;
    let config: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let n_vocab = config["vocab_size"].as_u64().ok_or("config.json: no vocab_size".to_string())? as u32;
    let ids = IDS.map(|id| (id % n_vocab).to_string()).join(" ");
    let n_new = N_NEW_IDS.to_string();
    let context = (IDS.len() + N_NEW_IDS).to_string();
    export(&model.path, &folder, &["-c", &context, "-n", &n_new, "--ids", &ids, "--ctk", "f32", "--ctv", "f16"])?;
    Ok(folder)
}

/// Compiles the exported `model` small and runs it; gives the bytes of its code.
fn try_model(name: &str, model: &Model, folder: &Path) -> Result<usize, Stop> {
    let sizes = small(name, folder)?;
    let mut build = compiler(name, STRICT)?;
    output(build.args(["-O1", "-DSMIDGEN_MAIN", "model.c", "model_data.c", "-o", "story"]).current_dir(folder))?;
    let printed = output(&mut program(&folder.join("story").to_string_lossy(), &[]))?;
    // `ports/user` prints the hash of formats, that of the logits, and the ids, which follow from the logits: a program
    // with a tokenizer shows them as text.
    let hash = model.expected.split(' ').nth(1).filter(|hash| !hash.is_empty());
    match hash.is_some_and(|hash| printed.ends_with(&format!("logits {hash}\n"))) {
        true => Ok(sizes.text),
        false => Err(Stop::Failed(format!("not what the engine gives:\n{printed}wanted: {}", model.expected))),
    }
}

/// An Xtensa of another kind than an ESP32-S3's, as near as Debian's compilers come: it compiles, and is not run.
pub(super) fn xtensa() -> Result<Counts, Stop> {
    let mut build = compiler("xtensa-lx106-elf-gcc", STRICT)?;
    output(build.args(["-Os", "-ffreestanding", "-c", "model.c", "-o", "xtensa.o"]).current_dir(tales()?))?;
    Ok(ONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_promises_is_read() {
        let head = " *       210304  in all\n *\n *         4609  text\n *       214977  with the plan, at most\n */\n";
        assert_eq!(promised(head), Some(214_977));
        assert_eq!(promised("/* nothing */"), None);
    }
}
