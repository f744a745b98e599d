//! Errors of opening.

use std::{io, time::Duration};

use thiserror::Error;

use super::{
    ContextError, DataKeyError, ErrorKind, FormatError, HeaderError, LimitError,
    kind::{Meaning, find},
};
use crate::{
    message::MessageId,
    provider::ProviderError,
    suite::{AlgorithmSuite, CommitmentPolicy},
};

/// A message could not be opened.
///
/// Match on [`kind`](Self::kind) to choose a response, and on the variant for details. No plaintext of a frame is
/// released before that frame is authenticated.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The input is not a complete, well-formed message.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The message exceeds one of the [limits](crate::Limits). If you trust its source, raise the limit.
    #[error("{0}; raise the limit if you trust the message's source")]
    Limit(#[from] LimitError),
    /// The commitment policy does not allow the algorithm suite of the message. To open old messages without key
    /// commitment, use [`CommitmentPolicy::RequireEncryptAllowDecrypt`].
    #[error(
        "the message's algorithm suite {suite} has no key commitment, which the commitment policy {policy} requires; \
         to open it anyway, build the envelope with CommitmentPolicy::RequireEncryptAllowDecrypt"
    )]
    CommitmentPolicy {
        /// The algorithm suite.
        suite: AlgorithmSuite,
        /// The commitment policy.
        policy: CommitmentPolicy,
    },
    /// The message is signed or not framed, so a range of it cannot be opened separately. Open the complete message.
    #[error("the message {what}, so parts of it cannot be opened separately; open the complete message")]
    NotSeekable {
        /// The reason: `is signed` or `has no frames`.
        what: &'static str,
    },
    /// The message is signed, and this envelope
    /// [refuses to stream signed messages](crate::EnvelopeBuilder::refuse_signed_streams). Open it in one piece with
    /// [`Envelope::open`](crate::Envelope::open).
    #[error(
        "the message is signed, and this envelope does not stream signed messages; open it in one piece with \
         Envelope::open"
    )]
    SignedStream,
    /// The [detached keys](crate::Envelope::with_detached_keys) belong to another message. Pass the keys of this
    /// message.
    #[error("the detached keys belong to message {keys}, but this is message {message}; pass the keys of this message")]
    DetachedKeys {
        /// The id of the message that the keys belong to.
        keys: MessageId,
        /// The id of the message to open.
        message: MessageId,
    },
    /// The encryption context of the message is not the expected one.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The key provider returned no data key. See [`ProviderError::kind`].
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The key provider returned an invalid data key. Fix its implementation.
    #[error("the key provider returned {0}")]
    DataKey(#[from] DataKeyError),
    /// The key commitment in the header does not match the data key. The data key is wrong, or the header was modified
    /// or corrupted.
    #[error(
        "the key commitment does not match: the data key is not the one the message was sealed with, or the header was \
         modified or corrupted"
    )]
    Commitment,
    /// The header failed authentication. It was modified or corrupted, or a value of the
    /// [required encryption context](crate::EnvelopeBuilder::required_context) is wrong.
    #[error(
        "the header failed authentication: the message was modified or corrupted, or the required encryption context is \
         wrong"
    )]
    HeaderTag,
    /// A frame failed authentication. It was modified or corrupted. Use another copy of the message.
    #[error("frame {sequence} failed authentication: the message was modified or corrupted")]
    FrameTag {
        /// The frame's sequence number, from 1.
        sequence: u32,
    },
    /// The signature does not match. The message was modified or corrupted, or was signed with another key.
    #[error("the signature does not match: the message was modified or corrupted, or was signed with another key")]
    Signature,
    /// The requested range is not within the plaintext.
    #[error("the plaintext has {plaintext_len} bytes, so it does not contain the range {}..{}", range.start, range.end)]
    OutOfRange {
        /// The requested range, in bytes.
        range: std::ops::Range<u64>,
        /// The length of the plaintext, in bytes.
        plaintext_len: u64,
    },
    /// Opening this message, or reading its source, failed in an earlier call, whose error has the reason. The
    /// plaintext released until then is incomplete: do not treat it as the complete plaintext.
    #[error("opening this message failed earlier; the plaintext read until then is incomplete")]
    FailedBefore,
    /// The requested plaintext is longer than this platform can address. Read it in parts.
    #[error("{len} bytes are more than this platform can address; read them in parts")]
    TooLongForMemory {
        /// The requested length, in bytes.
        len: u64,
    },
    /// The output buffer is too short. No input was consumed: repeat the call with a longer buffer.
    #[error("the output buffer has {len} bytes, but up to {needed} are needed")]
    OutputTooShort {
        /// The length of the buffer, in bytes.
        len: usize,
        /// The required length, in bytes.
        needed: usize,
    },
    /// Reading the source of the message failed.
    #[error("the message could not be read")]
    Io(#[from] io::Error),
}

impl OpenError {
    /// Returns the category of the error, for example to choose an HTTP status.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Format(error) => error.kind(),
            Self::Context(error) => error.kind(),
            Self::Provider(error) => error.error_kind(),
            Self::DataKey(_) => ErrorKind::Unavailable,
            Self::Limit(_) | Self::CommitmentPolicy { .. } | Self::SignedStream => ErrorKind::Refused,
            Self::Commitment | Self::HeaderTag | Self::FrameTag { .. } | Self::Signature => ErrorKind::Tampered,
            Self::NotSeekable { .. }
            | Self::DetachedKeys { .. }
            | Self::OutOfRange { .. }
            | Self::FailedBefore
            | Self::TooLongForMemory { .. }
            | Self::OutputTooShort { .. } => ErrorKind::InvalidInput,
            Self::Io(error) => Meaning::of(error).kind,
        }
    }

    /// Returns whether the same call may succeed if it is repeated later. This is the case if the error of the key
    /// provider [is retryable](ProviderError::is_retryable), or if the source of the message failed with `WouldBlock`,
    /// `TimedOut` or `Interrupted`.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Provider(error) => error.is_retryable(),
            Self::Io(error) => Meaning::of(error).is_retryable,
            _ => false,
        }
    }

    /// Returns how long to wait before a retry, if the key service specified it.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Provider(error) => error.retry_after(),
            Self::Io(error) => Meaning::of(error).retry_after,
            _ => None,
        }
    }

    /// Returns the `OpenError` inside an I/O error of a reader that opens a message.
    ///
    /// It also finds one that other code has wrapped in another [`io::Error`], or in any error whose
    /// [`source`](std::error::Error::source) leads to it.
    ///
    /// ```
    /// use std::io;
    /// use kms_envelope::{EncryptionContext, Envelope, ErrorKind, OpenError, RawAes};
    ///
    /// # pollster::block_on(async {
    /// # let envelope = Envelope::new(RawAes::generate("example", "key")?);
    /// # let context = EncryptionContext::new();
    /// let mut sealed = envelope.seal(b"attack at dawn", &context).await?;
    /// sealed.pop();
    ///
    /// let mut reader = envelope.open_reader(&sealed[..], &context).await?;
    /// let error = io::copy(&mut reader, &mut io::sink()).unwrap_err();
    /// assert_eq!(OpenError::from_io(&error).map(OpenError::kind), Some(ErrorKind::Tampered));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn from_io(error: &io::Error) -> Option<&Self> {
        find(error)
    }
}

impl From<HeaderError> for OpenError {
    fn from(error: HeaderError) -> Self {
        match error {
            HeaderError::Format(error) => error.into(),
            HeaderError::Limit(error) => error.into(),
        }
    }
}

/// Wraps the error for the traits of `std::io`. [`OpenError::from_io`] returns the inner [`OpenError`].
impl From<OpenError> for io::Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Io(error) => error,
            OpenError::Format(FormatError::Truncated(_)) => Self::new(io::ErrorKind::UnexpectedEof, error),
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}
