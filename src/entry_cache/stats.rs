//! The counters of a cache.

use std::ops::AddAssign;

/// The statistics of a [`DataKeyCache`](crate::DataKeyCache), or of the branch keys of an `AwsKmsHierarchical`, counted
/// since it was built. This page describes those of data keys. `AwsKmsHierarchical::stats` describes how those of
/// branch keys differ.
///
/// Sealing or opening a message normally counts as one of a hit, a miss, a wait or a bypass. The hit rate is `hits`
/// divided by the sum of these four.
///
/// A message can count more than once on opening. If a cached data key does not verify its header, the lookup continues
/// with the message's other encrypted data keys. It counts one hit for each cached data key that it tries, and a miss
/// or a wait if it needs a call to the key provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Lookups that found a cached data key, including data keys that then failed to verify the message's header.
    pub hits: u64,
    /// Lookups that started a call to the key provider.
    pub misses: u64,
    /// Lookups that waited for a call that another caller had started.
    pub waits: u64,
    /// Messages that cannot use the cache: those of a suite without key derivation and, if
    /// [`max_bytes`](crate::cache::DataKeyCacheBuilder::max_bytes) is set, sealed streams and sealed messages that
    /// exceed it.
    pub bypasses: u64,
    /// Entries removed because the cache was full.
    pub evictions: u64,
    /// Entries removed because of their age, or because their limits did not allow another message.
    pub expirations: u64,
    /// Calls to the key provider, including renewals and those for bypasses.
    pub calls: u64,
    /// Calls that failed, including renewals for opening that returned a different data key.
    pub failures: u64,
    /// The current number of entries.
    pub entries: u64,
    /// The current memory of the entries in bytes, estimated as described for
    /// [`capacity_bytes`](crate::cache::DataKeyCacheBuilder::capacity_bytes).
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
