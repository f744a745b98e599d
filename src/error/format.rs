//! Errors of the bytes of a message.

use std::borrow::Cow;

use thiserror::Error;

use super::ErrorKind;

/// The bytes are not a message, or the message is malformed or incomplete.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The input ends before the end of the message. Holds the position, such as `frame 3`. Use a complete copy.
    #[error("the message is truncated: unexpected end in {0}")]
    Truncated(Cow<'static, str>),
    /// The message seems to be encoded in base64. Decode it first.
    #[error("this looks like a base64-encoded message; decode it first")]
    Base64,
    /// The input is not a message: its first byte is not a version of the format. Holds that byte.
    #[error("not an AWS Encryption SDK message: the first byte is {0:#04x}, not a version (0x01 or 0x02)")]
    Version(u8),
    /// The input is not a message: its message type is unknown. Holds the type.
    #[error("not an AWS Encryption SDK message: the message type is {0:#04x}, not 0x80")]
    Type(u8),
    /// The algorithm suite is unknown, or does not belong to the message's version.
    #[error("unknown algorithm suite {id:#06x} for message version {version}")]
    Suite {
        /// The suite id in the header.
        id: u16,
        /// The message version in the header.
        version: u8,
    },
    /// The encryption context in the header is malformed. Holds the reason.
    #[error("the header's encryption context is malformed: {0}")]
    Context(&'static str),
    /// The public key of a signed message is missing or malformed, or an unsigned message has one. Holds the reason.
    #[error("the header's encryption context does not match its algorithm suite: {0}")]
    PublicKey(&'static str),
    /// The encrypted data keys in the header are malformed. Holds the reason.
    #[error("the header's encrypted data keys are malformed: {0}")]
    EncryptedDataKeys(&'static str),
    /// The bytes are not valid [detached keys](crate::message::DetachedKeys). Holds the reason.
    #[error("invalid detached keys: {0}")]
    DetachedKeys(&'static str),
    /// A field of the header has a value that the format does not allow.
    #[error("the header's {field} is {value}, which the format does not allow")]
    Field {
        /// The name of the field.
        field: &'static str,
        /// The value.
        value: u64,
    },
    /// A frame is out of order.
    #[error("expected frame {expected}, but found frame {found}")]
    Sequence {
        /// The expected sequence number.
        expected: u32,
        /// The sequence number in the frame.
        found: u32,
    },
    /// The length of the final frame exceeds the frame length of the message.
    #[error("the final frame has {len} bytes, more than the frame length of {frame_len}")]
    FinalFrameLen {
        /// The length in the final frame, in bytes.
        len: u32,
        /// The message's frame length, in bytes.
        frame_len: u32,
    },
    /// A frame is not at the position that follows from the message's length. The length is wrong, or the message was
    /// modified.
    #[error(
        "frame {sequence} is not at its expected position: the given message length is wrong, or the message was modified"
    )]
    Misplaced {
        /// The frame's sequence number, from 1.
        sequence: u32,
    },
    /// There are trailing bytes after the end of the message.
    #[error("trailing bytes after the end of the message")]
    TrailingBytes,
    /// The message is signed, so its length alone does not determine the positions of its frames. Call
    /// [`footer_lens`](crate::message::footer_lens), then
    /// [`Header::signed_geometry`](crate::message::Header::signed_geometry).
    #[error(
        "the message is signed, so the length of its footer is needed; find it with message::footer_lens and pass it \
         to Header::signed_geometry"
    )]
    FooterLenNeeded,
    /// No message has these lengths: the message is truncated, or has trailing bytes.
    #[error(
        "no message has {sealed_len} bytes in total with a header of {header_len} bytes and frames of {frame_len} bytes"
    )]
    Length {
        /// The length of the complete message, in bytes.
        sealed_len: u64,
        /// The length of the header, in bytes.
        header_len: u64,
        /// The frame length, in plaintext bytes.
        frame_len: u32,
    },
}

/// The message exceeds one of the [limits](crate::Limits), which protect against resource exhaustion by untrusted
/// messages.
///
/// If you trust the source of the message, raise the limit with
/// [`EnvelopeBuilder::limits`](crate::EnvelopeBuilder::limits).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LimitError {
    /// The header has too many encrypted data keys.
    #[error("the header has {count} encrypted data keys, more than the limit of {limit}")]
    EncryptedDataKeys {
        /// The number of encrypted data keys.
        count: u16,
        /// The maximum number.
        limit: u16,
    },
    /// The header is too long.
    #[error("the header has at least {len} bytes, more than the limit of {limit}")]
    HeaderLen {
        /// The length known so far, in bytes.
        len: usize,
        /// The maximum, in bytes.
        limit: usize,
    },
    /// The frames are too long to be held in memory.
    #[error("the message has frames of {len} bytes, more than the limit of {limit}")]
    FrameLen {
        /// The frame length, in plaintext bytes.
        len: u32,
        /// The maximum, in bytes.
        limit: u32,
    },
    /// The non-framed body is too long to be held in memory.
    #[error("the message has a non-framed body of {len} bytes, more than the limit of {limit}")]
    NonFramedLen {
        /// The length that the message claims, in plaintext bytes.
        len: u64,
        /// The maximum, in bytes.
        limit: usize,
    },
}

/// A header could not be parsed: see [`Header::parse`](crate::message::Header::parse).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The header is malformed.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The header exceeds a limit.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

impl FormatError {
    /// Returns the category of the error, for example to choose an HTTP status.
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
    /// Returns [`ErrorKind::Refused`].
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Refused
    }
}

impl HeaderError {
    /// Returns the category of the error, for example to choose an HTTP status.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Format(error) => error.kind(),
            Self::Limit(error) => error.kind(),
        }
    }
}
