//! Test support: key providers and a clock for the unit tests of your service, and a test suite for key providers.
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

mod conformance;
mod manual_clock;
mod mock;
mod scripted;

pub use conformance::Conformance;
pub use manual_clock::ManualClock;
pub use mock::{MemoryKey, MockKeyProvider};
pub use scripted::{Calls, Fault, ScriptedProvider};
