//! What can go wrong when a message gets other keys.

use std::time::Duration;

use thiserror::Error;

use super::{ErrorKind, OpenError, SealError};
use crate::provider::ProviderError;

/// A message's data key could not be put under another key: see [`Envelope::rewrap`](crate::Envelope::rewrap).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RewrapError {
    /// The message does not open, as far as its header goes.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// The new key provider does not encrypt the data key.
    #[error("the data key could not be encrypted under the new key")]
    Encrypt(#[source] ProviderError),
    /// The new key provider gave encrypted data keys that the format, or this envelope's limits, have no room for.
    #[error("the new key provider's encrypted data keys cannot be used")]
    Keys(#[source] SealError),
}

/// A message could not be sealed anew: see [`Envelope::reseal`](crate::Envelope::reseal).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ResealError {
    /// The old message does not open.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// The new one cannot be sealed.
    #[error("the message was opened, but could not be sealed again")]
    Seal(#[from] SealError),
}

impl RewrapError {
    /// Returns what the error means to a service.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Open(error) => error.kind(),
            Self::Encrypt(error) => error.error_kind(),
            Self::Keys(error) => error.kind(),
        }
    }

    /// Returns whether the same call may succeed when it is made again later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Open(error) => error.is_retryable(),
            Self::Encrypt(error) => error.is_retryable(),
            Self::Keys(error) => error.is_retryable(),
        }
    }

    /// Returns how long the key service wants to be left alone before a retry, if it has said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Open(error) => error.retry_after(),
            Self::Encrypt(error) => error.retry_after(),
            Self::Keys(error) => error.retry_after(),
        }
    }
}

impl ResealError {
    /// Returns what the error means to a service.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Open(error) => error.kind(),
            Self::Seal(error) => error.kind(),
        }
    }

    /// Returns whether the same call may succeed when it is made again later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Open(error) => error.is_retryable(),
            Self::Seal(error) => error.is_retryable(),
        }
    }

    /// Returns how long the key service wants to be left alone before a retry, if it has said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Open(error) => error.retry_after(),
            Self::Seal(error) => error.retry_after(),
        }
    }
}
