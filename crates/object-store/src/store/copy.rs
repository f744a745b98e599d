//! Copying and renaming.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use uuid::Uuid;

use super::{
    Core,
    list::STAGING,
    object_store::{
        self, CopyMode, CopyOptions, GetOptions, GetResult, GetResultPayload, MultipartUpload, ObjectStore,
        ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, RenameOptions, RenameTargetMode, Result, path::Path,
    },
    read::MAX_DETACHED_KEYS,
    upload::Upload,
};

impl<T: ObjectStore> Core<T> {
    pub(super) async fn copy(self: &Arc<Self>, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.check_name(from)?;
        self.check_name(to)?;
        // A copy to the same name is how an object gets another data key.
        if from == to || !self.shared.contexts.are_equal(from.as_ref(), to.as_ref()) {
            return self.seal_for(from, to, options).await;
        }
        let keys = self.offer_detached_keys(from, to).await?;
        self.inner.copy_opts(from, to, options).await?;
        self.forget(to);
        self.replace_detached_keys(to, keys).await
    }

    pub(super) async fn rename(self: &Arc<Self>, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.check_name(from)?;
        self.check_name(to)?;
        let RenameOptions { target_mode, extensions } = options;
        if self.shared.contexts.are_equal(from.as_ref(), to.as_ref()) {
            let keys = self.offer_detached_keys(from, to).await?;
            self.inner.rename_opts(from, to, RenameOptions { target_mode, extensions }).await?;
            self.forget(to);
            self.replace_detached_keys(to, keys).await?;
        } else {
            let mode = match target_mode {
                RenameTargetMode::Overwrite => CopyMode::Overwrite,
                RenameTargetMode::Create => CopyMode::Create,
            };
            self.seal_for(from, to, CopyOptions { mode, extensions }).await?;
            self.inner.delete(from).await?;
        }
        self.forget(from);
        if from == to { Ok(()) } else { self.delete_detached_keys(from).await }
    }

    /// Seals an object again, for another location. The destination appears when it is complete, or not at all.
    async fn seal_for(self: &Arc<Self>, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let CopyOptions { mode, extensions } = options;
        let (mut source, mut plaintext) = self.get_plaintext(from, &GetOptions::default()).await?;
        let is_long = source.meta.size > self.shared.part_len as u64;
        if is_long {
            // Under a limit of requests, an open one may keep the upload of parts from starting.
            plaintext = plaintext.in_parts(self);
        }
        source.payload = GetResultPayload::Stream(plaintext.into_stream());
        let attributes = source.attributes.clone();
        if !is_long {
            let sealed = self.seal(to, source.bytes().await?.into()).await?;
            let mode = match mode {
                CopyMode::Overwrite => PutMode::Overwrite,
                CopyMode::Create => PutMode::Create,
            };
            let options = PutOptions { mode, attributes, extensions, ..PutOptions::default() };
            return self.put_sealed(to, sealed, options).await.map(drop);
        }
        let upload_options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        match mode {
            CopyMode::Overwrite => {
                let upload = self.start_upload_to(to, to, upload_options).await?;
                upload_all(upload, source, async || Ok(())).await
            }
            // No store has a conditional multipart upload.
            CopyMode::Create => {
                let staging = staging_path(to)?;
                let upload = self.start_upload_to(&staging, to, upload_options).await?;
                let options = RenameOptions { target_mode: RenameTargetMode::Create, extensions };
                let renamed = async {
                    upload_all(upload, source, async || Ok(())).await?;
                    self.inner.rename_opts(&staging, to, options).await
                };
                if let Err(error) = renamed.await {
                    // The first error is the one that matters.
                    let _ = self.inner.delete(&staging).await;
                    return Err(error);
                }
                self.forget(to);
                Ok(())
            }
        }
    }

    /// Stores the detached keys of an object beside its copy, before there is a copy: without them, nobody may be able
    /// to open it. If there are other keys, they stay, and [`replace_detached_keys`](Self::replace_detached_keys)
    /// replaces them.
    async fn offer_detached_keys(self: &Arc<Self>, from: &Path, to: &Path) -> Result<OfferedKeys> {
        let Some((from, to)) = self.detached_path(from).zip(self.detached_path(to)) else {
            return Ok(OfferedKeys::Stored);
        };
        let keys = match self.request_bytes(&from, &GetOptions::default(), 0..MAX_DETACHED_KEYS).await {
            Ok((_, keys)) => keys,
            Err(object_store::Error::NotFound { .. }) => return Ok(OfferedKeys::Stored),
            Err(error) => return Err(error),
        };
        match self.inner.put_opts(&to, keys.clone().into(), PutMode::Create.into()).await {
            Ok(_) => Ok(OfferedKeys::Stored),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(OfferedKeys::Refused(keys)),
            Err(error) => Err(error),
        }
    }

    /// Makes the detached keys of a copy those of its source, if that has any. Others are ignored.
    async fn replace_detached_keys(&self, to: &Path, keys: OfferedKeys) -> Result<()> {
        match (keys, self.detached_path(to)) {
            (OfferedKeys::Refused(keys), Some(to)) => self.inner.put(&to, keys.into()).await.map(drop),
            _ => Ok(()),
        }
    }
}

/// The detached keys of an object that is copied.
enum OfferedKeys {
    /// The copy has them, or there are none.
    Stored,
    /// The copy's name has others.
    Refused(Bytes),
}

/// Uploads the plaintext of a source. If that fails, or if the check after the last part does, nothing is left.
pub(super) async fn upload_all<T: ObjectStore>(
    mut upload: Upload<T>,
    source: GetResult,
    check: impl AsyncFnOnce() -> Result<()>,
) -> Result<()> {
    let uploaded = async {
        let mut plaintext = source.into_stream();
        while let Some(piece) = plaintext.try_next().await? {
            upload.put_part(piece.into()).await?;
        }
        check().await?;
        upload.complete().await.map(drop)
    };
    let uploaded = uploaded.await;
    if uploaded.is_err() {
        let _ = upload.abort().await;
    }
    uploaded
}

/// Returns a name beside `to` that no other copy uses.
fn staging_path(to: &Path) -> Result<Path> {
    let name = format!("{STAGING}{}", Uuid::new_v4());
    let parent = to.as_ref().rsplit_once('/').map(|(parent, _)| parent);
    Ok(Path::parse(parent.map_or(name.clone(), |parent| format!("{parent}/{name}")))?)
}
