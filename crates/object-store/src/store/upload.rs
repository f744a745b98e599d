//! Writing objects.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker, ready},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use kms_envelope::{SealError, stream::Sealer};
use tokio::{runtime::Handle, task::JoinSet};

use super::{
    Core,
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

/// The number of batches that one poll seals.
const BATCHES: usize = 4;

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
        self.forget(location);
        Ok(result)
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
        self.upload_of(sealer, staging, self.shared.part_len, options).await
    }

    /// Starts an upload to `location` of what `sealer` seals, in parts of this length.
    pub(super) async fn upload_of(
        self: &Arc<Self>,
        sealer: Sealer,
        location: &Path,
        part_len: usize,
        options: PutMultipartOptions,
    ) -> Result<Upload<T>> {
        let writer = Writer {
            parts: Parts::new(sealer, part_len),
            in_flight: FuturesUnordered::new(),
            waiting: Arc::default(),
            state: State::Open,
        };
        Ok(Upload(Arc::new(Uploading {
            core: self.clone(),
            location: location.clone(),
            plaintext: Mutex::new(Some(VecDeque::new())),
            inner: self.inner.put_multipart_opts(location, options).await?.into(),
            writer: writer.into(),
        })))
    }
}

/// Seals all of a payload, and lets other tasks run in between.
pub(super) async fn seal_all(mut sealer: Sealer, payload: PutPayload) -> Result<Bytes, SealError> {
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
pub(super) struct Upload<T>(Arc<Uploading<T>>);

/// The state that an upload shares with the futures of its parts.
struct Uploading<T> {
    core: Arc<Core<T>>,
    location: Path,
    /// The parts of the plaintext that have not been sealed, in the order of the calls. `None` once the upload has failed
    /// or ended.
    plaintext: Mutex<Option<VecDeque<Bytes>>>,
    inner: tokio::sync::Mutex<Box<dyn MultipartUpload>>,
    /// Locked only while it is polled: a future that the caller does not poll any more must not stop the others.
    writer: Mutex<Writer>,
}

struct Writer {
    parts: Parts,
    /// The parts that are being uploaded. Dropping one cancels it.
    in_flight: FuturesUnordered<UploadPart>,
    waiting: Arc<Waiting>,
    state: State,
}

enum State {
    Open,
    /// Completed or aborted.
    Ended,
    /// Holds the text of the first error.
    Failed(String),
}

/// The callers that wait for an upload. All are woken, because any of them may not be polled any more.
#[derive(Default)]
struct Waiting(Mutex<Vec<Waker>>);

impl Waiting {
    fn add(&self, waker: &Waker) {
        let mut waiting = lock(&self.0);
        if !waiting.iter().any(|other| other.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        let waiting = std::mem::take(&mut *lock(&self.0));
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl<T: ObjectStore> Uploading<T> {
    fn poll(
        &self,
        cx: &Context<'_>,
        step: impl FnOnce(&Self, &mut Writer, &mut Context<'_>) -> Poll<Result<()>>,
    ) -> Poll<Result<()>> {
        let writer = &mut *lock(&self.writer);
        match &writer.state {
            State::Open => {}
            State::Ended => return Poll::Ready(Err(self.ended().into())),
            State::Failed(reason) => {
                let (location, reason) = (self.location.to_string(), reason.clone());
                return Poll::Ready(Err(Error::UploadFailed { location, reason }.into()));
            }
        }
        writer.waiting.add(cx.waker());
        let polled = step(self, writer, &mut Context::from_waker(&writer.waiting.clone().into()));
        polled.map(|result| {
            // Others may wait for the same.
            writer.waiting.clone().wake();
            self.keep_failure(writer, result)
        })
    }

    /// Seals the plaintext, and starts to upload the parts that are complete.
    fn poll_write(&self, writer: &mut Writer, cx: &mut Context<'_>) -> Poll<Result<()>> {
        for _ in 0..BATCHES {
            ready!(self.poll_upload(writer, cx))?;
            let Some(batch) = next_batch(&self.plaintext) else { return Poll::Ready(Ok(())) };
            writer.parts.push(&batch).map_err(|source| self.seal_error(source))?;
        }
        // Let other tasks run.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Starts to upload the parts that are complete.
    fn poll_upload(&self, writer: &mut Writer, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            while let Poll::Ready(Some(done)) = writer.in_flight.poll_next_unpin(cx) {
                done?;
            }
            if writer.parts.has_next() && writer.in_flight.len() >= self.core.shared.parts_in_flight {
                return Poll::Pending;
            }
            let Some(part) = writer.parts.next() else { return Poll::Ready(Ok(())) };
            let part = PutPayload::from_iter(part);
            let counters = &self.core.shared.counters;
            Counters::add(&counters.write_requests, 1);
            Counters::add(&counters.bytes_written, part.content_length() as u64);
            let mut inner = self.inner.try_lock().map_err(|_| self.ended())?;
            writer.in_flight.push(spawned(inner.put_part(part)));
        }
    }

    /// Uploads everything.
    fn poll_finish(&self, writer: &mut Writer, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_write(writer, cx))?;
        if !writer.parts.is_finished() {
            writer.parts.finish().map_err(|source| self.seal_error(source))?;
        }
        ready!(self.poll_upload(writer, cx))?;
        while let Some(done) = ready!(writer.in_flight.poll_next_unpin(cx)) {
            done?;
        }
        Poll::Ready(Ok(()))
    }

    fn ended(&self) -> Error {
        Error::UploadEnded { location: self.location.to_string() }
    }

    fn keep_failure<R>(&self, writer: &mut Writer, result: Result<R>) -> Result<R> {
        if let Err(error) = &result {
            let location = &self.location;
            warn!(%location, %error, "an upload failed");
            writer.state = State::Failed(error.to_string());
            self.discard(writer);
        }
        result
    }

    /// Drops what has not been uploaded, and what is passed from now on.
    fn discard(&self, writer: &mut Writer) {
        *lock(&self.plaintext) = None;
        writer.parts.clear();
        writer.in_flight.clear();
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
fn next_batch(plaintext: &Mutex<Option<VecDeque<Bytes>>>) -> Option<Bytes> {
    let mut plaintext = lock(plaintext);
    let plaintext = plaintext.as_mut()?;
    let first = plaintext.front_mut()?;
    if first.len() > SEAL_BATCH {
        return Some(first.split_to(SEAL_BATCH));
    }
    plaintext.pop_front()
}

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait::async_trait]
impl<T: ObjectStore> MultipartUpload for Upload<T> {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let upload = self.0.clone();
        if let Some(plaintext) = &mut *lock(&upload.plaintext) {
            plaintext.extend(data);
        }
        Box::pin(poll_fn(move |cx| upload.poll(cx, Uploading::poll_write)))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let upload = &*self.0;
        poll_fn(|cx| upload.poll(cx, Uploading::poll_finish)).await?;
        let completed = upload.inner.lock().await.complete().await;
        let result = upload.keep_failure(&mut lock(&upload.writer), completed)?;
        {
            let mut writer = lock(&upload.writer);
            writer.state = State::Ended;
            upload.discard(&mut writer);
        }
        upload.core.forget(&upload.location);
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        let upload = &*self.0;
        {
            let mut writer = lock(&upload.writer);
            if matches!(writer.state, State::Ended) {
                return Err(upload.ended().into());
            }
            // An abort that fails can be repeated.
            writer.state = State::Failed("it was aborted".into());
            upload.discard(&mut writer);
            writer.waiting.clone().wake();
        }
        upload.inner.lock().await.abort().await?;
        lock(&upload.writer).state = State::Ended;
        Ok(())
    }
}

impl<T> fmt::Debug for Upload<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").finish_non_exhaustive()
    }
}
