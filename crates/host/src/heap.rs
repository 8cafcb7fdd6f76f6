//! Where the memory of values comes from when musl would give it.
//!
//! musl keeps small values of one size in mappings of a few pages each and gives a mapping back as soon as the last of them is gone. A
//! process that reads its command line and the header of a model asks the system for memory a hundred times and gives most of it back
//! before it has done anything. What is small is taken from one heap here; what is not still goes back at once.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};

use dlmalloc::GlobalDlmalloc;

/// Bytes of a value that is not small.
const LARGE: usize = 4 << 10;

/// Small values from one heap that grows, the others from the system's.
pub struct Heap;

/// Whether values of `layout` are from the one heap.
fn is_small(layout: Layout) -> bool {
    layout.size() < LARGE
}

// SAFETY: a value's layout says which of two allocators has it, as long as it lives; each gets back only what it gave.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that each allocator asks for.
        unsafe { if is_small(layout) { GlobalDlmalloc.alloc(layout) } else { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that each allocator asks for.
        unsafe { if is_small(layout) { GlobalDlmalloc.alloc_zeroed(layout) } else { System.alloc_zeroed(layout) } }
    }

    unsafe fn dealloc(&self, value: *mut u8, layout: Layout) {
        // SAFETY: `value` is of `layout`, so it is from the allocator that the layout names.
        unsafe { if is_small(layout) { GlobalDlmalloc.dealloc(value, layout) } else { System.dealloc(value, layout) } }
    }

    unsafe fn realloc(&self, value: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `size`, rounded up to the alignment, is no more than a layout may have.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: `value` is of `layout` and not used again; what is copied is in both.
        unsafe {
            match (is_small(layout), is_small(new)) {
                (true, true) => GlobalDlmalloc.realloc(value, layout, size),
                (false, false) => System.realloc(value, layout, size),
                _ => {
                    let moved = self.alloc(new);
                    if !moved.is_null() {
                        moved.copy_from_nonoverlapping(value, layout.size().min(size));
                        self.dealloc(value, layout);
                    }
                    moved
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_keeps_its_bytes_whichever_way_it_grows_or_shrinks() {
        let layout = |size| Layout::from_size_align(size, 8).unwrap();
        let sizes = [24, 100, LARGE - 1, LARGE, 3 * LARGE, 5 * LARGE, LARGE, LARGE - 1, 24, 3 * LARGE, 8];
        // SAFETY: each value is used with the layout that it has.
        unsafe {
            let mut value = Heap.alloc(layout(sizes[0]));
            let mut written = 0;
            for (&size, &next) in sizes.iter().zip(&sizes[1..]) {
                for at in written..size {
                    value.add(at).write(at as u8);
                }
                value = Heap.realloc(value, layout(size), next);
                written = size.min(next);
                assert!((0..written).all(|at| value.add(at).read() == at as u8), "{size} to {next} bytes");
            }
            Heap.dealloc(value, layout(8));
            for size in [LARGE - 8, LARGE] {
                let zeroed = Heap.alloc_zeroed(layout(size));
                assert!((0..size).all(|at| zeroed.add(at).read() == 0));
                Heap.dealloc(zeroed, layout(size));
            }
        }
    }
}
