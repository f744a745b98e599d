//! Several key providers as one: AWS's multi-keyring. Specification: `framework/multi-keyring.md`.

use std::fmt;

use async_trait::async_trait;
use futures_util::future::join_all;

use super::{
    DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, GenerateDataKeyRequest, GeneratedDataKey,
    KeyProvider, ProviderError, ProviderErrorKind, deadline_or_default, share,
};
use crate::{error::NotFips, message::EncryptedDataKey};

/// Seals messages under several key providers, any one of which can open them.
///
/// To seal, the first provider (the generator) generates the data key. The others then encrypt the same data key, all
/// at the same time. Sealing fails if any provider fails. If several fail, the error is that of the first one in order.
///
/// To open, the providers are called in order until one decrypts the data key. Providers that certainly cannot decrypt
/// any of the message's encrypted data keys ([`may_decrypt`](KeyProvider::may_decrypt) returns `false`) are skipped.
/// Each provider except the last gets half of the time that remains until the request's deadline.
///
/// `MultiProvider` corresponds to the multi-keyring of AWS's SDKs.
///
/// ```
/// use kms_envelope::{EncryptionContext, Envelope, RawAes, provider::MultiProvider};
///
/// # pollster::block_on(async {
/// let (ours, backup) = (RawAes::new("example", "ours", [1; 32])?, RawAes::new("example", "backup", [2; 32])?);
/// let envelope = Envelope::new(MultiProvider::new(ours).with(backup));
/// let sealed = envelope.seal(b"attack at dawn", &EncryptionContext::new()).await?;
///
/// let backup = Envelope::new(RawAes::new("example", "backup", [2; 32])?);
/// assert_eq!(backup.open(&sealed, &EncryptionContext::new()).await?.plaintext, b"attack at dawn");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct MultiProvider<P = Box<dyn KeyProvider>> {
    /// The generator comes first. Never empty.
    pub(super) providers: Vec<P>,
}

impl MultiProvider {
    /// Creates a provider with the given generator, which generates the data keys. When a message is opened, it is
    /// called first.
    pub fn new(generator: impl KeyProvider + 'static) -> Self {
        Self { providers: vec![Box::new(generator)] }
    }

    /// Adds a provider that also encrypts each data key. When a message is opened, providers are called in the order in
    /// which they were added.
    #[must_use]
    pub fn with(mut self, child: impl KeyProvider + 'static) -> Self {
        self.providers.push(Box::new(child));
        self
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<P: KeyProvider> KeyProvider for MultiProvider<P> {
    async fn generate_data_key(&self, request: &GenerateDataKeyRequest<'_>) -> Result<GeneratedDataKey, ProviderError> {
        let [generator, children @ ..] = &self.providers[..] else { unreachable!("there is a generator") };
        let request = request.with_deadline(deadline_or_default(request.deadline));
        let mut data_key = generator.generate_data_key(&request).await?;
        check_not_empty(generator, "GenerateDataKey", &data_key.encrypted_data_keys)?;
        let encrypted = encrypt_with_all(children, &request.to_encrypt(&data_key.plaintext)).await?;
        data_key.encrypted_data_keys.extend(encrypted);
        Ok(data_key)
    }

    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        encrypt_with_all(&self.providers, request).await
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        let deadline = deadline_or_default(request.deadline);
        #[cfg(feature = "aws-kms")]
        let outcomes = super::aws_kms::Outcomes::new(request);
        #[cfg(feature = "aws-kms")]
        let outcomes = request.outcomes.filter(|outcomes| outcomes.is_about(request)).unwrap_or(&outcomes);
        #[cfg(feature = "aws-kms")]
        let request = &DecryptDataKeyRequest { outcomes: Some(outcomes), ..*request };
        let may_decrypt = |provider: &&P| request.encrypted_data_keys.iter().any(|key| provider.may_decrypt(key));
        let mut providers = self.providers.iter().filter(may_decrypt).peekable();
        let mut attempts = Vec::new();
        while let Some(provider) = providers.next() {
            let request = request.with_deadline(share(deadline, providers.peek().is_none()));
            match provider.decrypt_data_key(&request).await {
                Ok(data_key) => return Ok(data_key),
                // None of the encrypted data keys is this provider's, so it attempted nothing.
                Err(error) if error.kind() == ProviderErrorKind::NoMatchingKey => {}
                Err(error) => attempts.push(error),
            }
        }
        Err(request.none_decrypted(self, attempts))
    }

    fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
        self.providers.iter().any(|provider| provider.may_decrypt(encrypted))
    }

    fn check_fips(&self) -> Result<(), NotFips> {
        self.providers.iter().try_for_each(P::check_fips)
    }
}

/// Formats the providers in order, separated by commas.
impl<P: fmt::Display> fmt::Display for MultiProvider<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let providers: Vec<_> = self.providers.iter().map(P::to_string).collect();
        f.write_str(&providers.join(", "))
    }
}

/// Encrypts a data key with all providers concurrently, and returns the results in the providers' order. It waits for
/// all providers, so that the reported error does not depend on their speed.
async fn encrypt_with_all<P: KeyProvider>(
    providers: &[P],
    request: &EncryptDataKeyRequest<'_>,
) -> Result<Vec<EncryptedDataKey>, ProviderError> {
    let encrypted = join_all(providers.iter().map(|provider| provider.encrypt_data_key(request))).await;
    let encrypted: Vec<_> = encrypted.into_iter().collect::<Result<_, _>>()?;
    for (provider, encrypted) in providers.iter().zip(&encrypted) {
        check_not_empty(provider, "Encrypt", encrypted)?;
    }
    Ok(encrypted.into_iter().flatten().collect())
}

/// Refuses an empty result. The provider could not open the message, which would be noticed only when it is needed.
fn check_not_empty<P: KeyProvider>(
    provider: &P,
    operation: &'static str,
    encrypted: &[EncryptedDataKey],
) -> Result<(), ProviderError> {
    if encrypted.is_empty() {
        let error = ProviderError::new(ProviderErrorKind::UnexpectedResponse, operation, provider.to_string());
        return Err(error.with_detail("no encrypted data key"));
    }
    Ok(())
}
