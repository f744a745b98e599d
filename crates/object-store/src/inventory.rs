//! The content of an object, read without its keys.

use kms_envelope::{
    KeyProvider,
    error::HeaderError,
    message::{DetachedKeys, EncryptedDataKey, Header},
};
use sha2::{Digest, Sha256};

/// The content of an object, as its first bytes and its detached keys show it. None of it is authenticated.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Content {
    /// A message, or something that begins like one.
    Message(Box<Message>),
    /// Detached keys without an object.
    DetachedKeys(DetachedKeys),
    /// Not a message.
    Other(HeaderError),
}

/// The header of a message, and its detached keys.
#[derive(Clone, Debug)]
pub struct Message {
    pub(crate) header: Header,
    pub(crate) plaintext_len: Option<u64>,
    pub(crate) detached_keys: Option<DetachedKeys>,
}

impl Message {
    /// Returns the header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Returns the length of the plaintext in bytes, if it follows from the length of the message: it does not for
    /// signed messages, for those without frames, and for those that are truncated.
    pub fn plaintext_len(&self) -> Option<u64> {
        self.plaintext_len
    }

    /// Returns the detached keys, if the inventory looks for them and there are any for this message.
    pub fn detached_keys(&self) -> Option<&DetachedKeys> {
        self.detached_keys.as_ref()
    }

    /// Returns the encrypted data keys of the header and the detached ones, without padding.
    pub fn encrypted_data_keys(&self) -> impl Iterator<Item = &EncryptedDataKey> {
        let detached = self.detached_keys.iter().flat_map(DetachedKeys::encrypted_data_keys);
        self.header.encrypted_data_keys().iter().chain(detached).filter(|key| key.padding_len().is_none())
    }

    /// Returns whether this provider [may decrypt](KeyProvider::may_decrypt) one of the encrypted data keys, by the names of
    /// their keys, which are not authenticated. Only opening the message shows whether it does.
    pub fn may_open_with(&self, provider: &dyn KeyProvider) -> bool {
        self.encrypted_data_keys().any(|key| provider.may_decrypt(key))
    }
}

/// Returns 8 bytes of the SHA-256 digest of these texts, to recognize them.
pub(crate) fn fingerprint<'a>(texts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut digest = Sha256::new();
    for text in texts {
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text);
    }
    digest.finalize().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
