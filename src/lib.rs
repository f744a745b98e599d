#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod context;
mod crypto;
mod envelope;
mod error;
mod materials;
pub mod message;
mod provider;
pub mod stream;
mod suite;

pub use context::{EncryptionContext, Iter as ContextIter};
pub use crypto::{Backend, SecretKey};
pub use envelope::{Envelope, EnvelopeBuilder, Opened};
pub use error::{
    BoxError, ConfigError, ContextError, FormatError, HeaderError, LimitError, OpenError, ProviderError, RandomError,
    SealError,
};
pub use message::{EncryptedDataKey, Limits};
#[cfg(feature = "aws-kms")]
pub use provider::AwsKms;
pub use provider::{
    DataKey, DecryptDataKeyRequest, EncryptDataKeyRequest, GenerateDataKeyRequest, KeyProvider, LocalKey,
    PlaintextDataKey,
};
#[cfg(feature = "mock")]
pub use provider::{MemoryKey, MockKeyProvider};
pub use suite::{AlgorithmSuite, HashAlgorithm, KeyDerivation, MessageVersion, SignatureAlgorithm};
