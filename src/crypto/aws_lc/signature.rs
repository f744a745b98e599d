//! ECDSA by AWS-LC.

use aws_lc_rs::{
    digest::Digest,
    encoding::{AsBigEndian, EcPublicKeyCompressedBin},
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_ASN1_SIGNING,
        EcdsaKeyPair, KeyPair, ParsedPublicKey,
    },
};

use super::digest::algorithm_of;
use crate::{
    crypto::{BadSignature, Random},
    error::RandomError,
    suite::SignatureAlgorithm,
};

#[derive(Debug)]
pub(crate) struct SigningKey(EcdsaKeyPair, SignatureAlgorithm);

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> RandomError {
    RandomError(error.into())
}

impl SigningKey {
    /// Generates a key pair, always with AWS-LC's own random number generator.
    pub(crate) fn generate(algorithm: SignatureAlgorithm, _: &Random) -> Result<Self, RandomError> {
        let signing = match algorithm {
            SignatureAlgorithm::EcdsaP256Sha256 => &ECDSA_P256_SHA256_ASN1_SIGNING,
            SignatureAlgorithm::EcdsaP384Sha384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
        };
        EcdsaKeyPair::generate(signing).map(|key| Self(key, algorithm)).map_err(failed)
    }

    pub(crate) fn public_key(&self) -> Vec<u8> {
        let compressed: EcPublicKeyCompressedBin<'_> =
            self.0.public_key().as_be_bytes().expect("the key pair has a public key");
        compressed.as_ref().to_vec()
    }

    /// Signs, always with AWS-LC's own random number generator.
    pub(crate) fn sign(&self, digest: &[u8], _: &Random) -> Result<Vec<u8>, RandomError> {
        let signature = self.0.sign_digest(&import(self.1, digest)).map_err(failed)?;
        Ok(signature.as_ref().to_vec())
    }
}

pub(crate) struct VerifyingKey(ParsedPublicKey, SignatureAlgorithm);

impl VerifyingKey {
    pub(crate) fn parse(algorithm: SignatureAlgorithm, key: &[u8]) -> Result<Self, BadSignature> {
        let parsed = match algorithm {
            SignatureAlgorithm::EcdsaP256Sha256 => ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key),
            SignatureAlgorithm::EcdsaP384Sha384 => ParsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, key),
        };
        parsed.map(|key| Self(key, algorithm)).map_err(|_| BadSignature)
    }

    pub(crate) fn verify(&self, digest: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        self.0.verify_digest_sig(&import(self.1, digest), signature).map_err(|_| BadSignature)
    }
}

impl std::fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VerifyingKey(AWS-LC)")
    }
}

fn import(algorithm: SignatureAlgorithm, bytes: &[u8]) -> Digest {
    let algorithm = algorithm_of(algorithm.hash());
    Digest::import_less_safe(bytes, algorithm).expect("a digest has its algorithm's length")
}
