//! Counters of a store.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The number of requests and bytes of a store since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStats {
    /// Requests for data to the inner store, including those for headers.
    pub read_requests: u64,
    /// Requests for only the header of an object.
    pub header_requests: u64,
    /// Sealed bytes that the inner store has returned.
    pub bytes_read: u64,
    /// Requests that write data to the inner store: objects, and parts of them.
    pub write_requests: u64,
    /// Sealed bytes that have been passed to the inner store.
    pub bytes_written: u64,
    /// Reads of objects whose data key was in the cache.
    pub cache_hits: u64,
    /// Objects opened and sealed by the envelope. Each makes a call to the key provider, unless the envelope has a cache
    /// with the data key.
    pub data_keys: u64,
    /// Reads that were repeated because the object was replaced at the same time.
    pub repeated_reads: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) read_requests: AtomicU64,
    pub(crate) header_requests: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) write_requests: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    pub(crate) cache_hits: AtomicU64,
    pub(crate) data_keys: AtomicU64,
    pub(crate) repeated_reads: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
    }

    pub(crate) fn stats(&self) -> StoreStats {
        StoreStats {
            read_requests: self.read_requests.load(Relaxed),
            header_requests: self.header_requests.load(Relaxed),
            bytes_read: self.bytes_read.load(Relaxed),
            write_requests: self.write_requests.load(Relaxed),
            bytes_written: self.bytes_written.load(Relaxed),
            cache_hits: self.cache_hits.load(Relaxed),
            data_keys: self.data_keys.load(Relaxed),
            repeated_reads: self.repeated_reads.load(Relaxed),
        }
    }
}
