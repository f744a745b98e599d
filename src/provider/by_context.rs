//! A key provider for each value of the encryption context: a key for each tenant.

use std::{
    collections::hash_map::RandomState,
    error::Error,
    fmt, mem,
    num::NonZeroUsize,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use futures_util::{
    FutureExt,
    future::{Shared, WeakShared},
};
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
/// is called. Requests that need the same provider at the same time share one call. A failed call is not kept. A
/// [`ProviderError`] is passed on as it is, also out of a `ResolveError`, so it can say that a retry makes sense. A context without one of the names is
/// refused.
///
/// The function has no deadline of its own and must limit the time of what it calls, as [`AwsKms`](crate::AwsKms) does.
///
/// ```no_run
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
    choose: Arc<dyn Fn([String; N]) -> Choice + Send + Sync>,
    kept: Mutex<Providers<N>>,
}

type Providers<const N: usize> = LruCache<[String; N], Kept, RandomState>;

type Choice = Pin<Box<dyn Future<Output = Result<Arc<dyn KeyProvider>, ProviderError>> + Send>>;

/// The error of a choice that failed with this one.
fn not_chosen(pairs: String, error: Box<dyn Error + Send + Sync>) -> ProviderError {
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

enum Kept {
    Provider(Arc<dyn KeyProvider>),
    /// A call in progress. It is dropped when all who wait for it are.
    Choice(WeakShared<Choice>),
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
        let named = names.clone();
        let choose = move |values: [String; N]| -> Choice {
            let pairs = named.iter().zip(&values).map(|(name, value)| format!("{name}={value}"));
            let pairs = pairs.collect::<Vec<_>>().join(", ");
            let chosen = choose(values);
            Box::pin(async move {
                let provider = chosen.await.map_err(|error| not_chosen(pairs, error.into()))?;
                Ok(Arc::new(provider) as _)
            })
        };
        Self { names, choose: Arc::new(choose), kept: Mutex::new(empty(DEFAULT_CAPACITY)) }
    }

    /// Sets how many providers are kept at most: those used last. Default: 1,000. At least one is.
    #[must_use]
    pub fn with_capacity(self, providers: usize) -> Self {
        self.lock().resize(NonZeroUsize::new(providers).unwrap_or(NonZeroUsize::MIN));
        self
    }

    /// Forgets all providers, so that the function is called again for the next request with each value: for when a
    /// tenant's key has changed. Calls in progress go on for those who wait for them.
    pub fn clear(&self) {
        let mut kept = self.lock();
        let capacity = kept.cap();
        let forgotten = mem::replace(&mut *kept, empty(capacity));
        // Providers are dropped without the lock.
        drop(kept);
        drop(forgotten);
    }

    /// Returns the provider for this context.
    async fn choose(&self, context: &EncryptionContext) -> Result<Arc<dyn KeyProvider>, ProviderError> {
        let values = self.values(context)?;
        let choice = match self.look_up(&values) {
            Ok(provider) => return Ok(provider),
            Err(choice) => choice,
        };
        let chosen = choice.clone().await;
        self.keep(values, &choice, &chosen);
        chosen
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

    /// Returns the provider that is kept, or else the call to wait for.
    fn look_up(&self, values: &[String; N]) -> Result<Arc<dyn KeyProvider>, Shared<Choice>> {
        let mut kept = self.lock();
        match kept.get(values) {
            Some(Kept::Provider(provider)) => return Ok(provider.clone()),
            Some(Kept::Choice(choice)) => {
                if let Some(choice) = choice.upgrade() {
                    return Err(choice);
                }
            }
            None => {}
        }
        // The caller's function is called when this is polled, without the lock.
        let (choose, arguments) = (self.choose.clone(), values.clone());
        let choice: Choice = Box::pin(async move { choose(arguments).await });
        let choice = choice.shared();
        let removed = choice.downgrade().and_then(|choice| kept.push(values.clone(), Kept::Choice(choice)));
        // A provider is dropped without the lock.
        drop(kept);
        drop(removed);
        Err(choice)
    }

    /// Keeps the provider that a call has brought, unless another caller has done so or it was forgotten in between.
    fn keep(&self, values: [String; N], choice: &Shared<Choice>, chosen: &Result<Arc<dyn KeyProvider>, ProviderError>) {
        let mut kept = self.lock();
        let Some(Kept::Choice(current)) = kept.peek(&values) else { return };
        if current.upgrade().is_some_and(|current| current.ptr_eq(choice)) {
            match chosen {
                Ok(provider) => drop(kept.put(values, Kept::Provider(provider.clone()))),
                Err(_) => drop(kept.pop(&values)),
            }
        }
    }

    /// What is behind the lock is consistent at any time, so a panic elsewhere does not matter.
    fn lock(&self) -> MutexGuard<'_, Providers<N>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// With memory for what will be there only, whatever the capacity.
fn empty<const N: usize>(capacity: NonZeroUsize) -> Providers<N> {
    let mut kept = LruCache::unbounded_with_hasher(RandomState::new());
    kept.resize(capacity);
    kept
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
        f.debug_struct("ByContext")
            .field("names", &self.names)
            .field("kept", &self.lock().len())
            .finish_non_exhaustive()
    }
}
