//! The KMS keys that encrypt branch keys.

use std::{fmt, time::Duration};

use aws_sdk_kms::Client;

use crate::{
    error::ConfigError,
    provider::aws_kms::{KeyArn, Requests, is_region, key_arn_of},
};

/// The KMS key that encrypts the branch keys of a [`BranchKeys`](super::BranchKeys), or the KMS keys that its items may
/// name.
///
/// The four configurations are those of AWS's SDKs (specification, `framework/branch-key-store.md`, "AWS KMS
/// Configuration"):
///
/// | constructor | items may name | KMS key that is called | creates branch keys |
/// |---|---|---|---|
/// | [`key`](Self::key) | this key | this key | yes |
/// | [`multi_region_key`](Self::multi_region_key) | this key and its replicas | this key | yes |
/// | [`discovery`](Self::discovery) | any key | the key that the item names | no |
/// | [`multi_region_discovery`](Self::multi_region_discovery) | any key | the key that the item names, or its replica in a region | no |
///
/// With the two discovery configurations, a person who can write to the store chooses the KMS key. Prefer the others
/// where the key is known.
#[derive(Clone)]
pub struct KmsConfiguration {
    pub(super) requests: Requests,
    keys: Keys,
}

#[derive(Clone)]
enum Keys {
    One(KeyArn),
    Replicas(KeyArn),
    Any,
    AnyInRegion(String),
}

impl KmsConfiguration {
    /// Allows one KMS key, named by its key ARN.
    ///
    /// # Errors
    /// Returns [`ConfigError::KmsKeyId`] if `key_arn` is not a key ARN.
    pub fn key(client: Client, key_arn: impl Into<String>) -> Result<Self, ConfigError> {
        Ok(Self::new(client, Keys::One(key_arn_of(key_arn)?)))
    }

    /// Allows a multi-region key and its replicas. All requests are for `key_arn`, so it should be the replica in the
    /// client's region.
    ///
    /// # Errors
    /// Returns [`ConfigError::KmsKeyId`] if `key_arn` is not a key ARN.
    pub fn multi_region_key(client: Client, key_arn: impl Into<String>) -> Result<Self, ConfigError> {
        Ok(Self::new(client, Keys::Replicas(key_arn_of(key_arn)?)))
    }

    /// Allows every KMS key that an item names and the caller has permission to use.
    pub fn discovery(client: Client) -> Self {
        Self::new(client, Keys::Any)
    }

    /// Allows every KMS key that an item names. For a multi-region key, calls its replica in `region`, which should be
    /// the client's region.
    ///
    /// # Errors
    /// Returns [`ConfigError::KmsKeys`] if `region` is not a valid region name.
    pub fn multi_region_discovery(client: Client, region: impl Into<String>) -> Result<Self, ConfigError> {
        let region = region.into();
        if !is_region(&region) {
            return Err(ConfigError::KmsKeys { why: format!("{region:?} is not a valid region name") });
        }
        Ok(Self::new(client, Keys::AnyInRegion(region)))
    }

    fn new(client: Client, keys: Keys) -> Self {
        Self { requests: Requests::new(client), keys }
    }

    /// Sets the grant tokens to send with every request, like
    /// [`AwsKms::with_grant_tokens`](crate::AwsKms::with_grant_tokens).
    #[must_use]
    pub fn with_grant_tokens<T: Into<String>>(mut self, tokens: impl IntoIterator<Item = T>) -> Self {
        self.requests.grant_tokens = tokens.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the timeout of each request, like [`AwsKms::with_timeout`](crate::AwsKms::with_timeout).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.requests.timeout = Some(timeout);
        self
    }

    /// Returns the key that new branch keys are encrypted under, unless this is a discovery configuration.
    pub(super) fn key_for_new(&self) -> Option<&KeyArn> {
        match &self.keys {
            Keys::One(arn) | Keys::Replicas(arn) => Some(arn),
            Keys::Any | Keys::AnyInRegion(_) => None,
        }
    }

    /// Returns the key to call for an item that names the key `named`, or the reason why that is not allowed.
    pub(super) fn key_for(&self, named: &str) -> Result<KeyArn, String> {
        let arn = KeyArn::parse(named).map_err(|why| format!("its kms-arn {named:?} is not a key ARN: {why}"))?;
        match &self.keys {
            Keys::One(key) if arn == *key => Ok(arn),
            Keys::Replicas(key) if key.decrypts(&arn) => Ok(key.clone()),
            Keys::Any => Ok(arn),
            Keys::AnyInRegion(region) if arn.is_multi_region() => Ok(arn.in_region(region)),
            Keys::AnyInRegion(_) => Ok(arn),
            Keys::One(key) | Keys::Replicas(key) => {
                Err(format!("its kms-arn is {named}, but the configured key is {key}"))
            }
        }
    }
}

impl fmt::Debug for KmsConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("KmsConfiguration");
        match &self.keys {
            Keys::One(arn) => out.field("key", arn),
            Keys::Replicas(arn) => out.field("multi_region_key", arn),
            Keys::Any => out.field("discovery", &true),
            Keys::AnyInRegion(region) => out.field("multi_region_discovery", region),
        };
        out.finish_non_exhaustive()
    }
}
