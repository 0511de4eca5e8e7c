//! What the library logs, in all tests of the process.

use std::io;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use tracing_subscriber::EnvFilter;

static TEXT: Mutex<Vec<u8>> = Mutex::new(Vec::new());

fn text() -> MutexGuard<'static, Vec<u8>> {
    TEXT.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Log;

impl io::Write for Log {
    fn write(&mut self, written: &[u8]) -> io::Result<usize> {
        text().extend(written);
        Ok(written.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From now on everything that the library and its client log is kept.
pub(crate) fn watch() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        let all = EnvFilter::new("off,tidings=trace,librdkafka=trace");
        tracing_subscriber::fmt().with_env_filter(all).with_ansi(false).with_writer(|| Log).init();
    });
}

/// What was logged since.
pub(crate) fn so_far() -> String {
    String::from_utf8_lossy(&text()).into_owned()
}
