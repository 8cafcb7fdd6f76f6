//! Memory that parts of a file are read into.
//!
//! A read past the system's cache goes to the memory of who asked, and the disk is told every piece of it that lies together in the
//! machine's memory: 128 pieces for 512 KiB in ordinary pages, one in a large page. So windows that together have the size of a large
//! page share one. What a processor's caches hold of a window can be thrown out of them before it is read into again (`eviction` says when
//! that is worth it).
#![allow(unsafe_code)]

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{MmapMut, MmapRaw};

use super::storage::SECTOR;

/// Bytes of a large page of x86-64, AArch64 and RISC-V with ordinary pages of 4 KiB.
#[cfg(any(target_os = "linux", test))]
const LARGE_PAGE: usize = 2 << 20;

/// Bytes of a line of a cache, or of several.
const LINE: usize = 64;

/// Pages of our own, where sectors may be read to.
#[derive(Debug)]
pub struct Window {
    start: NonNull<u8>,
    len: usize,
    /// Whether it was evicted before it was read into.
    pub(super) is_evicted: bool,
    /// What they belong to, which nobody looks at; it goes with its last window.
    _pages: Arc<MmapRaw>,
}

// SAFETY: a window is the only way to its bytes, as a `Box<[u8]>` is.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

/// A window of at least `len` bytes.
///
/// # Errors
/// When there is no memory for it.
pub fn window(len: usize) -> io::Result<Window> {
    let mut one = windows(1, len)?;
    one.pop().ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// So many windows of at least `len` bytes each, side by side and in large pages where the system has some.
///
/// # Errors
/// When there is no memory for them.
pub(crate) fn windows(count: usize, len: usize) -> io::Result<Vec<Window>> {
    let len = len.max(1).next_multiple_of(SECTOR);
    let all = count.max(1).checked_mul(len).ok_or(io::ErrorKind::OutOfMemory)?;
    let (mut pages, begins) = map(all)?;
    let starts: Vec<_> = pages[begins..].chunks_exact_mut(len).take(count).map(NonNull::from).collect();
    let pages = Arc::new(MmapRaw::from(pages));
    let window =
        |bytes: NonNull<[u8]>| Window { start: bytes.cast(), len, is_evicted: false, _pages: Arc::clone(&pages) };
    Ok(starts.into_iter().map(window).collect())
}

/// Pages for `len` bytes, and where in them these begin.
fn map(len: usize) -> io::Result<(MmapMut, usize)> {
    let pages = MmapMut::map_anon(len)?;
    #[cfg(target_os = "linux")]
    if len >= LARGE_PAGE {
        return Ok(in_large_pages(pages));
    }
    Ok((pages, 0))
}

/// The same, from where a large page may begin on, as far as addresses allow; a system that has no large pages goes on with small ones.
#[cfg(target_os = "linux")]
fn in_large_pages(mut pages: MmapMut) -> (MmapMut, usize) {
    let len = pages.len();
    let before = |pages: &MmapMut| pages.as_ptr().align_offset(LARGE_PAGE);
    if before(&pages) > 0 {
        // Nobody writes to what is before and behind, so it takes no memory.
        match MmapMut::map_anon(len + LARGE_PAGE - SECTOR) {
            Ok(more) => pages = more,
            Err(_) => return (pages, 0),
        }
    }
    let begins = before(&pages);
    let _ = pages.advise_range(memmap2::Advice::HugePage, begins, len);
    (pages, begins)
}

impl Window {
    /// Whether [`Window::evict`] does anything.
    pub(super) const CAN_EVICT: bool = cfg!(all(target_arch = "x86_64", not(miri)));

    /// Has the caches of all processors forget the first `len` bytes, which are lost, where we know how: by stores that go past them.
    pub(super) fn evict(&mut self, len: usize) {
        // Whole lines of a cache: there are some of them in a sector, and a window is made of those.
        let lines = &mut self[..len.next_multiple_of(LINE)];
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: every x86-64 processor has SSE2. Any bytes are a vector, those in the middle are aligned, and nobody else has them until
        // the fence has made the stores like any others.
        unsafe {
            use std::arch::x86_64::{__m128i, _mm_setzero_si128, _mm_sfence, _mm_stream_si128};
            for vector in lines.align_to_mut::<__m128i>().1 {
                _mm_stream_si128(vector, _mm_setzero_si128());
            }
            _mm_sfence();
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = lines;
    }
}

impl Deref for Window {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the pages are there as long as the window, and `windows` gave it bytes of them that no other has.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Window {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and who has the window has its bytes alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn are_apart_and_outlive_one_another(count: usize, len: usize) {
        let mut all = windows(count, len).unwrap();
        assert_eq!(all.len(), count);
        for (mark, window) in (1..).zip(&mut all) {
            assert!(window.len() >= len && window.as_ptr().addr().is_multiple_of(SECTOR), "{count} {len}");
            assert!(window.iter().all(|&byte| byte == 0));
            window.fill(mark);
        }
        let last = all.pop().unwrap();
        assert!((1..).zip(&all).all(|(mark, window)| window.iter().all(|&byte| byte == mark)));
        drop(all);
        assert!(last.iter().all(|&byte| usize::from(byte) == count));
    }

    #[test]
    fn small_windows() {
        are_apart_and_outlive_one_another(4, 100);
        are_apart_and_outlive_one_another(1, SECTOR);
        assert!(windows(0, SECTOR).unwrap().is_empty());
    }

    #[test]
    fn what_is_evicted_is_written_to_and_nothing_else() {
        for len in [0, 1, 64, 100, SECTOR - 1, SECTOR] {
            let mut all = windows(3, SECTOR).unwrap();
            all.iter_mut().for_each(|window| window.fill(7));
            all[1].evict(len);
            let (lost, rest) = all[1].split_at(len.next_multiple_of(LINE));
            assert!(!Window::CAN_EVICT || lost.iter().all(|&byte| byte == 0), "{len}");
            assert!(rest.iter().chain(&*all[0]).chain(&*all[2]).all(|&byte| byte == 7), "{len}");
            // It is ordinary memory as before.
            all[1].fill(9);
            assert!(all[1].iter().all(|&byte| byte == 9), "{len}");
        }
    }

    #[cfg_attr(miri, ignore = "Miri takes no advice")]
    #[test]
    fn large_windows() {
        are_apart_and_outlive_one_another(4, LARGE_PAGE / 4);
        are_apart_and_outlive_one_another(1, LARGE_PAGE + SECTOR);
    }

    #[cfg(target_os = "linux")]
    #[cfg_attr(miri, ignore = "Miri takes no advice")]
    #[test]
    fn large_windows_may_share_a_large_page() {
        if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            return println!("skipped: this system has no large pages");
        }
        let all = windows(4, LARGE_PAGE / 4).unwrap();
        let begins = all[0].as_ptr().addr();
        assert!(begins.is_multiple_of(LARGE_PAGE), "{begins:x}");
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let range = |line: &str| {
            let (start, end) = line.split_once(' ')?.0.split_once('-')?;
            let [start, end] = [start, end].map(|text| usize::from_str_radix(text, 16).ok());
            Some(start?..end?)
        };
        let mut lines = smaps.lines().skip_while(|line| !range(line).is_some_and(|range| range.contains(&begins)));
        let flags = lines.find(|line| line.starts_with("VmFlags:")).unwrap();
        assert!(flags.contains(" hg"), "{flags}");
    }
}
