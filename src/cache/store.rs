//! Entries and flights behind one lock.

use std::{
    collections::{HashMap, hash_map::RandomState},
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use futures_util::{FutureExt, future::Shared};

use super::{
    CacheStats,
    entries::{Entries, Entry, Material, Removed, Usage},
    key::{AsKey, Key, KeyRef, Lookup},
    settings::{Settings, lock},
};
use crate::{
    error::DataKeyError,
    events::{debug, trace, warn},
    materials::MaterialsError,
};

/// A request to the key provider.
pub(crate) type Fetch<T> = Pin<Box<dyn Future<Output = Result<T, MaterialsError>> + Send>>;

/// The maximum number of expired entries that are removed while the lock is held once. Every new entry removes up to
/// this many, so expired entries do not pile up.
const EXPIRED_AT_ONCE: usize = 64;

/// A bounded map behind one lock. While it is held, no long key is hashed, no value is dropped, and no code of a key
/// provider, a clock or a tracing subscriber runs.
pub(super) struct Store<T> {
    settings: Arc<Settings>,
    hasher: RandomState,
    /// The number of the next flight.
    flights: AtomicU64,
    state: Mutex<State<T>>,
}

struct State<T> {
    entries: Entries<T>,
    /// Requests in progress, and requests that have landed and are still being verified.
    flights: HashMap<Arc<Key>, InFlight<T>>,
    stats: CacheStats,
}

type Flight<T> = Pin<Box<dyn Future<Output = Result<Arc<Entry<T>>, MaterialsError>> + Send>>;

struct InFlight<T> {
    key: Arc<Key>,
    /// Distinguishes it from a later flight with the same key.
    number: u64,
    started: Instant,
    has_landed: bool,
    /// The number of tickets. The flight leaves the map with its last ticket.
    tickets: usize,
    result: Shared<Flight<T>>,
}

/// When the entry of a flight is added to the cache.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeps {
    AtLanding,
    /// When a caller has verified it: see [`Ticket::keep`].
    WhenVerified,
}

/// The result of a lookup.
pub(super) enum Found<T: Material> {
    Entry {
        /// The index of the candidate.
        index: usize,
        entry: Arc<Entry<T>>,
        /// Whether the caller should start a renewal.
        is_due: bool,
    },
    Flight(Ticket<T>),
}

/// A caller's share in a flight. The flight is cancelled when all tickets are dropped.
pub(super) struct Ticket<T: Material> {
    store: Arc<Store<T>>,
    key: Arc<Key>,
    number: u64,
    result: Shared<Flight<T>>,
}

impl<T: Material> Ticket<T> {
    pub(super) async fn landed(&self) -> Result<Arc<Entry<T>>, MaterialsError> {
        self.result.clone().await
    }

    /// Adds the entry that has landed to the cache under this key, unless another caller has done so.
    pub(super) fn keep(&self, key: KeyRef<'_>, entry: &Arc<Entry<T>>) {
        let now = self.store.settings.clock.now();
        self.store.keep(&self.key, self.number, key.to_key(), entry, now);
    }
}

impl<T: Material> Drop for Ticket<T> {
    fn drop(&mut self) {
        let mut state = lock(&self.store.state);
        let Some(flight) = state.flight(&self.key, self.number) else { return };
        flight.tickets -= 1;
        let abandoned = if flight.tickets == 0 { state.flights.remove(&self.key) } else { None };
        drop(state);
        drop(abandoned);
    }
}

impl<T: Material> Store<T> {
    pub(super) fn new(settings: Arc<Settings>) -> Arc<Self> {
        let state = State { entries: Entries::new(), flights: HashMap::new(), stats: CacheStats::default() };
        Arc::new(Self { settings, hasher: RandomState::new(), flights: AtomicU64::new(0), state: Mutex::new(state) })
    }

    pub(super) fn hasher(&self) -> &RandomState {
        &self.hasher
    }

    /// Returns the value of the only candidate, for a message of this many bytes: from an entry, from a flight, or from a
    /// new flight.
    pub(super) async fn get(
        self: &Arc<Self>,
        lookup: &Lookup,
        bytes: u64,
        fetch: impl Fn() -> Fetch<T>,
    ) -> Result<Arc<T>, MaterialsError> {
        loop {
            match self.find(lookup, 0, Some(bytes), Keeps::AtLanding, &fetch) {
                Found::Entry { index, entry, is_due } => {
                    if is_due {
                        self.renew(lookup.candidate(index), fetch());
                    }
                    return Ok(entry.value.clone());
                }
                Found::Flight(ticket) => {
                    let entry = ticket.landed().await?;
                    // There may be more callers than this key may serve.
                    if entry.take(Some(bytes), &self.settings) {
                        return Ok(entry.value.clone());
                    }
                }
            }
        }
    }

    /// Returns the entry of the first candidate from index `from` on that has one, or else the flight to wait for, which
    /// is started if there is none. `bytes` is the length of a message that counts against the entry's limits.
    pub(super) fn find(
        self: &Arc<Self>,
        lookup: &Lookup,
        from: usize,
        bytes: Option<u64>,
        keeps: Keeps,
        fetch: impl Fn() -> Fetch<T>,
    ) -> Found<T> {
        let now = self.settings.clock.now();
        let mut ready = None;
        loop {
            if let Some(found) = self.look_up(lookup, from, bytes, now, &mut ready) {
                if let Found::Entry { .. } = found {
                    trace!("a data key from the cache");
                }
                return found;
            }
            ready = Some(self.flight(lookup.flight().to_key(), fetch(), now, keeps));
        }
    }

    /// Returns an entry or a flight. If there is neither, starts the flight that is `ready`, if any.
    fn look_up(
        self: &Arc<Self>,
        lookup: &Lookup,
        from: usize,
        bytes: Option<u64>,
        now: Instant,
        ready: &mut Option<InFlight<T>>,
    ) -> Option<Found<T>> {
        let settings = &*self.settings;
        // Declared before the guard: dropped when the lock has been released.
        let mut removed: Vec<Removed<T>> = Vec::new();
        let mut guard = lock(&self.state);
        let State { entries, flights, stats } = &mut *guard;
        for (index, key) in lookup.candidates(from) {
            let Some(entry) = entries.get(key) else { continue };
            if !settings.is_expired(entry.fetched, now) && entry.take(bytes, settings) {
                stats.hits += 1;
                let is_due = entry.is_due(now) && !flights.contains_key(&key as &dyn AsKey);
                return Some(Found::Entry { index, entry: entry.clone(), is_due });
            }
            removed.extend(entries.pop(key));
            stats.expirations += 1;
        }
        if let Some(flight) = flights.get_mut(&lookup.flight() as &dyn AsKey)
            // A flight that has landed is no longer joined when its entry would have expired.
            && !(flight.has_landed && settings.is_expired(flight.started, now))
        {
            stats.waits += 1;
            return Some(Found::Flight(self.ticket(flight)));
        }
        let mut flight = ready.take()?;
        stats.misses += 1;
        stats.calls += 1;
        let ticket = self.ticket(&mut flight);
        let replaced = flights.insert(flight.key.clone(), flight);
        drop(guard);
        drop(replaced);
        Some(Found::Flight(ticket))
    }

    fn ticket(self: &Arc<Self>, flight: &mut InFlight<T>) -> Ticket<T> {
        flight.tickets += 1;
        let InFlight { key, number, result, .. } = flight;
        Ticket { store: self.clone(), key: key.clone(), number: *number, result: result.clone() }
    }

    /// Starts a renewal in the background, unless another caller has done so since the lookup.
    pub(super) fn renew(self: &Arc<Self>, key: KeyRef<'_>, fetch: Fetch<T>) {
        let Some((_, spawn)) = &self.settings.refresh else { return };
        let now = self.settings.clock.now();
        let mut flight = self.flight(key.to_key(), fetch, now, Keeps::AtLanding);
        let mut state = lock(&self.state);
        let is_due = state.entries.peek(&flight.key).is_some_and(|entry| entry.is_due(now));
        if !is_due || state.flights.contains_key(&flight.key) {
            drop(state);
            return;
        }
        state.stats.calls += 1;
        let ticket = self.ticket(&mut flight);
        state.flights.insert(flight.key.clone(), flight);
        drop(state);
        spawn(Box::pin(async move { drop(ticket.landed().await) }));
    }

    /// Returns a flight that has not started.
    fn flight(self: &Arc<Self>, key: Arc<Key>, fetch: Fetch<T>, started: Instant, keeps: Keeps) -> InFlight<T> {
        let number = self.flights.fetch_add(1, Ordering::Relaxed);
        let (this, landing_key) = (self.clone(), key.clone());
        let flight: Flight<T> = Box::pin(async move {
            debug!("a request for a data key begins");
            let fetched = AssertUnwindSafe(fetch).catch_unwind().await;
            let fetched = fetched.unwrap_or_else(|_| Err(DataKeyError::Panicked.into()));
            let fetched = fetched.map(|value| this.entry(value, started, number));
            this.land(&landing_key, number, keeps, &fetched);
            fetched
        });
        InFlight { key, number, started, has_landed: false, tickets: 0, result: flight.shared() }
    }

    fn entry(&self, value: T, fetched: Instant, number: u64) -> Arc<Entry<T>> {
        let Settings { max_age, refresh, .. } = &*self.settings;
        let refresh_from = refresh.as_ref().and_then(|(ahead, _)| fetched.checked_add(*max_age - *ahead));
        let usage = Mutex::new(Usage { messages: 0, bytes: 0, refresh_from });
        Arc::new(Entry { value: Arc::new(value), fetched, number, usage })
    }

    /// Handles the result of a request. A flight whose entry must be verified stays in the map.
    fn land(&self, key: &Arc<Key>, number: u64, keeps: Keeps, fetched: &Result<Arc<Entry<T>>, MaterialsError>) {
        let now = self.settings.clock.now();
        match fetched {
            Ok(entry) if keeps == Keeps::AtLanding => self.keep(key, number, key.clone(), entry, now),
            Ok(_) => {
                if let Some(flight) = lock(&self.state).flight(key, number) {
                    flight.has_landed = true;
                }
            }
            Err(error) => {
                warn!(?error, "a request for a data key failed");
                let mut state = lock(&self.state);
                state.stats.failures += 1;
                if let Some((entry, (ahead, _))) = state.entries.peek(key).zip(self.settings.refresh.as_ref()) {
                    lock(&entry.usage).refresh_from = now.checked_add(*ahead / 10);
                }
                let landed = state.remove_flight(key, number);
                drop(state);
                drop(landed);
            }
        }
    }

    /// Adds the entry of a flight to the cache, unless the flight has left the map: the entry was added before, or the
    /// cache was cleared.
    fn keep(&self, flight: &Arc<Key>, number: u64, key: Arc<Key>, entry: &Arc<Entry<T>>, now: Instant) {
        let settings = &*self.settings;
        let (max_len, max_bytes) = (settings.capacity, settings.capacity_bytes());
        let mut state = lock(&self.state);
        let Some(landed) = state.remove_flight(flight, number) else { return };
        let mut removed = state.expire(settings, now);
        let State { entries, stats, .. } = &mut *state;
        // A request may have taken longer than its key may serve.
        if Entries::cost(&key, entry) <= max_bytes && !settings.is_expired(entry.fetched, now) {
            removed.extend(entries.put(key, entry.clone()));
            while entries.len() > max_len || entries.bytes() > max_bytes {
                removed.extend(entries.pop_lru());
                stats.evictions += 1;
            }
        }
        drop(state);
        drop((removed, landed));
    }

    /// Makes a request whose result is not shared.
    pub(super) async fn bypass(&self, fetch: Fetch<T>) -> Result<Arc<T>, MaterialsError> {
        let count = |count: fn(&mut CacheStats)| count(&mut lock(&self.state).stats);
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
        let state = lock(&self.state);
        let (entries, bytes) = (state.entries.len() as u64, state.entries.bytes() as u64);
        CacheStats { entries, bytes, ..state.stats }
    }

    pub(super) fn clear(&self) {
        let mut state = lock(&self.state);
        let entries = std::mem::replace(&mut state.entries, Entries::new());
        let flights = std::mem::take(&mut state.flights);
        drop(state);
        drop((entries, flights));
    }

    pub(super) fn remove_expired(&self) {
        let now = self.settings.clock.now();
        // The entries that it returns are dropped after the lock has been released.
        while !lock(&self.state).expire(&self.settings, now).is_empty() {}
    }
}

impl<T: Material> State<T> {
    /// Removes expired entries, the oldest first.
    fn expire(&mut self, settings: &Settings, now: Instant) -> Vec<Removed<T>> {
        let expired = std::iter::from_fn(|| self.entries.pop_expired(settings, now));
        let expired: Vec<_> = expired.take(EXPIRED_AT_ONCE).collect();
        self.stats.expirations += expired.len() as u64;
        expired
    }

    fn flight(&mut self, key: &Arc<Key>, number: u64) -> Option<&mut InFlight<T>> {
        self.flights.get_mut(key).filter(|flight| flight.number == number)
    }

    fn remove_flight(&mut self, key: &Arc<Key>, number: u64) -> Option<InFlight<T>> {
        self.flight(key, number)?;
        self.flights.remove(key)
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroUsize, time::Duration};

    use pollster::block_on;

    use super::*;
    use crate::{DataKeyCache, message::EncryptedDataKey};

    impl Material for NonZeroUsize {
        fn held_bytes(&self) -> usize {
            self.get()
        }
    }

    fn store() -> Arc<Store<NonZeroUsize>> {
        let cache = DataKeyCache::builder(Duration::from_secs(300)).build().unwrap();
        Store::new(cache.0.settings.clone())
    }

    fn lookup(store: &Store<NonZeroUsize>, encrypted_data_keys: &[EncryptedDataKey]) -> Lookup {
        Lookup::new(store.hasher(), vec![7; 10], encrypted_data_keys.chunks(1))
    }

    fn flights(store: &Store<NonZeroUsize>) -> usize {
        lock(&store.state).flights.len()
    }

    #[test]
    fn a_flight_leaves_nothing_behind_however_it_ends() {
        let store = store();
        let list = [1, 2].map(|byte| EncryptedDataKey::new("id", "info", vec![byte]));
        let lookup = lookup(&store, &list);
        let begin = |fetch: fn() -> Fetch<NonZeroUsize>| match store.find(&lookup, 0, None, Keeps::WhenVerified, fetch)
        {
            Found::Flight(ticket) => ticket,
            Found::Entry { .. } => panic!("there is no entry"),
        };
        let brings: fn() -> Fetch<NonZeroUsize> = || Box::pin(async { Ok(NonZeroUsize::MIN) });
        let fails: fn() -> Fetch<NonZeroUsize> = || Box::pin(async { Err(DataKeyError::NotEncrypted.into()) });

        // It is given up.
        let tickets = [begin(brings), begin(brings)];
        assert_eq!(flights(&store), 1);
        let [one, other] = tickets;
        drop(one);
        assert_eq!(flights(&store), 1);
        drop(other);
        assert_eq!(flights(&store), 0);

        // It fails.
        let ticket = begin(fails);
        block_on(ticket.landed()).unwrap_err();
        assert_eq!(flights(&store), 0);

        // It brings what does not verify, for either of those who wait.
        let (one, other) = (begin(brings), begin(fails));
        block_on(one.landed()).unwrap();
        drop(one);
        assert_eq!(flights(&store), 1);
        block_on(other.landed()).unwrap();
        drop(other);
        assert_eq!(flights(&store), 0);

        // The cache is cleared, and another one with the same key begins.
        let cleared = begin(brings);
        store.clear();
        let ticket = begin(brings);
        let entry = block_on(cleared.landed()).unwrap();
        cleared.keep(lookup.candidate(1), &entry);
        drop(cleared);
        assert_eq!((flights(&store), store.stats().entries), (1, 0));

        // It brings what verifies.
        let entry = block_on(ticket.landed()).unwrap();
        ticket.keep(lookup.candidate(1), &entry);
        assert_eq!((flights(&store), store.stats().entries), (0, 1));
        // Its own share, the prefix, three fields after their lengths, the value, and what that holds.
        assert_eq!(store.stats().bytes, 512 + 10 + (8 + 2 + 8 + 4 + 8 + 1) + 8 + 1);
        assert!(matches!(store.find(&lookup, 1, None, Keeps::WhenVerified, fails), Found::Entry { index: 1, .. }));
        assert_eq!((store.stats().calls, store.stats().waits), (5, 2));
    }

    #[test]
    fn a_renewal_starts_once_and_only_for_an_entry_that_is_due() {
        let spawned = Arc::new(Mutex::new(Vec::new()));
        let (tasks, age) = (spawned.clone(), Duration::from_secs(300));
        // Due as soon as the clock has moved.
        let cache = DataKeyCache::builder(age)
            .refresh_ahead(age - Duration::from_nanos(1), move |task| lock(&tasks).push(task))
            .build()
            .unwrap();
        let store = Store::new(cache.0.settings.clone());
        let lookup = lookup(&store, &[]);
        let fetch = || -> Fetch<NonZeroUsize> { Box::pin(async { Ok(NonZeroUsize::MIN) }) };
        store.renew(lookup.flight(), fetch());
        assert_eq!((lock(&spawned).len(), store.stats().calls), (0, 0));
        block_on(store.get(&lookup, 0, fetch)).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        for _ in 0..2 {
            store.renew(lookup.flight(), fetch());
            assert_eq!((lock(&spawned).len(), store.stats().calls), (1, 2));
        }
    }

    #[test]
    fn keys_with_the_same_hash_are_not_the_same() {
        let mut entries = Entries::new();
        let store = store();
        let keys = ["one", "other"].map(|id| [EncryptedDataKey::new(id, "", &[][..])]);
        let lookups = keys.map(|list| lookup(&store, &list));
        // Keys of a hasher that makes one hash of all.
        let keys = lookups.each_ref().map(|lookup| lookup.flight().with_hash(0));
        let entry = store.entry(NonZeroUsize::MIN, Instant::now(), 0);
        entries.put(keys[0].to_key(), entry);
        assert!(entries.get(keys[0]).is_some() && entries.get(keys[1]).is_none());
        assert!(entries.peek(&keys[0].to_key()).is_some() && entries.peek(&keys[1].to_key()).is_none());
    }
}
