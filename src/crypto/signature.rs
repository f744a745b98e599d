//! ECDSA signatures of messages (specification, `data-format/message-footer.md`).

use std::fmt;

use sha2::{Digest as _, Sha256, Sha384};

#[cfg(feature = "aws-lc")]
use super::aws_lc::ecdsa as aws_lc;
use super::{Backend, Random, rust_crypto::ecdsa as rust_crypto};
use crate::{error::RandomError, suite::SignatureAlgorithm};

/// A signature does not match its message, or a public key is invalid.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadSignature;

/// The digest of the signed bytes, computed incrementally. Both backends use the RustCrypto crates, which were as fast
/// as AWS-LC when measured (docs/performance.md).
#[derive(Clone)]
pub(crate) enum MessageDigest {
    Sha256(Sha256),
    Sha384(Sha384),
}

impl MessageDigest {
    pub(crate) fn new(algorithm: SignatureAlgorithm) -> Self {
        match algorithm {
            SignatureAlgorithm::EcdsaP256Sha256 => Self::Sha256(Sha256::new()),
            SignatureAlgorithm::EcdsaP384Sha384 => Self::Sha384(Sha384::new()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(digest) => digest.update(bytes),
            Self::Sha384(digest) => digest.update(bytes),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::Sha256(digest) => digest.finalize().to_vec(),
            Self::Sha384(digest) => digest.finalize().to_vec(),
        }
    }
}

/// Omits the state.
impl fmt::Debug for MessageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MessageDigest")
    }
}

/// A key pair for signing one message.
#[derive(Debug)]
pub(crate) enum SigningKey {
    #[cfg(feature = "aws-lc")]
    AwsLc(aws_lc::SigningKey),
    RustCrypto(rust_crypto::SigningKey),
}

impl SigningKey {
    pub(crate) fn generate(
        backend: Backend,
        algorithm: SignatureAlgorithm,
        random: &Random,
    ) -> Result<Self, RandomError> {
        Ok(match backend {
            #[cfg(feature = "aws-lc")]
            Backend::AwsLc => Self::AwsLc(aws_lc::SigningKey::generate(algorithm)?),
            Backend::RustCrypto => Self::RustCrypto(rust_crypto::SigningKey::generate(algorithm, random)?),
        })
    }

    /// Returns the public key as a compressed point (SEC 1, section 2.3.3).
    pub(crate) fn public_key(&self) -> Vec<u8> {
        match self {
            #[cfg(feature = "aws-lc")]
            Self::AwsLc(key) => key.public_key(),
            Self::RustCrypto(key) => key.public_key(),
        }
    }

    /// Returns a DER-encoded signature of the [fixed length](SignatureAlgorithm::signature_len). About half of all
    /// signatures have this length, so the message is signed repeatedly until one has it.
    pub(crate) fn sign(
        &self,
        algorithm: SignatureAlgorithm,
        digest: MessageDigest,
        random: &Random,
    ) -> Result<Vec<u8>, RandomError> {
        let digest = digest.finish();
        loop {
            let signature = match self {
                #[cfg(feature = "aws-lc")]
                Self::AwsLc(key) => key.sign(&digest)?,
                Self::RustCrypto(key) => key.sign(&digest, random)?,
            };
            if signature.len() == algorithm.signature_len() {
                return Ok(signature);
            }
        }
    }
}

/// The public key that verifies a message's signature.
#[derive(Debug)]
pub(crate) enum VerifyingKey {
    #[cfg(feature = "aws-lc")]
    AwsLc(aws_lc::VerifyingKey),
    RustCrypto(rust_crypto::VerifyingKey),
}

impl VerifyingKey {
    /// Parses a compressed or uncompressed point on the algorithm's curve.
    pub(crate) fn parse(backend: Backend, algorithm: SignatureAlgorithm, key: &[u8]) -> Result<Self, BadSignature> {
        Ok(match backend {
            #[cfg(feature = "aws-lc")]
            Backend::AwsLc => Self::AwsLc(aws_lc::VerifyingKey::parse(algorithm, key)?),
            Backend::RustCrypto => Self::RustCrypto(rust_crypto::VerifyingKey::parse(algorithm, key)?),
        })
    }

    /// Verifies a DER-encoded signature.
    pub(crate) fn verify(&self, digest: MessageDigest, signature: &[u8]) -> Result<(), BadSignature> {
        let digest = digest.finish();
        match self {
            #[cfg(feature = "aws-lc")]
            Self::AwsLc(key) => key.verify(&digest, signature),
            Self::RustCrypto(key) => key.verify(&digest, signature),
        }
    }
}
