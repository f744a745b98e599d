//! An RSA key that this process holds: AWS's raw RSA keyring. Specification: `framework/raw-rsa-keyring.md`.

use std::fmt;

use async_trait::async_trait;
use aws_lc_rs::{
    error::Unspecified,
    rsa::{
        OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OAEP_SHA512_MGF1SHA512, OaepAlgorithm,
        OaepPrivateDecryptingKey, OaepPublicEncryptingKey, Pkcs1PrivateDecryptingKey, Pkcs1PublicEncryptingKey,
        PrivateDecryptingKey, PublicEncryptingKey,
    },
};
use zeroize::Zeroizing;

use super::{
    DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, KeyProvider, ProviderError, ProviderErrorKind,
    check_names, failed, unsupported,
};
use crate::{crypto::SecretKey, error::ConfigError, message::EncryptedDataKey};

/// How a data key is padded under RSA. Writer and reader must have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RsaPadding {
    /// PKCS #1 v1.5 (RFC 8017, section 7.2). For old messages: whether a padding was right can be learnt from errors
    /// and times, so do not open strangers' messages with it for strangers.
    Pkcs1v15,
    /// OAEP (RFC 8017, section 7.1) with SHA-1 and MGF1 with SHA-1.
    OaepSha1,
    /// OAEP with SHA-256 and MGF1 with SHA-256.
    OaepSha256,
    /// OAEP with SHA-384 and MGF1 with SHA-384.
    OaepSha384,
    /// OAEP with SHA-512 and MGF1 with SHA-512.
    OaepSha512,
}

impl RsaPadding {
    pub(super) fn oaep(self) -> Option<&'static OaepAlgorithm> {
        match self {
            Self::Pkcs1v15 => None,
            Self::OaepSha1 => Some(&OAEP_SHA1_MGF1SHA1),
            Self::OaepSha256 => Some(&OAEP_SHA256_MGF1SHA256),
            Self::OaepSha384 => Some(&OAEP_SHA384_MGF1SHA384),
            Self::OaepSha512 => Some(&OAEP_SHA512_MGF1SHA512),
        }
    }
}

/// An RSA key as key provider: seals with the public key, opens with the private one.
///
/// It is the raw RSA keyring of the AWS SDKs: given the same namespace, name, padding and keys, they open what it
/// sealed and the other way round. **RSA does not bind the data key to the encryption context**; the message's header
/// does. Only suites with key commitment bind a message to one data key.
///
/// ```no_run
/// use kms_envelope::{Envelope, provider::{RawRsa, RsaPadding}};
///
/// let key = RawRsa::new("my-service", "2026-11", RsaPadding::OaepSha256)?
///     .with_public_key_pem(&std::fs::read_to_string("public.pem")?)?;
/// let sealing_only = Envelope::new(key);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RawRsa {
    namespace: String,
    name: String,
    padding: RsaPadding,
    public: Option<PublicEncryptingKey>,
    private: Option<PrivateDecryptingKey>,
}

impl RawRsa {
    /// A provider without keys: give it the public one, the private one, or both. Namespace and name say which key a
    /// message needs; they are stored in it.
    ///
    /// # Errors
    /// [`ConfigError::KeyName`] where the namespace begins with `aws-kms`, or where either is longer than 65,535 bytes.
    pub fn new(
        namespace: impl Into<String>,
        name: impl Into<String>,
        padding: RsaPadding,
    ) -> Result<Self, ConfigError> {
        let (namespace, name) = (namespace.into(), name.into());
        check_names(&namespace, &name, u16::MAX.into())?;
        Ok(Self { namespace, name, padding, public: None, private: None })
    }

    /// With the public key, for sealing: PEM with the label `PUBLIC KEY` (SubjectPublicKeyInfo), 2048 bits or more.
    ///
    /// # Errors
    /// [`ConfigError::Pem`].
    pub fn with_public_key_pem(mut self, pem: &str) -> Result<Self, ConfigError> {
        self.public = Some(public_key_of_pem(pem)?);
        Ok(self)
    }

    /// With the private key, for opening: PEM with the label `PRIVATE KEY` (PKCS #8), not encrypted, 2048 bits or
    /// more. Sealing needs the public key all the same.
    ///
    /// # Errors
    /// [`ConfigError::Pem`].
    pub fn with_private_key_pem(mut self, pem: &str) -> Result<Self, ConfigError> {
        const WHAT: &str = "RSA private key";
        let der = pem_contents(pem, "PRIVATE KEY", WHAT)?;
        self.private = Some(PrivateDecryptingKey::from_pkcs8(&der).map_err(|error| refused(WHAT, error))?);
        Ok(self)
    }

    fn wrap(&self, data_key: &SecretKey) -> Result<EncryptedDataKey, ProviderError> {
        let public = self.public.clone().ok_or_else(|| unsupported("Encrypt", self, "it has no public key"))?;
        let mut ciphertext = vec![0; public.key_size_bytes()];
        let encrypted = match self.padding.oaep() {
            Some(oaep) => OaepPublicEncryptingKey::new(public)
                .and_then(|key| key.encrypt(oaep, data_key.expose(), &mut ciphertext, None).map(drop)),
            None => Pkcs1PublicEncryptingKey::new(public)
                .and_then(|key| key.encrypt(data_key.expose(), &mut ciphertext).map(drop)),
        };
        encrypted.map_err(|error| failed("Encrypt", self, error))?;
        Ok(EncryptedDataKey::new(&self.namespace, self.name.clone().into_bytes(), ciphertext))
    }

    /// The data key, of whatever length.
    fn unwrap(&self, private: PrivateDecryptingKey, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unspecified> {
        let mut plaintext = Zeroizing::new(vec![0; private.key_size_bytes()]);
        let len = match self.padding.oaep() {
            Some(oaep) => {
                OaepPrivateDecryptingKey::new(private)?.decrypt(oaep, ciphertext, &mut plaintext, None)?.len()
            }
            None => Pkcs1PrivateDecryptingKey::new(private)?.decrypt(ciphertext, &mut plaintext)?.len(),
        };
        // AWS-LC writes from the start of the buffer. A copy, so that the key's buffer has its length.
        Ok(Zeroizing::new(plaintext[..len].to_vec()))
    }
}

#[async_trait]
impl KeyProvider for RawRsa {
    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        Ok(vec![self.wrap(request.data_key)?])
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        request.first_decrypted(self, |encrypted| {
            if !self.may_decrypt(encrypted) {
                return None;
            }
            let Some(private) = self.private.clone() else {
                return Some(Err(unsupported("Decrypt", self, "it has no private key")));
            };
            // A key of another length is reported as any other failure, as the padding's is.
            let key = self.unwrap(private, &encrypted.ciphertext).ok().and_then(|key| SecretKey::try_from(key).ok());
            let key = key.filter(|key| key.len() == request.suite.data_key_len());
            // RSA does not bind the context, so that is not why.
            let kind = ProviderErrorKind::IncorrectKey;
            Some(key.ok_or_else(|| ProviderError::new(kind, "Decrypt", self.to_string())))
        })
    }

    fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
        encrypted.provider_id == self.namespace && encrypted.provider_info == self.name.as_bytes()
    }
}

/// A SubjectPublicKeyInfo in PEM.
pub(super) fn public_key_of_pem(pem: &str) -> Result<PublicEncryptingKey, ConfigError> {
    const WHAT: &str = "RSA public key";
    let der = pem_contents(pem, "PUBLIC KEY", WHAT)?;
    PublicEncryptingKey::from_der(&der).map_err(|error| refused(WHAT, error))
}

/// What the PEM holds, if it has this label.
fn pem_contents(pem: &str, label: &str, what: &'static str) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
    let (found, der) = pem_rfc7468::decode_vec(pem.as_bytes()).map_err(|error| refused(what, error))?;
    let der = Zeroizing::new(der);
    if found != label {
        let why = format!("it is PEM with the label {found:?}, not {label:?}; convert it with `openssl pkey`");
        return Err(ConfigError::Pem { what, why });
    }
    Ok(der)
}

fn refused(what: &'static str, why: impl fmt::Display) -> ConfigError {
    ConfigError::Pem { what, why: why.to_string() }
}

/// `namespace/name`.
impl fmt::Display for RawRsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for RawRsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawRsa")
            .field("key", &format_args!("{self}"))
            .field("padding", &self.padding)
            .field("has_public_key", &self.public.is_some())
            .field("has_private_key", &self.private.is_some())
            .finish()
    }
}
