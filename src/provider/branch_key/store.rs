//! The storage of branch keys.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;

use super::BranchKeyItem;
use crate::provider::ProviderError;

/// The storage of branch keys, such as a DynamoDB table. It holds KMS ciphertexts and never a branch key in plaintext.
///
/// The crate `kms-envelope-dynamodb` implements it for the tables of AWS's SDKs, and `FolderStore` (feature
/// `branch-key-folder`) for a folder. To use another database, implement it yourself, and test your implementation with [`StoreConformance`](crate::testing::StoreConformance) (feature `mock`).
/// An item is identified by its branch key id and its type.
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
    /// Returns an error of kind [`Conflict`](crate::provider::ProviderErrorKind::Conflict) if `version` exists, or if the
    /// ciphertext of the current item `branch:ACTIVE` is not `expected_ciphertext`: another caller has replaced it. The
    /// same applies if there is no such item.
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
