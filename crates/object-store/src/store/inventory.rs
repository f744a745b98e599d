//! Inventories: the headers of all objects.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures_util::{
    StreamExt, TryStreamExt, future,
    stream::{self, BoxStream},
};
use kms_envelope::{
    Limits,
    error::{FormatError, HeaderError},
    message::{DetachedKeys, Header},
};

use super::{
    list::STAGING,
    object_store::{self, GetOptions, ObjectMeta, ObjectStore, Result, path::Path},
    read::MAX_DETACHED_KEYS,
    source::collect,
};
use crate::{Content, Error, Message, inventory::fingerprint};

/// The number of bytes that are requested first: the default length of a header.
const HEADER_LEN: u64 = 1024;

/// The first byte of detached keys.
const DETACHED_KEYS: u8 = b'K';

/// Lists objects and reads their headers, without any key.
///
/// `store` is the store that holds the sealed objects, not the [`EncryptedStore`](super::EncryptedStore). Objects may have
/// been written by any program that writes messages of the AWS Encryption SDK.
///
/// ```
/// # use std::sync::Arc;
/// # use futures_util::TryStreamExt;
/// # use kms_envelope::{Envelope, RawAes};
/// # use kms_envelope_object_store::{Content, StoreSettings};
/// # use kms_envelope_object_store::v0_14::{EncryptedStore, Inventory, object_store::{ObjectStoreExt, memory::InMemory}};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let bucket = Arc::new(InMemory::new());
/// # let envelope = Envelope::builder(RawAes::generate("example", "key")?);
/// # let store = EncryptedStore::new(bucket.clone(), StoreSettings::new(envelope))?;
/// # store.put(&"2026/a".into(), "attack at dawn".into()).await?;
/// let mut objects = Inventory::new(bucket).prefix("2026".into()).detached_keys(".keys").stream();
/// while let Some(object) = objects.try_next().await? {
///     match object.content? {
///         Content::Message(message) => {
///             for key in message.encrypted_data_keys() {
///                 println!("{} needs {key}", object.listed.meta.location);
///             }
///         }
///         _ => println!("{} is not a message", object.listed.meta.location),
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Requests
/// The store is listed once, or twice with [`detached_keys`](Self::detached_keys), and a third time if there are detached
/// keys without an object. Each object costs one more request for
/// its first 1,024 bytes, and a second one if its header is longer, or if it has detached keys. Requests are repeated as
/// the inner store is configured, such as by object_store's `RetryConfig`.
///
/// The memory does not depend on the number of objects, other than about 24 bytes for each object that has detached keys.
#[derive(Debug)]
#[must_use]
pub struct Inventory<T: ?Sized> {
    store: Arc<T>,
    prefix: Option<Path>,
    after: Option<Path>,
    up_to: Option<Path>,
    suffix: Option<String>,
    concurrency: usize,
    limits: Limits,
}

/// An object that was listed, but not read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Listed {
    /// The metadata, with the length of the sealed object.
    pub meta: ObjectMeta,
    /// Identifies the version of the object's detached keys, if it has any. It is the same in every process.
    pub detached_keys: Option<u64>,
}

impl Listed {
    /// Creates an object of another list, such as an S3 Inventory report. Its detached keys are looked for.
    pub fn new(meta: ObjectMeta) -> Self {
        Self { meta, detached_keys: Some(0) }
    }
}

/// An object whose header was read.
#[derive(Debug)]
#[non_exhaustive]
pub struct Inspected {
    /// The object, with the metadata that it had when it was read.
    pub listed: Listed,
    /// The content, or why it could not be read. `NotFound` if the object was deleted after it was listed.
    pub content: Result<Content>,
}

impl<T: ObjectStore + ?Sized> Inventory<T> {
    /// Creates an inventory of all objects in `store`.
    pub fn new(store: Arc<T>) -> Self {
        let (prefix, after, up_to, suffix) = (None, None, None, None);
        Self { store, prefix, after, up_to, suffix, concurrency: 64, limits: Limits::default() }
    }

    /// Omits objects that are not below this prefix.
    pub fn prefix(mut self, prefix: Path) -> Self {
        self.prefix = Some(prefix);
        self
    }

    /// Omits objects up to this location, in the order of bytes, and this one. With [`up_to`](Self::up_to), several
    /// processes can share the work.
    pub fn after(mut self, location: Path) -> Self {
        self.after = Some(location);
        self
    }

    /// Omits objects after this location, in the order of bytes. They are still listed.
    pub fn up_to(mut self, location: Path) -> Self {
        self.up_to = Some(location);
        self
    }

    /// Looks for detached keys, whose names are those of their objects followed by this suffix: see
    /// [`StoreSettings::detached_keys`](crate::StoreSettings::detached_keys). They are not listed as objects.
    pub fn detached_keys(mut self, suffix: impl Into<String>) -> Self {
        self.suffix = Some(suffix.into());
        self
    }

    /// Sets how many objects are read at the same time. Default: 64. Zero has the same effect as 1.
    pub fn concurrency(mut self, objects: usize) -> Self {
        self.concurrency = objects;
        self
    }

    /// Sets the limits on the headers and detached keys. Default: those of [`Limits::default`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Lists the objects, and reads their headers. The objects are in no particular order.
    ///
    /// The stream ends with an error if the objects cannot be listed. An object that cannot be read is an item without
    /// content, and the stream continues.
    pub fn stream(&self) -> BoxStream<'static, Result<Inspected>> {
        self.inspect(self.list())
    }

    /// Lists the objects, without reading them.
    ///
    /// With [`detached_keys`](Self::detached_keys), names with the suffix that belong to no other object come last: they
    /// may be objects.
    ///
    /// The stream ends with an error if the objects cannot be listed.
    pub fn list(&self) -> BoxStream<'static, Result<Listed>> {
        let this = self.clone();
        let listed = async move {
            let keys = match this.suffix {
                Some(_) => this.keys().await?,
                None => HashMap::new(),
            };
            let keys = Arc::new(Mutex::new(keys));
            let (first, last) = (this.clone(), this.clone());
            let of_objects = keys.clone();
            let objects = this.list_all().try_filter_map(move |meta| {
                let is_object = first.is_wanted(meta.location.as_ref()) && !first.has_suffix(&meta);
                let detached_keys =
                    is_object.then(|| lock(&of_objects).remove(&fingerprint([meta.location.as_ref().as_bytes()])));
                future::ready(Ok(detached_keys.map(|detached_keys| Listed { meta, detached_keys })))
            });
            // Nothing is listed again if all detached keys belong to objects.
            let alone = stream::once(async move {
                let keys = std::mem::take(&mut *lock(&keys));
                if keys.is_empty() {
                    return Ok(stream::empty().boxed());
                }
                let list = last.list_all();
                Ok::<_, object_store::Error>(
                    list.try_filter_map(move |meta| {
                        let is_alone = last.object_of(&meta).is_some_and(|object| keys.contains_key(&object));
                        future::ready(Ok(is_alone.then_some(Listed { meta, detached_keys: None })))
                    })
                    .boxed(),
                )
            });
            Ok::<_, object_store::Error>(objects.chain(alone.try_flatten()))
        };
        stream::once(listed).try_flatten().boxed()
    }

    /// Lists everything, at least in the range of names.
    fn list_all(&self) -> BoxStream<'static, Result<ObjectMeta>> {
        match &self.after {
            Some(after) => self.store.list_with_offset(self.prefix.as_ref(), after),
            None => self.store.list(self.prefix.as_ref()),
        }
    }

    /// Returns the versions of all detached keys, by the fingerprints of the locations of their objects.
    async fn keys(&self) -> Result<HashMap<u64, u64>> {
        let keys = |meta: ObjectMeta| future::ready(Ok(self.object_of(&meta).map(|object| (object, version(&meta)))));
        self.list_all().try_filter_map(keys).try_collect().await
    }

    fn has_suffix(&self, meta: &ObjectMeta) -> bool {
        self.suffix.as_deref().is_some_and(|suffix| meta.location.as_ref().ends_with(suffix))
    }

    /// Returns whether the name of an object is in the range, and not one of an object that is being copied.
    fn is_wanted(&self, location: &str) -> bool {
        !location.rsplit('/').next().is_some_and(|name| name.starts_with(STAGING))
            && self.after.as_ref().is_none_or(|after| location > after.as_ref())
            && self.up_to.as_ref().is_none_or(|up_to| location <= up_to.as_ref())
    }

    /// Returns the fingerprint of the location of the object to which detached keys belong by their name.
    fn object_of(&self, keys: &ObjectMeta) -> Option<u64> {
        let object = keys.location.as_ref().strip_suffix(self.suffix.as_deref()?)?;
        self.is_wanted(object).then(|| fingerprint([object.as_bytes()]))
    }

    /// Reads the headers of objects that [`list`](Self::list) returned, all or some of them. The results are in no
    /// particular order.
    pub fn inspect(&self, objects: BoxStream<'static, Result<Listed>>) -> BoxStream<'static, Result<Inspected>> {
        let (store, suffix, limits) = (self.store.clone(), self.suffix.clone(), self.limits);
        let inspect = move |Listed { meta, detached_keys }| {
            let (store, limits) = (store.clone(), limits);
            let keys = suffix.as_ref().filter(|_| detached_keys.is_some());
            let keys = keys.and_then(|suffix| Path::parse(format!("{}{suffix}", meta.location)).ok());
            async move {
                let (meta, content) = match inspect(&*store, &meta, keys.as_ref(), &limits).await {
                    Ok((meta, content)) => (meta, Ok(content)),
                    Err(error) => (meta, Err(error)),
                };
                Ok(Inspected { listed: Listed { meta, detached_keys }, content })
            }
        };
        objects.map_ok(inspect).try_buffer_unordered(self.concurrency.max(1)).boxed()
    }
}

impl<T: ?Sized> Clone for Inventory<T> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            prefix: self.prefix.clone(),
            after: self.after.clone(),
            up_to: self.up_to.clone(),
            suffix: self.suffix.clone(),
            concurrency: self.concurrency,
            limits: self.limits,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns a number that identifies the version of an object. Not all answers have the same precision of times.
pub(super) fn version(meta: &ObjectMeta) -> u64 {
    let modified = meta.last_modified.timestamp().to_be_bytes();
    // Azure's lists omit the quotes.
    let version = meta.e_tag.as_ref().map_or(&modified[..], |e_tag| e_tag.trim_matches('"').as_bytes());
    fingerprint([version, &meta.size.to_be_bytes()])
}

/// Reads the header of an object, and its detached keys if their location is given.
pub(super) async fn inspect<T: ObjectStore + ?Sized>(
    store: &T,
    listed: &ObjectMeta,
    keys: Option<&Path>,
    limits: &Limits,
) -> Result<(ObjectMeta, Content)> {
    let options = GetOptions { version: listed.version.clone(), ..GetOptions::default() };
    let mut len = HEADER_LEN;
    let (meta, header) = loop {
        if listed.size == 0 {
            // Stores have no range of an empty object.
            break (listed.clone(), Header::parse(&[], limits));
        }
        let (meta, bytes) = read_start(store, &listed.location, &options, len).await?;
        match Header::parse(&bytes, limits) {
            Err(HeaderError::Format(FormatError::Truncated(_))) if meta.size > len => len = len.saturating_mul(4),
            header => break (meta, header),
        }
    };
    let header = match header {
        Ok(header) => header,
        Err(error) if meta.size == 0 || is_no_message(&error) => {
            return Ok((meta, other(store, listed, error, limits).await?));
        }
        // It may be one for programs with other limits.
        Err(error) => return Err(Error::open(&meta.location, error).into()),
    };
    let detached_keys = match keys {
        Some(keys) => detached_keys(store, keys, limits).await?.map(|(_, keys)| keys),
        None => None,
    };
    let detached_keys = detached_keys.filter(|keys| keys.message_id() == header.message_id());
    let plaintext_len = header.geometry(meta.size).ok().map(|geometry| geometry.plaintext_len());
    Ok((meta, Content::Message(Box::new(Message { header, plaintext_len, detached_keys }))))
}

/// Returns whether an object cannot be a message of any version, whatever the limits are.
fn is_no_message(error: &HeaderError) -> bool {
    matches!(error, HeaderError::Format(FormatError::Version(_) | FormatError::Type(_)))
}

/// Returns what an object is that is not a message.
async fn other<T: ObjectStore + ?Sized>(
    store: &T,
    listed: &ObjectMeta,
    error: HeaderError,
    limits: &Limits,
) -> Result<Content> {
    match error {
        HeaderError::Format(FormatError::Version(first)) if first == DETACHED_KEYS => {
            let keys = detached_keys(store, &listed.location, limits).await;
            Ok(keys.ok().flatten().map_or(Content::Other(error), |(_, keys)| Content::DetachedKeys(keys)))
        }
        error => Ok(Content::Other(error)),
    }
}

/// Reads detached keys, if there are any at this location.
pub(super) async fn detached_keys<T: ObjectStore + ?Sized>(
    store: &T,
    location: &Path,
    limits: &Limits,
) -> Result<Option<(ObjectMeta, DetachedKeys)>> {
    let failed = |source| Error::DetachedKeys { location: location.to_string(), source };
    let (meta, bytes) = match read_start(store, location, &GetOptions::default(), MAX_DETACHED_KEYS).await {
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        read => read.map_err(|error| failed(Arc::new(error)))?,
    };
    let keys = DetachedKeys::parse(&bytes, limits).map_err(|error| failed(Arc::new(error)))?;
    Ok(Some((meta, keys)))
}

/// Reads the first `len` bytes of an object, or all of them if it is shorter.
pub(super) async fn read_start<T: ObjectStore + ?Sized>(
    store: &T,
    location: &Path,
    options: &GetOptions,
    len: u64,
) -> Result<(ObjectMeta, Bytes)> {
    let options = GetOptions { range: Some((0..len).into()), ..options.clone() };
    let result = store.get_opts(location, options).await?;
    let (meta, found, expected) = (result.meta.clone(), result.range.clone(), 0..len.min(result.meta.size));
    if found != expected {
        return Err(Error::WrongRange { location: location.to_string(), found, expected }.into());
    }
    let bytes = collect(result.into_stream(), expected.end).await?;
    if bytes.len() as u64 != expected.end {
        let (found, expected) = (bytes.len() as u64, expected.end);
        return Err(Error::ShortRead { location: location.to_string(), found, expected }.into());
    }
    Ok((meta, bytes))
}
