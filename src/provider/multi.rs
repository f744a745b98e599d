//! Several key providers as one: AWS's multi-keyring. Specification: `framework/multi-keyring.md`.

use async_trait::async_trait;

use super::{
    DataKey, DecryptDataKeyRequest, EncryptDataKeyRequest, GenerateDataKeyRequest, KeyProvider, PlaintextDataKey,
};
use crate::{error::ProviderError, message::EncryptedDataKey};

/// Several key providers: each can open what was sealed under all of them.
///
/// On sealing, the first, the generator, makes the data key, and each of the others encrypts it too; where one fails,
/// nothing is sealed. On opening, they are asked in order, and the first that can decrypt the data key does.
///
/// ```
/// use kms_envelope::{EncryptionContext, Envelope, LocalKey, MultiProvider};
///
/// # pollster::block_on(async {
/// let (ours, backup) = (LocalKey::new("example", "ours", [1; 32])?, LocalKey::new("example", "backup", [2; 32])?);
/// let envelope = Envelope::new(MultiProvider::new(ours).with(backup));
/// let sealed = envelope.seal(b"attack at dawn", &EncryptionContext::new()).await?;
///
/// let backup = Envelope::new(LocalKey::new("example", "backup", [2; 32])?);
/// assert_eq!(backup.open(&sealed, &EncryptionContext::new()).await?.plaintext, b"attack at dawn");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct MultiProvider<P = Box<dyn KeyProvider>> {
    /// The generator is the first.
    pub(super) providers: Vec<P>,
}

impl MultiProvider {
    /// The provider that makes data keys, and is asked first on opening.
    pub fn new(generator: impl KeyProvider + 'static) -> Self {
        Self { providers: vec![Box::new(generator)] }
    }

    /// Another provider that encrypts each data key, and is asked after those before it on opening.
    #[must_use]
    pub fn with(mut self, child: impl KeyProvider + 'static) -> Self {
        self.providers.push(Box::new(child));
        self
    }
}

#[async_trait]
impl<P: KeyProvider> KeyProvider for MultiProvider<P> {
    async fn generate_data_key(&self, request: &GenerateDataKeyRequest<'_>) -> Result<DataKey, ProviderError> {
        let [generator, children @ ..] = &self.providers[..] else { unreachable!("there is a generator") };
        let mut data_key = generator.generate_data_key(request).await?;
        for child in children {
            let GenerateDataKeyRequest { suite, context } = *request;
            let request = EncryptDataKeyRequest { suite, context, data_key: &data_key.plaintext };
            data_key.encrypted.extend(child.encrypt_data_key(&request).await?);
        }
        Ok(data_key)
    }

    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        let mut encrypted = Vec::new();
        for provider in &self.providers {
            encrypted.extend(provider.encrypt_data_key(request).await?);
        }
        Ok(encrypted)
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<PlaintextDataKey, ProviderError> {
        let mut attempts = Vec::new();
        for provider in &self.providers {
            match provider.decrypt_data_key(request).await {
                Ok(data_key) => return Ok(data_key),
                Err(error) => attempts.push(error),
            }
        }
        Err(ProviderError::NoneDecrypted { attempts })
    }
}
