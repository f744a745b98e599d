//! Key providers for the unit tests of services that use this crate.

use std::fmt;

use async_trait::async_trait;

use crate::{
    error::{ConfigError, NotFips},
    message::EncryptedDataKey,
    provider::{
        DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, GenerateDataKeyRequest, GeneratedDataKey,
        KeyProvider, ProviderError, RawAes,
    },
};

mockall::mock! {
    /// A [mockall](https://docs.rs/mockall) mock of [`KeyProvider`], on which a test sets expectations and results.
    ///
    /// To test code that only needs sealing and opening to work, use [`MemoryKey`], which needs no expectations.
    ///
    /// This test checks what a service does when KMS throttles its request:
    ///
    /// ```
    /// use kms_envelope::{
    ///     EncryptionContext, Envelope, ProviderError, SealError, provider::ProviderErrorKind,
    ///     testing::MockKeyProvider, };
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
    #[derive(Debug)]
    pub KeyProvider {
        /// Returns the result for [`KeyProvider::generate_data_key`].
        pub fn generate_data_key<'a>(&self, request: &GenerateDataKeyRequest<'a>) -> Result<GeneratedDataKey, ProviderError>;
        /// Returns the result for [`KeyProvider::encrypt_data_key`].
        pub fn encrypt_data_key<'a>(
            &self,
            request: &EncryptDataKeyRequest<'a>,
        ) -> Result<Vec<EncryptedDataKey>, ProviderError>;
        /// Returns the result for [`KeyProvider::decrypt_data_key`].
        pub fn decrypt_data_key<'a>(
            &self,
            request: &DecryptDataKeyRequest<'a>,
        ) -> Result<DecryptedDataKey, ProviderError>;
        /// Returns the result for [`KeyProvider::may_decrypt`]. Only a
        /// [`MultiProvider`](crate::provider::MultiProvider) calls it.
        pub fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool;
        /// Returns the result for [`KeyProvider::check_fips`], which is called only where
        /// [`require_fips`](crate::EnvelopeBuilder::require_fips) is set.
        pub fn check_fips(&self) -> Result<(), NotFips>;
    }
}

// Written by hand, because mockall cannot mock an async method whose argument has its own lifetime.
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

    fn check_fips(&self) -> Result<(), NotFips> {
        self.check_fips()
    }
}

/// Formats as `MockKeyProvider`.
impl fmt::Display for MockKeyProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MockKeyProvider")
    }
}

/// A key provider with a random key in memory, for tests that only need sealing and opening to work.
///
/// Only the same `MemoryKey` opens its messages: the key cannot be stored.
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
    /// Generates a key.
    ///
    /// # Errors
    /// Returns [`ConfigError::Random`] if the random number generator fails.
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

    fn check_fips(&self) -> Result<(), NotFips> {
        self.0.check_fips()
    }
}

/// Formats as `kms-envelope/memory`.
impl fmt::Display for MemoryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
