//! The store for object_store 0.13.

/// The version of object_store.
pub use object_store_0_13 as object_store;

#[path = "store.rs"]
mod store;

pub use self::store::{EncryptedStore, Inspected, Inventory, Listed};
