//! What can be wrong with an encryption context.

use thiserror::Error;

use super::ErrorKind;

/// An encryption context that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ContextError {
    /// It takes more bytes than the format has room for.
    #[error("the encryption context has {len} bytes when serialized, more than the maximum of 65535")]
    TooLong {
        /// The bytes it would take.
        len: usize,
    },
    /// A name that the format keeps for itself.
    #[error("the encryption context has the name {name:?}; names that begin with \"aws-crypto-\" are reserved")]
    ReservedName {
        /// The name.
        name: String,
    },
    /// A pair that must be given is not.
    #[error("the encryption context has no {name:?}, which this envelope requires")]
    RequiredNameMissing {
        /// The name.
        name: String,
    },
    /// A message has a pair with another value than the caller expects.
    #[error("the message's encryption context has a different value for {name:?} than expected")]
    ValueDiffers {
        /// The name.
        name: String,
    },
    /// A message does not have a pair that the caller expects.
    #[error("the message's encryption context has no {name:?}, which was expected")]
    PairMissing {
        /// The name.
        name: String,
    },
}

impl ContextError {
    /// Returns what the error means to a service.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::ValueDiffers { .. } | Self::PairMissing { .. } => ErrorKind::WrongContext,
            Self::TooLong { .. } | Self::ReservedName { .. } | Self::RequiredNameMissing { .. } => {
                ErrorKind::InvalidInput
            }
        }
    }
}
