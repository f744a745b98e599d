//! Data keys that serve for more than one message.
//!
//! An entry is a sealing's materials or an opening's data key, under everything that it depends on. A miss starts a
//! *flight*: one request to the key provider, which all who want the same entry wait for together. A flight is a
//! shared future that whoever waits drives, so none needs a runtime, and none is stranded when another gives up.

mod entries;
mod key;
mod store;

use std::{
    collections::hash_map::RandomState,
    fmt,
    ops::AddAssign,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::BufMut;
use subtle::ConstantTimeEq;

pub(crate) use self::store::Fetch;
pub use self::store::Refresh;
use self::{
    entries::{Entry, Material, context_bytes},
    key::{KeyRef, Lookup, put_part},
    store::{Found, Keeps, Settings, Store, Ticket},
};
use crate::{
    context::EncryptionContext,
    error::{ConfigError, ContextError},
    materials::{MaterialsError, SealingMaterials},
    message::EncryptedDataKey,
    provider::PlaintextDataKey,
    suite::{AlgorithmSuite, KeyDerivation},
};

/// The most messages that one data key may seal (specification, `framework/caching-cmm.md`, "Limit Messages").
const MAX_MESSAGES: u64 = 1 << 32;

/// About how much memory a signing key takes.
const SIGNING_KEY_BYTES: usize = 1024;

/// Keeps data keys, so that not every message needs a request to the key provider.
///
/// Given to [`EnvelopeBuilder::cache`](crate::EnvelopeBuilder::cache). A data key from it serves for any number of
/// messages with the **same** suite, encryption context and required names, until it is too old or has sealed its
/// share; each message still has an encryption key of its own, derived from it. On opening, the encrypted data keys
/// must be the same too. Several envelopes can share one cache, its capacity and its [`stats`](Self::stats), but an
/// envelope uses no other's entries, only those of its clones: so build it once, not for each request.
///
/// However many callers want the same key at once, one request is made and all wait for it. If it fails, they all get
/// its error, and the next caller tries anew. A caller that is cancelled strands none of the others. Keys that are
/// still valid go on serving while the key service fails.
///
/// Suites without key derivation are never cached. Keys are wiped when they leave the cache, and are then gone as soon as
/// no message that is being sealed or opened needs them. What has expired leaves when a new key comes in, or by
/// [`remove_expired`](Self::remove_expired).
///
/// **What it costs in safety**: a data key that is stolen from memory opens all messages that it sealed; a right to
/// decrypt that is taken away is noticed up to `max_age` later; and KMS logs one request for many messages.
///
/// ```
/// use std::time::Duration;
/// use kms_envelope::{DataKeyCache, EncryptionContext, Envelope, LocalKey};
///
/// # pollster::block_on(async {
/// let cache = DataKeyCache::builder(Duration::from_secs(300)).max_messages(10_000).build()?;
/// let envelope = Envelope::builder(LocalKey::generate("example", "key")?).cache(cache.clone()).build()?;
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
pub struct DataKeyCache(Arc<Inner>);

struct Inner {
    settings: Arc<Settings>,
    sealing: Arc<Store<SealingMaterials>>,
    opening: Arc<Store<PlaintextDataKey>>,
    partitions: AtomicU64,
}

impl DataKeyCache {
    /// Returns a builder of a cache with which no message begins with a data key older than `max_age`. A stream that has
    /// begun goes on. Time while the machine is suspended may not count: see [`clock`](DataKeyCacheBuilder::clock).
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

    /// What has happened so far.
    pub fn stats(&self) -> CacheStats {
        let mut stats = self.0.sealing.stats();
        stats += self.0.opening.stats();
        stats
    }

    /// Wipes all keys. Requests that are on their way go on for those who wait for them, and are not kept.
    pub fn clear(&self) {
        self.0.sealing.clear();
        self.0.opening.clear();
    }

    /// Wipes the keys that are too old. For a timer, where keys must not outlive their age though nobody asks for any.
    pub fn remove_expired(&self) {
        self.0.sealing.remove_expired();
        self.0.opening.remove_expired();
    }

    /// A part of the cache that nobody else has.
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
    /// The materials for sealing a message with a plaintext of this length, if that is known.
    pub(crate) async fn sealing(
        &self,
        suite: AlgorithmSuite,
        context: &EncryptionContext,
        required: impl ExactSizeIterator<Item = &str>,
        plaintext_len: Option<u64>,
        fetch: impl Fn() -> Fetch<SealingMaterials>,
    ) -> Result<Arc<SealingMaterials>, MaterialsError> {
        let Inner { settings, sealing, .. } = &*self.cache.0;
        // Of a stream, nobody knows whether it keeps to a limit.
        let cacheable = plaintext_len.map_or(settings.max_bytes == u64::MAX, |len| len <= settings.max_bytes);
        if !cacheable || suite.key_derivation() == KeyDerivation::Identity {
            return sealing.bypass(fetch()).await;
        }
        let lookup = self.lookup(Scope::Sealing, suite, context, required, sealing.hasher(), [&[][..]].into_iter())?;
        sealing.get(&lookup, plaintext_len.unwrap_or(0), fetch).await
    }

    /// Prepares to look for the data key behind one of these encrypted ones.
    pub(crate) fn opening<'a, 'b>(
        &'a self,
        suite: AlgorithmSuite,
        context: &EncryptionContext,
        required: impl ExactSizeIterator<Item = &'b str>,
        encrypted_data_keys: &'a [EncryptedDataKey],
    ) -> Result<Opening<'a>, ContextError> {
        let store = &self.cache.0.opening;
        // Only a commitment tells whether a data key is the message's, so without it, one message must always get
        // what the key provider chooses from its whole list.
        let group_len = if suite.is_committing() { 1 } else { encrypted_data_keys.len().max(1) };
        let lookup = if suite.key_derivation() == KeyDerivation::Identity {
            None
        } else {
            let groups = encrypted_data_keys.chunks(group_len);
            Some(self.lookup(Scope::Opening, suite, context, required, store.hasher(), groups)?)
        };
        Ok(Opening { store, lookup, group_len, encrypted_data_keys })
    }

    /// Everything that an entry depends on, each part after its length, so that different things never make the same
    /// key.
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

/// Looks for the data key of one message.
pub(crate) struct Opening<'a> {
    store: &'a Arc<Store<PlaintextDataKey>>,
    /// Of suites that are cached.
    lookup: Option<Lookup>,
    /// How many encrypted data keys an entry is kept under.
    group_len: usize,
    encrypted_data_keys: &'a [EncryptedDataKey],
}

impl Opening<'_> {
    /// Finds the data key behind the first of the encrypted data keys, from an index on, that has an entry; or else
    /// the one that the key provider chooses from all of them.
    pub(crate) async fn find(
        &self,
        from: usize,
        fetch: impl Fn(&[EncryptedDataKey]) -> Fetch<PlaintextDataKey>,
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
                // An entry under one encrypted data key has the index of the message that brought it.
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

/// A data key that may be a message's.
pub(crate) struct OpeningKey<'a> {
    pub(crate) data_key: Arc<PlaintextDataKey>,
    /// Which of the encrypted data keys it is behind.
    pub(crate) index: usize,
    /// Where it comes from a request: the key to keep it under.
    landed: Option<(KeyRef<'a>, Ticket<PlaintextDataKey>, Arc<Entry<PlaintextDataKey>>)>,
}

impl OpeningKey<'_> {
    /// Returns whether it comes from an entry, so that the key provider has not been asked.
    pub(crate) fn is_cached(&self) -> bool {
        self.landed.is_none()
    }

    /// Keeps it: the header has verified under it.
    pub(crate) fn keep(self) -> Arc<PlaintextDataKey> {
        if let Some((key, ticket, entry)) = self.landed {
            ticket.keep(key, &entry);
        }
        self.data_key
    }
}

/// Renews a data key that has opened a message: with the same one, or not at all.
fn the_same(data_key: Arc<PlaintextDataKey>, fetch: Fetch<PlaintextDataKey>) -> Fetch<PlaintextDataKey> {
    Box::pin(async move {
        let renewed = fetch.await?;
        if !bool::from(renewed.key.expose().ct_eq(data_key.key.expose())) {
            return Err(MaterialsError::DataKey { what: "another data key than the one that opened messages".into() });
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
            .encrypted
            .iter()
            .map(|key| size_of::<EncryptedDataKey>() + key.fields().iter().map(|field| field.len()).sum::<usize>());
        let signing_key = signing_key.as_ref().map_or(0, |_| SIGNING_KEY_BYTES);
        let contexts = context_bytes(stored_context.iter().chain(required_context));
        data_key.plaintext.len() + encrypted.sum::<usize>() + signing_key + contexts
    }
}

impl Material for PlaintextDataKey {
    fn held_bytes(&self) -> usize {
        self.key.len() + self.key_id.len()
    }
}

/// Chooses the limits of a [`DataKeyCache`].
#[derive(Debug)]
#[must_use]
pub struct DataKeyCacheBuilder(Settings);

impl DataKeyCacheBuilder {
    /// The most messages that a data key seals: 1 to 2³², which is the default. Opening is not counted.
    pub fn max_messages(mut self, messages: u64) -> Self {
        self.0.max_messages = messages;
        self
    }

    /// The most bytes of plaintext that a data key seals. Default: no limit. What is longer by itself has a data key of
    /// its own, and so have streams, whose length is not known beforehand.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.0.max_bytes = bytes;
        self
    }

    /// The most entries for sealing, and the most for opening. Default: 1,000. The least recently used one leaves
    /// first.
    pub fn capacity(mut self, entries: usize) -> Self {
        self.0.capacity = entries;
        self
    }

    /// Sets the most memory for the entries for sealing, and the most for those for opening. Default: 16 KiB for each
    /// entry of the [`capacity`](Self::capacity), at least 1 MiB. The least recently used entry leaves first; an entry
    /// that takes more by itself is not kept.
    ///
    /// An entry counts as its data key, context and encrypted data keys, and 512 bytes or more for the rest. The
    /// count is close to what is used, but does not know what an allocator adds.
    pub fn capacity_bytes(mut self, bytes: usize) -> Self {
        self.0.capacity_bytes = Some(bytes);
        self
    }

    /// Renews a key in the background as soon as it is used in the last `ahead` before its `max_age`: no caller waits
    /// for it then, and the key service may be away for so long without anybody noticing. A renewal that fails is
    /// tried again after a tenth of `ahead`, if the key is used.
    ///
    /// `spawn` gets the task to run: on tokio, `|task| { tokio::spawn(task); }`.
    pub fn refresh_ahead(mut self, ahead: Duration, spawn: impl Fn(Refresh) + Send + Sync + 'static) -> Self {
        self.0.refresh = Some((ahead, Box::new(spawn)));
        self
    }

    /// Sets where the time comes from. Default: [`Instant::now`], which on Linux and macOS stands still while the machine
    /// is suspended, so that keys live longer by that time. Where that matters, call [`clear`](DataKeyCache::clear) on
    /// waking up, or give a clock that goes on.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.0.clock = Box::new(clock);
        self
    }

    /// The cache.
    ///
    /// # Errors
    /// [`ConfigError::Cache`] for an age or a capacity of zero, no messages or more than 2³², and a renewal that would
    /// begin at once.
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

/// Tells a [`DataKeyCache`] the time. In tests, `ManualClock` (feature `mock`) does.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Now. It should not go backwards.
    fn now(&self) -> Instant;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Instant {
        C::now(self)
    }
}

#[derive(Debug)]
struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// A clock that a test moves by hand. Its clones show the same time.
///
/// ```
/// use std::time::Duration;
/// use kms_envelope::{DataKeyCache, ManualClock};
///
/// let clock = ManualClock::new();
/// let cache = DataKeyCache::builder(Duration::from_secs(300)).clock(clock.clone()).build()?;
/// clock.advance(Duration::from_secs(301)); // What was in the cache has expired.
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[cfg(feature = "mock")]
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<std::sync::Mutex<Instant>>);

#[cfg(feature = "mock")]
impl ManualClock {
    /// A clock that stands still at the present time.
    #[expect(clippy::new_without_default, reason = "two of them show different times")]
    pub fn new() -> Self {
        Self(Arc::new(std::sync::Mutex::new(Instant::now())))
    }

    /// Moves it on.
    pub fn advance(&self, by: Duration) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += by;
    }
}

#[cfg(feature = "mock")]
impl Clock for ManualClock {
    fn now(&self) -> Instant {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What has happened in a [`DataKeyCache`] since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Data keys that were there.
    pub hits: u64,
    /// Data keys that were not: each began a request.
    pub misses: u64,
    /// Callers who waited for a request that was on its way already.
    pub waits: u64,
    /// Callers for whom the cache could do nothing: a suite without key derivation, or, where
    /// [`max_bytes`](DataKeyCacheBuilder::max_bytes) is set, a stream or a message longer than that.
    pub bypasses: u64,
    /// Entries that left because the cache was full.
    pub evictions: u64,
    /// Entries that left because they were too old, or had sealed all that they may.
    pub expirations: u64,
    /// Requests to the key provider, those of renewals and bypasses included.
    pub calls: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// The entries that are there now.
    pub entries: u64,
    /// About how much memory they take, as [`capacity_bytes`](DataKeyCacheBuilder::capacity_bytes) counts it.
    pub bytes: u64,
}

impl AddAssign for CacheStats {
    fn add_assign(&mut self, other: Self) {
        let Self { hits, misses, waits, bypasses, evictions, expirations, calls, failures, entries, bytes } = other;
        self.hits += hits;
        self.misses += misses;
        self.waits += waits;
        self.bypasses += bypasses;
        self.evictions += evictions;
        self.expirations += expirations;
        self.calls += calls;
        self.failures += failures;
        self.entries += entries;
        self.bytes += bytes;
    }
}
