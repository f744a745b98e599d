//! The cache that callers build, and what envelopes ask of it.

use std::{
    collections::hash_map::RandomState,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::BufMut;
use subtle::ConstantTimeEq;

pub(crate) use super::store::Fetch;
use super::{
    CacheStats, Clock, Refresh,
    entries::{Entry, Material, context_bytes},
    key::{KeyRef, Lookup, put_part},
    settings::Settings,
    store::{Found, Keeps, Store, Ticket},
};
use crate::{
    clock::SystemClock,
    context::EncryptionContext,
    error::{ConfigError, ContextError, DataKeyError},
    materials::{MaterialsError, SealingMaterials},
    message::EncryptedDataKey,
    provider::DecryptedDataKey,
    suite::{AlgorithmSuite, KeyDerivation},
};

/// The most messages that one data key may seal (specification, `framework/caching-cmm.md`, "Limit Messages").
const MAX_MESSAGES: u64 = 1 << 32;

/// About how much memory a signing key takes.
const SIGNING_KEY_BYTES: usize = 1024;

/// Caches data keys, so that not every message needs a request to the key provider.
///
/// Pass it to [`EnvelopeBuilder::cache`](crate::EnvelopeBuilder::cache). A cached data key serves any number of messages
/// with the **same** suite, encryption context and required names, until it reaches its maximum age or has sealed its
/// share. Each message still has its own encryption key, derived from the data key. Envelopes can share one cache, its
/// capacity and its [`stats`](Self::stats), but an envelope only uses its own entries and those of its clones. Build the
/// envelope once, not for each request.
///
/// On opening, an entry belongs to one encrypted data key and serves every message that lists it, at any position. It is
/// added only after a message's header has been verified with the data key, so messages that do not open leave the cache
/// as it is. Suites without key commitment need the same list of encrypted data keys.
///
/// Concurrent callers that want the same key share one request. If it fails, all of them get its error, and the next
/// caller tries again. A cancelled caller does not affect the others. Cached keys keep serving while the key service
/// fails.
///
/// Suites without key derivation are never cached. Keys are wiped as soon as they have left the cache and no message
/// that is being sealed or opened needs them. Expired keys leave when new ones come in, or by
/// [`remove_expired`](Self::remove_expired).
///
/// **Security trade-off**: a data key stolen from memory opens all messages that it sealed; a revoked permission to
/// decrypt takes effect up to `max_age` later; and KMS logs one request for many messages.
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
#[derive(Clone)]
pub struct DataKeyCache(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) settings: Arc<Settings>,
    sealing: Arc<Store<SealingMaterials>>,
    opening: Arc<Store<DecryptedDataKey>>,
    partitions: AtomicU64,
}

impl DataKeyCache {
    /// Returns a builder of a cache with which no message begins with a data key older than `max_age`, except for those
    /// that waited for its request when that took longer. A stream that has begun goes on. Time while the machine is
    /// suspended may not count: see [`clock`](DataKeyCacheBuilder::clock).
    pub fn builder(max_age: Duration) -> DataKeyCacheBuilder {
        DataKeyCacheBuilder(Settings {
            max_age,
            max_messages: MAX_MESSAGES,
            max_bytes: u64::MAX,
            capacity: 1000,
            capacity_bytes: None,
            clock: Box::new(SystemClock),
            refresh: None,
        })
    }

    /// Returns what has happened so far.
    pub fn stats(&self) -> CacheStats {
        let mut stats = self.0.sealing.stats();
        stats += self.0.opening.stats();
        stats
    }

    /// Wipes all keys. Requests in flight continue for their callers, and their keys are not cached.
    pub fn clear(&self) {
        self.0.sealing.clear();
        self.0.opening.clear();
    }

    /// Wipes expired keys. Call it on a timer if expired keys must not stay in memory while the cache is idle.
    pub fn remove_expired(&self) {
        self.0.sealing.remove_expired();
        self.0.opening.remove_expired();
    }

    /// Returns a part of the cache that only one envelope uses.
    pub(crate) fn partition(&self) -> Partition {
        Partition { number: self.0.partitions.fetch_add(1, Ordering::Relaxed), cache: self.clone() }
    }
}

impl fmt::Debug for DataKeyCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKeyCache").field("settings", &self.0.settings).field("stats", &self.stats()).finish()
    }
}

/// One envelope's part of a cache.
#[derive(Clone, Debug)]
pub(crate) struct Partition {
    cache: DataKeyCache,
    number: u64,
}

impl Partition {
    /// Returns the materials for sealing a message with a plaintext of this length, if it is known.
    pub(crate) async fn sealing(
        &self,
        suite: AlgorithmSuite,
        context: &EncryptionContext,
        required: impl ExactSizeIterator<Item = &str>,
        plaintext_len: Option<u64>,
        fetch: impl Fn() -> Fetch<SealingMaterials>,
    ) -> Result<Arc<SealingMaterials>, MaterialsError> {
        let Inner { settings, sealing, .. } = &*self.cache.0;
        // The length of a stream is unknown, so it may exceed the limit.
        let cacheable = plaintext_len.map_or(settings.max_bytes == u64::MAX, |len| len <= settings.max_bytes);
        if !cacheable || suite.key_derivation() == KeyDerivation::Identity {
            return sealing.bypass(fetch()).await;
        }
        let lookup = self.lookup(Scope::Sealing, suite, context, required, sealing.hasher(), [&[][..]].into_iter())?;
        sealing.get(&lookup, plaintext_len.unwrap_or(0), fetch).await
    }

    /// Prepares the lookup of the data key of a message with these encrypted data keys.
    pub(crate) fn opening<'a, 'b>(
        &'a self,
        suite: AlgorithmSuite,
        context: &EncryptionContext,
        required: impl ExactSizeIterator<Item = &'b str>,
        encrypted_data_keys: &'a [EncryptedDataKey],
    ) -> Result<Opening<'a>, ContextError> {
        let store = &self.cache.0.opening;
        // Without a commitment, a message may open under several data keys. So the key provider always chooses from
        // the same list, with the cache and without.
        let group_len = if suite.is_committing() { 1 } else { encrypted_data_keys.len().max(1) };
        let lookup = if suite.key_derivation() == KeyDerivation::Identity {
            None
        } else {
            let groups = encrypted_data_keys.chunks(group_len);
            Some(self.lookup(Scope::Opening, suite, context, required, store.hasher(), groups)?)
        };
        Ok(Opening { store, lookup, group_len, encrypted_data_keys })
    }

    /// Serialises everything that an entry depends on. Each part follows its length, so different inputs never give the
    /// same key.
    fn lookup<'a, 'b>(
        &self,
        scope: Scope,
        suite: AlgorithmSuite,
        context: &EncryptionContext,
        required: impl ExactSizeIterator<Item = &'a str>,
        hasher: &RandomState,
        groups: impl ExactSizeIterator<Item = &'b [EncryptedDataKey]>,
    ) -> Result<Lookup, ContextError> {
        let mut prefix = Vec::with_capacity(512);
        prefix.put_u64(self.number);
        prefix.put_u8(scope as u8);
        prefix.put_u16(suite.id());
        prefix.put_u64(context.serialized_len()? as u64);
        context.serialize_into(&mut prefix)?;
        prefix.put_u64(required.len() as u64);
        required.for_each(|name| put_part(&mut prefix, name.as_bytes()));
        Ok(Lookup::new(hasher, prefix, groups))
    }
}

/// The lookup of one message's data key.
pub(crate) struct Opening<'a> {
    store: &'a Arc<Store<DecryptedDataKey>>,
    /// For suites that are cached.
    lookup: Option<Lookup>,
    /// The number of encrypted data keys in an entry's key.
    group_len: usize,
    encrypted_data_keys: &'a [EncryptedDataKey],
}

impl Opening<'_> {
    /// Returns the cached data key of the first encrypted data key that has an entry, starting at index `from`. If
    /// there is none, the key provider decrypts one of all encrypted data keys.
    pub(crate) async fn find(
        &self,
        from: usize,
        fetch: impl Fn(&[EncryptedDataKey]) -> Fetch<DecryptedDataKey>,
    ) -> Result<OpeningKey<'_>, MaterialsError> {
        let Self { store, lookup, group_len, encrypted_data_keys } = self;
        let Some(lookup) = lookup else {
            let data_key = store.bypass(fetch(encrypted_data_keys)).await?;
            return Ok(OpeningKey { index: data_key.index, data_key, landed: None });
        };
        match store.find(lookup, from, None, Keeps::WhenVerified, || fetch(encrypted_data_keys)) {
            Found::Entry { index, entry, is_due } => {
                let data_key = entry.value.clone();
                if is_due {
                    let group = encrypted_data_keys.chunks(*group_len).nth(index).unwrap_or_default();
                    store.renew(lookup.candidate(index), the_same(data_key.clone(), fetch(group)));
                }
                // The index in the value is that of the message that the entry was requested for.
                let index = if *group_len == 1 { index } else { data_key.index };
                Ok(OpeningKey { index, data_key, landed: None })
            }
            Found::Flight(ticket) => {
                let entry = ticket.landed().await?;
                let (data_key, index) = (entry.value.clone(), entry.value.index);
                let landed = Some((lookup.candidate(index / group_len), ticket, entry));
                Ok(OpeningKey { index, data_key, landed })
            }
        }
    }
}

/// A data key that has yet to verify the message's header.
pub(crate) struct OpeningKey<'a> {
    pub(crate) data_key: Arc<DecryptedDataKey>,
    /// The index of its encrypted data key in the message's list.
    pub(crate) index: usize,
    /// For a data key from a request: what is needed to keep it.
    landed: Option<(KeyRef<'a>, Ticket<DecryptedDataKey>, Arc<Entry<DecryptedDataKey>>)>,
}

impl OpeningKey<'_> {
    /// Returns whether it comes from an entry rather than from a request.
    pub(crate) fn is_cached(&self) -> bool {
        self.landed.is_none()
    }

    /// Adds it to the cache. The caller must have verified the header with it.
    pub(crate) fn keep(self) -> Arc<DecryptedDataKey> {
        if let Some((key, ticket, entry)) = self.landed {
            ticket.keep(key, &entry);
        }
        self.data_key
    }
}

/// Makes a renewal fail if it brings a data key other than the verified one.
fn the_same(data_key: Arc<DecryptedDataKey>, fetch: Fetch<DecryptedDataKey>) -> Fetch<DecryptedDataKey> {
    Box::pin(async move {
        let renewed = fetch.await?;
        if !bool::from(renewed.plaintext.expose().ct_eq(data_key.plaintext.expose())) {
            return Err(DataKeyError::Changed.into());
        }
        Ok(renewed)
    })
}
#[derive(Clone, Copy)]
enum Scope {
    Sealing,
    Opening,
}

impl Material for SealingMaterials {
    fn held_bytes(&self) -> usize {
        let Self { data_key, signing_key, stored_context, required_context } = self;
        let encrypted = data_key
            .encrypted_data_keys
            .iter()
            .map(|key| size_of::<EncryptedDataKey>() + key.fields().iter().map(|field| field.len()).sum::<usize>());
        let signing_key = signing_key.as_ref().map_or(0, |_| SIGNING_KEY_BYTES);
        let contexts = context_bytes(stored_context.iter().chain(required_context));
        data_key.plaintext.len() + encrypted.sum::<usize>() + signing_key + contexts
    }
}

impl Material for DecryptedDataKey {
    fn held_bytes(&self) -> usize {
        self.plaintext.len() + self.key_id.len()
    }
}

/// Configures a [`DataKeyCache`].
#[derive(Debug)]
#[must_use]
pub struct DataKeyCacheBuilder(Settings);

impl DataKeyCacheBuilder {
    /// Sets the maximum number of messages that a data key seals: 1 to 2³². Default: 2³². Opening is not counted.
    pub fn max_messages(mut self, messages: u64) -> Self {
        self.0.max_messages = messages;
        self
    }

    /// Sets the maximum number of plaintext bytes that a data key seals. Default: no limit. With a limit, a longer
    /// message gets its own data key, and so does a stream, whose length is not known beforehand.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.0.max_bytes = bytes;
        self
    }

    /// Sets the maximum number of entries, separately for sealing and for opening. Default: 1,000. A full cache evicts
    /// the least recently used entry.
    pub fn capacity(mut self, entries: usize) -> Self {
        self.0.capacity = entries;
        self
    }

    /// Sets the maximum memory for entries in bytes, separately for sealing and for opening. Default: 16 KiB for each
    /// entry of the [`capacity`](Self::capacity), but at least 1 MiB. A full cache evicts the least recently used
    /// entries. An entry that exceeds the limit by itself is not cached.
    ///
    /// An entry counts its data key, its context, its encrypted data keys, and 512 bytes or more for the rest. The
    /// result is an estimate: it does not include the allocator's overhead.
    pub fn capacity_bytes(mut self, bytes: usize) -> Self {
        self.0.capacity_bytes = Some(bytes);
        self
    }

    /// Renews a key in the background when it is used in the last `ahead` before its `max_age`. Callers then never wait
    /// for a key in use, and do not notice an outage of the key service that is shorter than `ahead`. A failed renewal
    /// is repeated after a tenth of `ahead`, if the key is used.
    ///
    /// On opening, a renewal must bring the same data key again. Otherwise it counts as failed.
    ///
    /// `spawn` receives the task to run: on tokio, `|task| { tokio::spawn(task); }`.
    pub fn refresh_ahead(mut self, ahead: Duration, spawn: impl Fn(Refresh) + Send + Sync + 'static) -> Self {
        self.0.refresh = Some((ahead, Box::new(spawn)));
        self
    }

    /// Sets the source of time. Default: [`Instant::now`](std::time::Instant::now), which on Linux and macOS stands still while the machine
    /// is suspended, so that keys live longer by that time. Where that matters, call [`clear`](DataKeyCache::clear) on
    /// waking up, or give a clock that goes on.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.0.clock = Box::new(clock);
        self
    }

    /// Builds the cache.
    ///
    /// # Errors
    /// [`ConfigError::Cache`] if the age or a capacity is zero, the number of messages is zero or more than 2³², or
    /// `refresh_ahead` is not shorter than `max_age`.
    pub fn build(self) -> Result<DataKeyCache, ConfigError> {
        let settings = self.0;
        let refused = |what| Err(ConfigError::Cache { what });
        if settings.max_age.is_zero() {
            return refused("max_age must be longer than zero");
        }
        if !(1..=MAX_MESSAGES).contains(&settings.max_messages) {
            return refused("max_messages must be 1 to 4294967296");
        }
        if settings.capacity == 0 {
            return refused("the capacity must be 1 or more");
        }
        if settings.capacity_bytes == Some(0) {
            return refused("capacity_bytes must be 1 or more");
        }
        if settings.refresh.as_ref().is_some_and(|(ahead, _)| *ahead >= settings.max_age) {
            return refused("refresh_ahead must be shorter than max_age");
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
        provider::GeneratedDataKey,
    };

    #[test]
    fn entries_count_what_they_hold() {
        let data_key = DecryptedDataKey { plaintext: SecretKey::from([1; 32]), index: 0, key_id: "id".into() };
        assert_eq!(data_key.held_bytes(), 32 + 2);

        let suite = AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384;
        let sign = || SigningKey::generate(Backend::default(), suite.signature()?, &Random::default()).ok();
        for (signing_key, signing_key_bytes) in [(None, 0), (sign().map(Arc::new), 1024)] {
            assert_eq!(signing_key.is_some(), signing_key_bytes > 0);
            let encrypted = ["12345", "6"].map(|text| EncryptedDataKey::new("id", "info", text)).into();
            let materials = SealingMaterials {
                data_key: GeneratedDataKey { plaintext: SecretKey::from([1; 32]), encrypted_data_keys: encrypted },
                signing_key,
                stored_context: EncryptionContext::from([("a", "bc"), ("d", "e")]),
                required_context: EncryptionContext::from([("f", "g")]),
            };
            let encrypted_bytes = 2 * (size_of::<EncryptedDataKey>() + 2 + 4) + 5 + 1;
            let context_bytes = 3 * 64 + 3 + 2 + 2;
            assert_eq!(materials.held_bytes(), 32 + encrypted_bytes + context_bytes + signing_key_bytes);
        }
    }
}
