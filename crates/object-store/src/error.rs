//! The errors of a store.

use std::{error::Error as StdError, fmt, ops::Range, sync::Arc};

use kms_envelope::{AlgorithmSuite, ConfigError, ErrorKind, OpenError, RewrapError, SealError};
use thiserror::Error;

/// The length of the shortest padding of a header, in bytes: see `SealError::HeaderLen`.
const MIN_PADDING_LEN: usize = 28;

/// The encryption of an object failed.
///
/// A store returns it as the source of `object_store::Error::Generic`. Errors of the inner store are passed on unchanged.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The object could not be opened.
    #[error("the object {location} cannot be opened: {source}")]
    Open {
        /// The location of the object.
        location: String,
        /// The reason.
        source: Arc<OpenError>,
    },
    /// The object could not be sealed.
    #[error("the object {location} cannot be sealed: {source}")]
    Seal {
        /// The location of the object.
        location: String,
        /// The reason.
        source: SealError,
    },
    /// The header of the object does not fit into the header length of the store.
    #[error(
        "the header of the object {location} does not fit into {header_len} bytes: it needs {needed} bytes, or at least \
         {} with padding; use a shorter base, fewer keys or pairs of context, or write to a new place with another \
         StoreSettings::header_len", needed.saturating_add(MIN_PADDING_LEN)
    )]
    HeaderTooShort {
        /// The location of the object.
        location: String,
        /// The length of the headers of this store, in bytes.
        header_len: usize,
        /// The length of the header without padding, in bytes.
        needed: usize,
    },
    /// The object was written with another header length than this store has.
    #[error(
        "the object {location} has a header of {}, and those of this store have {expected}; set the header length with \
         which the object was written, or look up sizes", found_len(*found)
    )]
    HeaderLen {
        /// The location of the object.
        location: String,
        /// The length of its header in bytes, if that is less than `expected`.
        found: Option<usize>,
        /// The length of the headers of this store, in bytes.
        expected: usize,
    },
    /// The object was written with another frame length than this store has.
    #[error(
        "the object {location} has {}, and those of this store have frames of {expected} bytes; set the frame length \
         with which the object was written, or look up sizes", found_frames(*found)
    )]
    FrameLen {
        /// The location of the object.
        location: String,
        /// The length of its frames in bytes, or `None` if it has no frames.
        found: Option<u32>,
        /// The length of the frames of this store, in bytes.
        expected: u32,
    },
    /// No object of this store can have this length: the object is truncated, or not one of this store.
    #[error(
        "no object of this store has {sealed_len} bytes, as {location} has: it is truncated, or another program wrote it"
    )]
    Length {
        /// The location of the object.
        location: String,
        /// Its length in bytes.
        sealed_len: u64,
    },
    /// The object was replaced several times while it was read. Read it again.
    #[error("the object {location} was replaced while it was read; read it again")]
    Changed {
        /// The location of the object.
        location: String,
    },
    /// The inner store returned fewer bytes than it announced, or more.
    #[error("the inner store returned {found} bytes of the object {location}, where it announced {expected}")]
    ShortRead {
        /// The location of the object.
        location: String,
        /// The number of bytes that were returned.
        found: u64,
        /// The number of bytes that were announced.
        expected: u64,
    },
    /// The inner store returned another range than was requested.
    #[error("the inner store returned the bytes {found:?} of the object {location}, where {expected:?} were requested")]
    WrongRange {
        /// The location of the object.
        location: String,
        /// The bytes that were returned.
        found: Range<u64>,
        /// The bytes that were requested.
        expected: Range<u64>,
    },
    /// The detached keys of the object could not be read.
    #[error("the detached keys of the object {location} cannot be read: {source}")]
    DetachedKeys {
        /// The location of the object.
        location: String,
        /// The reason.
        source: Arc<dyn StdError + Send + Sync>,
    },
    /// The data key of the object could not be encrypted under the new key.
    #[error("the data key of the object {location} cannot be encrypted under the new key: {source}")]
    Rewrap {
        /// The location of the object.
        location: String,
        /// The reason.
        source: Arc<RewrapError>,
    },
    /// The new detached keys do not open the object. They were not stored.
    #[error("the new detached keys of the object {location} do not open it, and were not stored: {source}")]
    Unverified {
        /// The location of the object.
        location: String,
        /// The reason.
        source: Arc<OpenError>,
    },
    /// The store has no name for the detached keys of an object. Set
    /// [`StoreSettings::detached_keys`](crate::StoreSettings::detached_keys).
    #[error("the detached keys of the object {location} have no name; set StoreSettings::detached_keys")]
    NoDetachedKeys {
        /// The location of the object.
        location: String,
    },
    /// The name is reserved for detached keys, or for objects that are being copied. The store neither lists nor reads,
    /// writes or deletes such objects: use the inner store.
    #[error("the name {location} is reserved for files of the encrypted store; choose another name")]
    ReservedName {
        /// The location.
        location: String,
    },
    /// An earlier part of the upload failed. The object was not written: abort the upload, and start again.
    #[error("the upload of {location} failed before: {reason}; abort it, and start again")]
    UploadFailed {
        /// The location of the object.
        location: String,
        /// The text of the first error.
        reason: String,
    },
    /// The upload is complete or aborted.
    #[error("the upload of {location} has ended; start another")]
    UploadEnded {
        /// The location of the object.
        location: String,
    },
}

fn found_len(len: Option<usize>) -> String {
    len.map_or_else(|| "more bytes".into(), |len| format!("{len} bytes"))
}

fn found_frames(len: Option<u32>) -> String {
    len.map_or_else(|| "no frames".into(), |len| format!("frames of {len} bytes"))
}

impl Error {
    pub(crate) fn open(location: impl fmt::Display, source: impl Into<OpenError>) -> Self {
        Self::Open { location: location.to_string(), source: Arc::new(source.into()) }
    }

    pub(crate) fn seal(location: impl fmt::Display, source: SealError) -> Self {
        let location = location.to_string();
        match source {
            SealError::HeaderLen { header_len, needed, .. } => Self::HeaderTooShort { location, header_len, needed },
            source => Self::Seal { location, source },
        }
    }

    /// Returns the category of the error, for example to choose an HTTP status.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Open { source, .. } => source.kind(),
            Self::Seal { source, .. } => source.kind(),
            Self::Rewrap { source, .. } => source.kind(),
            Self::Unverified { source, .. } => source.kind(),
            Self::HeaderLen { .. } | Self::FrameLen { .. } => ErrorKind::Refused,
            Self::Length { .. } => ErrorKind::Tampered,
            Self::Changed { .. } | Self::ShortRead { .. } | Self::WrongRange { .. } | Self::DetachedKeys { .. } => {
                ErrorKind::Io
            }
            Self::HeaderTooShort { .. }
            | Self::NoDetachedKeys { .. }
            | Self::ReservedName { .. }
            | Self::UploadFailed { .. }
            | Self::UploadEnded { .. } => ErrorKind::InvalidInput,
        }
    }

    /// Returns whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Open { source, .. } => source.is_retryable(),
            Self::Seal { source, .. } => source.is_retryable(),
            Self::Rewrap { source, .. } => source.is_retryable(),
            Self::Unverified { source, .. } => source.is_retryable(),
            Self::Changed { .. } | Self::ShortRead { .. } | Self::WrongRange { .. } => true,
            _ => false,
        }
    }
}

/// The settings of a store are not valid.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The settings of the envelope are not valid.
    #[error(transparent)]
    Envelope(#[from] ConfigError),
    /// The suite signs. Ranges of a signed message cannot be opened.
    #[error(
        "the algorithm suite {0} signs messages, so ranges of objects could not be read; choose one that does not sign"
    )]
    SignedSuite(AlgorithmSuite),
    /// A setting is out of range, or two settings contradict each other.
    #[error("{0}")]
    Invalid(String),
}
