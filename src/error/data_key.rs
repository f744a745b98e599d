//! What can be wrong with what a key provider gave.

use thiserror::Error;

use super::{ErrorKind, FormatError};
use crate::suite::AlgorithmSuite;

/// What is wrong with a data key that a key provider gave, or with its encrypted forms.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DataKeyError {
    /// The data key has not the suite's length.
    #[error("a data key of {len} bytes, but suite {suite} takes {}", suite.data_key_len())]
    Len {
        /// Its length, in bytes.
        len: usize,
        /// The suite.
        suite: AlgorithmSuite,
    },
    /// There is no encrypted form of the data key.
    #[error("a data key without an encrypted form")]
    NotEncrypted,
    /// The decrypted data key is said to be at a place that the list of encrypted data keys does not have.
    #[error("the data key at {index} of {count}")]
    Index {
        /// The place, from 0.
        index: usize,
        /// How many encrypted data keys there are.
        count: usize,
    },
    /// An encrypted data key decrypted to another data key than before.
    #[error("another data key than the one that opened messages")]
    Changed,
    /// The encrypted data keys, or a field of one, are more than the format has room for.
    #[error("{len} {what}; the format has room for 65535")]
    TooLong {
        /// How many there are.
        len: usize,
        /// Of what.
        what: &'static str,
    },
    /// The encrypted data keys cannot be read again.
    #[error("encrypted data keys that cannot be read again: {0}")]
    Malformed(#[from] FormatError),
    /// The key provider panicked.
    #[error("no data key: it panicked")]
    Panicked,
}

impl DataKeyError {
    /// Returns what the error means to a service: [`ErrorKind::Unavailable`], since the key provider is at fault.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Unavailable
    }
}
