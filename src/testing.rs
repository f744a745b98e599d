//! Key providers and a clock for the unit tests of services that use this crate, and a test of key providers.

mod conformance;
mod manual_clock;
mod mock;
mod scripted;

pub use conformance::Conformance;
pub use manual_clock::ManualClock;
pub use mock::{MemoryKey, MockKeyProvider};
pub use scripted::{Calls, Fault, ScriptedProvider};
