//! Elliptic-curve keys in memory: AWS's raw ECDH keyring. Specification: `framework/raw-ecdh-keyring.md`.

use std::fmt;

use async_trait::async_trait;
use pkcs8::{
    PrivateKeyInfoRef, SecretDocument,
    der::{Decode, pem::PemLabel},
};
use sec1::EcPrivateKey;
use zeroize::Zeroizing;

use super::{
    DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, KeyProvider, ProviderError,
    ecdh::{Agreement, EcdhPublicKey, RAW_PROVIDER_ID, Wrapped, check_curves, curve_of, name_of, refused},
    failed, invalid_ciphertext, unsupported,
};
use crate::{
    crypto::{
        Backend, PerBackend, Randomness,
        key_agreement::{AgreementKey, Curve, compress},
    },
    error::{ConfigError, NotFips, RandomError},
    message::EncryptedDataKey,
};

/// An ECDH private key on the curve P-256, P-384 or P-521. It is zeroized when dropped.
pub struct EcdhPrivateKey {
    public: EcdhPublicKey,
    /// The number that is the key, for backends that have not prepared it yet. Empty for a generated key, which is used
    /// with one backend only.
    scalar: Zeroizing<Vec<u8>>,
    keys: PerBackend<Option<AgreementKey>>,
}

impl EcdhPrivateKey {
    /// Parses an unencrypted private key in PEM with the label `PRIVATE KEY` (PKCS #8).
    ///
    /// # Errors
    /// Returns [`ConfigError::Pem`] if `pem` is not an unencrypted private key on one of the three curves.
    pub fn from_pem(pem: &str) -> Result<Self, ConfigError> {
        const WHAT: &str = "ECDH private key";
        let (label, der) = SecretDocument::from_pem(pem).map_err(|error| refused(WHAT, &error))?;
        PrivateKeyInfoRef::validate_pem_label(label).map_err(|error| refused(WHAT, &error))?;
        let info: PrivateKeyInfoRef<'_> = der.decode_msg().map_err(|error| refused(WHAT, &error))?;
        let curve = curve_of(&info.algorithm, WHAT)?;
        let inner = EcPrivateKey::from_der(info.private_key.as_bytes()).map_err(|error| refused(WHAT, &error))?;
        let key = AgreementKey::from_scalar(Backend::default(), curve, inner.private_key)
            .ok_or_else(|| refused(WHAT, &"it is not a private key of its curve"))?;
        let key = Self::new(Backend::default(), curve, key);
        // PKCS #8 can contain the public key as well.
        let public = inner.public_key.map(|point| compress(Backend::default(), curve, point));
        if public.is_some_and(|point| point.as_ref() != Some(&key.public.point)) {
            return Err(refused(WHAT, &"it contains another key's public key"));
        }
        Ok(Self { scalar: Zeroizing::new(inner.private_key.to_vec()), ..key })
    }

    /// Generates a key on a curve. It works with this backend only.
    fn generate(backend: Backend, curve: Curve, randomness: Randomness<'_>) -> Result<Self, RandomError> {
        Ok(Self::new(backend, curve, AgreementKey::generate(backend, curve, randomness.0)?))
    }

    fn new(backend: Backend, curve: Curve, key: AgreementKey) -> Self {
        let public = EcdhPublicKey { curve, point: key.public_key() };
        let keys = PerBackend::default();
        keys.get(backend, || Some(key));
        Self { public, scalar: Zeroizing::default(), keys }
    }

    /// Returns the public key of this private key.
    pub fn public_key(&self) -> EcdhPublicKey {
        self.public.clone()
    }

    /// Returns the shared secret (the x-coordinate of the shared point), or `None` if `other` is not a point on this
    /// key's curve.
    fn agree(&self, backend: Backend, other: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let prepare = || AgreementKey::from_scalar(backend, self.public.curve, &self.scalar);
        self.keys.get(backend, prepare).as_ref()?.agree(other)
    }
}

impl fmt::Debug for EcdhPrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EcdhPrivateKey({})", name_of(self.public.curve))
    }
}

/// A key provider that uses elliptic-curve Diffie-Hellman: it encrypts data keys under a secret shared by a sender and
/// a recipient.
///
/// Anyone who has the recipient's public key can seal messages for the recipient:
///
/// ```no_run
/// use kms_envelope::{Envelope, provider::{EcdhPrivateKey, EcdhPublicKey, RawEcdh}};
///
/// // To seal:
/// let recipient = EcdhPublicKey::from_pem(&std::fs::read_to_string("recipient-public.pem")?)?;
/// let sealing = Envelope::new(RawEcdh::ephemeral(recipient));
///
/// // To open:
/// let recipient = EcdhPrivateKey::from_pem(&std::fs::read_to_string("recipient-private.pem")?)?;
/// let opening = Envelope::new(RawEcdh::discovery(recipient));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// `RawEcdh` is compatible with the raw ECDH keyring of AWS's SDKs and supports its three key agreement schemes. The
/// encrypted data key is bound to the encryption context.
///
/// A private key can also be in AWS KMS: [`AwsKmsEcdh`](super::AwsKmsEcdh) opens messages that `RawEcdh` has sealed, and
/// the other way round.
#[derive(Debug)]
pub struct RawEcdh(Scheme);

#[derive(Debug)]
enum Scheme {
    Ephemeral { recipient: EcdhPublicKey },
    Discovery { recipient: EcdhPrivateKey },
    Static { own: EcdhPrivateKey, other: EcdhPublicKey },
}

impl RawEcdh {
    /// Creates a provider that seals for the holder of the recipient's private key. It cannot open messages.
    ///
    /// Each data key is encrypted with a new sender key pair.
    pub fn ephemeral(recipient: EcdhPublicKey) -> Self {
        Self(Scheme::Ephemeral { recipient })
    }

    /// Creates a provider that opens messages that any sender sealed for this private key. It cannot seal messages.
    ///
    /// Anyone who has the recipient's public key can be the sender. An opened message does not prove who sealed it.
    pub fn discovery(recipient: EcdhPrivateKey) -> Self {
        Self(Scheme::Discovery { recipient })
    }

    /// Creates a provider for two parties: `own` is this party's private key, and `other` is the other party's public
    /// key.
    ///
    /// It seals messages for the other party, and opens messages that either party has sealed for the other.
    ///
    /// # Errors
    /// Returns [`ConfigError::Pem`] if the keys are on different curves.
    pub fn static_keys(own: EcdhPrivateKey, other: EcdhPublicKey) -> Result<Self, ConfigError> {
        check_curves(&own.public, &other)?;
        Ok(Self(Scheme::Static { own, other }))
    }

    fn wrap(&self, request: &EncryptDataKeyRequest<'_>) -> Result<EncryptedDataKey, ProviderError> {
        let backend = request.backend;
        let ephemeral;
        let (sender, recipient) = match &self.0 {
            Scheme::Ephemeral { recipient } => {
                ephemeral = EcdhPrivateKey::generate(backend, recipient.curve, request.randomness)?;
                (&ephemeral, recipient)
            }
            Scheme::Static { own, other } => (own, other),
            Scheme::Discovery { .. } => {
                return Err(unsupported(
                    "Encrypt",
                    self,
                    "RawEcdh::discovery has no recipient; seal with RawEcdh::ephemeral or RawEcdh::static_keys",
                ));
            }
        };
        let agreement = Agreement::to_seal(&sender.public, recipient);
        let shared = sender.agree(backend, &agreement.theirs);
        let shared = shared.ok_or_else(|| failed("Encrypt", self, "the backend rejects a key"))?;
        agreement.wrap(self, RAW_PROVIDER_ID, &shared, request)
    }

    /// Returns the agreement for an encrypted data key, and this party's key, if it belongs to this provider.
    fn to_open(&self, encrypted: &EncryptedDataKey) -> Option<(Agreement, &EcdhPrivateKey)> {
        let (own, other) = match &self.0 {
            Scheme::Ephemeral { .. } => return None,
            Scheme::Discovery { recipient } => (recipient, None),
            Scheme::Static { own, other } => (own, Some(other)),
        };
        Some((Agreement::to_open(encrypted, &own.public, other)?, own))
    }
}

#[async_trait]
impl KeyProvider for RawEcdh {
    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        Ok(vec![self.wrap(request)?])
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        if matches!(self.0, Scheme::Ephemeral { .. }) {
            return Err(unsupported(
                "Decrypt",
                self,
                "RawEcdh::ephemeral has no private key; open with RawEcdh::discovery or RawEcdh::static_keys",
            ));
        }
        let context = request.context.serialize().map_err(|error| failed("Decrypt", self, error))?;
        request.first_decrypted(self, |encrypted| {
            let (agreement, own) = self.to_open(encrypted)?;
            let key = || {
                let wrapped = Wrapped::parse(&encrypted.ciphertext, request.suite)?;
                let shared = own.agree(request.backend, &agreement.theirs)?;
                agreement.unwrap(request.backend, &shared, &context, &wrapped, request.suite)
            };
            Some(key().ok_or_else(|| invalid_ciphertext(self)))
        })
    }

    fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
        self.to_open(encrypted).is_some()
    }

    fn check_fips(&self) -> Result<(), NotFips> {
        Ok(())
    }
}

/// Formats as `raw-ecdh/CURVE:` and the first 8 bytes, in hexadecimal, of the recipient's compressed public key (with
/// [`static_keys`](Self::static_keys), the other party's).
impl fmt::Display for RawEcdh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EcdhPublicKey { curve, point } = match &self.0 {
            Scheme::Ephemeral { recipient } => recipient,
            Scheme::Discovery { recipient } => &recipient.public,
            Scheme::Static { other, .. } => other,
        };
        write!(f, "{RAW_PROVIDER_ID}/{}:", name_of(*curve))?;
        point[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use pkcs8::{
        AlgorithmIdentifierRef, LineEnding, ObjectIdentifier,
        der::{Encode, asn1::OctetStringRef},
    };

    use super::*;

    /// Returns a P-256 key in PEM whose contents are those of RFC 5915, with a public key if `public` is not empty.
    fn pem(scalar: &[u8], public: &[u8]) -> String {
        let len = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap();
        let mut key = [&[2, 1, 1, 4, len(scalar)], scalar].concat();
        if !public.is_empty() {
            key.extend([&[0xa1, len(public) + 3, 3, len(public) + 1, 0], public].concat());
        }
        let key = [&[0x30, len(&key)], &key[..]].concat();
        let curve = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
        let oid = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
        let algorithm = AlgorithmIdentifierRef { oid, parameters: Some((&curve).into()) };
        let der = PrivateKeyInfoRef::new(algorithm, OctetStringRef::new(&key).unwrap()).to_der().unwrap();
        SecretDocument::try_from(der).unwrap().to_pem("PRIVATE KEY", LineEnding::LF).unwrap().to_string()
    }

    #[test]
    fn a_private_key_may_contain_its_public_key_and_no_other() {
        let key = EcdhPrivateKey::from_pem(&pem(&[7; 32], &[])).unwrap();
        let (compressed, other) = (key.public.point.clone(), EcdhPrivateKey::from_pem(&pem(&[8; 32], &[])).unwrap());
        assert_eq!(EcdhPrivateKey::from_pem(&pem(&[7; 32], &compressed)).unwrap().public, key.public);
        let mut hybrid = [compressed.clone(), vec![7; 32]].concat();
        hybrid[0] = 6;
        for public in [&other.public.point[..], &hybrid, &[0]] {
            let error = EcdhPrivateKey::from_pem(&pem(&[7; 32], public)).unwrap_err().to_string();
            assert!(error.contains("it contains another key's public key"), "{error}");
        }
        for scalar in [[0; 32], [255; 32]] {
            let error = EcdhPrivateKey::from_pem(&pem(&scalar, &[])).unwrap_err().to_string();
            assert!(error.contains("it is not a private key of its curve"), "{error}");
        }
        // Every backend prepares the key from the same number.
        for backend in Backend::ALL {
            assert_eq!(key.agree(*backend, &other.public.point), other.agree(Backend::default(), &compressed));
        }
    }
}
