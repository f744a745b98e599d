//! Writing objects.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use kms_envelope::{SealError, stream::Sealer};
use tokio::{runtime::Handle, task::JoinSet};

use super::{
    encrypted_store::Core,
    object_store::{
        self, MultipartUpload, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
        path::Path,
    },
};
use crate::{
    Error,
    events::warn,
    parts::{Parts, SEAL_BATCH},
    stats::Counters,
};

impl<T: ObjectStore> Core<T> {
    pub(super) async fn put(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.check_name(location)?;
        let sealed = self.seal(location, payload).await?;
        self.put_sealed(location, sealed, options).await
    }

    /// Seals an object of which all bytes are in memory.
    pub(super) async fn seal(&self, location: &Path, payload: PutPayload) -> Result<Bytes, Error> {
        let sealer = self.shared.sealer(location.as_ref()).await?;
        seal_all(sealer, payload).await.map_err(|error| Error::seal(location, error))
    }

    pub(super) async fn put_sealed(&self, location: &Path, sealed: Bytes, options: PutOptions) -> Result<PutResult> {
        Counters::add(&self.shared.counters.write_requests, 1);
        Counters::add(&self.shared.counters.bytes_written, sealed.len() as u64);
        let result = self.inner.put_opts(location, sealed.into(), options).await?;
        self.written(location).await;
        Ok(result)
    }

    /// Forgets what belonged to an object that was replaced. Detached keys that remain do no harm: those of another
    /// message are ignored.
    pub(super) async fn written(&self, location: &Path) {
        self.forget(location);
        if let Err(error) = self.delete_detached_keys(location).await {
            warn!(%location, %error, "cannot delete the detached keys of an object that was replaced");
        }
    }

    pub(super) async fn start_upload(
        self: &Arc<Self>,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Upload<T>> {
        self.check_name(location)?;
        self.start_upload_to(location, location, options).await
    }

    /// Starts an upload to `staging` of an object that is sealed for another location.
    pub(super) async fn start_upload_to(
        self: &Arc<Self>,
        staging: &Path,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Upload<T>> {
        let sealer = self.shared.sealer(location.as_ref()).await?;
        let writer = Writer {
            core: self.clone(),
            location: staging.clone(),
            parts: Parts::new(sealer, self.shared.part_len),
            inner: self.inner.put_multipart_opts(staging, options).await?,
            in_flight: FuturesUnordered::new(),
            state: State::Open,
        };
        Ok(Upload { plaintext: Arc::default(), writer: Arc::new(tokio::sync::Mutex::new(writer)) })
    }
}

/// Seals all of a payload, and lets other tasks run in between.
async fn seal_all(mut sealer: Sealer, payload: PutPayload) -> Result<Bytes, SealError> {
    let len = sealer.sealed_len(payload.content_length() as u64)?;
    let len = usize::try_from(len).map_err(|_| SealError::TooLongForMemory { len })?;
    let (mut sealed, mut written) = (vec![0; len], 0);
    for batch in payload.iter().flat_map(|piece| piece.chunks(SEAL_BATCH)) {
        written += sealer.update(batch, &mut sealed[written..])?;
        tokio::task::yield_now().await;
    }
    sealer.finish(&mut sealed[written..])?;
    Ok(sealed.into())
}

/// A multipart upload.
///
/// The inner store gets parts of equal length, whatever the lengths of the parts of the plaintext are.
pub(super) struct Upload<T> {
    /// The parts of the plaintext that have not been sealed, in the order of the calls.
    plaintext: Arc<Mutex<VecDeque<Bytes>>>,
    writer: Arc<tokio::sync::Mutex<Writer<T>>>,
}

struct Writer<T> {
    core: Arc<Core<T>>,
    location: Path,
    parts: Parts,
    inner: Box<dyn MultipartUpload>,
    /// The parts that are being uploaded. Dropping one cancels it.
    in_flight: FuturesUnordered<UploadPart>,
    state: State,
}

enum State {
    Open,
    /// Completed or aborted.
    Ended,
    /// Holds the text of the first error.
    Failed(String),
}

impl<T: ObjectStore> Writer<T> {
    /// Seals the plaintext, and starts to upload the parts that are complete. It is cancel safe.
    async fn write(&mut self, plaintext: &Mutex<VecDeque<Bytes>>) -> Result<()> {
        self.check_open()?;
        let written = self.try_write(plaintext).await;
        self.keep_failure(written)
    }

    async fn try_write(&mut self, plaintext: &Mutex<VecDeque<Bytes>>) -> Result<()> {
        loop {
            self.upload_complete_parts().await?;
            let Some(batch) = next_batch(plaintext) else { return Ok(()) };
            self.parts.push(&batch).map_err(|source| self.seal_error(source))?;
        }
    }

    async fn upload_complete_parts(&mut self) -> Result<()> {
        loop {
            while let Some(Some(done)) = self.in_flight.next().now_or_never() {
                done?;
            }
            if self.in_flight.len() >= self.core.shared.parts_in_flight {
                self.in_flight.next().await.transpose()?;
            }
            let Some(part) = self.parts.next() else { return Ok(()) };
            let counters = &self.core.shared.counters;
            Counters::add(&counters.write_requests, 1);
            Counters::add(&counters.bytes_written, part.len() as u64);
            self.in_flight.push(spawned(self.inner.put_part(part.into())));
        }
    }

    async fn complete(&mut self, plaintext: &Mutex<VecDeque<Bytes>>) -> Result<PutResult> {
        self.check_open()?;
        let completed = self.try_complete(plaintext).await;
        let result = self.keep_failure(completed)?;
        self.state = State::Ended;
        self.core.written(&self.location).await;
        Ok(result)
    }

    async fn try_complete(&mut self, plaintext: &Mutex<VecDeque<Bytes>>) -> Result<PutResult> {
        self.try_write(plaintext).await?;
        if !self.parts.is_finished() {
            self.parts.finish().map_err(|source| self.seal_error(source))?;
        }
        self.upload_complete_parts().await?;
        while let Some(done) = self.in_flight.next().await {
            done?;
        }
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        if matches!(self.state, State::Ended) {
            return Err(Error::UploadEnded { location: self.location.to_string() }.into());
        }
        self.state = State::Ended;
        self.in_flight.clear();
        self.inner.abort().await
    }

    fn check_open(&self) -> Result<(), Error> {
        let location = || self.location.to_string();
        match &self.state {
            State::Open => Ok(()),
            State::Ended => Err(Error::UploadEnded { location: location() }),
            State::Failed(reason) => Err(Error::UploadFailed { location: location(), reason: reason.clone() }),
        }
    }

    fn keep_failure<R>(&mut self, result: Result<R>) -> Result<R> {
        if let Err(error) = &result {
            let location = &self.location;
            warn!(%location, %error, "an upload failed");
            self.state = State::Failed(error.to_string());
        }
        result
    }

    fn seal_error(&self, source: SealError) -> object_store::Error {
        Error::seal(&self.location, source).into()
    }
}

/// Lets a part be uploaded while nobody waits for it, if there is a runtime.
fn spawned(uploading: UploadPart) -> UploadPart {
    let Ok(runtime) = Handle::try_current() else { return uploading };
    let mut task = JoinSet::new();
    task.spawn_on(uploading, &runtime);
    Box::pin(async move { task.join_next().await.transpose()?.unwrap_or(Ok(())) })
}

/// Removes the next bytes of the plaintext, as many as are sealed at once.
fn next_batch(plaintext: &Mutex<VecDeque<Bytes>>) -> Option<Bytes> {
    let mut plaintext = lock(plaintext);
    let first = plaintext.front_mut()?;
    if first.len() > SEAL_BATCH {
        return Some(first.split_to(SEAL_BATCH));
    }
    plaintext.pop_front()
}

fn lock(plaintext: &Mutex<VecDeque<Bytes>>) -> MutexGuard<'_, VecDeque<Bytes>> {
    plaintext.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait::async_trait]
impl<T: ObjectStore> MultipartUpload for Upload<T> {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        lock(&self.plaintext).extend(data);
        let (plaintext, writer) = (self.plaintext.clone(), self.writer.clone());
        Box::pin(async move { writer.lock().await.write(&plaintext).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.writer.lock().await.complete(&self.plaintext).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.writer.lock().await.abort().await
    }
}

impl<T> fmt::Debug for Upload<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").finish_non_exhaustive()
    }
}
