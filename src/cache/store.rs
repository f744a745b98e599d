//! Entries and flights, whatever they are of.

use std::{
    collections::{HashMap, hash_map::RandomState},
    fmt,
    future::Future,
    hash::{BuildHasher, Hash, Hasher},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt,
    future::{Shared, WeakShared},
};
use lru::LruCache;

use super::{CacheStats, Clock};
use crate::{
    events::{debug, trace, warn},
    materials::MaterialsError,
};

/// A task that renews a data key: see [`DataKeyCacheBuilder::refresh_ahead`](super::DataKeyCacheBuilder::refresh_ahead).
pub type Refresh = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) type Spawn = Box<dyn Fn(Refresh) + Send + Sync>;

/// A request to the key provider.
pub(crate) type Fetch<T> = Pin<Box<dyn Future<Output = Result<T, MaterialsError>> + Send>>;

/// Entries that share a lock, at least, before there are several locks.
const SHARD_CAPACITY: usize = 64;
const MAX_SHARDS: usize = 16;

/// What a cache was built with.
pub(super) struct Settings {
    pub(super) max_age: Duration,
    pub(super) max_messages: u64,
    pub(super) max_bytes: u64,
    pub(super) capacity: usize,
    pub(super) clock: Box<dyn Clock>,
    /// How long before the end of a key's age it is renewed, and what runs the renewal.
    pub(super) refresh: Option<(Duration, Spawn)>,
}

impl Settings {
    fn is_expired<T>(&self, entry: &Entry<T>, now: Instant) -> bool {
        now.saturating_duration_since(entry.fetched) >= self.max_age
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("max_age", &self.max_age)
            .field("max_messages", &self.max_messages)
            .field("max_bytes", &self.max_bytes)
            .field("capacity", &self.capacity)
            .field("clock", &self.clock)
            .field("refresh_ahead", &self.refresh.as_ref().map(|(ahead, _)| ahead))
            .finish()
    }
}

/// A bounded map with several locks.
pub(super) struct Store<T> {
    settings: Arc<Settings>,
    hasher: RandomState,
    shards: Box<[Mutex<Shard<T>>]>,
}

/// What an entry is kept under, with its hash, so that the long part is hashed once, and outside of all locks.
#[derive(Clone, PartialEq, Eq)]
struct Key {
    hash: u64,
    bytes: Vec<u8>,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

struct Shard<T> {
    entries: LruCache<Key, Arc<Entry<T>>, RandomState>,
    capacity: usize,
    /// Requests that are on their way. Those that nobody waits for any more are gone.
    flights: HashMap<Key, WeakShared<Flight<T>>>,
    /// Grows when the shard is cleared: flights of before are not kept.
    generation: u64,
    stats: CacheStats,
}

type Flight<T> = Pin<Box<dyn Future<Output = Result<Arc<Entry<T>>, MaterialsError>> + Send>>;

struct Entry<T> {
    value: Arc<T>,
    /// When the request for it began.
    fetched: Instant,
    usage: Mutex<Usage>,
}

struct Usage {
    messages: u64,
    bytes: u64,
    /// When it may be renewed, once more if that has failed before. Never, where the clock does not go so far.
    refresh_from: Option<Instant>,
}

impl<T> Entry<T> {
    /// Counts a message of so many bytes, if there is room for it. None is not counted.
    fn take(&self, bytes: Option<u64>, settings: &Settings) -> bool {
        let Some(bytes) = bytes else { return true };
        let mut usage = lock(&self.usage);
        let fits = usage.messages < settings.max_messages && bytes <= settings.max_bytes - usage.bytes;
        if fits {
            usage.messages += 1;
            usage.bytes += bytes;
        }
        fits
    }

    fn is_due(&self, now: Instant) -> bool {
        lock(&self.usage).refresh_from.is_some_and(|from| now >= from)
    }
}

impl<T: Send + Sync + 'static> Store<T> {
    pub(super) fn new(settings: Arc<Settings>) -> Arc<Self> {
        let count = (settings.capacity / SHARD_CAPACITY).clamp(1, MAX_SHARDS);
        let shard = |index| Shard {
            entries: LruCache::unbounded_with_hasher(RandomState::new()),
            // All of them together have the capacity.
            capacity: settings.capacity / count + usize::from(index < settings.capacity % count),
            flights: HashMap::new(),
            generation: 0,
            stats: CacheStats::default(),
        };
        let shards = (0..count).map(|index| Mutex::new(shard(index))).collect();
        Arc::new(Self { settings, hasher: RandomState::new(), shards })
    }

    /// The value of this key: from an entry, from a request that is on its way, or from one that begins now. It is
    /// used for a message of so many bytes, which counts; None does not count.
    pub(super) async fn get(
        self: &Arc<Self>,
        key: Vec<u8>,
        bytes: Option<u64>,
        fetch: impl Fn() -> Fetch<T>,
    ) -> Result<Arc<T>, MaterialsError> {
        let key = Key { hash: self.hasher.hash_one(&key), bytes: key };
        loop {
            let flight = match self.look_up(&key, bytes, &fetch) {
                Ok((entry, renewal)) => {
                    if let Some((renewal, (_, spawn))) = renewal.zip(self.settings.refresh.as_ref()) {
                        spawn(Box::pin(renewal.map(drop)));
                    }
                    return Ok(entry.value.clone());
                }
                Err(flight) => flight,
            };
            let entry = flight.await?;
            // More may have waited for this key than it may serve.
            if entry.take(bytes, &self.settings) {
                return Ok(entry.value.clone());
            }
        }
    }

    /// An entry, and its renewal if one begins; or else the flight to wait for.
    #[expect(clippy::type_complexity, reason = "it says what it is")]
    fn look_up(
        self: &Arc<Self>,
        key: &Key,
        bytes: Option<u64>,
        fetch: &impl Fn() -> Fetch<T>,
    ) -> Result<(Arc<Entry<T>>, Option<Shared<Flight<T>>>), Shared<Flight<T>>> {
        let now = self.settings.clock.now();
        let mut guard = self.shard(key);
        let shard = &mut *guard;
        let flight = |flights: &HashMap<_, WeakShared<_>>| flights.get(key).and_then(WeakShared::upgrade);
        if let Some(entry) = shard.entries.get(key) {
            if !self.settings.is_expired(entry, now) && entry.take(bytes, &self.settings) {
                trace!("a data key from the cache");
                let entry = entry.clone();
                shard.stats.hits += 1;
                let renews = entry.is_due(now) && flight(&shard.flights).is_none();
                return Ok((entry, renews.then(|| self.take_off(shard, key, now, fetch()))));
            }
            shard.entries.pop(key);
            shard.stats.expirations += 1;
        }
        Err(match flight(&shard.flights) {
            Some(flight) => {
                shard.stats.waits += 1;
                flight
            }
            None => {
                shard.stats.misses += 1;
                self.take_off(shard, key, now, fetch())
            }
        })
    }

    /// Begins a request.
    fn take_off(
        self: &Arc<Self>,
        shard: &mut Shard<T>,
        key: &Key,
        started: Instant,
        fetch: Fetch<T>,
    ) -> Shared<Flight<T>> {
        debug!("a request for a data key begins");
        shard.stats.calls += 1;
        let (this, generation, key) = (self.clone(), shard.generation, key.clone());
        let landing_key = key.clone();
        let flight: Flight<T> = Box::pin(async move {
            let fetched = AssertUnwindSafe(fetch).catch_unwind().await;
            let fetched =
                fetched.unwrap_or_else(|_| Err(MaterialsError::DataKey { what: "no data key: it panicked".into() }));
            this.land(&landing_key, fetched, started, generation)
        });
        let flight = flight.shared();
        // Before the map grows, those leave that were given up by all.
        if shard.flights.len() == shard.flights.capacity() {
            shard.flights.retain(|_, flight| flight.upgrade().is_some());
        }
        if let Some(weak) = flight.downgrade() {
            shard.flights.insert(key, weak);
        }
        flight
    }

    /// Keeps what a request has brought.
    fn land(
        &self,
        key: &Key,
        fetched: Result<T, MaterialsError>,
        started: Instant,
        generation: u64,
    ) -> Result<Arc<Entry<T>>, MaterialsError> {
        let settings = &*self.settings;
        let now = settings.clock.now();
        let mut shard = self.shard(key);
        let is_kept = shard.generation == generation;
        if is_kept {
            shard.flights.remove(key);
        }
        match fetched {
            Ok(value) => {
                let refresh_from = settings.refresh.as_ref();
                let refresh_from = refresh_from.and_then(|(ahead, _)| started.checked_add(settings.max_age - *ahead));
                let usage = Mutex::new(Usage { messages: 0, bytes: 0, refresh_from });
                let entry = Arc::new(Entry { value: Arc::new(value), fetched: started, usage });
                if is_kept {
                    shard.remove_expired(settings, now);
                    shard.entries.put(key.clone(), entry.clone());
                    while shard.entries.len() > shard.capacity {
                        shard.entries.pop_lru();
                        shard.stats.evictions += 1;
                    }
                }
                Ok(entry)
            }
            Err(error) => {
                warn!(?error, "a request for a data key failed");
                shard.stats.failures += 1;
                if let Some((entry, (ahead, _))) = shard.entries.peek(key).zip(settings.refresh.as_ref()) {
                    lock(&entry.usage).refresh_from = now.checked_add(*ahead / 10);
                }
                Err(error)
            }
        }
    }

    /// A request whose result is of no use to anybody else.
    pub(super) async fn bypass(&self, fetch: Fetch<T>) -> Result<Arc<T>, MaterialsError> {
        let count = |count: fn(&mut CacheStats)| count(&mut lock(&self.shards[0]).stats);
        count(|stats| {
            stats.bypasses += 1;
            stats.calls += 1;
        });
        let fetched = fetch.await;
        if fetched.is_err() {
            count(|stats| stats.failures += 1);
        }
        fetched.map(Arc::new)
    }

    pub(super) fn stats(&self) -> CacheStats {
        let mut stats = CacheStats::default();
        for shard in &self.shards {
            let shard = lock(shard);
            stats += CacheStats { entries: shard.entries.len() as u64, ..shard.stats };
        }
        stats
    }

    pub(super) fn clear(&self) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.generation += 1;
            shard.entries.clear();
            shard.flights.clear();
        }
    }

    pub(super) fn remove_expired(&self) {
        let now = self.settings.clock.now();
        self.shards.iter().for_each(|shard| lock(shard).remove_expired(&self.settings, now));
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, Shard<T>> {
        // There are a few shards only.
        #[expect(clippy::cast_possible_truncation, reason = "the lower bits are as good as the rest")]
        lock(&self.shards[key.hash as usize % self.shards.len()])
    }
}

impl<T> Shard<T> {
    fn remove_expired(&mut self, settings: &Settings, now: Instant) {
        let expired: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| settings.is_expired(entry, now))
            .map(|(key, _)| key.clone())
            .collect();
        for key in expired {
            self.entries.pop(&key);
            self.stats.expirations += 1;
        }
    }
}

/// What is behind these locks is whole at any time, so a panic elsewhere does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
