//! The shared parts of ECDH keys in memory and in AWS KMS: public keys, and the encryption of a data key under a shared
//! secret. Specification: `framework/raw-ecdh-keyring.md`, `framework/aws-kms/aws-kms-ecdh-keyring.md`.

use std::fmt;

use pkcs8::{
    AlgorithmIdentifierRef, ObjectIdentifier, SubjectPublicKeyInfoRef,
    der::{Decode, Document, pem::PemLabel},
};
use subtle::ConstantTimeEq;

use super::{EncryptDataKeyRequest, ProviderError, failed, unwrap_data_key};
#[cfg(feature = "aws-kms")]
use crate::crypto::key_agreement::to_der;
use crate::{
    crypto::{
        AesGcm, Backend, SecretKey, kbkdf,
        key_agreement::{Curve, compress},
    },
    error::ConfigError,
    message::EncryptedDataKey,
    suite::{AlgorithmSuite, TAG_LEN},
};

pub(super) const RAW_PROVIDER_ID: &str = "raw-ecdh";
pub(super) const KMS_PROVIDER_ID: &str = "aws-kms-ecdh";
const PUBLIC_KEY: &str = "ECDH public key";
const INFO_VERSION: u8 = 1;
const SALT_LEN: usize = 32;
const COMMITMENT_LEN: usize = 32;

/// An ECDH public key on the curve P-256, P-384 or P-521.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EcdhPublicKey {
    pub(super) curve: Curve,
    /// The compressed point (SEC 1, section 2.3.3).
    pub(super) point: Vec<u8>,
}

impl EcdhPublicKey {
    /// Parses a public key in PEM with the label `PUBLIC KEY` (SubjectPublicKeyInfo).
    ///
    /// # Errors
    /// Returns [`ConfigError::Pem`] if `pem` is not a public key on one of the three curves.
    pub fn from_pem(pem: &str) -> Result<Self, ConfigError> {
        let (label, der) = Document::from_pem(pem).map_err(|error| refused(PUBLIC_KEY, &error))?;
        SubjectPublicKeyInfoRef::validate_pem_label(label).map_err(|error| refused(PUBLIC_KEY, &error))?;
        Self::from_der(der.as_bytes())
    }

    /// Parses a SubjectPublicKeyInfo in DER.
    pub(super) fn from_der(der: &[u8]) -> Result<Self, ConfigError> {
        let info = SubjectPublicKeyInfoRef::from_der(der).map_err(|error| refused(PUBLIC_KEY, &error))?;
        let curve = curve_of(&info.algorithm, PUBLIC_KEY)?;
        let point = info.subject_public_key.as_bytes();
        let point = point.and_then(|point| compress(Backend::default(), curve, point));
        let point = point.ok_or_else(|| refused(PUBLIC_KEY, &"it is not a point on its curve"))?;
        Ok(Self { curve, point })
    }
}

/// Returns the curve of a key in PKCS #8 or SubjectPublicKeyInfo (RFC 5480, sections 2.1.1 and 2.1.1.1).
pub(super) fn curve_of(algorithm: &AlgorithmIdentifierRef<'_>, what: &'static str) -> Result<Curve, ConfigError> {
    const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
    const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
    const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
    const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");
    match (algorithm.oid, algorithm.parameters_oid()) {
        (EC_PUBLIC_KEY, Ok(P256)) => Ok(Curve::P256),
        (EC_PUBLIC_KEY, Ok(P384)) => Ok(Curve::P384),
        (EC_PUBLIC_KEY, Ok(P521)) => Ok(Curve::P521),
        _ => Err(refused(what, &"it has another algorithm")),
    }
}

/// Returns the name of a curve, as AWS's SDKs use it in the key derivation.
pub(super) fn name_of(curve: Curve) -> &'static str {
    match curve {
        Curve::P256 => "p256",
        Curve::P384 => "p384",
        Curve::P521 => "p521",
    }
}

/// Returns the error for a key that cannot be used.
pub(super) fn refused(what: &'static str, error: &dyn fmt::Display) -> ConfigError {
    let why = format!("{error}; expected a key on P-256, P-384 or P-521, such as `openssl pkey` writes");
    ConfigError::Pem { what, why }
}

/// Checks that the other party's public key is on the curve of this party's key.
pub(super) fn check_curves(own: &EcdhPublicKey, other: &EcdhPublicKey) -> Result<(), ConfigError> {
    if own.curve == other.curve {
        return Ok(());
    }
    let [theirs, ours] = [other, own].map(|key| name_of(key.curve));
    let why = format!("it is on the curve {theirs}, but the private key is on {ours}");
    Err(ConfigError::Pem { what: PUBLIC_KEY, why })
}

/// A sender and a recipient who agree on the secret that encrypts one data key.
pub(super) struct Agreement {
    curve: Curve,
    info: Info,
    /// The other party's public key, as a compressed point. If it is from a message, it can be invalid.
    pub(super) theirs: Vec<u8>,
}

/// The public keys in an encrypted data key's provider info, as compressed points.
struct Info {
    sender: Vec<u8>,
    recipient: Vec<u8>,
}

impl Info {
    fn write(&self) -> Vec<u8> {
        let mut out = vec![INFO_VERSION];
        for key in [&self.recipient, &self.sender] {
            out.extend(u32::try_from(key.len()).expect("a point is short").to_be_bytes());
            out.extend(key);
        }
        out
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        fn key<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
            let (len, rest) = bytes.split_first_chunk()?;
            let (key, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
            *bytes = rest;
            Some(key)
        }
        let (&INFO_VERSION, mut rest) = bytes.split_first()? else { return None };
        let (recipient, sender) = (key(&mut rest)?.to_vec(), key(&mut rest)?.to_vec());
        rest.is_empty().then_some(Self { sender, recipient })
    }
}

impl Agreement {
    /// Returns the agreement for a new encrypted data key. Both keys must be on the same curve.
    pub(super) fn to_seal(sender: &EcdhPublicKey, recipient: &EcdhPublicKey) -> Self {
        let info = Info { sender: sender.point.clone(), recipient: recipient.point.clone() };
        Self { curve: recipient.curve, info, theirs: recipient.point.clone() }
    }

    /// Returns the agreement for an encrypted data key that any sender has sealed for `own` or, if `other` is given,
    /// that either party has sealed for the other. Returns `None` for any other encrypted data key.
    ///
    /// Keys in memory and in AWS KMS read each other's encrypted data keys.
    pub(super) fn to_open(
        encrypted: &EncryptedDataKey,
        own: &EcdhPublicKey,
        other: Option<&EcdhPublicKey>,
    ) -> Option<Self> {
        if ![RAW_PROVIDER_ID, KMS_PROVIDER_ID].contains(&&*encrypted.provider_id) {
            return None;
        }
        let info = Info::parse(&encrypted.provider_info)?;
        let ours = &own.point;
        let theirs = match other.map(|key| &key.point) {
            None if info.recipient == *ours => info.sender.clone(),
            Some(other) if info.recipient == *ours && info.sender == *other => info.sender.clone(),
            Some(other) if info.sender == *ours && info.recipient == *other => info.recipient.clone(),
            _ => return None,
        };
        Some(Self { curve: own.curve, info, theirs })
    }

    /// Returns the other party's public key as SubjectPublicKeyInfo in DER, or `None` if it is not a compressed point on
    /// the curve.
    #[cfg(feature = "aws-kms")]
    pub(super) fn theirs_in_der(&self, backend: Backend) -> Option<Vec<u8>> {
        let is_compressed = self.theirs.len() == 1 + self.curve.scalar_len();
        is_compressed.then(|| to_der(backend, self.curve, &self.theirs)).flatten()
    }

    /// Encrypts a data key under the secret that the parties share.
    pub(super) fn wrap(
        &self,
        provider: &impl fmt::Display,
        provider_id: &'static str,
        shared: &[u8],
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<EncryptedDataKey, ProviderError> {
        let EncryptDataKeyRequest { context, data_key, backend, randomness, .. } = *request;
        let context = context.serialize().map_err(|error| failed("Encrypt", provider, error))?;
        let mut salt = [0; SALT_LEN];
        randomness.fill(&mut salt)?;
        let wrapping = self.derive(backend, shared, &context, &salt);
        let mut wrapped = vec![0; data_key.len() + TAG_LEN];
        // The derived key encrypts only this data key, so the IV can be zero.
        wrapping.cipher.seal(&[0; _], &wrapping.fixed_info, data_key.expose(), &mut wrapped);
        let ciphertext = [&salt, &wrapping.commitment[..], &wrapped].concat();
        Ok(EncryptedDataKey::new(provider_id, self.info.write(), ciphertext))
    }

    /// Decrypts a data key with the secret that the parties share. Returns `None` if that fails.
    pub(super) fn unwrap(
        &self,
        backend: Backend,
        shared: &[u8],
        context: &[u8],
        wrapped: &Wrapped<'_>,
        suite: AlgorithmSuite,
    ) -> Option<SecretKey> {
        let wrapping = self.derive(backend, shared, context, wrapped.salt);
        if !bool::from(wrapping.commitment.ct_eq(wrapped.commitment)) {
            return None;
        }
        unwrap_data_key(&wrapping.cipher, &[0; _], &wrapping.fixed_info, wrapped.data_key, suite)
    }

    fn derive(&self, backend: Backend, shared: &[u8], context: &[u8], salt: &[u8]) -> Wrapping {
        let parties = [&self.info.sender[..], &self.info.recipient].concat();
        let fields = [b"ecdh-key-derivation", name_of(self.curve).as_bytes(), b"HMAC_SHA384", &parties, &[1], context];
        let fixed_info = fields.join(&0);
        let derived = kbkdf::sha384(backend, shared, &fixed_info, salt);
        let (commitment, key) = derived.split_first_chunk().expect("64 bytes were derived");
        Wrapping { commitment: *commitment, cipher: AesGcm::new(backend, key), fixed_info }
    }
}

/// The values that both parties derive to encrypt or decrypt one data key.
struct Wrapping {
    commitment: [u8; COMMITMENT_LEN],
    cipher: AesGcm,
    /// The fixed input of the key derivation, which is also the additional authenticated data of the encryption.
    fixed_info: Vec<u8>,
}

/// The parts of an encrypted data key's ciphertext.
pub(super) struct Wrapped<'a> {
    salt: &'a [u8; SALT_LEN],
    commitment: &'a [u8; COMMITMENT_LEN],
    data_key: &'a [u8],
}

impl<'a> Wrapped<'a> {
    /// Returns `None` if the ciphertext does not have the right length. Check it before the key agreement, which takes
    /// long.
    pub(super) fn parse(ciphertext: &'a [u8], suite: AlgorithmSuite) -> Option<Self> {
        let (salt, rest) = ciphertext.split_first_chunk()?;
        let (commitment, data_key) = rest.split_first_chunk()?;
        (data_key.len() == suite.data_key_len() + TAG_LEN).then_some(Self { salt, commitment, data_key })
    }
}
