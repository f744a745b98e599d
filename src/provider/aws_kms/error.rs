//! Why a key of AWS KMS cannot be resolved.

use std::time::Duration;

use thiserror::Error;

use crate::{
    error::{ConfigError, ErrorKind},
    provider::ProviderError,
};

/// The key that an identifier stands for cannot be told: see [`AwsKms::resolve`](crate::AwsKms::resolve).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The identifier names no key. No request was made.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The look-up failed.
    #[error("{0}")]
    Provider(#[from] ProviderError),
}

impl ResolveError {
    /// Returns what the error means to a service.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(error) => error.kind(),
            Self::Provider(error) => error.error_kind(),
        }
    }

    /// Returns whether the same call may succeed when it is made again later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Config(error) => error.is_retryable(),
            Self::Provider(error) => error.is_retryable(),
        }
    }

    /// Returns how long the key service wants to be left alone before a retry, if it has said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Config(_) => None,
            Self::Provider(error) => error.retry_after(),
        }
    }
}
