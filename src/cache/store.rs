//! Entries and flights, whatever they are of.

use std::{
    collections::{HashMap, hash_map::RandomState},
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::Shared};

use super::{
    CacheStats, Clock,
    entries::{Entries, Entry, Material, Removed, Usage},
    key::{AsKey, Key, KeyRef, Lookup},
};
use crate::{
    events::{debug, trace, warn},
    materials::MaterialsError,
};

/// A task that renews a data key: see [`DataKeyCacheBuilder::refresh_ahead`](super::DataKeyCacheBuilder::refresh_ahead).
pub type Refresh = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) type Spawn = Box<dyn Fn(Refresh) + Send + Sync>;

/// A request to the key provider.
pub(crate) type Fetch<T> = Pin<Box<dyn Future<Output = Result<T, MaterialsError>> + Send>>;

/// The most expired entries that leave under one hold of the lock. As each new entry removes so many, they leave
/// faster than they come.
const EXPIRED_AT_ONCE: usize = 64;

/// What a cache was built with.
pub(super) struct Settings {
    pub(super) max_age: Duration,
    pub(super) max_messages: u64,
    pub(super) max_bytes: u64,
    pub(super) capacity: usize,
    pub(super) capacity_bytes: Option<usize>,
    pub(super) clock: Box<dyn Clock>,
    /// How long before the end of a key's age it is renewed, and what runs the renewal.
    pub(super) refresh: Option<(Duration, Spawn)>,
}

impl Settings {
    pub(super) fn is_expired(&self, fetched: Instant, now: Instant) -> bool {
        now.saturating_duration_since(fetched) >= self.max_age
    }

    /// Returns the most bytes of the entries for sealing, and of those for opening.
    pub(super) fn capacity_bytes(&self) -> usize {
        self.capacity_bytes.unwrap_or_else(|| self.capacity.saturating_mul(16 << 10).max(1 << 20))
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("max_age", &self.max_age)
            .field("max_messages", &self.max_messages)
            .field("max_bytes", &self.max_bytes)
            .field("capacity", &self.capacity)
            .field("capacity_bytes", &self.capacity_bytes())
            .field("clock", &self.clock)
            .field("refresh_ahead", &self.refresh.as_ref().map(|(ahead, _)| ahead))
            .finish()
    }
}

/// A bounded map behind one lock. Under it, nothing is hashed that is long, no code of a key provider, a clock or a
/// subscriber runs, and no value is dropped.
pub(super) struct Store<T> {
    settings: Arc<Settings>,
    hasher: RandomState,
    /// The number of the next flight.
    flights: AtomicU64,
    state: Mutex<State<T>>,
}

struct State<T> {
    entries: Entries<T>,
    /// The requests that are on their way, and those that have landed and not been kept yet.
    flights: HashMap<Arc<Key>, InFlight<T>>,
    stats: CacheStats,
}

type Flight<T> = Pin<Box<dyn Future<Output = Result<Arc<Entry<T>>, MaterialsError>> + Send>>;

struct InFlight<T> {
    key: Arc<Key>,
    /// Tells it from a later flight of the same key.
    number: u64,
    started: Instant,
    has_landed: bool,
    /// How many tickets there are. With the last of them, the flight leaves the map.
    tickets: usize,
    result: Shared<Flight<T>>,
}

/// Whether a flight keeps its entry as soon as it lands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeps {
    AtLanding,
    /// By [`Store::keep`].
    WhenVerified,
}

/// What a lookup has found.
pub(super) enum Found<T: Material> {
    Entry {
        /// Which of the candidates.
        index: usize,
        entry: Arc<Entry<T>>,
        /// Whether it is to be renewed now.
        is_due: bool,
    },
    Flight(Ticket<T>),
}

/// A caller's part in a flight, which is given up when all have dropped theirs.
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

    /// Keeps the entry that has landed under this key, if no other caller has.
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

    /// Returns the value of the only candidate: from an entry, from a request that is on its way, or from one that
    /// begins now. It is used for a message of so many bytes.
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
                    // More may have waited for this key than it may serve.
                    if entry.take(Some(bytes), &self.settings) {
                        return Ok(entry.value.clone());
                    }
                }
            }
        }
    }

    /// Finds the entry of one of the candidates from an index on, or else the flight to wait for, which may begin now.
    /// An entry is used for a message of so many bytes, which counts; None does not count.
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

    /// Finds an entry or a flight. Begins the one that is ready where there is neither, or else finds nothing.
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
            // What has landed waits to be kept, but no longer than an entry serves.
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

    /// Renews an entry in the background, unless that is under way.
    pub(super) fn renew(self: &Arc<Self>, key: KeyRef<'_>, fetch: Fetch<T>) {
        let Some((_, spawn)) = &self.settings.refresh else { return };
        let mut flight = self.flight(key.to_key(), fetch, self.settings.clock.now(), Keeps::AtLanding);
        let mut state = lock(&self.state);
        if state.flights.contains_key(&flight.key) {
            drop(state);
            return;
        }
        state.stats.calls += 1;
        let ticket = self.ticket(&mut flight);
        state.flights.insert(flight.key.clone(), flight);
        drop(state);
        spawn(Box::pin(async move { drop(ticket.landed().await) }));
    }

    /// A flight that is ready to begin.
    fn flight(self: &Arc<Self>, key: Arc<Key>, fetch: Fetch<T>, started: Instant, keeps: Keeps) -> InFlight<T> {
        let number = self.flights.fetch_add(1, Ordering::Relaxed);
        let (this, landing_key) = (self.clone(), key.clone());
        let flight: Flight<T> = Box::pin(async move {
            debug!("a request for a data key begins");
            let fetched = AssertUnwindSafe(fetch).catch_unwind().await;
            let fetched =
                fetched.unwrap_or_else(|_| Err(MaterialsError::DataKey { what: "no data key: it panicked".into() }));
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

    /// Takes note of what a request has brought. What is to be verified first goes on being found as a flight.
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

    /// Keeps an entry under this key that a flight has brought, unless that has been done, or the cache was cleared.
    fn keep(&self, flight: &Arc<Key>, number: u64, key: Arc<Key>, entry: &Arc<Entry<T>>, now: Instant) {
        let settings = &*self.settings;
        let (max_len, max_bytes) = (settings.capacity, settings.capacity_bytes());
        let mut state = lock(&self.state);
        let Some(landed) = state.remove_flight(flight, number) else { return };
        let mut removed = state.expire(settings, now);
        let State { entries, stats, .. } = &mut *state;
        if Entries::cost(&key, entry) <= max_bytes {
            removed.extend(entries.put(key, entry.clone()));
            while entries.len() > max_len || entries.bytes() > max_bytes {
                removed.extend(entries.pop_lru());
                stats.evictions += 1;
            }
        }
        drop(state);
        drop((removed, landed));
    }

    /// A request whose result is of no use to anybody else.
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
        // What it returns is dropped after the lock.
        while !lock(&self.state).expire(&self.settings, now).is_empty() {}
    }
}

impl<T: Material> State<T> {
    /// Removes entries that are too old, the oldest first.
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

/// What is behind these locks is whole at any time, so a panic elsewhere does not matter.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
