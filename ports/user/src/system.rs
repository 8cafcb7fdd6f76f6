//! The three system calls that the program needs, and where the kernel enters it, for each instruction set.
//!
//! The calling conventions are those of `man 2 syscall`. `smidgen_system_call(number, a, b, c)` takes its arguments as
//! the C convention passes them and gives back what the kernel does; `_start` aligns the stack and calls `smidgen_start`.

use core::fmt;

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".globl _start, smidgen_system_call",
    "_start: and rsp, -16",
    "call smidgen_start",
    "smidgen_system_call: mov eax, edi",
    "mov rdi, rsi",
    "mov rsi, rdx",
    "mov rdx, rcx",
    "syscall",
    "ret",
);

#[cfg(target_arch = "x86")]
core::arch::global_asm!(
    ".globl _start, smidgen_system_call",
    "_start: and esp, -16",
    "call smidgen_start",
    "smidgen_system_call: push ebx",
    "mov eax, [esp + 8]",
    "mov ebx, [esp + 12]",
    "mov ecx, [esp + 16]",
    "mov edx, [esp + 20]",
    "int 0x80",
    "pop ebx",
    "ret",
);

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".globl _start, smidgen_system_call",
    "_start: bl smidgen_start",
    "smidgen_system_call: mov x8, x0",
    "mov x0, x1",
    "mov x1, x2",
    "mov x2, x3",
    "svc #0",
    "ret",
);

#[cfg(target_arch = "arm")]
core::arch::global_asm!(
    ".globl _start, smidgen_system_call",
    "_start: bic r0, sp, #15",
    "mov sp, r0",
    "bl smidgen_start",
    "smidgen_system_call: push {{r7, lr}}",
    "mov r7, r0",
    "mov r0, r1",
    "mov r1, r2",
    "mov r2, r3",
    "svc #0",
    "pop {{r7, pc}}",
);

// Here the kernel gives the number of an error as it is, and says beside it that it is one; the others give it negative.
#[cfg(target_arch = "powerpc")]
core::arch::global_asm!(
    ".globl _start, smidgen_system_call",
    "_start: rlwinm 1, 1, 0, 0, 27",
    "li 0, 0",
    "stwu 0, -64(1)",
    "bl smidgen_start",
    "smidgen_system_call: mr 0, 3",
    "mr 3, 4",
    "mr 4, 5",
    "mr 5, 6",
    "sc",
    "bnslr",
    "neg 3, 3",
    "blr",
);

#[cfg(target_arch = "s390x")]
core::arch::global_asm!(
    ".globl _start, smidgen_system_call",
    "_start: aghi %r15, -320",
    "brasl %r14, smidgen_start",
    "smidgen_system_call: lgr %r1, %r2",
    "lgr %r2, %r3",
    "lgr %r3, %r4",
    "lgr %r4, %r5",
    "svc 0",
    "br %r14",
);

#[cfg(target_arch = "riscv64")]
core::arch::global_asm!(
    ".globl _start, smidgen_system_call",
    "_start: andi sp, sp, -16",
    "call smidgen_start",
    "smidgen_system_call: mv a7, a0",
    "mv a0, a1",
    "mv a1, a2",
    "mv a2, a3",
    "ecall",
    "ret",
);

// As for PowerPC.
#[cfg(target_arch = "mips")]
core::arch::global_asm!(
    ".set push",
    ".set noreorder",
    ".globl _start, smidgen_system_call",
    "_start: addiu $sp, $sp, -64",
    "la $t9, smidgen_start",
    "jalr $t9",
    "nop",
    "smidgen_system_call: move $v0, $a0",
    "move $a0, $a1",
    "move $a1, $a2",
    "move $a2, $a3",
    "syscall",
    "beqz $a3, 1f",
    "nop",
    "negu $v0, $v0",
    "1: jr $ra",
    "nop",
    ".set pop",
);

// As for PowerPC.
#[cfg(target_arch = "sparc64")]
core::arch::global_asm!(
    ".globl _start, smidgen_system_call",
    "_start: sub %sp, 192, %sp",
    "call smidgen_start",
    "nop",
    "smidgen_system_call: mov %o0, %g1",
    "mov %o1, %o0",
    "mov %o2, %o1",
    "mov %o3, %o2",
    "ta 0x6d",
    "bcc,pt %xcc, 1f",
    "nop",
    "neg %o0",
    "1: retl",
    "nop",
);

unsafe extern "C" {
    fn smidgen_system_call(number: usize, a: usize, b: usize, c: usize) -> isize;
}

/// The kernel's numbers for these calls.
struct Numbers {
    read: usize,
    write: usize,
    exit: usize,
}

#[cfg(target_arch = "x86_64")]
const NUMBERS: Numbers = Numbers { read: 0, write: 1, exit: 60 };
#[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
const NUMBERS: Numbers = Numbers { read: 63, write: 64, exit: 93 };
#[cfg(target_arch = "mips")]
const NUMBERS: Numbers = Numbers { read: 4003, write: 4004, exit: 4001 };
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "mips")))]
const NUMBERS: Numbers = Numbers { read: 3, write: 4, exit: 1 };

/// Reads standard input to its end into `buffer`; `None` when it does not fit or cannot be read.
pub fn read_all(buffer: &mut [u8]) -> Option<&[u8]> {
    let mut filled = 0;
    loop {
        let room = buffer.get_mut(filled..).filter(|room| !room.is_empty())?;
        // SAFETY: the kernel writes at most `room.len()` bytes to `room`, which nothing else refers to.
        let n = unsafe { smidgen_system_call(NUMBERS.read, 0, room.as_mut_ptr() as usize, room.len()) };
        match usize::try_from(n).ok()? {
            0 => return buffer.get(..filled),
            n => filled += n,
        }
    }
}

/// The standard output of the process.
pub struct Stdout;

impl fmt::Write for Stdout {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            // SAFETY: the kernel reads at most `rest.len()` bytes from `rest`, which lives until the call returns.
            let written = unsafe { smidgen_system_call(NUMBERS.write, 1, rest.as_ptr() as usize, rest.len()) };
            let written = usize::try_from(written).ok().filter(|&n| n > 0).ok_or(fmt::Error)?;
            rest = rest.get(written..).ok_or(fmt::Error)?;
        }
        Ok(())
    }
}

/// Ends the process with `status`.
pub fn exit(status: u8) -> ! {
    loop {
        // SAFETY: this call takes no pointer, and the process is over when it returns.
        unsafe { smidgen_system_call(NUMBERS.exit, status.into(), 0, 0) };
    }
}

/// Makes every f32 operation round once, as IEEE 754 says: the x87 computes with more bits unless it is told not to.
/// Where there is no x87 there is nothing to tell.
pub fn set_float_precision() {
    #[cfg(all(target_arch = "x86", not(target_feature = "sse"), not(target_abi = "softfloat")))]
    {
        let control: u16 = 0x007f;
        // SAFETY: reads two bytes that live on this stack; all exceptions stay masked, rounding stays to nearest.
        unsafe { core::arch::asm!("fldcw [{}]", in(reg) &control) };
    }
}
