//! A model that tells a story on a Cortex-M: weights in flash, every buffer a static, so that the linker proves the fit.
//!
//! Text goes to the debugger by semihosting, which QEMU and every debug probe understand. On a board that is to run alone,
//! [`Cortex`] is the place for a serial port.
#![no_std]
#![no_main]

mod boot;
mod settings;

use core::fmt::Write;
use core::ptr::addr_of_mut;
use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use cortex_m_rt::entry;
use cortex_m_semihosting::debug::{self, EXIT_FAILURE, EXIT_SUCCESS};
use cortex_m_semihosting::hio::{self, HostStream};
use settings::{CLOCK_HZ, LAYER_BYTES, LIMITS, MEMORY_BYTES, MODEL, N_LAYERS, N_NEW, PROMPT};
use smidgen_teller::{Board, Layer, Layout, Lines, Request, perform};

/// All that the engine and the tokenizer work in. The plan aligns its buffers, so this needs no alignment.
static mut MEMORY: [u8; MEMORY_BYTES] = [0; MEMORY_BYTES];
/// Where each tensor of each layer lies.
static mut LAYERS: [Layer<'static>; N_LAYERS] = [Layer::EMPTY; N_LAYERS];
const _: () = assert!(size_of::<Layer<'static>>() <= LAYER_BYTES, "the plan of the memory is too small");

/// The values of the tick counter, which counts down.
const TICKS: u32 = 1 << 24;

/// The processor's own clock and the debugger's console.
struct Cortex {
    console: Option<HostStream>,
    clock: SYST,
    last: u32,
    elapsed: u64,
}

impl Cortex {
    fn new(mut clock: SYST) -> Self {
        clock.set_clock_source(SystClkSource::Core);
        clock.set_reload(TICKS - 1);
        clock.clear_current();
        clock.enable_counter();
        Self { console: hio::hstdout().ok(), clock, last: 0, elapsed: 0 }
    }
}

impl Board for Cortex {
    fn write(&mut self, text: &[u8]) {
        if let Some(console) = &mut self.console {
            // Without a debugger nobody reads it.
            let _ = console.write_all(text);
        }
    }

    /// Right as long as it is asked more often than the counter runs out: 2^24 ticks.
    fn nanoseconds(&mut self) -> u64 {
        let _ = &self.clock;
        let ticks = TICKS - 1 - SYST::get_current();
        self.elapsed += u64::from(ticks.wrapping_sub(self.last) % TICKS);
        self.last = ticks;
        self.elapsed * 1_000 / (CLOCK_HZ / 1_000_000)
    }
}

#[entry]
fn main() -> ! {
    let told = cortex_m::Peripherals::take().is_some_and(|peripherals| run(&mut Cortex::new(peripherals.SYST)));
    loop {
        debug::exit(if told { EXIT_SUCCESS } else { EXIT_FAILURE });
    }
}

fn run(board: &mut Cortex) -> bool {
    // SAFETY: this function runs once, on the only core, so each of the two is borrowed once.
    let (layers, memory) = unsafe { (&mut *addr_of_mut!(LAYERS), &mut *addr_of_mut!(MEMORY)) };
    let request = Request { model: MODEL, prompt: PROMPT, limits: LIMITS, n_new: N_NEW };
    // SAFETY: between the statics and the stack there is nothing but room, and the linker script aligns their end.
    let (told, taken) = unsafe { layout().watch(|| perform(&request, board, layers, memory)) };
    writeln!(Lines(board), "{taken}").is_ok() && told
}

/// Where cortex-m-rt's linker script has put things.
fn layout() -> Layout {
    unsafe extern "C" {
        static __vector_table: u32;
        static __sidata: u32;
        static __sdata: u32;
        static __edata: u32;
        static __sheap: u32;
        static _stack_start: u32;
    }
    Layout {
        flash: (&raw const __vector_table).addr(),
        values: (&raw const __sidata).addr(),
        data: (&raw const __sdata).addr()..(&raw const __edata).addr(),
        stack: (&raw const __sheap).addr()..(&raw const _stack_start).addr(),
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    if let Ok(mut console) = hio::hstdout() {
        let _ = writeln!(console, "[smidgen] {info}");
    }
    loop {
        debug::exit(EXIT_FAILURE);
    }
}
