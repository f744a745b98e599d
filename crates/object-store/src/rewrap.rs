//! The pace at which objects are rewrapped.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, sleep_until},
};

/// The result of rewrapping or resealing an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rewrapped {
    /// New detached keys were stored, which open the object with the new key, or the object was resealed under it.
    Stored,
    /// The object opens with the new key, as was verified, and did so before.
    Before,
    /// No encrypted data key of the object is for the old key.
    OtherKey,
    /// The object is not a message, so it has no key.
    NoMessage,
}

/// The pace of `EncryptedStore::rewrap_all`.
///
/// ```
/// use kms_envelope_object_store::RewrapOptions;
///
/// let options = RewrapOptions::default().concurrency(64).calls_per_second(500);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct RewrapOptions {
    pub(crate) concurrency: usize,
    pace: Pace,
}

impl Default for RewrapOptions {
    fn default() -> Self {
        Self { concurrency: 16, pace: Pace { slot: None, attempts: 10 } }
    }
}

impl RewrapOptions {
    /// Sets how many objects are rewrapped at the same time. Default: 16. Zero has the same effect as 1.
    pub fn concurrency(mut self, objects: usize) -> Self {
        self.concurrency = objects;
        self
    }

    /// Sets the maximum rate of calls to the key providers. Default: no limit. Zero removes the limit. Clones share the rate.
    ///
    /// AWS KMS limits the requests of an account in a region, all services together, and rejects those above it.
    pub fn calls_per_second(mut self, calls: u32) -> Self {
        let period = NonZeroU32::new(calls).map(|calls| Duration::from_secs(1) / calls.get());
        self.pace.slot = period.map(|period| (period, Arc::new(Mutex::new(Instant::now()))));
        self
    }

    /// Sets how often a call to a key provider is tried if its errors
    /// [are retryable](kms_envelope::ProviderError::is_retryable). Default: 10. Zero has the same effect as 1.
    ///
    /// The waiting time between two attempts doubles, from about 0.2 to 20 seconds. This is in addition to the retries of the
    /// key provider's own client.
    pub fn attempts(mut self, attempts: usize) -> Self {
        self.pace.attempts = attempts;
        self
    }

    pub(crate) fn pace(&self) -> Pace {
        self.pace.clone()
    }
}

/// Limits the rate of calls to key providers, and repeats those that are rejected.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    /// The time between two calls, and the time of the next one.
    slot: Option<(Duration, Arc<Mutex<Instant>>)>,
    attempts: usize,
}

impl Pace {
    /// Makes `calls` calls to key providers, if necessary several times.
    pub(crate) async fn call<R, E, F: Future<Output = Result<R, E>>>(
        &self,
        calls: u32,
        is_retryable: impl FnMut(&E) -> bool,
        call: impl Fn() -> F,
    ) -> Result<R, E> {
        let call = &call;
        let attempt = || async move {
            self.wait(calls).await;
            call().await
        };
        let delays = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(Duration::from_secs(20))
            .with_jitter()
            .with_max_times(self.attempts.saturating_sub(1));
        attempt.retry(delays).sleep(sleep).when(is_retryable).await
    }

    /// Waits until it is time for this many calls.
    async fn wait(&self, calls: u32) {
        let Some((period, next)) = &self.slot else { return };
        let slot = {
            let mut next = next.lock().await;
            let slot = Instant::now().max(*next);
            *next = slot + *period * calls;
            slot
        };
        sleep_until(slot).await;
    }
}
