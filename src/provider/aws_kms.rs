//! Keys in AWS KMS: symmetric keys that the caller names, keys that messages name, RSA keys, and elliptic-curve keys.
//! Specification: `framework/aws-kms/aws-kms-keyring.md`, `aws-kms-mrk-keyring.md`, `aws-kms-multi-keyrings.md`.

mod arn;
mod discovery;
#[cfg(feature = "ecdh")]
mod ecdh;
mod error;
mod requests;
#[cfg(feature = "rsa")]
mod rsa;
mod tries;

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use aws_sdk_kms::{Client, types::EncryptionAlgorithmSpec};

use self::{
    arn::KeyId,
    requests::PROVIDER_ID,
    tries::{Candidate, Tries},
};
use super::{
    DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, GenerateDataKeyRequest, GeneratedDataKey,
    KeyProvider, MultiProvider, ProviderError, ProviderErrorKind, deadline_or_default, share,
};
use crate::{
    error::{ConfigError, NameReason, NotFips},
    message::EncryptedDataKey,
};
pub use discovery::AwsKmsDiscovery;
#[cfg(feature = "ecdh")]
pub use ecdh::AwsKmsEcdh;
pub use error::ResolveError;
#[cfg(feature = "rsa")]
pub use rsa::AwsKmsRsa;
pub(super) use {
    arn::{KeyArn, is_region},
    requests::Requests,
    tries::Outcomes,
};

/// A symmetric encryption key in AWS KMS, as a key provider.
///
/// ```no_run
/// use kms_envelope::{AwsKms, EncryptionContext, Envelope};
///
/// # async fn example(config: aws_sdk_kms::Config) -> Result<(), Box<dyn std::error::Error>> {
/// let client = aws_sdk_kms::Client::from_conf(config);
/// let key = AwsKms::resolve(client, "alias/invoices").await?;
/// let envelope = Envelope::new(key);
/// let sealed = envelope.seal(b"attack at dawn", &EncryptionContext::from([("tenant", "acme")])).await?;
/// # Ok(())
/// # }
/// ```
///
/// To seal messages under several keys, use [`AwsKms::multi`]. To open messages under any KMS key that they name, use
/// [`AwsKmsDiscovery`].
///
/// # KMS requests and permissions
/// | action | KMS request | permission on the key |
/// |---|---|---|
/// | seal a message | `GenerateDataKey` | `kms:GenerateDataKey` |
/// | seal a message under several keys: each key after the first | `Encrypt` | `kms:Encrypt` |
/// | open a message | `Decrypt` | `kms:Decrypt` |
/// | [rewrap](crate::Envelope::rewrap) a message: the new key | `Encrypt` | `kms:Encrypt` |
/// | [`resolve`](Self::resolve) an alias or a key id | `DescribeKey` | `kms:DescribeKey` |
///
/// All of these requests except `DescribeKey` include the encryption context. CloudTrail logs it, and key policies, IAM
/// policies and grants can [require it](https://docs.aws.amazon.com/kms/latest/developerguide/encrypt_context.html).
///
/// # Time limits and retries
/// You create the client, which determines the region, credentials, retries and timeouts: see
/// [`aws_sdk_kms`](https://docs.rs/aws-sdk-kms). In addition, all requests for one message share a deadline: 10 seconds
/// by default, or the time set with [`EnvelopeBuilder::key_timeout`](crate::EnvelopeBuilder::key_timeout). The client's
/// operation timeout or [`with_timeout`](Self::with_timeout) can limit each request further. Dropping the future of an
/// operation cancels its requests.
///
/// # Multi-region keys
/// A multi-region key opens messages that any of its replicas sealed. Add replicas with
/// [`with_replica`](Self::with_replica) to use other regions when the first one fails. Each region except the last gets
/// half of the remaining time.
///
/// # Limits for untrusted messages
/// A message can list many encrypted data keys for the same KMS key, although AWS's SDKs write only one. `AwsKms`
/// therefore limits the requests for each message:
///
/// - It tries at most [two](crate::Limits::tries_per_kms_key) encrypted data keys for one KMS key, not counting
///   requests that KMS throttled or did not respond to.
/// - It does not retry an encrypted data key in another region if KMS reports the ciphertext as invalid.
/// - It sends no further requests to a region that throttles or does not answer.
#[derive(Clone)]
pub struct AwsKms {
    /// The key in the first region, followed by its replicas, in the order in which they are used. Never empty.
    regions: Vec<(Requests, KeyArn)>,
}

impl AwsKms {
    /// Creates a provider from a key ARN, such as `arn:aws:kms:REGION:ACCOUNT:key/ID`. Sends no request.
    ///
    /// Messages store the key's ARN, so the provider needs the ARN to recognize its messages. To use an alias or a key
    /// id, call [`resolve`](Self::resolve).
    ///
    /// # Errors
    /// Returns [`ConfigError::KmsKeyId`] if `key_arn` is not a key ARN.
    pub fn new(client: Client, key_arn: impl Into<String>) -> Result<Self, ConfigError> {
        Ok(Self { regions: vec![(Requests::new(client), key_arn_of(key_arn)?)] })
    }

    /// Creates a provider from a key ARN, an alias ARN, an alias (`alias/NAME`) or a key id.
    ///
    /// A key ARN is used without a request. Any other identifier is looked up once, with a `DescribeKey` request. If
    /// the alias is later updated to point to a different key, this provider continues to use the old key.
    ///
    /// The request is limited to the client's operation timeout, or to 10 seconds if the client has none.
    ///
    /// # Errors
    /// Returns [`ResolveError::Config`] if `key_id` is not a valid identifier, and [`ResolveError::Provider`] if the
    /// lookup fails.
    pub async fn resolve(client: Client, key_id: impl Into<String>) -> Result<Self, ResolveError> {
        let key_id = key_id.into();
        let parsed = KeyId::parse(&key_id)
            .map_err(|why| ConfigError::KmsKeyId { key_id: key_id.clone(), reason: NameReason::Malformed(why) })?;
        match parsed {
            KeyId::Key(arn) => Ok(Self { regions: vec![(Requests::new(client), arn)] }),
            KeyId::Other => {
                let requests = Requests::new(client);
                let arn = requests.describe_key(&key_id).await?;
                Ok(Self { regions: vec![(requests, arn)] })
            }
        }
    }

    /// Creates a provider that seals each message under several keys, any one of which can open it.
    ///
    /// The keys can be in different regions and accounts. The first key generates the data keys. When a message is
    /// opened, the keys are tried in order, so list the nearest one first. `client` returns the client for a region; it
    /// is called once for each region.
    ///
    /// ```no_run
    /// use aws_sdk_kms::{Client, config::Region};
    /// use kms_envelope::{AwsKms, Envelope};
    ///
    /// # async fn example(config: aws_sdk_kms::Config) -> Result<(), Box<dyn std::error::Error>> {
    /// let keys = AwsKms::multi(
    ///     |region| Client::from_conf(config.to_builder().region(Region::new(region.to_owned())).build()),
    ///     [
    ///         "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    ///         "arn:aws:kms:us-east-1:111122223333:key/0987dcba-09fe-87dc-65ba-ab0987654321",
    ///     ],
    /// )?;
    /// let envelope = Envelope::new(keys);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ConfigError::KmsKeyId`] if an item of `key_arns` is not a key ARN, and [`ConfigError::KmsKeys`] if
    /// `key_arns` is empty or contains the same key twice. Replicas of a multi-region key count as the same key; use
    /// [`with_replica`](Self::with_replica) for them.
    pub fn multi<A: Into<String>>(
        client: impl Fn(&str) -> Client,
        key_arns: impl IntoIterator<Item = A>,
    ) -> Result<MultiProvider<Self>, ConfigError> {
        let arns = key_arns.into_iter().map(key_arn_of).collect::<Result<Vec<_>, _>>()?;
        let is_duplicate = |arn: &&KeyArn| arns.iter().filter(|other| other.decrypts(arn)).count() > 1;
        let duplicates: Vec<_> = arns.iter().filter(is_duplicate).map(KeyArn::to_string).collect();
        if arns.is_empty() {
            return Err(ConfigError::KmsKeys { why: "no key was specified".into() });
        }
        if !duplicates.is_empty() {
            let why = format!("these ARNs name the same key; keep only one of them: {}", duplicates.join(", "));
            return Err(ConfigError::KmsKeys { why });
        }
        let mut regions: HashMap<String, Requests> = HashMap::new();
        let key = |arn: KeyArn| {
            let requests = regions.entry(arn.region.clone()).or_insert_with(|| Requests::new(client(&arn.region)));
            Self { regions: vec![(requests.clone(), arn)] }
        };
        Ok(MultiProvider { providers: arns.into_iter().map(key).collect() })
    }

    /// Adds the replica of this multi-region key in another region. `client` must be a client for that region.
    ///
    /// Replicas are used in the order in which they were added, each one after the key has failed in every region
    /// before it. This applies to sealing and opening.
    ///
    /// ```no_run
    /// use aws_sdk_kms::Client;
    /// use kms_envelope::{AwsKms, Envelope};
    ///
    /// # fn example(ireland: Client, virginia: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let arn = "arn:aws:kms:eu-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab";
    /// let key = AwsKms::new(ireland, arn)?.with_replica(virginia, "us-east-1")?;
    /// let envelope = Envelope::new(key);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ConfigError::KmsKeys`] if the key is not a multi-region key, if `region` is not a valid name, or if
    /// the provider already has a key in that region.
    pub fn with_replica(mut self, client: Client, region: &str) -> Result<Self, ConfigError> {
        let (first, arn) = self.nearest();
        let refused = |why: &str| Err(ConfigError::KmsKeys { why: format!("{arn}: {why}") });
        if !arn.is_multi_region() {
            return refused("only multi-region keys, whose ids start with \"mrk-\", have replicas");
        }
        if !is_region(region) {
            return refused("the region of the replica is not a valid region name");
        }
        if self.regions.iter().any(|(_, arn)| arn.region == region) {
            return refused("the region of the replica has already been added");
        }
        let Requests { grant_tokens, timeout, .. } = first.clone();
        let requests = Requests { grant_tokens, timeout, ..Requests::new(client) };
        let replica = (requests, arn.in_region(region));
        self.regions.push(replica);
        Ok(self)
    }

    /// Sets the [grant tokens](https://docs.aws.amazon.com/kms/latest/developerguide/using-grant-token.html) to send
    /// with every request.
    #[must_use]
    pub fn with_grant_tokens<T: Into<String>>(mut self, tokens: impl IntoIterator<Item = T>) -> Self {
        let tokens: Vec<_> = tokens.into_iter().map(Into::into).collect();
        self.regions.iter_mut().for_each(|(requests, _)| requests.grant_tokens.clone_from(&tokens));
        self
    }

    /// Sets the total timeout of each request, retries included. Default: the client's operation timeout, if it has
    /// one.
    ///
    /// A request that exceeds it fails with [`TimedOut`](ProviderErrorKind::TimedOut), and the next region is tried if
    /// there is one. The deadline for all requests for one message still applies.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.regions.iter_mut().for_each(|(requests, _)| requests.timeout = Some(timeout));
        self
    }

    /// Returns the ARN of the key in the first region.
    pub fn key_arn(&self) -> String {
        self.nearest().1.to_string()
    }

    fn nearest(&self) -> &(Requests, KeyArn) {
        &self.regions[0]
    }

    /// Iterates over the regions in order. Each item has the key's ARN, and a deadline that is computed when the
    /// iterator reaches the region.
    fn in_order(&self, deadline: Option<Instant>) -> impl Iterator<Item = (&Requests, String, Instant)> {
        let deadline = deadline_or_default(deadline);
        let regions = self.regions.iter().enumerate();
        regions.map(move |(index, (requests, arn))| {
            (requests, arn.to_string(), share(deadline, index + 1 == self.regions.len()))
        })
    }
}

/// Settings for all keys of a provider created with [`AwsKms::multi`].
impl MultiProvider<AwsKms> {
    /// Sets the grant tokens of every key, like [`AwsKms::with_grant_tokens`].
    #[must_use]
    pub fn with_grant_tokens<T: Into<String>>(mut self, tokens: impl IntoIterator<Item = T>) -> Self {
        let tokens: Vec<String> = tokens.into_iter().map(Into::into).collect();
        self.providers = self.providers.into_iter().map(|key| key.with_grant_tokens(tokens.clone())).collect();
        self
    }

    /// Sets the timeout of each request of every key, like [`AwsKms::with_timeout`]. When a message is opened and a
    /// request exceeds it, the next key is tried.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.providers = self.providers.into_iter().map(|key| key.with_timeout(timeout)).collect();
        self
    }
}

pub(super) fn key_arn_of(text: impl Into<String>) -> Result<KeyArn, ConfigError> {
    let text = text.into();
    KeyArn::parse(&text).map_err(|reason| ConfigError::KmsKeyId { key_id: text, reason })
}

/// Returns the KMS key that an encrypted data key names.
fn key_of(encrypted: &EncryptedDataKey) -> Option<KeyArn> {
    let arn = std::str::from_utf8(&encrypted.provider_info).ok()?;
    if encrypted.provider_id == PROVIDER_ID { KeyArn::parse(arn).ok() } else { None }
}

/// Returns the error to report when every region has failed.
fn all_failed(operation: &'static str, key_id: &AwsKms, mut attempts: Vec<ProviderError>) -> ProviderError {
    match attempts.pop() {
        Some(only) if attempts.is_empty() => only,
        last => {
            attempts.extend(last);
            ProviderError::new(ProviderErrorKind::AllRegionsFailed, operation, key_id.to_string())
                .with_attempts(attempts)
        }
    }
}

#[async_trait]
impl KeyProvider for AwsKms {
    async fn generate_data_key(&self, request: &GenerateDataKeyRequest<'_>) -> Result<GeneratedDataKey, ProviderError> {
        let mut attempts = Vec::new();
        for (requests, arn, deadline) in self.in_order(request.deadline) {
            let len = request.suite.data_key_len();
            match requests.generate_data_key(&arn, len, request.context, deadline).await {
                Ok((plaintext, encrypted)) => {
                    return Ok(GeneratedDataKey { plaintext, encrypted_data_keys: vec![encrypted] });
                }
                Err(error) => attempts.push(error),
            }
        }
        Err(all_failed("GenerateDataKey", self, attempts))
    }

    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        let mut attempts = Vec::new();
        for (requests, arn, deadline) in self.in_order(request.deadline) {
            match requests.encrypt(&arn, request.data_key, request.context, deadline).await {
                Ok(encrypted) => return Ok(vec![encrypted]),
                Err(error) => attempts.push(error),
            }
        }
        Err(all_failed("Encrypt", self, attempts))
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        let keys: Vec<_> = request.encrypted_data_keys.iter().map(key_of).collect();
        let mut candidates = Vec::new();
        for (requests, arn) in &self.regions {
            let is_ours = |key: &KeyArn| arn.decrypts(key);
            let ours = (0..keys.len()).filter(|index| keys[*index].as_ref().is_some_and(is_ours));
            candidates.extend(ours.map(|index| (requests, arn.clone(), index)));
        }
        first_decrypted(request, self, candidates).await
    }

    fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
        key_of(encrypted).is_some_and(|key| self.regions.iter().any(|(_, arn)| arn.decrypts(&key)))
    }

    fn check_fips(&self) -> Result<(), NotFips> {
        Ok(())
    }
}

/// Tries the candidates in order until one succeeds.
async fn first_decrypted(
    request: &DecryptDataKeyRequest<'_>,
    provider: &impl fmt::Display,
    candidates: Vec<(&Requests, KeyArn, usize)>,
) -> Result<DecryptedDataKey, ProviderError> {
    let len = request.suite.data_key_len();
    let algorithm = Some(EncryptionAlgorithmSpec::SymmetricDefault);
    let candidate = |(requests, arn, index)| Candidate { requests, arn, algorithm: algorithm.clone(), index };
    let outcomes = Outcomes::new(request);
    let tries = Tries::new(request, &outcomes, candidates.into_iter().map(candidate));
    tries
        .first_decrypted(provider, async |requests, key_arn, encrypted, deadline| {
            requests.decrypt(&key_arn, &encrypted.ciphertext, len, request.context, deadline).await
        })
        .await
}

/// Formats as the key's ARN followed by the ARNs of its replicas, separated by commas.
impl fmt::Display for AwsKms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arns: Vec<_> = self.regions.iter().map(|(_, arn)| arn.to_string()).collect();
        f.write_str(&arns.join(", "))
    }
}

impl fmt::Debug for AwsKms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AwsKms({self})")
    }
}
