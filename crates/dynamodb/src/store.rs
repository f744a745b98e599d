//! The store.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use aws_sdk_dynamodb::{
    Client, Config,
    config::{AsyncSleep, Builder, timeout::TimeoutConfig},
    primitives::Blob,
    types::{
        AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, Put, ScalarAttributeType,
        TableDescription, TableStatus, TransactWriteItem, builders::PutBuilder,
    },
};
use kms_envelope::{
    ProviderError,
    provider::{
        ProviderErrorKind as Kind,
        branch_key::{BranchKeyItem, BranchKeyStore},
    },
};

use crate::{
    attributes::{BRANCH_KEY_ID, CIPHERTEXT, TYPE, from_attributes, to_attributes},
    error::{provider_error, transaction_error},
};

const CREATE_TABLE: &str = "CreateTable";
const DESCRIBE_TABLE: &str = "DescribeTable";
const GET_ITEM: &str = "GetItem";
const TRANSACT_WRITE_ITEMS: &str = "TransactWriteItems";

/// The time limit for the creation or the check of a table.
const TABLE_TIMEOUT: Duration = Duration::from_secs(120);
/// The time between two checks of whether a new table is active.
const TABLE_INTERVAL: Duration = Duration::from_millis(500);

/// Branch keys in a DynamoDB table, in the format of AWS's SDKs.
///
/// # Requests and permissions
/// | method | requests |
/// |---|---|
/// | [`get`](BranchKeyStore::get) | `GetItem` |
/// | [`create`](BranchKeyStore::create), [`replace`](BranchKeyStore::replace) | `TransactWriteItems`, which needs `dynamodb:PutItem` |
/// | [`check_table`](Self::check_table) | `DescribeTable` |
/// | [`create_table`](Self::create_table) | `DescribeTable` and `CreateTable` |
///
/// Users need only `dynamodb:GetItem`.
///
/// Reads are strongly consistent, unlike those of AWS's SDKs: a branch key or version that one process has created is
/// there for all others at once, and `create_version` does not fail because it has read an old item. Such a read costs
/// twice as much as an eventually consistent one, which matters little, because providers cache branch keys.
///
/// # Errors
/// Errors name the key `TABLE/ID`. The kind of an error is [`NotFound`](Kind::NotFound) if the table does not exist,
/// [`UnexpectedResponse`](Kind::UnexpectedResponse) if an attribute is missing or has another type than AWS's SDKs
/// write, [`Conflict`](Kind::Conflict) if a condition of a write failed, and [`Unavailable`](Kind::Unavailable), which is
/// retryable, if another transaction wrote the same items at the same time.
#[derive(Clone)]
pub struct DynamoDbBranchKeyStore {
    client: Client,
    table: String,
}

impl DynamoDbBranchKeyStore {
    /// Creates a store over the table with this name or ARN. Makes no request.
    pub fn new(client: Client, table_name: impl Into<String>) -> Self {
        Self { client, table: table_name.into() }
    }

    /// Returns the name of the table.
    pub fn table_name(&self) -> &str {
        &self.table
    }

    /// Creates the table, unless it exists, and waits until it can be used, for up to two minutes.
    ///
    /// The new table is billed per request. If the table exists, its keys are checked.
    ///
    /// # Errors
    /// Returns an error of kind [`Unsupported`](Kind::Unsupported) if the table exists and has other keys than
    /// `branch-key-id` and `type`, and of kind [`TimedOut`](Kind::TimedOut) if it is not active after two minutes.
    /// Otherwise, returns the errors of DynamoDB.
    pub async fn create_table(&self) -> Result<(), ProviderError> {
        let deadline = Instant::now() + TABLE_TIMEOUT;
        let mut description = self.describe(deadline).await?;
        if description.is_none() {
            self.send_create_table(deadline).await?;
        }
        loop {
            if let Some(table) = &description {
                self.check_keys(table)?;
                if matches!(table.table_status(), Some(TableStatus::Active | TableStatus::Updating)) {
                    return Ok(());
                }
            }
            if deadline <= Instant::now() + TABLE_INTERVAL {
                return Err(self.error(Kind::TimedOut, DESCRIBE_TABLE).with_detail("the table is not active"));
            }
            match self.client.config().sleep_impl() {
                Some(sleep) => sleep.sleep(TABLE_INTERVAL).await,
                // The default of the SDK.
                None => tokio::time::sleep(TABLE_INTERVAL).await,
            }
            description = self.describe(deadline).await?;
        }
    }

    /// Checks that the table exists, and that its keys are `branch-key-id` and `type`.
    ///
    /// # Errors
    /// Returns an error of kind [`NotFound`](Kind::NotFound) if the table does not exist, and of kind
    /// [`Unsupported`](Kind::Unsupported) if it has other keys. Otherwise, returns the errors of DynamoDB.
    pub async fn check_table(&self) -> Result<(), ProviderError> {
        match self.describe(Instant::now() + TABLE_TIMEOUT).await? {
            Some(table) => self.check_keys(&table),
            None => Err(self.error(Kind::NotFound, DESCRIBE_TABLE).with_detail("the table does not exist")),
        }
    }

    async fn describe(&self, deadline: Instant) -> Result<Option<TableDescription>, ProviderError> {
        let config = self.config(DESCRIBE_TABLE, &self.table, deadline)?;
        let request = self.client.describe_table().table_name(&self.table).customize().config_override(config);
        match request.send().await {
            Ok(answer) => Ok(answer.table),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => {
                Ok(None)
            }
            Err(error) => Err(provider_error(DESCRIBE_TABLE, &self.table, error)),
        }
    }

    async fn send_create_table(&self, deadline: Instant) -> Result<(), ProviderError> {
        let config = self.config(CREATE_TABLE, &self.table, deadline)?;
        let missing = |error| self.error(Kind::Other, CREATE_TABLE).with_source(error);
        let mut request = self.client.create_table().table_name(&self.table).billing_mode(BillingMode::PayPerRequest);
        for (name, key_type) in [(BRANCH_KEY_ID, KeyType::Hash), (TYPE, KeyType::Range)] {
            let key = KeySchemaElement::builder().attribute_name(name).key_type(key_type).build();
            let attribute =
                AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S).build();
            request = request.key_schema(key.map_err(missing)?).attribute_definitions(attribute.map_err(missing)?);
        }
        match request.customize().config_override(config).send().await {
            Ok(_) => Ok(()),
            // Another caller creates it.
            Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_in_use_exception()) => Ok(()),
            Err(error) => Err(provider_error(CREATE_TABLE, &self.table, error)),
        }
    }

    fn check_keys(&self, table: &TableDescription) -> Result<(), ProviderError> {
        let name = |wanted: KeyType| {
            let mut keys = table.key_schema().iter().filter(|key| key.key_type == wanted);
            keys.next().map_or("(none)", |key| &key.attribute_name[..])
        };
        let is_string = |name: &str| {
            let mut definitions = table.attribute_definitions().iter();
            definitions
                .any(|attribute| attribute.attribute_name == name && attribute.attribute_type == ScalarAttributeType::S)
        };
        let found = [name(KeyType::Hash), name(KeyType::Range)];
        if found == [BRANCH_KEY_ID, TYPE] && found.iter().all(|name| is_string(name)) {
            return Ok(());
        }
        let [partition, sort] = found;
        let detail = format!(
            "the table has the partition key {partition} and the sort key {sort}, but branch keys need {BRANCH_KEY_ID} and \
             {TYPE}, of type S"
        );
        Err(self.error(Kind::Unsupported, DESCRIBE_TABLE).with_detail(detail))
    }

    fn error(&self, kind: Kind, operation: &'static str) -> ProviderError {
        ProviderError::new(kind, operation, &self.table)
    }

    fn key_id(&self, branch_key_id: &str) -> String {
        format!("{}/{branch_key_id}", self.table)
    }

    /// Returns the configuration that sets a request's time limit, retries included.
    fn config(&self, operation: &'static str, key_id: &str, deadline: Instant) -> Result<Builder, ProviderError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let source = "not sent, because the time limit was reached";
            return Err(ProviderError::new(Kind::TimedOut, operation, key_id).with_source(source));
        }
        let of_client = self.client.config().timeout_config().and_then(TimeoutConfig::operation_timeout);
        let timeout = of_client.map_or(left, |of_client| of_client.min(left));
        Ok(Config::builder().timeout_config(TimeoutConfig::builder().operation_timeout(timeout).build()))
    }

    /// Returns a write of an item, with its condition to be set.
    fn put(&self, item: &BranchKeyItem) -> PutBuilder {
        Put::builder()
            .table_name(&self.table)
            .set_item(Some(to_attributes(item)))
            .expression_attribute_names("#id", BRANCH_KEY_ID)
    }

    /// Returns a write of an item that must not exist.
    fn put_new(&self, item: &BranchKeyItem) -> PutBuilder {
        self.put(item).condition_expression("attribute_not_exists(#id)")
    }

    /// Makes all writes, or none. Each is accompanied by the text to report if its condition fails.
    async fn write(
        &self,
        branch_key_id: &str,
        writes: Vec<(PutBuilder, String)>,
        deadline: Instant,
    ) -> Result<(), ProviderError> {
        let key_id = self.key_id(branch_key_id);
        let config = self.config(TRANSACT_WRITE_ITEMS, &key_id, deadline)?;
        let mut request = self.client.transact_write_items();
        let mut conflicts = Vec::new();
        for (put, conflict) in writes {
            let put = put
                .build()
                .map_err(|error| ProviderError::new(Kind::Other, TRANSACT_WRITE_ITEMS, &key_id).with_source(error))?;
            request = request.transact_items(TransactWriteItem::builder().put(put).build());
            conflicts.push(conflict);
        }
        let sent = request.customize().config_override(config).send().await;
        sent.map(drop).map_err(|error| transaction_error(TRANSACT_WRITE_ITEMS, &key_id, error, conflicts.into_iter()))
    }
}

#[async_trait]
impl BranchKeyStore for DynamoDbBranchKeyStore {
    async fn get(
        &self,
        branch_key_id: &str,
        item_type: &str,
        deadline: Instant,
    ) -> Result<Option<BranchKeyItem>, ProviderError> {
        let key_id = self.key_id(branch_key_id);
        let config = self.config(GET_ITEM, &key_id, deadline)?;
        let key = [(BRANCH_KEY_ID, branch_key_id), (TYPE, item_type)]
            .map(|(name, value)| (name.to_owned(), AttributeValue::S(value.to_owned())));
        let request = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(HashMap::from(key)))
            .consistent_read(true)
            .customize()
            .config_override(config);
        let answer = request.send().await.map_err(|error| provider_error(GET_ITEM, &key_id, error))?;
        answer.item.map(from_attributes).transpose().map_err(|what| {
            let detail = format!("item of type {item_type}: {what}");
            ProviderError::new(Kind::UnexpectedResponse, GET_ITEM, &key_id).with_detail(detail)
        })
    }

    async fn create(&self, items: &[BranchKeyItem], deadline: Instant) -> Result<(), ProviderError> {
        let Some(first) = items.first() else { return Ok(()) };
        let writes = items.iter().map(|item| (self.put_new(item), exists(item)));
        self.write(&first.branch_key_id, writes.collect(), deadline).await
    }

    async fn replace(
        &self,
        version: &BranchKeyItem,
        active: &BranchKeyItem,
        expected_ciphertext: &[u8],
        deadline: Instant,
    ) -> Result<(), ProviderError> {
        // AWS's libraries do not compare the ciphertext yet, although the specification requires it: without that, the
        // slower of two concurrent callers would replace the version of the other.
        let replacement = self
            .put(active)
            .condition_expression("attribute_exists(#id) AND #enc = :encOld")
            .expression_attribute_names("#enc", CIPHERTEXT)
            .expression_attribute_values(":encOld", AttributeValue::B(Blob::new(expected_ciphertext)));
        let replaced = format!("the item of type {} was replaced or does not exist", active.item_type);
        let writes = vec![(self.put_new(version), exists(version)), (replacement, replaced)];
        self.write(&active.branch_key_id, writes, deadline).await
    }
}

/// Shows the name of the table.
impl fmt::Debug for DynamoDbBranchKeyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDbBranchKeyStore").field("table_name", &self.table).finish_non_exhaustive()
    }
}

fn exists(item: &BranchKeyItem) -> String {
    format!("the item of type {} exists already", item.item_type)
}
