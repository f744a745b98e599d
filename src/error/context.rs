//! Errors of encryption contexts.

use thiserror::Error;

use super::ErrorKind;

/// An encryption context that is not valid, or that does not match the message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ContextError {
    /// The serialized encryption context is longer than 65,535 bytes, the maximum of the format.
    #[error("the encryption context has {len} bytes when serialized, more than the maximum of 65535")]
    TooLong {
        /// The serialized length, in bytes.
        len: usize,
    },
    /// A name begins with `aws-crypto-`, which the format reserves.
    #[error("the encryption context has the name {name:?}; names that begin with \"aws-crypto-\" are reserved")]
    ReservedName {
        /// The name.
        name: String,
    },
    /// The encryption context lacks a name that the envelope
    /// [requires](crate::EnvelopeBuilder::required_context). Pass the pair.
    #[error("the encryption context has no {name:?}, which this envelope requires")]
    RequiredNameMissing {
        /// The name.
        name: String,
    },
    /// The message's encryption context has a different value for a name that the caller passed. The message may belong
    /// to another user or tenant.
    #[error("the message's encryption context has a different value for {name:?} than expected")]
    ValueDiffers {
        /// The name.
        name: String,
    },
    /// The message's encryption context does not contain a name that the caller passed.
    #[error("the message's encryption context has no {name:?}, which was expected")]
    PairMissing {
        /// The name.
        name: String,
    },
}

impl ContextError {
    /// Returns the category of the error, for example to choose an HTTP status.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::ValueDiffers { .. } | Self::PairMissing { .. } => ErrorKind::WrongContext,
            Self::TooLong { .. } | Self::ReservedName { .. } | Self::RequiredNameMissing { .. } => {
                ErrorKind::InvalidInput
            }
        }
    }
}
