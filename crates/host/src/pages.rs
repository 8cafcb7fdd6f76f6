//! Giving back the pages of the program's own file.
//!
//! The system brings a program's code in by windows of 64 KiB and counts it as resident for as long as nobody else wants the
//! memory. Code that has done its work, such as the parser of the command line, would so count against a run that takes
//! two megabytes. Given back, a page costs one fault if it is used again.
#![allow(unsafe_code)]

/// Gives back every page of code and constants of this program that is as it stands in the file.
///
/// Does nothing where the system is not Linux or does not say what is resident.
pub fn release_program() {
    #[cfg(target_os = "linux")]
    if let Ok(text) = std::fs::read_to_string("/proc/self/smaps") {
        for range in unchanged(&text) {
            let (start, len) = (std::ptr::without_provenance_mut(range.start), range.len());
            // SAFETY: the range is a private mapping of a file that this process has no right to write to, and none of its
            // pages was ever changed, so the next access reads from the file what was there before.
            // A failure leaves the pages where they are.
            let _ = unsafe { rustix::mm::madvise(start, len, rustix::mm::Advice::LinuxDontNeed) };
        }
    }
}

/// The address ranges in `smaps` (proc_pid_smaps(5)) that are private, of a file, not writable, and without a changed page: a
/// relocated constant or a debugger's breakpoint shows as an anonymous page.
#[cfg(any(target_os = "linux", test))]
fn unchanged(smaps: &str) -> Vec<std::ops::Range<usize>> {
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
        let words = vec!["one".to_owned(), "two".to_owned()];
        for _ in 0..3 {
            release_program();
            assert_eq!(words.join(" "), "one two");
        }
    }
}
