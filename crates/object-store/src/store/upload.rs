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
        let inner = Arc::new(tokio::sync::Mutex::new(self.inner.put_multipart_opts(staging, options).await?));
        let plaintext = Arc::default();
        let writer = Writer {
            plaintext: Arc::clone(&plaintext),
            parts: Parts::new(sealer, self.shared.part_len),
            inner: inner.clone(),
            in_flight: FuturesUnordered::new(),
            waiting: Arc::default(),
            state: State::Open,
            core: self.clone(),
            location: staging.clone(),
        };
        Ok(Upload {
            plaintext,
            writer: Arc::new(Mutex::new(writer)),
            inner,
            core: self.clone(),
            location: staging.clone(),
        })
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
    /// Locked only while it is polled: a future that the caller does not poll any more must not stop the others.
    writer: Arc<Mutex<Writer<T>>>,
    inner: Arc<tokio::sync::Mutex<Box<dyn MultipartUpload>>>,
    core: Arc<Core<T>>,
    location: Path,
}

struct Writer<T> {
    plaintext: Arc<Mutex<VecDeque<Bytes>>>,
    parts: Parts,
    inner: Arc<tokio::sync::Mutex<Box<dyn MultipartUpload>>>,
    /// The parts that are being uploaded. Dropping one cancels it.
    in_flight: FuturesUnordered<UploadPart>,
    waiting: Arc<Waiting>,
    state: State,
    core: Arc<Core<T>>,
    location: Path,
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

impl<T: ObjectStore> Writer<T> {
    fn poll(
        &mut self,
        cx: &Context<'_>,
        step: impl FnOnce(&mut Self, &mut Context<'_>) -> Poll<Result<()>>,
    ) -> Poll<Result<()>> {
        self.check_open()?;
        self.waiting.add(cx.waker());
        let polled = step(self, &mut Context::from_waker(&self.waiting.clone().into()));
        polled.map(|result| {
            // Others may wait for the same.
            self.waiting.clone().wake();
            self.keep_failure(result)
        })
    }

    /// Seals the plaintext, and starts to upload the parts that are complete.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        for _ in 0..BATCHES {
            ready!(self.poll_upload(cx))?;
            let Some(batch) = next_batch(&self.plaintext) else { return Poll::Ready(Ok(())) };
            self.parts.push(&batch).map_err(|source| self.seal_error(source))?;
        }
        // Let other tasks run.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Starts to upload the parts that are complete.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            while let Poll::Ready(Some(done)) = self.in_flight.poll_next_unpin(cx) {
                done?;
            }
            if self.parts.has_next() && self.in_flight.len() >= self.core.shared.parts_in_flight {
                return Poll::Pending;
            }
            let Some(part) = self.parts.next() else { return Poll::Ready(Ok(())) };
            let counters = &self.core.shared.counters;
            Counters::add(&counters.write_requests, 1);
            Counters::add(&counters.bytes_written, part.len() as u64);
            let mut inner = self.inner.try_lock().map_err(|_| self.ended())?;
            self.in_flight.push(spawned(inner.put_part(part.into())));
        }
    }

    /// Uploads everything.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_write(cx))?;
        if !self.parts.is_finished() {
            self.parts.finish().map_err(|source| self.seal_error(source))?;
        }
        ready!(self.poll_upload(cx))?;
        while let Some(done) = ready!(self.in_flight.poll_next_unpin(cx)) {
            done?;
        }
        Poll::Ready(Ok(()))
    }

    fn check_open(&self) -> Result<(), Error> {
        match &self.state {
            State::Open => Ok(()),
            State::Ended => Err(self.ended()),
            State::Failed(reason) => {
                Err(Error::UploadFailed { location: self.location.to_string(), reason: reason.clone() })
            }
        }
    }

    fn ended(&self) -> Error {
        Error::UploadEnded { location: self.location.to_string() }
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

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait::async_trait]
impl<T: ObjectStore> MultipartUpload for Upload<T> {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        lock(&self.plaintext).extend(data);
        let writer = self.writer.clone();
        Box::pin(poll_fn(move |cx| lock(&writer).poll(cx, Writer::poll_write)))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        poll_fn(|cx| lock(&self.writer).poll(cx, Writer::poll_finish)).await?;
        let completed = self.inner.lock().await.complete().await;
        let result = lock(&self.writer).keep_failure(completed)?;
        lock(&self.writer).state = State::Ended;
        self.core.written(&self.location).await;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        {
            let mut writer = lock(&self.writer);
            if matches!(writer.state, State::Ended) {
                return Err(writer.ended().into());
            }
            // An abort that fails can be repeated.
            writer.state = State::Failed("it was aborted".into());
            writer.in_flight.clear();
            writer.waiting.clone().wake();
        }
        self.inner.lock().await.abort().await?;
        lock(&self.writer).state = State::Ended;
        Ok(())
    }
}

impl<T> fmt::Debug for Upload<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").finish_non_exhaustive()
    }
}
