//! Branch keys: AWS's hierarchical keyring and its key store.
//!
//! A branch key is a key of 32 bytes that encrypts data keys in this process. It is itself encrypted under a KMS key, and
//! that ciphertext is in a [`BranchKeyStore`]: a DynamoDB table with the crate `kms-envelope-dynamodb`, or a store of
//! your own. One request to the store and one to KMS make a branch key usable for many messages, and each of them still
//! has its own data key.
//!
//! Specification: `framework/branch-key-store.md`, `framework/aws-kms/aws-kms-hierarchical-keyring.md`.

mod item;
mod static_branch_key;
mod store;

pub use item::BranchKeyItem;
pub use static_branch_key::StaticBranchKey;
pub use store::BranchKeyStore;
