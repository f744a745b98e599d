//! Settings that cannot be.

use std::io;

use thiserror::Error;

use super::{ErrorKind, RandomError};
use crate::suite::{AlgorithmSuite, CommitmentPolicy};

/// A setting that an [`Envelope`](crate::Envelope), a key provider or a key file cannot have.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The commitment policy does not allow the suite.
    #[error("the commitment policy {policy} does not allow sealing with the algorithm suite {suite}; {}", policy.advice())]
    #[non_exhaustive]
    CommitmentPolicy {
        /// The suite.
        suite: AlgorithmSuite,
        /// The policy.
        policy: CommitmentPolicy,
    },
    /// A frame length of zero, or one that this envelope itself would refuse to open.
    #[error("a frame length of {len} bytes is not allowed; set it to 1 to {max}, the limit for opening")]
    #[non_exhaustive]
    FrameLen {
        /// The length given.
        len: u32,
        /// The limit on opening.
        max: u32,
    },
    /// A length that the buffers of streams cannot have.
    #[error("a stream buffer length of {len} bytes is not allowed; set it to {min} to {max}")]
    #[non_exhaustive]
    StreamBufferLen {
        /// The length given.
        len: usize,
        /// The shortest.
        min: usize,
        /// The longest.
        max: usize,
    },
    /// A data-key cache that could not work.
    #[error("invalid data-key cache settings: {what}")]
    #[non_exhaustive]
    Cache {
        /// What must be otherwise.
        what: &'static str,
    },
    /// A key of a length that AES does not have.
    #[error("a key of {0} bytes is not allowed: an AES key has 16, 24 or 32 bytes, a branch key 32")]
    KeyLen(usize),
    /// A namespace or name that the format has no room for, or that it keeps for AWS KMS.
    #[error("the key's {field} is invalid: {reason}")]
    #[non_exhaustive]
    KeyName {
        /// `namespace`, `name` or `id`.
        field: &'static str,
        /// What is wrong with it.
        reason: NameReason,
    },
    /// A key in PEM that cannot be used.
    #[error("the {what} cannot be used: {why}")]
    #[non_exhaustive]
    Pem {
        /// `RSA private key`, for example.
        what: &'static str,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// A KMS key identifier that does not name one key for sure.
    #[error("{key_id:?} is not the ARN of a KMS key: {reason}")]
    #[non_exhaustive]
    KmsKeyId {
        /// What was given.
        key_id: String,
        /// What is wrong with it, and what to do.
        reason: NameReason,
    },
    /// KMS keys or regions that do not go together.
    #[error("invalid KMS configuration: {why}")]
    #[non_exhaustive]
    KmsKeys {
        /// What is wrong with them, and what to do.
        why: String,
    },
    /// A key file that does not hold a key.
    #[error("invalid key file: {0}")]
    KeyFile(String),
    /// A key file that cannot be read or written.
    #[error("the key file {path:?} cannot be {action}: {source}", path = path.display())]
    #[non_exhaustive]
    KeyFileIo {
        /// The file.
        path: std::path::PathBuf,
        /// `read` or `written`.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The system's randomness failed.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// What is wrong with the name of a key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameReason {
    /// The namespace is one of those that the format keeps for AWS KMS.
    #[error("names that begin with \"aws-kms\" are reserved for AWS KMS")]
    Reserved,
    /// The format has no room for it.
    #[error("it has more than {room} bytes")]
    TooLong {
        /// The bytes that there is room for.
        room: usize,
    },
    /// It names a KMS key, but can name another one tomorrow: it is an alias or a bare key id. `AwsKms::resolve` takes
    /// those.
    #[error("an alias or a bare key id can refer to another key later; use the key ARN, or AwsKms::resolve")]
    NotForever,
    /// It is no identifier of a KMS key.
    #[error("{0}")]
    Malformed(String),
}

impl ConfigError {
    /// Returns what the error means to a service.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::KeyFileIo { .. } => ErrorKind::Io,
            Self::Random(_) => ErrorKind::Unavailable,
            Self::CommitmentPolicy { .. }
            | Self::FrameLen { .. }
            | Self::StreamBufferLen { .. }
            | Self::Cache { .. }
            | Self::KeyLen(_)
            | Self::KeyName { .. }
            | Self::Pem { .. }
            | Self::KmsKeyId { .. }
            | Self::KmsKeys { .. }
            | Self::KeyFile(_) => ErrorKind::InvalidInput,
        }
    }

    /// Returns false: the same call fails again until something else has changed.
    pub fn is_retryable(&self) -> bool {
        false
    }
}
