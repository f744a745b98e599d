//! Elliptic-curve Diffie-Hellman by the RustCrypto crates.

use p256::elliptic_curve::sec1::ToSec1Point;
use zeroize::Zeroizing;

use crate::crypto::key_agreement::Curve;

/// Boxed, so that moving a key does not copy it.
pub(crate) enum AgreementKey {
    P256(Box<p256::SecretKey>),
    P384(Box<p384::SecretKey>),
    P521(Box<p521::SecretKey>),
}

impl AgreementKey {
    pub(crate) fn from_scalar(curve: Curve, scalar: &[u8]) -> Option<Self> {
        Some(match curve {
            Curve::P256 => Self::P256(Box::new(p256::SecretKey::from_slice(scalar).ok()?)),
            Curve::P384 => Self::P384(Box::new(p384::SecretKey::from_slice(scalar).ok()?)),
            Curve::P521 => Self::P521(Box::new(p521::SecretKey::from_slice(scalar).ok()?)),
        })
    }

    pub(crate) fn public_key(&self) -> Vec<u8> {
        match self {
            Self::P256(key) => key.public_key().to_sec1_point(true).as_bytes().to_vec(),
            Self::P384(key) => key.public_key().to_sec1_point(true).as_bytes().to_vec(),
            Self::P521(key) => key.public_key().to_sec1_point(true).as_bytes().to_vec(),
        }
    }

    pub(crate) fn agree(&self, other: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        macro_rules! with {
            ($curve:ident, $key:expr) => {{
                let other = $curve::PublicKey::from_sec1_bytes(other).ok()?;
                $key.diffie_hellman(&other).raw_secret_bytes().to_vec()
            }};
        }
        Some(Zeroizing::new(match self {
            Self::P256(key) => with!(p256, key),
            Self::P384(key) => with!(p384, key),
            Self::P521(key) => with!(p521, key),
        }))
    }
}

pub(crate) fn compress(curve: Curve, point: &[u8]) -> Option<Vec<u8>> {
    macro_rules! with {
        ($curve:ident) => {
            $curve::PublicKey::from_sec1_bytes(point).ok()?.to_sec1_point(true).as_bytes().to_vec()
        };
    }
    Some(match curve {
        Curve::P256 => with!(p256),
        Curve::P384 => with!(p384),
        Curve::P521 => with!(p521),
    })
}

#[cfg(feature = "aws-kms")]
pub(crate) fn to_der(curve: Curve, point: &[u8]) -> Option<Vec<u8>> {
    use p256::pkcs8::EncodePublicKey;

    macro_rules! with {
        ($curve:ident) => {
            $curve::PublicKey::from_sec1_bytes(point).ok()?.to_public_key_der().ok()?.into_vec()
        };
    }
    Some(match curve {
        Curve::P256 => with!(p256),
        Curve::P384 => with!(p384),
        Curve::P521 => with!(p521),
    })
}
