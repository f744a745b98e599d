//! The store. It is compiled for each version of object_store, the `object_store` of the module above.

#[path = "store/copy.rs"]
mod copy;
#[path = "store/inventory.rs"]
mod inventory;
#[path = "store/list.rs"]
mod list;
#[path = "store/read.rs"]
mod read;
#[path = "store/rewrap.rs"]
mod rewrap;
#[path = "store/source.rs"]
mod source;
#[path = "store/upload.rs"]
mod upload;
#[path = "store/url.rs"]
mod url;

use std::{fmt, ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use kms_envelope::{EncryptionContext, message::Header};

pub use self::inventory::{Inspected, Inventory, Listed};
use super::object_store::{
    self, CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, path::Path,
};
use crate::{Error, SettingsError, StoreSettings, StoreStats, objects::Name, settings::Shared};

/// An [`ObjectStore`] that encrypts the objects of another one.
///
/// Programs see the plaintext of the objects, with its length and ranges. The inner store holds messages of the AWS
/// Encryption SDK, which `kms-envelope open` and AWS's SDKs can read. The [crate documentation](crate) has an example.
///
/// # Sizes
/// Sizes in lists and metadata are computed from the length of the sealed object, without a request. They are not
/// authenticated: an object that was truncated or exchanged is noticed when it is read. An object whose length no object
/// of this store can have is listed with its own length, and cannot be read.
///
/// # Reads
/// Each byte that is returned has been authenticated, and so has its position. A stream that ends without an error is
/// complete. The metadata in a result, other than the location and the size, is that of the inner store and not
/// authenticated; nor are attributes and tags, which are stored unencrypted.
///
/// # Errors
/// All methods return errors of the inner store unchanged. Other errors are `object_store::Error::Generic`, with an
/// [`Error`](crate::Error) as source unless a range is not valid.
pub struct EncryptedStore<T> {
    core: Arc<Core<T>>,
}

/// The inner store and the settings.
struct Core<T> {
    inner: T,
    shared: Shared,
}

impl<T: ObjectStore> EncryptedStore<T> {
    /// Creates a store that encrypts the objects of `inner`.
    ///
    /// # Errors
    /// Returns a [`SettingsError`] if the settings are not valid, or if the envelope's algorithm suite signs.
    pub fn new(inner: T, settings: StoreSettings) -> Result<Self, SettingsError> {
        Ok(Self { core: Arc::new(Core { inner, shared: settings.build()? }) })
    }

    /// Returns the inner store, which holds the sealed objects.
    pub fn inner(&self) -> &T {
        &self.core.inner
    }

    /// Returns the encryption context that the object at this location must have to be opened by this store, in the form
    /// that its header uses: a path is stored as text, or as its hash.
    ///
    /// Use it to open objects that the store itself does not read, such as signed messages.
    pub fn expected_context(&self, location: &Path, header: &Header) -> EncryptionContext {
        self.core.shared.contexts.expected(location.as_ref(), header.context())
    }

    /// Returns the number of requests and bytes since the store was created.
    pub fn stats(&self) -> StoreStats {
        self.core.shared.counters.stats()
    }

    /// Removes all data keys from the cache, and wipes them. Objects are then opened with new calls to the key provider.
    pub async fn clear_cache(&self) {
        self.core.shared.objects.clear().await;
    }

    /// Removes the data keys that are older than [`StoreSettings::cache_max_age`], and wipes them.
    ///
    /// They are never used after that age, but they may stay in memory until the next operations of the store.
    pub async fn remove_expired(&self) {
        self.core.shared.objects.remove_expired().await;
    }
}

impl<T> Clone for EncryptedStore<T> {
    /// Returns a handle to the same store, with the same cache.
    fn clone(&self) -> Self {
        Self { core: self.core.clone() }
    }
}

impl<T: fmt::Display> fmt::Display for EncryptedStore<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncryptedStore({})", self.core.inner)
    }
}

impl<T: fmt::Debug> fmt::Debug for EncryptedStore<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptedStore").field("inner", &self.core.inner).field("settings", &self.core.shared).finish()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait::async_trait]
impl<T: ObjectStore> ObjectStore for EncryptedStore<T> {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.core.put(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(self.core.start_upload(location, opts).await?))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.core.get(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.core.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.core.delete(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.core.listed(self.core.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.core.listed(self.core.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.core.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.core.copy(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.core.rename(from, to, options).await
    }
}

impl<T: ObjectStore> Core<T> {
    fn name(location: &Path, version: Option<&String>) -> Name {
        Name { location: location.to_string(), version: version.cloned() }
    }

    /// Returns an error if this name is reserved for objects that programs do not see.
    fn check_name(&self, location: &Path) -> Result<()> {
        if self.is_hidden(location) {
            Err(Error::ReservedName { location: location.to_string() }.into())
        } else {
            Ok(())
        }
    }
}

/// The name of this store in errors.
const STORE: &str = "kms-envelope";

impl From<Error> for object_store::Error {
    fn from(error: Error) -> Self {
        Self::Generic { store: STORE, source: Box::new(error) }
    }
}
