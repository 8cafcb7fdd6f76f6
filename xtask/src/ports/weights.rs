//! The models that ports tell stories from: our own, or one of the shared data, quantized to fit.

use super::{command, folder};
use crate::install;
use crate::step::{Stop, output, program};
use std::path::{Path, PathBuf};

/// A model, each in a type of weights.
#[derive(Clone, Copy, Debug)]
pub(super) enum Weights {
    /// `models/tales.gguf`, 1.44 million weights.
    Tales(&'static str),
    /// stories260K.
    Stories260K(&'static str),
    /// babyllama, 0.9 million weights.
    Babyllama(&'static str),
    /// tales-3m, 3 million weights.
    Tales3M(&'static str),
    /// The shape of stories15M, 15 million weights, with random ones.
    Random15M(&'static str),
}

use Weights::{Babyllama, Random15M, Stories260K, Tales, Tales3M};

impl Weights {
    /// The model's file, made when it is not there.
    pub(super) fn model(self) -> Result<PathBuf, Stop> {
        let folder = folder()?;
        let (name, kind) = match self {
            Tales("q8_0") => return Ok(crate::root().join("models/tales.gguf")),
            Tales(kind) => ("tales", kind),
            Stories260K(kind) => ("stories260K", kind),
            Babyllama(kind) => ("babyllama", kind),
            Tales3M(kind) => ("tales-3m", kind),
            Random15M(kind) => ("s15M", kind),
        };
        let path = folder.join(format!("{name}-{kind}.gguf"));
        let source = match self {
            Tales(_) => crate::root().join("models/tales.gguf"),
            Stories260K(_) => converted(name, "llama2c/stories260K.bin", Some("llama2c/tok512.bin"))?,
            Babyllama(_) => converted(name, "llama2c/babyllama.bin", Some("llama2c/babyllama.tok.bin"))?,
            Tales3M(_) => converted(name, "hf/tales-3m", None)?,
            Random15M(_) => random(&folder.join("random"))?,
        };
        let mut quantize = program(&command(), &["quantize", "--requantize", "--pure"]);
        output(quantize.arg(source).arg(&path).arg(kind))?;
        Ok(path)
    }
}

fn data() -> Result<PathBuf, Stop> {
    crate::shared_data().ok_or(Stop::Skipped("no shared data".into()))
}

/// A model of the shared data as a GGUF file.
fn converted(name: &str, from: &str, tokenizer: Option<&str>) -> Result<PathBuf, Stop> {
    let (data, to) = (data()?, folder()?.join(format!("{name}.gguf")));
    let mut convert = program(&command(), &["convert"]);
    convert.arg(data.join(from)).arg(&to);
    if let Some(tokenizer) = tokenizer {
        convert.arg("--tokenizer").arg(data.join(tokenizer));
    }
    output(&mut convert)?;
    Ok(to)
}

/// The model with random weights, in F16, by the tool that makes those of the benchmarks.
fn random(folder: &Path) -> Result<PathBuf, Stop> {
    let missing = "there is no Python environment ('cargo xtask install' makes one)";
    let python = install::python().ok_or(Stop::Skipped(missing.into()))?;
    let mut tool = program(&python.to_string_lossy(), &["tools/bench_models.py", &command()]);
    output(tool.arg(data()?).arg(folder).arg("s15M:F16"))?;
    Ok(folder.join("s15M-F16.gguf"))
}
