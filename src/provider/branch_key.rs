//! Branch keys: AWS's hierarchical keyring and its key store.
//!
//! A branch key is a key of 32 bytes that encrypts data keys in this process. It is itself encrypted under a KMS key,
//! and that ciphertext is in a [`BranchKeyStore`]: a DynamoDB table with the crate `kms-envelope-dynamodb`, a folder
//! with `FolderStore` (feature `branch-key-folder`), or a store of your own. One request to the store and one to KMS
//! make a branch key usable for many messages, and each of them still has its own data key. The guide describes [when
//! to use branch keys](crate::guide::branch_keys), and how to permit and rotate them.
//!
//! Specification: `framework/branch-key-store.md`, `framework/aws-kms/aws-kms-hierarchical-keyring.md`.

#[cfg(feature = "aws-kms")]
mod branch_keys;
#[cfg(feature = "aws-kms")]
mod checked_item;
#[cfg(feature = "branch-key-folder")]
mod folder_store;
#[cfg(feature = "aws-kms")]
pub(super) mod hierarchical;
mod item;
mod key;
mod keyring;
#[cfg(feature = "aws-kms")]
mod kms_configuration;
pub(super) mod static_branch_key;
pub(crate) mod store;

#[cfg(feature = "aws-kms")]
pub use branch_keys::{BeaconKey, BranchKeys};
#[cfg(feature = "branch-key-folder")]
pub use folder_store::FolderStore;
#[cfg(feature = "aws-kms")]
pub use hierarchical::AwsKmsHierarchicalBuilder;
pub use item::BranchKeyItem;
pub use key::BranchKey;
#[cfg(feature = "aws-kms")]
pub use kms_configuration::KmsConfiguration;
pub use store::BranchKeyStore;
