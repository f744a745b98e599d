//! The trait that key providers implement.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use super::{
    DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, GenerateDataKeyRequest, GeneratedDataKey,
    ProviderError, SecretKey,
};
use crate::{error::NotFips, message::EncryptedDataKey};

/// Generates, encrypts and decrypts data keys.
///
/// [`AwsKms`](crate::AwsKms) uses AWS KMS, and [`RawAes`](crate::RawAes) a key in memory. The [`provider`](super)
/// module lists all key providers of this crate. For unit tests, use those of the [`testing`](crate::testing) module.
///
/// # Implementing
/// A provider needs two methods: [`encrypt_data_key`](Self::encrypt_data_key) and
/// [`decrypt_data_key`](Self::decrypt_data_key). Annotate the implementation with
/// [`#[async_trait]`](https://docs.rs/async-trait).
///
/// ```no_run
/// use std::fmt;
/// use async_trait::async_trait;
/// use kms_envelope::{
///     Envelope, KeyProvider, ProviderError, message::EncryptedDataKey,
///     provider::{DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, ProviderErrorKind, SecretKey},
/// };
/// # /// A client of a key service.
/// # #[derive(Debug)]
/// # struct Client;
/// # impl Client {
/// #     async fn wrap(&self, _key: &str, _data: &[u8], _context: &[u8]) -> std::io::Result<Vec<u8>> { todo!() }
/// #     async fn unwrap(&self, _key: &str, _data: &[u8], _context: &[u8]) -> std::io::Result<Vec<u8>> { todo!() }
/// # }
///
/// /// A key in a hardware security module.
/// #[derive(Debug)]
/// struct Hsm {
///     client: Client,
///     key: String,
/// }
///
/// impl Hsm {
///     async fn decrypt(&self, encrypted: &EncryptedDataKey, context: &[u8]) -> Result<SecretKey, ProviderError> {
///         let unwrapped = self.client.unwrap(&self.key, &encrypted.ciphertext, context).await;
///         let failed = |kind| ProviderError::new(kind, "Decrypt", &self.key);
///         let key = unwrapped.map_err(|error| failed(ProviderErrorKind::Unavailable).with_source(error))?;
///         SecretKey::try_from(key).map_err(|error| failed(ProviderErrorKind::UnexpectedResponse).with_source(error))
///     }
/// }
///
/// #[async_trait]
/// impl KeyProvider for Hsm {
///     async fn encrypt_data_key(
///         &self,
///         request: &EncryptDataKeyRequest<'_>,
///     ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
///         let failed = |kind| ProviderError::new(kind, "Encrypt", &self.key);
///         let context = request.context.serialize();
///         let context = context.map_err(|error| failed(ProviderErrorKind::Other).with_source(error))?;
///         let wrapped = self.client.wrap(&self.key, request.data_key.expose(), &context).await;
///         let wrapped = wrapped.map_err(|error| failed(ProviderErrorKind::Unavailable).with_source(error))?;
///         Ok(vec![EncryptedDataKey::new("hsm", self.key.clone(), wrapped)])
///     }
///
///     async fn decrypt_data_key(
///         &self,
///         request: &DecryptDataKeyRequest<'_>,
///     ) -> Result<DecryptedDataKey, ProviderError> {
///         let failed = |kind| ProviderError::new(kind, "Decrypt", &self.key);
///         let context = request.context.serialize();
///         let context = &context.map_err(|error| failed(ProviderErrorKind::Other).with_source(error))?;
///         let decrypt = async |encrypted: &EncryptedDataKey| {
///             let is_ours = encrypted.provider_id == "hsm" && encrypted.provider_info == self.key;
///             if is_ours { Some(self.decrypt(encrypted, context).await) } else { None }
///         };
///         request.async_first_decrypted(self, decrypt).await
///     }
/// }
///
/// /// The key's name in errors and in opened messages.
/// impl fmt::Display for Hsm {
///     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
///         write!(f, "hsm/{}", self.key)
///     }
/// }
///
/// let envelope = Envelope::new(Hsm { client: Client, key: "invoices".into() });
/// ```
///
/// A provider should follow these rules:
///
/// - Bind each encrypted data key to the encryption context, so that it does not decrypt with a different context. If a
///   provider cannot do this (such as [`RawRsa`](super::RawRsa)), only the message's header authenticates the context.
/// - Return the index of the encrypted data key that was decrypted.
/// - Enforce the request's deadline, which all requests for one message share. After the deadline, do not start calls
///   to the key service, and cancel calls in progress. The envelope does not cancel the provider.
/// - Take random bytes from the request, so that tests that set [`EnvelopeBuilder::rng`](crate::EnvelopeBuilder::rng)
///   are reproducible.
///
/// [`testing::Conformance`](crate::testing::Conformance) tests a provider against these rules and others.
///
/// # Wrapping another provider
/// Forward every method. Pass on the request itself, or a modified copy of it (`let mut modified = *request;`). Do not
/// construct a new request: it would have no deadline, the default backend and randomness, and no record of the calls
/// that other providers have made for the message. `#[deny(clippy::missing_trait_methods)]` reports methods that are
/// not forwarded.
///
/// ```
/// use std::fmt;
/// use async_trait::async_trait;
/// use kms_envelope::{
///     Envelope, KeyProvider, ProviderError, RawAes, error::NotFips, message::EncryptedDataKey,
///     provider::{DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, GenerateDataKeyRequest, GeneratedDataKey},
/// };
///
/// /// Logs each call to the inner provider on standard error.
/// #[derive(Debug)]
/// struct Logged<P>(P);
///
/// #[async_trait]
/// impl<P: KeyProvider> KeyProvider for Logged<P> {
///     async fn generate_data_key(&self, request: &GenerateDataKeyRequest<'_>) -> Result<GeneratedDataKey, ProviderError> {
///         eprintln!("generating a data key for {:?}", request.context);
///         self.0.generate_data_key(request).await
///     }
///
///     async fn encrypt_data_key(
///         &self,
///         request: &EncryptDataKeyRequest<'_>,
///     ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
///         eprintln!("encrypting a data key for {:?}", request.context);
///         self.0.encrypt_data_key(request).await
///     }
///
///     async fn decrypt_data_key(
///         &self,
///         request: &DecryptDataKeyRequest<'_>,
///     ) -> Result<DecryptedDataKey, ProviderError> {
///         eprintln!("decrypting one of {:?}", request.encrypted_data_keys);
///         self.0.decrypt_data_key(request).await
///     }
///
///     fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
///         self.0.may_decrypt(encrypted)
///     }
///
///     fn check_fips(&self) -> Result<(), NotFips> {
///         self.0.check_fips()
///     }
/// }
///
/// impl<P: KeyProvider> fmt::Display for Logged<P> {
///     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
///         write!(f, "{}", self.0)
///     }
/// }
///
/// let envelope = Envelope::new(Logged(RawAes::generate("example", "2026")?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait KeyProvider: fmt::Debug + fmt::Display + Send + Sync {
    /// Generates a data key of the [length](crate::AlgorithmSuite::data_key_len) that the suite requires, and returns
    /// it with at least one encrypted data key.
    ///
    /// [`AwsKms`](crate::AwsKms) calls `GenerateDataKey`. The default implementation [generates](SecretKey::generate)
    /// the key from the request's randomness and encrypts it with [`encrypt_data_key`](Self::encrypt_data_key).
    ///
    /// # Errors
    /// Returns a [`ProviderError`] if the data key cannot be generated or encrypted.
    async fn generate_data_key(&self, request: &GenerateDataKeyRequest<'_>) -> Result<GeneratedDataKey, ProviderError> {
        let plaintext = SecretKey::generate(request.suite, request.randomness)?;
        let encrypted = self.encrypt_data_key(&request.to_encrypt(&plaintext)).await?;
        Ok(GeneratedDataKey::new(plaintext, encrypted))
    }

    /// Encrypts an existing data key, and returns at least one encrypted data key.
    ///
    /// [`AwsKms`](crate::AwsKms) calls `Encrypt`.
    ///
    /// # Errors
    /// Returns a [`ProviderError`] if the data key cannot be encrypted.
    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<EncryptedDataKey>, ProviderError>;

    /// Decrypts the first of the request's encrypted data keys that this provider can decrypt.
    ///
    /// [`AwsKms`](crate::AwsKms) calls `Decrypt`. [`first_decrypted`](DecryptDataKeyRequest::first_decrypted)
    /// implements the loop for other providers.
    ///
    /// # Errors
    /// Returns a [`ProviderError`] of the kind [`NoMatchingKey`](super::ProviderErrorKind::NoMatchingKey) if none of
    /// the encrypted data keys belongs to this provider, or of the kind
    /// [`NoneDecrypted`](super::ProviderErrorKind::NoneDecrypted) if some do, but none of them could be decrypted.
    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError>;

    /// Returns `false` if the encrypted data key names another provider or another key, so that this provider certainly
    /// cannot decrypt it.
    ///
    /// The method must not call a key service. The default implementation returns `true`.
    ///
    /// [`MultiProvider`](super::MultiProvider) skips a provider that can decrypt none of a message's encrypted data
    /// keys, so that the provider uses none of the time before the deadline.
    fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
        let _ = encrypted;
        true
    }

    /// Checks that the provider may be used where
    /// [`EnvelopeBuilder::require_fips`](crate::EnvelopeBuilder::require_fips) is set.
    ///
    /// Return `Ok(())` if all cryptography of the provider is in a key service, or in a FIPS module in this process: that
    /// of AWS-LC, if the provider uses the backend and the randomness of its requests. Check the provider's own settings
    /// and keys only. The envelope checks the module and the backend.
    ///
    /// The method must not call a key service. The default implementation refuses, because the answer is not known.
    ///
    /// # Errors
    /// Returns [`NotFips::Provider`] if the provider must not be used. [`NotFips::provider`] creates it.
    fn check_fips(&self) -> Result<(), NotFips> {
        Err(NotFips::provider(self, "it does not implement KeyProvider::check_fips"))
    }
}

/// Implements `KeyProvider` for a pointer to a provider.
macro_rules! pointer {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<P: KeyProvider + ?Sized> KeyProvider for $pointer<P> {
            async fn generate_data_key(
                &self,
                request: &GenerateDataKeyRequest<'_>,
            ) -> Result<GeneratedDataKey, ProviderError> {
                P::generate_data_key(self, request).await
            }

            async fn encrypt_data_key(
                &self,
                request: &EncryptDataKeyRequest<'_>,
            ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
                P::encrypt_data_key(self, request).await
            }

            async fn decrypt_data_key(
                &self,
                request: &DecryptDataKeyRequest<'_>,
            ) -> Result<DecryptedDataKey, ProviderError> {
                P::decrypt_data_key(self, request).await
            }

            fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
                P::may_decrypt(self, encrypted)
            }

            fn check_fips(&self) -> Result<(), NotFips> {
                P::check_fips(self)
            }
        }
    };
}

pointer!(Arc);
pointer!(Box);
