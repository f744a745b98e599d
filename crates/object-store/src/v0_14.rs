//! The store for object_store 0.14.

/// The version of object_store.
pub use object_store_0_14 as object_store;

#[path = "store/copy.rs"]
mod copy;
#[path = "store/encrypted_store.rs"]
mod encrypted_store;
#[path = "store/list.rs"]
mod list;
#[path = "store/read.rs"]
mod read;
#[path = "store/source.rs"]
mod source;
#[path = "store/upload.rs"]
mod upload;

pub use self::encrypted_store::EncryptedStore;
