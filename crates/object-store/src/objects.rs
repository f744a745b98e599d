//! Objects whose data keys have been decrypted.

use std::{
    fmt,
    future::Future,
    mem::size_of,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kms_envelope::stream::RangeOpener;
use moka::{future, sync};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::{Error, layout::Layout};

/// The number of objects whose keys are requested at the same time. All others wait.
const MAX_KEY_REQUESTS: usize = 16;

/// The location of an object, and its version if one was requested.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    pub(crate) location: String,
    pub(crate) version: Option<String>,
}

/// Identifies the content of an object: no two messages have the same header.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Identity {
    name: Name,
    header: [u8; 32],
    header_len: usize,
    sealed_len: u64,
}

/// An object whose data key has been decrypted.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) opener: RangeOpener,
    pub(crate) layout: Layout,
}

impl Object {
    pub(crate) fn plaintext_len(&self) -> u64 {
        self.opener.geometry().plaintext_len()
    }

    pub(crate) fn sealed_len(&self) -> u64 {
        self.opener.geometry().sealed_len()
    }

    /// Returns where the frame starts that contains the plaintext byte at this offset, or the final frame if the
    /// plaintext is not that long.
    pub(crate) fn start(&self, offset: u64) -> u64 {
        self.layout.start(offset).min(self.opener.final_frame().sealed.start)
    }
}

/// An object that was read before, and its e_tag. It can be used as long as the e_tag is the same.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) e_tag: Option<String>,
    pub(crate) object: Arc<Object>,
}

impl Known {
    pub(crate) fn is(&self, e_tag: Option<&str>, sealed_len: u64) -> bool {
        self.e_tag.as_deref() == e_tag && self.object.sealed_len() == sealed_len
    }
}

/// The place of an object in the cache. moka drops a value some time after it removed it: the keys are wiped at once,
/// because the place is emptied.
#[derive(Clone)]
struct Place(Arc<Mutex<Option<Arc<Object>>>>);

impl Place {
    fn new(object: Arc<Object>) -> Self {
        Self(Arc::new(Mutex::new(Some(object))))
    }

    fn object(&self) -> Option<Arc<Object>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// A cache of [`Object`]s, in which each is requested once.
pub(crate) struct Objects {
    /// Concurrent reads of the same content share one request for its key.
    by_identity: future::Cache<Identity, Place>,
    /// The content that a name had when it was last read, if its e_tag is strong.
    by_name: sync::Cache<Name, (String, Identity)>,
    key_requests: Semaphore,
}

impl Objects {
    pub(crate) fn new(max_age: Duration, capacity: u64) -> Self {
        const MAX_AGE: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60); // moka panics above 1,000 years.
        let max_age = max_age.min(MAX_AGE);
        let names = capacity / 4;
        /// A coarse estimate of the memory for the parsed header, the keys and the cache itself.
        const OVERHEAD: usize = 1024;
        let weight = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let object_weight = move |identity: &Identity, _: &Place| {
            weight(2 * identity.header_len + identity.name.location.len() + size_of::<Object>() + OVERHEAD)
        };
        let name_weight = move |name: &Name, _: &(String, Identity)| weight(3 * name.location.len() + OVERHEAD / 2);
        Self {
            by_identity: future::Cache::builder()
                .max_capacity(capacity - names)
                .weigher(object_weight)
                .time_to_live(max_age)
                .eviction_listener(|_, place, _| place.clear())
                .build(),
            by_name: sync::Cache::builder().max_capacity(names).weigher(name_weight).time_to_live(max_age).build(),
            key_requests: Semaphore::new(MAX_KEY_REQUESTS),
        }
    }

    /// Returns the object that this name had when it was last read.
    pub(crate) async fn known(&self, name: &Name) -> Option<Known> {
        let (e_tag, identity) = self.by_name.get(name)?;
        Some(Known { e_tag: Some(e_tag), object: self.by_identity.get(&identity).await?.object()? })
    }

    /// Returns the object with this header, which is opened with `open` if it is not in the cache. A name whose e_tag is
    /// strong is [known](Self::known) from now on.
    pub(crate) async fn get_or_open<F: Future<Output = Result<Object, Error>>>(
        &self,
        name: Name,
        e_tag: Option<&str>,
        (header, sealed_len): (&[u8], u64),
        open: impl Fn() -> F,
    ) -> Result<Arc<Object>, Error> {
        let (header, header_len) = (Sha256::digest(header).into(), header.len());
        let identity = Identity { name, header, header_len, sealed_len };
        let open = async || {
            let _permit = self.key_requests.acquire().await;
            open().await.map(Arc::new)
        };
        let mut opened = None;
        let place = async { Ok(Place::new(opened.insert(open().await?).clone())) };
        let place = self.by_identity.try_get_with_by_ref(&identity, place).await;
        let place = place.map_err(|error: Arc<Error>| (*error).clone())?;
        let object = match opened.or_else(|| place.object()) {
            Some(object) => object,
            None => open().await?, // Another task opened it, and it was removed at once.
        };
        if let Some(e_tag) = e_tag.filter(|e_tag| is_strong(e_tag)) {
            self.by_name.insert(identity.name.clone(), (e_tag.to_owned(), identity));
        }
        Ok(object)
    }

    /// Forgets the object of this name.
    pub(crate) fn forget(&self, name: &Name) {
        self.by_name.invalidate(name);
    }

    /// Removes all objects, and wipes their keys.
    pub(crate) async fn clear(&self) {
        self.by_name.invalidate_all();
        self.by_identity.invalidate_all();
        self.remove_expired().await;
    }

    /// Removes the objects that are too old, and wipes their keys.
    pub(crate) async fn remove_expired(&self) {
        self.by_name.run_pending_tasks();
        self.by_identity.run_pending_tasks().await;
    }
}

/// Omits the objects, of which there are many.
impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects").field("count", &self.by_identity.entry_count()).finish_non_exhaustive()
    }
}

/// Returns whether an e_tag identifies the bytes of an object. Weak ones (RFC 9110, section 8.8.1) do not.
fn is_strong(e_tag: &str) -> bool {
    !e_tag.is_empty() && !e_tag.starts_with("W/")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kms_envelope::{EncryptionContext, Envelope, RawAes, message::Header};

    use super::*;

    async fn object() -> (Bytes, Object) {
        let envelope = Envelope::new(RawAes::generate("tests", "objects").unwrap());
        let context = EncryptionContext::new();
        let sealed = Bytes::from(envelope.seal(b"secret", &context).await.unwrap());
        let header = Header::parse(&sealed, envelope.limits()).unwrap();
        let opener = envelope.range_opener(&header, sealed.len() as u64, &context).await.unwrap();
        let frame_len = header.content_type().frame_len().unwrap();
        (sealed, Object { opener, layout: Layout { header_len: header.len(), frame_len } })
    }

    async fn open(objects: &Objects, location: &str) -> Arc<Object> {
        let (header, object) = object().await;
        let object = Mutex::new(Some(object));
        let open = async || Ok(object.lock().unwrap().take().unwrap());
        let name = Name { location: location.into(), version: None };
        objects.get_or_open(name, Some("e_tag"), (&header, 100), open).await.unwrap()
    }

    #[tokio::test]
    async fn keys_are_dropped_when_the_cache_is_cleared_and_when_they_are_too_old() {
        let objects = Objects::new(Duration::from_secs(300), 64 << 20);
        let mut handles = Vec::new();
        for index in 0..100 {
            handles.push(Arc::downgrade(&open(&objects, &index.to_string()).await));
        }
        assert!(handles.iter().all(|handle| handle.strong_count() == 1));
        objects.clear().await;
        assert!(handles.iter().all(|handle| handle.strong_count() == 0));

        let objects = Objects::new(Duration::from_millis(1), 64 << 20);
        let handle = Arc::downgrade(&open(&objects, "a").await);
        tokio::time::sleep(Duration::from_millis(10)).await;
        objects.remove_expired().await;
        assert_eq!(handle.strong_count(), 0);
    }

    #[tokio::test]
    async fn an_object_is_opened_although_the_cache_has_no_room_for_it() {
        let objects = Objects::new(Duration::from_secs(300), 0);
        let object = open(&objects, "a").await;
        assert_eq!(object.plaintext_len(), 6);
    }
}
