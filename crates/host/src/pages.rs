//! What of the program's own file counts as resident: what it uses, and only while it uses it.
//!
//! When code is first used, Linux maps up to 64 KiB around it that happen to be in its cache (`do_fault_around` in
//! `mm/memory.c`), and all of it counts as resident until somebody else wants the memory. A run that takes two megabytes would
//! count a megabyte of code that it never calls, and the parser of a command line that has long been read.
#![allow(unsafe_code)]

#[cfg(any(target_os = "linux", test))]
use std::ops::Range;
#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;
#[cfg(target_os = "linux")]
use std::sync::OnceLock;

/// The system maps no further than this around a page that is used.
#[cfg(target_os = "linux")]
const WINDOW_BYTES: usize = 8 << 10;

/// The address ranges of code and constants that are as they stand in the file.
#[cfg(target_os = "linux")]
static PROGRAM: OnceLock<Vec<Range<usize>>> = OnceLock::new();

/// Keeps the pages of [`PROGRAM`] watched.
#[cfg(target_os = "linux")]
static WATCH: OnceLock<OwnedFd> = OnceLock::new();

/// When this variable is set, pages are not watched, as if the system could not.
#[cfg(target_os = "linux")]
const UNWATCHED: &str = "SMIDGEN_NO_USERFAULTFD";

/// Lets the system map a page of this program only when it is used, or at most 8 KiB around it, and gives back what it has mapped
/// so far.
///
/// Linux maps nothing around a page that somebody watches for writes (userfaultfd(2)), and since 6.7 watching needs nobody who
/// answers. Where it may not be watched, the mappings are cut into windows, since a window ends where a mapping ends; that takes
/// some milliseconds. To be called first, by `main`. Does nothing where the system is not Linux.
pub fn map_finely() {
    #[cfg(target_os = "linux")]
    {
        let program = PROGRAM.get_or_init(|| unchanged(&smaps()));
        let watch = if std::env::var_os(UNWATCHED).is_none() { watched(program).ok() } else { None };
        match watch {
            Some(watch) => drop(WATCH.set(watch)),
            None => program.iter().for_each(cut),
        }
    }
    release_program();
}

/// Whether the system maps no page of this program but those that are used.
pub fn are_mapped_one_by_one() -> bool {
    #[cfg(target_os = "linux")]
    return WATCH.get().is_some();
    #[cfg(not(target_os = "linux"))]
    false
}

/// What the system says of every mapping of this process (proc_pid_smaps(5)); nothing where it does not.
#[cfg(target_os = "linux")]
fn smaps() -> String {
    use std::io::Read;
    // Room for all of it at once: a buffer that grows is moved at each step, and every process would wait for that.
    let mut smaps = String::with_capacity(32 << 10);
    match std::fs::File::open("/proc/self/smaps").and_then(|mut file| file.read_to_string(&mut smaps)) {
        Ok(_) => smaps,
        Err(_) => String::new(),
    }
}

/// Cuts a mapping into windows: every second one gets an advice (to be left out of core dumps, where unchanged code is left out
/// anyway) that keeps its neighbours from being joined to it.
#[cfg(target_os = "linux")]
fn cut(range: &Range<usize>) {
    for start in range.clone().step_by(2 * WINDOW_BYTES) {
        advise(start..range.end.min(start + WINDOW_BYTES), rustix::mm::Advice::LinuxDontDump);
    }
}

/// Watches `program` for writes, which never come, until what is returned is closed.
#[cfg(target_os = "linux")]
fn watched(program: &[Range<usize>]) -> rustix::io::Result<OwnedFd> {
    use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
    use rustix::mm::{UserfaultfdFlags, userfaultfd};
    /// `struct uffdio_api`: the version, the features, and what may be asked then.
    type Api = [u64; 3];
    /// `struct uffdio_register`: start, length, what is watched for, and what may be asked then.
    type Register = [u64; 4];
    const API: Opcode = opcode::read_write::<Api>(0xAA, 0x3F);
    const REGISTER: Opcode = opcode::read_write::<Register>(0xAA, 0x00);
    const VERSION: u64 = 0xAA;
    /// `UFFD_USER_MODE_ONLY`, which needs no privilege.
    const USER_MODE_ONLY: u32 = 1;
    /// `UFFD_FEATURE_WP_ASYNC`: the system answers by itself, and any mapping may be watched.
    const ANSWERS_ITSELF: u64 = 1 << 15;
    /// `UFFDIO_REGISTER_MODE_WP`.
    const WRITES: u64 = 2;

    let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::from_bits_retain(USER_MODE_ONLY);
    // SAFETY: with `ANSWERS_ITSELF`, no access to watched memory ever waits for this process.
    let watch = unsafe { userfaultfd(flags)? };
    // SAFETY: `API` updates a `struct uffdio_api`.
    unsafe { ioctl(&watch, Updater::<API, Api>::new(&mut [VERSION, ANSWERS_ITSELF, 0]))? };
    for range in program {
        let mut asked = [range.start as u64, range.len() as u64, WRITES, 0];
        // SAFETY: `REGISTER` updates a `struct uffdio_register`; the memory keeps what it holds.
        unsafe { ioctl(&watch, Updater::<REGISTER, Register>::new(&mut asked))? };
    }
    Ok(watch)
}

/// Gives back every page of the program that is mapped now; a page costs one fault if it is used again.
///
/// Does nothing unless [`map_finely`] was called.
pub fn release_program() {
    #[cfg(target_os = "linux")]
    for range in PROGRAM.get().into_iter().flatten() {
        advise(range.clone(), rustix::mm::Advice::LinuxDontNeed);
    }
}

/// Gives the system an advice about a range of [`PROGRAM`]; if it refuses, everything stays as it was.
#[cfg(target_os = "linux")]
fn advise(range: Range<usize>, advice: rustix::mm::Advice) {
    let start = std::ptr::without_provenance_mut(range.start);
    // SAFETY: the range is a private mapping of a file, which this process may not write to and of which no page was changed when
    // `PROGRAM` was made, so a page that is dropped comes back with what it held.
    let _ = unsafe { rustix::mm::madvise(start, range.len(), advice) };
}

/// The address ranges in `smaps` (proc_pid_smaps(5)) that are private, of a file, not writable, and without a changed page: a
/// relocated constant or a debugger's breakpoint shows as an anonymous page.
#[cfg(any(target_os = "linux", test))]
fn unchanged(smaps: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut is_candidate = false;
    for line in smaps.lines() {
        // Every process waits for this, and most lines are none of the two.
        if line.starts_with(|first: char| first.is_ascii_uppercase()) {
            let changed = line.strip_prefix("Anonymous:").or_else(|| line.strip_prefix("Swap:"));
            if is_candidate && changed.is_some_and(|kib| kib.trim() != "0 kB") {
                ranges.pop();
                is_candidate = false;
            }
            continue;
        }
        let mut words = line.split_ascii_whitespace();
        let (first, second) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        is_candidate = false;
        let is_of_file = words.nth(3).is_some_and(|path| path.starts_with('/'));
        let number = |text| usize::from_str_radix(text, 16).ok();
        let range = first.split_once('-').and_then(|(start, end)| Some(number(start)?..number(end)?));
        if let (true, "r-xp" | "r--p", Some(range)) = (is_of_file, second, range) {
            ranges.push(range);
            is_candidate = true;
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
00400000-00401000 r--p 00000000 fe:00 7                          /bin/smidgen
Rss:                   4 kB
Anonymous:             0 kB
Swap:                  0 kB
00401000-00403000 r-xp 00001000 fe:00 7                          /bin/smidgen
Anonymous:             4 kB
Swap:                  0 kB
00403000-00404000 r--p 00003000 fe:00 7                          /bin/smidgen
Anonymous:             0 kB
Swap:                  4 kB
00404000-00405000 rw-p 00004000 fe:00 7                          /bin/smidgen
Anonymous:             0 kB
00405000-00406000 r--s 00000000 fe:00 8                          /models/tales.gguf
Anonymous:             0 kB
00406000-00408000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
00408000-0040a000 r--p 00000000 00:00 0
Anonymous:             0 kB
0040a000-0040c000 r-xp 00000000 fe:00 9                          /lib/libc.so.6
Anonymous:             0 kB
VmFlags: rd ex mr mw me
";

    #[test]
    fn only_what_stands_in_the_file_is_given_back() {
        assert_eq!(unchanged(SMAPS), [0x40_0000..0x40_1000, 0x40_a000..0x40_c000]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_program_goes_on_afterwards() {
        let words = ["one".to_owned(), "two".to_owned()];
        let goes_on = || {
            release_program();
            assert_eq!(words.join(" "), "one two");
        };
        map_finely();
        goes_on();
        let program = PROGRAM.get().unwrap();
        // Whichever way this system takes, the other is tried too.
        program.iter().for_each(cut);
        goes_on();
        drop(watched(program));
        goes_on();
    }
}
