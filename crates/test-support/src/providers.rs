use std::{fmt, sync::Arc};

use async_trait::async_trait;
use kms_envelope::{
    KeyProvider, ProviderError,
    message::EncryptedDataKey,
    provider::{
        DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, GenerateDataKeyRequest, GeneratedDataKey,
        SecretKey,
    },
};

/// A key provider with one data key for all messages, which it also returns for any encrypted data key.
#[derive(Clone)]
pub struct FixedDataKey {
    data_key: Arc<dyn Fn() -> SecretKey + Send + Sync>,
    encrypted_data_keys: Vec<EncryptedDataKey>,
}

impl FixedDataKey {
    /// Returns a provider of this data key. Its messages have one encrypted data key.
    pub fn new(data_key: impl Fn() -> SecretKey + Send + Sync + 'static) -> Self {
        let encrypted_data_keys = vec![EncryptedDataKey::new("p", &b"i"[..], &b"c"[..])];
        Self { data_key: Arc::new(data_key), encrypted_data_keys }
    }

    /// Makes messages list these encrypted data keys.
    #[must_use]
    pub fn listing(self, encrypted_data_keys: Vec<EncryptedDataKey>) -> Self {
        Self { encrypted_data_keys, ..self }
    }
}

impl fmt::Debug for FixedDataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FixedDataKey")
    }
}

impl fmt::Display for FixedDataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a fixed data key")
    }
}

#[async_trait]
impl KeyProvider for FixedDataKey {
    async fn generate_data_key(&self, _: &GenerateDataKeyRequest<'_>) -> Result<GeneratedDataKey, ProviderError> {
        Ok(GeneratedDataKey::new((self.data_key)(), self.encrypted_data_keys.clone()))
    }

    async fn encrypt_data_key(&self, _: &EncryptDataKeyRequest<'_>) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        Ok(self.encrypted_data_keys.clone())
    }

    async fn decrypt_data_key(&self, _: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        Ok(DecryptedDataKey::new((self.data_key)(), 0, "tests"))
    }
}
