//! What this machine has and what this process uses, as the operating system tells it.

use std::sync::OnceLock;

/// The most bytes this process has ever had resident (Linux: `VmHWM`); `None` where the system does not say.
///
/// Linux keeps the most by counts that each processor adds up only now and then, so that it may be told 128 KiB too small for each
/// of them; what is resident now it finds exactly when it walks the page tables (`smaps_rollup`). Who wants the truth asks while most
/// is in use.
pub fn peak_rss_bytes() -> Option<u64> {
    let now = proc_kib("/proc/self/smaps_rollup", "Rss:");
    proc_kib("/proc/self/status", "VmHWM:").max(now)
}

/// Bytes of this process that are resident now (Linux: `VmRSS`); `None` where the system does not say.
pub fn rss_bytes() -> Option<u64> {
    proc_kib("/proc/self/status", "VmRSS:")
}

/// Bytes that could be used before the machine swaps (Linux: `MemAvailable`); `None` where the system does not say.
pub fn available_bytes() -> Option<u64> {
    proc_kib("/proc/meminfo", "MemAvailable:")
}

/// How many threads can run at once; at least one.
pub fn n_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Bytes of a page: memory is given to processes in whole ones.
pub fn page_bytes() -> usize {
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    return rustix::param::page_size();
    #[cfg(not(any(target_os = "linux", target_os = "macos")))]
    4096
}

/// Whether this process may reserve more memory than it will ever use: there are addresses enough, and neither they (`ulimit -v`,
/// `ulimit -d`) nor what is promised to all processes (Linux: `vm.overcommit_memory`) are limited.
pub fn may_reserve() -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    // A plan asks for every context that it tries.
    *MAY.get_or_init(reserves_freely)
}

fn reserves_freely() -> bool {
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    let is_limited = {
        use rustix::process::{Resource, getrlimit};
        [Resource::As, Resource::Data].into_iter().any(|resource| getrlimit(resource).current.is_some())
    };
    #[cfg(not(any(target_os = "linux", target_os = "macos")))]
    let is_limited = false;
    let promises = std::fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap_or_default();
    cfg!(target_pointer_width = "64") && !is_limited && promises.trim() != "2"
}

/// The number of bytes on the line of `path` that begins with `field`.
fn proc_kib(path: &str, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_peak_follows_what_is_used() {
        let before = peak_rss_bytes().unwrap();
        let used = vec![1u8; 32 << 20];
        assert!(peak_rss_bytes().unwrap() >= before);
        assert!(rss_bytes().unwrap() as usize >= used.len());
        assert!(available_bytes().unwrap() > 0);
        assert!(n_cores() >= 1);
    }
}
