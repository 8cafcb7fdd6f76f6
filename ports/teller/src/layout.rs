//! What a program takes of a microcontroller: flash and statics by the linker's word, the stack by paint that is gone.
#![allow(unsafe_code)]

use core::fmt;
use core::ops::Range;
use core::ptr::{read_volatile, write_volatile};

const PAINT: u32 = 0xdead_beef;
/// Bytes below the caller's frame that are left alone while painting.
const MARGIN: usize = 256;

/// Where the linker has put things, as addresses; the names of cortex-m-rt's and riscv-rt's symbols in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Where flash begins.
    pub flash: usize,
    /// Where in flash the values of statics lie, behind all else (`__sidata`).
    pub values: usize,
    /// Statics with values (`__sdata` to `__edata`).
    pub data: Range<usize>,
    /// Where statics end (`__sheap`), and the stack begins, downwards (`_stack_start`).
    pub stack: Range<usize>,
}

/// What a program took; the line that a board prints of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Bytes of flash, the model among them.
    pub flash_bytes: usize,
    /// Bytes of RAM that statics take.
    pub static_bytes: usize,
    /// Bytes from the deepest that the stack has reached to its beginning.
    pub stack_bytes: usize,
}

impl Layout {
    /// Runs `work` on a stack that was painted before, and says what it took.
    ///
    /// # Safety
    /// All from the end of the statics to the stack pointer is RAM that nothing refers to, and the statics end at a multiple of four.
    #[inline(never)]
    pub unsafe fn watch<R>(&self, work: impl FnOnce() -> R) -> (R, Taken) {
        let here = 0u32;
        let end = (&raw const here).addr().saturating_sub(MARGIN);
        for at in (self.stack.start..end).step_by(4) {
            // SAFETY: by the caller's word.
            unsafe { write_volatile(core::ptr::with_exposed_provenance_mut(at), PAINT) };
        }
        let result = work();
        // SAFETY: as above.
        let is_paint = |at: &usize| unsafe { read_volatile(core::ptr::with_exposed_provenance::<u32>(*at)) } == PAINT;
        let deepest = (self.stack.start..end).step_by(4).find(|at| !is_paint(at)).unwrap_or(end);
        let taken = Taken {
            flash_bytes: self.values - self.flash + self.data.len(),
            static_bytes: self.stack.start - self.data.start,
            stack_bytes: self.stack.end - deepest,
        };
        (result, taken)
    }
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Taken { flash_bytes, static_bytes, stack_bytes } = self;
        write!(f, "[smidgen] flash {flash_bytes} bytes, statics {static_bytes} bytes, stack {stack_bytes} bytes")
    }
}
