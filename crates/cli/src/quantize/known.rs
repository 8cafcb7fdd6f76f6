//! What is known of a model's inputs, from `--imatrix` or from a text, and what has to be known.

use crate::failure::Failure;
use crate::load::host_failure;
use smidgen_compress::calibration::{Calibration, Moment, Sums, input_of};
use smidgen_compress::encode::needs_calibration;
use smidgen_compress::recipe::{EMBEDDING, OUTPUT, Recipe, Tensor};
use smidgen_core::gguf::Gguf;
use smidgen_core::quant::Type;
use smidgen_host::emit::Entry;
use smidgen_host::image::Image;
use std::path::{Path, PathBuf};

/// What is known of a model's inputs.
pub enum Known<'a> {
    /// What a file says.
    File(Calibration<'a>),
    /// What a text showed: sums of each input, and whether the token embedding is the output matrix too.
    Text(Vec<Sums>, bool),
}

impl Known<'_> {
    /// The mean square of each column of what the matrix called `name` is multiplied with.
    pub fn importance(&self, name: &str) -> Option<Vec<f32>> {
        match self {
            Known::File(calibration) => calibration.importance(name).map(<[f32]>::to_vec),
            Known::Text(..) => self.sums(name).map(Sums::importance),
        }
    }

    /// The second moment of what it is multiplied with.
    pub fn moment(&self, name: &str) -> Option<Moment<'_>> {
        match self {
            Known::File(calibration) => calibration.moment(name),
            Known::Text(..) => self.sums(name)?.moment(),
        }
    }

    fn sums(&self, name: &str) -> Option<&Sums> {
        let Known::Text(sums, is_tied) = self else { return None };
        let input = input_of(name).filter(|_| name != EMBEDDING || *is_tied)?;
        sums.iter().find(|sums| sums.input() == input)
    }
}

/// The bytes of an imatrix.
#[derive(Debug)]
pub struct ImatrixFile {
    path: PathBuf,
    image: Image,
}

impl ImatrixFile {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        Ok(ImatrixFile { path: path.to_owned(), image: Image::map(path).map_err(host_failure)? })
    }

    /// What tells it from another: its place, its size and when it was written.
    pub fn identity(&self) -> String {
        super::measured::identity(&self.path)
    }

    /// What it says of the model in `gguf`.
    ///
    /// # Errors
    /// A file that is no imatrix, or one of another model.
    pub fn read(&self, gguf: &Gguf<'_>) -> Result<Calibration<'_>, Failure> {
        let refused = |error| Failure::Input(format!("{}: {error}", self.path.display()));
        let calibration = Calibration::read(&self.image).map_err(refused)?;
        calibration.check(gguf).map_err(refused)?;
        Ok(calibration)
    }

    /// The metadata that llama.cpp writes into a file that was made with it.
    pub fn entries(&self, calibration: &Calibration<'_>) -> Vec<(&'static str, Entry)> {
        let number = |n: u64| Entry::U32(u32::try_from(n).unwrap_or(u32::MAX));
        let mut entries = vec![("quantize.imatrix.file", Entry::Str(self.path.display().to_string()))];
        if let Some(dataset) = calibration.datasets.first() {
            entries.push(("quantize.imatrix.dataset", Entry::Str(dataset.clone())));
        }
        entries.push(("quantize.imatrix.entries_count", number(calibration.names().count() as u64)));
        if calibration.n_chunks > 0 {
            entries.push(("quantize.imatrix.chunks_count", number(calibration.n_chunks)));
        }
        entries
    }
}

/// The tensors that would get a type of so few bits that their inputs must be known, and are not.
pub fn unknown(recipe: Option<&Recipe>, tensors: &[Tensor], types: &[Type], known: Option<&Known<'_>>) -> Vec<String> {
    let has_output = tensors.iter().any(|tensor| tensor.name == OUTPUT);
    let is_unknown = |(tensor, kind): &(&Tensor, &Type)| {
        let is_narrow = needs_calibration(**kind) || recipe.is_some_and(|recipe| recipe.insists_on_importance(**kind));
        // An embedding that is no output matrix is multiplied with nothing.
        let is_read = tensor.name == EMBEDDING && has_output && known.is_some();
        let is_known = known.is_some_and(|known| known.importance(&tensor.name).is_some());
        tensor.kind != **kind && is_narrow && !is_read && !is_known
    };
    let unknown = tensors.iter().zip(types).filter(is_unknown);
    unknown.map(|(tensor, kind)| format!("{} ({})", tensor.name, kind.name())).collect()
}
