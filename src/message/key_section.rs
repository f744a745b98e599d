//! The section of encrypted data keys in headers and detached keys (specification, `data-format/message-header.md`,
//! "Encrypted Data Keys").

use std::ops::Range;

use bytes::{BufMut, Bytes};

use super::{EncryptedDataKey, Limits};
use crate::error::{DataKeyError, FormatError, HeaderError, SealError};

/// A partially parsed section of encrypted data keys.
#[derive(Clone, Debug, Default)]
pub(super) struct KeySection {
    /// The total number of parts.
    part_count: usize,
    /// The byte ranges parsed so far: for each key its provider id, provider info and ciphertext.
    parts: Vec<Range<usize>>,
}

impl KeySection {
    const PARTS: usize = 3;

    /// The length of the shortest key, in bytes: three length fields.
    pub(super) const LEAST_KEY_LEN: usize = 2 * Self::PARTS;

    pub(super) fn new(count: u16, limits: &Limits) -> Result<Self, HeaderError> {
        if count == 0 {
            return Err(FormatError::EncryptedDataKeys("the list is empty").into());
        }
        let count = usize::from(count);
        limits.check_encrypted_data_keys(count)?;
        Ok(Self { part_count: count * Self::PARTS, parts: Vec::new() })
    }

    pub(super) fn is_complete(&self) -> bool {
        self.parts.len() == self.part_count
    }

    /// Adds the next part, given its byte range and its bytes.
    pub(super) fn push(&mut self, range: Range<usize>, bytes: &[u8]) -> Result<(), FormatError> {
        let is_provider_id = self.parts.len().is_multiple_of(Self::PARTS);
        if is_provider_id && std::str::from_utf8(bytes).is_err() {
            return Err(FormatError::EncryptedDataKeys("a provider id is not UTF-8"));
        }
        self.parts.push(range);
        Ok(())
    }

    /// Returns the keys. The ranges refer to `bytes`.
    pub(super) fn into_keys(self, bytes: &Bytes) -> Vec<EncryptedDataKey> {
        let (keys, _) = self.parts.as_chunks::<{ Self::PARTS }>();
        let key = |[id, info, ciphertext]: &[Range<usize>; Self::PARTS]| {
            let id = String::from_utf8_lossy(&bytes[id.clone()]);
            EncryptedDataKey::new(id, bytes.slice(info.clone()), bytes.slice(ciphertext.clone()))
        };
        keys.iter().map(key).collect()
    }
}

pub(super) fn put_encrypted_data_keys(out: &mut Vec<u8>, keys: &[EncryptedDataKey]) -> Result<(), SealError> {
    out.put_u16(u16_len(keys.len(), "encrypted data keys")?);
    keys.iter().flat_map(EncryptedDataKey::fields).try_for_each(|field| put_u16_prefixed(out, field))
}

pub(super) fn put_u16_prefixed(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), SealError> {
    out.put_u16(u16_len(bytes.len(), "bytes in a field of an encrypted data key")?);
    out.put_slice(bytes);
    Ok(())
}

fn u16_len(len: usize, what: &'static str) -> Result<u16, SealError> {
    u16::try_from(len).map_err(|_| DataKeyError::TooLong { len, what }.into())
}
