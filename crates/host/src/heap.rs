//! Where the memory of small values comes from when musl would give it.
//!
//! musl keeps values of one size in mappings of a few pages each and gives a mapping back as soon as the last of them is gone. A process
//! that reads its command line and the header of a model asks the system for memory a hundred times and gives most of it back before it has
//! done anything. Here small values are from one heap while that has room. It gives nothing back, so it has room for a start and for little
//! more; all else is from musl and goes back at once.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dlmalloc::{Allocator, Dlmalloc};

/// Bytes of a value that is not small.
const LARGE: usize = 4 << 10;
/// Bytes of the heap, which takes memory as they are used.
const HEAP_BYTES: usize = 128 << 10;
/// What the heap begins on: no more than any value may ask for, since zeros that begin on more are written one by one.
const HEAP_ALIGN: usize = 2 * size_of::<usize>();

/// Small values from one heap while it has room, the others from the system's allocator.
pub struct Heap;

static HEAP: Mutex<Dlmalloc<Pieces>> = Mutex::new(Dlmalloc::new_with_allocator(Pieces { given: AtomicUsize::new(0) }));
/// Where the heap begins, once it has been used.
static START: AtomicPtr<u8> = AtomicPtr::new(null_mut());

/// The heap, piece by piece.
struct Pieces {
    /// Bytes that are in use, by whoever holds the lock.
    given: AtomicUsize,
}

// SAFETY: every piece is given once, and lies in memory that is never given back.
unsafe impl Allocator for Pieces {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        let (mut start, given) = (START.load(Ordering::Relaxed), self.given.load(Ordering::Relaxed));
        if start.is_null() {
            // Zeros: the allocator reads marks where it has not put any.
            // SAFETY: the alignment is a power of two, and the heap is far smaller than a layout may be.
            start = unsafe { System.alloc_zeroed(Layout::from_size_align_unchecked(HEAP_BYTES, HEAP_ALIGN)) };
            START.store(start, Ordering::Relaxed);
        }
        if start.is_null() || size > HEAP_BYTES - given {
            return (null_mut(), 0, 0);
        }
        self.given.store(given + size, Ordering::Relaxed);
        // SAFETY: the heap is at least as long.
        (unsafe { start.add(given) }, size, 0)
    }

    fn remap(&self, _piece: *mut u8, _old: usize, _new: usize, _can_move: bool) -> *mut u8 {
        null_mut()
    }

    fn free_part(&self, _piece: *mut u8, _old: usize, _new: usize) -> bool {
        false
    }

    fn free(&self, _piece: *mut u8, _size: usize) -> bool {
        false
    }

    fn can_release_part(&self, _flags: u32) -> bool {
        false
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        4 << 10
    }
}

fn heap() -> MutexGuard<'static, Dlmalloc<Pieces>> {
    HEAP.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the heap has `value`; nothing lies as low as a heap that has not begun.
fn has(value: *mut u8) -> bool {
    value.addr().wrapping_sub(START.load(Ordering::Relaxed).addr()) < HEAP_BYTES
}

/// What `give` gives of the heap for a value of `layout`; null when it is not small or there is no room.
///
/// # Safety
/// The size is not zero.
unsafe fn small(layout: Layout, give: unsafe fn(&mut Dlmalloc<Pieces>, usize, usize) -> *mut u8) -> *mut u8 {
    if layout.size() >= LARGE {
        return null_mut();
    }
    // SAFETY: the caller promises the size.
    unsafe { give(&mut heap(), layout.size(), layout.align()) }
}

// SAFETY: a value's address says which of two allocators has it; each gets back only what it gave.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that are asked for.
        unsafe {
            let value = small(layout, Dlmalloc::malloc);
            if value.is_null() { System.alloc(layout) } else { value }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that are asked for.
        unsafe {
            let value = small(layout, Dlmalloc::calloc);
            if value.is_null() { System.alloc_zeroed(layout) } else { value }
        }
    }

    unsafe fn dealloc(&self, value: *mut u8, layout: Layout) {
        // SAFETY: the allocator that has `value` gets it back, of the layout that it has.
        unsafe {
            match has(value) {
                true => heap().free(value, layout.size(), layout.align()),
                false => System.dealloc(value, layout),
            }
        }
    }

    unsafe fn realloc(&self, value: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !has(value) {
            // SAFETY: it is the system's, of that layout; the caller promises the rest.
            return unsafe { System.realloc(value, layout, size) };
        }
        if size < LARGE {
            // SAFETY: it is the heap's, of that layout; the caller promises a size that is not zero.
            let moved = unsafe { heap().realloc(value, layout.size(), layout.align(), size) };
            if !moved.is_null() {
                return moved;
            }
        }
        // SAFETY: the caller promises that `size`, rounded up to the alignment, is no more than a layout may have.
        let moved = unsafe { System.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !moved.is_null() {
            // SAFETY: both have so many bytes, and `value` is not used again.
            unsafe {
                moved.copy_from_nonoverlapping(value, layout.size().min(size));
                self.dealloc(value, layout);
            }
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the bytes of a value, each so many are looked at: Miri takes its time.
    const STEP: usize = if cfg!(miri) { 97 } else { 1 };

    #[test]
    fn a_value_keeps_its_bytes_whichever_way_it_grows_or_shrinks() {
        let sizes = [24, 100, LARGE - 1, LARGE, 3 * LARGE, 5 * LARGE, LARGE, LARGE - 1, 24, 3 * LARGE, 8];
        for align in [1, 8, 16, 128, 4096] {
            let layout = |size| Layout::from_size_align(size, align).unwrap();
            // SAFETY: each value is used with the layout that it has.
            unsafe {
                let mut value = Heap.alloc(layout(sizes[0]));
                let mut written = 0;
                for (&size, &next) in sizes.iter().zip(&sizes[1..]) {
                    (0..size).step_by(STEP).skip_while(|&at| at < written).for_each(|at| value.add(at).write(at as u8));
                    value = Heap.realloc(value, layout(size), next);
                    written = size.min(next);
                    assert!(
                        (0..written).step_by(STEP).all(|at| value.add(at).read() == at as u8),
                        "{size} to {next} bytes"
                    );
                    assert!(value.addr().is_multiple_of(align), "{next} bytes at {value:?}");
                }
                Heap.dealloc(value, layout(8));
                for size in [8, LARGE - 8, LARGE] {
                    let zeroed = Heap.alloc_zeroed(layout(size));
                    assert!((0..size).all(|at| zeroed.add(at).read() == 0) && zeroed.addr().is_multiple_of(align));
                    Heap.dealloc(zeroed, layout(size));
                }
            }
        }
    }

    #[test]
    fn when_the_heap_is_full_values_are_the_systems() {
        let layout = Layout::from_size_align(1000, 8).unwrap();
        // SAFETY: each value is used with the layout that it has.
        unsafe {
            let values: Vec<_> = (0..2 * HEAP_BYTES / 1000).map(|_| Heap.alloc(layout)).collect();
            assert!(!values.iter().all(|&value| has(value)), "the heap has no end");
            for (i, &value) in values.iter().enumerate() {
                value.write_bytes(i as u8, 1000);
            }
            for (i, &value) in values.iter().enumerate() {
                let grown = Heap.realloc(value, layout, 1200);
                assert!((0..1000).step_by(STEP).all(|at| grown.add(at).read() == i as u8));
                Heap.dealloc(grown, Layout::from_size_align(1200, 8).unwrap());
            }
            let again = Heap.alloc(layout);
            assert!(has(again), "what was freed is given again");
            Heap.dealloc(again, layout);
        }
    }
}
