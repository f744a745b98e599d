//! The store for object_store 0.14.

/// The version of object_store.
pub use object_store_0_14 as object_store;

#[path = "store.rs"]
mod store;

pub use self::store::{EncryptedStore, Inspected, Inventory, Listed};
