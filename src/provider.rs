//! Key providers: what makes data keys, encrypts them and decrypts them again.

#[cfg(feature = "aws-kms")]
pub(crate) mod aws_kms;
#[cfg(feature = "branch-key")]
mod branch_key;
mod by_context;
mod deadline;
pub(crate) mod error;
pub(crate) mod key_provider;
mod multi;
pub(crate) mod raw_aes;
#[cfg(feature = "ecdh")]
mod raw_ecdh;
#[cfg(feature = "rsa")]
mod raw_rsa;
mod request;

use std::fmt;

#[cfg(all(feature = "aws-kms", feature = "rsa"))]
pub use aws_kms::AwsKmsRsa;
#[cfg(feature = "aws-kms")]
pub use aws_kms::{AwsKmsDiscovery, ResolveError};
#[cfg(feature = "branch-key")]
pub use branch_key::StaticBranchKey;
pub use by_context::ByContext;
pub use multi::MultiProvider;
#[cfg(feature = "ecdh")]
pub use raw_ecdh::{EcdhPrivateKey, EcdhPublicKey, RawEcdh};
#[cfg(feature = "rsa")]
pub use raw_rsa::{RawRsa, RsaPadding};
pub use request::{
    DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, GenerateDataKeyRequest, GeneratedDataKey,
};

pub use crate::crypto::{Randomness, SecretKey};
use crate::error::{Cause, ConfigError, NameReason};
pub(crate) use deadline::{DEFAULT_KEY_TIMEOUT, deadline_after};
use deadline::{deadline_or_default, share};
pub(crate) use error::ProviderError;
pub use error::ProviderErrorKind;
pub(crate) use key_provider::KeyProvider;
#[cfg(feature = "mock")]
pub(crate) use raw_aes::RawAes;

/// Whether a key of this process may have these names, which a message stores.
fn check_names(namespace: &str, name: &str, name_room: usize) -> Result<(), ConfigError> {
    let refused = |field, reason| Err(ConfigError::KeyName { field, reason });
    let namespace_room = usize::from(u16::MAX);
    if namespace.starts_with("aws-kms") {
        return refused("namespace", NameReason::Reserved);
    }
    if namespace.len() > namespace_room {
        return refused("namespace", NameReason::TooLong { room: namespace_room });
    }
    if name.len() > name_room {
        return refused("name", NameReason::TooLong { room: name_room });
    }
    Ok(())
}

/// The error of a provider that holds its keys itself.
fn failed(operation: &'static str, provider: &impl fmt::Display, source: impl Into<Cause>) -> ProviderError {
    ProviderError::new(ProviderErrorKind::Other, operation, provider.to_string()).with_source(source)
}

/// The error of a provider that cannot do this at all.
#[cfg(any(feature = "aws-kms", feature = "ecdh", feature = "rsa"))]
fn unsupported(operation: &'static str, provider: &impl fmt::Display, why: &'static str) -> ProviderError {
    ProviderError::new(ProviderErrorKind::Unsupported, operation, provider.to_string()).with_detail(why)
}

/// The error of a provider that holds its keys itself, where an encrypted data key does not decrypt.
fn invalid_ciphertext(provider: &impl fmt::Display) -> ProviderError {
    ProviderError::new(ProviderErrorKind::InvalidCiphertext, "Decrypt", provider.to_string())
}
