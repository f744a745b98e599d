//! The cache entries, ordered by use and by age, and their memory.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::Instant,
};

use lru::LruCache;

use super::{
    key::{AsKey, BuildHashed, Key, KeyRef},
    settings::{Settings, lock},
};

/// The memory of an entry in addition to its key and value: the nodes of the two maps, allocations, counters.
const ENTRY_OVERHEAD: usize = 512;

/// A value that a cache can hold.
pub(crate) trait Material: Send + Sync + 'static {
    /// Names the value in events.
    const KIND: &'static str;

    /// The error of a request for the value. All callers that share the request receive a clone.
    type Error: Clone + fmt::Debug + Send + Sync + 'static;

    /// Returns the error of a request that panicked.
    fn panicked() -> Self::Error;

    /// Returns the estimated memory that the value owns, in addition to its own size.
    fn held_bytes(&self) -> usize;
}

#[derive(Debug)]
pub(crate) struct Entry<T> {
    pub(crate) value: Arc<T>,
    /// The time at which its request started.
    pub(super) fetched: Instant,
    /// The number of its request, unique among entries.
    pub(super) number: u64,
    pub(super) usage: Mutex<Usage>,
}

#[derive(Debug)]
pub(super) struct Usage {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// The time from which a use may start a renewal. `None` if an `Instant` cannot represent it.
    pub(super) refresh_from: Option<Instant>,
}

impl<T> Entry<T> {
    /// Counts messages of these lengths, in this order, up to the first one that the limits do not allow. Returns how
    /// many were counted.
    pub(super) fn take(&self, lens: &[u64], settings: &Settings) -> usize {
        let mut usage = lock(&self.usage);
        let mut fits = |bytes: &u64| {
            let fits = usage.messages < settings.max_messages && *bytes <= settings.max_bytes - usage.bytes;
            if fits {
                usage.messages += 1;
                usage.bytes += bytes;
            }
            fits
        };
        lens.iter().take_while(|bytes| fits(bytes)).count()
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        lock(&self.usage).refresh_from.is_some_and(|from| now >= from)
    }
}

/// An entry that was removed. To be dropped after the lock is released.
pub(super) type Removed<T> = (Arc<Key>, Arc<Entry<T>>);

pub(super) struct Entries<T> {
    by_use: LruCache<Arc<Key>, Arc<Entry<T>>, BuildHashed>,
    /// The same entries, ordered by age. The number makes the key unique.
    by_age: BTreeMap<(Instant, u64), Arc<Key>>,
    bytes: usize,
}

impl<T: Material> Entries<T> {
    pub(super) fn new() -> Self {
        let by_use = LruCache::unbounded_with_hasher(BuildHashed::default());
        Self { by_use, by_age: BTreeMap::new(), bytes: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.by_use.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns an entry and marks it as the most recently used one.
    pub(super) fn get(&mut self, key: KeyRef<'_>) -> Option<&Arc<Entry<T>>> {
        self.by_use.get(&key as &dyn AsKey)
    }

    /// Returns an entry without marking it as used.
    pub(super) fn peek(&self, key: &Key) -> Option<&Arc<Entry<T>>> {
        self.by_use.peek(key as &dyn AsKey)
    }

    /// Adds an entry as the most recently used one. Returns the entry that it replaces.
    pub(super) fn put(&mut self, key: Arc<Key>, entry: Arc<Entry<T>>) -> Option<Removed<T>> {
        let replaced = self.pop(key.as_key());
        self.bytes += Self::cost(&key, &entry);
        self.by_age.insert((entry.fetched, entry.number), key.clone());
        self.by_use.put(key, entry);
        replaced
    }

    pub(super) fn pop(&mut self, key: KeyRef<'_>) -> Option<Removed<T>> {
        let removed = self.by_use.pop_entry(&key as &dyn AsKey);
        self.forget(removed)
    }

    /// Removes the least recently used entry.
    pub(super) fn pop_lru(&mut self) -> Option<Removed<T>> {
        let removed = self.by_use.pop_lru();
        self.forget(removed)
    }

    /// Removes the oldest entry if it has expired.
    pub(super) fn pop_expired(&mut self, settings: &Settings, now: Instant) -> Option<Removed<T>> {
        let ((fetched, _), key) = self.by_age.first_key_value()?;
        let key = settings.is_expired(*fetched, now).then(|| key.clone())?;
        self.pop(key.as_key())
    }

    fn forget(&mut self, removed: Option<Removed<T>>) -> Option<Removed<T>> {
        if let Some((key, entry)) = &removed {
            self.bytes -= Self::cost(key, entry);
            self.by_age.remove(&(entry.fetched, entry.number));
        }
        removed
    }

    /// Returns the estimated memory of an entry.
    pub(super) fn cost(key: &Key, entry: &Entry<T>) -> usize {
        ENTRY_OVERHEAD + key.len() + size_of::<T>() + entry.value.held_bytes()
    }
}
