//! A clock for tests.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::clock::Clock;

/// A clock that a test advances. Its clones share the same time.
///
/// ```
/// use std::time::Duration;
/// use kms_envelope::{DataKeyCache, testing::ManualClock};
///
/// let clock = ManualClock::new();
/// let cache = DataKeyCache::builder(Duration::from_secs(300)).clock(clock.clone()).build()?;
/// clock.advance(Duration::from_secs(301)); // All entries of the cache have expired.
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Mutex<Instant>>);

impl ManualClock {
    /// Creates a clock that is set to the current time and does not advance by itself.
    #[expect(clippy::new_without_default, reason = "each one has its own time")]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// Advances the clock.
    pub fn advance(&self, by: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
