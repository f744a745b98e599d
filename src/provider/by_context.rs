//! A key provider for each value of the encryption context: a key for each tenant.

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
    KeyProvider, ProviderError, ProviderErrorKind,
};
use crate::{context::EncryptionContext, error::ConfigError, message::EncryptedDataKey};

/// What the choice of a key is called in errors.
const OPERATION: &str = "ChooseKey";

/// How many providers are kept, unless set.
const DEFAULT_CAPACITY: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);

/// A key provider that is chosen by pairs of the encryption context, such as a KMS key for each tenant.
///
/// A function of yours receives the values of the names that you list, in that order, and returns the provider for them.
/// It can be asynchronous and can fail with any error. A provider that it returned is kept and serves all further
/// requests with these values, until [1,000](Self::with_capacity) others have been used since or [`clear`](Self::clear)
/// is called. Requests that need the same provider at the same time share one call. A call that fails or panics fails
/// for all of them and is not kept: the next request calls the function again. A [`ProviderError`] is passed on as it
/// is, also out of a `ResolveError`, so it can say that a retry makes sense. A context without one of the names is
/// refused.
///
/// The function has no deadline of its own and must limit the time of what it calls, as [`AwsKms`](crate::AwsKms) does.
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
/// let sealed = envelope.seal(b"attack at dawn", &acme).await?; // under alias/tenants/acme
/// let opened = envelope.open(&sealed, &acme).await?; // a message of another tenant is refused
/// # Ok(())
/// # }
/// ```
///
/// # Opening messages of strangers
/// On opening, the function receives the values that the **message** stores. Until its header has been verified with the
/// data key, these are the choice of whoever wrote the message, and the message may really be another tenant's. So:
///
/// - Expect the pair: give the tenant that the caller acts for in the context of [`open`](crate::Envelope::open), as
///   above. A message that stores another value, or none, is refused before the function is called. With an empty
///   context, any tenant's message opens with that tenant's key.
/// - Or do not store it: with [`EnvelopeBuilder::required_context`](crate::EnvelopeBuilder::required_context), every
///   caller must give the pair, and the function never sees a value from a message.
/// - Do not let the function create keys, or use a value in a path or a query unchecked.
pub struct ByContext<const N: usize> {
    names: [String; N],
    choose: Box<dyn Fn([String; N]) -> Choice + Send + Sync>,
    state: Mutex<State<N>>,
}

/// While the lock is held, no provider or call is dropped, and no code of the caller runs.
struct State<const N: usize> {
    kept: LruCache<[String; N], Arc<dyn KeyProvider>, RandomState>,
    calls: HashMap<[String; N], Call>,
}

/// A call in progress.
struct Call {
    choice: Shared<Choice>,
    /// The number of shares. The call leaves the map with its last share at the latest.
    shares: usize,
}

/// A request's share in a call.
struct Share<'a, const N: usize> {
    keys: &'a ByContext<N>,
    values: [String; N],
    choice: Shared<Choice>,
}

/// Calls the caller's function when it is polled, and does not panic.
type Choice = Pin<Box<dyn Future<Output = Result<Arc<dyn KeyProvider>, ProviderError>> + Send>>;

/// The error of a choice that failed with this one.
fn not_chosen(pairs: &str, error: Box<dyn Error + Send + Sync>) -> ProviderError {
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
    ProviderError::new(kind, OPERATION, pairs).with_source(error)
}

/// The error of a choice that panicked.
fn panicked(pairs: String) -> ProviderError {
    ProviderError::new(ProviderErrorKind::Other, OPERATION, pairs)
        .with_detail("the function that chooses the provider panicked; fix it")
}

impl<const N: usize> ByContext<N> {
    /// Chooses providers by the values of these names, with this function. See [`ByContext`] for an example.
    ///
    /// Name as few pairs as the choice depends on: each combination of values has a provider of its own.
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
        let choose = move |values: [String; N]| -> Choice {
            let choose = choose.clone();
            let pairs = named.iter().zip(&values).map(|(name, value)| format!("{name}={value}"));
            let pairs = pairs.collect::<Vec<_>>().join(", ");
            Box::pin(async move {
                let call = async {
                    let provider = choose(values).await.map_err(|error| not_chosen(&pairs, error.into()))?;
                    Ok(Arc::new(provider) as _)
                };
                let chosen = AssertUnwindSafe(call).catch_unwind().await;
                chosen.unwrap_or_else(|_| Err(panicked(pairs)))
            })
        };
        Self { names, choose: Box::new(choose), state: Mutex::new(State::empty(DEFAULT_CAPACITY)) }
    }

    /// Sets how many providers are kept at most: those used last. Default: 1,000. At least one is.
    #[must_use]
    pub fn with_capacity(self, providers: usize) -> Self {
        self.lock().kept.resize(NonZeroUsize::new(providers).unwrap_or(NonZeroUsize::MIN));
        self
    }

    /// Forgets all providers, so that the function is called again for the next request with each value: for when a
    /// tenant's key has changed. Calls in progress go on for those who wait for them.
    pub fn clear(&self) {
        let mut state = self.lock();
        let capacity = state.kept.cap();
        let forgotten = mem::replace(&mut *state, State::empty(capacity));
        drop(state);
        drop(forgotten);
    }

    /// Returns the provider for this context.
    async fn choose(&self, context: &EncryptionContext) -> Result<Arc<dyn KeyProvider>, ProviderError> {
        match self.look_up(self.values(context)?) {
            Ok(provider) => Ok(provider),
            Err(share) => share.choice.clone().await,
        }
    }

    fn values(&self, context: &EncryptionContext) -> Result<[String; N], ProviderError> {
        if let Some(name) = self.names.iter().find(|name| context.get(name).is_none()) {
            let why = format!("the encryption context has no {name:?}, by which the key is chosen");
            return Err(
                ProviderError::new(ProviderErrorKind::Unsupported, OPERATION, self.to_string()).with_detail(why)
            );
        }
        Ok(self.names.each_ref().map(|name| context.get(name).unwrap_or_default().to_owned()))
    }

    /// Returns the provider that is kept, or else a share in the call to wait for.
    fn look_up(&self, values: [String; N]) -> Result<Arc<dyn KeyProvider>, Share<'_, N>> {
        let mut state = self.lock();
        if let Some(provider) = state.kept.get(&values) {
            return Ok(provider.clone());
        }
        let call = state
            .calls
            .entry(values.clone())
            .or_insert_with(|| Call { choice: (self.choose)(values.clone()).shared(), shares: 0 });
        call.shares += 1;
        Err(Share { keys: self, values, choice: call.choice.clone() })
    }

    /// The state is consistent at any time, so a panic elsewhere does not matter.
    fn lock(&self) -> MutexGuard<'_, State<N>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<const N: usize> State<N> {
    /// With memory for what will be there only, whatever the capacity.
    fn empty(capacity: NonZeroUsize) -> Self {
        let mut kept = LruCache::unbounded_with_hasher(RandomState::new());
        kept.resize(capacity);
        Self { kept, calls: HashMap::new() }
    }
}

/// The first share that is dropped after the end of the call keeps its provider, unless [`ByContext::clear`] came in
/// between. The last share that is dropped before the end cancels the call.
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

    /// That depends on the context.
    fn may_decrypt(&self, _: &EncryptedDataKey) -> bool {
        true
    }
}

/// `by-context/name,name`.
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
            .field("kept", &kept)
            .field("in_progress", &in_progress)
            .finish_non_exhaustive()
    }
}
