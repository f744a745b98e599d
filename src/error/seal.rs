//! What can go wrong when a message is sealed.

use std::{io, time::Duration};

use thiserror::Error;

use super::{ContextError, DataKeyError, ErrorKind, LimitError, RandomError, kind::find};
use crate::provider::ProviderError;

/// A message could not be sealed.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum SealError {
    /// The encryption context cannot be used.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The key provider gave no data key.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The key provider gave a data key that does not fit.
    #[error("the key provider returned {0}")]
    DataKey(#[from] DataKeyError),
    /// The header would exceed a limit that this envelope has for opening.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The random number generator failed.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The plaintext needs more frames than a message can have.
    #[error(
        "the plaintext is too long: a message has at most 4294967295 frames of {frame_len} bytes; use longer frames"
    )]
    TooLong {
        /// The plaintext bytes of a frame.
        frame_len: u32,
    },
    /// The output has more bytes than this platform can address.
    #[error("the output has {len} bytes, more than this platform can address; seal the plaintext as a stream")]
    TooLongForMemory {
        /// Its length, in bytes.
        len: u64,
    },
    /// The buffer given for the output is too short; nothing was consumed.
    #[error("the output buffer has {len} bytes, but {needed} are needed")]
    OutputTooShort {
        /// Its length, in bytes.
        len: usize,
        /// The length needed, in bytes.
        needed: usize,
    },
    /// The message is finished, so it takes no more plaintext; nothing was consumed.
    #[error("the message is finished and accepts no more plaintext; seal the rest as another message")]
    Finished,
    /// The message failed to be sealed, or its source failed, before. It has no end, and no reader accepts it. Only the
    /// first error says why, for example that the source is a reader that opens, and its message was changed.
    #[error(
        "sealing this message failed earlier, so it is incomplete and cannot be opened; seal it again from the start"
    )]
    FailedBefore,
}

impl SealError {
    /// Returns what the error means to a service.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Context(error) => error.kind(),
            Self::Provider(error) => error.error_kind(),
            Self::DataKey(_) | Self::Random(_) => ErrorKind::Unavailable,
            Self::Limit(_) => ErrorKind::Refused,
            Self::TooLong { .. }
            | Self::TooLongForMemory { .. }
            | Self::OutputTooShort { .. }
            | Self::Finished
            | Self::FailedBefore => ErrorKind::InvalidInput,
        }
    }

    /// Returns whether the same call may succeed when it is made again later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Provider(error) if error.is_retryable())
    }

    /// Returns how long the key service wants to be left alone before a retry, if it has said so.
    pub fn retry_after(&self) -> Option<Duration> {
        if let Self::Provider(error) = self { error.retry_after() } else { None }
    }

    /// Returns the error of sealing behind an error of a writer or reader that seals, also where other code has wrapped
    /// that in another [`io::Error`], or in any error whose [`source`](std::error::Error::source) leads to it.
    ///
    /// ```
    /// use std::io::Write;
    /// use kms_envelope::{EncryptionContext, Envelope, RawAes, SealError};
    ///
    /// # pollster::block_on(async {
    /// let envelope = Envelope::new(RawAes::generate("example", "key")?);
    /// let mut writer = envelope.seal_writer(Vec::new(), &EncryptionContext::new()).await?;
    /// writer.try_finish()?;
    ///
    /// let error = writer.write_all(b"more").unwrap_err();
    /// assert!(matches!(SealError::from_io(&error), Some(SealError::Finished)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn from_io(error: &io::Error) -> Option<&Self> {
        find(error)
    }
}

/// As `std::io`'s traits need it; [`SealError::from_io`] gives the [`SealError`] back.
impl From<SealError> for io::Error {
    fn from(error: SealError) -> Self {
        let kind = match error {
            SealError::Finished | SealError::FailedBefore => io::ErrorKind::BrokenPipe,
            _ => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}
