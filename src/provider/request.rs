//! The requests to key providers, and their results.

use std::{fmt, time::Instant};

use super::ProviderErrorKind;
use crate::{
    context::EncryptionContext,
    crypto::{Backend, Randomness, SecretKey},
    message::{EncryptedDataKey, Limits},
    provider::ProviderError,
    suite::AlgorithmSuite,
};

/// A request to generate a data key: the argument of
/// [`KeyProvider::generate_data_key`](crate::KeyProvider::generate_data_key).
///
/// The envelope creates requests. To call a key provider yourself, for example in its tests, create one with `new`:
///
/// ```
/// use kms_envelope::{
///     AlgorithmSuite, EncryptionContext, KeyProvider, RawAes,
///     provider::{DecryptDataKeyRequest, GenerateDataKeyRequest},
/// };
///
/// # pollster::block_on(async {
/// let provider = RawAes::generate("my-service", "2026-11")?;
/// let suite = AlgorithmSuite::Aes256GcmHkdfSha512Commit;
/// let context = EncryptionContext::from([("tenant", "acme")]);
///
/// let generated = provider.generate_data_key(&GenerateDataKeyRequest::new(suite, &context)).await?;
/// let request = DecryptDataKeyRequest::new(suite, &context, &generated.encrypted_data_keys);
/// let decrypted = provider.decrypt_data_key(&request).await?;
///
/// assert_eq!(decrypted.plaintext.expose(), generated.plaintext.expose());
/// assert_eq!((decrypted.index, &*decrypted.key_id), (0, "my-service/2026-11"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct GenerateDataKeyRequest<'a> {
    /// The message's algorithm suite, which determines the data key's length.
    pub suite: AlgorithmSuite,
    /// The complete encryption context. Providers should bind the encrypted data key to it.
    pub context: &'a EncryptionContext,
    /// The time by which all requests for the message must have finished. If `None`, providers for AWS KMS use a limit
    /// of 10 seconds.
    pub deadline: Option<Instant>,
    /// The envelope's cryptographic backend. Providers that do cryptography in this process should use it.
    pub backend: Backend,
    /// The envelope's source of random bytes. Providers should use it to generate data keys and IVs.
    pub randomness: Randomness<'a>,
}

impl<'a> GenerateDataKeyRequest<'a> {
    /// Creates a request without a deadline, with the default backend and randomness.
    pub fn new(suite: AlgorithmSuite, context: &'a EncryptionContext) -> Self {
        let (backend, randomness) = Default::default();
        Self { suite, context, deadline: None, backend, randomness }
    }

    /// Sets the [`deadline`](Self::deadline).
    #[must_use]
    pub fn with_deadline(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// Sets the [`backend`](Self::backend). Default: AWS-LC with the feature `aws-lc`, otherwise RustCrypto.
    #[must_use]
    pub fn with_backend(self, backend: Backend) -> Self {
        Self { backend, ..self }
    }

    /// Sets the [`randomness`](Self::randomness). Default: the generator of the default backend.
    #[must_use]
    pub fn with_randomness(self, randomness: Randomness<'a>) -> Self {
        Self { randomness, ..self }
    }

    /// Returns a request to encrypt `data_key`, which was generated for this request. All other fields are copied.
    pub fn to_encrypt(&self, data_key: &'a SecretKey) -> EncryptDataKeyRequest<'a> {
        let Self { suite, context, deadline, backend, randomness } = *self;
        EncryptDataKeyRequest { suite, context, data_key, deadline, backend, randomness }
    }
}

/// A request to encrypt a data key: the argument of
/// [`KeyProvider::encrypt_data_key`](crate::KeyProvider::encrypt_data_key).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct EncryptDataKeyRequest<'a> {
    /// The message's algorithm suite.
    pub suite: AlgorithmSuite,
    /// The complete encryption context. Providers should bind the encrypted data key to it.
    pub context: &'a EncryptionContext,
    /// The data key to encrypt.
    pub data_key: &'a SecretKey,
    /// The time by which all requests for the message must have finished. If `None`, providers for AWS KMS use a limit
    /// of 10 seconds.
    pub deadline: Option<Instant>,
    /// The envelope's cryptographic backend. Providers that do cryptography in this process should use it.
    pub backend: Backend,
    /// The envelope's source of random bytes. Providers should use it to generate data keys and IVs.
    pub randomness: Randomness<'a>,
}

impl<'a> EncryptDataKeyRequest<'a> {
    /// Creates a request without a deadline, with the default backend and randomness.
    pub fn new(suite: AlgorithmSuite, context: &'a EncryptionContext, data_key: &'a SecretKey) -> Self {
        let (backend, randomness) = Default::default();
        Self { suite, context, data_key, deadline: None, backend, randomness }
    }

    /// Sets the [`deadline`](Self::deadline).
    #[must_use]
    pub fn with_deadline(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// Sets the [`backend`](Self::backend). Default: AWS-LC with the feature `aws-lc`, otherwise RustCrypto.
    #[must_use]
    pub fn with_backend(self, backend: Backend) -> Self {
        Self { backend, ..self }
    }

    /// Sets the [`randomness`](Self::randomness). Default: the generator of the default backend.
    #[must_use]
    pub fn with_randomness(self, randomness: Randomness<'a>) -> Self {
        Self { randomness, ..self }
    }
}

/// A request to decrypt one of a message's encrypted data keys: the argument of
/// [`KeyProvider::decrypt_data_key`](crate::KeyProvider::decrypt_data_key).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct DecryptDataKeyRequest<'a> {
    /// The message's algorithm suite, which determines the data key's length.
    pub suite: AlgorithmSuite,
    /// The complete encryption context. It must equal the context that the data key was encrypted with.
    pub context: &'a EncryptionContext,
    /// The message's encrypted data keys, in order, without padding. Some may belong to other providers.
    pub encrypted_data_keys: &'a [EncryptedDataKey],
    /// The time by which all requests for the message must have finished. If `None`, providers for AWS KMS use a limit
    /// of 10 seconds.
    pub deadline: Option<Instant>,
    /// The limit on encrypted data keys that providers for AWS KMS try for one KMS key: see
    /// [`Limits::tries_per_kms_key`](crate::Limits::tries_per_kms_key).
    pub tries_per_kms_key: u16,
    /// The envelope's cryptographic backend. Providers that do cryptography in this process should use it.
    pub backend: Backend,
    /// The envelope's source of random bytes.
    pub randomness: Randomness<'a>,
    /// The outcomes of earlier KMS requests for the same message, which other providers sent.
    #[cfg(feature = "aws-kms")]
    pub(super) outcomes: Option<&'a super::aws_kms::Outcomes<'a>>,
}

impl<'a> DecryptDataKeyRequest<'a> {
    /// Creates a request with the default limit on tries, backend and randomness, and without a deadline.
    pub fn new(
        suite: AlgorithmSuite,
        context: &'a EncryptionContext,
        encrypted_data_keys: &'a [EncryptedDataKey],
    ) -> Self {
        Self {
            suite,
            context,
            encrypted_data_keys,
            deadline: None,
            tries_per_kms_key: Limits::default().tries_per_kms_key,
            backend: Backend::default(),
            randomness: Randomness::default(),
            #[cfg(feature = "aws-kms")]
            outcomes: None,
        }
    }

    /// Sets the [`deadline`](Self::deadline).
    #[must_use]
    pub fn with_deadline(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// Sets the [`backend`](Self::backend). Default: AWS-LC with the feature `aws-lc`, otherwise RustCrypto.
    #[must_use]
    pub fn with_backend(self, backend: Backend) -> Self {
        Self { backend, ..self }
    }

    /// Sets the [`randomness`](Self::randomness). Default: the generator of the default backend.
    #[must_use]
    pub fn with_randomness(self, randomness: Randomness<'a>) -> Self {
        Self { randomness, ..self }
    }

    /// Sets [`tries_per_kms_key`](Self::tries_per_kms_key). Default: 2.
    #[must_use]
    pub fn with_tries_per_kms_key(self, tries_per_kms_key: u16) -> Self {
        Self { tries_per_kms_key, ..self }
    }

    /// Decrypts the first of the encrypted data keys that `decrypt` can decrypt. Use it to implement
    /// [`KeyProvider::decrypt_data_key`].
    ///
    /// `decrypt` is called for each encrypted data key in turn, until it returns a data key of the suite's length. It
    /// returns `None` for an encrypted data key that does not belong to the provider. `provider` is displayed as the
    /// [`key_id`](DecryptedDataKey::key_id) of the result and in errors.
    ///
    /// Providers that call a service use [`async_first_decrypted`](Self::async_first_decrypted).
    ///
    /// # Errors
    /// Returns the error of [`none_decrypted`](Self::none_decrypted), with the errors that `decrypt` returned.
    ///
    /// [`KeyProvider::decrypt_data_key`]: crate::KeyProvider::decrypt_data_key
    pub fn first_decrypted(
        &self,
        provider: &(impl fmt::Display + ?Sized),
        mut decrypt: impl FnMut(&'a EncryptedDataKey) -> Option<Result<SecretKey, ProviderError>>,
    ) -> Result<DecryptedDataKey, ProviderError> {
        let mut attempts = Vec::new();
        for (index, encrypted) in self.encrypted_data_keys.iter().enumerate() {
            match decrypt(encrypted).map(|key| self.of_suite(provider, key?)) {
                None => {}
                Some(Ok(key)) => return Ok(DecryptedDataKey::new(key, index, provider.to_string())),
                Some(Err(error)) => attempts.push(error),
            }
        }
        Err(self.none_decrypted(provider, attempts))
    }

    /// Like [`first_decrypted`](Self::first_decrypted), but `decrypt` returns a future. For providers that call a
    /// service.
    ///
    /// A message can name the same key many times. To limit the calls that such a message causes, the method returns
    /// after the first error that is [retryable](ProviderError::is_retryable).
    ///
    /// # Errors
    /// Returns the error of [`none_decrypted`](Self::none_decrypted), with the errors that `decrypt` returned.
    pub async fn async_first_decrypted<F, R>(
        &self,
        provider: &(impl fmt::Display + ?Sized),
        mut decrypt: F,
    ) -> Result<DecryptedDataKey, ProviderError>
    where
        F: FnMut(&'a EncryptedDataKey) -> R,
        R: Future<Output = Option<Result<SecretKey, ProviderError>>>,
    {
        let mut attempts = Vec::new();
        for (index, encrypted) in self.encrypted_data_keys.iter().enumerate() {
            match decrypt(encrypted).await.map(|key| self.of_suite(provider, key?)) {
                None => {}
                Some(Ok(key)) => return Ok(DecryptedDataKey::new(key, index, provider.to_string())),
                Some(Err(error)) => {
                    let is_retryable = error.is_retryable();
                    attempts.push(error);
                    if is_retryable {
                        break;
                    }
                }
            }
        }
        Err(self.none_decrypted(provider, attempts))
    }

    /// Returns the data key if it has the suite's length.
    fn of_suite(&self, provider: &(impl fmt::Display + ?Sized), key: SecretKey) -> Result<SecretKey, ProviderError> {
        let (len, needed) = (key.len(), self.suite.data_key_len());
        if len == needed {
            return Ok(key);
        }
        let what = format!("a data key of {len} bytes, but suite {} needs {needed}", self.suite);
        Err(ProviderError::new(ProviderErrorKind::InvalidCiphertext, "Decrypt", provider.to_string()).with_detail(what))
    }

    /// Returns the error of a provider that could decrypt none of the encrypted data keys.
    ///
    /// `attempts` has one error for each encrypted data key that the provider tried. The error's kind is
    /// [`NoMatchingKey`](ProviderErrorKind::NoMatchingKey) if there are no attempts, and
    /// [`NoneDecrypted`](ProviderErrorKind::NoneDecrypted) otherwise.
    pub fn none_decrypted(&self, provider: impl fmt::Display, attempts: Vec<ProviderError>) -> ProviderError {
        if attempts.is_empty() {
            let found: Vec<_> = self.encrypted_data_keys.iter().map(ToString::to_string).collect();
            ProviderError::new(ProviderErrorKind::NoMatchingKey, "Decrypt", provider.to_string())
                .with_detail(found.join(", "))
        } else {
            ProviderError::new(ProviderErrorKind::NoneDecrypted, "Decrypt", provider.to_string())
                .with_attempts(attempts)
        }
    }
}

/// A new data key with its encrypted data keys, as returned by
/// [`KeyProvider::generate_data_key`](crate::KeyProvider::generate_data_key).
#[derive(Debug)]
#[non_exhaustive]
pub struct GeneratedDataKey {
    /// The plaintext data key.
    pub plaintext: SecretKey,
    /// The encrypted data keys to store in the message, at least one.
    pub encrypted_data_keys: Vec<EncryptedDataKey>,
}

/// A decrypted data key, as returned by [`KeyProvider::decrypt_data_key`](crate::KeyProvider::decrypt_data_key).
#[derive(Debug)]
#[non_exhaustive]
pub struct DecryptedDataKey {
    /// The plaintext data key.
    pub plaintext: SecretKey,
    /// The index, from 0, of the request's encrypted data key that was decrypted.
    pub index: usize,
    /// A display name of the key that decrypted the data key: the ARN of a KMS key, or `namespace/name` of a local key.
    pub key_id: String,
}

impl GeneratedDataKey {
    /// Creates the result from a new data key and its encrypted data keys.
    pub fn new(plaintext: SecretKey, encrypted_data_keys: Vec<EncryptedDataKey>) -> Self {
        Self { plaintext, encrypted_data_keys }
    }
}

impl DecryptedDataKey {
    /// Creates the result from the data key, the index of the encrypted data key in the request, and a display name of
    /// the key that decrypted it.
    pub fn new(plaintext: SecretKey, index: usize, key_id: impl Into<String>) -> Self {
        Self { plaintext, index, key_id: key_id.into() }
    }
}
