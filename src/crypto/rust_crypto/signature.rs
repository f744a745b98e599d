//! ECDSA by the RustCrypto crates.

use p256::ecdsa::signature::hazmat::{PrehashVerifier, RandomizedPrehashSigner};
use zeroize::Zeroizing;

use super::Rng;
use crate::{
    crypto::{BadSignature, Random},
    error::RandomError,
    suite::SignatureAlgorithm,
};

/// Boxed, so that moving a key does not copy it.
#[derive(Debug)]
pub(crate) enum SigningKey {
    P256(Box<p256::ecdsa::SigningKey>),
    P384(Box<p384::ecdsa::SigningKey>),
}

impl SigningKey {
    pub(crate) fn generate(algorithm: SignatureAlgorithm, random: &Random) -> Result<Self, RandomError> {
        let mut scalar = Zeroizing::new([0; 48]);
        match algorithm {
            SignatureAlgorithm::EcdsaP256Sha256 => random.try_candidates(&mut scalar[..32], |scalar| {
                p256::ecdsa::SigningKey::from_slice(scalar).ok().map(|key| Self::P256(Box::new(key)))
            }),
            SignatureAlgorithm::EcdsaP384Sha384 => random.try_candidates(&mut scalar[..], |scalar| {
                p384::ecdsa::SigningKey::from_slice(scalar).ok().map(|key| Self::P384(Box::new(key)))
            }),
        }
    }

    pub(crate) fn public_key(&self) -> Vec<u8> {
        match self {
            Self::P256(key) => key.verifying_key().to_sec1_point(true).as_bytes().to_vec(),
            Self::P384(key) => key.verifying_key().to_sec1_point(true).as_bytes().to_vec(),
        }
    }

    /// Signs with the nonce of RFC 6979 and additional randomness (section 3.6).
    pub(crate) fn sign(&self, digest: &[u8], random: &Random) -> Result<Vec<u8>, RandomError> {
        let rng = &mut Rng(random);
        match self {
            Self::P256(key) => {
                key.sign_prehash_with_rng(rng, digest).map(|s: p256::ecdsa::DerSignature| s.as_bytes().to_vec())
            }
            Self::P384(key) => {
                key.sign_prehash_with_rng(rng, digest).map(|s: p384::ecdsa::DerSignature| s.as_bytes().to_vec())
            }
        }
        .map_err(|error| RandomError(error.into()))
    }
}

#[derive(Debug)]
pub(crate) enum VerifyingKey {
    P256(Box<p256::ecdsa::VerifyingKey>),
    P384(Box<p384::ecdsa::VerifyingKey>),
}

impl VerifyingKey {
    pub(crate) fn parse(algorithm: SignatureAlgorithm, key: &[u8]) -> Result<Self, BadSignature> {
        Ok(match algorithm {
            SignatureAlgorithm::EcdsaP256Sha256 => {
                Self::P256(Box::new(p256::ecdsa::VerifyingKey::from_sec1_bytes(key).map_err(|_| BadSignature)?))
            }
            SignatureAlgorithm::EcdsaP384Sha384 => {
                Self::P384(Box::new(p384::ecdsa::VerifyingKey::from_sec1_bytes(key).map_err(|_| BadSignature)?))
            }
        })
    }

    pub(crate) fn verify(&self, digest: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        match self {
            Self::P256(key) => p256::ecdsa::DerSignature::from_bytes(signature)
                .and_then(|signature| key.verify_prehash(digest, &signature)),
            Self::P384(key) => p384::ecdsa::DerSignature::from_bytes(signature)
                .and_then(|signature| key.verify_prehash(digest, &signature)),
        }
        .map_err(|_| BadSignature)
    }
}
