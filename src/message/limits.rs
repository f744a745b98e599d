//! What a stranger's message may ask for.

use std::num::NonZeroU32;

use crate::error::LimitError;

/// Limits on what a message may ask for before anything in it is authenticated.
///
/// Until a tag verifies, every length in a message is whatever an attacker wrote. Memory grows with the bytes that
/// arrive and never beyond these limits.
///
/// ```
/// use kms_envelope::Limits;
///
/// let limits = Limits { frame_len: 1 << 20, ..Limits::default() };
/// assert_eq!(limits.encrypted_data_keys, 16);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most encrypted data keys in a header. Each may cost a call to a key service. Default: 16.
    pub encrypted_data_keys: u16,
    /// The longest header, in bytes. Default: 262,144.
    pub header_len: usize,
    /// The longest frame on opening, in plaintext bytes: a frame is held in memory. Default: 16,777,216.
    pub frame_len: u32,
    /// The longest body without frames on opening, in plaintext bytes: it is held in memory whole. Default:
    /// 67,108,864.
    pub non_framed_len: usize,
    /// The most encrypted data keys of a message under one and the same KMS key (replicas of a multi-region key count as
    /// one) that KMS may answer for before the rest of them are left alone. Default: 2. A writer makes one for each key.
    pub tries_per_kms_key: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            encrypted_data_keys: 16,
            header_len: 256 << 10,
            frame_len: 16 << 20,
            non_framed_len: 64 << 20,
            tries_per_kms_key: 2,
        }
    }
}

impl Limits {
    /// The longest frame that can be opened: a whole frame must fit into memory, with a header and a footer.
    pub(crate) fn max_frame_len(&self) -> u32 {
        let addressable = isize::MAX.unsigned_abs() / 2;
        self.frame_len.min(u32::try_from(addressable).unwrap_or(u32::MAX))
    }

    pub(crate) fn check_frame_len(&self, len: NonZeroU32) -> Result<(), LimitError> {
        let (len, limit) = (len.get(), self.max_frame_len());
        if len > limit { Err(LimitError::FrameLen { len, limit }) } else { Ok(()) }
    }
}
