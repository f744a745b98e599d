//! Elliptic-curve Diffie-Hellman (NIST SP 800-56A). Public keys are points in the encoding of SEC 1, section 2.3.3.

use zeroize::Zeroizing;

#[cfg(feature = "aws-lc")]
use super::aws_lc::key_agreement as aws_lc;
#[cfg(feature = "rust-crypto")]
use super::rust_crypto::key_agreement as rust_crypto;
use super::{Backend, Random, is_point, with_wiped_stack};
use crate::error::RandomError;

/// A curve for key agreement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    /// Returns the length of a private key and of a coordinate, in bytes.
    pub(crate) fn scalar_len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

/// A private key for key agreement.
pub(crate) enum AgreementKey {
    #[cfg(feature = "aws-lc")]
    AwsLc(aws_lc::AgreementKey),
    #[cfg(feature = "rust-crypto")]
    RustCrypto(rust_crypto::AgreementKey),
}

impl AgreementKey {
    pub(crate) fn generate(backend: Backend, curve: Curve, random: &Random) -> Result<Self, RandomError> {
        with_wiped_stack::<16_384, _>(|| {
            #[cfg(feature = "aws-lc")]
            if let Random::System(Backend::AwsLc) = random
                && backend == Backend::AwsLc
            {
                return aws_lc::AgreementKey::generate(curve).map(Self::AwsLc);
            }
            // Most numbers of the right length are private keys (NIST SP 800-56A, section 5.6.1.2.2).
            random.try_candidates(&mut Zeroizing::new([0; 66])[..curve.scalar_len()], |scalar| {
                if curve == Curve::P521 {
                    scalar[0] &= 1; // 521 bits
                }
                Self::from_full_scalar(backend, curve, scalar)
            })
        })
    }

    /// Creates a private key from its number in big-endian order. Leading zeros can be missing. Returns `None` if the
    /// number is out of range.
    pub(crate) fn from_scalar(backend: Backend, curve: Curve, scalar: &[u8]) -> Option<Self> {
        let mut padded = Zeroizing::new([0; 66]);
        let padded = &mut padded[..curve.scalar_len()];
        padded.len().checked_sub(scalar.len()).map(|start| padded[start..].copy_from_slice(scalar))?;
        with_wiped_stack::<16_384, _>(|| Self::from_full_scalar(backend, curve, padded))
    }

    /// Like [`from_scalar`](Self::from_scalar). The number must have the curve's length.
    fn from_full_scalar(backend: Backend, curve: Curve, scalar: &[u8]) -> Option<Self> {
        match backend {
            #[cfg(feature = "aws-lc")]
            Backend::AwsLc => aws_lc::AgreementKey::from_scalar(curve, scalar).map(Self::AwsLc),
            #[cfg(feature = "rust-crypto")]
            Backend::RustCrypto => rust_crypto::AgreementKey::from_scalar(curve, scalar).map(Self::RustCrypto),
        }
    }

    /// Returns the public key as a compressed point.
    pub(crate) fn public_key(&self) -> Vec<u8> {
        with_wiped_stack::<16_384, _>(|| match self {
            #[cfg(feature = "aws-lc")]
            Self::AwsLc(key) => key.public_key(),
            #[cfg(feature = "rust-crypto")]
            Self::RustCrypto(key) => key.public_key(),
        })
    }

    /// Returns the shared secret (the x-coordinate of the shared point), or `None` if `other` is not the encoding of a
    /// point on the curve.
    pub(crate) fn agree(&self, other: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        with_wiped_stack::<16_384, _>(|| match self {
            _ if !is_point(other) => None,
            #[cfg(feature = "aws-lc")]
            Self::AwsLc(key) => key.agree(other),
            #[cfg(feature = "rust-crypto")]
            Self::RustCrypto(key) => key.agree(other),
        })
    }
}

/// Returns the compressed encoding of a point, or `None` if it is not the encoding of a point on the curve.
pub(crate) fn compress(backend: Backend, curve: Curve, point: &[u8]) -> Option<Vec<u8>> {
    match backend {
        _ if !is_point(point) => None,
        #[cfg(feature = "aws-lc")]
        Backend::AwsLc => aws_lc::compress(curve, point),
        #[cfg(feature = "rust-crypto")]
        Backend::RustCrypto => rust_crypto::compress(curve, point),
    }
}

/// Returns a public key as SubjectPublicKeyInfo in DER, with an uncompressed point (RFC 5480), or `None` if `point` is
/// not the encoding of a point on the curve.
#[cfg(feature = "aws-kms")]
pub(crate) fn to_der(backend: Backend, curve: Curve, point: &[u8]) -> Option<Vec<u8>> {
    match backend {
        _ if !is_point(point) => None,
        #[cfg(feature = "aws-lc")]
        Backend::AwsLc => aws_lc::to_der(curve, point),
        #[cfg(feature = "rust-crypto")]
        Backend::RustCrypto => rust_crypto::to_der(curve, point),
    }
}
