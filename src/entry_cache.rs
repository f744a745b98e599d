//! A bounded cache of keys that are requested from elsewhere: of data keys, and of branch keys.
//!
//! A miss starts a request. All callers that need the same entry wait for this one request. It is a shared future that
//! its waiters poll, so it needs no runtime, and it continues if one of them is canceled.
//!
//! An entry is added when its request succeeds. If the value depends on a message that is not authenticated yet, each
//! waiter first verifies its own message with it, and the first waiter that succeeds adds the entry.

mod entries;
mod key;
mod settings;
mod stats;
mod store;

pub(crate) use entries::{Entry, Material};
pub(crate) use key::{KeyRef, Lookup, Subject};
pub use settings::Refresh;
pub(crate) use settings::Settings;
pub use stats::CacheStats;
pub(crate) use store::{Fetch, Found, Keep, Store, Waiter};
