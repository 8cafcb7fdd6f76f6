//! Channel A of the Zilog 85C30 in the mac-io chip, polled; the firmware has set its speed.

use core::fmt;
use core::ptr::{read_volatile, write_volatile};
use core::sync::atomic::{AtomicU32, Ordering};

/// How far the data register lies behind the control register.
const DATA_OFFSET: u32 = 0x10;
/// Bits of read register 0: a byte has come, and the next may go.
const HAS_COME: u8 = 1 << 0;
const MAY_GO: u8 = 1 << 2;

/// Where the port is, for [`last_resort`]; zero before it is known.
static PORT: AtomicU32 = AtomicU32::new(0);

/// The port.
pub struct Serial {
    control: u32,
}

impl Serial {
    /// The port whose control register is at `control`.
    ///
    /// # Safety
    /// It is there, mapped, and nobody else uses it.
    pub unsafe fn new(control: u32) -> Self {
        PORT.store(control, Ordering::Relaxed);
        Self { control }
    }

    fn wait_for(&self, bit: u8) {
        // SAFETY: `new` was told that the register is there.
        while unsafe { read_volatile(self.control as *const u8) } & bit == 0 {}
        self.order();
    }

    /// Nothing after this reaches the chip before what came before it.
    fn order(&self) {
        // SAFETY: a barrier; it touches nothing.
        unsafe { core::arch::asm!("eieio") };
    }

    /// Sends a byte.
    pub fn put(&self, byte: u8) {
        self.wait_for(MAY_GO);
        // SAFETY: as above.
        unsafe { write_volatile((self.control + DATA_OFFSET) as *mut u8, byte) };
        self.order();
    }

    /// Reads a line, which ends with a carriage return or a line feed, and sends back what it reads; `None` for one that is
    /// longer than `buffer` or not UTF-8.
    pub fn line<'a>(&self, buffer: &'a mut [u8]) -> Option<&'a str> {
        let mut n = 0;
        loop {
            self.wait_for(HAS_COME);
            // SAFETY: as above.
            let byte = unsafe { read_volatile((self.control + DATA_OFFSET) as *const u8) };
            self.order();
            if byte == b'\r' || byte == b'\n' {
                self.put(b'\r');
                self.put(b'\n');
                return core::str::from_utf8(buffer.get(..n)?).ok();
            }
            *buffer.get_mut(n)? = byte;
            n += 1;
            self.put(byte);
        }
    }
}

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.put(byte));
        Ok(())
    }
}

/// The port once more, for a program that is about to end.
pub fn last_resort() -> Option<Serial> {
    match PORT.load(Ordering::Relaxed) {
        0 => None,
        control => Some(Serial { control }),
    }
}
