//! The public cache, its builder, and the lookups of envelopes.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use subtle::ConstantTimeEq;

use super::{
    CacheStats, Clock, Refresh,
    subject::{Contexts, DataKeySubject},
};
use crate::{
    context::{EncryptionContext, SerializedContext},
    entry_cache::{Entry, Fetch, Found, Keep, KeyRef, Lookup, Material, Settings, Store, Waiter},
    error::{ConfigError, DataKeyError},
    materials::{KeyInfo, MaterialsError, OpeningMaterials, SealingMaterials},
    message::{EncryptedDataKey, EncryptedDataKeys, HeaderTemplate},
    suite::{AlgorithmSuite, KeyDerivation},
};

/// The maximum number of messages that one data key may seal (specification, `framework/caching-cmm.md`, "Limit
/// Messages").
const MAX_MESSAGES: u64 = 1 << 32;

/// The estimated memory of a signing key.
const SIGNING_KEY_BYTES: usize = 1024;

/// A cache of data keys, which reduces the number of calls to the key provider.
///
/// Pass it to [`EnvelopeBuilder::cache`](crate::EnvelopeBuilder::cache), and build the envelope once, not for each
/// message.
///
/// ```
/// use std::time::Duration;
/// use kms_envelope::{DataKeyCache, EncryptionContext, Envelope, RawAes};
///
/// # pollster::block_on(async {
/// let cache = DataKeyCache::builder(Duration::from_secs(300)).max_messages(10_000).build()?;
/// let envelope = Envelope::builder(RawAes::generate("example", "key")?).cache(cache.clone()).build()?;
/// let context = EncryptionContext::from([("tenant", "acme")]);
/// for record in ["one", "two", "three"] {
///     envelope.seal(record.as_bytes(), &context).await?;
/// }
/// let stats = cache.stats();
/// assert_eq!((stats.calls, stats.hits), (1, 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Security trade-off
/// - An attacker who obtains a data key from memory can open all messages that were sealed with it.
/// - After you revoke a permission, cached data keys still seal and open messages for up to `max_age`.
/// - CloudTrail records one KMS request for many messages.
///
/// # Which messages share a data key
/// A cached data key is used for messages with the **same** suite, encryption context and required names, until it
/// reaches a limit of age, messages or bytes. Each message still has its own encryption key, derived from the data key.
/// Suites without key derivation are not cached. Envelopes can share a cache, with its capacity and
/// [`stats`](Self::stats), but an envelope uses only the entries that it or its clones have added.
///
/// For opening, an entry belongs to one encrypted data key. It is used for every message whose list contains that
/// encrypted data key, at any index. It is added only after a message's header has been verified with the data key, so
/// a message that does not open adds no entry. For suites without key commitment, an entry belongs to the entire list
/// of encrypted data keys, and is used only for messages with the same list.
///
/// # Concurrent callers and failures
/// Concurrent callers that need the same data key share one call to the key provider. If it fails, all of them receive
/// the error, and the next caller starts a new call. If one of them is canceled, the call continues for the others.
/// If a call takes more than a minute, new callers start another one. While the key service is unavailable, cached data
/// keys can still be used until they expire.
///
/// # Removal of keys
/// A data key is zeroized when it is no longer in the cache and no message that is being sealed or opened uses it.
/// Expired data keys are removed when new ones are added, or by [`remove_expired`](Self::remove_expired).
#[derive(Clone)]
pub struct DataKeyCache(Arc<Inner>);

struct Inner {
    settings: Arc<Settings>,
    sealing: Arc<Store<SealingMaterials>>,
    opening: Arc<Store<OpeningMaterials>>,
    partitions: AtomicU64,
}

impl DataKeyCache {
    /// Creates a builder for a cache whose data keys expire `max_age` after they were requested.
    ///
    /// Sealing or opening a message never starts with an expired data key, except after a call to the key provider that
    /// took longer than `max_age`. A stream that has started can continue. While the machine is suspended, the age may
    /// not increase: see [`clock`](DataKeyCacheBuilder::clock).
    pub fn builder(max_age: Duration) -> DataKeyCacheBuilder {
        DataKeyCacheBuilder(Settings { max_messages: MAX_MESSAGES, ..Settings::new(max_age) })
    }

    /// Returns the cache's statistics.
    pub fn stats(&self) -> CacheStats {
        let mut stats = self.0.sealing.stats();
        stats += self.0.opening.stats();
        stats
    }

    /// Removes all data keys. Calls in progress continue for the callers that wait for them, but their data keys are
    /// not cached.
    pub fn clear(&self) {
        self.0.sealing.clear();
        self.0.opening.clear();
    }

    /// Removes expired data keys. Call this on a timer if they must not remain in memory while the cache is idle.
    pub fn remove_expired(&self) {
        self.0.sealing.remove_expired();
        self.0.opening.remove_expired();
    }

    /// Returns a new partition of the cache, for one envelope.
    pub(crate) fn partition(&self) -> Partition {
        Partition { number: self.0.partitions.fetch_add(1, Ordering::Relaxed), cache: self.clone() }
    }
}

impl fmt::Debug for DataKeyCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKeyCache").field("settings", &self.0.settings).field("stats", &self.stats()).finish()
    }
}

/// The entries of one envelope and its clones.
#[derive(Clone, Debug)]
pub(crate) struct Partition {
    cache: DataKeyCache,
    number: u64,
}

impl Partition {
    /// Returns the materials for sealing a message. `plaintext_len` is the length of its plaintext, if it is known.
    pub(crate) async fn sealing(
        &self,
        suite: AlgorithmSuite,
        context: &EncryptionContext,
        required: &BTreeSet<String>,
        plaintext_len: Option<u64>,
        fetch: impl Fn() -> Fetch<SealingMaterials>,
    ) -> Result<Arc<SealingMaterials>, MaterialsError> {
        // The length of a stream is unknown, so it may exceed the limit.
        let len = match plaintext_len {
            None if self.cache.0.settings.max_bytes == u64::MAX => 0,
            None => u64::MAX,
            Some(len) => len,
        };
        Ok(self.sealing_many(suite, context, required, &[len], fetch).await?.0)
    }

    /// Returns the materials for sealing the first of several messages with plaintexts of these lengths, and how many
    /// of the messages they are for.
    pub(crate) async fn sealing_many(
        &self,
        suite: AlgorithmSuite,
        context: &EncryptionContext,
        required: &BTreeSet<String>,
        lens: &[u64],
        fetch: impl Fn() -> Fetch<SealingMaterials>,
    ) -> Result<(Arc<SealingMaterials>, usize), MaterialsError> {
        let sealing = &self.cache.0.sealing;
        let cacheable = self.cacheable(suite, lens);
        if cacheable == 0 {
            return Ok((sealing.bypass(fetch()).await?, 1));
        }
        context.serialized_len()?;
        let subject =
            DataKeySubject { partition: self.number, suite, contexts: Contexts::Sealing { context, required } };
        let lookup = Lookup::new(sealing.hasher(), subject, EncryptedDataKeys::NONE, false);
        sealing.get(&lookup, &lens[..cacheable], fetch).await
    }

    /// Returns how many messages with these lengths, from the first one on, can use cached data keys.
    pub(crate) fn cacheable(&self, suite: AlgorithmSuite, lens: &[u64]) -> usize {
        match suite.key_derivation() {
            KeyDerivation::Identity => 0,
            KeyDerivation::Hkdf(_) => lens.iter().take_while(|len| **len <= self.cache.0.settings.max_bytes).count(),
        }
    }

    /// Counts messages that share the lookup of an opened message before them.
    pub(crate) fn count_opened(&self, messages: u64) {
        self.cache.0.opening.count_hits(messages);
    }

    /// Prepares the lookup of the data key of a message with this context and these encrypted data keys.
    pub(crate) fn opening<'a>(
        &'a self,
        suite: AlgorithmSuite,
        stored: SerializedContext<'a>,
        not_stored: &'a EncryptionContext,
        encrypted_data_keys: EncryptedDataKeys<'a>,
    ) -> Opening<'a> {
        let store = &self.cache.0.opening;
        // Without key commitment, a message may open with several data keys. An entry for the entire list makes sure
        // that the key provider chooses from the same list with and without a cache.
        let is_each = suite.is_committing();
        let lookup = (suite.key_derivation() != KeyDerivation::Identity).then(|| {
            let contexts = Contexts::Opening { stored: stored.as_bytes(), not_stored };
            let subject = DataKeySubject { partition: self.number, suite, contexts };
            Lookup::new(store.hasher(), subject, encrypted_data_keys, is_each)
        });
        Opening { store, lookup, is_each, encrypted_data_keys }
    }
}

/// The lookup of one message's data key.
pub(crate) struct Opening<'a> {
    store: &'a Arc<Store<OpeningMaterials>>,
    /// Present if messages of the suite can use the cache.
    lookup: Option<Lookup<'a, DataKeySubject<'a>>>,
    /// Whether an entry belongs to one encrypted data key, and not to the entire list.
    is_each: bool,
    encrypted_data_keys: EncryptedDataKeys<'a>,
}

impl Opening<'_> {
    /// Returns the data key and its index if [`find`](Self::find) would return a cached one at once, without a renewal.
    pub(crate) fn cached(&self) -> Option<(Arc<OpeningMaterials>, usize)> {
        let (index, materials) = self.store.cached(self.lookup.as_ref()?, false)?;
        // See `find`.
        let index = if self.is_each { index } else { materials.index };
        Some((materials, index))
    }

    /// Returns the cached data key of the first encrypted data key that has an entry, starting at index `from`. If no
    /// entry exists, the key provider decrypts one of all encrypted data keys.
    pub(crate) async fn find(
        &self,
        from: usize,
        fetch: impl Fn(EncryptedDataKeys<'_>) -> Fetch<OpeningMaterials>,
    ) -> Result<OpeningKey<'_>, MaterialsError> {
        let Self { store, lookup, is_each, encrypted_data_keys } = self;
        let Some(lookup) = lookup else {
            let materials = store.bypass(fetch(*encrypted_data_keys)).await?;
            return Ok(OpeningKey { index: materials.index, materials, request: None });
        };
        match store.find(lookup, from, &[], Keep::OnceVerified, || fetch(*encrypted_data_keys)) {
            Found::Entry { index, value: materials, is_due, .. } => {
                if is_due {
                    let renewed = fetch(lookup.encrypted_data_keys(index));
                    store.renew(lookup.entry_key(index), the_same(materials.clone(), renewed));
                }
                // The index in the value refers to the message that the entry was requested for.
                let index = if *is_each { index } else { materials.index };
                Ok(OpeningKey { index, materials, request: None })
            }
            Found::Pending(waiter) => {
                let entry = waiter.wait().await?;
                let (materials, index) = (entry.value.clone(), entry.value.index);
                let entry_key = lookup.entry_key(if *is_each { index } else { 0 });
                Ok(OpeningKey { index, materials, request: Some((entry_key, waiter, entry)) })
            }
        }
    }
}

/// A data key with which the message's header has not been verified yet.
pub(crate) struct OpeningKey<'a> {
    pub(crate) materials: Arc<OpeningMaterials>,
    /// The index of its encrypted data key in the message's list.
    pub(crate) index: usize,
    /// Present if the data key comes from a request: the arguments for adding it to the cache.
    request: Option<(KeyRef<'a>, Waiter<OpeningMaterials>, Arc<Entry<OpeningMaterials>>)>,
}

impl OpeningKey<'_> {
    /// Returns whether the data key comes from the cache.
    pub(crate) fn is_cached(&self) -> bool {
        self.request.is_none()
    }

    /// Adds the data key to the cache. The caller must have verified the message's header with it.
    pub(crate) fn keep(self) -> Arc<OpeningMaterials> {
        if let Some((key, waiter, entry)) = self.request {
            waiter.keep(key, &entry);
        }
        self.materials
    }
}

/// Makes a renewal fail if it returns a data key other than the verified one.
fn the_same(verified: Arc<OpeningMaterials>, fetch: Fetch<OpeningMaterials>) -> Fetch<OpeningMaterials> {
    Box::pin(async move {
        let renewed = fetch.await?;
        if !bool::from(renewed.data_key.expose().ct_eq(verified.data_key.expose())) {
            return Err(DataKeyError::Changed.into());
        }
        Ok(renewed)
    })
}

impl Material for SealingMaterials {
    const KIND: &'static str = "data key";
    type Error = MaterialsError;

    fn panicked() -> MaterialsError {
        DataKeyError::Panicked.into()
    }

    fn held_bytes(&self) -> usize {
        let signing_key = self.signing_key.as_ref().map_or(0, |_| SIGNING_KEY_BYTES);
        self.data_key.len() + signing_key + self.header.as_ref().map_or(0, HeaderTemplate::held_bytes)
    }
}

impl Material for OpeningMaterials {
    const KIND: &'static str = "data key";
    type Error = MaterialsError;

    fn panicked() -> MaterialsError {
        DataKeyError::Panicked.into()
    }

    fn held_bytes(&self) -> usize {
        let KeyInfo { context, encrypted_data_key, key_id } = &*self.info;
        let info = context.held_bytes() + encrypted_data_key_bytes(encrypted_data_key) + key_id.len();
        self.data_key.len() + info
    }
}

fn encrypted_data_key_bytes(key: &EncryptedDataKey) -> usize {
    size_of::<EncryptedDataKey>() + key.fields().iter().map(|field| field.len()).sum::<usize>()
}

/// Configures a [`DataKeyCache`]. Created by [`DataKeyCache::builder`].
///
/// ```
/// use std::time::Duration;
/// use kms_envelope::DataKeyCache;
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let cache = DataKeyCache::builder(Duration::from_secs(300))
///     .max_messages(100_000)
///     .max_bytes(10 << 30)
///     .capacity(1_000)
///     .refresh_ahead(Duration::from_secs(60), |task| {
///         tokio::spawn(task);
///     })
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct DataKeyCacheBuilder(Settings);

impl DataKeyCacheBuilder {
    /// Sets the maximum number of messages that a data key seals, from 1 to 2³². Opened messages do not count. Default:
    /// 2³².
    pub fn max_messages(mut self, messages: u64) -> Self {
        self.0.max_messages = messages;
        self
    }

    /// Sets the maximum number of plaintext bytes that a data key seals. With a limit, a message that exceeds it is
    /// sealed with its own data key. So is every stream, because its length is unknown. Default: no limit.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.0.max_bytes = bytes;
        self
    }

    /// Sets the maximum number of entries, separately for sealing and for opening. When the cache is full, it evicts
    /// the least recently used entry. Default: 1,000.
    pub fn capacity(mut self, entries: usize) -> Self {
        self.0.capacity = entries;
        self
    }

    /// Sets the maximum memory of the entries in bytes, separately for sealing and for opening. When the cache is full,
    /// it evicts the least recently used entries. An entry that exceeds the limit is not cached. Default: 16 KiB times
    /// the [`capacity`](Self::capacity), but at least 1 MiB.
    ///
    /// The memory of an entry is estimated as the memory of its data key, context and encrypted data keys, plus at
    /// least 512 bytes. The estimate does not include the allocator's overhead.
    pub fn capacity_bytes(mut self, bytes: usize) -> Self {
        self.0.capacity_bytes = Some(bytes);
        self
    }

    /// Renews data keys in the background before they expire. Default: off.
    ///
    /// A renewal starts when a data key is used within `ahead` of its expiry. If a data key is used regularly, callers
    /// do not wait for its renewal, and do not notice an outage of the key service that is shorter than `ahead`. After
    /// a failed renewal, the first use after a tenth of `ahead` starts another one.
    ///
    /// A renewal for opening must return the same data key. Otherwise, it counts as failed.
    ///
    /// `spawn` must run the task that it receives. With tokio, pass `|task| { tokio::spawn(task); }`.
    pub fn refresh_ahead(mut self, ahead: Duration, spawn: impl Fn(Refresh) + Send + Sync + 'static) -> Self {
        self.0.refresh = Some((ahead, Box::new(spawn)));
        self
    }

    /// Sets the source of time. Default: [`Instant::now`](std::time::Instant::now).
    ///
    /// On Linux and macOS, the default clock stops while the machine is suspended, which delays the expiry of data keys
    /// by that time. If this matters, call [`clear`](DataKeyCache::clear) when the machine resumes, or pass a clock
    /// that does not stop.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.0.clock = Box::new(clock);
        self
    }

    /// Builds the cache.
    ///
    /// # Errors
    /// Returns [`ConfigError::Cache`] if the maximum age or a capacity is zero, the number of messages is zero or more
    /// than 2³², or `ahead` of [`refresh_ahead`](Self::refresh_ahead) is not shorter than the maximum age.
    pub fn build(self) -> Result<DataKeyCache, ConfigError> {
        let settings = self.0;
        settings.check().map_err(|what| ConfigError::Cache { what })?;
        if !(1..=MAX_MESSAGES).contains(&settings.max_messages) {
            return Err(ConfigError::Cache { what: "max_messages must be from 1 to 4294967296" });
        }
        let settings = Arc::new(settings);
        let (sealing, opening) = (Store::new(settings.clone()), Store::new(settings.clone()));
        Ok(DataKeyCache(Arc::new(Inner { settings, sealing, opening, partitions: AtomicU64::new(0) })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypto::{Backend, Random, SecretKey, SigningKey},
        message::HeaderFields,
    };

    #[test]
    fn entries_count_what_they_hold() {
        let info = KeyInfo {
            context: EncryptionContext::from([("a", "bc")]),
            encrypted_data_key: EncryptedDataKey::new("12", "345", "6789"),
            key_id: "id".into(),
        };
        let data_key = OpeningMaterials { data_key: SecretKey::from([1; 32]), index: 0, info: Arc::new(info) };
        assert_eq!(data_key.held_bytes(), 32 + (64 + 3) + (size_of::<EncryptedDataKey>() + 2 + 3 + 4) + 2);

        let suite = AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384;
        let sign =
            || SigningKey::generate(Backend::default(), suite.signature()?, &Random::System(Backend::default())).ok();
        for (signing_key, signing_key_bytes) in [(None, 0), (sign().map(Arc::new), 1024)] {
            assert_eq!(signing_key.is_some(), signing_key_bytes > 0);
            let header = HeaderTemplate::new(&HeaderFields {
                suite,
                context: &EncryptionContext::from([("a", "bc"), ("d", "e")]),
                required_context: &EncryptionContext::from([("f", "g")]),
                encrypted_data_keys: &["12345", "6"].map(|text| EncryptedDataKey::new("id", "info", text)),
                frame_len: 4096,
            });
            let materials = SealingMaterials { data_key: SecretKey::from([1; 32]), signing_key, header };
            let encrypted_bytes = 2 * (3 * 2 + 2 + 4) + 5 + 1;
            let context_bytes = (2 + 2 * 4 + 5) + (2 + 4 + 2);
            let header_bytes = 3 + 32 + 2 + context_bytes + 2 + encrypted_bytes + 5 + 32;
            assert_eq!(materials.held_bytes(), 32 + header_bytes + signing_key_bytes);
        }
    }
}
