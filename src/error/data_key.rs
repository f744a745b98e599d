//! Errors of the data keys that key providers return.

use thiserror::Error;

use super::{ErrorKind, FormatError};
use crate::suite::AlgorithmSuite;

/// An invalid data key, or invalid encrypted data keys, from a key provider.
///
/// The key provider is at fault: fix its implementation.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DataKeyError {
    /// The data key does not have the length that the algorithm suite requires.
    #[error("a data key of {len} bytes, but suite {suite} requires {}", suite.data_key_len())]
    Len {
        /// The length of the data key, in bytes.
        len: usize,
        /// The algorithm suite.
        suite: AlgorithmSuite,
    },
    /// The key provider returned no encrypted data key.
    #[error("a data key without an encrypted data key")]
    NotEncrypted,
    /// The key provider reports that it decrypted an encrypted data key at an index that does not exist.
    #[error("a data key for the encrypted data key at index {index}, but the message lists {count}")]
    Index {
        /// The index, from 0.
        index: usize,
        /// The number of encrypted data keys.
        count: usize,
    },
    /// An encrypted data key decrypted to a different data key than before.
    #[error("a different data key than before for the same encrypted data key")]
    Changed,
    /// There are more than 65,535 encrypted data keys, or a field of one is longer than 65,535 bytes.
    #[error("{len} {what}; the maximum is 65535")]
    TooLong {
        /// The number of encrypted data keys, or of bytes.
        len: usize,
        /// The items that are counted.
        what: &'static str,
    },
    /// The encrypted data keys cannot be parsed after they have been serialized.
    #[error("encrypted data keys that cannot be parsed: {0}")]
    Malformed(#[from] FormatError),
    /// The key provider panicked.
    #[error("no data key because it panicked")]
    Panicked,
}

impl DataKeyError {
    /// Returns [`ErrorKind::Unavailable`], because the key provider is at fault.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Unavailable
    }
}
