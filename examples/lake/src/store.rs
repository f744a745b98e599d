//! An encrypted store, and one that counts requests and bytes.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use datafusion::{
    execution::{
        object_store::{DefaultObjectStoreRegistry, ObjectStoreRegistry},
        runtime_env::RuntimeEnvBuilder,
    },
    prelude::{SessionConfig, SessionContext},
};
use futures_util::stream::BoxStream;
use kms_envelope::{Envelope, EnvelopeBuilder, KeyProvider};
use kms_envelope_object_store::{StoreSettings, v0_13::EncryptedStore};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, UploadPart, path::Path,
};
use url::{Position, Url};

/// Encrypts the objects of a store in frames of this length.
pub(crate) fn encrypted(
    inner: Arc<dyn ObjectStore>,
    envelope: EnvelopeBuilder,
    frame_len: u32,
) -> crate::Result<Arc<dyn ObjectStore>> {
    let settings = StoreSettings::new(envelope).frame_len(frame_len);
    Ok(Arc::new(EncryptedStore::new(inner, settings)?))
}

/// Creates an encrypted store for each bucket or file system, when the engine first uses a URL of it.
#[derive(Debug)]
pub(crate) struct EncryptedStores {
    key: Arc<dyn KeyProvider>,
    encrypted: Mutex<HashMap<String, EncryptedStore<Box<dyn ObjectStore>>>>,
    others: DefaultObjectStoreRegistry,
}

impl EncryptedStores {
    pub(crate) fn new(key: Arc<dyn KeyProvider>) -> Self {
        let others = DefaultObjectStoreRegistry::new();
        let files = Url::parse("file://").expect("valid URL");
        others.deregister_store(&files).expect("the default registry has the local files");
        Self { key, encrypted: Mutex::default(), others }
    }

    /// Returns a session that finds its stores here.
    pub(crate) fn session(self: Arc<Self>) -> crate::Result<SessionContext> {
        let runtime = RuntimeEnvBuilder::new().with_object_store_registry(self).build_arc()?;
        Ok(SessionContext::new_with_config_rt(SessionConfig::new(), runtime))
    }

    pub(crate) fn bytes_read(&self) -> u64 {
        self.encrypted.lock().expect("no panics").values().map(|store| store.stats().bytes_read).sum()
    }

    /// Returns the encrypted store for a URL, which reads frames of any length. Its inner store is configured by
    /// environment variables.
    fn encrypted(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        let mut stores = self.encrypted.lock().expect("no panics");
        let store = match stores.entry(url[..Position::BeforePath].into()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let settings = StoreSettings::new(Envelope::builder(self.key.clone())).look_up_sizes();
                entry.insert(EncryptedStore::parse_url_opts(url, std::env::vars(), settings)?.0)
            }
        };
        Ok(Arc::new(store.clone()))
    }
}

impl ObjectStoreRegistry for EncryptedStores {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        self.others.register_store(url, store)
    }

    fn get_store(&self, url: &Url) -> datafusion::common::Result<Arc<dyn ObjectStore>> {
        self.others.get_store(url).or_else(|_| Ok(self.encrypted(url)?))
    }
}

/// A store that counts the requests and bytes of a remote store: near ranges are fetched with one request.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    inner: Arc<dyn ObjectStore>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// Requests, and bytes in either direction. Lists and deletions are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
}

impl Counted {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, counters: Arc::default() }
    }

    /// Returns the traffic since the last call.
    pub(crate) fn take(&self) -> Traffic {
        Traffic { requests: self.counters.requests.swap(0, Relaxed), bytes: self.counters.bytes.swap(0, Relaxed) }
    }
}

impl Counters {
    fn add(&self, bytes: u64) {
        self.requests.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Counted({})", self.inner)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Counted {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.counters.add(payload.content_length() as u64);
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.counters.add(0);
        let inner = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(CountedUpload { inner, counters: self.counters.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let is_head = options.head;
        let result = self.inner.get_opts(location, options).await?;
        self.counters.add(if is_head { 0 } else { result.range.end - result.range.start });
        Ok(result)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.counters.add(0);
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct CountedUpload {
    inner: Box<dyn MultipartUpload>,
    counters: Arc<Counters>,
}

#[async_trait::async_trait]
impl MultipartUpload for CountedUpload {
    fn put_part(&mut self, part: PutPayload) -> UploadPart {
        self.counters.add(part.content_length() as u64);
        self.inner.put_part(part)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.counters.add(0);
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
