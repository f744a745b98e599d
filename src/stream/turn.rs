//! How much one poll does, where what is inside is always ready, before it lets other tasks run.

use std::{
    future::poll_fn,
    task::{Context, Poll},
};

use super::buffer::BATCH;

const PIECES: usize = 256;

/// What one poll has left to do.
pub(super) struct Turn {
    bytes: usize,
    pieces: usize,
}

impl Turn {
    pub(super) fn new() -> Self {
        Self { bytes: BATCH, pieces: PIECES }
    }

    /// Counts a piece of so many bytes. Pending, and awake again at once, where it was the last.
    pub(super) fn poll_after(&mut self, len: usize, cx: &mut Context<'_>) -> Poll<()> {
        self.bytes = self.bytes.saturating_sub(len);
        self.pieces -= 1;
        if self.bytes > 0 && self.pieces > 0 {
            return Poll::Ready(());
        }
        *self = Self::new();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Counts a piece of so many bytes, and lets other tasks run where it was the last.
    pub(super) async fn after(&mut self, len: usize) {
        let mut is_counted = false;
        poll_fn(|cx| if std::mem::replace(&mut is_counted, true) { Poll::Ready(()) } else { self.poll_after(len, cx) })
            .await;
    }
}
