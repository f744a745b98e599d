//! The settings of a cache.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::Clock;

/// A task that renews a data key. [`DataKeyCacheBuilder::refresh_ahead`](super::DataKeyCacheBuilder::refresh_ahead)
/// passes it to your function.
pub type Refresh = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) type Spawn = Box<dyn Fn(Refresh) + Send + Sync>;

/// The settings of a cache.
pub(super) struct Settings {
    pub(super) max_age: Duration,
    pub(super) max_messages: u64,
    pub(super) max_bytes: u64,
    pub(super) capacity: usize,
    pub(super) capacity_bytes: Option<usize>,
    pub(super) clock: Box<dyn Clock>,
    /// The time before its expiry at which a data key is renewed, and the function that runs the renewal.
    pub(super) refresh: Option<(Duration, Spawn)>,
}

impl Settings {
    pub(super) fn is_expired(&self, fetched: Instant, now: Instant) -> bool {
        now.saturating_duration_since(fetched) >= self.max_age
    }

    /// Returns the maximum memory of a store in bytes.
    pub(super) fn capacity_bytes(&self) -> usize {
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
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
