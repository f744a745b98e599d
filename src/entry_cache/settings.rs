//! The settings of a cache.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::clock::{Clock, SystemClock};

/// A task that renews a cached key.
/// [`DataKeyCacheBuilder::refresh_ahead`](crate::cache::DataKeyCacheBuilder::refresh_ahead) passes it to your function.
pub type Refresh = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(crate) type Spawn = Box<dyn Fn(Refresh) + Send + Sync>;

/// The settings of a cache.
pub(crate) struct Settings {
    pub(crate) max_age: Duration,
    pub(crate) max_messages: u64,
    pub(crate) max_bytes: u64,
    pub(crate) capacity: usize,
    pub(crate) capacity_bytes: Option<usize>,
    pub(crate) clock: Box<dyn Clock>,
    /// The time before its expiry at which a data key is renewed, and the function that runs the renewal.
    pub(crate) refresh: Option<(Duration, Spawn)>,
}

impl Settings {
    /// Creates the default settings.
    pub(crate) fn new(max_age: Duration) -> Self {
        Self {
            max_age,
            max_messages: u64::MAX,
            max_bytes: u64::MAX,
            capacity: 1000,
            capacity_bytes: None,
            clock: Box::new(SystemClock),
            refresh: None,
        }
    }

    /// Returns the reason why the settings are invalid, if any.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.max_age.is_zero() {
            return Err("max_age must be greater than zero");
        }
        if self.capacity == 0 {
            return Err("capacity must be at least 1");
        }
        if self.capacity_bytes == Some(0) {
            return Err("capacity_bytes must be at least 1");
        }
        if self.refresh.as_ref().is_some_and(|(ahead, _)| *ahead >= self.max_age) {
            return Err("refresh_ahead must be shorter than max_age");
        }
        Ok(())
    }

    pub(crate) fn is_expired(&self, fetched: Instant, now: Instant) -> bool {
        now.saturating_duration_since(fetched) >= self.max_age
    }

    /// Returns the maximum memory of a store in bytes.
    pub(crate) fn capacity_bytes(&self) -> usize {
        self.capacity_bytes.unwrap_or_else(|| self.capacity.saturating_mul(16 << 10).max(1 << 20))
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("max_age", &self.max_age)
            .field("max_messages", &self.max_messages)
            .field("max_bytes", &self.max_bytes)
            .field("capacity", &self.capacity)
            .field("capacity_bytes", &self.capacity_bytes())
            .field("clock", &self.clock)
            .field("refresh_ahead", &self.refresh.as_ref().map(|(ahead, _)| ahead))
            .finish()
    }
}

/// Locks a mutex. The data is always consistent, so a poisoned lock can be used.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
