//! Selects a key provider by values of the encryption context, such as a key for each tenant.

use std::{
    collections::{HashMap, hash_map::RandomState},
    error::Error,
    fmt, mem,
    num::NonZeroUsize,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use futures_util::{FutureExt, future::Shared};
use lru::LruCache;

#[cfg(feature = "aws-kms")]
use super::ResolveError;
use super::{
    DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, GenerateDataKeyRequest, GeneratedDataKey,
    KeyProvider, ProviderError, ProviderErrorKind, not_fips,
};
use crate::{
    context::EncryptionContext,
    error::{ConfigError, NotFips},
    message::EncryptedDataKey,
};

/// The operation that errors report when the selection fails.
const OPERATION: &str = "ChooseKey";

/// The default number of cached providers.
const DEFAULT_CAPACITY: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);

/// Selects a key provider by pairs of the encryption context, such as a KMS key for each tenant.
///
/// You pass the names of the pairs and an asynchronous function. The function receives the values of these pairs, in
/// the order of the names, and returns the key provider for them.
///
#[cfg_attr(feature = "aws-kms", doc = "```no_run")]
#[cfg_attr(not(feature = "aws-kms"), doc = "```ignore")]
/// use kms_envelope::{AwsKms, EncryptionContext, Envelope, provider::ByContext};
///
/// # async fn example(client: aws_sdk_kms::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let keys = ByContext::new(["tenant"], move |[tenant]| {
///     AwsKms::resolve(client.clone(), format!("alias/tenants/{tenant}"))
/// });
/// let envelope = Envelope::new(keys);
///
/// let acme = EncryptionContext::from([("tenant", "acme")]);
/// let sealed = envelope.seal(b"attack at dawn", &acme).await?; // with alias/tenants/acme
/// let opened = envelope.open(&sealed, &acme).await?; // fails if the message belongs to another tenant
/// # Ok(())
/// # }
/// ```
///
/// # Cached providers
/// The [1,000](Self::with_capacity) most recently used providers are cached. The function is called only for values
/// that have no cached provider. Concurrent requests for the same values share one call.
///
/// If the function fails or panics, all requests that share the call fail. The failure is not cached: the next request
/// calls the function again.
///
/// # Errors of the function
/// The function can return any error. A [`ProviderError`] is passed on unchanged, even if it is inside a
/// [`ResolveError`](super::ResolveError), so that its kind and [`is_retryable`](ProviderError::is_retryable) stay
/// correct. If the context lacks one of the names, the request fails and the function is not called.
///
/// The function is not bound by the request's deadline. It must limit the time of its own calls;
/// [`AwsKms::resolve`](crate::AwsKms::resolve) does.
///
/// # Opening untrusted messages
/// When a message is opened, the function receives the values that the **message** stores. The author of the message
/// chose these values. They are not authenticated until the header has been verified with the data key, and they can
/// name a different tenant. Therefore:
///
/// - Pass the tenant that you expect in the context of [`open`](crate::Envelope::open), as in the example. A message
///   with a different value, or without the pair, is refused before the function is called. With an empty context,
///   `open` opens a message of any tenant, with that tenant's key.
/// - Alternatively, do not store the pair: with
///   [`EnvelopeBuilder::required_context`](crate::EnvelopeBuilder::required_context), every caller of `open` must pass
///   the pair, and the function never receives a value from a message.
/// - Do not create keys in the function, and do not use a value in a path or query without validating it.
pub struct ByContext<const N: usize> {
    names: [String; N],
    /// Calls the caller's function. The second argument is `requires_fips`.
    choose: Box<dyn Fn([String; N], bool) -> Choice + Send + Sync>,
    requires_fips: bool,
    state: Mutex<State<N>>,
}

/// While the lock is held, no provider or call is dropped and none of the caller's code runs.
struct State<const N: usize> {
    kept: LruCache<[String; N], Arc<dyn KeyProvider>, RandomState>,
    calls: HashMap<[String; N], Call>,
}

/// A call in progress.
struct Call {
    choice: Shared<Choice>,
    /// The number of shares. The call is removed from the map with its last share at the latest.
    shares: usize,
}

/// A request's share of a call in progress.
struct Share<'a, const N: usize> {
    keys: &'a ByContext<N>,
    values: [String; N],
    choice: Shared<Choice>,
}

/// A future that calls the caller's function when polled, and catches its panics.
type Choice = Pin<Box<dyn Future<Output = Result<Arc<dyn KeyProvider>, ProviderError>> + Send>>;

/// Returns the error to report when the caller's function returned `error`.
pub(super) fn not_chosen(operation: &'static str, pairs: &str, error: Box<dyn Error + Send + Sync>) -> ProviderError {
    let error = match error.downcast::<ProviderError>() {
        Ok(error) => return *error,
        Err(error) => error,
    };
    #[cfg(feature = "aws-kms")]
    let error = match error.downcast::<ResolveError>().map(|error| *error) {
        Ok(ResolveError::Provider(error)) => return error,
        Ok(ResolveError::Config(error)) => error.into(),
        Err(error) => error,
    };
    let kind = if error.is::<ConfigError>() { ProviderErrorKind::Unsupported } else { ProviderErrorKind::Other };
    ProviderError::new(kind, operation, pairs).with_source(error)
}

/// Returns the error to report when the function passed to `caller` panicked.
pub(super) fn panicked(operation: &'static str, pairs: &str, caller: &str) -> ProviderError {
    ProviderError::new(ProviderErrorKind::Other, operation, pairs)
        .with_detail(format!("the function passed to {caller} panicked"))
}

impl<const N: usize> ByContext<N> {
    /// Creates a provider that calls `choose` with the values of the pairs `names`, in that order.
    ///
    /// List only the names on which the selection depends: each combination of values has its own provider. See
    /// [`ByContext`] for an example.
    pub fn new<S, F, R, P, E>(names: [S; N], choose: F) -> Self
    where
        S: Into<String>,
        F: Fn([String; N]) -> R + Send + Sync + 'static,
        R: Future<Output = Result<P, E>> + Send + 'static,
        P: KeyProvider + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let names = names.map(Into::into);
        let (named, choose) = (names.clone(), Arc::new(choose));
        let choose = move |values: [String; N], requires_fips| -> Choice {
            let choose = choose.clone();
            let pairs = named.iter().zip(&values).map(|(name, value)| format!("{name}={value}"));
            let pairs = pairs.collect::<Vec<_>>().join(", ");
            Box::pin(async move {
                let call = async {
                    let provider = choose(values).await.map_err(|error| not_chosen(OPERATION, &pairs, error.into()))?;
                    if requires_fips {
                        provider.check_fips().map_err(|error| not_fips(error, OPERATION, &pairs))?;
                    }
                    Ok(Arc::new(provider) as _)
                };
                let chosen = AssertUnwindSafe(call).catch_unwind().await;
                chosen.unwrap_or_else(|_| Err(panicked(OPERATION, &pairs, "ByContext::new")))
            })
        };
        let state = Mutex::new(State::empty(DEFAULT_CAPACITY));
        Self { names, choose: Box::new(choose), requires_fips: false, state }
    }

    /// Applies [`EnvelopeBuilder::require_fips`](crate::EnvelopeBuilder::require_fips) to the providers that the function
    /// returns. A request whose provider does not pass [`check_fips`](KeyProvider::check_fips) fails.
    ///
    /// Without this setting, an envelope that requires FIPS refuses a `ByContext`.
    #[must_use]
    pub fn require_fips(mut self) -> Self {
        self.clear();
        self.requires_fips = true;
        self
    }

    /// Sets the maximum number of cached providers. Default: 1,000. Minimum: 1. When the cache is full, the least
    /// recently used provider is removed.
    #[must_use]
    pub fn with_capacity(self, providers: usize) -> Self {
        self.lock().kept.resize(NonZeroUsize::new(providers).unwrap_or(NonZeroUsize::MIN));
        self
    }

    /// Removes all cached providers, so that the next request calls the function again. Use it when a tenant's key has
    /// changed.
    ///
    /// Calls in progress continue for the requests that wait for them, but their providers are not cached.
    pub fn clear(&self) {
        let mut state = self.lock();
        let capacity = state.kept.cap();
        let forgotten = mem::replace(&mut *state, State::empty(capacity));
        drop(state);
        drop(forgotten);
    }

    /// Returns the provider for a context.
    async fn choose(&self, context: &EncryptionContext) -> Result<Arc<dyn KeyProvider>, ProviderError> {
        match self.look_up(self.values(context)?) {
            Ok(provider) => Ok(provider),
            Err(share) => share.choice.clone().await,
        }
    }

    fn values(&self, context: &EncryptionContext) -> Result<[String; N], ProviderError> {
        if let Some(name) = self.names.iter().find(|name| context.get(name).is_none()) {
            let why = format!("the encryption context has no {name:?} pair, which selects the key");
            return Err(
                ProviderError::new(ProviderErrorKind::Unsupported, OPERATION, self.to_string()).with_detail(why)
            );
        }
        Ok(self.names.each_ref().map(|name| context.get(name).unwrap_or_default().to_owned()))
    }

    /// Returns the cached provider, or a share of the call to wait for.
    fn look_up(&self, values: [String; N]) -> Result<Arc<dyn KeyProvider>, Share<'_, N>> {
        let mut state = self.lock();
        if let Some(provider) = state.kept.get(&values) {
            return Ok(provider.clone());
        }
        let call = state
            .calls
            .entry(values.clone())
            .or_insert_with(|| Call { choice: (self.choose)(values.clone(), self.requires_fips).shared(), shares: 0 });
        call.shares += 1;
        Err(Share { keys: self, values, choice: call.choice.clone() })
    }

    /// Ignores poisoning: the state is consistent whenever the lock is released, even by a panic.
    fn lock(&self) -> MutexGuard<'_, State<N>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<const N: usize> State<N> {
    /// Creates a state that allocates memory for actual entries only, regardless of the capacity.
    fn empty(capacity: NonZeroUsize) -> Self {
        let mut kept = LruCache::unbounded_with_hasher(RandomState::new());
        kept.resize(capacity);
        Self { kept, calls: HashMap::new() }
    }
}

/// The first share that is dropped after the call has completed caches the provider, unless [`ByContext::clear`] was
/// called in the meantime. If all shares are dropped before the call completes, dropping the last one cancels the call.
impl<const N: usize> Drop for Share<'_, N> {
    fn drop(&mut self) {
        let mut state = self.keys.lock();
        let call = state.calls.get_mut(&self.values).filter(|call| call.choice.ptr_eq(&self.choice));
        let Some(call) = call else { return };
        call.shares -= 1;
        let chosen = self.choice.peek();
        if chosen.is_none() && call.shares > 0 {
            return;
        }
        let call = state.calls.remove(&self.values);
        let evicted = match chosen {
            Some(Ok(provider)) => state.kept.push(self.values.clone(), provider.clone()),
            _ => None,
        };
        drop(state);
        drop((call, evicted));
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<const N: usize> KeyProvider for ByContext<N> {
    async fn generate_data_key(&self, request: &GenerateDataKeyRequest<'_>) -> Result<GeneratedDataKey, ProviderError> {
        self.choose(request.context).await?.generate_data_key(request).await
    }

    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        self.choose(request.context).await?.encrypt_data_key(request).await
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        self.choose(request.context).await?.decrypt_data_key(request).await
    }

    /// Returns `true`: the answer depends on the context, which is not known here.
    fn may_decrypt(&self, _: &EncryptedDataKey) -> bool {
        true
    }

    fn check_fips(&self) -> Result<(), NotFips> {
        let why = "it does not check the providers that it chooses; call ByContext::require_fips";
        if self.requires_fips { Ok(()) } else { Err(NotFips::provider(self, why)) }
    }
}

/// Formats as `by-context/NAME,NAME`.
impl<const N: usize> fmt::Display for ByContext<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "by-context/{}", self.names.join(","))
    }
}

impl<const N: usize> fmt::Debug for ByContext<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        let (kept, in_progress) = (state.kept.len(), state.calls.len());
        drop(state);
        f.debug_struct("ByContext")
            .field("names", &self.names)
            .field("requires_fips", &self.requires_fips)
            .field("kept", &kept)
            .field("in_progress", &in_progress)
            .finish_non_exhaustive()
    }
}
