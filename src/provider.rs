//! Key providers, which generate, encrypt and decrypt data keys.
//!
//! A [`KeyProvider`] connects an [`Envelope`](crate::Envelope) to a key. Choose one by the kind and location of the
//! key:
//!
//! | key | provider | feature |
//! |---|---|---|
//! | symmetric key in AWS KMS | [`AwsKms`](crate::AwsKms) | `aws-kms` |
//! | any KMS key that a message names (opens only) | [`AwsKmsDiscovery`] | `aws-kms` |
//! | RSA key in AWS KMS | [`AwsKmsRsa`] | `aws-kms` and `rsa` |
//! | ECDH key in AWS KMS | [`AwsKmsEcdh`] | `aws-kms` and `ecdh` |
//! | AES key in memory or in a key file | [`RawAes`] | `key-file` for files |
//! | RSA key in memory | [`RawRsa`] | `rsa` |
//! | ECDH key in memory | [`RawEcdh`] | `ecdh` |
//! | branch key in a store, encrypted under a key in AWS KMS | [`AwsKmsHierarchical`] | `aws-kms` and `branch-key` |
//! | branch key in memory | [`StaticBranchKey`] | `branch-key` |
//! | several keys, any of which can open a message | [`MultiProvider`], [`AwsKms::multi`](crate::AwsKms::multi) | |
//! | a key for each tenant | [`ByContext`], [`AwsKmsHierarchical`] | |
//!
//! To use another key service, implement [`KeyProvider`].

#[cfg(feature = "aws-kms")]
pub(crate) mod aws_kms;
#[cfg(feature = "branch-key")]
pub mod branch_key;
mod by_context;
mod deadline;
#[cfg(feature = "ecdh")]
mod ecdh;
pub(crate) mod error;
#[cfg(any(feature = "branch-key-folder", feature = "key-file"))]
mod files;
pub(crate) mod key_provider;
mod multi;
pub(crate) mod raw_aes;
#[cfg(feature = "ecdh")]
mod raw_ecdh;
#[cfg(feature = "rsa")]
mod raw_rsa;
mod request;

use std::fmt;

#[cfg(all(feature = "aws-kms", feature = "ecdh"))]
pub use aws_kms::AwsKmsEcdh;
#[cfg(all(feature = "aws-kms", feature = "rsa"))]
pub use aws_kms::AwsKmsRsa;
#[cfg(feature = "aws-kms")]
pub use aws_kms::{AwsKmsDiscovery, ResolveError};
#[cfg(all(feature = "aws-kms", feature = "branch-key"))]
pub use branch_key::hierarchical::AwsKmsHierarchical;
#[cfg(feature = "branch-key")]
pub use branch_key::static_branch_key::StaticBranchKey;
pub use by_context::ByContext;
#[cfg(feature = "ecdh")]
pub use ecdh::EcdhPublicKey;
pub use multi::MultiProvider;
#[cfg(feature = "ecdh")]
pub use raw_ecdh::{EcdhPrivateKey, RawEcdh};
#[cfg(feature = "rsa")]
pub use raw_rsa::{RawRsa, RsaPadding};
pub use request::{
    DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, GenerateDataKeyRequest, GeneratedDataKey,
};

pub use crate::crypto::{Randomness, SecretKey};
use crate::{
    crypto::AesGcm,
    error::{Cause, ConfigError, NameReason, NotFips},
    suite::{AlgorithmSuite, IV_LEN, TAG_LEN},
};
pub(crate) use deadline::{DEFAULT_KEY_TIMEOUT, deadline_after};
use deadline::{deadline_or_default, share};
pub(crate) use error::ProviderError;
pub use error::ProviderErrorKind;
pub(crate) use key_provider::KeyProvider;
#[cfg(feature = "mock")]
pub(crate) use raw_aes::RawAes;

/// Checks the names of a local key, which are stored in each message.
fn check_names(namespace: &str, name: &str, max_name_len: usize) -> Result<(), ConfigError> {
    let refused = |field, reason| Err(ConfigError::KeyName { field, reason });
    let max_namespace_len = usize::from(u16::MAX);
    if namespace.starts_with("aws-kms") {
        return refused("key's namespace", NameReason::Reserved);
    }
    if namespace.len() > max_namespace_len {
        return refused("key's namespace", NameReason::TooLong { max: max_namespace_len });
    }
    if name.len() > max_name_len {
        return refused("key's name", NameReason::TooLong { max: max_name_len });
    }
    Ok(())
}

/// Decrypts a data key that AES-GCM has encrypted. Returns `None` if it does not decrypt, or does not have the suite's
/// length.
fn unwrap_data_key(
    cipher: &AesGcm,
    iv: &[u8; IV_LEN],
    aad: &[u8],
    wrapped: &[u8],
    suite: AlgorithmSuite,
) -> Option<SecretKey> {
    let len = wrapped.len().checked_sub(TAG_LEN).filter(|len| *len == suite.data_key_len())?;
    SecretKey::filled(len, |out| cipher.open(iv, aad, wrapped, out)).ok()
}

/// Returns the error of an operation that failed inside this process.
fn failed(operation: &'static str, provider: &impl fmt::Display, source: impl Into<Cause>) -> ProviderError {
    ProviderError::new(ProviderErrorKind::Other, operation, provider.to_string()).with_source(source)
}

/// Returns the error of an operation that the provider does not support.
#[cfg(any(feature = "aws-kms", feature = "ecdh", feature = "rsa"))]
fn unsupported(operation: &'static str, provider: &impl fmt::Display, why: &'static str) -> ProviderError {
    ProviderError::new(ProviderErrorKind::Unsupported, operation, provider.to_string()).with_detail(why)
}

/// Returns the error of an operation that must not use a provider because FIPS is required.
pub(crate) fn not_fips(why: NotFips, operation: &'static str, key_id: &str) -> ProviderError {
    let error = ConfigError::NotFips(why);
    ProviderError::new(ProviderErrorKind::Unsupported, operation, key_id)
        .with_detail(error.to_string())
        .with_source(error)
}

/// Returns the error for encrypted data keys that were not tried because of the limit for one KMS key.
#[cfg(any(feature = "aws-kms", feature = "branch-key"))]
fn not_tried(count: usize, limit: u16, provider: &impl fmt::Display) -> ProviderError {
    let detail = format!("{count}; the limit for one KMS key is {limit} (Limits::tries_per_kms_key)");
    ProviderError::new(ProviderErrorKind::NotTried, "Decrypt", provider.to_string()).with_detail(detail)
}

/// Returns the error for an encrypted data key that a local key could not decrypt.
fn invalid_ciphertext(provider: &impl fmt::Display) -> ProviderError {
    ProviderError::new(ProviderErrorKind::InvalidCiphertext, "Decrypt", provider.to_string())
}
