//! The entries and the pending requests, behind one lock.

use std::{
    collections::{HashMap, hash_map::RandomState},
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::Shared};

use super::{
    CacheStats,
    entries::{Entries, Entry, Material, Removed, Usage},
    key::{AsKey, BuildHashed, Key, KeyRef, Lookup, Subject},
    settings::{Settings, lock},
};
use crate::events::{debug, trace, warn};

/// A request for a value.
pub(crate) type Fetch<T> = Pin<Box<dyn Future<Output = Result<T, <T as Material>::Error>> + Send>>;

/// The maximum number of expired entries that are removed each time the lock is taken. Every new entry removes up to
/// this many, so expired entries do not accumulate.
const EXPIRED_AT_ONCE: usize = 64;

/// The time after which new callers do not wait for a request, but start another one. Requests normally have a shorter
/// time limit, but it is kept by the key provider or the branch key store, which may have a fault and never return.
const MAX_REQUEST_AGE: Duration = Duration::from_secs(60);

/// A bounded map behind one lock. To keep the lock short, code that holds it hashes no long keys, drops no values, and
/// makes no request, and calls no clock or tracing subscriber.
pub(crate) struct Store<T: Material> {
    settings: Arc<Settings>,
    hasher: RandomState,
    /// The number of the next request.
    numbers: AtomicU64,
    state: Mutex<State<T>>,
}

struct State<T: Material> {
    entries: Entries<T>,
    /// Requests in progress, and completed requests whose value is still being verified.
    pending: HashMap<Arc<Key>, Pending<T>, BuildHashed>,
    stats: CacheStats,
}

type EntryFuture<T> = Pin<Box<dyn Future<Output = Result<Arc<Entry<T>>, <T as Material>::Error>> + Send>>;

struct Pending<T: Material> {
    key: Arc<Key>,
    /// Distinguishes it from a later request with the same key.
    number: u64,
    started: Instant,
    is_completed: bool,
    /// The number of waiters. The last one to be dropped removes the request from the map.
    waiters: usize,
    result: Shared<EntryFuture<T>>,
}

impl<T: Material> Pending<T> {
    /// Returns whether new callers can wait for its result.
    fn can_be_joined(&self, settings: &Settings, now: Instant) -> bool {
        let max_age = if self.is_completed { settings.max_age } else { MAX_REQUEST_AGE };
        now.saturating_duration_since(self.started) < max_age
    }
}

/// When the result of a request is added to the cache.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    OnSuccess,
    /// When a waiter has verified it and calls [`Waiter::keep`].
    OnceVerified,
}

/// The result of a lookup.
pub(crate) enum Found<T: Material> {
    Entry {
        /// The index of its key in the lookup.
        index: usize,
        value: Arc<T>,
        /// The number of messages that it is for.
        taken: usize,
        /// Whether the caller should start a renewal.
        is_due: bool,
    },
    Pending(Waiter<T>),
}

/// A caller that waits for a pending request. The request is canceled when all its waiters are dropped.
pub(crate) struct Waiter<T: Material> {
    store: Arc<Store<T>>,
    key: Arc<Key>,
    number: u64,
    result: Shared<EntryFuture<T>>,
}

impl<T: Material> Waiter<T> {
    pub(crate) async fn wait(&self) -> Result<Arc<Entry<T>>, T::Error> {
        self.result.clone().await
    }

    /// Adds the entry to the cache under this key, unless another waiter has done so.
    pub(crate) fn keep(&self, key: KeyRef<'_>, entry: &Arc<Entry<T>>) {
        let now = self.store.settings.clock.now();
        self.store.keep(&self.key, self.number, key.to_key(), entry, now);
    }

    /// Like [`keep`](Self::keep), under the key of the request.
    #[cfg(feature = "branch-key")]
    pub(crate) fn keep_requested(&self, entry: &Arc<Entry<T>>) {
        let now = self.store.settings.clock.now();
        self.store.keep(&self.key, self.number, self.key.clone(), entry, now);
    }
}

impl<T: Material> Drop for Waiter<T> {
    fn drop(&mut self) {
        let mut state = lock(&self.store.state);
        let Some(request) = state.request(&self.key, self.number) else { return };
        request.waiters -= 1;
        let abandoned = if request.waiters == 0 { state.pending.remove(&self.key) } else { None };
        drop(state);
        drop(abandoned);
    }
}

impl<T: Material> Store<T> {
    pub(crate) fn new(settings: impl Into<Arc<Settings>>) -> Arc<Self> {
        let state = State { entries: Entries::new(), pending: HashMap::default(), stats: CacheStats::default() };
        Arc::new(Self {
            settings: settings.into(),
            hasher: RandomState::new(),
            numbers: AtomicU64::new(0),
            state: Mutex::new(state),
        })
    }

    pub(crate) fn hasher(&self) -> &RandomState {
        &self.hasher
    }

    /// Returns the value for messages of these lengths, from the cache or from a request, and for how many of them it
    /// is. That is at least one. The lookup must have only one entry key.
    pub(crate) async fn get(
        self: &Arc<Self>,
        lookup: &Lookup<'_, impl Subject>,
        lens: &[u64],
        fetch: impl Fn() -> Fetch<T>,
    ) -> Result<(Arc<T>, usize), T::Error> {
        loop {
            match self.find(lookup, 0, lens, Keep::OnSuccess, &fetch) {
                Found::Entry { index, value, taken, is_due } => {
                    if is_due {
                        self.renew(lookup.entry_key(index), fetch());
                    }
                    return Ok((value, taken));
                }
                Found::Pending(waiter) => {
                    let entry = waiter.wait().await?;
                    // There may be more waiters than the limits of this entry allow.
                    let taken = entry.take(lens, &self.settings);
                    if taken > 0 {
                        // The first message has been counted as a miss or a wait.
                        self.count_hits(taken as u64 - 1);
                        return Ok((entry.value.clone(), taken));
                    }
                }
            }
        }
    }

    pub(crate) fn count_hits(&self, hits: u64) {
        lock(&self.state).stats.hits += hits;
    }

    /// Returns the first entry that exists. If it needs a renewal, returns it only if `even_if_due`.
    pub(crate) fn cached(&self, lookup: &Lookup<'_, impl Subject>, even_if_due: bool) -> Option<(usize, Arc<T>)> {
        let now = self.settings.clock.now();
        let mut state = lock(&self.state);
        let State { entries, stats, .. } = &mut *state;
        for (index, key) in lookup.entry_keys(0) {
            let Some(entry) = entries.get(key) else { continue };
            let is_due = || !even_if_due && self.settings.refresh.is_some() && entry.is_due(now);
            if self.settings.is_expired(entry.fetched, now) || is_due() {
                return None;
            }
            stats.hits += 1;
            let found = (index, entry.value.clone());
            drop(state);
            let kind = T::KIND;
            trace!(kind, "using a cached key");
            return Some(found);
        }
        None
    }

    /// Returns the first entry that exists for the lookup's keys, starting at index `from`. If none exists, joins the
    /// pending request, or starts one. `lens` are the lengths of the messages, if they count against the entry's
    /// limits.
    pub(crate) fn find(
        self: &Arc<Self>,
        lookup: &Lookup<'_, impl Subject>,
        from: usize,
        lens: &[u64],
        keep: Keep,
        fetch: impl Fn() -> Fetch<T>,
    ) -> Found<T> {
        let now = self.settings.clock.now();
        let mut new = None;
        loop {
            if let Some(found) = self.look_up(lookup, from, lens, now, &mut new) {
                if let Found::Entry { .. } = found {
                    let kind = T::KIND;
                    trace!(kind, "using a cached key");
                }
                return found;
            }
            new = Some(self.new_request(lookup.request_key().to_key(), fetch(), now, keep));
        }
    }

    /// Returns an entry or joins a pending request. If neither exists, starts the request in `new`, if any.
    fn look_up(
        self: &Arc<Self>,
        lookup: &Lookup<'_, impl Subject>,
        from: usize,
        lens: &[u64],
        now: Instant,
        new: &mut Option<Pending<T>>,
    ) -> Option<Found<T>> {
        let settings = &*self.settings;
        // Declared before the guard, so that it is dropped after the lock is released.
        let mut removed: Vec<Removed<T>> = Vec::new();
        let mut guard = lock(&self.state);
        let State { entries, pending, stats } = &mut *guard;
        for (index, key) in lookup.entry_keys(from) {
            let Some(entry) = entries.get(key) else { continue };
            let taken = match lens {
                _ if settings.is_expired(entry.fetched, now) => 0,
                [] => 1,
                lens => entry.take(lens, settings),
            };
            if taken > 0 {
                stats.hits += taken as u64;
                let is_pending = || pending.get(&key as &dyn AsKey).is_some_and(|it| it.can_be_joined(settings, now));
                let is_due = settings.refresh.is_some() && entry.is_due(now) && !is_pending();
                return Some(Found::Entry { index, value: entry.value.clone(), taken, is_due });
            }
            removed.extend(entries.pop(key));
            stats.expirations += 1;
        }
        if let Some(request) = pending.get_mut(&lookup.request_key() as &dyn AsKey)
            && request.can_be_joined(settings, now)
        {
            stats.waits += 1;
            return Some(Found::Pending(self.join(request)));
        }
        let mut request = new.take()?;
        stats.misses += 1;
        stats.calls += 1;
        let waiter = self.join(&mut request);
        let replaced = pending.insert(request.key.clone(), request);
        drop(guard);
        drop(replaced);
        Some(Found::Pending(waiter))
    }

    fn join(self: &Arc<Self>, request: &mut Pending<T>) -> Waiter<T> {
        request.waiters += 1;
        let Pending { key, number, result, .. } = request;
        Waiter { store: self.clone(), key: key.clone(), number: *number, result: result.clone() }
    }

    /// Starts a renewal in the background, unless another caller has done so since the lookup.
    pub(crate) fn renew(self: &Arc<Self>, key: KeyRef<'_>, fetch: Fetch<T>) {
        let Some((_, spawn)) = &self.settings.refresh else { return };
        let now = self.settings.clock.now();
        let mut request = self.new_request(key.to_key(), fetch, now, Keep::OnSuccess);
        let mut state = lock(&self.state);
        let is_due = state.entries.peek(&request.key).is_some_and(|entry| entry.is_due(now));
        let is_pending = |it: &Pending<T>| it.can_be_joined(&self.settings, now);
        if !is_due || state.pending.get(&request.key).is_some_and(is_pending) {
            drop(state);
            return;
        }
        state.stats.calls += 1;
        let waiter = self.join(&mut request);
        let replaced = state.pending.insert(request.key.clone(), request);
        drop(state);
        drop(replaced);
        spawn(Box::pin(async move { drop(waiter.wait().await) }));
    }

    /// Returns a new request. It starts when it is first polled.
    fn new_request(self: &Arc<Self>, key: Arc<Key>, fetch: Fetch<T>, started: Instant, keep: Keep) -> Pending<T> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (this, request_key) = (self.clone(), key.clone());
        let result: EntryFuture<T> = Box::pin(async move {
            let kind = T::KIND;
            debug!(kind, "requesting a key");
            let fetched = AssertUnwindSafe(fetch).catch_unwind().await;
            let fetched = fetched.unwrap_or_else(|_| Err(T::panicked()));
            let fetched = fetched.map(|value| this.entry(value, started, number));
            this.complete(&request_key, number, keep, &fetched);
            fetched
        });
        Pending { key, number, started, is_completed: false, waiters: 0, result: result.shared() }
    }

    fn entry(&self, value: T, fetched: Instant, number: u64) -> Arc<Entry<T>> {
        let Settings { max_age, refresh, .. } = &*self.settings;
        let refresh_from = refresh.as_ref().and_then(|(ahead, _)| fetched.checked_add(*max_age - *ahead));
        let usage = Mutex::new(Usage { messages: 0, bytes: 0, refresh_from });
        Arc::new(Entry { value: Arc::new(value), fetched, number, usage })
    }

    /// Handles the result of a request. If it must still be verified, the request remains in the map.
    fn complete(&self, key: &Arc<Key>, number: u64, keep: Keep, fetched: &Result<Arc<Entry<T>>, T::Error>) {
        let now = self.settings.clock.now();
        match fetched {
            Ok(entry) if keep == Keep::OnSuccess => self.keep(key, number, key.clone(), entry, now),
            Ok(_) => {
                if let Some(request) = lock(&self.state).request(key, number) {
                    request.is_completed = true;
                }
            }
            Err(error) => {
                let kind = T::KIND;
                warn!(kind, ?error, "the request for a key failed");
                let mut state = lock(&self.state);
                state.stats.failures += 1;
                if let Some((entry, (ahead, _))) = state.entries.peek(key).zip(self.settings.refresh.as_ref()) {
                    lock(&entry.usage).refresh_from = now.checked_add(*ahead / 10);
                }
                let failed = state.remove_request(key, number);
                drop(state);
                drop(failed);
            }
        }
    }

    /// Adds the entry of a request to the cache, unless the request is no longer in the map: then the entry was added
    /// before, or the cache was cleared.
    fn keep(&self, request_key: &Arc<Key>, number: u64, key: Arc<Key>, entry: &Arc<Entry<T>>, now: Instant) {
        let settings = &*self.settings;
        let (max_len, max_bytes) = (settings.capacity, settings.capacity_bytes());
        let mut state = lock(&self.state);
        let Some(completed) = state.remove_request(request_key, number) else { return };
        let mut removed = state.expire(settings, now);
        let State { entries, stats, .. } = &mut *state;
        // The request may have taken longer than the maximum age.
        if Entries::cost(&key, entry) <= max_bytes && !settings.is_expired(entry.fetched, now) {
            removed.extend(entries.put(key, entry.clone()));
            while entries.len() > max_len || entries.bytes() > max_bytes {
                removed.extend(entries.pop_lru());
                stats.evictions += 1;
            }
        }
        drop(state);
        drop((removed, completed));
    }

    /// Awaits a request whose result is neither shared nor cached.
    pub(crate) async fn bypass(&self, fetch: Fetch<T>) -> Result<Arc<T>, T::Error> {
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

    pub(crate) fn stats(&self) -> CacheStats {
        let state = lock(&self.state);
        let (entries, bytes) = (state.entries.len() as u64, state.entries.bytes() as u64);
        CacheStats { entries, bytes, ..state.stats }
    }

    pub(crate) fn clear(&self) {
        let mut state = lock(&self.state);
        let entries = std::mem::replace(&mut state.entries, Entries::new());
        let pending = std::mem::take(&mut state.pending);
        drop(state);
        drop((entries, pending));
    }

    pub(crate) fn remove_expired(&self) {
        let now = self.settings.clock.now();
        // The returned entries are dropped after the lock is released.
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

    fn request(&mut self, key: &Arc<Key>, number: u64) -> Option<&mut Pending<T>> {
        self.pending.get_mut(key).filter(|request| request.number == number)
    }

    fn remove_request(&mut self, key: &Arc<Key>, number: u64) -> Option<Pending<T>> {
        self.request(key, number)?;
        self.pending.remove(key)
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroUsize, time::Duration};

    use pollster::block_on;

    use super::*;
    use crate::message::{EncryptedDataKey, EncryptedDataKeys};

    impl Material for NonZeroUsize {
        const KIND: &'static str = "number";
        type Error = String;

        fn panicked() -> String {
            "panicked".into()
        }

        fn held_bytes(&self) -> usize {
            self.get()
        }
    }

    fn store() -> Arc<Store<NonZeroUsize>> {
        Store::new(Settings::new(Duration::from_secs(300)))
    }

    fn lookup<'a>(store: &Store<NonZeroUsize>, encrypted_data_keys: &'a [u8]) -> Lookup<'a, &'static str> {
        Lookup::new(store.hasher(), "subject", EncryptedDataKeys::new(encrypted_data_keys), true)
    }

    fn pending(store: &Store<NonZeroUsize>) -> usize {
        lock(&store.state).pending.len()
    }

    #[test]
    fn a_request_leaves_nothing_behind_however_it_ends() {
        let store = store();
        let list = [1, 2].map(|byte| EncryptedDataKey::new("id", "info", vec![byte]));
        let list = EncryptedDataKeys::serialize(&list);
        let lookup = lookup(&store, &list);
        let begin = |fetch: fn() -> Fetch<NonZeroUsize>| match store.find(&lookup, 0, &[], Keep::OnceVerified, fetch) {
            Found::Pending(waiter) => waiter,
            Found::Entry { .. } => panic!("there is no entry"),
        };
        let brings: fn() -> Fetch<NonZeroUsize> = || Box::pin(async { Ok(NonZeroUsize::MIN) });
        let fails: fn() -> Fetch<NonZeroUsize> = || Box::pin(async { Err("failed".into()) });

        // All waiters are canceled.
        let waiters = [begin(brings), begin(brings)];
        assert_eq!(pending(&store), 1);
        let [one, other] = waiters;
        drop(one);
        assert_eq!(pending(&store), 1);
        drop(other);
        assert_eq!(pending(&store), 0);

        // It fails.
        let waiter = begin(fails);
        block_on(waiter.wait()).unwrap_err();
        assert_eq!(pending(&store), 0);

        // It succeeds, but its data key verifies no waiter's header.
        let (one, other) = (begin(brings), begin(fails));
        block_on(one.wait()).unwrap();
        drop(one);
        assert_eq!(pending(&store), 1);
        block_on(other.wait()).unwrap();
        drop(other);
        assert_eq!(pending(&store), 0);

        // The cache is cleared, and another request with the same key starts.
        let cleared = begin(brings);
        store.clear();
        let waiter = begin(brings);
        let entry = block_on(cleared.wait()).unwrap();
        cleared.keep(lookup.entry_key(1), &entry);
        drop(cleared);
        assert_eq!((pending(&store), store.stats().entries), (1, 0));

        // It succeeds, and its data key verifies a header.
        let entry = block_on(waiter.wait()).unwrap();
        waiter.keep(lookup.entry_key(1), &entry);
        assert_eq!((pending(&store), store.stats().entries), (0, 1));
        // The overhead, the subject, three fields with their lengths, the value, and the memory that the value owns.
        let subject = 7;
        assert_eq!(store.stats().bytes, 512 + subject + (2 + 2 + 2 + 4 + 2 + 1) + 8 + 1);
        assert!(matches!(store.find(&lookup, 1, &[], Keep::OnceVerified, fails), Found::Entry { index: 1, .. }));
        assert_eq!((store.stats().calls, store.stats().waits), (5, 2));
    }

    #[test]
    fn a_renewal_starts_once_and_only_for_an_entry_that_is_due() {
        let spawned = Arc::new(Mutex::new(Vec::new()));
        let (tasks, age) = (spawned.clone(), Duration::from_secs(300));
        // Due as soon as the clock has moved.
        let spawn = move |task| lock(&tasks).push(task);
        let mut settings = Settings::new(age);
        settings.refresh = Some((age - Duration::from_nanos(1), Box::new(spawn)));
        let store = Store::new(settings);
        let lookup = lookup(&store, &[]);
        let fetch = || -> Fetch<NonZeroUsize> { Box::pin(async { Ok(NonZeroUsize::MIN) }) };
        store.renew(lookup.request_key(), fetch());
        assert_eq!((lock(&spawned).len(), store.stats().calls), (0, 0));
        block_on(store.get(&lookup, &[0], fetch)).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        for _ in 0..2 {
            store.renew(lookup.request_key(), fetch());
            assert_eq!((lock(&spawned).len(), store.stats().calls), (1, 2));
        }
    }

    #[test]
    fn keys_with_the_same_hash_are_not_the_same() {
        let mut entries = Entries::new();
        let store = store();
        let keys = ["one", "other"].map(|id| EncryptedDataKeys::serialize(&[EncryptedDataKey::new(id, "", &[][..])]));
        let lookups = keys.each_ref().map(|list| lookup(&store, list));
        // As if the hasher returned the same hash for all keys.
        let keys = lookups.each_ref().map(|lookup| lookup.request_key().with_hash(0));
        let entry = store.entry(NonZeroUsize::MIN, Instant::now(), 0);
        entries.put(keys[0].to_key(), entry);
        assert!(entries.get(keys[0]).is_some() && entries.get(keys[1]).is_none());
        assert!(entries.peek(&keys[0].to_key()).is_some() && entries.peek(&keys[1].to_key()).is_none());
    }
}
