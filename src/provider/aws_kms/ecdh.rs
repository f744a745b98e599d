//! Elliptic-curve keys in AWS KMS: KMS computes the shared secrets, which encrypt data keys in this process.
//! Specification: `framework/aws-kms/aws-kms-ecdh-keyring.md`.

use std::{
    fmt,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use aws_sdk_kms::{Client, types::KeyUsageType};
use zeroize::Zeroizing;

use super::{
    Candidate, KeyArn, Outcomes, Requests, ResolveError, Tries, deadline_or_default, key_arn_of,
    requests::GET_PUBLIC_KEY,
};
use crate::{
    crypto::SecretKey,
    error::{ConfigError, NotFips},
    message::EncryptedDataKey,
    provider::{
        DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, KeyProvider, ProviderError,
        ProviderErrorKind as Kind,
        ecdh::{Agreement, EcdhPublicKey, KMS_PROVIDER_ID, Wrapped, check_curves},
        failed, invalid_ciphertext, unsupported,
    },
};

/// An elliptic-curve key for key agreement in AWS KMS, as a key provider. It encrypts data keys under a secret shared by
/// a sender and a recipient, like [`RawEcdh`](crate::provider::RawEcdh), but the private key never leaves KMS.
///
/// Anyone who has the recipient's public key can seal messages for the recipient, without KMS. The recipient opens them
/// with a KMS key:
///
/// ```no_run
/// use aws_sdk_kms::Client;
/// use kms_envelope::{Envelope, provider::{AwsKmsEcdh, EcdhPublicKey, RawEcdh}};
///
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// // To seal:
/// let recipient = EcdhPublicKey::from_pem(&std::fs::read_to_string("recipient-public.pem")?)?;
/// let sealing = Envelope::new(RawEcdh::ephemeral(recipient));
///
/// // To open:
/// let arn = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
/// let public_key = AwsKmsEcdh::fetch_public_key(client.clone(), arn).await?;
/// let opening = Envelope::new(AwsKmsEcdh::discovery(client, arn, public_key)?);
/// # Ok(())
/// # }
/// ```
///
/// The KMS key must have the usage `KEY_AGREEMENT` and the key spec `ECC_NIST_P256`, `ECC_NIST_P384` or
/// `ECC_NIST_P521`.
///
/// `AwsKmsEcdh` is compatible with the AWS KMS ECDH keyring of AWS's SDKs and supports its two key agreement schemes. It
/// also opens messages that [`RawEcdh`](crate::provider::RawEcdh) has sealed for the KMS key, and the other way round.
///
/// # KMS requests and permissions
/// | action | KMS request | permission on the key |
/// |---|---|---|
/// | seal a message | `DeriveSharedSecret` | `kms:DeriveSharedSecret` |
/// | open a message | `DeriveSharedSecret` | `kms:DeriveSharedSecret` |
/// | [`fetch_public_key`](Self::fetch_public_key) | `GetPublicKey` | `kms:GetPublicKey` |
///
/// The encrypted data key is bound to the encryption context, but the context is not sent to KMS. Policies cannot
/// require it, and CloudTrail does not show it.
///
/// The time limits, and the limits for untrusted messages, are those of [`AwsKms`](super::AwsKms).
#[derive(Clone)]
pub struct AwsKmsEcdh {
    requests: Requests,
    key_arn: KeyArn,
    public: EcdhPublicKey,
    /// The other party's public key. `None` if the provider opens messages of any sender.
    other: Option<EcdhPublicKey>,
}

impl AwsKmsEcdh {
    /// Creates a provider that opens messages that any sender sealed for this KMS key. It cannot seal messages. Sends
    /// no request.
    ///
    /// `public_key` is the KMS key's own public key: see [`fetch_public_key`](Self::fetch_public_key).
    ///
    /// Anyone who has the public key can be the sender. An opened message does not prove who sealed it.
    ///
    /// # Errors
    /// Returns [`ConfigError::KmsKeyId`] if `key_arn` is not a key ARN.
    pub fn discovery(
        client: Client,
        key_arn: impl Into<String>,
        public_key: EcdhPublicKey,
    ) -> Result<Self, ConfigError> {
        Ok(Self { requests: Requests::new(client), key_arn: key_arn_of(key_arn)?, public: public_key, other: None })
    }

    /// Creates a provider for two parties: this party's private key is in KMS, and `other` is the other party's public
    /// key. Sends no request.
    ///
    /// It seals messages for the other party, and opens messages that either party has sealed for the other. The other
    /// party can use `AwsKmsEcdh` or [`RawEcdh`](crate::provider::RawEcdh).
    ///
    /// `public_key` is the KMS key's own public key: see [`fetch_public_key`](Self::fetch_public_key). If it is another
    /// one, the other party cannot open the messages.
    ///
    /// All messages between two parties have the same shared secret. KMS reveals it to each caller with the permission
    /// `kms:DeriveSharedSecret`, who can keep it after the permission is withdrawn.
    ///
    /// ```no_run
    /// use aws_sdk_kms::Client;
    /// use kms_envelope::{Envelope, provider::{AwsKmsEcdh, EcdhPublicKey}};
    ///
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let arn = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
    /// let public_key = AwsKmsEcdh::fetch_public_key(client.clone(), arn).await?;
    /// let partner = EcdhPublicKey::from_pem(&std::fs::read_to_string("partner-public.pem")?)?;
    /// let envelope = Envelope::new(AwsKmsEcdh::static_keys(client, arn, public_key, partner)?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ConfigError::KmsKeyId`] if `key_arn` is not a key ARN, and [`ConfigError::Pem`] if the keys are on
    /// different curves.
    pub fn static_keys(
        client: Client,
        key_arn: impl Into<String>,
        public_key: EcdhPublicKey,
        other: EcdhPublicKey,
    ) -> Result<Self, ConfigError> {
        check_curves(&public_key, &other)?;
        Ok(Self { other: Some(other), ..Self::discovery(client, key_arn, public_key)? })
    }

    /// Gets the public key of a KMS key. Sends one `GetPublicKey` request, which needs the permission
    /// `kms:GetPublicKey`.
    ///
    /// The request is limited to the client's operation timeout, or to 10 seconds if the client has none. The public key
    /// of a KMS key never changes, so you can also store it with the configuration, as PEM for
    /// [`EcdhPublicKey::from_pem`].
    ///
    /// # Errors
    /// Returns [`ResolveError::Config`] if `key_arn` is not a key ARN, and [`ResolveError::Provider`] if the request
    /// fails, or if the key is not for key agreement on P-256, P-384 or P-521.
    pub async fn fetch_public_key(client: Client, key_arn: impl Into<String>) -> Result<EcdhPublicKey, ResolveError> {
        Self::fetch_public_key_with_grant_tokens(client, key_arn, [""; 0]).await
    }

    /// Like [`fetch_public_key`](Self::fetch_public_key), but sends grant tokens with the request, like those of
    /// [`with_grant_tokens`](Self::with_grant_tokens).
    ///
    /// # Errors
    /// Same as [`fetch_public_key`](Self::fetch_public_key).
    pub async fn fetch_public_key_with_grant_tokens<T: Into<String>>(
        client: Client,
        key_arn: impl Into<String>,
        tokens: impl IntoIterator<Item = T>,
    ) -> Result<EcdhPublicKey, ResolveError> {
        let key_arn = key_arn_of(key_arn)?.to_string();
        let grant_tokens = tokens.into_iter().map(Into::into).collect();
        let requests = Requests { grant_tokens, ..Requests::new(client) };
        let der = requests.public_key(&key_arn, KeyUsageType::KeyAgreement).await?;
        Ok(EcdhPublicKey::from_der(&der).map_err(|error| {
            ProviderError::new(Kind::KeyUnusable, GET_PUBLIC_KEY, key_arn).with_detail(error.to_string())
        })?)
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

    /// Returns the secret that KMS computes from the private key and the other party's public key in DER.
    async fn agree(&self, theirs: Vec<u8>, deadline: Instant) -> Result<Zeroizing<Vec<u8>>, ProviderError> {
        let len = self.public.curve.scalar_len();
        self.requests.shared_secret(&self.key_arn.to_string(), theirs, len, deadline).await
    }

    async fn wrap(&self, request: &EncryptDataKeyRequest<'_>) -> Result<EncryptedDataKey, ProviderError> {
        let other = self.other.as_ref().ok_or_else(|| {
            let why = "AwsKmsEcdh::discovery has no recipient; seal with AwsKmsEcdh::static_keys or RawEcdh::ephemeral";
            unsupported("Encrypt", self, why)
        })?;
        let agreement = Agreement::to_seal(&self.public, other);
        let theirs = agreement.theirs_in_der(request.backend);
        let theirs = theirs.ok_or_else(|| failed("Encrypt", self, "the backend rejects a key"))?;
        let shared = self.agree(theirs, deadline_or_default(request.deadline)).await?;
        agreement.wrap(self, KMS_PROVIDER_ID, &shared, request)
    }

    fn to_open(&self, encrypted: &EncryptedDataKey) -> Option<Agreement> {
        Agreement::to_open(encrypted, &self.public, self.other.as_ref())
    }

    async fn unwrap(
        &self,
        encrypted: &EncryptedDataKey,
        context: &[u8],
        request: &DecryptDataKeyRequest<'_>,
        deadline: Instant,
    ) -> Result<SecretKey, ProviderError> {
        let invalid = || invalid_ciphertext(self);
        let agreement = self.to_open(encrypted).ok_or_else(invalid)?;
        let wrapped = Wrapped::parse(&encrypted.ciphertext, request.suite).ok_or_else(invalid)?;
        let theirs = agreement.theirs_in_der(request.backend).ok_or_else(invalid)?;
        let shared = self.agree(theirs, deadline).await?;
        agreement.unwrap(request.backend, &shared, context, &wrapped, request.suite).ok_or_else(invalid)
    }
}

#[async_trait]
impl KeyProvider for AwsKmsEcdh {
    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        Ok(vec![self.wrap(request).await?])
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        let context = request.context.serialize().map_err(|error| failed("Decrypt", self, error))?;
        let keys = request.encrypted_data_keys;
        let ours = (0..keys.len()).filter(|index| self.may_decrypt(&keys[*index]));
        let candidate =
            |index| Candidate { requests: &self.requests, arn: self.key_arn.clone(), algorithm: None, index };
        let outcomes = Outcomes::new(request);
        let tries = Tries::new(request, &outcomes, ours.map(candidate));
        tries
            .first_decrypted(self, |_, _, encrypted, deadline| self.unwrap(encrypted, &context, request, deadline))
            .await
    }

    fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
        self.to_open(encrypted).is_some()
    }

    fn check_fips(&self) -> Result<(), NotFips> {
        Ok(())
    }
}

/// Formats as the key's ARN.
impl fmt::Display for AwsKmsEcdh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key_arn.fmt(f)
    }
}

impl fmt::Debug for AwsKmsEcdh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsKmsEcdh")
            .field("key_arn", &self.key_arn)
            .field("public_key", &self.public)
            .field("other", &self.other)
            .finish_non_exhaustive()
    }
}
