//! The settings and statistics of a [`DataKeyCache`], which reuses data keys across messages.
//!
//! Build one with [`DataKeyCache::builder`], which returns a [`DataKeyCacheBuilder`].

// A cache entry holds the materials to seal messages with, or a data key to open messages with. `entry_cache` manages
// the entries. A data key for opening comes from a message that is not authenticated yet, so its entry is added after
// the header of a message has been verified with it.

pub(crate) mod data_key_cache;
mod subject;

pub use data_key_cache::DataKeyCacheBuilder;
pub(crate) use data_key_cache::{DataKeyCache, Opening, Partition};

pub(crate) use crate::entry_cache::Fetch;
pub use crate::{
    clock::Clock,
    entry_cache::{CacheStats, Refresh},
};
