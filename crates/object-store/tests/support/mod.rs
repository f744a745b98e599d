//! A store over memory whose answers a test can change, and which records what is requested.

#![allow(dead_code, unused_imports, reason = "each test binary uses a part of it")]

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt, future::try_join_all, stream, stream::BoxStream};
use kms_envelope::{Envelope, RawAes};
pub(crate) use kms_envelope_object_store::{
    Binding, Error, StoreSettings,
    v0_14::{
        EncryptedStore,
        object_store::{self, memory::InMemory, path::Path, *},
    },
};
use tokio::sync::Semaphore;

pub(crate) const HEADER_LEN: usize = 512;
pub(crate) const FRAME_LEN: u32 = 64;
/// The distance between two frames of that length.
pub(crate) const STRIDE: usize = FRAME_LEN as usize + 32;

pub(crate) fn key(byte: u8) -> RawAes {
    RawAes::new("tests", format!("key-{byte}"), [byte; 32]).unwrap()
}

pub(crate) fn settings() -> StoreSettings {
    StoreSettings::new(Envelope::builder(key(7))).header_len(HEADER_LEN).frame_len(FRAME_LEN).part_len(200)
}

/// Returns bytes without a period, which depend on `seed`.
pub(crate) fn plaintext(len: usize, seed: u32) -> Bytes {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Returns the sealed form of an object at this location.
pub(crate) async fn sealed(settings: StoreSettings, location: &str, plaintext: &Bytes) -> Bytes {
    let store = EncryptedStore::new(InMemory::new(), settings).unwrap();
    store.put(&location.into(), plaintext.clone().into()).await.unwrap();
    stored(store.inner(), location)
}

/// Returns the bytes of an object in memory.
pub(crate) fn stored(store: &InMemory, location: &str) -> Bytes {
    let bytes = async { store.get(&location.into()).await.unwrap().bytes().await.unwrap() };
    bytes.now_or_never().unwrap()
}

/// Writes an object to memory.
pub(crate) fn store(store: &InMemory, location: &str, bytes: &Bytes) {
    store.put(&location.into(), bytes.clone().into()).now_or_never().unwrap().unwrap();
}

/// Returns the error of the encrypted store in an error of object_store.
pub(crate) fn cause(error: &object_store::Error) -> &Error {
    match error {
        object_store::Error::Generic { source, .. } => source.downcast_ref().unwrap_or_else(|| panic!("{error}")),
        other => panic!("not an error of the encrypted store: {other}"),
    }
}

pub(crate) fn failure() -> object_store::Error {
    object_store::Error::Generic { store: "faulty", source: "a fault".into() }
}

/// A request for an object.
pub(crate) struct Get<'a> {
    /// The number of requests since the hook was set.
    pub(crate) number: usize,
    pub(crate) location: Path,
    pub(crate) options: GetOptions,
    pub(crate) inner: &'a InMemory,
}

impl Get<'_> {
    /// Returns the correct answer.
    pub(crate) fn answer(&self) -> Result<GetResult> {
        self.inner.get_opts(&self.location, self.options.clone()).now_or_never().unwrap()
    }

    /// Returns the correct answer, but its body in these pieces.
    pub(crate) fn answer_in(&self, pieces: impl FnOnce(Bytes) -> Vec<Result<Bytes>>) -> Result<GetResult> {
        self.answer().map(|answer| change_body(answer, pieces))
    }
}

/// Replaces the body of an answer.
pub(crate) fn change_body(mut answer: GetResult, pieces: impl FnOnce(Bytes) -> Vec<Result<Bytes>>) -> GetResult {
    let payload = std::mem::replace(&mut answer.payload, GetResultPayload::Stream(stream::empty().boxed()));
    let GetResultPayload::Stream(body) = payload else { panic!("InMemory returns streams") };
    let body: Vec<Bytes> = body.try_collect().now_or_never().unwrap().unwrap();
    answer.payload = GetResultPayload::Stream(stream::iter(pieces(body.concat().into())).boxed());
    answer
}

pub(crate) type Hook = Box<dyn FnMut(Get<'_>) -> Result<GetResult> + Send>;

/// The e_tags that a store returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ETags {
    #[default]
    Strong,
    Weak,
    Constant,
    Missing,
}

/// The faults of multipart uploads, and a record of their calls.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    /// The index of the part that fails.
    pub(crate) failing_part: Mutex<Option<usize>>,
    pub(crate) complete_fails: AtomicBool,
    pub(crate) abort_fails: AtomicBool,
    /// Each part waits for a permit before it ends, if there is a gate.
    pub(crate) gate: Mutex<Option<Arc<Semaphore>>>,
    pub(crate) part_lens: Mutex<Vec<usize>>,
    pub(crate) in_flight: AtomicUsize,
    pub(crate) most_in_flight: AtomicUsize,
    pub(crate) completed: AtomicUsize,
    pub(crate) aborted: AtomicUsize,
}

/// A store over memory. Clones share everything.
#[derive(Clone, Default)]
pub(crate) struct Faulty(Arc<State>);

#[derive(Default)]
pub(crate) struct State {
    pub(crate) inner: Arc<InMemory>,
    pub(crate) uploads: Arc<Uploads>,
    hook: Mutex<Option<Hook>>,
    e_tags: Mutex<ETags>,
    gets: Mutex<Vec<(Path, GetOptions)>>,
    number: AtomicUsize,
    /// The number of calls of `get_ranges`.
    pub(crate) ranges: AtomicUsize,
    pub(crate) lists: AtomicUsize,
    pub(crate) puts: AtomicUsize,
    pub(crate) copies: AtomicUsize,
}

impl std::ops::Deref for Faulty {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

impl Faulty {
    pub(crate) fn new(e_tags: ETags) -> Self {
        let faulty = Self::default();
        *faulty.e_tags.lock().unwrap() = e_tags;
        faulty
    }

    /// Answers the next requests with this hook.
    pub(crate) fn set(&self, hook: impl FnMut(Get<'_>) -> Result<GetResult> + Send + 'static) {
        self.number.store(0, SeqCst);
        *self.hook.lock().unwrap() = Some(Box::new(hook));
    }

    /// Returns the requests since the last call.
    pub(crate) fn take_gets(&self) -> Vec<(Path, GetOptions)> {
        std::mem::take(&mut *lock(&self.gets))
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.puts.fetch_add(1, SeqCst);
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(FaultyUpload { inner, uploads: self.uploads.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        lock(&self.gets).push((location.clone(), options.clone()));
        let number = self.number.fetch_add(1, SeqCst);
        let get = Get { number, location: location.clone(), options, inner: &self.inner };
        let mut answer = match &mut *lock(&self.hook) {
            Some(hook) => hook(get)?,
            None => get.answer()?,
        };
        let e_tags = *lock(&self.e_tags);
        if e_tags != ETags::Strong {
            // Nothing but the content shows that an object was replaced.
            answer.meta.last_modified = Default::default();
        }
        answer.meta.e_tag = match e_tags {
            ETags::Strong => answer.meta.e_tag,
            ETags::Weak => Some("W/\"1\"".to_owned()),
            ETags::Constant => Some("\"1\"".to_owned()),
            ETags::Missing => None,
        };
        Ok(answer)
    }

    /// One request for each range. The default method panics if the bounds of an answer are wrong.
    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.ranges.fetch_add(1, SeqCst);
        let fetch = async |range: &Range<u64>| {
            let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
            match self.get_opts(location, options).await?.payload {
                GetResultPayload::Stream(body) => Ok(body.try_collect::<Vec<_>>().await?.concat().into()),
                GetResultPayload::File(..) => panic!("InMemory returns streams"),
            }
        };
        try_join_all(ranges.iter().map(fetch)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.lists.fetch_add(1, SeqCst);
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.lists.fetch_add(1, SeqCst);
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.copies.fetch_add(1, SeqCst);
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    uploads: Arc<Uploads>,
}

/// Counts a part while it is in flight, also if it is canceled.
struct InFlight(Arc<Uploads>);

impl InFlight {
    fn new(uploads: &Arc<Uploads>) -> Self {
        let now = uploads.in_flight.fetch_add(1, SeqCst) + 1;
        uploads.most_in_flight.fetch_max(now, SeqCst);
        Self(uploads.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, SeqCst);
    }
}

#[async_trait::async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let mut lens = lock(&self.uploads.part_lens);
        let fails = *lock(&self.uploads.failing_part) == Some(lens.len());
        lens.push(data.content_length());
        let (put, gate) = (self.inner.put_part(data), lock(&self.uploads.gate).clone());
        let in_flight = InFlight::new(&self.uploads);
        Box::pin(async move {
            let _in_flight = in_flight;
            if let Some(gate) = gate {
                gate.acquire().await.unwrap().forget();
            }
            if fails { Err(failure()) } else { put.await }
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        assert_eq!(self.uploads.in_flight.load(SeqCst), 0, "completed before all parts are uploaded");
        if self.uploads.complete_fails.load(SeqCst) {
            return Err(failure());
        }
        self.uploads.completed.fetch_add(1, SeqCst);
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.uploads.aborted.fetch_add(1, SeqCst);
        if self.uploads.abort_fails.load(SeqCst) { Err(failure()) } else { self.inner.abort().await }
    }
}
