//! RSA keys in AWS KMS: the public key seals in this process, and KMS decrypts to open. Specification:
//! `framework/aws-kms/aws-kms-rsa-keyring.md`.

use std::{
    fmt,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use aws_lc_rs::rsa::{OaepPublicEncryptingKey, PublicEncryptingKey};
use aws_sdk_kms::{
    Client,
    types::{EncryptionAlgorithmSpec, KeyUsageType},
};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{Candidate, KeyArn, Outcomes, Requests, Tries, key_arn_of, requests::GET_PUBLIC_KEY};
use crate::{
    context::EncryptionContext,
    crypto::{Backend, Digest, SecretKey},
    error::{ConfigError, NotFips},
    message::EncryptedDataKey,
    provider::{
        DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, KeyProvider, ProviderError, failed,
        invalid_ciphertext,
        raw_rsa::{RsaPadding, public_key_of_pem},
        unsupported,
    },
    suite::{AlgorithmSuite, HashAlgorithm},
};

const PROVIDER_ID: &str = "aws-kms-rsa";
const DIGEST_LEN: usize = 48;

/// An RSA key in AWS KMS, as a key provider. It seals with the public key, without KMS requests, and opens with a KMS
/// `Decrypt` request.
///
/// ```no_run
/// use kms_envelope::{Envelope, provider::{AwsKmsRsa, RsaPadding}};
///
/// # async fn example(client: aws_sdk_kms::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let arn = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
/// let key = AwsKmsRsa::new(client, arn, RsaPadding::OaepSha256)?.fetch_public_key().await?;
/// let envelope = Envelope::new(key);
/// # Ok(())
/// # }
/// ```
///
/// Anyone who has the public key can seal messages. To open them, a caller needs the permission `kms:Decrypt`.
///
/// The encrypted data key is bound to the encryption context, but the context is not sent to KMS. Policies cannot
/// require it, and CloudTrail does not show it.
///
/// Algorithm suites with signatures are refused, as in AWS's SDKs: the signature would only prove that the sender has
/// the public key.
///
/// The time limits, and the limits for untrusted messages, are those of [`AwsKms`](super::AwsKms).
#[derive(Clone)]
pub struct AwsKmsRsa {
    requests: Requests,
    key_arn: KeyArn,
    padding: RsaPadding,
    algorithm: EncryptionAlgorithmSpec,
    public: Option<PublicEncryptingKey>,
}

impl AwsKmsRsa {
    /// Creates a provider from a key ARN. Sends no request.
    ///
    /// The provider opens messages. To seal as well, add the public key with
    /// [`fetch_public_key`](Self::fetch_public_key) or [`with_public_key_pem`](Self::with_public_key_pem).
    ///
    /// # Errors
    /// Returns [`ConfigError::KmsKeyId`] if `key_arn` is not a key ARN, and [`ConfigError::KmsKeys`] if KMS does not
    /// support the padding. It supports [`RsaPadding::OaepSha1`] and [`RsaPadding::OaepSha256`].
    pub fn new(client: Client, key_arn: impl Into<String>, padding: RsaPadding) -> Result<Self, ConfigError> {
        let key_arn = key_arn_of(key_arn)?;
        let algorithm = match padding {
            RsaPadding::OaepSha1 => EncryptionAlgorithmSpec::RsaesOaepSha1,
            RsaPadding::OaepSha256 => EncryptionAlgorithmSpec::RsaesOaepSha256,
            _ => {
                let why = format!("{key_arn}: KMS supports the paddings OaepSha1 and OaepSha256, but not {padding:?}");
                return Err(ConfigError::KmsKeys { why });
            }
        };
        Ok(Self { requests: Requests::new(client), key_arn, padding, algorithm, public: None })
    }

    /// Sets the public key, for sealing: PEM with the label `PUBLIC KEY` (SubjectPublicKeyInfo), of 2048 to 8192 bits.
    /// It must be the public key of this KMS key: if it is not, KMS cannot decrypt the data keys.
    ///
    /// # Errors
    /// Returns [`ConfigError::Pem`] if `pem` does not contain such a key.
    pub fn with_public_key_pem(mut self, pem: &str) -> Result<Self, ConfigError> {
        self.public = Some(public_key_of_pem(pem)?);
        Ok(self)
    }

    /// Gets the public key from KMS, for sealing. Sends one `GetPublicKey` request, which needs the permission
    /// `kms:GetPublicKey`.
    ///
    /// # Errors
    /// Returns a [`ProviderError`] if the request fails, or if the key is not an RSA key for encryption.
    pub async fn fetch_public_key(mut self) -> Result<Self, ProviderError> {
        let der = self.requests.public_key(&self.key_arn.to_string(), KeyUsageType::EncryptDecrypt).await?;
        let public = PublicEncryptingKey::from_der(&der).map_err(|error| failed(GET_PUBLIC_KEY, &self, error))?;
        self.public = Some(public);
        Ok(self)
    }

    /// Sets the grant tokens, like [`AwsKms::with_grant_tokens`](super::AwsKms::with_grant_tokens).
    #[must_use]
    pub fn with_grant_tokens<T: Into<String>>(mut self, tokens: impl IntoIterator<Item = T>) -> Self {
        self.requests.grant_tokens = tokens.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the timeout of each request, like [`AwsKms::with_timeout`](super::AwsKms::with_timeout).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.requests.timeout = Some(timeout);
        self
    }

    fn check(&self, operation: &'static str, suite: AlgorithmSuite) -> Result<(), ProviderError> {
        match suite.signature() {
            None => Ok(()),
            Some(_) => {
                let why = "RSA keys in KMS cannot be used with algorithm suites that sign";
                Err(unsupported(operation, self, why))
            }
        }
    }

    fn wrap(&self, request: &EncryptDataKeyRequest<'_>) -> Result<EncryptedDataKey, ProviderError> {
        const OPERATION: &str = "Encrypt";
        let failed_with = |error: aws_lc_rs::error::Unspecified| failed(OPERATION, self, error);
        let public = self.public.clone();
        let public = public
            .ok_or_else(|| unsupported(OPERATION, self, "no public key is set; call AwsKmsRsa::fetch_public_key"))?;
        let oaep = self.padding.oaep().ok_or_else(|| failed(OPERATION, self, "its padding is not OAEP"))?;
        let digest = digest(self, OPERATION, request.backend, request.context)?;
        let plaintext = Zeroizing::new([&digest, request.data_key.expose()].concat());
        let mut ciphertext = vec![0; public.key_size_bytes()];
        let key = OaepPublicEncryptingKey::new(public).map_err(failed_with)?;
        key.encrypt(oaep, &plaintext, &mut ciphertext, None).map_err(failed_with)?;
        Ok(EncryptedDataKey::new(PROVIDER_ID, self.key_arn.to_string().into_bytes(), ciphertext))
    }

    async fn unwrap(
        &self,
        ciphertext: &[u8],
        request: &DecryptDataKeyRequest<'_>,
        deadline: Instant,
    ) -> Result<SecretKey, ProviderError> {
        let key_arn = self.key_arn.to_string();
        let plaintext = self.requests.decrypt_rsa(&key_arn, ciphertext, self.algorithm.clone(), deadline).await?;
        let expected = digest(self, "Decrypt", request.backend, request.context)?;
        let key = plaintext
            .split_at_checked(DIGEST_LEN)
            .filter(|(digest, key)| key.len() == request.suite.data_key_len() && bool::from(digest.ct_eq(&expected)));
        key.and_then(|(_, key)| SecretKey::try_from(key).ok()).ok_or_else(|| invalid_ciphertext(self))
    }
}

/// Returns the digest that binds a data key to its context, of [`DIGEST_LEN`] bytes.
fn digest(
    provider: &AwsKmsRsa,
    operation: &'static str,
    backend: Backend,
    context: &EncryptionContext,
) -> Result<Vec<u8>, ProviderError> {
    let mut digest = Digest::new(backend, HashAlgorithm::Sha384);
    digest.update(&context.serialize().map_err(|error| failed(operation, provider, error))?);
    Ok(digest.finish())
}

#[async_trait]
impl KeyProvider for AwsKmsRsa {
    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        self.check("Encrypt", request.suite)?;
        Ok(vec![self.wrap(request)?])
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        self.check("Decrypt", request.suite)?;
        let keys = request.encrypted_data_keys;
        let ours = (0..keys.len()).filter(|index| self.may_decrypt(&keys[*index]));
        let candidate = |index| {
            let (arn, algorithm) = (self.key_arn.clone(), Some(self.algorithm.clone()));
            Candidate { requests: &self.requests, arn, algorithm, index }
        };
        let outcomes = Outcomes::new(request);
        let tries = Tries::new(request, &outcomes, ours.map(candidate));
        tries
            .first_decrypted(self, |_, _, encrypted, deadline| self.unwrap(&encrypted.ciphertext, request, deadline))
            .await
    }

    fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
        encrypted.provider_id == PROVIDER_ID && encrypted.provider_info == self.key_arn.to_string().as_bytes()
    }

    fn check_fips(&self) -> Result<(), NotFips> {
        Ok(())
    }
}

/// Formats as the key's ARN.
impl fmt::Display for AwsKmsRsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key_arn.fmt(f)
    }
}

impl fmt::Debug for AwsKmsRsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsKmsRsa")
            .field("key_arn", &self.key_arn)
            .field("padding", &self.padding)
            .field("has_public_key", &self.public.is_some())
            .finish_non_exhaustive()
    }
}
