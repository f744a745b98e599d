//! Errors of configuration.

use std::{borrow::Cow, fmt, io};

use thiserror::Error;

use super::{ErrorKind, RandomError};
use crate::{
    crypto::Backend,
    suite::{AlgorithmSuite, CommitmentPolicy},
};

/// An invalid setting of an [`Envelope`](crate::Envelope), a cache or a key provider, or an invalid key file.
///
/// Fix the configuration: none of these errors is retryable.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The commitment policy does not allow sealing with the algorithm suite. Choose another suite or policy.
    #[error("the commitment policy {policy} does not allow sealing with the algorithm suite {suite}; {}", policy.advice())]
    #[non_exhaustive]
    CommitmentPolicy {
        /// The algorithm suite.
        suite: AlgorithmSuite,
        /// The commitment policy.
        policy: CommitmentPolicy,
    },
    /// The frame length is zero, or longer than this envelope would accept on opening.
    #[error("a frame length of {len} bytes is not allowed; use 1 to {max}, the limit for opening")]
    #[non_exhaustive]
    FrameLen {
        /// The given length, in bytes.
        len: u32,
        /// The limit for opening, in bytes.
        max: u32,
    },
    /// The fixed header length is shorter than any header, or longer than this envelope would accept on opening.
    #[error("a header length of {len} bytes is not allowed; use {min} to {max}")]
    #[non_exhaustive]
    HeaderLen {
        /// The given length, in bytes.
        len: usize,
        /// The length of the shortest header of the suite, in bytes.
        min: usize,
        /// The maximum, in bytes: the limit for opening, at most 65,535.
        max: usize,
    },
    /// The length of the stream buffers is out of range.
    #[error("a stream buffer length of {len} bytes is not allowed; use {min} to {max}")]
    #[non_exhaustive]
    StreamBufferLen {
        /// The given length, in bytes.
        len: usize,
        /// The minimum, in bytes.
        min: usize,
        /// The maximum, in bytes.
        max: usize,
    },
    /// [`EnvelopeBuilder::require_fips`](crate::EnvelopeBuilder::require_fips) refuses a setting, the key provider or
    /// the build. Holds the reason, and what to change.
    #[error("FIPS is required, but {0}")]
    NotFips(NotFips),
    /// The settings of a data-key cache are invalid.
    #[error("invalid data-key cache settings: {what}")]
    #[non_exhaustive]
    Cache {
        /// The requirement that is not met.
        what: &'static str,
    },
    /// The key has a length that is not allowed: an AES key has 16, 24 or 32 bytes, a branch key 32. Holds the given
    /// length, in bytes.
    #[error("a key of {0} bytes is not allowed: an AES key has 16, 24 or 32 bytes, a branch key 32")]
    KeyLen(usize),
    /// The namespace, name or id of a key, or the name of a key store, is empty, too long, or reserved for AWS KMS.
    #[error("the {field} is invalid: {reason}")]
    #[non_exhaustive]
    KeyName {
        /// The field, such as `key's namespace` or `branch key id`.
        field: &'static str,
        /// The reason.
        reason: NameReason,
    },
    /// A key in PEM is malformed, or of a type that cannot be used.
    #[error("the {what} cannot be used: {why}")]
    #[non_exhaustive]
    Pem {
        /// The kind of key, such as `RSA private key`.
        what: &'static str,
        /// The reason, and what to do.
        why: String,
    },
    /// The identifier is not a key ARN. Only a key ARN always names the same KMS key.
    #[error("{key_id:?} is not the ARN of a KMS key: {reason}")]
    #[non_exhaustive]
    KmsKeyId {
        /// The given identifier.
        key_id: String,
        /// The reason, and what to do.
        reason: NameReason,
    },
    /// The list of KMS keys or regions is empty or has duplicates, or a key does not support the setting.
    #[error("invalid KMS configuration: {why}")]
    #[non_exhaustive]
    KmsKeys {
        /// The reason, and what to do.
        why: String,
    },
    /// The key file does not contain a valid key. Holds the reason, which never quotes the file.
    #[error("invalid key file: {0}")]
    KeyFile(String),
    /// The key file could not be read or written.
    #[error("the key file {path:?} cannot be {action}: {source}", path = path.display())]
    #[non_exhaustive]
    KeyFileIo {
        /// The path of the key file.
        path: std::path::PathBuf,
        /// The action that failed: `read` or `written`.
        action: &'static str,
        /// The I/O error.
        source: io::Error,
    },
    /// The random number generator failed.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// Why a name or identifier of a key is not valid.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameReason {
    /// The namespace begins with `aws-kms`, which the format reserves for AWS KMS.
    #[error("names that begin with \"aws-kms\" are reserved for AWS KMS")]
    Reserved,
    /// The name is empty.
    #[error("it is empty")]
    Empty,
    /// The name is longer than the format allows.
    #[error("it is longer than {max} bytes")]
    TooLong {
        /// The maximum length, in bytes.
        max: usize,
    },
    /// The identifier is an alias or a bare key id, which does not always refer to the same KMS key. Use the key's ARN,
    /// or resolve the identifier with `AwsKms::resolve`.
    #[error("an alias or a bare key id does not always refer to the same key; use the key ARN, or AwsKms::resolve")]
    NotKeyArn,
    /// The identifier does not name a KMS key. Holds the reason.
    #[error("{0}")]
    Malformed(String),
}

/// Why an envelope or a key provider does not meet
/// [`EnvelopeBuilder::require_fips`](crate::EnvelopeBuilder::require_fips).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NotFips {
    /// The backend is not AWS-LC.
    #[error("the backend is {0}; use Backend::AwsLc, with the feature `fips`")]
    Backend(Backend),
    /// A random number generator replaces that of the module.
    #[error("a random number generator is set; remove EnvelopeBuilder::rng")]
    Rng,
    /// The algorithm suite for sealing has keys of 192 bits.
    #[error("the algorithm suite {0} has keys of 192 bits; seal with another suite")]
    Suite(AlgorithmSuite),
    /// The key provider does cryptography that is not allowed, or does not implement
    /// [`KeyProvider::check_fips`](crate::KeyProvider::check_fips).
    #[error("the key provider {provider} is not allowed: {why}")]
    #[non_exhaustive]
    Provider {
        /// The display name of the key provider.
        provider: String,
        /// The reason, and what to change.
        why: Cow<'static, str>,
    },
    /// This crate was built without its feature `fips`. Another crate of the program can have AWS-LC's FIPS module.
    #[error("kms-envelope was built without AWS-LC's FIPS module; enable its feature `fips`")]
    Module,
}

impl NotFips {
    /// Creates the reason of a key provider, for [`KeyProvider::check_fips`](crate::KeyProvider::check_fips). `why`
    /// says what is not allowed, and what to change.
    pub fn provider(provider: &(impl fmt::Display + ?Sized), why: impl Into<Cow<'static, str>>) -> Self {
        Self::Provider { provider: provider.to_string(), why: why.into() }
    }
}

impl ConfigError {
    /// Returns the category of the error, for example to choose an HTTP status.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::KeyFileIo { .. } => ErrorKind::Io,
            Self::Random(_) => ErrorKind::Unavailable,
            Self::CommitmentPolicy { .. }
            | Self::FrameLen { .. }
            | Self::HeaderLen { .. }
            | Self::StreamBufferLen { .. }
            | Self::NotFips(_)
            | Self::Cache { .. }
            | Self::KeyLen(_)
            | Self::KeyName { .. }
            | Self::Pem { .. }
            | Self::KmsKeyId { .. }
            | Self::KmsKeys { .. }
            | Self::KeyFile(_) => ErrorKind::InvalidInput,
        }
    }

    /// Returns `false`: configuration errors are not retryable.
    pub fn is_retryable(&self) -> bool {
        false
    }
}
