//! Items as DynamoDB's attributes. Specification: `framework/branch-key-store.md`, "Record Format".

use std::collections::HashMap;

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use kms_envelope::provider::branch_key::BranchKeyItem;

pub(crate) const BRANCH_KEY_ID: &str = "branch-key-id";
pub(crate) const TYPE: &str = "type";
pub(crate) const CIPHERTEXT: &str = "enc";
const HIERARCHY_VERSION: &str = "hierarchy-version";

type Attributes = HashMap<String, AttributeValue>;

pub(crate) fn to_attributes(item: &BranchKeyItem) -> Attributes {
    let strings = item.attributes.iter().map(|(name, value)| (name.clone(), AttributeValue::S(value.clone())));
    let mut attributes: Attributes = strings.collect();
    attributes.extend(
        [
            (BRANCH_KEY_ID, AttributeValue::S(item.branch_key_id.clone())),
            (TYPE, AttributeValue::S(item.item_type.clone())),
            (CIPHERTEXT, AttributeValue::B(Blob::new(&item.ciphertext[..]))),
            (HIERARCHY_VERSION, AttributeValue::N(item.hierarchy_version.to_string())),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    attributes
}

/// Returns the item, or what is wrong with its attributes.
pub(crate) fn from_attributes(mut attributes: Attributes) -> Result<BranchKeyItem, String> {
    let mut take = |name: &str| attributes.remove(name).ok_or_else(|| format!("it has no {name}"));
    let id = string(BRANCH_KEY_ID, take(BRANCH_KEY_ID)?)?;
    let item_type = string(TYPE, take(TYPE)?)?;
    let ciphertext = match take(CIPHERTEXT)? {
        AttributeValue::B(bytes) => bytes.into_inner(),
        other => return Err(wrong_type(CIPHERTEXT, &other, "B")),
    };
    let version = match take(HIERARCHY_VERSION)? {
        AttributeValue::N(number) => number,
        other => return Err(wrong_type(HIERARCHY_VERSION, &other, "N")),
    };
    let version = version.parse().map_err(|_| format!("its {HIERARCHY_VERSION} is {version:?}, not a small number"))?;
    let others = attributes.into_iter().map(|(name, value)| {
        let value = string(&name, value)?;
        Ok((name, value))
    });
    Ok(BranchKeyItem::new(id, item_type, ciphertext, version, others.collect::<Result<_, String>>()?))
}

fn string(name: &str, value: AttributeValue) -> Result<String, String> {
    match value {
        AttributeValue::S(text) => Ok(text),
        other => Err(wrong_type(name, &other, "S")),
    }
}

fn wrong_type(name: &str, value: &AttributeValue, wanted: &str) -> String {
    let found = match value {
        AttributeValue::B(_) => "B",
        AttributeValue::Bool(_) => "BOOL",
        AttributeValue::Bs(_) => "BS",
        AttributeValue::L(_) => "L",
        AttributeValue::M(_) => "M",
        AttributeValue::N(_) => "N",
        AttributeValue::Ns(_) => "NS",
        AttributeValue::Null(_) => "NULL",
        AttributeValue::S(_) => "S",
        AttributeValue::Ss(_) => "SS",
        _ => "an unknown type",
    };
    format!("its {name} has the type {found}, not {wanted}")
}
