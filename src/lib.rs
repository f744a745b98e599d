//! Envelope encryption with AWS KMS, in the message format of the AWS Encryption SDK.
//!
//! [`Envelope::seal`] requests a new data key from the key provider, encrypts the data with AES-256-GCM, zeroizes the
//! data key, and returns one message that holds the encrypted data key and the ciphertext. [`Envelope::open`] calls the
//! key provider to decrypt the data key, and returns the plaintext. The AWS Encryption SDKs read and write the same
//! messages.
//!
//! # With AWS KMS
//!
#![cfg_attr(feature = "aws-kms", doc = "```no_run")]
#![cfg_attr(not(feature = "aws-kms"), doc = "```ignore")]
//! use kms_envelope::{AwsKms, EncryptionContext, Envelope};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let config = aws_config::load_defaults(aws_config::BehaviorVersion::latest()).await;
//!     let client = aws_sdk_kms::Client::new(&config);
//!     let envelope = Envelope::new(AwsKms::resolve(client, "alias/my-key").await?);
//!
//!     let context = EncryptionContext::from([("tenant", "acme")]);
//!     let sealed = envelope.seal(b"attack at dawn", &context).await?;
//!     let opened = envelope.open(&sealed, &context).await?;
//!     assert_eq!(opened.plaintext, b"attack at dawn");
//!     Ok(())
//! }
//! ```
//!
//! The encryption context is authenticated and stored unencrypted in the message. KMS receives it with every call, so
//! IAM policies can refer to it. [`Envelope::open`] checks the pairs that you pass before it calls the key provider,
//! and fails if the message does not contain all of them.
//!
//! # With a local key
//!
//! [`RawAes`] holds an AES key in this process, for development, tests, and services without KMS. AWS's SDKs call it a
//! raw AES keyring.
//!
//! ```
//! use std::io::{Read, Write};
//!
//! use kms_envelope::{EncryptionContext, Envelope, RawAes};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let envelope = Envelope::new(RawAes::generate("my-service", "2026-11")?);
//! let context = EncryptionContext::from([("tenant", "acme")]);
//!
//! // Streams use a bounded amount of memory. The writer can be a file or a socket as well.
//! let mut writer = pollster::block_on(envelope.seal_writer(Vec::new(), &context))?;
//! writer.write_all(b"attack at dawn")?;
//! let sealed = writer.finish()?; // Without this, the message is truncated and cannot be opened.
//!
//! let mut reader = pollster::block_on(envelope.open_reader(&sealed[..], &context))?;
//! let mut plaintext = String::new();
//! reader.read_to_string(&mut plaintext)?;
//! assert_eq!(plaintext, "attack at dawn");
//! # Ok(())
//! # }
//! ```
//!
//! # Types and methods by task
//!
//! | to … | use … |
//! |---|---|
//! | encrypt and decrypt whole buffers | [`Envelope::seal`] and [`Envelope::open`]; [`seal_into`](Envelope::seal_into) and [`open_into`](Envelope::open_into) reuse your buffers |
//! | encrypt and decrypt many messages at once | [`Envelope::seal_many`] and [`Envelope::open_many`] |
//! | stream with `std::io` | [`Envelope::seal_writer`], [`seal_reader`](Envelope::seal_reader) and [`open_reader`](Envelope::open_reader), which can seek if its source can |
//! | stream with tokio | [`Envelope::seal_async_writer`], [`seal_async_reader`](Envelope::seal_async_reader) and [`open_async_reader`](Envelope::open_async_reader) |
//! | stream `Bytes`, such as HTTP bodies | [`Envelope::seal_stream`] and [`open_stream`](Envelope::open_stream) |
//! | decrypt a range without reading the rest | [`Envelope::range_reader`] and [`async_range_reader`](Envelope::async_range_reader) |
//! | do the I/O yourself | [`Envelope::sealer`], [`opener`](Envelope::opener) and [`range_opener`](Envelope::range_opener): bytes in, bytes out |
//! | use several threads for one message | [`EnvelopeBuilder::threads`] |
//! | encrypt with a key in AWS KMS | [`AwsKms`]; several keys: [`AwsKms::multi`]; RSA keys: [`AwsKmsRsa`](provider::AwsKmsRsa); elliptic curves: [`AwsKmsEcdh`](provider::AwsKmsEcdh) |
//! | decrypt with any KMS key that a message names | [`AwsKmsDiscovery`](provider::AwsKmsDiscovery) |
//! | reduce calls to KMS, or continue to work while KMS is unavailable | [`DataKeyCache`] |
//! | use branch keys, which save calls to KMS and give each message its own data key | [`AwsKmsHierarchical`](provider::AwsKmsHierarchical); create and rotate them: [`BranchKeys`](provider::branch_key::BranchKeys) |
//! | use a different key for each tenant | [`ByContext`](provider::ByContext), [`AwsKmsHierarchical`](provider::AwsKmsHierarchical) |
//! | encrypt or decrypt with several providers | [`MultiProvider`](provider::MultiProvider) |
//! | use a local key | [`RawAes`]; RSA: [`RawRsa`](provider::RawRsa); elliptic curves: [`RawEcdh`](provider::RawEcdh); branch keys: [`StaticBranchKey`](provider::StaticBranchKey) |
//! | use another key service | [`KeyProvider`], tested by [`testing::Conformance`] |
//! | store branch keys in another database | [`provider::branch_key::BranchKeyStore`], tested by [`testing::StoreConformance`] |
//! | re-encrypt a message's data key under another key | [`Envelope::rewrap`], which does not modify the message |
//! | encrypt a message again, with another data key | [`Envelope::reseal`], [`reseal_reader`](Envelope::reseal_reader) |
//! | sign messages, or open old ones | [`EnvelopeBuilder::suite`] and [`commitment_policy`](EnvelopeBuilder::commitment_policy) |
//! | inspect a message without a key | [`message::Header`]; compute lengths: [`message::Geometry`] |
//! | know plaintext lengths from message lengths alone | [`EnvelopeBuilder::header_len`], [`Geometry::of_sealed`](message::Geometry::of_sealed) |
//! | require AWS-LC's FIPS module | [`EnvelopeBuilder::require_fips`] |
//! | map an error to a status code or a retry | [`OpenError::kind`] and [`is_retryable`](OpenError::is_retryable), on every error type: [`ErrorKind`] |
//! | test your service without KMS | the [`testing`] module |
//!
//! # Features
//!
//! Features are additive. At least one of the backends `aws-lc` and `rust-crypto` must be enabled. With `rust-crypto`
//! alone, the crate is pure Rust. It needs Rust 1.89 or later; the current AWS SDK needs a newer version.
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `aws-kms` | yes | [`AwsKms`] and [`AwsKmsDiscovery`](provider::AwsKmsDiscovery), which call AWS KMS through an `aws-sdk-kms` client that you provide |
//! | `aws-lc` | yes | AWS-LC as the cryptographic [`Backend`]: several times faster than pure Rust, with the same output. Needs a C compiler |
//! | `rust-crypto` | yes | the RustCrypto crates as [`Backend`], in pure Rust |
//! | `fips` | | AWS-LC's FIPS module instead of the AWS-LC of `aws-lc`: see [FIPS](guide::fips). Needs CMake and Go |
//! | `tokio` | | streams over tokio's `AsyncRead` and `AsyncWrite`; range reads from tokio's files |
//! | `stream` | | streams of `Bytes`, with the `Stream` trait of the futures crates |
//! | `parallel` | | [`Threads`](stream::Threads): several threads for one message, in a rayon pool |
//! | `rsa` | | [`RawRsa`](provider::RawRsa), and with `aws-kms` also [`AwsKmsRsa`](provider::AwsKmsRsa). Enables `aws-lc` |
//! | `ecdh` | | [`RawEcdh`](provider::RawEcdh), and with `aws-kms` also [`AwsKmsEcdh`](provider::AwsKmsEcdh), on P-256, P-384 and P-521 |
//! | `branch-key` | | branch keys, as in the AWS KMS hierarchical keyring: [`StaticBranchKey`](provider::StaticBranchKey), and with `aws-kms` also [`AwsKmsHierarchical`](provider::AwsKmsHierarchical) |
//! | `branch-key-folder` | | [`FolderStore`](provider::branch_key::FolderStore): branch keys in files, for local development. Enables `branch-key` |
//! | `key-file` | | [`RawAes`] keys in JSON files |
//! | `tracing` | | `tracing` events of the caches and of requests to AWS KMS |
//! | `mock` | | the [`testing`] module |
//! | `full` | | all of these except `fips` |
//!
//! # Guide
//!
//! The [`guide`] is the manual:
//!
//! | page | answers |
//! |---|---|
//! | [Getting started](guide::getting_started) | how to encrypt with KMS or a local key, stream, and test |
//! | [Keys](guide::keys) | which key provider to use; caching, regions, tenants, key rotation |
//! | [Branch keys](guide::branch_keys) | when to use branch keys; their permissions, rotation and migration |
//! | [Operations](guide::operations) | IAM policies, quotas and costs, monitoring, Lambda, local development |
//! | [When things go wrong](guide::troubleshooting) | what an error means and what to do about it |
//! | [Migrating](guide::migrating) | how to move from aws-esdk, from KMS with AES-GCM, or from age |
//! | [Choosing](guide::choosing) | when to use this crate, and when to use something else |
//! | [Security model](guide::security) | what is protected, and what is not |
//! | [FIPS](guide::fips) | how to use AWS-LC's FIPS module, and what it does not cover |
//! | [Interop](guide::interop) | which AWS SDKs read and write the same messages, and how this is tested |
//! | [Performance](guide::performance) | what to expect, and how to measure it |
//! | [Design](guide::design) | how the crate works, and why |

// Without a backend, an error and nothing else is compiled: hundreds of other errors would hide it.
#![cfg_attr(
    not(any(feature = "aws-lc", feature = "rust-crypto")),
    doc = compile_error!("kms-envelope needs a cryptographic backend: enable the feature `aws-lc` or `rust-crypto`")
)]
// Not for docs.rs, which would show it as a requirement of every item.
#![cfg_attr(not(docsrs), cfg(any(feature = "aws-lc", feature = "rust-crypto")))]
#![cfg_attr(docsrs, feature(doc_cfg))]
// Links to items of features that are off. All of them are checked with the feature `full`.
#![cfg_attr(not(feature = "full"), allow(rustdoc::broken_intra_doc_links))]
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
mod entry_cache;
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

/// Compiles the example of the README.
#[cfg(all(doctest, feature = "aws-kms"))]
#[doc = include_str!("../README.md")]
struct Readme;
