//! Limits on untrusted messages.

use std::num::NonZeroU32;

use super::BLOCK_OVERHEAD;
use crate::error::LimitError;

/// Limits on the resources that an untrusted message can use.
///
/// An attacker can choose every length and count in a message until it is authenticated. Opening a message uses memory
/// in proportion to the bytes received, up to these limits. Change them with
/// [`EnvelopeBuilder::limits`](crate::EnvelopeBuilder::limits).
///
/// ```
/// use kms_envelope::Limits;
///
/// let limits = Limits::default().with_frame_len(1 << 20);
/// assert_eq!((limits.frame_len, limits.encrypted_data_keys), (1 << 20, 16));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The maximum number of encrypted data keys in a header. Each one can cause a request to a key service. The padding
    /// of a [fixed header length](crate::EnvelopeBuilder::header_len) counts as one. Default: 16.
    pub encrypted_data_keys: u16,
    /// The maximum length of a header, in bytes. Default: 262,144.
    pub header_len: usize,
    /// The maximum length of a frame on opening, in plaintext bytes. A frame is held in memory. Default: 16,777,216.
    pub frame_len: u32,
    /// The maximum length of a non-framed body on opening, in plaintext bytes. The entire body is held in memory.
    /// Default: 67,108,864.
    pub non_framed_len: usize,
    /// The maximum number of encrypted data keys under the same KMS key that are tried for one message. Further ones
    /// under that key are skipped. An encrypted data key counts only if KMS answers a request for it: requests that are
    /// throttled, time out or reach no server do not count. Replicas of a multi-region key count as one key.
    /// Default: 2, because a message normally has one encrypted data key for each KMS key.
    pub tries_per_kms_key: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self::new()
    }
}

impl Limits {
    /// Returns the default limits.
    pub const fn new() -> Self {
        Self {
            encrypted_data_keys: 16,
            header_len: 256 << 10,
            frame_len: 16 << 20,
            non_framed_len: 64 << 20,
            tries_per_kms_key: 2,
        }
    }

    /// Sets [`encrypted_data_keys`](Self::encrypted_data_keys).
    #[must_use]
    pub const fn with_encrypted_data_keys(mut self, count: u16) -> Self {
        self.encrypted_data_keys = count;
        self
    }

    /// Sets [`header_len`](Self::header_len), in bytes.
    #[must_use]
    pub const fn with_header_len(mut self, bytes: usize) -> Self {
        self.header_len = bytes;
        self
    }

    /// Sets [`frame_len`](Self::frame_len), in plaintext bytes.
    #[must_use]
    pub const fn with_frame_len(mut self, bytes: u32) -> Self {
        self.frame_len = bytes;
        self
    }

    /// Sets [`non_framed_len`](Self::non_framed_len), in plaintext bytes.
    #[must_use]
    pub const fn with_non_framed_len(mut self, bytes: usize) -> Self {
        self.non_framed_len = bytes;
        self
    }

    /// Sets [`tries_per_kms_key`](Self::tries_per_kms_key).
    #[must_use]
    pub const fn with_tries_per_kms_key(mut self, tries: u16) -> Self {
        self.tries_per_kms_key = tries;
        self
    }

    pub(crate) fn check_encrypted_data_keys(&self, count: usize) -> Result<(), LimitError> {
        let limit = self.encrypted_data_keys;
        if count > usize::from(limit) {
            return Err(LimitError::EncryptedDataKeys { count: u16::try_from(count).unwrap_or(u16::MAX), limit });
        }
        Ok(())
    }

    /// Checks the length of a header, or the part of it that is known so far.
    pub(crate) fn check_header_len(&self, len: usize) -> Result<(), LimitError> {
        let limit = self.header_len;
        if len > limit { Err(LimitError::HeaderLen { len, limit }) } else { Ok(()) }
    }

    /// Returns the maximum length of a frame: an entire frame, a header and a footer must fit into memory.
    pub(crate) fn max_frame_len(&self) -> u32 {
        let addressable = isize::MAX.unsigned_abs() / 2;
        self.frame_len.min(u32::try_from(addressable).unwrap_or(u32::MAX))
    }

    pub(crate) fn check_frame_len(&self, len: NonZeroU32) -> Result<(), LimitError> {
        let (len, limit) = (len.get(), self.max_frame_len());
        if len > limit { Err(LimitError::FrameLen { len, limit }) } else { Ok(()) }
    }

    /// Checks and returns the plaintext length that a non-framed body claims. The entire body must fit into memory.
    pub(crate) fn check_non_framed_len(&self, len: u64) -> Result<usize, LimitError> {
        let limit = self.non_framed_len;
        let addressable = isize::MAX.unsigned_abs() - BLOCK_OVERHEAD;
        let checked = usize::try_from(len).ok().filter(|len| *len <= limit.min(addressable));
        checked.ok_or(LimitError::NonFramedLen { len, limit })
    }
}
