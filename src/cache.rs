//! A cache of data keys.
//!
//! An entry holds a message's materials for sealing, or a data key for opening. A miss starts a *flight*: one request
//! to the key provider, shared by all callers that want the same entry. A flight is a shared future that its callers
//! poll, so it needs no runtime, and a caller that is cancelled does not stop it for the others.
//!
//! Entries for sealing are kept when their flight lands. A data key for opening comes from a message that is not
//! authentic yet, so each caller first verifies the header of its own message. The first that succeeds keeps the entry.

pub(crate) mod data_key_cache;
mod entries;
mod key;
mod settings;
mod stats;
mod store;

pub use data_key_cache::DataKeyCacheBuilder;
pub(crate) use data_key_cache::{DataKeyCache, Partition};
pub use settings::Refresh;
pub use stats::CacheStats;
pub(crate) use store::Fetch;

pub use crate::clock::Clock;
