//! Time that a test moves.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::clock::Clock;

/// A clock that a test moves by hand. Its clones show the same time.
///
/// ```
/// use std::time::Duration;
/// use kms_envelope::{DataKeyCache, testing::ManualClock};
///
/// let clock = ManualClock::new();
/// let cache = DataKeyCache::builder(Duration::from_secs(300)).clock(clock.clone()).build()?;
/// clock.advance(Duration::from_secs(301)); // What was in the cache has expired.
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Mutex<Instant>>);

impl ManualClock {
    /// Returns a clock that stands still at the current time.
    #[expect(clippy::new_without_default, reason = "two of them show different times")]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
