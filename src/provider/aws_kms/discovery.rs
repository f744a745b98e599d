//! Opens messages under the KMS keys that they name.

use std::{collections::BTreeSet, fmt, time::Duration};

use async_trait::async_trait;
use aws_sdk_kms::Client;

use super::{Requests, arn::KeyArn, first_decrypted, key_of};
use crate::{
    error::{ConfigError, NotFips},
    message::EncryptedDataKey,
    provider::{
        DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, GenerateDataKeyRequest, GeneratedDataKey,
        KeyProvider, ProviderError, unsupported,
    },
};

/// A key provider that opens messages under any KMS key that they name and that the caller has permission to use. It
/// cannot seal messages.
///
/// Use it to open messages whose keys you do not know in advance.
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
///
/// **Set a [filter](Self::with_filter) for untrusted messages.** The author of a message chooses the keys that it
/// names. Without a filter, an attacker can make you open messages under the attacker's own key.
///
/// The regions are tried in order, so list the nearest one first. A region is used for its own keys, and for all
/// multi-region keys, regardless of the region in which the message was sealed. If a region fails, the next one is
/// tried. The time limits, and the limits for untrusted messages, are those of [`AwsKms`](super::AwsKms).
#[derive(Clone)]
pub struct AwsKmsDiscovery {
    regions: Vec<(Requests, String)>,
    /// The partition and the accounts of the keys that may be used.
    filter: Option<(String, BTreeSet<String>)>,
}

impl AwsKmsDiscovery {
    /// Creates a provider that uses keys in the given regions. `client` returns the client for a region; it is called
    /// once for each region.
    ///
    /// # Errors
    /// Returns [`ConfigError::KmsKeys`] if `regions` is empty, contains a region twice, or contains an empty name.
    pub fn new<R: Into<String>>(
        client: impl Fn(&str) -> Client,
        regions: impl IntoIterator<Item = R>,
    ) -> Result<Self, ConfigError> {
        let regions: Vec<String> = regions.into_iter().map(Into::into).collect();
        let unique: BTreeSet<_> = regions.iter().filter(|region| !region.is_empty()).collect();
        if regions.is_empty() || unique.len() < regions.len() {
            let why = format!("expected one or more different regions, but got {regions:?}");
            return Err(ConfigError::KmsKeys { why });
        }
        let regions = regions.into_iter().map(|region| (Requests::new(client(&region)), region)).collect();
        Ok(Self { regions, filter: None })
    }

    /// Restricts the provider to keys in the given partition (`aws`, `aws-cn`, ...) and accounts. Encrypted data keys
    /// of other keys are ignored.
    #[must_use]
    pub fn with_filter<A: Into<String>>(
        mut self,
        partition: impl Into<String>,
        accounts: impl IntoIterator<Item = A>,
    ) -> Self {
        self.filter = Some((partition.into(), accounts.into_iter().map(Into::into).collect()));
        self
    }

    /// Sets the grant tokens, like [`AwsKms::with_grant_tokens`](super::AwsKms::with_grant_tokens).
    #[must_use]
    pub fn with_grant_tokens<T: Into<String>>(mut self, tokens: impl IntoIterator<Item = T>) -> Self {
        let tokens: Vec<_> = tokens.into_iter().map(Into::into).collect();
        self.regions.iter_mut().for_each(|(requests, _)| requests.grant_tokens.clone_from(&tokens));
        self
    }

    /// Sets the timeout of each request, like [`AwsKms::with_timeout`](super::AwsKms::with_timeout).
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
        let why = "AwsKmsDiscovery only opens messages; seal with AwsKms";
        unsupported(operation, self, why)
    }
}

/// Returns whether the region has this key, or can have its replica.
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

    fn check_fips(&self) -> Result<(), NotFips> {
        Ok(())
    }
}

/// Formats as `any KMS key in REGION, REGION`, followed by the filter.
impl fmt::Display for AwsKmsDiscovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let regions: Vec<_> = self.regions.iter().map(|(_, region)| &region[..]).collect();
        write!(f, "any KMS key in {}", regions.join(", "))?;
        if let Some((partition, accounts)) = &self.filter {
            let accounts: Vec<_> = accounts.iter().map(String::as_str).collect();
            write!(f, " in partition {partition} and accounts {}", accounts.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Debug for AwsKmsDiscovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AwsKmsDiscovery({self})")
    }
}
