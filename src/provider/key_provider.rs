//! The trait in front of every key service.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use super::{
    DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, GenerateDataKeyRequest, GeneratedDataKey,
    ProviderError, SecretKey,
};
use crate::message::EncryptedDataKey;

/// Makes data keys and decrypts them again: AWS KMS, a local key, a mock in a test, or your own.
///
/// [`AwsKms`](crate::AwsKms) stands in front of AWS KMS, [`RawAes`](crate::RawAes) needs no service, nor do `RawRsa`, `RawEcdh` and
/// `StaticBranchKey` (features `rsa`, `ecdh` and `branch-key`). [`MultiProvider`](super::MultiProvider) is several of them. `MockKeyProvider`,
/// `MemoryKey` and `ScriptedProvider` (feature `mock`) are for unit tests.
///
/// # Implementing
/// A provider that encrypts data keys needs two methods. Annotate the implementation with
/// [`async_trait`](https://docs.rs/async-trait).
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
/// /// What errors and opened messages call the key.
/// impl fmt::Display for Hsm {
///     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
///         write!(f, "hsm/{}", self.key)
///     }
/// }
///
/// let envelope = Envelope::new(Hsm { client: Client, key: "invoices".into() });
/// ```
///
/// - Bind each encrypted data key to the encryption context, so that decrypting fails with any other. With a provider that
///   cannot, such as `RawRsa`, only the message's header authenticates the context.
/// - Return a data key only for the encrypted data key that was decrypted to it.
/// - Respect the deadline that all requests for one message share and carry: start no call to a service after it, and stop
///   one that is running. The envelope does not stop a provider.
/// - Take randomness from the request, so that an envelope with a generator of its own is repeatable.
/// - Test it with `testing::Conformance` (feature `mock`), which checks these and more.
///
/// # Wrapping another provider
/// Forward every method, and pass a request on as it is or as a changed copy (`let mut changed = *request;`). A new one has
/// no deadline, the default backend and randomness, and none of what other providers have learnt about the message.
/// `#[deny(clippy::missing_trait_methods)]` finds a method that is not forwarded.
///
/// ```
/// use std::fmt;
/// use async_trait::async_trait;
/// use kms_envelope::{
///     Envelope, KeyProvider, ProviderError, RawAes, message::EncryptedDataKey,
///     provider::{DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, GenerateDataKeyRequest, GeneratedDataKey},
/// };
///
/// /// Says on stderr what the provider inside is asked for.
/// #[derive(Debug)]
/// struct Logged<P>(P);
///
/// #[async_trait]
/// impl<P: KeyProvider> KeyProvider for Logged<P> {
///     async fn generate_data_key(&self, request: &GenerateDataKeyRequest<'_>) -> Result<GeneratedDataKey, ProviderError> {
///         eprintln!("a new data key for {:?}", request.context);
///         self.0.generate_data_key(request).await
///     }
///
///     async fn encrypt_data_key(
///         &self,
///         request: &EncryptDataKeyRequest<'_>,
///     ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
///         eprintln!("another encrypted form of a data key for {:?}", request.context);
///         self.0.encrypt_data_key(request).await
///     }
///
///     async fn decrypt_data_key(
///         &self,
///         request: &DecryptDataKeyRequest<'_>,
///     ) -> Result<DecryptedDataKey, ProviderError> {
///         eprintln!("one of {:?}", request.encrypted_data_keys);
///         self.0.decrypt_data_key(request).await
///     }
///
///     fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
///         self.0.may_decrypt(encrypted)
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
    /// Returns a fresh random data key of the suite's [length](crate::AlgorithmSuite::data_key_len), and its encrypted
    /// form: one or more. KMS: GenerateDataKey.
    ///
    /// By default, it [generates](SecretKey::generate) a key from the request's randomness and gives it to
    /// [`encrypt_data_key`](Self::encrypt_data_key).
    ///
    /// # Errors
    /// A [`ProviderError`] that says why there is none.
    async fn generate_data_key(&self, request: &GenerateDataKeyRequest<'_>) -> Result<GeneratedDataKey, ProviderError> {
        let plaintext = SecretKey::generate(request.suite, request.randomness)?;
        let encrypted = self.encrypt_data_key(&request.to_encrypt(&plaintext)).await?;
        Ok(GeneratedDataKey::new(plaintext, encrypted))
    }

    /// The encrypted form, one or more, of a data key that exists already. KMS: Encrypt.
    ///
    /// # Errors
    /// A [`ProviderError`] that says why there is none.
    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<EncryptedDataKey>, ProviderError>;

    /// The data key behind the first of the encrypted data keys that this provider can decrypt. KMS: Decrypt.
    ///
    /// # Errors
    /// A [`ProviderError`] of the kind [`NoMatchingKey`](super::ProviderErrorKind::NoMatchingKey) where none is this
    /// provider's, [`NoneDecrypted`](super::ProviderErrorKind::NoneDecrypted) where those that are do not decrypt.
    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError>;

    /// Returns false if it is certain, without asking a service, that this provider cannot decrypt the encrypted data
    /// key: it names another provider or another key. Default: true.
    ///
    /// A [`MultiProvider`](super::MultiProvider) shares the time for a message among the providers that may decrypt it.
    fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
        let _ = encrypted;
        true
    }
}

/// A provider behind a pointer is one.
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
        }
    };
}

pointer!(Arc);
pointer!(Box);
