//! A model that tells a story on a 32-bit RISC-V: weights in flash, every buffer a static, so that the linker proves the fit.
//!
//! The addresses are those of QEMU's `virt` machine: a 16550 serial port, the machine timer, and the device that ends the
//! emulation. Another chip has its own; nothing else of this file changes.
#![no_std]
#![no_main]

mod settings;

use core::fmt::Write;
use core::ptr::{addr_of_mut, read_volatile, write_volatile};
use riscv_rt::entry;
use settings::{CLOCK_HZ, LAYER_BYTES, LIMITS, MEMORY_BYTES, MODEL, N_LAYERS, N_NEW, PROMPT};
use smidgen_teller::{Board, Layer, Layout, Lines, Request, perform};

/// All that the engine and the tokenizer work in. The plan aligns its buffers, so this needs no alignment.
static mut MEMORY: [u8; MEMORY_BYTES] = [0; MEMORY_BYTES];
/// Where each tensor of each layer lies.
static mut LAYERS: [Layer<'static>; N_LAYERS] = [Layer::EMPTY; N_LAYERS];
const _: () = assert!(size_of::<Layer<'static>>() <= LAYER_BYTES, "the plan of the memory is too small");

/// The 16550's data register, its line status, and the bit that says that it takes a byte.
const SERIAL: *mut u8 = 0x1000_0000 as *mut u8;
const SERIAL_STATUS: *const u8 = 0x1000_0005 as *const u8;
const SERIAL_READY: u8 = 1 << 5;
/// The machine timer, 64 bits in two words.
const TIMER: *const u32 = 0x0200_bff8 as *const u32;
/// The device that ends the emulation, and what it is told.
const FINISHER: *mut u32 = 0x0010_0000 as *mut u32;
const PASS: u32 = 0x5555;
const FAIL: u32 = 0x1_3333;

struct Virt;

impl Board for Virt {
    fn write(&mut self, text: &[u8]) {
        for &byte in text {
            // SAFETY: both are registers of the serial port, which this program alone uses.
            unsafe {
                while read_volatile(SERIAL_STATUS) & SERIAL_READY == 0 {}
                write_volatile(SERIAL, byte);
            }
        }
    }

    fn nanoseconds(&mut self) -> u64 {
        loop {
            // SAFETY: reading the timer changes nothing; the upper word is read twice, lest the lower one carry between.
            let [high, low, again] =
                unsafe { [read_volatile(TIMER.add(1)), read_volatile(TIMER), read_volatile(TIMER.add(1))] };
            if high == again {
                return (u64::from(high) << 32 | u64::from(low)) * 1_000 / (CLOCK_HZ / 1_000_000);
            }
        }
    }
}

/// Where riscv-rt begins.
#[entry]
fn main() -> ! {
    end(if run(&mut Virt) { PASS } else { FAIL })
}

fn run(board: &mut Virt) -> bool {
    // SAFETY: this function runs once, on the only core, so each of the two is borrowed once.
    let (layers, memory) = unsafe { (&mut *addr_of_mut!(LAYERS), &mut *addr_of_mut!(MEMORY)) };
    let request = Request { model: MODEL, prompt: PROMPT, limits: LIMITS, n_new: N_NEW };
    // SAFETY: between the statics and the stack there is nothing but room, and the linker script aligns their end.
    let (told, taken) = unsafe { layout().watch(|| perform(&request, board, layers, memory)) };
    writeln!(Lines(board), "{taken}").is_ok() && told
}

/// Where riscv-rt's linker script has put things.
fn layout() -> Layout {
    unsafe extern "C" {
        static __stext: u32;
        static __sidata: u32;
        static __sdata: u32;
        static __edata: u32;
        static __sheap: u32;
        static _stack_start: u32;
    }
    Layout {
        flash: (&raw const __stext).addr(),
        values: (&raw const __sidata).addr(),
        data: (&raw const __sdata).addr()..(&raw const __edata).addr(),
        stack: (&raw const __sheap).addr()..(&raw const _stack_start).addr(),
    }
}

/// Ends the emulation; a board would wait here.
fn end(verdict: u32) -> ! {
    loop {
        // SAFETY: the register of the device that ends the emulation.
        unsafe { write_volatile(FINISHER, verdict) };
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    // Nobody is left to be told when this fails.
    let _ = writeln!(Lines(&mut Virt), "[smidgen] {info}");
    end(FAIL)
}
