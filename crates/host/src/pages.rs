//! What of the program's own file counts as resident: what it uses, and only while it uses it.
//!
//! When code is first used, Linux maps up to 64 KiB around it that happen to be in its cache (`do_fault_around` in
//! `mm/memory.c`), and all of it counts as resident until somebody else wants the memory. A run that takes two megabytes would
//! count a megabyte of code that it never calls, and the parser of a command line that has long been read.
#![allow(unsafe_code)]

#[cfg(any(target_os = "linux", test))]
use std::ops::Range;
#[cfg(target_os = "linux")]
use std::sync::OnceLock;

/// The system maps no further than this around a page that is used.
#[cfg(target_os = "linux")]
const WINDOW_BYTES: usize = 8 << 10;

/// The address ranges of code and constants that are as they stand in the file.
#[cfg(target_os = "linux")]
static PROGRAM: OnceLock<Vec<Range<usize>>> = OnceLock::new();

/// Lets the system map no more than 8 KiB around a page of this program that is used, and gives back what it has mapped so far.
///
/// A window ends where a mapping ends, so the mappings are cut: every second window gets an advice (to be left out of core dumps,
/// where unchanged code is left out anyway) that keeps its neighbours from being joined to it. To be called first, by `main`.
/// Does nothing where the system is not Linux.
pub fn map_finely() {
    #[cfg(target_os = "linux")]
    {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        for range in PROGRAM.get_or_init(|| unchanged(&smaps)) {
            let windows = range.clone().step_by(2 * WINDOW_BYTES);
            for start in windows {
                advise(start..range.end.min(start + WINDOW_BYTES), rustix::mm::Advice::LinuxDontDump);
            }
        }
    }
    release_program();
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
        let mut words = line.split_ascii_whitespace();
        let (first, second) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        if first.ends_with(':') {
            let is_changed = matches!(first, "Anonymous:" | "Swap:") && second != "0";
            if is_candidate && is_changed {
                ranges.pop();
                is_candidate = false;
            }
            continue;
        }
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
        for _ in 0..3 {
            map_finely();
            assert_eq!(words.join(" "), "one two");
        }
    }
}
