//! The storage of branch keys.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;

use super::BranchKeyItem;
use crate::provider::ProviderError;
#[cfg(any(feature = "branch-key-folder", feature = "mock"))]
use crate::provider::ProviderErrorKind;

/// The storage of branch keys, such as a DynamoDB table. It holds KMS ciphertexts and never a branch key in plaintext.
///
/// The crate `kms-envelope-dynamodb` implements it for the tables of AWS's SDKs, and `FolderStore` (feature
/// `branch-key-folder`) for a folder. To use another database, implement it yourself, and test your implementation with
/// [`StoreConformance`](crate::testing::StoreConformance) (feature `mock`). An item is identified by its branch key id
/// and its type.
///
/// # With SQL
/// The example program `branch_keys` in the repository (`examples/services`) has a complete store with these
/// statements. Text must be compared byte by byte, so some databases need a binary collation.
///
/// ```sql
/// CREATE TABLE branch_keys (
///     branch_key_id TEXT NOT NULL, type TEXT NOT NULL, enc BLOB NOT NULL, hierarchy_version INTEGER NOT NULL,
///     attributes TEXT NOT NULL, -- JSON
///     PRIMARY KEY (branch_key_id, type));
///
/// -- get
/// SELECT * FROM branch_keys WHERE branch_key_id = ? AND type = ?;
///
/// -- create: one transaction. If an item exists, the database refuses the INSERT: a conflict
/// INSERT INTO branch_keys VALUES (?, ?, ?, ?, ?); -- for each item
///
/// -- replace: one transaction. If the DELETE affects no row, or the database refuses an INSERT: a conflict, roll back
/// DELETE FROM branch_keys WHERE branch_key_id = ? AND type = 'branch:ACTIVE' AND enc = ?; -- the expected ciphertext
/// INSERT INTO branch_keys VALUES (?, ?, ?, ?, ?); -- the active item, and the version
/// ```
///
/// # Errors
/// The methods return a [`ProviderError`] of a kind that fits, such as
/// [`Unavailable`](crate::provider::ProviderErrorKind::Unavailable), so that callers can decide about a retry.
///
/// # Deadlines and cancellation
/// Each method must return by its `deadline`. If its future is dropped, a write has happened completely or not at all.
#[async_trait]
pub trait BranchKeyStore: Send + Sync {
    /// Returns the item with this branch key id and type, or `None` if it does not exist.
    async fn get(
        &self,
        branch_key_id: &str,
        item_type: &str,
        deadline: Instant,
    ) -> Result<Option<BranchKeyItem>, ProviderError>;

    /// Adds the items of a new branch key: all of them, or none.
    ///
    /// # Errors
    /// Returns an error of kind [`Conflict`](crate::provider::ProviderErrorKind::Conflict) if any of the items exists.
    async fn create(&self, items: &[BranchKeyItem], deadline: Instant) -> Result<(), ProviderError>;

    /// Adds the item `version`, and replaces the item `branch:ACTIVE` of the same branch key by `active`: both, or
    /// neither.
    ///
    /// # Errors
    /// Returns an error of kind [`Conflict`](crate::provider::ProviderErrorKind::Conflict) if `version` exists, or if
    /// the ciphertext of the current item `branch:ACTIVE` is not `expected_ciphertext`: another caller has replaced it.
    /// The same applies if there is no such item.
    async fn replace(
        &self,
        version: &BranchKeyItem,
        active: &BranchKeyItem,
        expected_ciphertext: &[u8],
        deadline: Instant,
    ) -> Result<(), ProviderError>;
}

/// Implements `BranchKeyStore` for a pointer to a store.
macro_rules! pointer {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<S: BranchKeyStore + ?Sized> BranchKeyStore for $pointer<S> {
            async fn get(
                &self,
                branch_key_id: &str,
                item_type: &str,
                deadline: Instant,
            ) -> Result<Option<BranchKeyItem>, ProviderError> {
                S::get(self, branch_key_id, item_type, deadline).await
            }

            async fn create(&self, items: &[BranchKeyItem], deadline: Instant) -> Result<(), ProviderError> {
                S::create(self, items, deadline).await
            }

            async fn replace(
                &self,
                version: &BranchKeyItem,
                active: &BranchKeyItem,
                expected_ciphertext: &[u8],
                deadline: Instant,
            ) -> Result<(), ProviderError> {
                S::replace(self, version, active, expected_ciphertext, deadline).await
            }
        }
    };
}

pointer!(Arc);
pointer!(Box);

/// Returns the error of a write that an item prevents.
#[cfg(any(feature = "branch-key-folder", feature = "mock"))]
pub(crate) fn conflict(operation: &'static str, item: &BranchKeyItem, what: &str) -> ProviderError {
    let detail = format!("the item of type {} {what}", item.item_type);
    ProviderError::new(ProviderErrorKind::Conflict, operation, &item.branch_key_id).with_detail(detail)
}
