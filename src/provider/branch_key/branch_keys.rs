//! AWS's key store: creates branch keys and their versions, and decrypts them. Specification:
//! `framework/branch-key-store.md`.

use std::{
    borrow::Cow,
    fmt,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use aws_sdk_kms::primitives::{DateTime, DateTimeFormat};
use uuid::Uuid;

use super::{
    BranchKey, BranchKeyItem, BranchKeyStore, KmsConfiguration,
    checked_item::{CREATE_TIME, CheckedItem, KMS_ARN, VERSION, context_attributes, kms_context, parse_uuid},
    key::{KEY_LEN, check_id},
};
use crate::{
    context::EncryptionContext,
    crypto::{Randomness, SecretKey},
    error::{ConfigError, NameReason},
    provider::{DEFAULT_KEY_TIMEOUT, ProviderError, ProviderErrorKind as Kind, aws_kms::KeyArn, deadline_after},
};

const CREATE_KEY: &str = "CreateKey";
const VERSION_KEY: &str = "VersionKey";
const GET_ACTIVE: &str = "GetActiveBranchKey";
const GET_VERSION: &str = "GetBranchKeyVersion";
const GET_BEACON: &str = "GetBeaconKey";

/// The branch keys in a [`BranchKeyStore`]: creates them and their versions, and decrypts them. AWS calls this a *key
/// store*.
///
/// It reads and writes the tables of AWS's SDKs, which read and write its own.
///
/// ```no_run
/// use kms_envelope::{EncryptionContext, provider::branch_key::{BranchKeyStore, BranchKeys, KmsConfiguration}};
///
/// # async fn example(
/// #     kms: aws_sdk_kms::Client, table: impl BranchKeyStore + 'static,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let arn = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
/// let keys = BranchKeys::new(table, "tenants", KmsConfiguration::key(kms, arn)?)?;
/// keys.create_with_id("tenant-acme", &EncryptionContext::from([("tenant", "acme")])).await?;
/// let version = keys.create_version("tenant-acme").await?; // each time that the branch key is rotated
/// # Ok(())
/// # }
/// ```
///
/// # Requests and permissions
/// | method | requests to KMS | calls to the store |
/// |---|---|---|
/// | [`create`](Self::create), [`create_with_id`](Self::create_with_id) | 2 `GenerateDataKeyWithoutPlaintext`, 1 `ReEncrypt` | `create` |
/// | [`create_version`](Self::create_version) | 1 `GenerateDataKeyWithoutPlaintext`, 2 `ReEncrypt` | `get`, `replace` |
/// | [`active`](Self::active), [`version`](Self::version), [`beacon`](Self::beacon) | 1 `Decrypt` | `get` |
///
/// The methods that create never hold a branch key in plaintext. The permissions are
/// `kms:GenerateDataKeyWithoutPlaintext` and `kms:ReEncrypt*` for administrators, and `kms:Decrypt` for users.
///
/// The requests of one call share a time limit of 10 seconds. The store is written in one step, at the end: if a future
/// is dropped or a request fails, nothing half-made is in the store. After a timeout or a failure of the network during
/// that step, look at the store: it may have been done.
#[derive(Clone)]
pub struct BranchKeys(Arc<Inner>);

struct Inner {
    store: Box<dyn BranchKeyStore>,
    logical_name: String,
    kms: KmsConfiguration,
}

/// A beacon key in plaintext, as returned by [`BranchKeys::beacon`]. AWS's searchable encryption uses it.
///
/// Its key is zeroized on drop.
#[derive(Debug)]
pub struct BeaconKey {
    id: String,
    key: SecretKey,
    context: EncryptionContext,
}

impl BeaconKey {
    /// Returns the branch key's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the key, which has 32 bytes.
    pub fn key(&self) -> &SecretKey {
        &self.key
    }

    /// Returns the branch key's own encryption context.
    pub fn context(&self) -> &EncryptionContext {
        &self.context
    }
}

impl BranchKeys {
    /// Creates the key store over a store's items. Makes no request.
    ///
    /// `logical_key_store_name` is a part of the encryption context of every KMS request. All users of a store must
    /// pass the same name. AWS recommends the name of the table when it was first created. A restored backup keeps the
    /// name, even if the table has another one.
    ///
    /// # Errors
    /// Returns [`ConfigError::KeyName`] if the logical key store name is empty.
    pub fn new(
        store: impl BranchKeyStore + 'static,
        logical_key_store_name: impl Into<String>,
        kms: KmsConfiguration,
    ) -> Result<Self, ConfigError> {
        let logical_name = logical_key_store_name.into();
        if logical_name.is_empty() {
            return Err(ConfigError::KeyName { field: "logical key store name", reason: NameReason::Empty });
        }
        Ok(Self(Arc::new(Inner { store: Box::new(store), logical_name, kms })))
    }

    /// Creates a branch key with a random UUID as its id, and returns the id.
    ///
    /// KMS receives the pairs of `context`, their names prefixed with `aws-crypto-ec:`, in each request for the branch
    /// key. It may be empty.
    ///
    /// # Errors
    /// Same as [`create_with_id`](Self::create_with_id).
    pub async fn create(&self, context: &EncryptionContext) -> Result<String, ProviderError> {
        let id = random_uuid()?.to_string();
        self.create_items(&id, context).await?;
        Ok(id)
    }

    /// Creates a branch key with an id of your own, and an encryption context that must not be empty.
    ///
    /// # Errors
    /// Returns an error of kind [`Conflict`](Kind::Conflict) if the branch key exists, and of kind
    /// [`Unsupported`](Kind::Unsupported) if the id or the context is empty, the id is longer than 65,535 bytes, or the
    /// KMS configuration is for discovery. Otherwise, returns the errors of KMS and of the store.
    pub async fn create_with_id(&self, branch_key_id: &str, context: &EncryptionContext) -> Result<(), ProviderError> {
        if context.is_empty() {
            let why = "a branch key with an id of your own needs an encryption context that is not empty";
            return Err(unsupported(CREATE_KEY, branch_key_id, why));
        }
        self.create_items(branch_key_id, context).await
    }

    async fn create_items(&self, id: &str, context: &EncryptionContext) -> Result<(), ProviderError> {
        let Inner { store, kms, .. } = &*self.0;
        check_id(id).map_err(|error| unsupported(CREATE_KEY, id, error.to_string()))?;
        let arn = kms.key_for_new().ok_or_else(|| no_key(CREATE_KEY, id))?;
        let deadline = deadline_after(DEFAULT_KEY_TIMEOUT);
        let mut attributes = context_attributes(context);
        attributes.insert(KMS_ARN.to_owned(), arn.to_string());
        attributes.insert(CREATE_TIME.to_owned(), now());
        let item = |item_type: &str| BranchKeyItem::new(id, item_type, [], 1, attributes.clone());
        let [version, active] = self.new_version(arn, item(BranchKeyItem::ACTIVE), deadline).await?;
        let beacon = self.generate(arn, item(BranchKeyItem::BEACON), deadline).await?;
        store.create(&[version, active, beacon], deadline).await
    }

    /// Creates a new version of a branch key, which encrypts data keys from then on, and returns its UUID.
    ///
    /// Older versions are kept, so that messages sealed with them still open. Providers use the new version when their
    /// cached branch key has expired.
    ///
    /// # Errors
    /// Returns an error of kind [`Conflict`](Kind::Conflict) if another caller has created a version in the meantime,
    /// and of kind [`Unsupported`](Kind::Unsupported) if the KMS configuration is for discovery. Otherwise, returns the
    /// errors of [`active`](Self::active) for the current version.
    pub async fn create_version(&self, branch_key_id: &str) -> Result<String, ProviderError> {
        let Inner { store, kms, .. } = &*self.0;
        if kms.key_for_new().is_none() {
            return Err(no_key(VERSION_KEY, branch_key_id));
        }
        let deadline = deadline_after(DEFAULT_KEY_TIMEOUT);
        let current = self.item(VERSION_KEY, branch_key_id, BranchKeyItem::ACTIVE, deadline).await?;
        let context = kms_context(&current.item, &self.0.logical_name);
        // KMS verifies the attributes of the current item, which the new items are made from.
        let ciphertext = &current.item.ciphertext;
        let verified = kms.requests.re_encrypt(&current.key_arn, ciphertext, &context, &context, deadline).await;
        verified.map_err(|error| self.not_decrypted(VERSION_KEY, &current.item, error))?;
        let mut new = current.item.clone();
        new.attributes.insert(CREATE_TIME.to_owned(), now());
        let [version, active] = self.new_version(&current.key_arn, new, deadline).await?;
        store.replace(&version, &active, ciphertext, deadline).await?;
        Ok(version.item_type[BranchKeyItem::VERSION_PREFIX.len()..].to_owned())
    }

    /// Returns the version of a branch key that encrypts data keys.
    ///
    /// # Errors
    /// Returns an error of kind [`NotFound`](Kind::NotFound) if the store has no such branch key, of kind
    /// [`UnexpectedResponse`](Kind::UnexpectedResponse) if its item is invalid, names a KMS key that is not allowed, or
    /// does not decrypt because it was modified or has another logical key store name, and of kind
    /// [`Unsupported`](Kind::Unsupported) if its hierarchy version is not 1. Otherwise, returns the errors of KMS and
    /// of the store.
    pub async fn active(&self, branch_key_id: &str) -> Result<BranchKey, ProviderError> {
        self.active_by(branch_key_id, deadline_after(DEFAULT_KEY_TIMEOUT)).await
    }

    /// Returns the version of a branch key with this UUID, such as `0f8fad5b-d9cb-469f-a165-70867728950e`.
    ///
    /// # Errors
    /// Same as [`active`](Self::active).
    pub async fn version(&self, branch_key_id: &str, version: &str) -> Result<BranchKey, ProviderError> {
        let Some(version) = parse_uuid(version) else {
            return Err(unsupported(
                GET_VERSION,
                branch_key_id,
                "the version is not a UUID of 36 characters in lower case",
            ));
        };
        self.version_by(branch_key_id, version, deadline_after(DEFAULT_KEY_TIMEOUT)).await
    }

    /// Returns the beacon key of a branch key.
    ///
    /// # Errors
    /// Same as [`active`](Self::active).
    pub async fn beacon(&self, branch_key_id: &str) -> Result<BeaconKey, ProviderError> {
        let deadline = deadline_after(DEFAULT_KEY_TIMEOUT);
        let item = self.item(GET_BEACON, branch_key_id, BranchKeyItem::BEACON, deadline).await?;
        let key = self.decrypt(GET_BEACON, &item, deadline).await?;
        Ok(BeaconKey { context: item.context(), id: item.item.branch_key_id, key })
    }

    /// Returns the logical key store name.
    pub fn logical_key_store_name(&self) -> &str {
        &self.0.logical_name
    }

    pub(super) async fn active_by(&self, id: &str, deadline: Instant) -> Result<BranchKey, ProviderError> {
        let item = self.item(GET_ACTIVE, id, BranchKeyItem::ACTIVE, deadline).await?;
        self.branch_key(GET_ACTIVE, item, deadline).await
    }

    pub(super) async fn version_by(
        &self,
        id: &str,
        version: Uuid,
        deadline: Instant,
    ) -> Result<BranchKey, ProviderError> {
        let item = self.item(GET_VERSION, id, &version_type(version), deadline).await?;
        self.branch_key(GET_VERSION, item, deadline).await
    }

    async fn branch_key(
        &self,
        operation: &'static str,
        item: CheckedItem,
        deadline: Instant,
    ) -> Result<BranchKey, ProviderError> {
        let key = self.decrypt(operation, &item, deadline).await?;
        let version = item.version.map(Uuid::into_bytes).unwrap_or_default();
        Ok(BranchKey { context: item.context(), id: item.item.branch_key_id, version, key })
    }

    /// Gets an item and checks it.
    async fn item(
        &self,
        operation: &'static str,
        id: &str,
        item_type: &str,
        deadline: Instant,
    ) -> Result<CheckedItem, ProviderError> {
        check_id(id).map_err(|error| unsupported(operation, id, error.to_string()))?;
        let item = self.0.store.get(id, item_type, deadline).await?.ok_or_else(|| {
            let what = format!("the key store has no item of type {item_type} for it");
            ProviderError::new(Kind::NotFound, operation, id).with_detail(what)
        })?;
        if item.branch_key_id != id || item.item_type != item_type {
            let what = format!("the key store returned another item than the one of type {item_type}");
            return Err(ProviderError::new(Kind::UnexpectedResponse, operation, id).with_detail(what));
        }
        CheckedItem::new(item, &self.0.kms).map_err(|error| error.of(operation, id, item_type))
    }

    async fn decrypt(
        &self,
        operation: &'static str,
        CheckedItem { item, key_arn, .. }: &CheckedItem,
        deadline: Instant,
    ) -> Result<SecretKey, ProviderError> {
        let context = kms_context(item, &self.0.logical_name);
        let key_arn = key_arn.to_string();
        let decrypted = self.0.kms.requests.decrypt(&key_arn, &item.ciphertext, KEY_LEN, &context, deadline).await;
        decrypted.map_err(|error| self.not_decrypted(operation, item, error))
    }

    /// Returns the error to report when KMS did not decrypt an item.
    fn not_decrypted(&self, operation: &'static str, item: &BranchKeyItem, error: ProviderError) -> ProviderError {
        let BranchKeyItem { branch_key_id, item_type, .. } = item;
        match error.kind() {
            Kind::InvalidCiphertext | Kind::IncorrectKey => {
                let logical_name = &self.0.logical_name;
                let what = format!(
                    "KMS does not decrypt its item of type {item_type}; the item was modified, or the logical name of \
                     its key store is not {logical_name:?}"
                );
                let error = error.with_detail(what.clone());
                ProviderError::new(Kind::UnexpectedResponse, operation, branch_key_id)
                    .with_detail(what)
                    .with_source(error)
            }
            _ => needed_for(item, error),
        }
    }

    /// Generates a new version: the items for it, the second of which is that of the active version. `template` is an
    /// item of the active version.
    async fn new_version(
        &self,
        arn: &KeyArn,
        template: BranchKeyItem,
        deadline: Instant,
    ) -> Result<[BranchKeyItem; 2], ProviderError> {
        let mut version = template.clone();
        version.item_type = version_type(random_uuid()?);
        version.attributes.remove(VERSION);
        let version = self.generate(arn, version, deadline).await?;
        let mut active = template;
        active.attributes.insert(VERSION.to_owned(), version.item_type.clone());
        let Inner { kms, logical_name, .. } = &*self.0;
        let (from, to) = (kms_context(&version, logical_name), kms_context(&active, logical_name));
        active.ciphertext = kms
            .requests
            .re_encrypt(arn, &version.ciphertext, &from, &to, deadline)
            .await
            .map_err(|error| needed_for(&active, error))?;
        Ok([version, active])
    }

    /// Has KMS generate the key of an item. Its plaintext never leaves KMS.
    async fn generate(
        &self,
        arn: &KeyArn,
        mut item: BranchKeyItem,
        deadline: Instant,
    ) -> Result<BranchKeyItem, ProviderError> {
        let context = kms_context(&item, &self.0.logical_name);
        let ciphertext = self.0.kms.requests.generate_without_plaintext(arn, KEY_LEN, &context, deadline).await;
        item.ciphertext = ciphertext.map_err(|error| needed_for(&item, error))?;
        Ok(item)
    }
}

impl fmt::Debug for BranchKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { logical_name, kms, .. } = &*self.0;
        f.debug_struct("BranchKeys")
            .field("logical_key_store_name", logical_name)
            .field("kms", kms)
            .finish_non_exhaustive()
    }
}

/// Adds the item that a request to KMS was for.
fn needed_for(item: &BranchKeyItem, error: ProviderError) -> ProviderError {
    let BranchKeyItem { branch_key_id, item_type, .. } = item;
    let what = format!("needed for branch key {branch_key_id}, item of type {item_type}");
    match error.detail() {
        Some(detail) => {
            let what = format!("{detail}; {what}");
            error.with_detail(what)
        }
        None => error.with_detail(what),
    }
}

fn version_type(version: Uuid) -> String {
    format!("{}{version}", BranchKeyItem::VERSION_PREFIX)
}

fn random_uuid() -> Result<Uuid, ProviderError> {
    let mut bytes = [0; 16];
    Randomness::default().fill(&mut bytes)?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}

/// Returns the current time in the format of AWS's SDKs: ISO 8601 in UTC, with microseconds.
fn now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = DateTime::from_secs(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    // The formatter omits the fraction if it is zero, and zeros at its end.
    let seconds = seconds.fmt(DateTimeFormat::DateTime).unwrap_or_default();
    format!("{}.{:06}Z", seconds.trim_end_matches('Z'), now.subsec_micros())
}

fn unsupported(operation: &'static str, id: &str, why: impl Into<Cow<'static, str>>) -> ProviderError {
    ProviderError::new(Kind::Unsupported, operation, format!("branch key {id:?}")).with_detail(why)
}

fn no_key(operation: &'static str, id: &str) -> ProviderError {
    unsupported(operation, id, "a KMS configuration for discovery names no key for it; use KmsConfiguration::key")
}
