//! The wire format: the AWS Encryption SDK's message, versions 1 and 2. No keys, no I/O.
//!
//! `message = header || frame* || final frame`, integers big-endian. Source: AWS Encryption SDK specification,
//! `data-format/`.

mod encrypted_data_key;
mod frame;
mod geometry;
mod header;
mod limits;

pub use encrypted_data_key::EncryptedDataKey;
pub use frame::{FINAL_FRAME_OVERHEAD, FRAME_OVERHEAD};
pub(crate) use frame::{FrameHead, body_aad};
pub use geometry::{FrameLocation, Geometry};
pub use header::{ContentType, Header, MessageId, Parsed};
pub(crate) use header::{HeaderFields, TAG_LEN};
pub use limits::Limits;
