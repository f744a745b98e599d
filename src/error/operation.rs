//! What can go wrong when a message is sealed, opened or rewrapped.

use std::io;

use thiserror::Error;

use super::{ContextError, FormatError, HeaderError, LimitError, RandomError};
use crate::{
    provider::ProviderError,
    suite::{AlgorithmSuite, CommitmentPolicy},
};

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
    #[error("the key provider gave {what}")]
    DataKey {
        /// What does not fit.
        what: String,
    },
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
    #[error("the output has {len} bytes, more than this platform can address: seal the plaintext as a stream")]
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
    #[error("the message is finished and takes no more plaintext: seal the rest as another message")]
    Finished,
    /// The message failed to be sealed before. It has no end, and no reader accepts it.
    #[error("sealing this message has failed before: it has no end, and does not open; seal it again from the start")]
    FailedBefore,
}

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
        "the message's algorithm suite {suite} has no key commitment, which the commitment policy {policy} demands; \
         to open it all the same, build the envelope with CommitmentPolicy::RequireEncryptAllowDecrypt"
    )]
    CommitmentPolicy {
        /// The suite.
        suite: AlgorithmSuite,
        /// The policy.
        policy: CommitmentPolicy,
    },
    /// It is signed or has no frames, so that no part of it can be opened without the rest.
    #[error("the message {what}, so that no part of it can be opened by itself: open it whole, from its start")]
    NotSeekable {
        /// `is signed` or `has no frames`.
        what: &'static str,
    },
    /// It is signed, and this envelope [refuses to stream](crate::EnvelopeBuilder::refuse_signed_streams) those.
    #[error(
        "the message is signed, and this envelope gives no plaintext of those before all is verified: open it whole"
    )]
    SignedStream,
    /// The [detached keys](crate::Envelope::with_detached_keys) belong to another message.
    #[error(
        "the detached keys are those of message {keys}, but this is message {message}: give those that belong to it"
    )]
    DetachedKeys {
        /// The id of the message that the keys belong to.
        keys: String,
        /// The id of the message that was to be opened.
        message: String,
    },
    /// Its encryption context is not what was expected.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The key provider gave no data key.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The key provider gave a data key that does not fit.
    #[error("the key provider gave {what}")]
    DataKey {
        /// What does not fit.
        what: String,
    },
    /// The header does not commit to this data key: the key is wrong or the header was changed.
    #[error("the key commitment does not match: this data key is not the one that the message was sealed with")]
    Commitment,
    /// The header does not authenticate: it was changed, or a required pair of the encryption context is wrong.
    #[error("the header does not authenticate: the message was changed, or a required context pair is wrong")]
    HeaderTag,
    /// A frame does not authenticate.
    #[error("frame {sequence} does not authenticate: the message was changed")]
    FrameTag {
        /// The frame's sequence number, from 1.
        sequence: u32,
    },
    /// The signature does not match.
    #[error("the signature does not match: the message was changed, or signed with another key")]
    Signature,
    /// The plaintext does not have the range that was asked for.
    #[error("the plaintext has {plaintext_len} bytes, and not the range {} to {}", range.start, range.end)]
    OutOfRange {
        /// The range, in bytes.
        range: std::ops::Range<u64>,
        /// The length of the plaintext, in bytes.
        plaintext_len: u64,
    },
    /// The message failed to open, or its source failed, before; what was given out until then must not be taken for
    /// the whole.
    #[error("opening this message has failed before: what was read until then is not all of it")]
    FailedBefore,
    /// The requested plaintext has more bytes than this platform can address.
    #[error("{len} bytes are more than this platform can address: read them in parts")]
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
    #[error("the message cannot be read")]
    Io(#[from] io::Error),
}

/// A message's data key could not be put under another key: see [`Envelope::rewrap`](crate::Envelope::rewrap).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RewrapError {
    /// The message does not open, as far as its header goes.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The new key provider does not encrypt the data key.
    #[error("the data key cannot be put under the new key")]
    Encrypt(#[source] ProviderError),
    /// The new key provider gave encrypted data keys that the format, or this envelope's limits, have no room for.
    #[error("the new key's encrypted data keys cannot be used")]
    Keys(#[source] SealError),
}

/// A message could not be sealed anew: see [`Envelope::reseal`](crate::Envelope::reseal).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ResealError {
    /// The old message does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The new one cannot be sealed.
    #[error("the message opens, but cannot be sealed anew")]
    Seal(#[from] SealError),
}

impl From<HeaderError> for OpenError {
    fn from(error: HeaderError) -> Self {
        match error {
            HeaderError::Format(error) => error.into(),
            HeaderError::Limit(error) => error.into(),
        }
    }
}

/// As `std::io`'s traits need it; [`io::Error::downcast`] gives the [`OpenError`] back.
impl From<OpenError> for io::Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Io(error) => error,
            OpenError::Format(FormatError::Truncated(_)) => Self::new(io::ErrorKind::UnexpectedEof, error),
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// As `std::io`'s traits need it; [`io::Error::downcast`] gives the [`SealError`] back.
impl From<SealError> for io::Error {
    fn from(error: SealError) -> Self {
        let kind = match error {
            SealError::Finished | SealError::FailedBefore => io::ErrorKind::BrokenPipe,
            _ => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}
