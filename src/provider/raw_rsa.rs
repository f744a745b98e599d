//! RSA keys in memory: AWS's raw RSA keyring. Specification: `framework/raw-rsa-keyring.md`.

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
use crate::{
    crypto::SecretKey,
    error::{ConfigError, NotFips},
    message::EncryptedDataKey,
};

/// The padding of data keys that are encrypted with RSA. Messages must be opened with the padding they were sealed
/// with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RsaPadding {
    /// PKCS #1 v1.5 (RFC 8017, section 7.2), for existing messages only.
    ///
    /// Errors and timing can reveal whether the padding was correct (Bleichenbacher's attack). Do not open untrusted
    /// messages with this padding in a service whose errors or response times an attacker can observe.
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

/// An RSA key in the memory of this process, as a key provider. It seals with the public key and opens with the private
/// key.
///
/// ```no_run
/// use kms_envelope::{Envelope, provider::{RawRsa, RsaPadding}};
///
/// // To seal:
/// let key = RawRsa::new("my-service", "2026-11", RsaPadding::OaepSha256)?
///     .with_public_key_pem(&std::fs::read_to_string("public.pem")?)?;
/// let sealing = Envelope::new(key);
///
/// // To open:
/// let key = RawRsa::new("my-service", "2026-11", RsaPadding::OaepSha256)?
///     .with_private_key_pem(&std::fs::read_to_string("private.pem")?)?;
/// let opening = Envelope::new(key);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// `RawRsa` is compatible with the raw RSA keyring of AWS's SDKs. With the same namespace, name, padding and keys, they
/// open its messages, and it opens theirs.
///
/// Anyone who has the public key can seal messages, so an opened message does not prove who sealed it. **RSA does not
/// bind the data key to the encryption context**: only the message's header authenticates the context. A message is
/// bound to a single data key only if its algorithm suite has key commitment, like the default suite.
pub struct RawRsa {
    namespace: String,
    name: String,
    padding: RsaPadding,
    public: Option<PublicKey>,
    private: Option<PrivateKey>,
    /// Whether AWS-LC's FIPS module considers the private key valid.
    #[cfg(feature = "fips")]
    is_valid_for_fips: bool,
}

/// A public key, prepared for a padding.
enum PublicKey {
    Oaep(OaepPublicEncryptingKey, &'static OaepAlgorithm),
    Pkcs1v15(Pkcs1PublicEncryptingKey),
}

/// A private key, prepared for a padding.
enum PrivateKey {
    Oaep(OaepPrivateDecryptingKey, &'static OaepAlgorithm),
    Pkcs1v15(Pkcs1PrivateDecryptingKey),
}

impl PublicKey {
    fn new(key: PublicEncryptingKey, padding: RsaPadding) -> Result<Self, Unspecified> {
        Ok(match padding.oaep() {
            Some(oaep) => Self::Oaep(OaepPublicEncryptingKey::new(key)?, oaep),
            None => Self::Pkcs1v15(Pkcs1PublicEncryptingKey::new(key)?),
        })
    }

    fn encrypt(&self, data_key: &SecretKey) -> Result<Vec<u8>, Unspecified> {
        let mut ciphertext = vec![
            0;
            match self {
                Self::Oaep(key, _) => key.ciphertext_size(),
                Self::Pkcs1v15(key) => key.ciphertext_size(),
            }
        ];
        match self {
            Self::Oaep(key, oaep) => key.encrypt(oaep, data_key.expose(), &mut ciphertext, None)?,
            Self::Pkcs1v15(key) => key.encrypt(data_key.expose(), &mut ciphertext)?,
        };
        Ok(ciphertext)
    }
}

impl PrivateKey {
    fn new(key: PrivateDecryptingKey, padding: RsaPadding) -> Result<Self, Unspecified> {
        Ok(match padding.oaep() {
            Some(oaep) => Self::Oaep(OaepPrivateDecryptingKey::new(key)?, oaep),
            None => Self::Pkcs1v15(Pkcs1PrivateDecryptingKey::new(key)?),
        })
    }

    /// Decrypts a data key without checking its length.
    fn decrypt(&self, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unspecified> {
        let mut plaintext = Zeroizing::new(vec![
            0;
            match self {
                Self::Oaep(key, _) => key.min_output_size(),
                Self::Pkcs1v15(key) => key.min_output_size(),
            }
        ]);
        let decrypted = match self {
            Self::Oaep(key, oaep) => key.decrypt(oaep, ciphertext, &mut plaintext, None)?,
            Self::Pkcs1v15(key) => key.decrypt(ciphertext, &mut plaintext)?,
        };
        // AWS-LC writes to the start of the buffer. The copy has exactly the key's length.
        Ok(Zeroizing::new(decrypted.to_vec()))
    }
}

impl RawRsa {
    /// Creates a provider without keys. Add the public key to seal, the private key to open, or both.
    ///
    /// The namespace and name identify the key. They are stored unencrypted in each message.
    ///
    /// # Errors
    /// Returns [`ConfigError::KeyName`] if the namespace starts with `aws-kms`, which is reserved for AWS KMS, or if
    /// the namespace or name is longer than 65,535 bytes.
    pub fn new(
        namespace: impl Into<String>,
        name: impl Into<String>,
        padding: RsaPadding,
    ) -> Result<Self, ConfigError> {
        let (namespace, name) = (namespace.into(), name.into());
        check_names(&namespace, &name, u16::MAX.into())?;
        Ok(Self {
            namespace,
            name,
            padding,
            public: None,
            private: None,
            #[cfg(feature = "fips")]
            is_valid_for_fips: true,
        })
    }

    /// Sets the public key, for sealing: PEM with the label `PUBLIC KEY` (SubjectPublicKeyInfo), of 2048 to 8192 bits.
    ///
    /// # Errors
    /// Returns [`ConfigError::Pem`] if `pem` does not contain such a key.
    pub fn with_public_key_pem(mut self, pem: &str) -> Result<Self, ConfigError> {
        let key = PublicKey::new(public_key_of_pem(pem)?, self.padding);
        self.public = Some(key.map_err(|error| refused("RSA public key", error))?);
        Ok(self)
    }

    /// Sets the private key, for opening: unencrypted PEM with the label `PRIVATE KEY` (PKCS #8), of 2048 to 8192 bits.
    ///
    /// To seal as well, also set the [public key](Self::with_public_key_pem).
    ///
    /// # Errors
    /// Returns [`ConfigError::Pem`] if `pem` does not contain such a key.
    pub fn with_private_key_pem(mut self, pem: &str) -> Result<Self, ConfigError> {
        const WHAT: &str = "RSA private key";
        let der = pem_contents(pem, "PRIVATE KEY", WHAT)?;
        let key = PrivateDecryptingKey::from_pkcs8(&der).map_err(|error| refused(WHAT, error))?;
        #[cfg(feature = "fips")]
        {
            self.is_valid_for_fips = key.is_valid_fips_key();
        }
        self.private = Some(PrivateKey::new(key, self.padding).map_err(|error| refused(WHAT, error))?);
        Ok(self)
    }

    fn wrap(&self, data_key: &SecretKey) -> Result<EncryptedDataKey, ProviderError> {
        let public = self
            .public
            .as_ref()
            .ok_or_else(|| unsupported("Encrypt", self, "no public key is set; call RawRsa::with_public_key_pem"))?;
        let ciphertext = public.encrypt(data_key).map_err(|error| failed("Encrypt", self, error))?;
        Ok(EncryptedDataKey::new(&self.namespace, self.name.clone().into_bytes(), ciphertext))
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
            let Some(private) = &self.private else {
                return Some(Err(unsupported(
                    "Decrypt",
                    self,
                    "no private key is set; call RawRsa::with_private_key_pem",
                )));
            };
            // A wrong length is reported in the same way as wrong padding, so that the error does not reveal which it
            // was.
            let key = private.decrypt(&encrypted.ciphertext).ok().and_then(|key| SecretKey::try_from(key).ok());
            let key = key.filter(|key| key.len() == request.suite.data_key_len());
            // Not `InvalidCiphertext`: RSA does not bind the context, so a wrong context cannot be the cause.
            let kind = ProviderErrorKind::IncorrectKey;
            Some(key.ok_or_else(|| ProviderError::new(kind, "Decrypt", self.to_string())))
        })
    }

    fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
        encrypted.provider_id == self.namespace && encrypted.provider_info == self.name.as_bytes()
    }

    fn check_fips(&self) -> Result<(), NotFips> {
        if self.padding == RsaPadding::Pkcs1v15 {
            return Err(NotFips::provider(self, "its padding is PKCS #1 v1.5; use OAEP"));
        }
        // aws-lc-rs has no such check for public keys.
        #[cfg(feature = "fips")]
        if !self.is_valid_for_fips {
            let why =
                "AWS-LC considers its private key invalid for FIPS; generate a key with the public exponent 65537";
            return Err(NotFips::provider(self, why));
        }
        Ok(())
    }
}

/// Parses a SubjectPublicKeyInfo in PEM.
pub(super) fn public_key_of_pem(pem: &str) -> Result<PublicEncryptingKey, ConfigError> {
    const WHAT: &str = "RSA public key";
    let der = pem_contents(pem, "PUBLIC KEY", WHAT)?;
    PublicEncryptingKey::from_der(&der).map_err(|error| refused(WHAT, error))
}

/// Decodes PEM that must have the given label.
fn pem_contents(pem: &str, label: &str, what: &'static str) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
    let (found, der) = pem_rfc7468::decode_vec(pem.as_bytes()).map_err(|error| refused(what, error))?;
    let der = Zeroizing::new(der);
    if found != label {
        let why = format!("its PEM label is {found:?}, not {label:?}; convert it with `openssl pkey`");
        return Err(ConfigError::Pem { what, why });
    }
    Ok(der)
}

fn refused(what: &'static str, why: impl fmt::Display) -> ConfigError {
    ConfigError::Pem { what, why: why.to_string() }
}

/// Formats as `NAMESPACE/NAME`.
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
