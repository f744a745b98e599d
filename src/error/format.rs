//! What can be wrong with the bytes of a message.

use std::borrow::Cow;

use thiserror::Error;

use super::ErrorKind;

/// Bytes that are not a message, or not a whole one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes end before the message does.
    #[error("the message is truncated: unexpected end {0}")]
    Truncated(Cow<'static, str>),
    /// The message was encoded as text on its way.
    #[error("this looks like a base64-encoded message; decode it first")]
    Base64,
    /// The first byte is no version of the format.
    #[error("not an AWS Encryption SDK message: the first byte is {0:#04x}, not a version (0x01 or 0x02)")]
    Version(u8),
    /// The second byte of a version-1 message is not its type.
    #[error("not an AWS Encryption SDK message: the message type is {0:#04x}, not 0x80")]
    Type(u8),
    /// The suite id is unknown, or does not belong to the message's version.
    #[error("unknown algorithm suite {id:#06x} for message version {version}")]
    Suite {
        /// The id in the header.
        id: u16,
        /// The version in the header.
        version: u8,
    },
    /// The encryption context is malformed.
    #[error("the header's encryption context is malformed: {0}")]
    Context(&'static str),
    /// The public key of a signed message is missing or malformed, or an unsigned message has one.
    #[error("the header's encryption context does not match its algorithm suite: {0}")]
    PublicKey(&'static str),
    /// The encrypted data keys are malformed.
    #[error("the header's encrypted data keys are malformed: {0}")]
    EncryptedDataKeys(&'static str),
    /// The bytes are no [detached keys](crate::message::DetachedKeys), or not whole ones.
    #[error("invalid detached keys: {0}")]
    DetachedKeys(&'static str),
    /// A field has a value that the format does not allow.
    #[error("the header's {field} is {value}, which the format does not allow")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A frame is out of order.
    #[error("expected frame {expected}, but found frame {found}")]
    Sequence {
        /// The sequence number that is due.
        expected: u32,
        /// The one in the frame.
        found: u32,
    },
    /// The final frame says that it is longer than a frame may be.
    #[error("the final frame has {len} bytes, more than the frame length of {frame_len}")]
    FinalFrameLen {
        /// The length that the frame claims, in bytes.
        len: u32,
        /// The message's frame length, in bytes.
        frame_len: u32,
    },
    /// A frame is not at the place where the message's length puts it.
    #[error(
        "frame {sequence} is not at its expected position: the given message length is wrong, or the message was modified"
    )]
    Misplaced {
        /// The frame's sequence number, from 1.
        sequence: u32,
    },
    /// There is something behind the end of the message.
    #[error("trailing bytes after the end of the message")]
    TrailingBytes,
    /// The message is signed, and its length alone does not say where its frames are.
    #[error(
        "the message is signed, so the length of its footer is needed; find it with message::footer_lens and pass it \
         to Header::signed_geometry"
    )]
    FooterLenNeeded,
    /// No message of these lengths exists.
    #[error(
        "no message has {sealed_len} bytes in total with a header of {header_len} bytes and frames of {frame_len} bytes"
    )]
    Length {
        /// The length of the whole message, in bytes.
        sealed_len: u64,
        /// The length of the header, in bytes.
        header_len: u64,
        /// The plaintext bytes of a frame.
        frame_len: u32,
    },
}

/// A message asks for more than the [limits](crate::Limits) allow, before anything in it could be authenticated.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LimitError {
    /// Too many encrypted data keys.
    #[error("the header has {count} encrypted data keys, more than the limit of {limit}")]
    EncryptedDataKeys {
        /// How many there are.
        count: u16,
        /// How many are allowed.
        limit: u16,
    },
    /// A header that is too long.
    #[error("the header has at least {len} bytes, more than the limit of {limit}")]
    HeaderLen {
        /// The bytes known so far.
        len: usize,
        /// The bytes allowed.
        limit: usize,
    },
    /// Frames that are too long to be held in memory.
    #[error("the message has frames of {len} bytes, more than the limit of {limit}")]
    FrameLen {
        /// The plaintext bytes of a frame.
        len: u32,
        /// The bytes allowed.
        limit: u32,
    },
    /// A body without frames that is too long to be held in memory.
    #[error("the message has a non-framed body of {len} bytes, more than the limit of {limit}")]
    NonFramedLen {
        /// The plaintext bytes that the body claims to have.
        len: u64,
        /// The bytes allowed.
        limit: usize,
    },
}

/// A header that cannot be read: see [`Header::parse`](crate::message::Header::parse).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// It is malformed.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// It exceeds a limit.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

impl FormatError {
    /// Returns what the error means to a service.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Base64 | Self::Version(_) | Self::Type(_) | Self::Suite { .. } | Self::DetachedKeys(_) => {
                ErrorKind::NotAMessage
            }
            Self::Truncated(_)
            | Self::Context(_)
            | Self::PublicKey(_)
            | Self::EncryptedDataKeys(_)
            | Self::Field { .. }
            | Self::Sequence { .. }
            | Self::FinalFrameLen { .. }
            | Self::Misplaced { .. }
            | Self::TrailingBytes
            | Self::Length { .. } => ErrorKind::Tampered,
            Self::FooterLenNeeded => ErrorKind::InvalidInput,
        }
    }
}

impl LimitError {
    /// Returns what the error means to a service: [`ErrorKind::Refused`].
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Refused
    }
}

impl HeaderError {
    /// Returns what the error means to a service.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Format(error) => error.kind(),
            Self::Limit(error) => error.kind(),
        }
    }
}
