//! Writes a [`Source`] as GGUF, a few rows at a time: to a file for `convert` and `quantize`, to memory for `open`.

use std::io::Write;

use smidgen_core::bytes::Endian;
use smidgen_core::quant::Type;
use smidgen_core::workers::Workers;

use crate::encode::Encode;
use crate::error::Error;
use crate::gguf_write::{Header, QUANTIZATION_VERSION};
use crate::image::{Image, Pages};
use crate::progress::{Progress, Work};
use crate::source::Source;
use crate::stream::{Buffers, TensorWriter};

/// What `general.file_type` says of the file written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// The weights have the types they had: what the source says.
    AsStored,
    /// llama.cpp's number for the recipe that the types come from.
    Recipe(u32),
    /// The types come from no recipe that llama.cpp has a number for.
    Unnamed,
}

/// The value of a metadata entry that a caller adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A number.
    U32(u32),
    /// A text.
    Str(String),
}

/// What a model is to become.
#[derive(Clone, Debug)]
pub struct Target {
    /// The type of each tensor, in the order of the source.
    pub types: Vec<Type>,
    /// What the file says it is.
    pub file_type: FileType,
    /// Metadata entries beside those of the model.
    pub entries: Vec<(&'static str, Entry)>,
    /// The byte order of the file.
    pub endian: Endian,
}

impl Target {
    /// The model as it is.
    pub fn as_stored(source: &dyn Source) -> Self {
        let types = source.tensors().iter().map(|tensor| tensor.kind).collect();
        Target { types, file_type: FileType::AsStored, entries: Vec::new(), endian: Endian::Little }
    }
}

/// A file whose every byte count is known: its header, and the type of each tensor, all checked before a byte is written.
pub struct Emission {
    header: Header,
    types: Vec<Type>,
}

/// What writing a file needs beside the model.
#[derive(Clone, Copy)]
pub struct Means<'a> {
    /// How rows become bytes.
    pub encode: &'a dyn Encode,
    /// Who does it. The bytes are the same for any number of workers.
    pub workers: &'a dyn Workers,
    /// Told how far the work has come.
    pub progress: &'a dyn Progress,
}

impl Emission {
    /// Plans the file that `source` becomes.
    ///
    /// # Errors
    /// A tensor whose rows its type cannot have, that cannot be read, or that has no form in the byte order asked for;
    /// metadata that cannot be made.
    pub fn new(source: &dyn Source, target: &Target) -> Result<Self, Error> {
        let subject = &source.files()[0];
        let mut header = Header::new(target.endian);
        source.metadata(&mut header, target.file_type)?;
        for (key, entry) in &target.entries {
            match entry {
                Entry::U32(number) => header.u32(key, *number),
                Entry::Str(text) => header.str(key, text.as_bytes()),
            }
        }
        for (tensor, &kind) in source.tensors().iter().zip(&target.types) {
            let refused = |what: String| Error::bad(subject, format!("tensor '{}'{what}", tensor.shown()));
            header.tensor(&tensor.name, &tensor.dims, kind).ok_or_else(|| {
                refused(format!(": rows of {} are not whole {} blocks", tensor.n_columns(), kind.name()))
            })?;
            if kind != tensor.kind && tensor.kind.dequantize(&[], &mut []).is_err() {
                return Err(refused(format!(
                    " is {}, which cannot be turned into {}",
                    tensor.kind.name(),
                    kind.name()
                )));
            }
            if target.endian == Endian::Big && kind.swap_endian(&mut []).is_err() {
                return Err(refused(format!(": {} has no big-endian form here", kind.name())));
            }
        }
        Ok(Emission { header, types: target.types.clone() })
    }

    /// Bytes that [`Emission::write`] will write.
    pub fn file_bytes(&self) -> u64 {
        self.header.file_bytes()
    }

    /// Bytes before the first tensor's.
    pub fn header_bytes(&self) -> u64 {
        self.header.header_bytes()
    }

    /// Tensor data begins on multiples of this many bytes.
    pub fn alignment_bytes(&self) -> u64 {
        self.header.alignment_bytes()
    }

    /// The type of each tensor in the order of the source.
    pub fn types(&self) -> &[Type] {
        &self.types
    }

    /// The bytes before the first tensor's: enough to parse, as of a file of [`Emission::file_bytes`].
    pub fn header_image(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A vector takes every byte.
        let _ = self.header.write(&mut bytes);
        bytes
    }

    /// The header itself.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// Writes the whole file into pages of exactly its size; with the errors that [`Emission::write`] returns.
    ///
    /// # Errors
    /// As [`Emission::write`], or when memory is not enough.
    pub fn to_pages(&self, source: &mut dyn Source, means: &Means<'_>) -> Result<(Pages, Vec<f64>), Error> {
        let subject = source.files()[0].clone();
        let mut pages = Image::pages(self.file_bytes()).map_err(|error| error(&subject))?;
        let mut out: &mut [u8] = &mut pages;
        let errors = self.write(source, &mut out, &|error| Error::failed(&subject, error), means)?;
        Ok((pages, errors))
    }

    /// Writes the whole file to `out`; a failure to write is reported through `failed`. Returns the error that rounding made
    /// in each tensor: the root mean square of the differences over that of the weights, 0 where nothing was rounded.
    ///
    /// # Errors
    /// A source that cannot be read, a weight that is not finite or too large for its type, or `failed`.
    pub fn write(
        &self,
        source: &mut dyn Source,
        out: &mut dyn Write,
        failed: &dyn Fn(std::io::Error) -> Error,
        means: &Means<'_>,
    ) -> Result<Vec<f64>, Error> {
        let work = Work::begin(means.progress, "converting", self.file_bytes());
        self.header.write(out).map_err(failed)?;
        work.advance(self.header.header_bytes());
        let mut buffers = Buffers::new(means.workers.n_workers());
        let mut errors = Vec::with_capacity(self.types.len());
        for (index, &kind) in self.types.iter().enumerate() {
            let endian = self.header.endian();
            let mut writer = TensorWriter { source, index, kind, endian, means, buffers: &mut buffers };
            let written = writer.write(out, failed, &work)?;
            self.header.pad(out, written.n_bytes).map_err(failed)?;
            errors.push(written.error);
        }
        Ok(errors)
    }
}

/// Writes the entries that describe the types of a file's weights; `stored` is the number of those that the source has.
pub(crate) fn write_types(file_type: FileType, stored: u32, header: &mut Header) {
    match file_type {
        FileType::AsStored => header.u32("general.file_type", stored),
        FileType::Recipe(number) => header.u32("general.file_type", number),
        FileType::Unnamed => {}
    }
    header.u32("general.quantization_version", QUANTIZATION_VERSION);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::Plain;
    use crate::progress::Silent;
    use crate::source::TensorInfo;
    use smidgen_core::workers::Single;
    use std::path::PathBuf;

    const MEANS: Means<'_> = Means { encode: &Plain, workers: &Single, progress: &Silent };

    /// One tensor of ones.
    struct Ones([PathBuf; 1], [TensorInfo; 1]);

    impl Ones {
        fn new(n_rows: u64) -> Self {
            let info = TensorInfo { name: b"ones".to_vec(), dims: vec![32, n_rows], kind: Type::F32, pinned: false };
            Ones([PathBuf::from("ones")], [info])
        }

        fn emission(&self, kind: Type, endian: Endian) -> Emission {
            let target = Target { types: vec![kind], endian, ..Target::as_stored(self) };
            Emission::new(self, &target).unwrap()
        }
    }

    impl Source for Ones {
        fn files(&self) -> &[PathBuf] {
            &self.0
        }

        fn metadata(&self, _: &mut Header, _: FileType) -> Result<(), Error> {
            Ok(())
        }

        fn tensors(&self) -> &[TensorInfo] {
            &self.1
        }

        fn read_rows(&mut self, _: usize, _: u64, out: &mut [u8]) -> Result<(), Error> {
            out.as_chunks_mut::<4>().0.fill(1f32.to_le_bytes());
            Ok(())
        }
    }

    /// Takes so many bytes and then says that the disk is full.
    struct Disk(usize);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_reported_wherever_it_fills() {
        let mut source = Ones::new(3);
        let emission = source.emission(Type::Q8_0, Endian::Big);
        let failed = |error| Error::writing("disk", &error);
        for room in 0..emission.file_bytes() as usize {
            let error = emission.write(&mut source, &mut Disk(room), &failed, &MEANS).unwrap_err();
            assert_eq!(error.exit_code(), 1);
        }
        emission.write(&mut source, &mut Disk(emission.file_bytes() as usize), &failed, &MEANS).unwrap();
    }

    #[test]
    fn rows_pass_in_groups_without_a_seam() {
        // More rows than one group holds, and not a whole number of groups.
        let n_rows = (256 << 10) / 128 * 2 + 5;
        let mut source = Ones::new(n_rows);
        let emission = source.emission(Type::F32, Endian::Little);
        let mut bytes = Vec::new();
        let failed = |error| Error::writing("memory", &error);
        emission.write(&mut source, &mut bytes, &failed, &MEANS).unwrap();
        assert_eq!(bytes.len() as u64, emission.file_bytes());
        let data = &bytes[bytes.len() - (n_rows * 128) as usize..];
        assert!(data.as_chunks::<4>().0.iter().all(|&bytes| f32::from_le_bytes(bytes) == 1.0));
    }
}
