//! Rows of weights that were stored entropy-coded, without loss: what turns a packed block back into rows.
//!
//! The blocks of a weight type have bytes that mean different things (a scale, codes), and each of these *planes* has values that
//! occur more or less often. A plane is either stored as it is, or its bytes are coded by ranged asymmetric numeral systems (Duda,
//! arXiv:1311.2540) with fixed frequencies, eight states in turn, so that a processor can work on eight bytes at once; a state
//! that has become small takes the next 16 bits (as in Giesen, arXiv:1402.3392). `docs/packed.md` has the layout, byte by byte;
//! the encoder is `pack` of the crate `compress`.

/// Frequencies of a plane sum to two to the power of this.
pub const FREQUENCY_BITS: u32 = 11;
/// The sum of the frequencies of a plane.
pub const FREQUENCY_SUM: u32 = 1 << FREQUENCY_BITS;
/// States that take turns.
pub const LANES: usize = 8;
/// Every state begins, in the encoder, and ends, in the decoder, with this; it is never smaller between two bytes.
pub const STATE_LOW: u32 = 1 << 16;
/// Bytes of the states at the beginning of what is coded.
pub const STATES_BYTES: usize = LANES * 4;
/// Bytes of the checksum that a block begins with.
pub const CHECKSUM_BYTES: usize = 4;

/// How often each value of a byte occurs, of [`FREQUENCY_SUM`] bytes.
pub type Frequencies = [u16; 256];

/// The bytes at some positions of every block of a type, beginning where the plane before ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plane {
    /// How many positions.
    pub n_bytes: usize,
    /// How its values are coded; `None` for bytes that are stored as they are.
    pub frequencies: Option<Frequencies>,
}

/// A packed block, or a table of frequencies, that no encoder has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// What each remainder of a state stands for: in bits 0 to 7 the byte, from 8 on its frequency less one, from 19 on the
/// remainder less that of the byte's first.
#[derive(Clone, Debug)]
pub struct Table([u32; FREQUENCY_SUM as usize]);

impl Table {
    /// The table of `frequencies`.
    ///
    /// # Errors
    /// When their sum is not [`FREQUENCY_SUM`].
    pub fn new(frequencies: &Frequencies) -> Result<Self, Broken> {
        let mut entries = [0; FREQUENCY_SUM as usize];
        let mut start = 0;
        for (byte, &frequency) in (0u32..).zip(frequencies) {
            let slots = entries.get_mut(start..start + usize::from(frequency)).ok_or(Broken)?;
            for (offset, slot) in (0u32..).zip(slots) {
                *slot = byte | (u32::from(frequency) - 1) << 8 | offset << 19;
            }
            start += usize::from(frequency);
        }
        if start == entries.len() { Ok(Table(entries)) } else { Err(Broken) }
    }
}

/// How the rows of a tensor are made of planes.
#[derive(Clone, Copy, Debug)]
pub struct Layout<'a> {
    /// Bytes of a block of the type; the last of a row may be shorter.
    pub block_bytes: usize,
    /// Bytes of a row.
    pub row_bytes: usize,
    /// For every plane how many positions of a block it has, and the number of the table of one that is coded.
    pub planes: &'a [(usize, Option<usize>)],
    /// The tables.
    pub tables: &'a [Table],
}

/// The sum that tells a spoilt block: words of eight bytes, the last one filled up with zeros, each mixed in by a rotation, an
/// exclusive or and a multiplication by the golden ratio, as in Rust's own compiler (rustc-hash). Nothing that is changed in only
/// one word leaves the 64 bits as they were, of which these are the two halves, folded.
pub fn checksum(bytes: &[u8]) -> u32 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |sum: u64, word: u64| (sum.rotate_left(5) ^ word).wrapping_mul(GOLDEN);
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let sum = words.iter().fold(bytes.len() as u64, |sum, word| mix(sum, u64::from_le_bytes(*word)));
    let sum = mix(sum, u64::from_le_bytes(last));
    (sum >> 32) as u32 ^ sum as u32
}

/// Unpacks `packed` into whole rows, `out`; `scratch`, which is as long, is left with anything.
///
/// # Errors
/// A block that no encoder has written; `out` is left with anything.
#[inline(never)] // A caller that is built to be small would build this small, and slow, into itself.
pub fn unpack(layout: &Layout<'_>, packed: &[u8], scratch: &mut [u8], out: &mut [u8]) -> Result<(), Broken> {
    let n_rows = out.len().checked_div(layout.row_bytes).ok_or(Broken)?;
    if layout.block_bytes == 0 || n_rows * layout.row_bytes != out.len() || scratch.len() < out.len() {
        return Err(Broken);
    }
    let (sum, mut rest) = packed.split_first_chunk::<CHECKSUM_BYTES>().ok_or(Broken)?;
    if u32::from_le_bytes(*sum) != checksum(rest) {
        return Err(Broken);
    }
    let mut first = 0;
    for (n_bytes, table) in layout.planes {
        if table.is_none() {
            let len = plane_bytes(layout, n_rows, first, *n_bytes);
            let (plane, after) = rest.split_at_checked(len).ok_or(Broken)?;
            spread(layout, plane, first, *n_bytes, out);
            rest = after;
        }
        first += n_bytes;
    }
    if layout.planes.iter().all(|(_, table)| table.is_none()) {
        return if rest.is_empty() { Ok(()) } else { Err(Broken) };
    }
    let mut decoder = Decoder::new(rest)?;
    let mut first = 0;
    for (n_bytes, table) in layout.planes {
        if let Some(table) = table {
            let table = layout.tables.get(*table).ok_or(Broken)?;
            let len = plane_bytes(layout, n_rows, first, *n_bytes);
            let plane = scratch.get_mut(..len).ok_or(Broken)?;
            decoder.read(table, plane)?;
            spread(layout, plane, first, *n_bytes, out);
        }
        first += n_bytes;
    }
    decoder.end()
}

/// Bytes that `n_rows` rows have at the `n_bytes` positions from `first` on of their blocks.
pub fn plane_bytes(layout: &Layout<'_>, n_rows: usize, first: usize, n_bytes: usize) -> usize {
    let (whole, part) = (layout.row_bytes / layout.block_bytes, layout.row_bytes % layout.block_bytes);
    (whole * n_bytes + part.saturating_sub(first).min(n_bytes)) * n_rows
}

/// Puts the bytes of a plane where they belong in `out`.
fn spread(layout: &Layout<'_>, plane: &[u8], first: usize, n_bytes: usize, out: &mut [u8]) {
    let mut rest = plane;
    for row in out.chunks_exact_mut(layout.row_bytes) {
        if n_bytes == 1 {
            // Floats have planes of single bytes, and a copy of one byte is mostly a call.
            let positions = row.get_mut(first..).unwrap_or_default().iter_mut().step_by(layout.block_bytes);
            let n = positions.len().min(rest.len());
            positions.zip(rest).for_each(|(out, byte)| *out = *byte);
            rest = &rest[n..];
            continue;
        }
        for block in row.chunks_mut(layout.block_bytes) {
            let end = (first + n_bytes).min(block.len());
            let Some(positions) = block.get_mut(first..end) else { continue };
            let (bytes, after) = rest.split_at(positions.len().min(rest.len()));
            if bytes.len() == positions.len() {
                positions.copy_from_slice(bytes);
            }
            rest = after;
        }
    }
}

/// The states, and the 16-bit words that they have not taken.
struct Decoder<'a> {
    states: [u32; LANES],
    words: &'a [u8],
}

impl<'a> Decoder<'a> {
    fn new(coded: &'a [u8]) -> Result<Self, Broken> {
        let (states, words) = coded.split_at_checked(STATES_BYTES).ok_or(Broken)?;
        let mut states = states.as_chunks::<4>().0.iter();
        let states = core::array::from_fn(|_| states.next().map_or(0, |bytes| u32::from_le_bytes(*bytes)));
        Ok(Decoder { states, words })
    }

    /// Fills `out`: byte `i` comes from state `i % LANES`.
    fn read(&mut self, table: &Table, out: &mut [u8]) -> Result<(), Broken> {
        let (groups, rest) = out.as_chunks_mut::<LANES>();
        let mut states = self.states;
        let mut words = self.words;
        for group in groups {
            let near_end;
            let window = match words.first_chunk::<{ 2 * LANES }>() {
                Some(window) => window,
                None => {
                    near_end = padded(words);
                    &near_end
                }
            };
            let mut taken = 0;
            for (state, out) in states.iter_mut().zip(group) {
                taken += step(table, state, window, taken, out);
            }
            words = words.get(taken..).ok_or(Broken)?;
        }
        let window = padded(words);
        let mut taken = 0;
        for (state, out) in states.iter_mut().zip(rest) {
            taken += step(table, state, &window, taken, out);
        }
        self.words = words.get(taken..).ok_or(Broken)?;
        self.states = states;
        Ok(())
    }

    /// What was coded ends where the bytes do, and leaves every state as the encoder began.
    fn end(&self) -> Result<(), Broken> {
        if self.words.is_empty() && self.states == [STATE_LOW; LANES] { Ok(()) } else { Err(Broken) }
    }
}

/// The first words, and zeros behind the last.
fn padded(words: &[u8]) -> [u8; 2 * LANES] {
    let mut window = [0; 2 * LANES];
    let n = words.len().min(window.len());
    window[..n].copy_from_slice(&words[..n]);
    window
}

/// One byte from one state, which takes the word at `at` of the window when it has become small; says how many bytes it took.
#[inline(always)]
fn step(table: &Table, state: &mut u32, window: &[u8; 2 * LANES], at: usize, out: &mut u8) -> usize {
    let x = *state;
    let entry = table.0[(x % FREQUENCY_SUM) as usize];
    *out = entry as u8;
    // The remainder of a byte is below its frequency, so this stays below 2^32.
    let x = (((entry >> 8) % FREQUENCY_SUM) + 1) * (x >> FREQUENCY_BITS) + (entry >> 19);
    // There are at most as many words in a window as states that take one, and the mask says so to the compiler.
    let at = at & (2 * LANES - 2);
    let word = u32::from(u16::from_le_bytes([window[at], window[at + 1]]));
    // Whether a state is small is a toss of a coin, which no processor foresees: there must be no branch here.
    let is_small = u32::from(x < STATE_LOW);
    *state = x << (16 * is_small) | word & is_small.wrapping_neg();
    2 * is_small as usize
}
