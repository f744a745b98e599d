//! A key that this process holds: AWS's raw AES keyring. Specification: `framework/raw-aes-keyring.md`.

#[cfg(feature = "key-file")]
mod key_file;

use std::fmt;

use async_trait::async_trait;

use super::{
    DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, KeyProvider, ProviderError, check_names, failed,
    invalid_ciphertext,
};
use crate::{
    crypto::{AesGcm, Backend, PerBackend, Random, SecretKey},
    error::ConfigError,
    message::EncryptedDataKey,
    suite::{IV_LEN, RAW_AES_LENGTHS, TAG_LEN},
};

/// An AES key of this process as key provider, instead of a key service.
///
/// It is the raw AES keyring of the AWS SDKs: given the same namespace, name and key, they open what it sealed and
/// the other way round. The key encrypts data keys under random IVs, so it should encrypt at most 2³² of them
/// (NIST SP 800-38D, section 8.3).
///
/// ```
/// use kms_envelope::{EncryptionContext, Envelope, RawAes};
///
/// # pollster::block_on(async {
/// let envelope = Envelope::new(RawAes::generate("my-service", "2026-11")?);
/// let context = EncryptionContext::from([("tenant", "acme")]);
/// let sealed = envelope.seal(b"attack at dawn", &context).await?;
/// assert_eq!(envelope.open(&sealed, &context).await?.plaintext, b"attack at dawn");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub struct RawAes {
    namespace: String,
    name: String,
    key: SecretKey,
    ciphers: PerBackend<AesGcm>,
}

impl RawAes {
    /// A local key of 16, 24 or 32 bytes. Namespace and name say which key a message needs; they are stored in it.
    ///
    /// # Errors
    /// [`ConfigError::KeyName`] where the namespace begins with `aws-kms`, which is AWS KMS's, or where either is
    /// longer than the format has room for.
    pub fn new(
        namespace: impl Into<String>,
        name: impl Into<String>,
        key: impl Into<SecretKey>,
    ) -> Result<Self, ConfigError> {
        let (namespace, name, key) = (namespace.into(), name.into(), key.into());
        check_names(&namespace, &name, usize::from(u16::MAX) - RAW_AES_LENGTHS.len() - IV_LEN)?;
        Ok(Self { namespace, name, key, ciphers: PerBackend::default() })
    }

    /// A local key with 32 fresh random bytes.
    ///
    /// # Errors
    /// As [`RawAes::new`], and [`ConfigError::Random`] where the system has no randomness to give.
    pub fn generate(namespace: impl Into<String>, name: impl Into<String>) -> Result<Self, ConfigError> {
        let key = SecretKey::filled(32, |out| Random::System.fill(out))?;
        Self::new(namespace, name, key)
    }

    /// The namespace: what a message stores as the provider of its encrypted data key.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name of the key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key itself.
    pub fn key(&self) -> &SecretKey {
        &self.key
    }

    fn cipher(&self, backend: Backend) -> &AesGcm {
        self.ciphers.get(backend, || AesGcm::new(backend, &self.key))
    }

    fn wrap(&self, request: &EncryptDataKeyRequest<'_>) -> Result<EncryptedDataKey, ProviderError> {
        let aad = request.context.serialize().map_err(|error| failed("Encrypt", self, error))?;
        let mut iv = [0; IV_LEN];
        request.randomness.fill(&mut iv)?;
        let mut ciphertext = vec![0; request.data_key.len() + TAG_LEN];
        self.cipher(request.backend).seal(&iv, &aad, request.data_key.expose(), &mut ciphertext);
        let info = [self.name.as_bytes(), &RAW_AES_LENGTHS, &iv].concat();
        Ok(EncryptedDataKey::new(&self.namespace, info, ciphertext))
    }

    /// The IV, if the encrypted data key was encrypted under a key of this name.
    fn iv_of<'a>(&self, encrypted: &'a EncryptedDataKey) -> Option<&'a [u8; IV_LEN]> {
        let lengths_and_iv = encrypted.provider_info.strip_prefix(self.name.as_bytes())?;
        let iv = lengths_and_iv.strip_prefix(&RAW_AES_LENGTHS)?;
        (encrypted.provider_id == self.namespace).then(|| iv.try_into().ok())?
    }

    fn unwrap(
        &self,
        encrypted: &EncryptedDataKey,
        iv: &[u8; IV_LEN],
        request: &DecryptDataKeyRequest<'_>,
    ) -> Result<SecretKey, ProviderError> {
        let aad = request.context.serialize().map_err(|error| failed("Decrypt", self, error))?;
        let len = request.suite.data_key_len();
        if encrypted.ciphertext.len() != len + TAG_LEN {
            return Err(invalid_ciphertext(self));
        }
        SecretKey::filled(len, |out| self.cipher(request.backend).open(iv, &aad, &encrypted.ciphertext, out))
            .map_err(|_| invalid_ciphertext(self))
    }
}

#[async_trait]
impl KeyProvider for RawAes {
    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        Ok(vec![self.wrap(request)?])
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        request.first_decrypted(self, |encrypted| Some(self.unwrap(encrypted, self.iv_of(encrypted)?, request)))
    }

    fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
        self.iv_of(encrypted).is_some()
    }
}

/// `namespace/name`.
impl fmt::Display for RawAes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for RawAes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawAes({self})")
    }
}
