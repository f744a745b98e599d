//! Limits the work of one poll, so that other tasks run even if the inner reader, writer or stream is always ready.

use std::{
    future::poll_fn,
    task::{Context, Poll},
};

use super::buffer::BATCH;

const PIECES: usize = 256;

/// The work that is left for one poll.
pub(super) struct PollBudget {
    bytes: usize,
    pieces: usize,
}

impl PollBudget {
    pub(super) fn new() -> Self {
        Self { bytes: BATCH, pieces: PIECES }
    }

    /// Counts a piece of `len` bytes. If that exhausts the budget, wakes the task and returns pending.
    pub(super) fn poll_spend(&mut self, len: usize, cx: &mut Context<'_>) -> Poll<()> {
        self.bytes = self.bytes.saturating_sub(len);
        self.pieces -= 1;
        if self.bytes > 0 && self.pieces > 0 {
            return Poll::Ready(());
        }
        *self = Self::new();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Counts a piece of `len` bytes. If that exhausts the budget, lets other tasks run.
    pub(super) async fn spend(&mut self, len: usize) {
        let mut is_counted = false;
        poll_fn(|cx| if std::mem::replace(&mut is_counted, true) { Poll::Ready(()) } else { self.poll_spend(len, cx) })
            .await;
    }
}
