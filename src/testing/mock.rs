//! Key providers for the unit tests of services that use this crate.

use std::fmt;

use async_trait::async_trait;

use crate::{
    error::ConfigError,
    message::EncryptedDataKey,
    provider::{
        DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, GenerateDataKeyRequest, GeneratedDataKey,
        KeyProvider, ProviderError, RawAes,
    },
};

mockall::mock! {
    /// A key provider of [mockall](https://docs.rs/mockall): a test says what it expects, and what is answered.
    ///
    /// A service's code, and a unit test of what it does when its key cannot be had:
    ///
    /// ```
    /// use kms_envelope::{
    ///     EncryptionContext, Envelope, ProviderError, SealError, provider::ProviderErrorKind, testing::MockKeyProvider,
    /// };
    ///
    /// /// The code under test: stores a sealed note for each user.
    /// struct Notes {
    ///     envelope: Envelope,
    /// }
    ///
    /// impl Notes {
    ///     async fn seal_for(&self, user: &str, note: &str) -> Result<Vec<u8>, SealError> {
    ///         self.envelope.seal(note.as_bytes(), &EncryptionContext::from([("user", user)])).await
    ///     }
    /// }
    ///
    /// // The test.
    /// let mut keys = MockKeyProvider::new();
    /// keys.expect_generate_data_key()
    ///     .times(1)
    ///     .withf(|request| request.context.get("user") == Some("alice"))
    ///     .returning(|_| Err(ProviderError::new(ProviderErrorKind::Throttled, "GenerateDataKey", "alias/notes")));
    /// let notes = Notes { envelope: Envelope::new(keys) };
    /// let refused = pollster::block_on(notes.seal_for("alice", "buy milk"));
    /// assert!(matches!(refused, Err(SealError::Provider(error)) if error.is_retryable()));
    /// ```
    ///
    /// What works as it should is less to write with [`MemoryKey`], which needs no expectations.
    #[derive(Debug)]
    pub KeyProvider {
        /// What [`KeyProvider::generate_data_key`] answers, without waiting.
        pub fn generate_data_key<'a>(&self, request: &GenerateDataKeyRequest<'a>) -> Result<GeneratedDataKey, ProviderError>;
        /// What [`KeyProvider::encrypt_data_key`] answers, without waiting.
        pub fn encrypt_data_key<'a>(
            &self,
            request: &EncryptDataKeyRequest<'a>,
        ) -> Result<Vec<EncryptedDataKey>, ProviderError>;
        /// What [`KeyProvider::decrypt_data_key`] answers, without waiting.
        pub fn decrypt_data_key<'a>(
            &self,
            request: &DecryptDataKeyRequest<'a>,
        ) -> Result<DecryptedDataKey, ProviderError>;
        /// What [`KeyProvider::may_decrypt`] answers. Only a [`MultiProvider`](crate::provider::MultiProvider) asks.
        pub fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool;
    }
}

// By hand: mockall cannot mock an asynchronous method whose argument has a lifetime of its own.
#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl KeyProvider for MockKeyProvider {
    async fn generate_data_key(&self, request: &GenerateDataKeyRequest<'_>) -> Result<GeneratedDataKey, ProviderError> {
        self.generate_data_key(request)
    }

    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        self.encrypt_data_key(request)
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        self.decrypt_data_key(request)
    }

    fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
        self.may_decrypt(encrypted)
    }
}

/// `MockKeyProvider`.
impl fmt::Display for MockKeyProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MockKeyProvider")
    }
}

/// A random key that lives as long as the value: for tests that want sealing and opening to work, and no more.
///
/// ```
/// use kms_envelope::{EncryptionContext, Envelope, testing::MemoryKey};
///
/// # pollster::block_on(async {
/// let envelope = Envelope::new(MemoryKey::new()?);
/// let sealed = envelope.seal(b"data", &EncryptionContext::new()).await?;
/// assert_eq!(envelope.open(&sealed, &EncryptionContext::new()).await?.plaintext, b"data");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct MemoryKey(RawAes);

impl MemoryKey {
    /// A new key.
    ///
    /// # Errors
    /// [`ConfigError::Random`] where the system has no randomness to give.
    pub fn new() -> Result<Self, ConfigError> {
        RawAes::generate("kms-envelope", "memory").map(Self)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl KeyProvider for MemoryKey {
    async fn generate_data_key(&self, request: &GenerateDataKeyRequest<'_>) -> Result<GeneratedDataKey, ProviderError> {
        self.0.generate_data_key(request).await
    }

    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        self.0.encrypt_data_key(request).await
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        self.0.decrypt_data_key(request).await
    }

    fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
        self.0.may_decrypt(encrypted)
    }
}

/// `kms-envelope/memory`.
impl fmt::Display for MemoryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
