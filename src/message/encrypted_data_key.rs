//! A data key as it is stored in a message: encrypted, with the name of what encrypted it.

use std::fmt;

use bytes::Bytes;

use crate::suite::{IV_LEN, RAW_AES_LENGTHS};

/// An encrypted data key, as a key provider made it and the message's header stores it.
///
/// Specification: `framework/structures.md`, "Encrypted Data Key".
#[derive(Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
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
        // A raw AES key's info is its name, these lengths and the IV.
        let info = &self.provider_info;
        let name = match info.len().checked_sub(RAW_AES_LENGTHS.len() + IV_LEN) {
            Some(name_len) if info[name_len..].starts_with(&RAW_AES_LENGTHS) => &info[..name_len],
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
