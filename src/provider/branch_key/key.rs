//! Branch keys in memory, and how they encrypt data keys.

use std::fmt;

use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    context::EncryptionContext,
    crypto::{AesGcm, Backend, SecretKey, WrappingCiphers, kbkdf},
    entry_cache::Material,
    error::{ConfigError, NameReason},
    message::EncryptedDataKey,
    provider::{EncryptDataKeyRequest, ProviderError, ProviderErrorKind, failed, unwrap_data_key},
    suite::{AlgorithmSuite, IV_LEN},
};

pub(super) const PROVIDER_ID: &str = "aws-kms-hierarchy";
/// The length of a branch key.
pub(super) const KEY_LEN: usize = 32;
/// The maximum length of a branch key id: an encrypted data key contains it.
const MAX_ID_LEN: usize = u16::MAX as usize;
const SALT_LEN: usize = 16;
const VERSION_LEN: usize = 16;

/// One version of a branch key in plaintext, as returned by [`BranchKeys::active`](super::BranchKeys::active).
///
/// Its key is zeroized on drop.
#[derive(Debug)]
pub struct BranchKey {
    pub(super) id: String,
    pub(super) version: [u8; VERSION_LEN],
    pub(super) key: SecretKey,
    pub(super) context: EncryptionContext,
}

impl BranchKey {
    /// Returns the branch key's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the 16 bytes of the version's UUID.
    pub fn version(&self) -> &[u8; VERSION_LEN] {
        &self.version
    }

    /// Returns the version's UUID as text, such as `0f8fad5b-d9cb-469f-a165-70867728950e`.
    pub fn version_uuid(&self) -> String {
        Uuid::from_bytes(self.version).to_string()
    }

    /// Returns the key, which has 32 bytes.
    pub fn key(&self) -> &SecretKey {
        &self.key
    }

    /// Returns the branch key's own encryption context, which was set when it was created.
    pub fn context(&self) -> &EncryptionContext {
        &self.context
    }

    /// Encrypts a data key for a message.
    pub(super) fn wrap(
        &self,
        provider: &impl fmt::Display,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<EncryptedDataKey, ProviderError> {
        let EncryptDataKeyRequest { context, data_key, backend, randomness, .. } = *request;
        let mut salt = [0; SALT_LEN];
        randomness.fill(&mut salt)?;
        let context = context.serialize().map_err(|error| failed("Encrypt", provider, error))?;
        let (key, aad) = (self.wrapping_key(backend, &salt), self.aad(&context));
        let ciphers = WrappingCiphers::default();
        let (iv, wrapped) = ciphers.wrap(backend, &*key, randomness.0, &aad, data_key.expose())?;
        let ciphertext = [&salt[..], &iv, &self.version, &wrapped].concat();
        Ok(EncryptedDataKey::new(PROVIDER_ID, self.id.clone().into_bytes(), ciphertext))
    }

    /// Decrypts a data key. Returns `None` if that fails. `context` is the message's serialized context.
    pub(super) fn unwrap(
        &self,
        backend: Backend,
        wrapped: &Wrapped<'_>,
        context: &[u8],
        suite: AlgorithmSuite,
    ) -> Option<SecretKey> {
        if wrapped.version != self.version {
            return None;
        }
        let cipher = AesGcm::new(backend, &*self.wrapping_key(backend, wrapped.salt));
        unwrap_data_key(&cipher, wrapped.iv, &self.aad(context), wrapped.data_key, suite)
    }

    /// Derives the key that encrypts a data key from the branch key and the salt.
    fn wrapping_key(&self, backend: Backend, salt: &[u8]) -> Zeroizing<[u8; 32]> {
        kbkdf::sha256(backend, self.key.expose(), PROVIDER_ID.as_bytes(), salt)
    }

    fn aad(&self, context: &[u8]) -> Vec<u8> {
        [PROVIDER_ID.as_bytes(), self.id.as_bytes(), &self.version, context].concat()
    }
}

impl Material for BranchKey {
    const KIND: &'static str = "branch key";
    type Error = ProviderError;

    fn panicked() -> ProviderError {
        ProviderError::new(ProviderErrorKind::Other, "GetBranchKey", PROVIDER_ID)
            .with_detail("a request for a branch key panicked")
    }

    fn held_bytes(&self) -> usize {
        self.id.len() + self.key.len() + self.context.held_bytes()
    }
}

/// Checks the id of a branch key.
pub(super) fn check_id(id: &str) -> Result<(), ConfigError> {
    let refused = |reason| Err(ConfigError::KeyName { field: "branch key id", reason });
    match id.len() {
        0 => refused(NameReason::Empty),
        len if len > MAX_ID_LEN => refused(NameReason::TooLong { max: MAX_ID_LEN }),
        _ => Ok(()),
    }
}

/// The parts of an encrypted data key's ciphertext.
pub(super) struct Wrapped<'a> {
    salt: &'a [u8; SALT_LEN],
    iv: &'a [u8; IV_LEN],
    /// The version of the branch key.
    pub(super) version: [u8; VERSION_LEN],
    data_key: &'a [u8],
}

impl<'a> Wrapped<'a> {
    pub(super) fn parse(ciphertext: &'a [u8]) -> Option<Self> {
        let (salt, rest) = ciphertext.split_first_chunk()?;
        let (iv, rest) = rest.split_first_chunk()?;
        let (version, data_key) = rest.split_first_chunk()?;
        Some(Self { salt, iv, version: *version, data_key })
    }
}
