//! The items of a branch key store.

use std::{collections::BTreeMap, fmt};

use base64ct::{Base64, Encoding};

/// An item of a [`BranchKeyStore`](super::BranchKeyStore): one version of a branch key, encrypted under a KMS key.
///
/// A branch key has one item of type `branch:version:UUID` for each of its versions, one of type `branch:ACTIVE` with
/// the newest version, and one of type `beacon:ACTIVE`, which AWS's searchable encryption uses.
///
/// The fields are the attributes of AWS's DynamoDB tables (specification, `framework/branch-key-store.md`, "Record
/// Format"). A store returns them as it finds them. They are checked after that, and the KMS ciphertext is bound to all
/// of them.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BranchKeyItem {
    /// The attribute `branch-key-id`: the branch key's id.
    pub branch_key_id: String,
    /// The attribute `type`: `branch:ACTIVE`, `branch:version:UUID` or `beacon:ACTIVE`.
    pub item_type: String,
    /// The attribute `enc`: the KMS ciphertext.
    pub ciphertext: Vec<u8>,
    /// The attribute `hierarchy-version`: the version of the format.
    pub hierarchy_version: u32,
    /// All other attributes, which are strings, by name: `kms-arn`, `create-time`, `version` for `branch:ACTIVE`, one
    /// for each pair of the branch key's encryption context, with the prefix `aws-crypto-ec:`, and any others.
    pub attributes: BTreeMap<String, String>,
}

impl BranchKeyItem {
    /// The type of the item with the version that encrypts data keys.
    pub const ACTIVE: &str = "branch:ACTIVE";
    /// The type of the item with the beacon key.
    pub const BEACON: &str = "beacon:ACTIVE";
    /// The start of the type of an item with one version. The version's UUID follows it.
    pub const VERSION_PREFIX: &str = "branch:version:";

    /// Creates an item from its attributes.
    pub fn new(
        branch_key_id: impl Into<String>,
        item_type: impl Into<String>,
        ciphertext: impl Into<Vec<u8>>,
        hierarchy_version: u32,
        attributes: BTreeMap<String, String>,
    ) -> Self {
        let (branch_key_id, item_type, ciphertext) = (branch_key_id.into(), item_type.into(), ciphertext.into());
        Self { branch_key_id, item_type, ciphertext, hierarchy_version, attributes }
    }
}

/// Shows the ciphertext in base64.
impl fmt::Debug for BranchKeyItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BranchKeyItem")
            .field("branch_key_id", &self.branch_key_id)
            .field("item_type", &self.item_type)
            .field("ciphertext", &Base64::encode_string(&self.ciphertext))
            .field("hierarchy_version", &self.hierarchy_version)
            .field("attributes", &self.attributes)
            .finish()
    }
}
