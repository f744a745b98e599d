//! Errors of sealing.

use std::{io, time::Duration};

use thiserror::Error;

use super::{ContextError, DataKeyError, ErrorKind, LimitError, RandomError, kind::find};
use crate::{message::MIN_PADDING_LEN, provider::ProviderError};

/// A message could not be sealed.
///
/// Discard any output: an incomplete message cannot be opened.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum SealError {
    /// The encryption context is not valid. Fix it.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The key provider returned no data key. See [`ProviderError::kind`].
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The key provider returned an invalid data key. Fix its implementation.
    #[error("the key provider returned {0}")]
    DataKey(#[from] DataKeyError),
    /// The header would exceed one of this envelope's limits for opening. Use fewer keys or a smaller encryption
    /// context, or raise the limit in all envelopes that open the message.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// A header of this message cannot have the length set with
    /// [`EnvelopeBuilder::header_len`](crate::EnvelopeBuilder::header_len). Set another length, or use fewer keys or a
    /// smaller encryption context.
    #[error(
        "the header cannot have the set length of {header_len} bytes: it needs {needed}, and padding adds at least \
         {MIN_PADDING_LEN}; set EnvelopeBuilder::header_len to {needed}, or to {} or more", needed + MIN_PADDING_LEN
    )]
    HeaderLen {
        /// The set length, in bytes.
        header_len: usize,
        /// The length without padding, in bytes. Padding adds at least 28 bytes.
        needed: usize,
    },
    /// The random number generator failed.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The generator passed to [`EnvelopeBuilder::rng`](crate::EnvelopeBuilder::rng) repeated a message id within one
    /// call. Two messages with the same id and data key would reveal their plaintexts. Fix the generator.
    #[error("the random number generator repeated a message id; fix the generator passed to EnvelopeBuilder::rng")]
    RepeatedMessageId,
    /// The plaintext needs more frames than a message can have. Use a longer frame length.
    #[error(
        "the plaintext is too long: a message has at most 4294967295 frames of {frame_len} bytes; use longer frames"
    )]
    TooLong {
        /// The frame length, in plaintext bytes.
        frame_len: u32,
    },
    /// The output is longer than this platform can address. Seal the plaintext as a stream.
    #[error("the output has {len} bytes, more than this platform can address; seal the plaintext as a stream")]
    TooLongForMemory {
        /// The length of the output, in bytes.
        len: u64,
    },
    /// The output buffer is too short. No input was consumed: repeat the call with a longer buffer.
    #[error("the output buffer has {len} bytes, but {needed} are needed")]
    OutputTooShort {
        /// The length of the buffer, in bytes.
        len: usize,
        /// The required length, in bytes.
        needed: usize,
    },
    /// The message is already finished and accepts no more plaintext. No input was consumed.
    #[error("the message is finished and accepts no more plaintext; seal the rest as another message")]
    Finished,
    /// Sealing this message, or reading its source, failed in an earlier call, whose error has the reason. The message
    /// is incomplete and cannot be opened: discard it, and seal again from the start.
    #[error(
        "sealing this message failed earlier, so it is incomplete and cannot be opened; seal it again from the start"
    )]
    FailedBefore,
}

impl SealError {
    /// Returns the category of the error, for example to choose an HTTP status.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Context(error) => error.kind(),
            Self::Provider(error) => error.error_kind(),
            Self::DataKey(_) | Self::Random(_) | Self::RepeatedMessageId => ErrorKind::Unavailable,
            Self::Limit(_) => ErrorKind::Refused,
            Self::HeaderLen { .. }
            | Self::TooLong { .. }
            | Self::TooLongForMemory { .. }
            | Self::OutputTooShort { .. }
            | Self::Finished
            | Self::FailedBefore => ErrorKind::InvalidInput,
        }
    }

    /// Returns whether the same call may succeed if it is repeated later: whether the error of the key provider
    /// [is retryable](ProviderError::is_retryable).
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Provider(error) if error.is_retryable())
    }

    /// Returns how long to wait before a retry, if the key service specified it.
    pub fn retry_after(&self) -> Option<Duration> {
        if let Self::Provider(error) = self { error.retry_after() } else { None }
    }

    /// Returns the `SealError` inside an I/O error of a writer or reader that seals a message.
    ///
    /// It also finds one that other code has wrapped in another [`io::Error`], or in any error whose
    /// [`source`](std::error::Error::source) leads to it.
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

/// Wraps the error for the traits of `std::io`. [`SealError::from_io`] returns the inner [`SealError`].
impl From<SealError> for io::Error {
    fn from(error: SealError) -> Self {
        let kind = match error {
            SealError::Finished | SealError::FailedBefore => io::ErrorKind::BrokenPipe,
            _ => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}
