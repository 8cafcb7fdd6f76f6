//! Ctrl-C: the first one asks the work in hand to end in order, a second one ends the program.

use crate::failure::Failure;
use signal_hook::consts::SIGINT;
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether Ctrl-C was pressed while work was in hand.
#[derive(Clone, Debug)]
pub struct Interrupt {
    /// True while nothing is in hand, and after a first Ctrl-C: then the signal does what it does in any program.
    pressed: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes over the signal. Until [`Interrupt::guard`] it still ends the program.
    ///
    /// # Errors
    /// When the system does not let us.
    pub fn watch() -> Result<Self, Failure> {
        let pressed = Arc::new(AtomicBool::new(true));
        flag::register_conditional_default(SIGINT, Arc::clone(&pressed))
            .and_then(|_| flag::register(SIGINT, Arc::clone(&pressed)))
            .map_err(|error| Failure::Failed(format!("cannot watch for Ctrl-C: {error}")))?;
        Ok(Self { pressed })
    }

    /// Work begins: until the guard is dropped the first Ctrl-C only sets the flag.
    pub fn guard(&self) -> Guard<'_> {
        self.pressed.store(false, Ordering::Relaxed);
        Guard { pressed: &self.pressed }
    }
}

/// Work that Ctrl-C asks to end in order.
#[derive(Debug)]
pub struct Guard<'a> {
    pressed: &'a AtomicBool,
}

impl Guard<'_> {
    /// Whether Ctrl-C was pressed since the work began.
    pub fn is_pressed(&self) -> bool {
        self.pressed.load(Ordering::Relaxed)
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.pressed.store(true, Ordering::Relaxed);
    }
}
