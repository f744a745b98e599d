//! The progress bar.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A progress bar on standard error, or nothing. It is removed when dropped.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Creates a bar for `len` bytes, if known. It is hidden if standard error is not a terminal.
    pub(crate) fn new(len: Option<u64>, wanted: bool) -> Self {
        let (bar, template) = match len {
            Some(len) => (ProgressBar::new(len), "{bar:30} {percent}% of {total_bytes}, {bytes_per_sec}, {eta} left"),
            None => (ProgressBar::no_length(), "{spinner} {bytes}, {bytes_per_sec}, {elapsed}"),
        };
        Self::shown(bar, template, wanted)
    }

    /// Creates a display of the number of objects, which is not known in advance.
    #[cfg(feature = "stores")]
    pub(crate) fn of_objects(wanted: bool) -> Self {
        Self::shown(ProgressBar::no_length(), "{spinner} {human_pos} objects, {per_sec}, {elapsed}", wanted)
    }

    fn shown(bar: ProgressBar, template: &str, wanted: bool) -> Self {
        if !wanted || !io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        // The templates are valid. If one were not, the default would be fine.
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        // Updates the remaining time even if no data arrives.
        bar.enable_steady_tick(Duration::from_millis(500));
        Self(bar)
    }

    pub(crate) fn advance(&self, bytes: usize) {
        self.0.inc(bytes as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
