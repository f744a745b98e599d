//! Test support: key providers and a clock for the unit tests of your service, and test suites for key providers and for
//! stores of branch keys.
//!
//! This module needs the feature `mock`. Enable it in `[dev-dependencies]` only.
//!
//! | to … | use … |
//! |---|---|
//! | test code that seals and opens, without a key service | [`MemoryKey`] |
//! | test how your code handles throttling, outages, delays and denied access, and count calls | [`ScriptedProvider`] |
//! | set expectations on each call and return fixed results | [`MockKeyProvider`] |
//! | let cached data keys expire without waiting | [`ManualClock`] |
//! | test your own implementation of [`KeyProvider`](crate::KeyProvider) | [`Conformance`] |
//! | test code that uses branch keys, without a database (feature `branch-key`) | [`MemoryBranchKeyStore`] |
//! | test your own implementation of `BranchKeyStore` (feature `branch-key`) | [`StoreConformance`] |

mod conformance;
mod manual_clock;
#[cfg(feature = "branch-key")]
mod memory_branch_key_store;
mod mock;
mod scripted;
#[cfg(feature = "branch-key")]
mod store_conformance;

pub use conformance::Conformance;
pub use manual_clock::ManualClock;
#[cfg(feature = "branch-key")]
pub use memory_branch_key_store::MemoryBranchKeyStore;
pub use mock::{MemoryKey, MockKeyProvider};
pub use scripted::{Calls, Fault, ScriptedProvider};
#[cfg(feature = "branch-key")]
pub use store_conformance::StoreConformance;
