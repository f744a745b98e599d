//! The checks of an item, and its encryption context for KMS. Specification: `framework/branch-key-store.md`, "Record
//! Format", "Encryption Context".

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{BranchKeyItem, KmsConfiguration};
use crate::{
    context::EncryptionContext,
    provider::{ProviderError, ProviderErrorKind as Kind, aws_kms::KeyArn},
};

const BRANCH_KEY_ID: &str = "branch-key-id";
const TYPE: &str = "type";
const CIPHERTEXT: &str = "enc";
const HIERARCHY_VERSION: &str = "hierarchy-version";
pub(super) const VERSION: &str = "version";
pub(super) const KMS_ARN: &str = "kms-arn";
pub(super) const CREATE_TIME: &str = "create-time";
/// The name of the logical key store name in KMS's encryption context. No item has it.
const TABLE_NAME: &str = "tablename";
/// The prefix of the pairs of a branch key's own encryption context.
const CONTEXT_PREFIX: &str = "aws-crypto-ec:";

/// An item whose attributes have been checked. Only KMS verifies that they belong to the ciphertext.
pub(super) struct CheckedItem {
    pub(super) item: BranchKeyItem,
    /// The key to call.
    pub(super) key_arn: KeyArn,
    /// The branch key's version, unless it is a beacon key.
    pub(super) version: Option<Uuid>,
}

/// Why an item cannot be used.
pub(super) enum ItemError {
    Invalid(String),
    HierarchyVersion(u32),
}

impl ItemError {
    pub(super) fn of(self, operation: &'static str, id: &str, item_type: &str) -> ProviderError {
        let (kind, what) = match self {
            Self::Invalid(why) => (Kind::UnexpectedResponse, why),
            Self::HierarchyVersion(2) => (Kind::Unsupported, "its hierarchy-version is 2, a draft of AWS's".to_owned()),
            Self::HierarchyVersion(other) => (Kind::Unsupported, format!("its hierarchy-version is {other}, not 1")),
        };
        ProviderError::new(kind, operation, id).with_detail(format!("item of type {item_type}: {what}"))
    }
}

impl CheckedItem {
    pub(super) fn new(item: BranchKeyItem, kms: &KmsConfiguration) -> Result<Self, ItemError> {
        let invalid = |why: String| Err(ItemError::Invalid(why));
        if item.hierarchy_version != 1 {
            return Err(ItemError::HierarchyVersion(item.hierarchy_version));
        }
        if item.ciphertext.is_empty() {
            return invalid(format!("its {CIPHERTEXT} is empty"));
        }
        for name in [BRANCH_KEY_ID, TYPE, CIPHERTEXT, HIERARCHY_VERSION, TABLE_NAME] {
            if item.attributes.contains_key(name) {
                return invalid(format!("it must not have an attribute {name} of its own"));
            }
        }
        for name in [KMS_ARN, CREATE_TIME] {
            if item.attributes.get(name).is_none_or(String::is_empty) {
                return invalid(format!("it has no {name}"));
            }
        }
        let is_active = item.item_type == BranchKeyItem::ACTIVE;
        let version = item.attributes.get(VERSION);
        let version = match (is_active, version) {
            (true, None) => return invalid(format!("it has no {VERSION}")),
            (false, Some(_)) => return invalid(format!("only the active item may have a {VERSION}")),
            (true, Some(version)) => Some((VERSION, version)),
            (false, None) if item.item_type == BranchKeyItem::BEACON => None,
            (false, None) => Some((TYPE, &item.item_type)),
        };
        let version = version.map(|(name, text)| {
            let uuid = text.strip_prefix(BranchKeyItem::VERSION_PREFIX).and_then(parse_uuid);
            let format = || format!("its {name} {text:?} is not {}UUID", BranchKeyItem::VERSION_PREFIX);
            uuid.ok_or_else(|| ItemError::Invalid(format()))
        });
        let version = version.transpose()?;
        let key_arn = kms.key_for(&item.attributes[KMS_ARN]).map_err(ItemError::Invalid)?;
        Ok(Self { item, key_arn, version })
    }

    /// Returns the branch key's own encryption context.
    pub(super) fn context(&self) -> EncryptionContext {
        let pairs = self.item.attributes.iter();
        pairs.filter_map(|(name, value)| Some((name.strip_prefix(CONTEXT_PREFIX)?, value))).collect()
    }
}

/// Returns the attributes for a branch key's own encryption context.
pub(super) fn context_attributes(context: &EncryptionContext) -> BTreeMap<String, String> {
    context.iter().map(|(name, value)| (format!("{CONTEXT_PREFIX}{name}"), value.to_owned())).collect()
}

/// Returns the encryption context with which KMS encrypts an item: all of its attributes except the ciphertext, and the
/// logical key store name.
pub(super) fn kms_context(item: &BranchKeyItem, logical_key_store_name: &str) -> EncryptionContext {
    let BranchKeyItem { branch_key_id, item_type, ciphertext: _, hierarchy_version, attributes } = item;
    let mut context: EncryptionContext = attributes.iter().collect();
    context.insert(BRANCH_KEY_ID, branch_key_id);
    context.insert(TYPE, item_type);
    context.insert(HIERARCHY_VERSION, hierarchy_version.to_string());
    context.insert(TABLE_NAME, logical_key_store_name);
    context
}

/// Parses a UUID in the format that key stores use: 36 characters with hyphens.
pub(super) fn parse_uuid(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text).ok().filter(|uuid| uuid.to_string() == text)
}
