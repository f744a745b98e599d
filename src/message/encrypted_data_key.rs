//! A data key as it is stored in a message: encrypted, with the name of what encrypted it.

use std::{fmt, ops::Range};

use bytes::{BufMut, Bytes};

use super::Limits;
use crate::error::{FormatError, HeaderError, LimitError, SealError};

/// An encrypted data key, as a key provider made it and the message's header stores it.
///
/// Specification: `framework/structures.md`, "Encrypted Data Key".
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EncryptedDataKey {
    /// The kind of provider: `aws-kms`, or the namespace of a local key.
    pub provider_id: String,
    /// What the provider needs to find its key: for AWS KMS the key's ARN, for a local key its name and more.
    pub provider_info: Bytes,
    /// The data key, encrypted.
    pub ciphertext: Bytes,
}

impl EncryptedDataKey {
    /// Puts the three parts together. Each takes at most 65,535 bytes.
    pub fn new(provider_id: impl Into<String>, provider_info: impl Into<Bytes>, ciphertext: impl Into<Bytes>) -> Self {
        Self { provider_id: provider_id.into(), provider_info: provider_info.into(), ciphertext: ciphertext.into() }
    }

    /// The provider info as text, for people to read: the ARN for AWS KMS, the name for a local key. Bytes that are
    /// not text are left away at the end and replaced by `�` elsewhere.
    pub fn key_name(&self) -> String {
        // A raw AES key's info is its name and 20 bytes that begin with the tag's length in bits
        // (specification, `framework/raw-aes-keyring.md`, "Key Provider Information").
        const TAG_AND_IV_LEN: [u8; 8] = [0, 0, 0, 128, 0, 0, 0, 12];
        let info = &self.provider_info;
        let name = match info.len().checked_sub(20) {
            Some(name_len) if info[name_len..].starts_with(&TAG_AND_IV_LEN) => &info[..name_len],
            _ => info,
        };
        String::from_utf8_lossy(name).into_owned()
    }

    pub(crate) fn fields(&self) -> [&[u8]; 3] {
        [self.provider_id.as_bytes(), &self.provider_info, &self.ciphertext]
    }
}

impl fmt::Debug for EncryptedDataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptedDataKey")
            .field("provider_id", &self.provider_id)
            .field("key_name", &self.key_name())
            .field("ciphertext_len", &self.ciphertext.len())
            .finish_non_exhaustive()
    }
}

/// `provider-id/key-name`.
impl fmt::Display for EncryptedDataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider_id.escape_debug(), self.key_name().escape_debug())
    }
}

/// A section of encrypted data keys, as far as it has been read. Specification: `data-format/message-header.md`,
/// "Encrypted Data Keys".
#[derive(Clone, Debug, Default)]
pub(super) struct KeySection {
    /// How many parts there are in all.
    part_count: usize,
    /// Where they are: for each key its provider id, provider info and ciphertext.
    parts: Vec<Range<usize>>,
}

impl KeySection {
    const PARTS: usize = 3;

    /// The shortest key, in bytes: the lengths of its parts.
    pub(super) const LEAST_KEY_LEN: usize = 2 * Self::PARTS;

    pub(super) fn new(count: u16, limits: &Limits) -> Result<Self, HeaderError> {
        if count == 0 {
            return Err(FormatError::EncryptedDataKeys("there are none").into());
        }
        if count > limits.encrypted_data_keys {
            return Err(LimitError::EncryptedDataKeys { count, limit: limits.encrypted_data_keys }.into());
        }
        Ok(Self { part_count: usize::from(count) * Self::PARTS, parts: Vec::new() })
    }

    pub(super) fn is_complete(&self) -> bool {
        self.parts.len() == self.part_count
    }

    /// Adds the next part: its bytes, and where they are.
    pub(super) fn push(&mut self, range: Range<usize>, bytes: &[u8]) -> Result<(), FormatError> {
        let is_provider_id = self.parts.len().is_multiple_of(Self::PARTS);
        if is_provider_id && std::str::from_utf8(bytes).is_err() {
            return Err(FormatError::EncryptedDataKeys("a provider id is not UTF-8"));
        }
        self.parts.push(range);
        Ok(())
    }

    /// The keys, whose parts are in `bytes`.
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

fn u16_len(len: usize, what: &str) -> Result<u16, SealError> {
    u16::try_from(len).map_err(|_| SealError::DataKey { what: format!("{len} {what}; the format has room for 65535") })
}
