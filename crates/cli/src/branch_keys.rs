//! Branch keys in DynamoDB.

use std::time::Duration;

use aws_config::SdkConfig;
use kms_envelope::provider::{
    AwsKmsHierarchical,
    branch_key::{BranchKeys, KmsConfiguration},
};
use kms_envelope_dynamodb::DynamoDbBranchKeyStore;

use crate::{
    failure::Failure,
    key_source::{BranchKeyName, BranchKeyOptions, KeySource},
    keys::aws_config,
};

/// Longer than the time for which the command calls the key provider.
const MAX_AGE: Duration = Duration::from_secs(600);

/// Returns a table, and the configuration of clients in its region.
pub(crate) async fn table(name: &str) -> Result<(DynamoDbBranchKeyStore, SdkConfig), Failure> {
    let region = name.strip_prefix("arn:").and_then(|rest| rest.split(':').nth(2));
    let what = format_args!("{name}: no AWS region is configured, which is needed to find this table");
    let config = aws_config(region, what).await?;
    Ok((DynamoDbBranchKeyStore::new(aws_sdk_dynamodb::Client::new(&config), name), config))
}

/// Returns the branch keys in a table.
///
/// Without a given KMS key, they may be encrypted by any key, in the region of the table.
pub(crate) async fn branch_keys(table_name: &str, options: &BranchKeyOptions) -> Result<BranchKeys, Failure> {
    let (store, config) = table(table_name).await?;
    let invalid = |error: kms_envelope::ConfigError| Failure::new(error.to_string());
    let kms = match &options.kms_key {
        Some(arn) => {
            let region = match KeySource::parse(arn.into()) {
                Ok(KeySource::KmsArn { region, .. }) => Some(region),
                _ => None,
            };
            let what = format_args!("{arn}: no AWS region is configured, which is needed to find this KMS key");
            let client = aws_sdk_kms::Client::new(&aws_config(region.as_deref(), what).await?);
            KmsConfiguration::multi_region_key(client, arn).map_err(invalid)?
        }
        None => {
            let region = config.region().map(ToString::to_string).unwrap_or_default();
            KmsConfiguration::multi_region_discovery(aws_sdk_kms::Client::new(&config), region).map_err(invalid)?
        }
    };
    let name_of_table = table_name.rsplit('/').next().unwrap_or(table_name);
    BranchKeys::new(store, options.key_store.as_deref().unwrap_or(name_of_table), kms).map_err(invalid)
}

/// Returns a provider that seals and opens with a branch key.
pub(crate) async fn provider(name: &BranchKeyName, options: &BranchKeyOptions) -> Result<AwsKmsHierarchical, Failure> {
    let keys = branch_keys(&name.table, options).await?;
    AwsKmsHierarchical::builder(keys, MAX_AGE).build(&name.id[..]).map_err(|error| Failure::new(error.to_string()))
}
