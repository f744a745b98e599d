//! Opening under keys that nobody has named but the message.

use std::{collections::BTreeSet, fmt, time::Duration};

use async_trait::async_trait;
use aws_sdk_kms::Client;

use super::{Requests, arn::KeyArn, first_decrypted, key_of};
use crate::{
    error::ConfigError,
    message::EncryptedDataKey,
    provider::{
        DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, GenerateDataKeyRequest, GeneratedDataKey,
        KeyProvider, ProviderError, unsupported,
    },
};

/// Opens under whatever KMS keys a message names, as far as the caller may use them: for readers of what others have
/// sealed. It does not seal.
///
/// The regions are asked in their order, so name the nearest first: each for the encrypted data keys of its own keys,
/// and for those of multi-region keys, wherever those were sealed. When one fails, the next one is asked. The deadline
/// and the limits on tries are those of [`AwsKms`](super::AwsKms). A message from a stranger makes requests with keys
/// of the stranger's choice; [`with_filter`](Self::with_filter) says whose keys it may be.
///
/// ```no_run
/// use aws_sdk_kms::{Client, config::Region};
/// use kms_envelope::{Envelope, provider::AwsKmsDiscovery};
///
/// # async fn example(config: aws_sdk_kms::Config) -> Result<(), Box<dyn std::error::Error>> {
/// let keys = AwsKmsDiscovery::new(
///     |region| Client::from_conf(config.to_builder().region(Region::new(region.to_owned())).build()),
///     ["eu-west-1", "us-east-1"],
/// )?
/// .with_filter("aws", ["111122223333"]);
/// let envelope = Envelope::new(keys);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct AwsKmsDiscovery {
    regions: Vec<(Requests, String)>,
    /// A partition, and the accounts in it.
    filter: Option<(String, BTreeSet<String>)>,
}

impl AwsKmsDiscovery {
    /// In these regions. `client` gives the client for each.
    ///
    /// # Errors
    /// [`ConfigError::KmsKeys`] where there is no region, or one twice.
    pub fn new<R: Into<String>>(
        client: impl Fn(&str) -> Client,
        regions: impl IntoIterator<Item = R>,
    ) -> Result<Self, ConfigError> {
        let regions: Vec<String> = regions.into_iter().map(Into::into).collect();
        let unique: BTreeSet<_> = regions.iter().filter(|region| !region.is_empty()).collect();
        if regions.is_empty() || unique.len() < regions.len() {
            let why = format!("name one region or more, each once, not {regions:?}");
            return Err(ConfigError::KmsKeys { why });
        }
        let regions = regions.into_iter().map(|region| (Requests::new(client(&region)), region)).collect();
        Ok(Self { regions, filter: None })
    }

    /// Only under keys of this partition (`aws`, `aws-cn`, ...) and these accounts. Others are left alone.
    #[must_use]
    pub fn with_filter<A: Into<String>>(
        mut self,
        partition: impl Into<String>,
        accounts: impl IntoIterator<Item = A>,
    ) -> Self {
        self.filter = Some((partition.into(), accounts.into_iter().map(Into::into).collect()));
        self
    }

    /// As [`AwsKms::with_grant_tokens`](super::AwsKms::with_grant_tokens).
    #[must_use]
    pub fn with_grant_tokens<T: Into<String>>(mut self, tokens: impl IntoIterator<Item = T>) -> Self {
        let tokens: Vec<_> = tokens.into_iter().map(Into::into).collect();
        self.regions.iter_mut().for_each(|(requests, _)| requests.grant_tokens.clone_from(&tokens));
        self
    }

    /// As [`AwsKms::with_timeout`](super::AwsKms::with_timeout).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.regions.iter_mut().for_each(|(requests, _)| requests.timeout = Some(timeout));
        self
    }

    fn passes(&self, arn: &KeyArn) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|(partition, accounts)| arn.partition == *partition && accounts.contains(&arn.account))
    }

    fn does_not_seal(&self, operation: &'static str) -> ProviderError {
        let why = "it opens under keys that messages name; seal with AwsKms, which names one";
        unsupported(operation, self, why)
    }
}

/// Whether a region has this key, or may have its replica.
fn is_in(arn: &KeyArn, region: &str) -> bool {
    arn.region == region || arn.is_multi_region()
}

#[async_trait]
impl KeyProvider for AwsKmsDiscovery {
    async fn generate_data_key(&self, _: &GenerateDataKeyRequest<'_>) -> Result<GeneratedDataKey, ProviderError> {
        Err(self.does_not_seal("GenerateDataKey"))
    }

    async fn encrypt_data_key(&self, _: &EncryptDataKeyRequest<'_>) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        Err(self.does_not_seal("Encrypt"))
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        let mut keys = Vec::new();
        for (index, encrypted) in request.encrypted_data_keys.iter().enumerate() {
            keys.extend(key_of(encrypted).filter(|arn| self.passes(arn)).map(|arn| (index, arn)));
        }
        let mut candidates = Vec::new();
        for (requests, region) in &self.regions {
            let here = keys.iter().filter(|(_, arn)| is_in(arn, region));
            candidates.extend(here.map(|(index, arn)| (requests, arn.in_region(region), *index)));
        }
        first_decrypted(request, self, candidates).await
    }

    fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
        key_of(encrypted)
            .is_some_and(|arn| self.passes(&arn) && self.regions.iter().any(|(_, region)| is_in(&arn, region)))
    }
}

/// `any KMS key in REGION, REGION`, with the filter.
impl fmt::Display for AwsKmsDiscovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let regions: Vec<_> = self.regions.iter().map(|(_, region)| &region[..]).collect();
        write!(f, "any KMS key in {}", regions.join(", "))?;
        if let Some((partition, accounts)) = &self.filter {
            let accounts: Vec<_> = accounts.iter().map(String::as_str).collect();
            write!(f, " of partition {partition} and accounts {}", accounts.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Debug for AwsKmsDiscovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AwsKmsDiscovery({self})")
    }
}
