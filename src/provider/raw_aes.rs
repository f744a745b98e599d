//! AES keys in memory: AWS's raw AES keyring. Specification: `framework/raw-aes-keyring.md`.

#[cfg(feature = "key-file")]
mod key_file;

use std::fmt;

use async_trait::async_trait;

use super::{
    DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, KeyProvider, ProviderError, check_names, failed,
    invalid_ciphertext, unwrap_data_key,
};
use crate::{
    crypto::{Randomness, SecretKey, WrappingCiphers},
    error::{ConfigError, NotFips},
    message::EncryptedDataKey,
    suite::{IV_LEN, RAW_AES_LENGTHS},
};

/// A local key: an AES key in the memory of this process, as a key provider.
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
///
/// `RawAes` is compatible with the raw AES keyring of AWS's SDKs. With the same namespace, name and key, they open its
/// messages, and it opens theirs.
///
/// To store a local key, use a key file ([`write_key_file`](Self::write_key_file) and
/// [`read_key_file`](Self::read_key_file)), or pass the bytes from your secret store to [`new`](Self::new). If the key
/// is lost, its messages cannot be opened.
///
/// The key encrypts each data key under a random IV. It should therefore encrypt at most 2³² data keys
/// ([NIST SP 800-38D](https://doi.org/10.6028/NIST.SP.800-38D), section 8.3).
pub struct RawAes {
    namespace: String,
    name: String,
    key: SecretKey,
    ciphers: WrappingCiphers,
}

impl RawAes {
    /// Creates a provider from an AES key of 16, 24 or 32 bytes.
    ///
    /// The namespace and name identify the key. They are stored unencrypted in each message.
    ///
    /// ```
    /// use kms_envelope::{RawAes, provider::SecretKey};
    ///
    /// # fn read_secret() -> Vec<u8> { vec![7; 32] }
    /// let bytes: Vec<u8> = read_secret(); // 16, 24 or 32 bytes
    /// let key = RawAes::new("my-service", "2026-11", SecretKey::try_from(bytes)?)?;
    /// assert_eq!(key.to_string(), "my-service/2026-11");
    /// # Ok::<(), kms_envelope::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// Returns [`ConfigError::KeyName`] if the namespace starts with `aws-kms`, which is reserved for AWS KMS, if the
    /// namespace is longer than 65,535 bytes, or if the name is longer than 65,515 bytes.
    pub fn new(
        namespace: impl Into<String>,
        name: impl Into<String>,
        key: impl Into<SecretKey>,
    ) -> Result<Self, ConfigError> {
        let (namespace, name, key) = (namespace.into(), name.into(), key.into());
        check_names(&namespace, &name, usize::from(u16::MAX) - RAW_AES_LENGTHS.len() - IV_LEN)?;
        Ok(Self { namespace, name, key, ciphers: WrappingCiphers::default() })
    }

    /// Generates a random key of 32 bytes.
    ///
    /// # Errors
    /// Returns the errors of [`RawAes::new`], and [`ConfigError::Random`] if the random number generator of
    /// the default backend fails.
    pub fn generate(namespace: impl Into<String>, name: impl Into<String>) -> Result<Self, ConfigError> {
        let key = SecretKey::filled(32, |out| Randomness::default().fill(out))?;
        Self::new(namespace, name, key)
    }

    /// Returns the key's namespace, which messages store as the [provider id](EncryptedDataKey::provider_id).
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the key.
    pub fn key(&self) -> &SecretKey {
        &self.key
    }

    fn wrap(&self, request: &EncryptDataKeyRequest<'_>) -> Result<EncryptedDataKey, ProviderError> {
        let aad = request.context.serialize().map_err(|error| failed("Encrypt", self, error))?;
        let EncryptDataKeyRequest { backend, randomness, data_key, .. } = *request;
        let (iv, ciphertext) = self.ciphers.wrap(backend, self.key.expose(), randomness.0, &aad, data_key.expose())?;
        let info = [self.name.as_bytes(), &RAW_AES_LENGTHS, &iv].concat();
        Ok(EncryptedDataKey::new(&self.namespace, info, ciphertext))
    }

    /// Returns the IV if the encrypted data key names this key.
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
        let cipher = self.ciphers.cipher(request.backend, self.key.expose());
        unwrap_data_key(cipher, iv, &aad, &encrypted.ciphertext, request.suite).ok_or_else(|| invalid_ciphertext(self))
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

    fn check_fips(&self) -> Result<(), NotFips> {
        match self.key.len() {
            24 => Err(NotFips::provider(self, "its AES key has 192 bits; use a key of 128 or 256 bits")),
            _ => Ok(()),
        }
    }
}

/// Formats as `NAMESPACE/NAME`.
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
