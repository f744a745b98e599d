//! Errors of rewrapping and resealing.

use std::time::Duration;

use thiserror::Error;

use super::{ErrorKind, OpenError, SealError};
use crate::provider::ProviderError;

/// A message's data key could not be re-encrypted under another key: see
/// [`Envelope::rewrap`](crate::Envelope::rewrap).
///
/// The old message and its keys remain valid.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RewrapError {
    /// The header of the message could not be verified with the old key.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// The new key provider failed to encrypt the data key.
    #[error("the data key could not be encrypted under the new key")]
    Encrypt(#[source] ProviderError),
    /// The new key provider returned encrypted data keys that exceed the format's or this envelope's limits.
    #[error("the new key provider's encrypted data keys cannot be used")]
    Keys(#[source] SealError),
}

/// A message could not be resealed: see [`Envelope::reseal`](crate::Envelope::reseal).
///
/// The old message remains valid.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ResealError {
    /// The old message could not be opened.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// The new message could not be sealed.
    #[error("the message was opened, but could not be sealed again")]
    Seal(#[from] SealError),
}

impl RewrapError {
    /// Returns the category of the error, for example to choose an HTTP status.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Open(error) => error.kind(),
            Self::Encrypt(error) => error.error_kind(),
            Self::Keys(error) => error.kind(),
        }
    }

    /// Returns whether the same call may succeed if it is repeated later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Open(error) => error.is_retryable(),
            Self::Encrypt(error) => error.is_retryable(),
            Self::Keys(error) => error.is_retryable(),
        }
    }

    /// Returns how long to wait before a retry, if the key service specified it.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Open(error) => error.retry_after(),
            Self::Encrypt(error) => error.retry_after(),
            Self::Keys(error) => error.retry_after(),
        }
    }
}

impl ResealError {
    /// Returns the category of the error, for example to choose an HTTP status.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Open(error) => error.kind(),
            Self::Seal(error) => error.kind(),
        }
    }

    /// Returns whether the same call may succeed if it is repeated later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Open(error) => error.is_retryable(),
            Self::Seal(error) => error.is_retryable(),
        }
    }

    /// Returns how long to wait before a retry, if the key service specified it.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Open(error) => error.retry_after(),
            Self::Seal(error) => error.retry_after(),
        }
    }
}
