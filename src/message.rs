//! The wire format: the AWS Encryption SDK's message, versions 1 and 2. No keys, no I/O.
//!
//! `message = header || body || footer?`; a body is frames and a final frame, the footer is a signature. Integers are
//! big-endian. Source: AWS Encryption SDK specification,
//! `data-format/`.

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
pub(crate) use footer::{FOOTER_OVERHEAD, parse_footer, write_footer};
pub use footer::{MAX_FOOTER_LEN, MIN_FOOTER_LEN, footer_lens};
pub(crate) use frame::{BLOCK_OVERHEAD, FrameHead, body_aad};
pub use frame::{FINAL_FRAME_OVERHEAD, FRAME_OVERHEAD};
pub use geometry::{FrameLocation, Geometry};
pub use header::{ContentType, Header};
pub(crate) use header::{HeaderFields, put_authentication};
pub use header_reader::HeaderReader;
pub(crate) use limits::Limits;
pub use message_id::MessageId;

pub use crate::{
    context::Iter as ContextIter,
    suite::{HashAlgorithm, KeyDerivation, MessageVersion, SignatureAlgorithm},
};

/// The result of parsing bytes of which more may have to arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parsed<T> {
    Complete(T),
    Incomplete {
        /// How many bytes must be there before another try makes sense.
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
