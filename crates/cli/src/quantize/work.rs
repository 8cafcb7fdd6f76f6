//! A model and what is wanted of it: from the flags to types that can all be written.

use super::choice::{self, Chosen, Wish};
use super::forecast::{self, Sizes};
use super::known::{self, Known};
use crate::failure::Failure;
use crate::load::host_failure;
use crate::report;
use smidgen_compress::encode::can_write;
use smidgen_compress::recipe::fallback::Fallback;
use smidgen_compress::recipe::{Shape, Tensor};
use smidgen_core::bytes::Endian;
use smidgen_core::gguf::Gguf;
use smidgen_core::quant::Type;
use smidgen_host::Import;
use smidgen_host::emit::{Emission, Entry, FileType, Target};

/// A model and what is wanted of it.
#[derive(Debug)]
pub struct Work<'a> {
    /// How messages call the model.
    name: &'a str,
    wish: Wish,
    fallback: Option<Fallback>,
    shape: Shape,
    tensors: Vec<Tensor>,
    /// Metadata about how the types were chosen.
    entries: Vec<(&'static str, Entry)>,
}

/// The header of `import` as it is stored, to be parsed, and the size of that file.
///
/// # Errors
/// Metadata that cannot be made.
pub fn stored_header(import: &Import) -> Result<(Vec<u8>, u64), Failure> {
    let emission = Emission::new(import.source(), &Target::as_stored(import.source())).map_err(host_failure)?;
    Ok((emission.header_image(), emission.file_bytes()))
}

impl<'a> Work<'a> {
    /// Finds what `wish` means for `import`, the model called `name` whose header is `gguf`.
    ///
    /// # Errors
    /// A model without the numbers that recipes go by.
    pub fn new(
        name: &'a str,
        import: &Import,
        gguf: &Gguf<'_>,
        wish: Wish,
        fallback: Option<Fallback>,
        entries: Vec<(&'static str, Entry)>,
    ) -> Result<Self, Failure> {
        let shape = choice::shape(gguf).map_err(|what| Failure::Input(format!("{name}: {what}")))?;
        let tensors = choice::tensors(import.tensors());
        Ok(Work { name, wish, fallback, shape, tensors, entries })
    }

    fn refused(&self, what: String) -> Failure {
        Failure::Input(format!("{}: {what}", self.name))
    }

    /// What the model becomes with `types`.
    pub fn target(&self, types: Vec<Type>) -> Target {
        let file_type = self.wish.recipe.file_type().map_or(FileType::Unnamed, FileType::Recipe);
        Target { types, file_type, entries: self.entries.clone(), endian: Endian::Little }
    }

    /// The types of all tensors, or why there are none and what there could be.
    ///
    /// # Errors
    /// A wish that matches nothing, rows that do not fit, or types that cannot be written.
    pub fn types(&self, import: &Import) -> Result<Vec<Type>, Failure> {
        let Chosen { types, misfits } = self.choose(self.fallback)?;
        if !misfits.is_empty() {
            return Err(self.misfit(import, &choice::listed(&misfits))?);
        }
        let unwritable = |(kind, tensor): &(&Type, &Tensor)| **kind != tensor.kind && !can_write(**kind);
        if let Some((kind, tensor)) = types.iter().zip(&self.tensors).find(unwritable) {
            return Err(self.refused(format!("{}: tensors cannot be written as {}", tensor.name, kind.name())));
        }
        Ok(types)
    }

    /// Refuses types of so few bits that their inputs must be known, where they are not.
    ///
    /// # Errors
    /// The tensors, and the command that finds out.
    pub fn check_known(&self, types: &[Type], known: Option<&Known<'_>>) -> Result<(), Failure> {
        let unknown = known::unknown(Some(&self.wish.recipe), &self.tensors, types, known);
        let listed = choice::listed(&unknown);
        match known {
            _ if unknown.is_empty() => Ok(()),
            None => Err(self.refused(format!(
                "{listed} would be made blindly: so few bits are worth writing only when it is known which weights matter; \
                 'smidgen calibrate {} -f TEXT -o imatrix.gguf' finds out, then add --imatrix imatrix.gguf; or give a text here, with -f TEXT",
                self.name
            ))),
            Some(_) => Err(self.refused(format!("the calibration knows nothing of {listed}"))),
        }
    }

    /// Says which rows do not fit, and what the file would be with each way out.
    fn misfit(&self, import: &Import, listed: &str) -> Result<Failure, Failure> {
        let mut ways = Vec::new();
        for (name, fallback, what) in [
            ("any", Fallback::AnyWidth, "types for rows of any width, of like bits"),
            ("llama", Fallback::Llama, "what llama.cpp takes without asking"),
        ] {
            let sizes = self.sizes_with(import, fallback)?;
            ways.push(format!(
                "--fallback {name} ({what}: {}; {}, {:.2} bits per weight)",
                sizes.counts(),
                report::bytes(sizes.file_bytes),
                sizes.file_bits_per_weight(),
            ));
        }
        let name = self.wish.recipe.name();
        Ok(self.refused(format!(
            "{name} cannot have the rows of {listed}; choose {}, or --fallback TYPE",
            ways.join(" or ")
        )))
    }

    /// The file with `fallback` for rows that do not fit.
    ///
    /// # Errors
    /// A wish that matches nothing, or tensors that cannot have the fallback.
    pub fn sizes_with(&self, import: &Import, fallback: Fallback) -> Result<Sizes, Failure> {
        forecast::sizes(import, &self.target(self.choose(Some(fallback))?.types))
    }

    fn choose(&self, fallback: Option<Fallback>) -> Result<Chosen, Failure> {
        let chosen = self.wish.choose(&self.shape, &self.tensors, fallback);
        chosen.map_err(|error| Failure::Input(format!("quantize: {error}")))
    }

    /// Whether weights are quantized a second time, which must have been asked for.
    ///
    /// # Errors
    /// When it was not.
    pub fn check_source(&self, types: &[Type], allowed: bool) -> Result<bool, Failure> {
        check_source(self.name, &self.tensors, types, allowed)
    }
}

/// Whether the weights of `tensors`, of the model called `name`, are quantized a second time when they become `types`, which
/// must be `allowed`.
///
/// # Errors
/// When it is not.
pub fn check_source(name: &str, tensors: &[Tensor], types: &[Type], allowed: bool) -> Result<bool, Failure> {
    let is_float = |kind: Type| matches!(kind, Type::F32 | Type::F16 | Type::BF16);
    let twice: Vec<String> = types
        .iter()
        .zip(tensors)
        .filter(|(kind, tensor)| **kind != tensor.kind && !is_float(tensor.kind))
        .map(|(_, tensor)| format!("{} ({})", tensor.name, tensor.kind.name()))
        .collect();
    if twice.is_empty() || allowed {
        return Ok(!twice.is_empty());
    }
    Err(Failure::Input(format!(
        "{name}: is quantized already: {}; what that lost stays lost, and rounding again loses more than rounding the \
         original; --requantize does it all the same",
        choice::listed(&twice)
    )))
}
