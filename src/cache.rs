//! The settings and statistics of a [`DataKeyCache`], which reuses data keys across messages.
//!
//! Build one with [`DataKeyCache::builder`], which returns a [`DataKeyCacheBuilder`].

// A cache entry holds the materials to seal messages with, or a data key to open messages with. A miss starts a request
// to the key provider. All callers that need the same entry wait for this one request. It is a shared future that its
// waiters poll, so it needs no runtime, and it continues if one of them is canceled.
//
// Entries for sealing are added when the request succeeds. A data key for opening comes from a message that is not
// authenticated yet, so each waiter first verifies the header of its own message with it. The first waiter that
// succeeds adds the entry.

pub(crate) mod data_key_cache;
mod entries;
mod key;
mod settings;
mod stats;
mod store;

pub use data_key_cache::DataKeyCacheBuilder;
pub(crate) use data_key_cache::{DataKeyCache, Opening, Partition};
pub use settings::Refresh;
pub use stats::CacheStats;
pub(crate) use store::Fetch;

pub use crate::clock::Clock;
