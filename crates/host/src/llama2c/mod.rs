//! llama2.c checkpoints: the legacy file, version 1 (f32) and version 2 (int8 groups), with their tokenizer.
//!
//! Format: `export.py` and `run.c` of llama2.c. The query and key weights are already in the order of interleaved
//! rotary positions, which is also that of GGUF's llama, so that nothing is permuted here.

pub mod tokenizer;

mod layout;

use std::path::{Path, PathBuf};

use smidgen_core::quant::Type;

use crate::emit::{FileType, write_types};
use crate::error::Error;
use crate::gguf_write::Header;
use crate::image::read_small;
use crate::source::{DataFile, Source, TensorInfo};
use crate::uniform::stored_file_type;
pub use layout::{Checkpoint, parse_header};
use layout::{Place, Stored};

/// No vocabulary is larger; a file beyond this is something else.
const TOKENIZER_LIMIT_BYTES: u64 = 64 << 20;
/// RMS norms of llama2.c add this to the mean square.
const NORM_EPSILON: f32 = 1e-5;
/// The base of the rotary frequencies that llama2.c computes.
const ROPE_THETA: f32 = 10000.0;

/// A llama2.c checkpoint as a [`Source`].
pub struct Llama2cSource {
    files: Vec<PathBuf>,
    data: DataFile,
    checkpoint: Checkpoint,
    tensors: Vec<TensorInfo>,
    places: Vec<Place>,
    pieces: Option<tokenizer::Pieces>,
}

impl Llama2cSource {
    /// Whether `magic` begins a version 1 or later checkpoint; a legacy one has no magic.
    pub fn is_magic(magic: [u8; 4]) -> bool {
        u32::from_le_bytes(magic) == layout::MAGIC
    }

    /// Opens the checkpoint at `path` with the tokenizer at `tokenizer`, or one that lies beside it
    /// (`tokenizer.bin`, `tok<vocab>.bin`); when there is none, the model takes and gives token ids only.
    ///
    /// The groups of a version 2 file become Q8_0 blocks, whose scales are f16 where llama2.c has f32 (a relative
    /// difference of at most 2^-11). When another type is asked for, or rows and groups are not multiples of 32, the
    /// weights become F32, exactly.
    ///
    /// # Errors
    /// The field of either file that is wrong.
    pub fn open(path: &Path, tokenizer: Option<&Path>, outtype: Option<Type>) -> Result<Self, Error> {
        let mut data = DataFile::open(path)?;
        let mut start = vec![0; data.len().min(layout::HEADER_BYTES) as usize];
        data.read_at(0, &mut start)?;
        let checkpoint = parse_header(&start, data.len()).map_err(|flaw| flaw.in_file(path))?;
        let exact = outtype.is_some_and(|kind| kind != Type::Q8_0);
        let (tensors, places) = layout::tensors(&checkpoint, exact);
        let mut files = vec![path.to_path_buf()];
        let found = tokenizer.map(Path::to_path_buf).or_else(|| find_tokenizer(path, checkpoint.n_vocab));
        let pieces =
            found.map(|found| read_tokenizer(&found, &checkpoint).inspect(|_| files.push(found))).transpose()?;
        Ok(Llama2cSource { files, data, checkpoint, tensors, places, pieces })
    }
}

/// A tokenizer beside the model: one named after its vocabulary size rather than one that may belong to another model.
fn find_tokenizer(path: &Path, n_vocab: u32) -> Option<PathBuf> {
    let names = [format!("tok{n_vocab}.bin"), "tokenizer.bin".to_string()];
    names.iter().map(|name| path.with_file_name(name)).find(|beside| beside != path && beside.is_file())
}

fn read_tokenizer(path: &Path, checkpoint: &Checkpoint) -> Result<tokenizer::Pieces, Error> {
    let bytes = read_small(path, TOKENIZER_LIMIT_BYTES)?;
    let pieces = tokenizer::parse(&bytes).map_err(|flaw| flaw.in_file(path))?;
    if pieces.len() != checkpoint.n_vocab as usize {
        let message = format!("{} pieces, but the model has a vocabulary of {}", pieces.len(), checkpoint.n_vocab);
        return Err(Error::bad(path, message));
    }
    Ok(pieces)
}

impl Source for Llama2cSource {
    fn files(&self) -> &[PathBuf] {
        &self.files
    }

    fn metadata(&self, header: &mut Header, file_type: FileType) -> Result<(), Error> {
        let model = &self.checkpoint;
        let name = self.files[0].file_stem().unwrap_or_default().to_string_lossy();
        header.str("general.architecture", b"llama");
        header.str("general.type", b"model");
        header.str("general.name", name.as_bytes());
        write_types(file_type, stored_file_type(&self.tensors), header);
        header.u32("llama.vocab_size", model.n_vocab);
        header.u32("llama.context_length", model.context_tokens);
        header.u32("llama.embedding_length", model.n_embd);
        header.u32("llama.block_count", model.n_layers);
        header.u32("llama.feed_forward_length", model.n_ff);
        header.u32("llama.attention.head_count", model.n_heads);
        header.u32("llama.attention.head_count_kv", model.n_kv_heads);
        header.f32("llama.attention.layer_norm_rms_epsilon", NORM_EPSILON);
        header.u32("llama.rope.dimension_count", model.n_embd / model.n_heads);
        header.f32("llama.rope.freq_base", ROPE_THETA);
        if let Some(pieces) = &self.pieces {
            pieces.write(header);
        }
        Ok(())
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn read_rows(&mut self, tensor: usize, first_row: u64, out: &mut [u8]) -> Result<(), Error> {
        let info = &self.tensors[tensor];
        let place = &self.places[tensor];
        let first = first_row * info.n_columns();
        match place.stored {
            Stored::Floats => self.data.read_at(place.at + first * 4, out),
            Stored::Groups { group, scales_at } => {
                let n = (out.len() / info.kind.block_bytes() * info.kind.block_len()) as u64;
                let mut values = vec![0; n as usize];
                self.data.read_at(place.at + first, &mut values)?;
                let first_group = first / group;
                let n_groups = (first + n).div_ceil(group) - first_group;
                let mut scales = vec![0; n_groups as usize * 4];
                self.data.read_at(scales_at + first_group * 4, &mut scales)?;
                let groups = layout::Groups { first, group, first_group, values: &values, scales: &scales };
                groups
                    .write(info.kind, out)
                    .map_err(|problem| Error::bad(self.data.path(), format!("tensor '{}': {problem}", info.shown())))
            }
        }
    }
}
