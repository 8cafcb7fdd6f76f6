//! The instruction sets of AArch64: NEON, alone or with its dot products.

mod neon;

use super::Kernel;

/// Whether the CPU has NEON; it is part of every AArch64 target that Rust builds floats for.
pub(super) fn has_neon() -> bool {
    cfg!(target_feature = "neon")
}

/// Whether it has the dot products of NEON too: every CPU of the build, or this one.
pub(super) fn has_dotprod() -> bool {
    has_neon() && (cfg!(target_feature = "dotprod") || is_dotprod_found())
}

/// Compiles `kernel` for NEON without its dot products.
#[target_feature(enable = "neon")]
pub(super) fn run_neon<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(neon::Neon::<false>(()))
}

/// Compiles `kernel` for NEON with its dot products.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn run_dotprod<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(neon::Neon::<true>(()))
}

/// AArch64 tells programs nothing of itself without the operating system, and Rust's way of asking that is in `std`.
#[cfg(not(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64", not(miri))))]
fn is_dotprod_found() -> bool {
    false
}

/// Linux says what the CPU has among the numbers that it gives to every program it starts, and shows them again as a file.
/// Where that cannot be read, there are no dot products.
#[cfg(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64", not(miri)))]
fn is_dotprod_found() -> bool {
    /// The first of two numbers, where the second says what the CPU has; and the bit of that.
    const HWCAP: u64 = 16;
    const DOTPROD: u32 = 20;
    let mut numbers = [[0; 2]; 64];
    linux::read_auxiliary(&mut numbers);
    numbers.iter().find(|[name, _]| *name == HWCAP).is_some_and(|[_, bits]| bits >> DOTPROD & 1 == 1)
}

/// Three calls of Linux, without the C library that a program may not have.
#[cfg(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64", not(miri)))]
mod linux {
    use core::arch::asm;

    const OPENAT: usize = 56;
    const CLOSE: usize = 57;
    const READ: usize = 63;
    /// What stands for a directory where a path needs none.
    const NO_DIRECTORY: usize = -100isize as usize;
    const READ_ONLY_NOT_INHERITED: usize = 0o2_000_000;
    const PATH: &core::ffi::CStr = c"/proc/self/auxv";

    /// Reads pairs of numbers until there are no more, or no more room.
    pub(super) fn read_auxiliary(numbers: &mut [[u64; 2]; 64]) {
        // SAFETY: the path ends with a zero, and the call touches nothing else.
        let file = unsafe { call(OPENAT, [NO_DIRECTORY, PATH.as_ptr().expose_provenance(), READ_ONLY_NOT_INHERITED]) };
        if file < 0 {
            return;
        }
        // SAFETY: any bits are numbers, and no more bytes are written than these have.
        unsafe { call(READ, [file as usize, numbers.as_mut_ptr().expose_provenance(), size_of_val(numbers)]) };
        // SAFETY: the file was opened above, and nobody else knows of it.
        unsafe { call(CLOSE, [file as usize, 0, 0]) };
    }

    /// A system call, and what it returns: below zero where it failed.
    ///
    /// # Safety
    /// What the call does to memory is all right.
    unsafe fn call(number: usize, [a, b, c]: [usize; 3]) -> isize {
        let result;
        // SAFETY: as the caller promises; Linux leaves all other registers as they are.
        unsafe {
            asm!("svc 0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c, in("x3") 0, options(nostack));
        }
        result
    }
}
