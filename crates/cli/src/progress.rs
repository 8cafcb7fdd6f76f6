//! Progress bars for whatever takes longer than a second, on the standard error and only when somebody watches.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use smidgen_host::Progress;
use std::cell::RefCell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Work shorter than this passes without a bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// A bar that appears when its work has lasted a second.
#[derive(Debug)]
pub struct Bar {
    /// Whether the standard error is a terminal.
    watched: bool,
    work: RefCell<Option<Work>>,
}

#[derive(Debug)]
struct Work {
    what: String,
    total: u64,
    done: u64,
    since: Instant,
    bar: Option<ProgressBar>,
}

impl Bar {
    /// A bar with nothing to show yet.
    pub fn new() -> Self {
        Self { watched: std::io::stderr().is_terminal(), work: RefCell::new(None) }
    }
}

impl Default for Bar {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress for Bar {
    fn begin(&self, what: &str, total: u64) {
        if self.watched {
            let work = Work { what: what.to_owned(), total, done: 0, since: Instant::now(), bar: None };
            *self.work.borrow_mut() = Some(work);
        }
    }

    fn advance(&self, n: u64) {
        let mut work = self.work.borrow_mut();
        let Some(work) = work.as_mut() else { return };
        work.done += n;
        if let Some(bar) = &work.bar {
            bar.set_position(work.done);
        } else if work.since.elapsed() >= PATIENCE {
            work.bar = Some(draw(work));
        }
    }

    fn end(&self) {
        if let Some(bar) = self.work.borrow_mut().take().and_then(|work| work.bar) {
            bar.finish_and_clear();
        }
    }
}

/// The bar of `work`, from the time when the work began.
fn draw(work: &Work) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(work.total), ProgressDrawTarget::stderr());
    let form = match work.total {
        0 => "{msg} {bytes} ({bytes_per_sec})",
        _ => "{msg} {wide_bar} {percent}% {eta}",
    };
    if let Ok(style) = ProgressStyle::with_template(form) {
        bar.set_style(style);
    }
    bar.set_message(work.what.clone());
    bar.set_position(work.done);
    bar.with_elapsed(work.since.elapsed())
}
