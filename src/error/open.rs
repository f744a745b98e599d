//! What can go wrong when a message is opened.

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
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It is not a whole, well-formed message.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// It asks for more than the limits allow.
    #[error("{0}; raise the limit if you trust the message's source")]
    Limit(#[from] LimitError),
    /// The commitment policy does not allow its suite.
    #[error(
        "the message's algorithm suite {suite} has no key commitment, which the commitment policy {policy} requires; \
         to open it anyway, build the envelope with CommitmentPolicy::RequireEncryptAllowDecrypt"
    )]
    CommitmentPolicy {
        /// The suite.
        suite: AlgorithmSuite,
        /// The policy.
        policy: CommitmentPolicy,
    },
    /// It is signed or has no frames, so that no part of it can be opened without the rest.
    #[error("the message {what}, so parts of it cannot be opened separately; open the complete message")]
    NotSeekable {
        /// `is signed` or `has no frames`.
        what: &'static str,
    },
    /// It is signed, and this envelope [refuses to stream](crate::EnvelopeBuilder::refuse_signed_streams) those.
    #[error(
        "the message is signed, and this envelope does not stream signed messages; open it in one piece with Envelope::open"
    )]
    SignedStream,
    /// The [detached keys](crate::Envelope::with_detached_keys) belong to another message.
    #[error("the detached keys belong to message {keys}, but this is message {message}; pass the keys of this message")]
    DetachedKeys {
        /// The id of the message that the keys belong to.
        keys: MessageId,
        /// The id of the message that was to be opened.
        message: MessageId,
    },
    /// Its encryption context is not what was expected.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The key provider gave no data key.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The key provider gave a data key that does not fit.
    #[error("the key provider returned {0}")]
    DataKey(#[from] DataKeyError),
    /// The header does not commit to this data key: the key is wrong or the header was changed.
    #[error(
        "the key commitment does not match: the data key is not the one the message was sealed with, or the header was \
         modified or corrupted"
    )]
    Commitment,
    /// The header does not authenticate: it was changed, or a required pair of the encryption context is wrong.
    #[error(
        "the header failed authentication: the message was modified or corrupted, or the required encryption context is \
         wrong"
    )]
    HeaderTag,
    /// A frame does not authenticate.
    #[error("frame {sequence} failed authentication: the message was modified or corrupted")]
    FrameTag {
        /// The frame's sequence number, from 1.
        sequence: u32,
    },
    /// The signature does not match.
    #[error("the signature does not match: the message was modified or corrupted, or was signed with another key")]
    Signature,
    /// The plaintext does not have the range that was asked for.
    #[error("the plaintext has {plaintext_len} bytes, so it does not contain the range {}..{}", range.start, range.end)]
    OutOfRange {
        /// The range, in bytes.
        range: std::ops::Range<u64>,
        /// The length of the plaintext, in bytes.
        plaintext_len: u64,
    },
    /// The message failed to open, or its source failed, before; what was given out until then must not be taken for
    /// the whole. Only the first error says why.
    #[error("opening this message failed earlier; the plaintext read until then is incomplete")]
    FailedBefore,
    /// The requested plaintext has more bytes than this platform can address.
    #[error("{len} bytes are more than this platform can address; read them in parts")]
    TooLongForMemory {
        /// The length, in bytes.
        len: u64,
    },
    /// The buffer given for the output is too short; nothing was consumed.
    #[error("the output buffer has {len} bytes, but up to {needed} are needed")]
    OutputTooShort {
        /// Its length, in bytes.
        len: usize,
        /// The length needed, in bytes.
        needed: usize,
    },
    /// The source of the message could not be read.
    #[error("the message could not be read")]
    Io(#[from] io::Error),
}

impl OpenError {
    /// Returns what the error means to a service.
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

    /// Returns whether the same call may succeed when it is made again later: for the key provider's reasons, or since
    /// the source of the message failed with `WouldBlock`, `TimedOut` or `Interrupted`.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Provider(error) => error.is_retryable(),
            Self::Io(error) => Meaning::of(error).is_retryable,
            _ => false,
        }
    }

    /// Returns how long the key service wants to be left alone before a retry, if it has said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Provider(error) => error.retry_after(),
            Self::Io(error) => Meaning::of(error).retry_after,
            _ => None,
        }
    }

    /// Returns the error of opening behind an error of a reader that opens, also where other code has wrapped that in
    /// another [`io::Error`], or in any error whose [`source`](std::error::Error::source) leads to it.
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

/// As `std::io`'s traits need it; [`OpenError::from_io`] gives the [`OpenError`] back.
impl From<OpenError> for io::Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Io(error) => error,
            OpenError::Format(FormatError::Truncated(_)) => Self::new(io::ErrorKind::UnexpectedEof, error),
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}
