//! Elliptic-curve Diffie-Hellman by AWS-LC.

use aws_lc_rs::{
    agreement::{
        Algorithm, ECDH_P256, ECDH_P384, ECDH_P521, ParsedPublicKey, ParsedPublicKeyFormat, PrivateKey,
        UnparsedPublicKey, agree,
    },
    encoding::{AsBigEndian, EcPublicKeyCompressedBin},
    error::Unspecified,
};
use zeroize::Zeroizing;

use super::random_failed;
use crate::{crypto::key_agreement::Curve, error::RandomError};

pub(crate) struct AgreementKey(PrivateKey);

impl AgreementKey {
    /// Generates a key with AWS-LC's own random number generator.
    pub(crate) fn generate(curve: Curve) -> Result<Self, RandomError> {
        PrivateKey::generate(algorithm(curve)).map(Self).map_err(random_failed)
    }

    pub(crate) fn from_scalar(curve: Curve, scalar: &[u8]) -> Option<Self> {
        PrivateKey::from_private_key(algorithm(curve), scalar).ok().map(Self)
    }

    pub(crate) fn public_key(&self) -> Vec<u8> {
        let public = self.0.compute_public_key().expect("a private key has a public key");
        let compressed: EcPublicKeyCompressedBin<'_> = public.as_be_bytes().expect("a public key can be encoded");
        compressed.as_ref().to_vec()
    }

    pub(crate) fn agree(&self, other: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let other = UnparsedPublicKey::new(self.0.algorithm(), other);
        agree(&self.0, other, Unspecified, |secret| Ok(Zeroizing::new(secret.to_vec()))).ok()
    }
}

pub(crate) fn compress(curve: Curve, point: &[u8]) -> Option<Vec<u8>> {
    let parsed = ParsedPublicKey::try_from(UnparsedPublicKey::new(algorithm(curve), point)).ok()?;
    match parsed.format() {
        ParsedPublicKeyFormat::Compressed => Some(point.to_vec()),
        // 4, x and y. The first byte of the compressed form is 2 plus the lowest bit of y (SEC 1, section 2.3.3).
        ParsedPublicKeyFormat::Uncompressed => {
            let (x, y) = point[1..].split_at(point.len() / 2);
            Some([&[2 | (y[y.len() - 1] & 1)], x].concat())
        }
        _ => None,
    }
}

#[cfg(feature = "aws-kms")]
pub(crate) fn to_der(curve: Curve, point: &[u8]) -> Option<Vec<u8>> {
    use aws_lc_rs::{
        encoding::AsDer,
        signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ECDSA_P521_SHA512_ASN1, ParsedPublicKey},
    };

    // Public keys for key agreement cannot be encoded, and those for signatures can.
    let parsed = match curve {
        Curve::P256 => ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point),
        Curve::P384 => ParsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, point),
        Curve::P521 => ParsedPublicKey::new(&ECDSA_P521_SHA512_ASN1, point),
    };
    Some(parsed.ok()?.as_der().ok()?.as_ref().to_vec())
}

fn algorithm(curve: Curve) -> &'static Algorithm {
    match curve {
        Curve::P256 => &ECDH_P256,
        Curve::P384 => &ECDH_P384,
        Curve::P521 => &ECDH_P521,
    }
}
