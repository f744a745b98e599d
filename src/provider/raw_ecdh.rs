//! Elliptic-curve keys in memory: AWS's raw ECDH keyring. Specification: `framework/raw-ecdh-keyring.md`.

use std::fmt;

use async_trait::async_trait;
use p256::{
    elliptic_curve::{Generate, sec1::ToSec1Point},
    pkcs8::{DecodePrivateKey, DecodePublicKey},
};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{
    DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, KeyProvider, ProviderError, failed,
    invalid_ciphertext, unsupported, unwrap_data_key,
};
use crate::{
    crypto::{AesGcm, Backend, Randomness, Rng, SecretKey, kbkdf},
    error::{ConfigError, RandomError},
    message::EncryptedDataKey,
    suite::{AlgorithmSuite, TAG_LEN},
};

const PROVIDER_ID: &str = "raw-ecdh";
const INFO_VERSION: u8 = 1;
const SALT_LEN: usize = 32;
const COMMITMENT_LEN: usize = 32;

/// An ECDH public key on the curve P-256, P-384 or P-521.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EcdhPublicKey(Public);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Public {
    P256(p256::PublicKey),
    P384(p384::PublicKey),
    P521(Box<p521::PublicKey>),
}

/// An ECDH private key on the curve P-256, P-384 or P-521. It is zeroized when dropped.
pub struct EcdhPrivateKey(Private);

enum Private {
    P256(p256::SecretKey),
    P384(p384::SecretKey),
    P521(Box<p521::SecretKey>),
}

impl EcdhPublicKey {
    /// Parses a public key in PEM with the label `PUBLIC KEY` (SubjectPublicKeyInfo).
    ///
    /// # Errors
    /// Returns [`ConfigError::Pem`] if `pem` is not a public key on one of the three curves.
    pub fn from_pem(pem: &str) -> Result<Self, ConfigError> {
        let p521 = || p521::PublicKey::from_public_key_pem(pem).map(|key| Public::P521(Box::new(key)));
        p256::PublicKey::from_public_key_pem(pem)
            .map(Public::P256)
            .or_else(|_| p384::PublicKey::from_public_key_pem(pem).map(Public::P384))
            .or_else(|_| p521())
            .map(Self)
            .map_err(|error| refused("ECDH public key", &error))
    }

    /// Returns the compressed point (SEC 1, section 2.3.3).
    fn to_bytes(&self) -> Vec<u8> {
        match &self.0 {
            Public::P256(key) => key.to_sec1_point(true).as_bytes().to_vec(),
            Public::P384(key) => key.to_sec1_point(true).as_bytes().to_vec(),
            Public::P521(key) => key.to_sec1_point(true).as_bytes().to_vec(),
        }
    }

    fn curve(&self) -> &'static str {
        match self.0 {
            Public::P256(_) => "p256",
            Public::P384(_) => "p384",
            Public::P521(_) => "p521",
        }
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
        let p521 = || p521::SecretKey::from_pkcs8_pem(pem).map(|key| Private::P521(Box::new(key)));
        p256::SecretKey::from_pkcs8_pem(pem)
            .map(Private::P256)
            .or_else(|_| p384::SecretKey::from_pkcs8_pem(pem).map(Private::P384))
            .or_else(|_| p521())
            .map(Self)
            .map_err(|error| refused("ECDH private key", &error))
    }

    /// Generates a key on the curve of `other`.
    fn generate(other: &EcdhPublicKey, randomness: Randomness<'_>) -> Result<Self, RandomError> {
        let rng = &mut Rng(randomness.0);
        Ok(Self(match other.0 {
            Public::P256(_) => Private::P256(Generate::try_generate_from_rng(rng)?),
            Public::P384(_) => Private::P384(Generate::try_generate_from_rng(rng)?),
            Public::P521(_) => Private::P521(Box::new(Generate::try_generate_from_rng(rng)?)),
        }))
    }

    /// Returns the public key of this private key.
    pub fn public_key(&self) -> EcdhPublicKey {
        EcdhPublicKey(match &self.0 {
            Private::P256(key) => Public::P256(key.public_key()),
            Private::P384(key) => Public::P384(key.public_key()),
            Private::P521(key) => Public::P521(Box::new(key.public_key())),
        })
    }

    /// Returns the shared secret (the x-coordinate of the shared point), or `None` if the keys are on different curves.
    fn agree(&self, other: &EcdhPublicKey) -> Option<Zeroizing<Vec<u8>>> {
        Some(Zeroizing::new(match (&self.0, &other.0) {
            (Private::P256(key), Public::P256(other)) => key.diffie_hellman(other).raw_secret_bytes().to_vec(),
            (Private::P384(key), Public::P384(other)) => key.diffie_hellman(other).raw_secret_bytes().to_vec(),
            (Private::P521(key), Public::P521(other)) => key.diffie_hellman(other).raw_secret_bytes().to_vec(),
            _ => return None,
        }))
    }

    /// Parses a public key from a message, on the curve of this key.
    fn parse_other(&self, bytes: &[u8]) -> Option<EcdhPublicKey> {
        Some(EcdhPublicKey(match self.0 {
            Private::P256(_) => Public::P256(p256::PublicKey::from_sec1_bytes(bytes).ok()?),
            Private::P384(_) => Public::P384(p384::PublicKey::from_sec1_bytes(bytes).ok()?),
            Private::P521(_) => Public::P521(Box::new(p521::PublicKey::from_sec1_bytes(bytes).ok()?)),
        }))
    }
}

impl fmt::Debug for EcdhPrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EcdhPrivateKey({})", self.public_key().curve())
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
    fn derive(backend: Backend, shared: &[u8], curve: &str, info: &Info, context: &[u8], salt: &[u8]) -> Self {
        let parties = [&info.sender[..], &info.recipient].concat();
        let fields = [b"ecdh-key-derivation", curve.as_bytes(), b"HMAC_SHA384", &parties, &[1], context];
        let fixed_info = fields.join(&0);
        let derived = kbkdf::sha384(shared, &fixed_info, salt);
        let (commitment, key) = derived.split_first_chunk().expect("64 bytes were derived");
        let key = SecretKey::try_from(key).expect("32 bytes are an AES key");
        Self { commitment: *commitment, cipher: AesGcm::new(backend, &key), fixed_info }
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
        let (ours, theirs) = (own.public_key().curve(), other.curve());
        if ours != theirs {
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
                ephemeral = EcdhPrivateKey::generate(recipient, randomness)?;
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
        let shared =
            sender.agree(recipient).ok_or_else(|| failed("Encrypt", self, "the keys are on different curves"))?;
        let info = Info { sender: sender.public_key().to_bytes(), recipient: recipient.to_bytes() };
        let context = context.serialize().map_err(|error| failed("Encrypt", self, error))?;
        let mut salt = [0; SALT_LEN];
        randomness.fill(&mut salt)?;
        let wrapping = Wrapping::derive(backend, &shared, recipient.curve(), &info, &context, &salt);
        let mut wrapped = vec![0; data_key.len() + TAG_LEN];
        // The derived key encrypts only this data key, so the IV can be zero.
        wrapping.cipher.seal(&[0; _], &wrapping.fixed_info, data_key.expose(), &mut wrapped);
        let ciphertext = [&salt, &wrapping.commitment[..], &wrapped].concat();
        Ok(EncryptedDataKey::new(PROVIDER_ID, info.write(), ciphertext))
    }

    /// Returns the provider info, this party's private key and the other party's public key, if the encrypted data key
    /// belongs to this provider.
    fn parties(&self, encrypted: &EncryptedDataKey) -> Option<(Info, &EcdhPrivateKey, EcdhPublicKey)> {
        let info = Info::parse(&encrypted.provider_info).filter(|_| encrypted.provider_id == PROVIDER_ID)?;
        let (own, other) = match &self.0 {
            Scheme::Ephemeral { .. } => return None,
            Scheme::Discovery { recipient } => (recipient, None),
            Scheme::Static { own, other } => (own, Some(other.to_bytes())),
        };
        let ours = own.public_key().to_bytes();
        let theirs = match other {
            None if info.recipient == ours => &info.sender,
            Some(other) if info.recipient == ours && info.sender == other => &info.sender,
            Some(other) if info.sender == ours && info.recipient == other => &info.recipient,
            _ => return None,
        };
        let theirs = own.parse_other(theirs)?;
        Some((info, own, theirs))
    }

    /// Decrypts a data key. Returns `None` if that fails.
    fn unwrap(
        backend: Backend,
        own: &EcdhPrivateKey,
        other: &EcdhPublicKey,
        info: &Info,
        context: &[u8],
        ciphertext: &[u8],
        suite: AlgorithmSuite,
    ) -> Option<SecretKey> {
        let (salt, rest) = ciphertext.split_first_chunk::<SALT_LEN>()?;
        let (commitment, wrapped) = rest.split_first_chunk::<COMMITMENT_LEN>()?;
        let wrapping = Wrapping::derive(backend, &own.agree(other)?, other.curve(), info, context, salt);
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
            let (info, own, other) = self.parties(encrypted)?;
            let ciphertext = &encrypted.ciphertext;
            let key = Self::unwrap(request.backend, own, &other, &info, &context, ciphertext, request.suite);
            Some(key.ok_or_else(|| invalid_ciphertext(self)))
        })
    }

    fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
        self.parties(encrypted).is_some()
    }
}

/// Formats as `raw-ecdh/CURVE:` and the first 8 bytes, in hexadecimal, of the recipient's compressed public key (with
/// [`static_keys`](Self::static_keys), the other party's).
impl fmt::Display for RawEcdh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let recipient = match &self.0 {
            Scheme::Ephemeral { recipient } => recipient.clone(),
            Scheme::Discovery { recipient } => recipient.public_key(),
            Scheme::Static { other, .. } => other.clone(),
        };
        write!(f, "{PROVIDER_ID}/{}:", recipient.curve())?;
        recipient.to_bytes()[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
