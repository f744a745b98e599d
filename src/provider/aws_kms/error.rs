//! The error of looking up a KMS key.

use std::time::Duration;

use thiserror::Error;

use crate::{
    error::{ConfigError, ErrorKind},
    provider::ProviderError,
};

/// The error of [`AwsKms::resolve`](crate::AwsKms::resolve) and
/// [`AwsKmsEcdh::fetch_public_key`](crate::provider::AwsKmsEcdh::fetch_public_key).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The identifier is not valid. No request was sent.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The request failed, or the key cannot be used.
    #[error("{0}")]
    Provider(#[from] ProviderError),
}

impl ResolveError {
    /// Returns the category of the error, for example to choose an HTTP status.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(error) => error.kind(),
            Self::Provider(error) => error.error_kind(),
        }
    }

    /// Returns whether the same call may succeed if it is repeated later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Config(error) => error.is_retryable(),
            Self::Provider(error) => error.is_retryable(),
        }
    }

    /// Returns how long to wait before a retry, if the key service specified it.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Config(_) => None,
            Self::Provider(error) => error.retry_after(),
        }
    }
}
