//! Branch keys in memory: AWS's hierarchical keyring without its DynamoDB table.
//! Specification: `framework/aws-kms/aws-kms-hierarchical-keyring.md`.

use std::fmt;

use async_trait::async_trait;
use zeroize::Zeroizing;

use crate::provider::{
    DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, KeyProvider, ProviderError, failed,
    invalid_ciphertext, unwrap_data_key,
};
use crate::{
    context::EncryptionContext,
    crypto::{AesGcm, Backend, SecretKey, WrappingCiphers, kbkdf},
    error::{ConfigError, NameReason, NotFips},
    message::EncryptedDataKey,
    suite::{AlgorithmSuite, IV_LEN},
};

const PROVIDER_ID: &str = "aws-kms-hierarchy";
const SALT_LEN: usize = 16;
const VERSION_LEN: usize = 16;

/// One version of a branch key, in the memory of this process, as a key provider.
///
/// It encrypts data keys like AWS's [hierarchical keyring], which stores branch keys in a DynamoDB table, encrypted
/// under a KMS key. `StaticBranchKey` does not read that table: you pass the decrypted branch key.
///
/// ```
/// use kms_envelope::{EncryptionContext, Envelope, provider::StaticBranchKey};
///
/// # pollster::block_on(async {
/// # let (version, key) = ([1; 16], [2; 32]);
/// let envelope = Envelope::new(StaticBranchKey::new("tenant-acme", version, key)?);
/// let sealed = envelope.seal(b"attack at dawn", &EncryptionContext::new()).await?;
/// assert_eq!(envelope.open(&sealed, &EncryptionContext::new()).await?.plaintext, b"attack at dawn");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// [hierarchical keyring]: https://docs.aws.amazon.com/encryption-sdk/latest/developer-guide/use-hierarchical-keyring.html
pub struct StaticBranchKey {
    id: String,
    version: [u8; VERSION_LEN],
    key: SecretKey,
}

impl StaticBranchKey {
    /// Creates a provider from a branch key's id, the 16 bytes of its version's UUID, and the branch key of 32 bytes.
    ///
    /// # Errors
    /// Returns [`ConfigError::KeyName`] if the id is longer than 65,535 bytes, and [`ConfigError::KeyLen`] if the key
    /// does not have 32 bytes.
    pub fn new(
        id: impl Into<String>,
        version: [u8; VERSION_LEN],
        key: impl Into<SecretKey>,
    ) -> Result<Self, ConfigError> {
        let (id, key) = (id.into(), key.into());
        let max = usize::from(u16::MAX);
        if id.len() > max {
            return Err(ConfigError::KeyName { field: "id", reason: NameReason::TooLong { max } });
        }
        if key.len() != 32 {
            return Err(ConfigError::KeyLen(key.len()));
        }
        Ok(Self { id, version, key })
    }

    /// Derives the wrapping key from the branch key and the salt.
    fn wrapping_key(&self, backend: Backend, salt: &[u8]) -> Zeroizing<[u8; 32]> {
        kbkdf::sha256(backend, self.key.expose(), PROVIDER_ID.as_bytes(), salt)
    }

    fn aad(&self, operation: &'static str, context: &EncryptionContext) -> Result<Vec<u8>, ProviderError> {
        let context = context.serialize().map_err(|error| failed(operation, self, error))?;
        Ok([PROVIDER_ID.as_bytes(), self.id.as_bytes(), &self.version, &context].concat())
    }

    fn wrap(&self, request: &EncryptDataKeyRequest<'_>) -> Result<EncryptedDataKey, ProviderError> {
        let EncryptDataKeyRequest { context, data_key, backend, randomness, .. } = *request;
        let mut salt = [0; SALT_LEN];
        randomness.fill(&mut salt)?;
        let (key, aad) = (self.wrapping_key(backend, &salt), self.aad("Encrypt", context)?);
        let ciphers = WrappingCiphers::default();
        let (iv, wrapped) = ciphers.wrap(backend, &*key, randomness.0, &aad, data_key.expose())?;
        let ciphertext = [&salt[..], &iv, &self.version, &wrapped].concat();
        Ok(EncryptedDataKey::new(PROVIDER_ID, self.id.clone().into_bytes(), ciphertext))
    }

    /// Decrypts a data key. Returns `None` if that fails.
    fn unwrap(&self, backend: Backend, ciphertext: &[u8], aad: &[u8], suite: AlgorithmSuite) -> Option<SecretKey> {
        let (salt, rest) = ciphertext.split_first_chunk::<SALT_LEN>()?;
        let (iv, rest) = rest.split_first_chunk::<IV_LEN>()?;
        let (version, wrapped) = rest.split_first_chunk::<VERSION_LEN>()?;
        if *version != self.version {
            return None;
        }
        unwrap_data_key(&AesGcm::new(backend, &*self.wrapping_key(backend, salt)), iv, aad, wrapped, suite)
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
            let key = self.unwrap(request.backend, &encrypted.ciphertext, &aad, request.suite);
            Some(key.ok_or_else(|| invalid_ciphertext(self)))
        })
    }

    fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
        encrypted.provider_id == PROVIDER_ID && encrypted.provider_info == self.id.as_bytes()
    }

    fn check_fips(&self) -> Result<(), NotFips> {
        Ok(())
    }
}

/// Formats as `aws-kms-hierarchy/ID`.
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
