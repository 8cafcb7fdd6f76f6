//! What this machine has and what this process uses, as the operating system tells it.

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

/// Whether the addresses of this process are limited, and not only the memory behind them (`ulimit -v`).
pub fn has_few_addresses() -> bool {
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    return rustix::process::getrlimit(rustix::process::Resource::As).current.is_some();
    #[cfg(not(any(target_os = "linux", target_os = "macos")))]
    false
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
