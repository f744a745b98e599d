//! Envelope encryption with AWS KMS, in the message format of the AWS Encryption SDK.
//!
//! An [`Envelope`] stands in front of a [`KeyProvider`]: AWS KMS ([`AwsKms`]), a key of this process ([`RawAes`]),
//! or your own. [`Envelope::seal`] asks the provider for a fresh data key, encrypts the data with AES-256-GCM under a
//! key derived from it, wipes the data key, and packs its encrypted form with the data into one message.
//! [`Envelope::open`] has the provider decrypt it again.
//!
//! ```
//! use kms_envelope::{EncryptionContext, Envelope, RawAes};
//!
//! # pollster::block_on(async {
//! let envelope = Envelope::new(RawAes::generate("my-service", "2026-11")?); // or AwsKms, see there
//! let context = EncryptionContext::from([("tenant", "acme")]);
//!
//! let sealed: Vec<u8> = envelope.seal(b"attack at dawn", &context).await?;
//! let opened = envelope.open(&sealed, &context).await?;
//!
//! assert_eq!(opened.plaintext, b"attack at dawn");
//! assert_eq!(opened.info.context.get("tenant"), Some("acme"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! # Streams
//! What does not fit into memory goes through [`Envelope::seal_writer`] and [`Envelope::open_reader`], or with tokio
//! through `Envelope::seal_async_writer` and `Envelope::open_async_reader` (feature `tokio`): one request to the key
//! provider, then plain I/O in a few megabytes of memory. [`stream::Sealer`] and [`stream::Opener`] do the same
//! without any I/O. [`Envelope::range_reader`] reads any part of the plaintext without the rest.
//!
//! # In production
//! A [`DataKeyCache`] makes one request to the key provider, and its data key, serve for many messages and for many who
//! wait, and goes on while the key service is away. `AwsKms::multi`, `AwsKms::with_replica` and `AwsKmsDiscovery` are
//! for several regions. [`Envelope::rewrap`] puts a message's data key under another key without touching the message;
//! [`Envelope::reseal`] makes a new one.
//!
//! # What is protected
//! Only those who can use the provider's key can read the plaintext. Every byte of a message's header and body is
//! authenticated: a message that was changed there, is cut short, goes on after its end, or is opened under another key
//! or context is refused. An ECDSA signature can be replaced by an equivalent one, which does not change what opens.
//! The length of the data, the encryption context and the names of the keys are in the clear.
//!
//! # Features
//! `aws-kms` and `aws-lc` are on by default; `tokio`, `stream`, `parallel`, `rsa`, `ecdh`, `branch-key`, `key-file`,
//! `tracing` and `mock` are not. Without default features the crate is pure Rust. A feature adds; none changes what another does.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    not(test),
    warn(
        clippy::cast_lossless,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        clippy::exhaustive_enums,
        clippy::exhaustive_structs,
        clippy::missing_errors_doc,
        clippy::missing_panics_doc,
        clippy::unwrap_used
    )
)]

pub mod cache;
mod clock;
mod context;
mod crypto;
mod envelope;
pub mod error;
mod events;
pub mod guide;
mod materials;
pub mod message;
pub mod provider;
pub mod stream;
mod suite;
#[cfg(feature = "mock")]
pub mod testing;

pub use cache::data_key_cache::DataKeyCache;
pub use context::EncryptionContext;
pub use crypto::Backend;
pub use envelope::{Envelope, EnvelopeBuilder, Opened};
pub use error::{
    config::ConfigError,
    kind::ErrorKind,
    open::OpenError,
    rewrap::{ResealError, RewrapError},
    seal::SealError,
};
pub use message::limits::Limits;
#[cfg(feature = "aws-kms")]
pub use provider::aws_kms::AwsKms;
pub use provider::{error::ProviderError, key_provider::KeyProvider, raw_aes::RawAes};
pub use suite::{AlgorithmSuite, CommitmentPolicy};
