//! GGUF files of which weights are stored entropy-coded: [`Index`] is what such a file says of itself, [`PackedFile`] reads it as
//! if it were the file that was packed, at that file's offsets, and [`write()`] writes it.
//!
//! Whoever reads a GGUF file in parts, or as a whole, need not know: the plain file's bytes come out, all of them, and the
//! threads that read ahead are those that unpack. `docs/packed.md` has the layout, byte by byte.

mod file;
mod index;
mod write;

pub(crate) use file::open_whole;
pub use file::{Opened, PackedFile, open};
pub use index::{Index, is_packed};
pub use write::{Pack, Summary, Tensor, write};

/// What a packed file ends with.
const MAGIC: &[u8; 16] = b"smidgen packed 1";
/// Bytes at the end: where the index begins, bytes of the plain file, and [`MAGIC`].
const FOOTER_BYTES: usize = 32;
/// Set in the number of a packed tensor's type, so that whoever does not know this layout refuses the file.
const MARK: u8 = 0x80;
/// A packed block holds as many whole rows as make about this many bytes, and at least one: short enough for a row that is read
/// by itself, long enough for what a block takes beside its rows (40 bytes).
pub const BLOCK_BYTES: u64 = 16 << 10;
/// Rows that are longer than this are not packed, so that a reader's memory has a bound.
pub const LONGEST_ROW: u64 = 1 << 20;
/// A packed block of as many bytes as this times its rows' is none: a byte takes at most eleven bits.
const LARGEST_RATIO: u64 = 2;
/// A plain file that is this many times larger than the packed one is a trap; weights that can be used are never so alike.
const SMALLEST_RATIO: u64 = 64;
