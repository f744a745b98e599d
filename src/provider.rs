//! Key providers: what makes data keys, encrypts them and decrypts them again.

#[cfg(feature = "aws-kms")]
mod aws_kms;
#[cfg(feature = "branch-key")]
mod branch_key;
#[cfg(feature = "ecdh")]
mod ecdh;
mod local;
#[cfg(feature = "mock")]
mod mock;
mod multi;
#[cfg(feature = "rsa")]
mod rsa;
#[cfg(feature = "mock")]
mod scripted;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;

#[cfg(all(feature = "aws-kms", feature = "rsa"))]
pub use aws_kms::AwsKmsRsa;
#[cfg(feature = "aws-kms")]
pub use aws_kms::{AwsKms, AwsKmsDiscovery};
#[cfg(feature = "branch-key")]
pub use branch_key::StaticBranchKey;
#[cfg(feature = "ecdh")]
pub use ecdh::{EcdhPrivateKey, EcdhPublicKey, RawEcdh};
pub use local::LocalKey;
#[cfg(feature = "mock")]
pub use mock::{MemoryKey, MockKeyProvider};
pub use multi::MultiProvider;
#[cfg(feature = "rsa")]
pub use rsa::{RawRsa, RsaPadding};
#[cfg(feature = "mock")]
pub use scripted::{Calls, Fault, ScriptedProvider};

use crate::{
    context::EncryptionContext,
    crypto::{Random, SecretKey},
    error::{Cause, ConfigError, ProviderError},
    message::{EncryptedDataKey, Limits},
    suite::AlgorithmSuite,
};

/// Makes data keys and decrypts them again: AWS KMS, a local key, a mock in a test, or your own.
///
/// [`AwsKms`] stands in front of AWS KMS, [`LocalKey`] needs no service, nor do `RawRsa`, `RawEcdh` and
/// `StaticBranchKey` (features `rsa`, `ecdh` and `branch-key`). [`MultiProvider`] is several of them. `MockKeyProvider`,
/// `MemoryKey` and `ScriptedProvider` (feature `mock`) are for unit tests.
///
/// # Implementing
/// Annotate the implementation with [`async_trait`](https://docs.rs/async-trait). A provider should bind each
/// encrypted data key to the encryption context, so that decrypting fails with any other; with one that does not, such
/// as `RawRsa`, only the message's header authenticates the context. A provider must only name an encrypted data key as
/// decrypted that it has decrypted.
///
/// All requests for one message share a deadline, which each of them carries. A provider that calls a service should
/// start no call after it, and stop one that is running; the envelope does not stop a provider.
///
/// A provider that passes a request on with changes should change a copy of it (`let mut changed = *request;`). A new one
/// has no deadline, and none of what other providers have learnt about the message.
///
/// ```
/// use async_trait::async_trait;
/// use kms_envelope::{
///     DataKey, DecryptDataKeyRequest, EncryptDataKeyRequest, EncryptedDataKey, Envelope, GenerateDataKeyRequest,
///     KeyProvider, LocalKey, PlaintextDataKey, ProviderError,
/// };
///
/// /// Says on stderr what the provider inside is asked for.
/// #[derive(Debug)]
/// struct Logged<P>(P);
///
/// #[async_trait]
/// impl<P: KeyProvider> KeyProvider for Logged<P> {
///     async fn generate_data_key(&self, request: &GenerateDataKeyRequest<'_>) -> Result<DataKey, ProviderError> {
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
///     ) -> Result<PlaintextDataKey, ProviderError> {
///         eprintln!("one of {:?}", request.encrypted_data_keys);
///         self.0.decrypt_data_key(request).await
///     }
/// }
///
/// let envelope = Envelope::new(Logged(LocalKey::generate("example", "2026")?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait KeyProvider: fmt::Debug + Send + Sync {
    /// A fresh random data key of the suite's [length](AlgorithmSuite::data_key_len), and its encrypted form: one
    /// or more. KMS: GenerateDataKey.
    ///
    /// # Errors
    /// A [`ProviderError`] that says why there is none.
    async fn generate_data_key(&self, request: &GenerateDataKeyRequest<'_>) -> Result<DataKey, ProviderError>;

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
    /// [`ProviderError::NoMatchingKey`] where none is this provider's, [`ProviderError::NoneDecrypted`] where those
    /// that are do not decrypt.
    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<PlaintextDataKey, ProviderError>;
}

/// A provider behind a pointer is one.
macro_rules! pointer {
    ($pointer:ident) => {
        #[async_trait]
        impl<P: KeyProvider + ?Sized> KeyProvider for $pointer<P> {
            async fn generate_data_key(&self, request: &GenerateDataKeyRequest<'_>) -> Result<DataKey, ProviderError> {
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
            ) -> Result<PlaintextDataKey, ProviderError> {
                P::decrypt_data_key(self, request).await
            }
        }
    };
}

pointer!(Arc);
pointer!(Box);

/// What [`KeyProvider::generate_data_key`] is given.
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

/// What [`KeyProvider::encrypt_data_key`] is given.
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

/// What [`KeyProvider::decrypt_data_key`] is given.
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
    learnt: Option<&'a aws_kms::Learnt<'a>>,
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

/// How long all requests for a message may take together, unless somebody says otherwise.
pub(crate) const DEFAULT_KEY_TIMEOUT: Duration = Duration::from_secs(10);

/// The point in time that is so far from now. Where the clock does not go so far, it is a century from now.
pub(crate) fn deadline_after(timeout: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    let now = Instant::now();
    now.checked_add(timeout).or_else(|| now.checked_add(CENTURY)).unwrap_or(now)
}

/// The deadline of the requests for a message, which a caller of a provider may not have given.
fn deadline_or_default(given: Option<Instant>) -> Instant {
    given.unwrap_or_else(|| deadline_after(DEFAULT_KEY_TIMEOUT))
}

/// The deadline of one of several tries that are made in order: it has half of the time that is left, so that a silent
/// one leaves time for those after it however many they are. The last one has all of it.
fn share(deadline: Instant, is_last: bool) -> Instant {
    let left = deadline.saturating_duration_since(Instant::now());
    if is_last { deadline } else { deadline.checked_sub(left / 2).unwrap_or(deadline) }
}

/// Whether a key of this process may have these names, which a message stores.
fn check_names(namespace: &str, name: &str, name_room: usize) -> Result<(), ConfigError> {
    let refused = |field, why: String| Err(ConfigError::KeyName { field, why });
    if namespace.starts_with("aws-kms") {
        return refused("namespace", "names that begin with \"aws-kms\" are for AWS KMS".into());
    }
    if namespace.len() > usize::from(u16::MAX) {
        return refused("namespace", "the format has room for 65535 bytes".into());
    }
    if name.len() > name_room {
        return refused("name", format!("the format has room for {name_room} bytes"));
    }
    Ok(())
}

/// A fresh data key, which `wrap` encrypts.
fn generated(
    request: &GenerateDataKeyRequest<'_>,
    random: &Random,
    wrap: impl FnOnce(&SecretKey) -> Result<EncryptedDataKey, ProviderError>,
) -> Result<DataKey, ProviderError> {
    let plaintext = SecretKey::filled(request.suite.data_key_len(), |out| random.fill(out))?;
    let encrypted = vec![wrap(&plaintext)?];
    Ok(DataKey { plaintext, encrypted })
}

/// The first of the encrypted data keys that `unwrap` decrypts. Of those that are not this provider's, it gives none.
fn first_decrypted(
    request: &DecryptDataKeyRequest<'_>,
    provider: &impl fmt::Display,
    unwrap: impl Fn(&EncryptedDataKey) -> Option<Result<SecretKey, ProviderError>>,
) -> Result<PlaintextDataKey, ProviderError> {
    let mut attempts = Vec::new();
    for (index, encrypted) in request.encrypted_data_keys.iter().enumerate() {
        match unwrap(encrypted) {
            None => {}
            Some(Ok(key)) => return Ok(PlaintextDataKey { key, index, key_id: provider.to_string() }),
            Some(Err(error)) => attempts.push(error),
        }
    }
    Err(request.none_decrypted(provider, attempts))
}

/// The error of a provider that holds its keys itself.
fn failed(operation: &'static str, provider: &impl fmt::Display, source: impl Into<Cause>) -> ProviderError {
    ProviderError::Other { operation, key_id: provider.to_string(), source: source.into() }
}

/// The error of a provider that holds its keys itself, where an encrypted data key does not decrypt.
fn invalid_ciphertext(provider: &impl fmt::Display) -> ProviderError {
    ProviderError::InvalidCiphertext { operation: "Decrypt", key_id: provider.to_string(), source: None }
}

/// A fresh data key: what [`KeyProvider::generate_data_key`] gives.
#[derive(Debug)]
pub struct DataKey {
    /// The key in the clear.
    pub plaintext: SecretKey,
    /// Its encrypted forms, to be stored in the message: one or more.
    pub encrypted: Vec<EncryptedDataKey>,
}

/// A decrypted data key: what [`KeyProvider::decrypt_data_key`] gives.
#[derive(Debug)]
pub struct PlaintextDataKey {
    /// The key in the clear.
    pub key: SecretKey,
    /// Which of the request's encrypted data keys it was, from 0.
    pub index: usize,
    /// What decrypted it, for people to read: the ARN of the KMS key that was asked, `namespace/name` of a local key.
    pub key_id: String,
}
