//! What can be wrong with what a key provider gave.

use thiserror::Error;

use super::{ErrorKind, FormatError};
use crate::suite::AlgorithmSuite;

/// What is wrong with a data key that a key provider gave, or with its encrypted forms.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DataKeyError {
    /// The data key has not the suite's length.
    #[error("a data key of {len} bytes, but suite {suite} requires {}", suite.data_key_len())]
    Len {
        /// Its length, in bytes.
        len: usize,
        /// The suite.
        suite: AlgorithmSuite,
    },
    /// There is no encrypted form of the data key.
    #[error("a data key without an encrypted data key")]
    NotEncrypted,
    /// The decrypted data key is said to be at a place that the list of encrypted data keys does not have.
    #[error("a data key for the encrypted data key at index {index}, but there are only {count}")]
    Index {
        /// The place, from 0.
        index: usize,
        /// How many encrypted data keys there are.
        count: usize,
    },
    /// An encrypted data key decrypted to another data key than before.
    #[error("a different data key than before for the same encrypted data key")]
    Changed,
    /// The encrypted data keys, or a field of one, are more than the format has room for.
    #[error("{len} {what}; the maximum is 65535")]
    TooLong {
        /// How many there are.
        len: usize,
        /// Of what.
        what: &'static str,
    },
    /// The encrypted data keys cannot be read again.
    #[error("encrypted data keys that cannot be parsed: {0}")]
    Malformed(#[from] FormatError),
    /// The key provider panicked.
    #[error("no data key because it panicked")]
    Panicked,
}

impl DataKeyError {
    /// Returns what the error means to a service: [`ErrorKind::Unavailable`], since the key provider is at fault.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Unavailable
    }
}
