//! The section of encrypted data keys in headers and detached keys (specification, `data-format/message-header.md`,
//! "Encrypted Data Keys").

use std::ops::Range;

use bytes::{BufMut, Bytes};

use super::{EncryptedDataKey, Limits, encrypted_data_key::is_padding};
use crate::error::{DataKeyError, FormatError, HeaderError, SealError};

/// A partially parsed section of encrypted data keys.
#[derive(Clone, Debug, Default)]
pub(super) struct KeySection {
    /// The number of parts that are missing: each key has its provider id, provider info and ciphertext.
    missing_parts: usize,
    /// The bytes of the keys parsed so far, without their number.
    range: Range<usize>,
}

impl KeySection {
    const PARTS: usize = 3;

    /// The length of the shortest key, in bytes: three length fields.
    pub(super) const LEAST_KEY_LEN: usize = 2 * Self::PARTS;

    /// Creates a section whose keys start at this offset.
    pub(super) fn new(start: usize, count: u16, limits: &Limits) -> Result<Self, HeaderError> {
        if count == 0 {
            return Err(FormatError::EncryptedDataKeys("the list is empty").into());
        }
        let count = usize::from(count);
        limits.check_encrypted_data_keys(count)?;
        Ok(Self { missing_parts: count * Self::PARTS, range: start..start })
    }

    pub(super) fn is_complete(&self) -> bool {
        self.missing_parts == 0
    }

    /// Adds the next part, which ends at this offset.
    pub(super) fn push(&mut self, end: usize, part: &[u8]) -> Result<(), FormatError> {
        let is_provider_id = self.missing_parts.is_multiple_of(Self::PARTS);
        if is_provider_id && std::str::from_utf8(part).is_err() {
            return Err(FormatError::EncryptedDataKeys("a provider id is not UTF-8"));
        }
        self.missing_parts -= 1;
        self.range.end = end;
        Ok(())
    }

    /// Returns the byte range of the keys, without their number.
    pub(super) fn range(self) -> Range<usize> {
        self.range
    }
}

/// Serialized encrypted data keys, which have been checked, without their number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EncryptedDataKeys<'a>(&'a [u8]);

impl<'a> EncryptedDataKeys<'a> {
    /// No keys.
    pub(crate) const NONE: Self = Self(&[]);

    /// `bytes` must have been checked.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    #[cfg(test)]
    pub(crate) fn serialize(keys: &[EncryptedDataKey]) -> Vec<u8> {
        let mut out = Vec::new();
        put_encrypted_data_keys(&mut out, keys).unwrap();
        out.split_off(2)
    }

    pub(crate) fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Returns an iterator over the keys. Each item has one key.
    pub(crate) fn iter(self) -> impl Iterator<Item = Self> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (start, _) = (rest, take_key(&mut rest)?);
            Some(Self(&start[..start.len() - rest.len()]))
        })
    }

    /// Returns the keys without padding after them, which the key provider and the cache need not pass over. The indexes
    /// stay the same. Does not return an empty list.
    pub(crate) fn without_padding(self) -> Self {
        let mut rest = self.0;
        while let (start, Some(key)) = (rest, take_key(&mut rest)) {
            let before = &self.0[..self.0.len() - start.len()];
            if rest.is_empty() && is_padding(key) && !before.is_empty() {
                return Self(before);
            }
        }
        self
    }

    /// Decodes the keys, in memory of their own.
    pub(crate) fn to_keys(self) -> Vec<EncryptedDataKey> {
        let bytes = Bytes::copy_from_slice(self.0);
        EncryptedDataKeys(&bytes).in_bytes(&bytes)
    }

    /// Decodes the keys, whose fields share the memory of `bytes`, which must contain them.
    pub(super) fn in_bytes(self, bytes: &Bytes) -> Vec<EncryptedDataKey> {
        let mut rest = self.0;
        let keys = std::iter::from_fn(|| take_key(&mut rest));
        let key = |[id, info, ciphertext]: [&[u8]; KeySection::PARTS]| {
            EncryptedDataKey::new(String::from_utf8_lossy(id), bytes.slice_ref(info), bytes.slice_ref(ciphertext))
        };
        keys.map(key).collect()
    }
}

/// Removes a key from the start of the section, and returns its parts.
fn take_key<'a>(rest: &mut &'a [u8]) -> Option<[&'a [u8]; KeySection::PARTS]> {
    let mut key = [&[][..]; KeySection::PARTS];
    for part in &mut key {
        let (len, after) = rest.split_first_chunk::<2>()?;
        (*part, *rest) = after.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    }
    Some(key)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_padding_after_the_keys_is_removed() {
        let key = |provider_id, ciphertext: &'static [u8]| EncryptedDataKey::new(provider_id, &b"info"[..], ciphertext);
        let (one, other) = (key("aws-kms", b"one"), key("aws-kms", &[0]));
        let own = key("kms-envelope-padding", b"a key of a provider with this namespace");
        let padding = EncryptedDataKey::padding(100, 128).unwrap().unwrap();
        for (keys, expected) in [
            (vec![&one, &padding], 1),
            (vec![&one, &other, &padding], 2),
            (vec![&padding, &one], 2),
            (vec![&padding, &padding], 1),
            (vec![&padding], 1),
            (vec![&one, &other], 2),
            (vec![&one, &own], 2),
        ] {
            let keys: Vec<_> = keys.into_iter().cloned().collect();
            let serialized = EncryptedDataKeys::serialize(&keys);
            assert_eq!(EncryptedDataKeys::new(&serialized).without_padding().to_keys(), keys[..expected], "{keys:?}");
        }
    }
}
