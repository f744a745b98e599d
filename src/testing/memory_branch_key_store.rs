//! A store of branch keys in memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use async_trait::async_trait;

use crate::provider::{
    ProviderError,
    branch_key::{BranchKeyItem, BranchKeyStore, store::conflict},
};

/// A [`BranchKeyStore`] in memory, for tests. Clones share the items.
///
/// [`items`](Self::items), [`put`](Self::put) and [`remove`](Self::remove) read and change the items directly, for
/// example to test how your code handles an item that was modified.
///
/// ```
/// use kms_envelope::{provider::branch_key::BranchKeyItem, testing::MemoryBranchKeyStore};
///
/// let store = MemoryBranchKeyStore::new();
/// let item = BranchKeyItem::new("tenant-acme", BranchKeyItem::ACTIVE, [1, 2, 3], 1, Default::default());
/// store.put(item.clone());
/// assert_eq!(store.clone().items(), [item]);
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryBranchKeyStore(Arc<Mutex<Items>>);

/// The items by branch key id and type.
type Items = BTreeMap<(String, String), BranchKeyItem>;

impl MemoryBranchKeyStore {
    /// Creates an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns all items, sorted by branch key id and type.
    pub fn items(&self) -> Vec<BranchKeyItem> {
        self.lock().values().cloned().collect()
    }

    /// Adds an item, or replaces the item with the same branch key id and type. Returns the replaced item, if any.
    pub fn put(&self, item: BranchKeyItem) -> Option<BranchKeyItem> {
        self.lock().insert(key_of(&item), item)
    }

    /// Removes an item. Returns it, if it existed.
    pub fn remove(&self, branch_key_id: &str, item_type: &str) -> Option<BranchKeyItem> {
        self.lock().remove(&(branch_key_id.to_owned(), item_type.to_owned()))
    }

    fn lock(&self) -> MutexGuard<'_, Items> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key_of(item: &BranchKeyItem) -> (String, String) {
    (item.branch_key_id.clone(), item.item_type.clone())
}

#[async_trait]
impl BranchKeyStore for MemoryBranchKeyStore {
    async fn get(
        &self,
        branch_key_id: &str,
        item_type: &str,
        _: Instant,
    ) -> Result<Option<BranchKeyItem>, ProviderError> {
        Ok(self.lock().get(&(branch_key_id.to_owned(), item_type.to_owned())).cloned())
    }

    async fn create(&self, items: &[BranchKeyItem], _: Instant) -> Result<(), ProviderError> {
        let mut all = self.lock();
        match items.iter().find(|item| all.contains_key(&key_of(item))) {
            Some(item) => Err(conflict("CreateItems", item, "exists already")),
            None => {
                all.extend(items.iter().map(|item| (key_of(item), item.clone())));
                Ok(())
            }
        }
    }

    async fn replace(
        &self,
        version: &BranchKeyItem,
        active: &BranchKeyItem,
        expected_ciphertext: &[u8],
        _: Instant,
    ) -> Result<(), ProviderError> {
        let mut all = self.lock();
        if all.contains_key(&key_of(version)) {
            return Err(conflict("ReplaceItem", version, "exists already"));
        }
        if all.get(&key_of(active)).is_none_or(|current| current.ciphertext != expected_ciphertext) {
            return Err(conflict("ReplaceItem", active, "has been replaced or removed"));
        }
        all.extend([version, active].map(|item| (key_of(item), item.clone())));
        Ok(())
    }
}
