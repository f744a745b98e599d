//! The AWS Encryption SDK's message format, versions 1 and 2.
//!
//! Use this module to inspect a message without a key, or to compute the offsets of its parts. It does no I/O and
//! decrypts nothing.
//!
//! A message is a header, a body and, if the algorithm suite signs, a footer with the signature. The body is a sequence
//! of frames that ends with a final frame; some writers, but not this crate, can also write a non-framed body, which is
//! a single block. Integers are big-endian. The format is defined in the [AWS Encryption SDK
//! specification](https://github.com/awslabs/aws-encryption-sdk-specification/tree/master/data-format).
//!
//! | to … | use … |
//! |---|---|
//! | read the header at the start of a buffer | [`Header::parse`] |
//! | read a header whose bytes arrive in pieces | [`HeaderReader`] |
//! | find the frames of a message, and its plaintext length | [`Header::geometry`], or [`Header::signed_geometry`] and [`footer_lens`] if it is signed |
//! | find the plaintext length from the length of a message alone | [`EnvelopeBuilder::header_len`](crate::EnvelopeBuilder::header_len) and [`Geometry::of_sealed`] |
//! | compute the length of a message before it is sealed | [`Geometry::of_plaintext`] |
//! | store and load the encrypted data keys that [`Envelope::rewrap`](crate::Envelope::rewrap) returns | [`DetachedKeys`] |

mod detached_keys;
mod encrypted_data_key;
mod footer;
mod frame;
mod geometry;
mod header;
mod header_reader;
mod key_section;
pub(crate) mod limits;
mod message_id;

pub use detached_keys::DetachedKeys;
pub use encrypted_data_key::EncryptedDataKey;
pub(crate) use encrypted_data_key::MIN_PADDING_LEN;
pub(crate) use footer::{FOOTER_OVERHEAD, parse_footer, write_footer};
pub use footer::{MAX_FOOTER_LEN, MIN_FOOTER_LEN, footer_lens};
pub(crate) use frame::{BLOCK_OVERHEAD, FrameHead, body_aad};
pub use frame::{FINAL_FRAME_OVERHEAD, FRAME_OVERHEAD};
pub use geometry::{FrameLocation, Geometry};
pub use header::{ContentType, Header};
pub(crate) use header::{HeaderFields, HeaderTemplate, HeaderView};
pub use header_reader::HeaderReader;
pub(crate) use header_reader::least_len as least_header_len;
pub(crate) use key_section::EncryptedDataKeys;
pub(crate) use limits::Limits;
pub use message_id::MessageId;

pub use crate::{
    context::Iter as ContextIter,
    suite::{HashAlgorithm, KeyDerivation, MessageVersion, SignatureAlgorithm},
};

/// The result of parsing input that may still be incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parsed<T> {
    Complete(T),
    Incomplete {
        /// The number of input bytes without which parsing cannot make progress.
        needed: usize,
    },
}

impl<T> Parsed<T> {
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Parsed<U> {
        match self {
            Self::Complete(parsed) => Parsed::Complete(change(parsed)),
            Self::Incomplete { needed } => Parsed::Incomplete { needed },
        }
    }
}
