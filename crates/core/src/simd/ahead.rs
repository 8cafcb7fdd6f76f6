//! Bytes that are asked for before they are read (docs/adr/0115-what-a-processor-foresees.md).

use super::TILE;

/// Whether the CPU foresees what is read in order beyond the end of a page too, so that asking for it only costs: Zen 4 does, and others
/// of AMD's are taken to.
pub(crate) fn foresees_pages() -> bool {
    #[cfg(target_arch = "x86_64")]
    return super::x86::is_amd();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Asks for block `block` of those of `n_bytes` that lie in `ahead`, as far as these reach.
#[inline(always)]
pub(crate) fn prefetch_block(ahead: &[u8], block: usize, n_bytes: usize) {
    prefetch(ahead, (block, n_bytes), true);
}

/// The same where `ahead` is the tile behind one of rows of `row_bytes` that lie apart: these are read in many strands at once, and the
/// nearest cache may have no room for them and the next ones.
#[inline(always)]
pub(crate) fn prefetch_apart(ahead: &[u8], row_bytes: usize, block: usize, n_bytes: usize) {
    /// Bytes of the largest tile that has the next one beside it.
    const SMALL: usize = 8 << 10;
    prefetch(ahead, (block, n_bytes), row_bytes * TILE <= SMALL);
}

/// Asks the CPU for bytes soon to be read, without waiting for them: into the nearest cache, or else the second-nearest.
#[inline(always)]
fn prefetch(ahead: &[u8], (block, n_bytes): (usize, usize), is_nearest: bool) {
    /// Bytes of a cache line; where lines are longer, some are asked for twice.
    const LINE: usize = 64;
    let Some(ahead) = ahead.get(block * n_bytes..) else { return };
    for line in ahead[..n_bytes.min(ahead.len())].iter().step_by(LINE) {
        #[cfg(target_arch = "x86_64")]
        super::x86::prefetch(line, is_nearest);
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (line, is_nearest);
    }
}
