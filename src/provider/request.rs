//! What key providers are asked for, and what they answer.

use std::{fmt, time::Instant};

use crate::{
    context::EncryptionContext,
    crypto::SecretKey,
    error::ProviderError,
    message::{EncryptedDataKey, Limits},
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
}

impl<'a> GenerateDataKeyRequest<'a> {
    /// Creates a request without a deadline.
    pub fn new(suite: AlgorithmSuite, context: &'a EncryptionContext) -> Self {
        Self { suite, context, deadline: None }
    }

    /// Sets the [`deadline`](Self::deadline).
    #[must_use]
    pub fn with_deadline(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
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
}

impl<'a> EncryptDataKeyRequest<'a> {
    /// Creates a request without a deadline.
    pub fn new(suite: AlgorithmSuite, context: &'a EncryptionContext, data_key: &'a SecretKey) -> Self {
        Self { suite, context, data_key, deadline: None }
    }

    /// Sets the [`deadline`](Self::deadline).
    #[must_use]
    pub fn with_deadline(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
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
    /// The outcomes of earlier requests to KMS for the same message, by providers that were asked before this one.
    #[cfg(feature = "aws-kms")]
    pub(super) learnt: Option<&'a super::aws_kms::Learnt<'a>>,
}

impl<'a> DecryptDataKeyRequest<'a> {
    /// Creates a request without a deadline, and with the default limit on tries.
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
            #[cfg(feature = "aws-kms")]
            learnt: None,
        }
    }

    /// Sets the [`deadline`](Self::deadline).
    #[must_use]
    pub fn with_deadline(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// Sets [how many encrypted data keys](crate::Limits::tries_per_kms_key) under one KMS key may be tried.
    #[must_use]
    pub fn with_tries_per_kms_key(self, tries_per_kms_key: u16) -> Self {
        Self { tries_per_kms_key, ..self }
    }

    /// The error of `provider`, which has tried those of the encrypted data keys that are its own, and failed with
    /// `attempts`: [`ProviderError::NoMatchingKey`] where there was none to try.
    pub fn none_decrypted(&self, provider: impl fmt::Display, attempts: Vec<ProviderError>) -> ProviderError {
        if attempts.is_empty() {
            ProviderError::NoMatchingKey {
                provider: provider.to_string(),
                found: self.encrypted_data_keys.iter().map(ToString::to_string).collect(),
            }
        } else {
            ProviderError::NoneDecrypted { attempts }
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
