//! Elliptic-curve keys in memory: AWS's raw ECDH keyring. Specification: `framework/raw-ecdh-keyring.md`.

use std::fmt;

use async_trait::async_trait;
use pkcs8::{
    AlgorithmIdentifierRef, ObjectIdentifier, PrivateKeyInfoRef, SecretDocument, SubjectPublicKeyInfoRef,
    der::{Decode, Document, pem::PemLabel},
};
use sec1::EcPrivateKey;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{
    DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, KeyProvider, ProviderError, failed,
    invalid_ciphertext, unsupported, unwrap_data_key,
};
use crate::{
    crypto::{
        AesGcm, Backend, PerBackend, Randomness, SecretKey, kbkdf,
        key_agreement::{AgreementKey, Curve, compress},
    },
    error::{ConfigError, NotFips, RandomError},
    message::EncryptedDataKey,
    suite::{AlgorithmSuite, TAG_LEN},
};

const PROVIDER_ID: &str = "raw-ecdh";
const INFO_VERSION: u8 = 1;
const SALT_LEN: usize = 32;
const COMMITMENT_LEN: usize = 32;

/// An ECDH public key on the curve P-256, P-384 or P-521.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EcdhPublicKey {
    curve: Curve,
    /// The compressed point (SEC 1, section 2.3.3).
    point: Vec<u8>,
}

/// An ECDH private key on the curve P-256, P-384 or P-521. It is zeroized when dropped.
pub struct EcdhPrivateKey {
    public: EcdhPublicKey,
    /// The number that is the key, for backends that have not prepared it yet. Empty for a generated key, which is used
    /// with one backend only.
    scalar: Zeroizing<Vec<u8>>,
    keys: PerBackend<Option<AgreementKey>>,
}

impl EcdhPublicKey {
    /// Parses a public key in PEM with the label `PUBLIC KEY` (SubjectPublicKeyInfo).
    ///
    /// # Errors
    /// Returns [`ConfigError::Pem`] if `pem` is not a public key on one of the three curves.
    pub fn from_pem(pem: &str) -> Result<Self, ConfigError> {
        const WHAT: &str = "ECDH public key";
        let (label, der) = Document::from_pem(pem).map_err(|error| refused(WHAT, &error))?;
        SubjectPublicKeyInfoRef::validate_pem_label(label).map_err(|error| refused(WHAT, &error))?;
        let info: SubjectPublicKeyInfoRef<'_> = der.decode_msg().map_err(|error| refused(WHAT, &error))?;
        let curve = curve_of(&info.algorithm, WHAT)?;
        let point = info.subject_public_key.as_bytes();
        let point = point.and_then(|point| compress(Backend::default(), curve, point));
        let point = point.ok_or_else(|| refused(WHAT, &"it is not a point on its curve"))?;
        Ok(Self { curve, point })
    }
}

/// Returns the curve of a key in PKCS #8 or SubjectPublicKeyInfo (RFC 5480, sections 2.1.1 and 2.1.1.1).
fn curve_of(algorithm: &AlgorithmIdentifierRef<'_>, what: &'static str) -> Result<Curve, ConfigError> {
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
fn name_of(curve: Curve) -> &'static str {
    match curve {
        Curve::P256 => "p256",
        Curve::P384 => "p384",
        Curve::P521 => "p521",
    }
}

fn refused(what: &'static str, error: &dyn fmt::Display) -> ConfigError {
    let why = format!("{error}; expected a PEM key on P-256, P-384 or P-521, such as `openssl pkey` writes");
    ConfigError::Pem { what, why }
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
#[derive(Debug)]
pub struct RawEcdh(Scheme);

#[derive(Debug)]
enum Scheme {
    Ephemeral { recipient: EcdhPublicKey },
    Discovery { recipient: EcdhPrivateKey },
    Static { own: EcdhPrivateKey, other: EcdhPublicKey },
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

/// The values that both parties derive to encrypt or decrypt one data key.
struct Wrapping {
    commitment: [u8; COMMITMENT_LEN],
    cipher: AesGcm,
    /// The fixed input of the key derivation, which is also the additional authenticated data of the encryption.
    fixed_info: Vec<u8>,
}

impl Wrapping {
    fn derive(backend: Backend, shared: &[u8], curve: Curve, info: &Info, context: &[u8], salt: &[u8]) -> Self {
        let parties = [&info.sender[..], &info.recipient].concat();
        let fields = [b"ecdh-key-derivation", name_of(curve).as_bytes(), b"HMAC_SHA384", &parties, &[1], context];
        let fixed_info = fields.join(&0);
        let derived = kbkdf::sha384(backend, shared, &fixed_info, salt);
        let (commitment, key) = derived.split_first_chunk().expect("64 bytes were derived");
        Self { commitment: *commitment, cipher: AesGcm::new(backend, key), fixed_info }
    }
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
        let (ours, theirs) = (own.public.curve, other.curve);
        if ours != theirs {
            let [theirs, ours] = [theirs, ours].map(name_of);
            let why = format!("it is on the curve {theirs}, but the private key is on {ours}");
            return Err(ConfigError::Pem { what: "ECDH public key", why });
        }
        Ok(Self(Scheme::Static { own, other }))
    }

    fn wrap(&self, request: &EncryptDataKeyRequest<'_>) -> Result<EncryptedDataKey, ProviderError> {
        let EncryptDataKeyRequest { context, data_key, backend, randomness, .. } = *request;
        let ephemeral;
        let (sender, recipient) = match &self.0 {
            Scheme::Ephemeral { recipient } => {
                ephemeral = EcdhPrivateKey::generate(backend, recipient.curve, randomness)?;
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
        let shared = sender.agree(backend, &recipient.point);
        let shared = shared.ok_or_else(|| failed("Encrypt", self, "the backend rejects a key"))?;
        let info = Info { sender: sender.public.point.clone(), recipient: recipient.point.clone() };
        let context = context.serialize().map_err(|error| failed("Encrypt", self, error))?;
        let mut salt = [0; SALT_LEN];
        randomness.fill(&mut salt)?;
        let wrapping = Wrapping::derive(backend, &shared, recipient.curve, &info, &context, &salt);
        let mut wrapped = vec![0; data_key.len() + TAG_LEN];
        // The derived key encrypts only this data key, so the IV can be zero.
        wrapping.cipher.seal(&[0; _], &wrapping.fixed_info, data_key.expose(), &mut wrapped);
        let ciphertext = [&salt, &wrapping.commitment[..], &wrapped].concat();
        Ok(EncryptedDataKey::new(PROVIDER_ID, info.write(), ciphertext))
    }

    /// Returns the parties of an encrypted data key, if it belongs to this provider.
    fn parties(&self, encrypted: &EncryptedDataKey) -> Option<Parties<'_>> {
        let info = Info::parse(&encrypted.provider_info).filter(|_| encrypted.provider_id == PROVIDER_ID)?;
        let (own, other) = match &self.0 {
            Scheme::Ephemeral { .. } => return None,
            Scheme::Discovery { recipient } => (recipient, None),
            Scheme::Static { own, other } => (own, Some(&other.point)),
        };
        let ours = &own.public.point;
        let theirs = match other {
            None if info.recipient == *ours => info.sender.clone(),
            Some(other) if info.recipient == *ours && info.sender == *other => info.sender.clone(),
            Some(other) if info.sender == *ours && info.recipient == *other => info.recipient.clone(),
            _ => return None,
        };
        Some(Parties { info, own, theirs })
    }
}

/// This party and the other one, which encrypted a data key for each other.
struct Parties<'a> {
    info: Info,
    own: &'a EcdhPrivateKey,
    theirs: Vec<u8>,
}

impl Parties<'_> {
    /// Decrypts a data key. Returns `None` if that fails.
    fn unwrap(&self, backend: Backend, context: &[u8], ciphertext: &[u8], suite: AlgorithmSuite) -> Option<SecretKey> {
        let (salt, rest) = ciphertext.split_first_chunk::<SALT_LEN>()?;
        let (commitment, wrapped) = rest.split_first_chunk::<COMMITMENT_LEN>()?;
        // Checked first, because the key agreement takes long.
        if wrapped.len() != suite.data_key_len() + TAG_LEN {
            return None;
        }
        let Self { info, own, theirs } = self;
        let shared = own.agree(backend, theirs)?;
        let wrapping = Wrapping::derive(backend, &shared, own.public.curve, info, context, salt);
        if !bool::from(wrapping.commitment.ct_eq(commitment)) {
            return None;
        }
        unwrap_data_key(&wrapping.cipher, &[0; _], &wrapping.fixed_info, wrapped, suite)
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
            let parties = self.parties(encrypted)?;
            let key = parties.unwrap(request.backend, &context, &encrypted.ciphertext, request.suite);
            Some(key.ok_or_else(|| invalid_ciphertext(self)))
        })
    }

    fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
        self.parties(encrypted).is_some()
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
        write!(f, "{PROVIDER_ID}/{}:", name_of(*curve))?;
        point[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use pkcs8::{
        LineEnding,
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
