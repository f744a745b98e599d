//! What key providers are asked for, and what they answer.

use std::{fmt, time::Instant};

use super::ProviderErrorKind;
use crate::{
    context::EncryptionContext,
    crypto::{Backend, Randomness, SecretKey},
    message::{EncryptedDataKey, Limits},
    provider::ProviderError,
    suite::AlgorithmSuite,
};

/// What [`KeyProvider::generate_data_key`](crate::KeyProvider::generate_data_key) is given.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct GenerateDataKeyRequest<'a> {
    /// The suite that the key is for: it gives the key's length.
    pub suite: AlgorithmSuite,
    /// The whole encryption context. A provider should bind the key to it.
    pub context: &'a EncryptionContext,
    /// When all requests for the message must be over. Without it, the providers for AWS KMS take 10 seconds at most.
    pub deadline: Option<Instant>,
    /// The implementation of cryptography that the envelope uses. Providers that do cryptography should use it too.
    pub backend: Backend,
    /// The envelope's source of random bytes. Providers should take data keys and IVs from it.
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

    /// Sets the [`backend`](Self::backend). Default: the fastest that is compiled in.
    #[must_use]
    pub fn with_backend(self, backend: Backend) -> Self {
        Self { backend, ..self }
    }

    /// Sets the [`randomness`](Self::randomness). Default: the operating system's.
    #[must_use]
    pub fn with_randomness(self, randomness: Randomness<'a>) -> Self {
        Self { randomness, ..self }
    }

    /// Returns the request to encrypt a data key that was generated for this request. Everything else is carried over.
    pub fn to_encrypt(&self, data_key: &'a SecretKey) -> EncryptDataKeyRequest<'a> {
        let Self { suite, context, deadline, backend, randomness } = *self;
        EncryptDataKeyRequest { suite, context, data_key, deadline, backend, randomness }
    }
}

/// What [`KeyProvider::encrypt_data_key`](crate::KeyProvider::encrypt_data_key) is given.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct EncryptDataKeyRequest<'a> {
    /// The suite that the key is for.
    pub suite: AlgorithmSuite,
    /// The whole encryption context. A provider should bind the key to it.
    pub context: &'a EncryptionContext,
    /// The data key.
    pub data_key: &'a SecretKey,
    /// When all requests for the message must be over. Without it, the providers for AWS KMS take 10 seconds at most.
    pub deadline: Option<Instant>,
    /// The implementation of cryptography that the envelope uses. Providers that do cryptography should use it too.
    pub backend: Backend,
    /// The envelope's source of random bytes. Providers should take data keys and IVs from it.
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

    /// Sets the [`backend`](Self::backend). Default: the fastest that is compiled in.
    #[must_use]
    pub fn with_backend(self, backend: Backend) -> Self {
        Self { backend, ..self }
    }

    /// Sets the [`randomness`](Self::randomness). Default: the operating system's.
    #[must_use]
    pub fn with_randomness(self, randomness: Randomness<'a>) -> Self {
        Self { randomness, ..self }
    }
}

/// What [`KeyProvider::decrypt_data_key`](crate::KeyProvider::decrypt_data_key) is given.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct DecryptDataKeyRequest<'a> {
    /// The suite that the key is for: it gives the key's length.
    pub suite: AlgorithmSuite,
    /// The whole encryption context, as it was given when the key was encrypted.
    pub context: &'a EncryptionContext,
    /// The message's encrypted data keys, in order. Some may be other providers'.
    pub encrypted_data_keys: &'a [EncryptedDataKey],
    /// When all requests for the message must be over. Without it, the providers for AWS KMS take 10 seconds at most.
    pub deadline: Option<Instant>,
    /// See [`Limits::tries_per_kms_key`](crate::Limits::tries_per_kms_key).
    pub tries_per_kms_key: u16,
    /// The implementation of cryptography that the envelope uses. Providers that do cryptography should use it too.
    pub backend: Backend,
    /// The envelope's source of random bytes.
    pub randomness: Randomness<'a>,
    /// The outcomes of earlier requests to KMS for the same message, by providers that were asked before this one.
    #[cfg(feature = "aws-kms")]
    pub(super) learnt: Option<&'a super::aws_kms::Learnt<'a>>,
}

impl<'a> DecryptDataKeyRequest<'a> {
    /// Creates a request without a deadline, with the default limit on tries, backend and randomness.
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
            learnt: None,
        }
    }

    /// Sets the [`deadline`](Self::deadline).
    #[must_use]
    pub fn with_deadline(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// Sets the [`backend`](Self::backend). Default: the fastest that is compiled in.
    #[must_use]
    pub fn with_backend(self, backend: Backend) -> Self {
        Self { backend, ..self }
    }

    /// Sets the [`randomness`](Self::randomness). Default: the operating system's.
    #[must_use]
    pub fn with_randomness(self, randomness: Randomness<'a>) -> Self {
        Self { randomness, ..self }
    }

    /// Sets [how many encrypted data keys](crate::Limits::tries_per_kms_key) under one KMS key may be tried.
    #[must_use]
    pub fn with_tries_per_kms_key(self, tries_per_kms_key: u16) -> Self {
        Self { tries_per_kms_key, ..self }
    }

    /// Returns the first of the encrypted data keys that `decrypt` decrypts, as [`KeyProvider::decrypt_data_key`] must.
    /// `decrypt` returns None for those that are not the provider's own. It is called for one after the other until it
    /// returns a key of the length that the suite takes. `provider` is the name of the provider: its
    /// [`Display`](fmt::Display) becomes [`DecryptedDataKey::key_id`].
    ///
    /// For providers that call a service, there is [`async_first_decrypted`](Self::async_first_decrypted).
    ///
    /// # Errors
    /// Those of [`none_decrypted`](Self::none_decrypted), with all errors of `decrypt`.
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

    /// Like [`first_decrypted`](Self::first_decrypted), for providers that call a service: `decrypt` returns a future.
    ///
    /// A message may name the same key many times. After an error that [is retryable](ProviderError::is_retryable), the
    /// service is not called again for this message.
    ///
    /// # Errors
    /// Those of [`none_decrypted`](Self::none_decrypted), with all errors of `decrypt`.
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

    /// Returns the key if it has the length that the suite takes.
    fn of_suite(&self, provider: &(impl fmt::Display + ?Sized), key: SecretKey) -> Result<SecretKey, ProviderError> {
        let (len, needed) = (key.len(), self.suite.data_key_len());
        if len == needed {
            return Ok(key);
        }
        let what = format!("a data key of {len} bytes, but suite {} takes {needed}", self.suite);
        Err(ProviderError::new(ProviderErrorKind::InvalidCiphertext, "Decrypt", provider.to_string()).with_detail(what))
    }

    /// The error of `provider`, which has tried those of the encrypted data keys that are its own, and failed with
    /// `attempts`: of the kind [`NoMatchingKey`](ProviderErrorKind::NoMatchingKey) where there was none to try.
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

/// A fresh data key: what [`KeyProvider::generate_data_key`](crate::KeyProvider::generate_data_key) gives.
#[derive(Debug)]
#[non_exhaustive]
pub struct GeneratedDataKey {
    /// The key in the clear.
    pub plaintext: SecretKey,
    /// Its encrypted forms, to be stored in the message: one or more.
    pub encrypted_data_keys: Vec<EncryptedDataKey>,
}

/// A decrypted data key: what [`KeyProvider::decrypt_data_key`](crate::KeyProvider::decrypt_data_key) gives.
#[derive(Debug)]
#[non_exhaustive]
pub struct DecryptedDataKey {
    /// The key in the clear.
    pub plaintext: SecretKey,
    /// Which of the request's encrypted data keys it was, from 0.
    pub index: usize,
    /// What decrypted it, for people to read: the ARN of the KMS key that was asked, `namespace/name` of a local key.
    pub key_id: String,
}

impl GeneratedDataKey {
    /// Puts a fresh data key and its encrypted forms together.
    pub fn new(plaintext: SecretKey, encrypted_data_keys: Vec<EncryptedDataKey>) -> Self {
        Self { plaintext, encrypted_data_keys }
    }
}

impl DecryptedDataKey {
    /// Puts a decrypted data key, the place of its encrypted form in the request, and the name of its key together.
    pub fn new(plaintext: SecretKey, index: usize, key_id: impl Into<String>) -> Self {
        Self { plaintext, index, key_id: key_id.into() }
    }
}
