//! Lists, metadata and deletion.

use std::sync::Arc;

use futures_util::{
    StreamExt, TryStreamExt, future,
    stream::{self, BoxStream},
};

use super::{
    Core,
    object_store::{self, GetOptions, ListResult, ObjectMeta, ObjectStore, ObjectStoreExt, Result, path::Path},
};
use crate::Error;

/// The number of headers that a list looks up at the same time, and of detached keys that are deleted.
const LOOK_UPS: usize = 16;

/// The number of objects that are deleted before their detached keys: as many as S3 deletes with one request.
const DELETIONS: usize = 1000;

/// The start of the names of objects that are being copied.
pub(super) const STAGING: &str = ".kms-envelope-staging-";

impl<T: ObjectStore> Core<T> {
    /// Returns whether programs do not see this object: detached keys, and objects that are being copied.
    pub(super) fn is_hidden(&self, location: &Path) -> bool {
        let is_staging = location.filename().is_some_and(|name| name.starts_with(STAGING));
        let suffix = self.shared.detached_keys.as_deref();
        is_staging || suffix.is_some_and(|suffix| location.as_ref().ends_with(suffix))
    }

    /// Returns the path of an object's detached keys, if the store looks for them.
    pub(super) fn detached_path(&self, location: &Path) -> Option<Path> {
        let suffix = self.shared.detached_keys.as_ref()?;
        Path::parse(format!("{location}{suffix}")).ok()
    }

    /// Returns the metadata of an object with the length of its plaintext. Objects that are not messages have their own
    /// length. If sizes are looked up, all metadata is that of the answer to the request with these options.
    pub(super) async fn plaintext_meta(
        self: &Arc<Self>,
        mut meta: ObjectMeta,
        options: &GetOptions,
    ) -> Result<ObjectMeta> {
        let geometry = if self.shared.looks_up_sizes {
            if meta.size == 0 {
                // Stores have no range of an empty object.
                return Ok(meta);
            }
            match self.read_header(&meta.location, options).await {
                Ok((found, _, header)) => {
                    meta = found;
                    header.geometry(meta.size).ok()
                }
                Err(object_store::Error::Generic { source, .. })
                    if matches!(source.downcast_ref(), Some(Error::Open { .. })) =>
                {
                    None
                }
                Err(error) => return Err(error),
            }
        } else {
            self.shared.layout.geometry(meta.size)
        };
        meta.size = geometry.map_or(meta.size, |geometry| geometry.plaintext_len());
        Ok(meta)
    }

    pub(super) fn listed(
        self: &Arc<Self>,
        sealed: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let (core, hiding) = (self.clone(), self.clone());
        let shown = sealed.try_filter(move |meta| future::ready(!hiding.is_hidden(&meta.location)));
        let with_size = move |meta: Result<ObjectMeta>| {
            let core = core.clone();
            async move {
                let meta = meta?;
                let options = GetOptions { version: meta.version.clone(), ..GetOptions::default() };
                match core.plaintext_meta(meta, &options).await {
                    // It was deleted after it was listed.
                    Err(object_store::Error::NotFound { .. }) => Ok(None),
                    meta => meta.map(Some),
                }
            }
        };
        shown.map(with_size).buffered(LOOK_UPS).try_filter_map(future::ok).boxed()
    }

    pub(super) async fn list_with_delimiter(self: &Arc<Self>, prefix: Option<&Path>) -> Result<ListResult> {
        let mut result = self.inner.list_with_delimiter(prefix).await?;
        let sealed = stream::iter(std::mem::take(&mut result.objects)).map(Ok).boxed();
        result.objects = self.listed(sealed).try_collect().await?;
        Ok(result)
    }

    pub(super) fn delete(
        self: &Arc<Self>,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (checking, deleting) = (self.clone(), self.clone());
        let allowed =
            locations.and_then(move |location| future::ready(checking.check_name(&location).map(|()| location)));
        if self.shared.detached_keys.is_none() {
            let deleted = self.inner.delete_stream(allowed.boxed());
            return deleted.inspect_ok(move |location| deleting.forget(location)).boxed();
        }
        // The keys are deleted while no other request is open, because the inner store may limit requests.
        let delete = move |locations: Vec<Result<Path>>| {
            let core = deleting.clone();
            async move {
                let deleted = core.inner.delete_stream(stream::iter(locations).boxed()).collect::<Vec<_>>().await;
                stream::iter(deleted)
                    .map(move |location| {
                        let core = core.clone();
                        async move {
                            let location = location?;
                            core.forget(&location);
                            core.delete_detached_keys(&location).await?;
                            Ok(location)
                        }
                    })
                    .buffered(LOOK_UPS)
            }
        };
        allowed.chunks(DELETIONS).then(delete).flatten().boxed()
    }

    /// Forgets the content of an object that was written or deleted.
    pub(super) fn forget(&self, location: &Path) {
        self.shared.objects.forget(&Self::name(location, None));
    }

    /// Deletes the detached keys of an object, if there are any.
    pub(super) async fn delete_detached_keys(&self, location: &Path) -> Result<()> {
        let Some(keys) = self.detached_path(location) else { return Ok(()) };
        match self.inner.delete(&keys).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
