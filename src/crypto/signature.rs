//! ECDSA signatures of messages (specification, `data-format/message-footer.md`).

#[cfg(feature = "aws-lc")]
use super::aws_lc::signature as aws_lc;
#[cfg(feature = "rust-crypto")]
use super::rust_crypto::signature as rust_crypto;
use super::{Backend, Digest, Random, is_point, random::MAX_TRIES, with_wiped_stack};
use crate::{error::RandomError, suite::SignatureAlgorithm};

/// A signature does not match its message, or a public key is invalid.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadSignature;

/// A key pair for signing one message.
#[derive(Debug)]
pub(crate) enum SigningKey {
    #[cfg(feature = "aws-lc")]
    AwsLc(aws_lc::SigningKey),
    #[cfg(feature = "rust-crypto")]
    RustCrypto(rust_crypto::SigningKey),
}

impl SigningKey {
    pub(crate) fn generate(
        backend: Backend,
        algorithm: SignatureAlgorithm,
        random: &Random,
    ) -> Result<Self, RandomError> {
        with_wiped_stack::<16_384, _>(|| {
            Ok(match backend {
                #[cfg(feature = "aws-lc")]
                Backend::AwsLc => Self::AwsLc(aws_lc::SigningKey::generate(algorithm, random)?),
                #[cfg(feature = "rust-crypto")]
                Backend::RustCrypto => Self::RustCrypto(rust_crypto::SigningKey::generate(algorithm, random)?),
            })
        })
    }

    /// Returns the public key as a compressed point (SEC 1, section 2.3.3).
    pub(crate) fn public_key(&self) -> Vec<u8> {
        match self {
            #[cfg(feature = "aws-lc")]
            Self::AwsLc(key) => key.public_key(),
            #[cfg(feature = "rust-crypto")]
            Self::RustCrypto(key) => key.public_key(),
        }
    }

    /// Returns a DER-encoded signature of the [fixed length](SignatureAlgorithm::signature_len). About half of all
    /// signatures have this length, so the message is signed repeatedly until one has it.
    pub(crate) fn sign(
        &self,
        algorithm: SignatureAlgorithm,
        digest: Digest,
        random: &Random,
    ) -> Result<Vec<u8>, RandomError> {
        let digest = digest.finish();
        with_wiped_stack::<16_384, _>(|| {
            for _ in 0..MAX_TRIES {
                let signature = match self {
                    #[cfg(feature = "aws-lc")]
                    Self::AwsLc(key) => key.sign(&digest, random)?,
                    #[cfg(feature = "rust-crypto")]
                    Self::RustCrypto(key) => key.sign(&digest, random)?,
                };
                if signature.len() == algorithm.signature_len() {
                    return Ok(signature);
                }
            }
            Err(RandomError::repeats())
        })
    }
}

/// The public key that verifies a message's signature.
#[derive(Debug)]
pub(crate) enum VerifyingKey {
    #[cfg(feature = "aws-lc")]
    AwsLc(aws_lc::VerifyingKey),
    #[cfg(feature = "rust-crypto")]
    RustCrypto(rust_crypto::VerifyingKey),
}

impl VerifyingKey {
    /// Parses a compressed or uncompressed point on the algorithm's curve.
    pub(crate) fn parse(backend: Backend, algorithm: SignatureAlgorithm, key: &[u8]) -> Result<Self, BadSignature> {
        Ok(match backend {
            _ if !is_point(key) => return Err(BadSignature),
            #[cfg(feature = "aws-lc")]
            Backend::AwsLc => Self::AwsLc(aws_lc::VerifyingKey::parse(algorithm, key)?),
            #[cfg(feature = "rust-crypto")]
            Backend::RustCrypto => Self::RustCrypto(rust_crypto::VerifyingKey::parse(algorithm, key)?),
        })
    }

    /// Verifies a DER-encoded signature.
    pub(crate) fn verify(&self, digest: Digest, signature: &[u8]) -> Result<(), BadSignature> {
        let digest = digest.finish();
        match self {
            #[cfg(feature = "aws-lc")]
            Self::AwsLc(key) => key.verify(&digest, signature),
            #[cfg(feature = "rust-crypto")]
            Self::RustCrypto(key) => key.verify(&digest, signature),
        }
    }
}
