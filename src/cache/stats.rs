//! The counters of a cache.

use std::ops::AddAssign;

/// Counts what has happened in a [`DataKeyCache`](crate::DataKeyCache) since it was built.
///
/// A lookup normally counts as one of a hit, a miss, a wait or a bypass. On opening, a message can list an encrypted data
/// key that is cached but belongs to another message. Its commitment then fails with the cached data key, and the lookup
/// goes on with the message's other encrypted data keys: it counts one hit for each cached data key that it tries, and a
/// miss or a wait if it comes to a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Cached data keys that were used, including those that then failed to verify a header.
    pub hits: u64,
    /// Lookups that started a request.
    pub misses: u64,
    /// Lookups that joined a request which another caller had started.
    pub waits: u64,
    /// Lookups that cannot use the cache: for a suite without key derivation, or, with
    /// [`max_bytes`](crate::cache::DataKeyCacheBuilder::max_bytes), for a stream or a longer message.
    pub bypasses: u64,
    /// Entries removed because the cache was full.
    pub evictions: u64,
    /// Entries removed because they were too old or had sealed their share.
    pub expirations: u64,
    /// Requests to the key provider, including renewals and bypasses.
    pub calls: u64,
    /// Requests that failed, including renewals for opening that brought another data key.
    pub failures: u64,
    /// The current number of entries.
    pub entries: u64,
    /// The memory that they take, as estimated for [`capacity_bytes`](crate::cache::DataKeyCacheBuilder::capacity_bytes).
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
