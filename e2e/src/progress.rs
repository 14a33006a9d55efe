//! What the test bed says while it works: one line per step on standard error, with the seconds since the start.

use std::cell::RefCell;
use std::fmt::Arguments;
use std::io::Write;
use std::sync::OnceLock;
use std::time::Instant;

static STARTED: OnceLock<Instant> = OnceLock::new();

/// Starts the clock of the progress lines.
pub(crate) fn start() {
    STARTED.get_or_init(Instant::now);
}

thread_local! {
    static ABOUT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What every line of this thread is about from now on, where several things are done at once.
pub(crate) fn about(subject: &str) {
    ABOUT.with_borrow_mut(|about| *about = format!(" {subject}"));
}

/// Writes one progress line. A closed standard error must not end a run, so a failure to write is ignored.
pub(crate) fn write(message: Arguments<'_>) {
    let seconds = STARTED.get_or_init(Instant::now).elapsed().as_secs_f64();
    // In one piece: others write, too.
    let line = ABOUT.with_borrow(|about| format!("[e2e {seconds:6.1} s{about}] {message}\n"));
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// `say!("{node}: kubeadm init")`: one progress line.
macro_rules! say {
    ($($arg:tt)*) => { $crate::progress::write(format_args!($($arg)*)) };
}
pub(crate) use say;
