//! Nothing is allocated between the first new token and the last.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A standard output that notes how many allocations there had been at each write.
struct Noting {
    at_writes: Vec<usize>,
}

impl Write for Noting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(self.at_writes.len() < self.at_writes.capacity(), "the notes themselves must not allocate");
        self.at_writes.push(ALLOCATIONS.load(Ordering::Relaxed));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn writes_of(flags: &[&str]) -> Vec<usize> {
    let mut stdout = Noting { at_writes: Vec::with_capacity(4096) };
    let fixed = ["smidgen", "run", "-p", "Once upon a time", "--ignore-eos", "-n", "100", "-s", "1"];
    let argv = fixed.iter().chain(flags).map(|&arg| arg.into());
    assert_eq!(smidgen_cli::run(argv, &mut stdout), 0);
    stdout.at_writes
}

#[test]
fn nothing_is_allocated_after_the_first_token() {
    for flags in [
        &["--temp", "0"][..],
        &["--temp", "1", "--top-k", "0", "--repeat-penalty", "1.1", "--frequency-penalty", "0.5"],
        &["--temp", "0.8", "--stop", "never said", "--stop", "the en"],
        &["--temp", "0", "-t", "2", "--ctk", "q8_0", "--ctv", "f16"],
    ] {
        let writes = writes_of(flags);
        // The first write is the prompt, the last one the newline after everything has ended.
        let tokens = &writes[1..writes.len() - 1];
        assert!(tokens.len() > 50, "{flags:?}: {} writes", tokens.len());
        // A thread that has just been started may still allocate what it needs to live while the first tokens come.
        assert_eq!(tokens[tokens.len() / 2], tokens[tokens.len() - 1], "{flags:?}: allocations while tokens came");
    }
}
