//! The source of time.

use std::{fmt, sync::Arc, time::Instant};

/// Provides the time to a [`DataKeyCache`](crate::DataKeyCache). Tests can use `ManualClock` (feature `mock`).
pub trait Clock: fmt::Debug + Send + Sync {
    /// Returns the current time, which should not go backwards.
    fn now(&self) -> Instant;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Instant {
        C::now(self)
    }
}

#[derive(Debug)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }
}
