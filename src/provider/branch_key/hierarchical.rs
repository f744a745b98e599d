//! AWS's hierarchical keyring: branch keys from a key store, cached. Specification:
//! `framework/aws-kms/aws-kms-hierarchical-keyring.md`.

use std::{
    borrow::Cow,
    error::Error,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    BranchKey, BranchKeys,
    key::{PROVIDER_ID, check_id},
    keyring::{self, BranchKeySource, Candidate},
};
use crate::{
    clock::Clock,
    context::EncryptionContext,
    entry_cache::{CacheStats, Fetch, Found, Keep, Lookup, Refresh, Settings, Store, Subject},
    error::{ConfigError, NotFips},
    message::{EncryptedDataKey, EncryptedDataKeys},
    provider::{
        DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, KeyProvider, ProviderError,
        ProviderErrorKind as Kind,
        by_context::{not_chosen, panicked},
        deadline_after, deadline_or_default,
    },
};

/// A branch key from a key store, as a key provider. AWS calls it the *hierarchical keyring*.
///
/// Each message has its own data key, which this process encrypts with the branch key. The store and KMS are called
/// only when the cache does not have the branch key: once for each branch key and version, until it expires. Concurrent
/// callers share one call.
///
/// ```no_run
/// use std::time::Duration;
/// use kms_envelope::{EncryptionContext, Envelope, provider::{AwsKmsHierarchical, branch_key::BranchKeys}};
///
/// # async fn example(keys: BranchKeys) -> Result<(), Box<dyn std::error::Error>> {
/// // The branch key of the tenant that the message's encryption context names.
/// let provider = AwsKmsHierarchical::builder(keys, Duration::from_secs(600)).build_by_context(|context| {
///     context.get("tenant").map(|tenant| format!("tenant-{tenant}")).ok_or("no tenant in the context")
/// })?;
/// let envelope = Envelope::new(provider);
/// let sealed = envelope.seal(b"attack at dawn", &EncryptionContext::from([("tenant", "acme")])).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Security trade-off
/// - An attacker who obtains a branch key from memory can open all messages that were sealed with that version of it,
///   for which the attacker also has the encrypted data keys.
/// - After you revoke the permission to use the KMS key, or create a new version, a cached branch key is used for up to
///   `max_age`.
/// - CloudTrail records the request for the branch key, not for each message.
///
/// # Failures
/// If the store or KMS fails, all callers that wait for the branch key receive the error, and the next caller starts a
/// new call. Cached branch keys are used until they expire, and never after that. A call has the time limit of the
/// caller that starts it, and others that wait for it may wait longer than their own. If a store exceeds the limit, new
/// callers wait for the call until it has taken one minute, and then start another one.
///
/// # Untrusted messages
/// A message can list many encrypted data keys with our branch key id and any versions. For each message, at most
/// [`Limits::tries_per_kms_key`](crate::Limits::tries_per_kms_key) of them cause a request, and only a branch key that
/// decrypts a data key is cached.
///
/// With [`build_by_context`](AwsKmsHierarchicalBuilder::build_by_context), the function that chooses the branch key
/// receives the encryption context that the message stores when a message is opened. Its author chose the values, and
/// they are not authenticated until the header has been verified. [`ByContext`](crate::provider::ByContext) describes
/// how to handle that.
#[derive(Clone)]
pub struct AwsKmsHierarchical(Arc<Inner>);

struct Inner {
    keys: BranchKeys,
    choice: Choice,
    cache: Arc<Store<BranchKey>>,
}

enum Choice {
    Fixed(String),
    ByContext(ChooseId),
}

type ChooseId = Box<dyn Fn(&EncryptionContext) -> Result<String, Box<dyn Error + Send + Sync>> + Send + Sync>;

/// Configures an [`AwsKmsHierarchical`]. Created by [`AwsKmsHierarchical::builder`].
#[derive(Debug)]
#[must_use]
pub struct AwsKmsHierarchicalBuilder {
    keys: BranchKeys,
    settings: Settings,
}

impl AwsKmsHierarchical {
    /// Creates a builder for a provider whose cached branch keys expire `max_age` after they were requested. AWS calls
    /// this age the *cache limit TTL*.
    pub fn builder(keys: BranchKeys, max_age: Duration) -> AwsKmsHierarchicalBuilder {
        AwsKmsHierarchicalBuilder { keys, settings: Settings::new(max_age) }
    }

    /// Returns the statistics of the cached branch keys.
    ///
    /// A sealed message counts as one of a hit, a miss or a wait. An opened message counts once for each version of the
    /// branch key that is looked up for it: normally one, but a message can have encrypted data keys of several. A
    /// lookup that finds nothing in the cache and may not request anything, because of
    /// [`Limits::tries_per_kms_key`](crate::Limits::tries_per_kms_key) or a failure, does not count.
    ///
    /// A call is one to the store and, if the item exists and is valid, one to KMS. There are no bypasses.
    pub fn stats(&self) -> CacheStats {
        self.0.cache.stats()
    }

    /// Removes all cached branch keys, so that the next message requests its branch key again. Use it to use a new
    /// version at once.
    pub fn clear(&self) {
        self.0.cache.clear();
    }

    /// Removes expired branch keys. Call this on a timer if they must not remain in memory while the provider is idle.
    pub fn remove_expired(&self) {
        self.0.cache.remove_expired();
    }
}

impl AwsKmsHierarchicalBuilder {
    /// Sets the maximum number of cached branch keys. Each version counts, and the active version counts a second time.
    /// When the cache is full, it evicts the least recently used one. Default: 1,000.
    pub fn capacity(mut self, branch_keys: usize) -> Self {
        self.settings.capacity = branch_keys;
        self
    }

    /// Renews branch keys in the background before they expire, as
    /// [`DataKeyCacheBuilder::refresh_ahead`](crate::cache::DataKeyCacheBuilder::refresh_ahead) does for data keys.
    /// Default: off.
    pub fn refresh_ahead(mut self, ahead: Duration, spawn: impl Fn(Refresh) + Send + Sync + 'static) -> Self {
        self.settings.refresh = Some((ahead, Box::new(spawn)));
        self
    }

    /// Sets the source of time, like [`DataKeyCacheBuilder::clock`](crate::cache::DataKeyCacheBuilder::clock).
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.settings.clock = Box::new(clock);
        self
    }

    /// Builds a provider that uses one branch key. Makes no request.
    ///
    /// # Errors
    /// Returns [`ConfigError::KeyName`] if the branch key id is empty or longer than 65,535 bytes, and the errors of
    /// [`build_by_context`](Self::build_by_context).
    pub fn build(self, branch_key_id: impl Into<String>) -> Result<AwsKmsHierarchical, ConfigError> {
        let id = branch_key_id.into();
        check_id(&id)?;
        self.build_with(Choice::Fixed(id))
    }

    /// Builds a provider that calls `choose` with each message's encryption context, and uses the branch key whose id
    /// it returns. AWS calls this function the *branch key id supplier*. It must not block. Makes no request.
    ///
    /// The context of a signed message also contains the pair `aws-crypto-public-key`. If the function returns a
    /// [`ProviderError`], it is passed on unchanged. If it panics, the message fails with an error.
    ///
    /// # Errors
    /// Returns [`ConfigError::Cache`] if the maximum age or the capacity is zero, or `ahead` of
    /// [`refresh_ahead`](Self::refresh_ahead) is not shorter than the maximum age.
    pub fn build_by_context<F, E>(self, choose: F) -> Result<AwsKmsHierarchical, ConfigError>
    where
        F: Fn(&EncryptionContext) -> Result<String, E> + Send + Sync + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.build_with(Choice::ByContext(Box::new(move |context| choose(context).map_err(Into::into))))
    }

    fn build_with(self, choice: Choice) -> Result<AwsKmsHierarchical, ConfigError> {
        let Self { keys, settings } = self;
        settings.check().map_err(|what| ConfigError::Cache { what })?;
        Ok(AwsKmsHierarchical(Arc::new(Inner { keys, choice, cache: Store::new(settings) })))
    }
}

/// The branch key that a cache entry is for.
#[derive(Debug)]
struct Wanted<'a> {
    id: &'a str,
    /// `None` for the active one.
    version: Option<[u8; 16]>,
}

impl Subject for Wanted<'_> {
    fn feed(&self, sink: &mut dyn FnMut(&[u8])) {
        sink(&[u8::from(self.version.is_some())]);
        sink(&self.version.unwrap_or_default());
        sink(&self.id.len().to_be_bytes());
        sink(self.id.as_bytes());
    }
}

impl Inner {
    fn lookup<'a>(&self, wanted: Wanted<'a>) -> Lookup<'a, Wanted<'a>> {
        Lookup::new(self.cache.hasher(), wanted, EncryptedDataKeys::NONE, false)
    }

    /// Returns a function that requests a branch key.
    fn fetch(&self, id: &str, version: Option<[u8; 16]>, deadline: Option<Instant>) -> impl Fn() -> Fetch<BranchKey> {
        // A renewal is polled after the deadline of the message that has started it, so it has its own.
        let timeout = deadline_or_default(deadline).saturating_duration_since(Instant::now());
        move || {
            let (keys, id) = (self.keys.clone(), id.to_owned());
            Box::pin(async move {
                let deadline = deadline_after(timeout);
                match version {
                    None => keys.active_by(&id, deadline).await,
                    Some(version) => keys.version_by(&id, Uuid::from_bytes(version), deadline).await,
                }
            })
        }
    }
}

impl BranchKeySource for AwsKmsHierarchical {
    fn id(&self, context: &EncryptionContext) -> Result<Cow<'_, str>, ProviderError> {
        /// The operation that errors report. AWS's name for it.
        const OPERATION: &str = "GetBranchKeyId";
        match &self.0.choice {
            Choice::Fixed(id) => Ok(Cow::Borrowed(id)),
            Choice::ByContext(choose) => {
                let name = || self.to_string();
                let chosen = catch_unwind(AssertUnwindSafe(|| choose(context)))
                    .map_err(|_| panicked(OPERATION, &name(), "build_by_context"))?;
                let id = chosen.map_err(|error| not_chosen(OPERATION, &name(), error))?;
                check_id(&id).map_err(|why| {
                    ProviderError::new(Kind::Unsupported, OPERATION, name()).with_detail(why.to_string())
                })?;
                Ok(Cow::Owned(id))
            }
        }
    }

    async fn active(&self, id: &str, deadline: Option<Instant>) -> Result<Arc<BranchKey>, ProviderError> {
        let lookup = self.0.lookup(Wanted { id, version: None });
        Ok(self.0.cache.get(&lookup, &[0], self.0.fetch(id, None, deadline)).await?.0)
    }

    async fn version(
        &self,
        id: &str,
        version: [u8; 16],
        deadline: Option<Instant>,
        may_request: bool,
    ) -> Option<Result<Candidate, ProviderError>> {
        let Inner { cache, .. } = &*self.0;
        let lookup = self.0.lookup(Wanted { id, version: Some(version) });
        if !may_request {
            return cache.cached(&lookup, true).map(|(_, key)| Ok(Candidate { key, request: None }));
        }
        let fetch = self.0.fetch(id, Some(version), deadline);
        match cache.find(&lookup, 0, &[], Keep::OnceVerified, &fetch) {
            Found::Entry { index, value, is_due, .. } => {
                if is_due {
                    cache.renew(lookup.entry_key(index), fetch());
                }
                Some(Ok(Candidate { key: value, request: None }))
            }
            Found::Pending(waiter) => {
                let entry = waiter.wait().await;
                Some(entry.map(|entry| Candidate { key: entry.value.clone(), request: Some((waiter, entry)) }))
            }
        }
    }
}

#[async_trait]
impl KeyProvider for AwsKmsHierarchical {
    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        keyring::encrypt(self, request).await
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        keyring::decrypt(self, request).await
    }

    fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
        let id = match &self.0.choice {
            Choice::Fixed(id) => Some(&id[..]),
            Choice::ByContext(_) => None,
        };
        keyring::may_decrypt(encrypted, id)
    }

    fn check_fips(&self) -> Result<(), NotFips> {
        Ok(())
    }
}

/// Formats as `aws-kms-hierarchy/ID`, or as `aws-kms-hierarchy` if the branch key is chosen by the context.
impl fmt::Display for AwsKmsHierarchical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.choice {
            Choice::Fixed(id) => write!(f, "{PROVIDER_ID}/{id}"),
            Choice::ByContext(_) => f.write_str(PROVIDER_ID),
        }
    }
}

impl fmt::Debug for AwsKmsHierarchical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { keys, cache, .. } = &*self.0;
        f.debug_struct("AwsKmsHierarchical")
            .field("branch_key", &format_args!("{self}"))
            .field("keys", keys)
            .field("stats", &cache.stats())
            .finish_non_exhaustive()
    }
}
