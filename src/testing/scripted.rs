//! A key provider with scripted failures.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;

use crate::{
    clock::Clock,
    crypto::SecretKey,
    error::NotFips,
    message::EncryptedDataKey,
    provider::{
        DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, GenerateDataKeyRequest, GeneratedDataKey,
        KeyProvider, ProviderError, ProviderErrorKind,
    },
};

/// A wrapper around a key provider that counts its calls, delays them, or makes them fail as scripted.
///
/// Use it to test what your service does when its key service is slow, throttles or is unavailable. Clones share the
/// script and the counters, so a test can keep a clone of the provider that it passes to an
/// [`Envelope`](crate::Envelope).
///
/// ```
/// use std::time::Duration;
/// use kms_envelope::{EncryptionContext, Envelope, testing::{Fault, ManualClock, MemoryKey, ScriptedProvider}};
///
/// # pollster::block_on(async {
/// let clock = ManualClock::new();
/// let kms = ScriptedProvider::new(MemoryKey::new()?).with_clock(clock.clone());
/// let envelope = Envelope::new(kms.clone());
/// let context = EncryptionContext::new();
///
/// // The next two calls are throttled.
/// kms.script([Fault::Throttled, Fault::Throttled]);
/// assert!(envelope.seal(b"data", &context).await.is_err());
/// assert!(envelope.seal(b"data", &context).await.is_err());
/// let sealed = envelope.seal(b"data", &context).await?;
///
/// // KMS is unavailable for five seconds.
/// kms.down_for(Duration::from_secs(5));
/// assert!(envelope.open(&sealed, &context).await.is_err());
/// clock.advance(Duration::from_secs(5));
/// assert!(envelope.open(&sealed, &context).await.is_ok());
///
/// assert_eq!((kms.calls().generate, kms.calls().decrypt), (3, 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct ScriptedProvider(Arc<Inner>);

struct Inner {
    provider: Box<dyn KeyProvider>,
    state: Mutex<State>,
}

type Delay = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

#[derive(Default)]
struct State {
    calls: Calls,
    script: VecDeque<Fault>,
    /// The start and the duration of an outage.
    down: Option<(Instant, Duration)>,
    clock: Option<Box<dyn Clock>>,
    delay: Option<Delay>,
}

/// The result of a call to a [`ScriptedProvider`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The call succeeds.
    None,
    /// The call fails with [`ProviderErrorKind::Throttled`], to be retried after one second.
    Throttled,
    /// The call fails with [`ProviderErrorKind::Unavailable`].
    Unavailable,
    /// The call fails with [`ProviderErrorKind::AccessDenied`].
    AccessDenied,
    /// The call fails with [`ProviderErrorKind::InvalidCiphertext`].
    InvalidCiphertext,
    /// The call succeeds with a wrong data key: messages sealed with it do not open, and it opens no message.
    WrongKey,
}

/// The number of calls to a [`ScriptedProvider`], including those that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Calls {
    /// The number of calls to [`KeyProvider::generate_data_key`].
    pub generate: u64,
    /// The number of calls to [`KeyProvider::encrypt_data_key`].
    pub encrypt: u64,
    /// The number of calls to [`KeyProvider::decrypt_data_key`].
    pub decrypt: u64,
}

impl ScriptedProvider {
    /// Wraps a provider. All calls succeed until faults are scripted.
    pub fn new(provider: impl KeyProvider + 'static) -> Self {
        Self(Arc::new(Inner { provider: Box::new(provider), state: Mutex::default() }))
    }

    /// Sets the clock that [`down_for`](Self::down_for) uses. Default: [`Instant::now`].
    #[must_use]
    pub fn with_clock(self, clock: impl Clock + 'static) -> Self {
        self.state().clock = Some(Box::new(clock));
        self
    }

    /// Sets a delay before each call. `delay` returns the future to wait for: for example, pass
    /// `|| tokio::time::sleep(..)`.
    #[must_use]
    pub fn with_delay<F: Future<Output = ()> + Send + 'static>(
        self,
        delay: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self {
        self.state().delay = Some(Arc::new(move || Box::pin(delay())));
        self
    }

    /// Adds results for the next calls. Each call of any kind consumes one result. After the last one, calls succeed
    /// again.
    pub fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().script.extend(faults);
    }

    /// Makes every call fail with [`ProviderErrorKind::Unavailable`] for this time from now. These calls do not consume
    /// results of the [script](Self::script).
    pub fn down_for(&self, duration: Duration) {
        let mut state = self.state();
        state.down = Some((state.now(), duration));
    }

    /// Returns the number of calls so far.
    pub fn calls(&self) -> Calls {
        self.state().calls
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts and delays a call. Returns its scripted error, or whether it must return a wrong key.
    async fn begin(&self, operation: &'static str, count: fn(&mut Calls)) -> Result<bool, ProviderError> {
        let (fault, delay) = {
            let mut state = self.state();
            count(&mut state.calls);
            let is_down = state.down.is_some_and(|(since, time)| state.now().saturating_duration_since(since) < time);
            let fault = if is_down { Some(Fault::Unavailable) } else { state.script.pop_front() };
            (fault.unwrap_or(Fault::None), state.delay.clone())
        };
        if let Some(delay) = delay {
            delay().await;
        }
        let error = |kind| ProviderError::new(kind, operation, "scripted").with_source("scripted fault");
        match fault {
            Fault::None => Ok(false),
            Fault::WrongKey => Ok(true),
            Fault::Throttled => Err(error(ProviderErrorKind::Throttled).with_retry_after(Duration::from_secs(1))),
            Fault::Unavailable => Err(error(ProviderErrorKind::Unavailable)),
            Fault::AccessDenied => Err(error(ProviderErrorKind::AccessDenied)),
            Fault::InvalidCiphertext => Err(error(ProviderErrorKind::InvalidCiphertext)),
        }
    }
}

impl State {
    fn now(&self) -> Instant {
        self.clock.as_ref().map_or_else(Instant::now, |clock| clock.now())
    }
}

/// Returns a different key of the same length.
fn wrong(key: &SecretKey) -> Result<SecretKey, ProviderError> {
    SecretKey::filled(key.len(), |out| {
        out.iter_mut().zip(key.expose()).for_each(|(out, byte)| *out = !byte);
        Ok(())
    })
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl KeyProvider for ScriptedProvider {
    async fn generate_data_key(&self, request: &GenerateDataKeyRequest<'_>) -> Result<GeneratedDataKey, ProviderError> {
        let is_wrong = self.begin("GenerateDataKey", |calls| calls.generate += 1).await?;
        let mut data_key = self.0.provider.generate_data_key(request).await?;
        if is_wrong {
            data_key.plaintext = wrong(&data_key.plaintext)?;
        }
        Ok(data_key)
    }

    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        let is_wrong = self.begin("Encrypt", |calls| calls.encrypt += 1).await?;
        let other = if is_wrong { Some(wrong(request.data_key)?) } else { None };
        let data_key = other.as_ref().unwrap_or(request.data_key);
        self.0.provider.encrypt_data_key(&EncryptDataKeyRequest { data_key, ..*request }).await
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        let is_wrong = self.begin("Decrypt", |calls| calls.decrypt += 1).await?;
        let mut data_key = self.0.provider.decrypt_data_key(request).await?;
        if is_wrong {
            data_key.plaintext = wrong(&data_key.plaintext)?;
        }
        Ok(data_key)
    }

    fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
        self.0.provider.may_decrypt(encrypted)
    }

    fn check_fips(&self) -> Result<(), NotFips> {
        self.0.provider.check_fips()
    }
}

/// Formats as the wrapped provider.
impl fmt::Display for ScriptedProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.provider, f)
    }
}

impl fmt::Debug for ScriptedProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedProvider")
            .field("provider", &self.0.provider)
            .field("calls", &self.calls())
            .finish_non_exhaustive()
    }
}
