//! Open Firmware's client interface (IEEE 1275-1994, chapter 6; the PowerPC binding says how it is called).

use core::ffi::CStr;

unsafe extern "C" {
    fn smidgen_firmware_call(arguments: *mut u32, entry: u32) -> i32;
}

/// What the firmware gives in place of something that is not there.
const NONE: u32 = 0xffff_ffff;
/// Where the serial ports' registers lie within the mac-io chip (Heathrow, Paddington, KeyLargo): channel A's.
const SERIAL_OFFSET: u32 = 0x1_3020;
/// The device tree's names of the mac-io chip, on Old World and New World machines.
const MAC_IO: &[&CStr] = &[c"/pci/mac-io", c"/pci@80000000/mac-io", c"mac-io", c"/pci@f2000000/mac-io"];
/// Where boot arguments are found.
const CHOSEN: &CStr = c"/chosen";

/// The firmware that started us.
pub struct Firmware {
    entry: u32,
}

impl Firmware {
    /// The firmware that is called at `entry`.
    ///
    /// # Safety
    /// `entry` is what the firmware handed over in r5.
    pub unsafe fn new(entry: u32) -> Self {
        Self { entry }
    }

    /// Calls `service`; gives its first result.
    fn call(&self, service: &CStr, arguments: &[u32], n_results: usize) -> u32 {
        let mut words = [0u32; 16];
        words[0] = service.as_ptr() as u32;
        words[1] = arguments.len() as u32;
        words[2] = n_results as u32;
        words[3..3 + arguments.len()].copy_from_slice(arguments);
        // SAFETY: the words are laid out as the interface asks, and every pointer among them lives through the call.
        let status = unsafe { smidgen_firmware_call(words.as_mut_ptr(), self.entry) };
        if status == 0 { words[3 + arguments.len()] } else { NONE }
    }

    fn find(&self, path: &CStr) -> Option<u32> {
        Some(self.call(c"finddevice", &[path.as_ptr() as u32], 1)).filter(|&node| node != NONE)
    }

    /// Reads a property into `words`; gives its length in bytes.
    fn property(&self, node: u32, name: &CStr, words: &mut [u32]) -> Option<usize> {
        let n_bytes = size_of_val(words) as u32;
        let n = self.call(c"getprop", &[node, name.as_ptr() as u32, words.as_mut_ptr() as u32, n_bytes], 1);
        usize::try_from(n as i32).ok()
    }

    /// The address of channel A of the serial ports.
    pub fn serial_port(&self) -> Option<u32> {
        MAC_IO.iter().find_map(|path| {
            let mut addresses = [0; 5];
            let n = self.property(self.find(path)?, c"assigned-addresses", &mut addresses)?;
            (n >= size_of_val(&addresses)).then_some(addresses[2] + SERIAL_OFFSET)
        })
    }

    /// How fast the time base counts.
    pub fn ticks_per_second(&self) -> Option<u32> {
        let processor = self.find(c"/cpus/@0").or_else(|| {
            let child = self.call(c"child", &[self.find(c"/cpus")?], 1);
            Some(child).filter(|&node| node != 0 && node != NONE)
        })?;
        let mut frequency = [0];
        self.property(processor, c"timebase-frequency", &mut frequency)?;
        Some(frequency[0]).filter(|&hertz| hertz > 0)
    }

    /// The boot arguments; what is no UTF-8 counts as none.
    pub fn arguments<'a>(&self, buffer: &'a mut [u8; 512]) -> &'a str {
        let mut words = [0u32; 128];
        let n = self.find(CHOSEN).and_then(|node| self.property(node, c"bootargs", &mut words)).unwrap_or(0);
        for (bytes, word) in buffer.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *bytes = word.to_be_bytes();
        }
        let n = n.min(buffer.len());
        core::str::from_utf8(&buffer[..n]).unwrap_or("")
    }

    /// Reads the file at `path`, whole, into the `room` bytes from `address`.
    ///
    /// # Errors
    /// A path that the firmware cannot open, and a file that does not fit.
    pub fn load(&self, path: &str, address: usize, room: usize) -> Result<&'static [u8], &'static str> {
        let mut name = [0; 256];
        let text = name.get_mut(..path.len()).ok_or("model=: the path is too long")?;
        text.copy_from_slice(path.as_bytes());
        if path.len() == name.len() {
            return Err("model=: the path is too long");
        }
        let file = self.call(c"open", &[name.as_ptr() as u32], 1);
        if file == 0 || file == NONE {
            return Err("model=: Open Firmware cannot open that file");
        }
        let n = self.call(c"read", &[file, address as u32, room as u32], 1) as usize;
        self.call(c"close", &[file], 0);
        if n == 0 || n >= room {
            return Err("model=: the file is empty, unreadable, or larger than the memory below the program");
        }
        // SAFETY: the firmware has just filled these bytes, which lie below the program, where nothing else writes.
        Ok(unsafe { core::slice::from_raw_parts(address as *const u8, n) })
    }

    /// Shows text where the firmware shows its own.
    pub fn say(&self, text: &str) {
        let mut output = [0];
        if let Some(node) = self.find(CHOSEN) {
            self.property(node, c"stdout", &mut output);
        }
        self.call(c"write", &[output[0], text.as_ptr() as u32, text.len() as u32], 1);
    }

    /// Starts the machine anew.
    pub fn restart(&self) -> ! {
        self.call(c"interpret", &[c"reset-all".as_ptr() as u32], 1);
        self.call(c"exit", &[], 0);
        loop {
            core::hint::spin_loop();
        }
    }
}
