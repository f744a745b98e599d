//! AWS KMS: symmetric keys named by the caller, keys found by what a message says, RSA keys. Specification:
//! `framework/aws-kms/aws-kms-keyring.md`, `aws-kms-mrk-keyring.md`, `aws-kms-multi-keyrings.md`.

mod arn;
mod discovery;
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
    arn::{KeyArn, KeyId},
    requests::{PROVIDER_ID, Requests},
    tries::{Candidate, Tries, Try},
};
use super::{
    DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, GenerateDataKeyRequest, GeneratedDataKey,
    KeyProvider, MultiProvider, ProviderError, ProviderErrorKind, deadline_or_default, share,
};
use crate::{
    error::{ConfigError, NameReason},
    message::EncryptedDataKey,
};
pub use discovery::AwsKmsDiscovery;
pub use error::ResolveError;
#[cfg(feature = "rsa")]
pub use rsa::AwsKmsRsa;
pub(super) use tries::Learnt;

/// A symmetric encryption key in AWS KMS as key provider.
///
/// The client is the caller's: its region, credentials, retries and time-outs are those of
/// [`aws_sdk_kms`](https://docs.rs/aws-sdk-kms). All requests for one message share one deadline: 10 seconds, unless
/// [`EnvelopeBuilder::key_timeout`](crate::EnvelopeBuilder::key_timeout) sets another. The client's operation time-out
/// or [`with_timeout`](Self::with_timeout) can limit a single request further. A request whose caller is cancelled is
/// given up. The encryption context goes to KMS with every call, where it can be logged and made a condition of access.
///
/// Sealing needs the permission `kms:GenerateDataKey`, opening `kms:Decrypt`, being the new key of a rewrapped
/// message or one of several keys `kms:Encrypt`, and [`resolve`](Self::resolve) of anything but a key ARN
/// `kms:DescribeKey`.
///
/// A multi-region key opens what any of its replicas has sealed. With [`with_replica`](Self::with_replica), other
/// regions stand in for the first one when that fails. Each region but the last gets half of the time that is left.
///
/// Of a message's encrypted data keys that name this key, at most [two](crate::Limits::tries_per_kms_key) that KMS
/// answers for are tried; AWS's writers make one. One that KMS calls invalid is not tried in another region. A region
/// that throttles or does not answer is not asked again for that message.
///
/// For messages under several keys, see [`multi`](Self::multi); for opening under keys that the messages name,
/// [`AwsKmsDiscovery`].
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
#[derive(Clone)]
pub struct AwsKms {
    /// The key in one region, and its replicas in others, in the order in which they are asked. There is one.
    regions: Vec<(Requests, KeyArn)>,
}

impl AwsKms {
    /// The key with this ARN: `arn:aws:kms:REGION:ACCOUNT:key/ID`. Makes no request.
    ///
    /// A message names its key by ARN, so only an ARN finds it again. For an alias or a bare key id, there is
    /// [`resolve`](Self::resolve).
    ///
    /// # Errors
    /// [`ConfigError::KmsKeyId`] where `key_arn` is not the ARN of a key.
    pub fn new(client: Client, key_arn: impl Into<String>) -> Result<Self, ConfigError> {
        Ok(Self { regions: vec![(Requests::new(client), key_arn_of(key_arn)?)] })
    }

    /// The key that this identifier stands for now: a key ARN, an alias ARN, an alias (`alias/NAME`) or a bare key
    /// id. Anything but a key ARN is looked up, once, by DescribeKey; an alias that is pointed at another key later
    /// has no effect on this value.
    ///
    /// # Errors
    /// [`ResolveError::Config`] where `key_id` is none of these, [`ResolveError::Provider`] where the look-up fails.
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

    /// Several keys, of any regions and accounts: each message is sealed under all of them, and any of them opens it.
    /// The first one makes the data keys; on opening they are asked in this order, so name the nearest first.
    ///
    /// `client` gives the client for a region, and is asked once for each.
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
    /// [`ConfigError::KmsKeyId`] where one is not the ARN of a key, [`ConfigError::KmsKeys`] where there is none, and
    /// where some are the same key or replicas of the same multi-region key, for which there is
    /// [`with_replica`](Self::with_replica).
    pub fn multi<A: Into<String>>(
        client: impl Fn(&str) -> Client,
        key_arns: impl IntoIterator<Item = A>,
    ) -> Result<MultiProvider<Self>, ConfigError> {
        let arns = key_arns.into_iter().map(key_arn_of).collect::<Result<Vec<_>, _>>()?;
        let is_double = |arn: &&KeyArn| arns.iter().filter(|other| other.decrypts(arn)).count() > 1;
        let double: Vec<_> = arns.iter().filter(is_double).map(KeyArn::to_string).collect();
        if arns.is_empty() {
            return Err(ConfigError::KmsKeys { why: "there are none".into() });
        }
        if !double.is_empty() {
            let why = format!("these are one key, and one of them is enough: {}", double.join(", "));
            return Err(ConfigError::KmsKeys { why });
        }
        let mut regions: HashMap<String, Requests> = HashMap::new();
        let key = |arn: KeyArn| {
            let requests = regions.entry(arn.region.clone()).or_insert_with(|| Requests::new(client(&arn.region)));
            Self { regions: vec![(requests.clone(), arn)] }
        };
        Ok(MultiProvider { providers: arns.into_iter().map(key).collect() })
    }

    /// With the replica of this multi-region key in another region, which `client` is for: it is asked, for sealing and
    /// for opening, when those before it have failed.
    ///
    /// # Errors
    /// [`ConfigError::KmsKeys`] where the key is not a multi-region key, or the region is there already or no name.
    pub fn with_replica(mut self, client: Client, region: &str) -> Result<Self, ConfigError> {
        let (first, arn) = self.nearest();
        let refused = |why: &str| Err(ConfigError::KmsKeys { why: format!("{arn}: {why}") });
        if !arn.is_multi_region() {
            return refused("only multi-region keys have replicas; their ids begin with mrk-");
        }
        if region.is_empty() || region.contains(':') {
            return refused("the region of the replica is not the name of one");
        }
        if self.regions.iter().any(|(_, arn)| arn.region == region) {
            return refused("this region is there already");
        }
        let Requests { grant_tokens, timeout, .. } = first.clone();
        let requests = Requests { grant_tokens, timeout, ..Requests::new(client) };
        let replica = (requests, arn.in_region(region));
        self.regions.push(replica);
        Ok(self)
    }

    /// Sends these grant tokens with every request.
    #[must_use]
    pub fn with_grant_tokens<T: Into<String>>(mut self, tokens: impl IntoIterator<Item = T>) -> Self {
        let tokens: Vec<_> = tokens.into_iter().map(Into::into).collect();
        self.regions.iter_mut().for_each(|(requests, _)| requests.grant_tokens.clone_from(&tokens));
        self
    }

    /// Sets the total timeout of a single request, retries included. After it, the request fails with
    /// [`TimedOut`](ProviderErrorKind::TimedOut), and the next region is asked if there is one. Default: the client's operation
    /// time-out, if it has one. The deadline for all requests for a message holds as well.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.regions.iter_mut().for_each(|(requests, _)| requests.timeout = Some(timeout));
        self
    }

    /// The key's ARN, in the region that is asked first.
    pub fn key_arn(&self) -> String {
        self.nearest().1.to_string()
    }

    fn nearest(&self) -> &(Requests, KeyArn) {
        &self.regions[0]
    }

    /// The regions in order, each with the key's ARN and the deadline that is the region's when its turn comes.
    fn in_order(&self, deadline: Option<Instant>) -> impl Iterator<Item = (&Requests, String, Instant)> {
        let deadline = deadline_or_default(deadline);
        let regions = self.regions.iter().enumerate();
        regions.map(move |(at, (requests, arn))| {
            (requests, arn.to_string(), share(deadline, at + 1 == self.regions.len()))
        })
    }
}

/// Made by [`AwsKms::multi`].
impl MultiProvider<AwsKms> {
    /// As [`AwsKms::with_grant_tokens`], for each of the keys.
    #[must_use]
    pub fn with_grant_tokens<T: Into<String>>(mut self, tokens: impl IntoIterator<Item = T>) -> Self {
        let tokens: Vec<String> = tokens.into_iter().map(Into::into).collect();
        self.providers = self.providers.into_iter().map(|key| key.with_grant_tokens(tokens.clone())).collect();
        self
    }

    /// As [`AwsKms::with_timeout`], for each of the keys: on opening, the next one is asked then.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.providers = self.providers.into_iter().map(|key| key.with_timeout(timeout)).collect();
        self
    }
}

fn key_arn_of(text: impl Into<String>) -> Result<KeyArn, ConfigError> {
    let text = text.into();
    KeyArn::parse(&text).map_err(|reason| ConfigError::KmsKeyId { key_id: text, reason })
}

/// The key that an encrypted data key of AWS KMS is for.
fn key_of(encrypted: &EncryptedDataKey) -> Option<KeyArn> {
    let arn = std::str::from_utf8(&encrypted.provider_info).ok()?;
    if encrypted.provider_id == PROVIDER_ID { KeyArn::parse(arn).ok() } else { None }
}

/// The error where every region has failed.
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
}

/// Tries these, until one succeeds.
async fn first_decrypted(
    request: &DecryptDataKeyRequest<'_>,
    provider: &impl fmt::Display,
    candidates: Vec<(&Requests, KeyArn, usize)>,
) -> Result<DecryptedDataKey, ProviderError> {
    let len = request.suite.data_key_len();
    let algorithm = EncryptionAlgorithmSpec::SymmetricDefault;
    let candidate = |(requests, arn, index)| Candidate { requests, arn, algorithm: algorithm.clone(), index };
    let learnt = Learnt::new(request);
    let mut tries = Tries::new(request, &learnt, candidates.into_iter().map(candidate));
    while let Some(Try { candidate, encrypted, deadline }) = tries.next() {
        let key_id = candidate.arn.to_string();
        match candidate.requests.decrypt(&key_id, &encrypted.ciphertext, len, request.context, deadline).await {
            Ok(key) => return Ok(DecryptedDataKey { plaintext: key, index: candidate.index, key_id }),
            Err(error) => tries.failed(candidate, error),
        }
    }
    Err(tries.into_error(provider))
}

/// The key's ARN, and those of its replicas.
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
