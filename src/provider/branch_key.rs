//! A branch key that this process holds: what AWS's hierarchical keyring keeps in a table, without the table.
//! Specification: `framework/aws-kms/aws-kms-hierarchical-keyring.md`.

use std::fmt;

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::{
    DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, KeyProvider, ProviderError, failed,
    invalid_ciphertext,
};
use crate::{
    context::EncryptionContext,
    crypto::{AesGcm, Backend, SecretKey, kbkdf},
    error::{ConfigError, NameReason},
    message::EncryptedDataKey,
    suite::{IV_LEN, TAG_LEN},
};

const PROVIDER_ID: &str = "aws-kms-hierarchy";
const SALT_LEN: usize = 16;
const VERSION_LEN: usize = 16;

/// One version of a branch key as key provider: it wraps data keys as AWS's hierarchical keyring does.
///
/// That keyring keeps branch keys in a DynamoDB table, encrypted under KMS. This provider is for those who have a
/// branch key from there, or from elsewhere, in their own hands.
pub struct StaticBranchKey {
    id: String,
    version: [u8; VERSION_LEN],
    key: SecretKey,
}

impl StaticBranchKey {
    /// A branch key of 32 bytes, with its id, and the UUID of its version in bytes.
    ///
    /// # Errors
    /// [`ConfigError::KeyLen`] for a key of another length, [`ConfigError::KeyName`] for an id of more than 65,535
    /// bytes.
    pub fn new(
        id: impl Into<String>,
        version: [u8; VERSION_LEN],
        key: impl Into<SecretKey>,
    ) -> Result<Self, ConfigError> {
        let (id, key) = (id.into(), key.into());
        let room = usize::from(u16::MAX);
        if id.len() > room {
            return Err(ConfigError::KeyName { field: "id", reason: NameReason::TooLong { room } });
        }
        if key.len() != 32 {
            return Err(ConfigError::KeyLen(key.len()));
        }
        Ok(Self { id, version, key })
    }

    /// The cipher under the key that the branch key becomes with this salt.
    fn cipher(&self, backend: Backend, salt: &[u8]) -> AesGcm {
        let wrapping = kbkdf::sha256(self.key.expose(), PROVIDER_ID.as_bytes(), salt);
        let wrapping = SecretKey::try_from(wrapping).expect("32 bytes are a key of AES");
        AesGcm::new(backend, &wrapping)
    }

    fn aad(&self, operation: &'static str, context: &EncryptionContext) -> Result<Vec<u8>, ProviderError> {
        let context = context.serialize().map_err(|error| failed(operation, self, error))?;
        Ok([PROVIDER_ID.as_bytes(), self.id.as_bytes(), &self.version, &context].concat())
    }

    fn wrap(&self, request: &EncryptDataKeyRequest<'_>) -> Result<EncryptedDataKey, ProviderError> {
        let EncryptDataKeyRequest { context, data_key, backend, randomness, .. } = *request;
        let mut random = [0; SALT_LEN + IV_LEN];
        randomness.fill(&mut random)?;
        let (salt, iv) = random.split_at(SALT_LEN);
        let iv = iv.try_into().expect("the rest is the IV");
        let mut wrapped = vec![0; data_key.len() + TAG_LEN];
        self.cipher(backend, salt).seal(iv, &self.aad("Encrypt", context)?, data_key.expose(), &mut wrapped);
        let ciphertext = [&random, &self.version[..], &wrapped].concat();
        Ok(EncryptedDataKey::new(PROVIDER_ID, self.id.clone().into_bytes(), ciphertext))
    }

    /// None where it does not decrypt.
    fn unwrap(&self, backend: Backend, ciphertext: &[u8], aad: &[u8], len: usize) -> Option<SecretKey> {
        let (salt, rest) = ciphertext.split_first_chunk::<SALT_LEN>()?;
        let (iv, rest) = rest.split_first_chunk::<IV_LEN>()?;
        let (version, wrapped) = rest.split_first_chunk::<VERSION_LEN>()?;
        if *version != self.version || wrapped.len() != len + TAG_LEN {
            return None;
        }
        let mut key = Zeroizing::new(vec![0; len]);
        self.cipher(backend, salt).open(iv, aad, wrapped, &mut key).ok()?;
        SecretKey::try_from(key).ok()
    }
}

#[async_trait]
impl KeyProvider for StaticBranchKey {
    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        Ok(vec![self.wrap(request)?])
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        let aad = self.aad("Decrypt", request.context)?;
        request.first_decrypted(self, |encrypted| {
            if !self.may_decrypt(encrypted) {
                return None;
            }
            let key = self.unwrap(request.backend, &encrypted.ciphertext, &aad, request.suite.data_key_len());
            Some(key.ok_or_else(|| invalid_ciphertext(self)))
        })
    }

    fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
        encrypted.provider_id == PROVIDER_ID && encrypted.provider_info == self.id.as_bytes()
    }
}

/// `aws-kms-hierarchy/id`.
impl fmt::Display for StaticBranchKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PROVIDER_ID}/{}", self.id)
    }
}

impl fmt::Debug for StaticBranchKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticBranchKey({self})")
    }
}
