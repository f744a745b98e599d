//! Branch keys in memory: AWS's hierarchical keyring without its key store.

use std::{borrow::Cow, fmt, sync::Arc, time::Instant};

use async_trait::async_trait;

use super::{
    BranchKey,
    key::{KEY_LEN, PROVIDER_ID, check_id},
    keyring::{self, BranchKeySource, Candidate},
};
use crate::{
    context::EncryptionContext,
    crypto::SecretKey,
    error::{ConfigError, NotFips},
    message::EncryptedDataKey,
    provider::{DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, KeyProvider, ProviderError},
};

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
pub struct StaticBranchKey(Arc<BranchKey>);

impl StaticBranchKey {
    /// Creates a provider from a branch key's id, the 16 bytes of its version's UUID, and the branch key of 32 bytes.
    ///
    /// # Errors
    /// Returns [`ConfigError::KeyName`] if the id is empty or longer than 65,535 bytes, and [`ConfigError::KeyLen`] if
    /// the key does not have 32 bytes.
    pub fn new(id: impl Into<String>, version: [u8; 16], key: impl Into<SecretKey>) -> Result<Self, ConfigError> {
        let (id, key) = (id.into(), key.into());
        check_id(&id)?;
        if key.len() != KEY_LEN {
            return Err(ConfigError::KeyLen(key.len()));
        }
        Ok(BranchKey { id, version, key, context: EncryptionContext::new() }.into())
    }
}

impl From<BranchKey> for StaticBranchKey {
    fn from(key: BranchKey) -> Self {
        Self(Arc::new(key))
    }
}

impl BranchKeySource for StaticBranchKey {
    fn id(&self, _: &EncryptionContext) -> Result<Cow<'_, str>, ProviderError> {
        Ok(Cow::Borrowed(&self.0.id))
    }

    async fn active(&self, _: &str, _: Option<Instant>) -> Result<Arc<BranchKey>, ProviderError> {
        Ok(self.0.clone())
    }

    /// Returns the only version. It does not decrypt the data keys of others.
    async fn version(
        &self,
        _: &str,
        _: [u8; 16],
        _: Option<Instant>,
        _: bool,
    ) -> Option<Result<Candidate, ProviderError>> {
        Some(Ok(Candidate { key: self.0.clone(), request: None }))
    }
}

#[async_trait]
impl KeyProvider for StaticBranchKey {
    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        keyring::encrypt(self, request).await
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        keyring::decrypt(self, request).await
    }

    fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
        keyring::may_decrypt(encrypted, Some(&self.0.id))
    }

    fn check_fips(&self) -> Result<(), NotFips> {
        Ok(())
    }
}

/// Formats as `aws-kms-hierarchy/ID`.
impl fmt::Display for StaticBranchKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PROVIDER_ID}/{}", self.0.id)
    }
}

impl fmt::Debug for StaticBranchKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticBranchKey({self})")
    }
}
