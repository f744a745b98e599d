//! Writing an object.

use std::{fmt, io, sync::Arc, time::Duration};

use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, Result, path::Path};
use tokio::{sync::Mutex, task::JoinSet, time::timeout};

use super::{Location, block_on, runtime};
use crate::interrupt;

/// The number of parts that are in flight. An upload holds at most one more in memory.
const IN_FLIGHT: usize = 4;

/// The minimum length of a part.
const PART: usize = 8 << 20;

/// The number of parts for which their length is chosen. S3 has at most 10,000.
const PARTS: u64 = 9000;

/// How long the end of the process waits until an unfinished upload has been aborted.
const ABORT: Duration = Duration::from_secs(5);

/// An object that appears when it is [complete](Self::finish), or not at all. If the value is dropped before that, what
/// was uploaded is deleted.
pub(crate) struct Upload {
    store: Arc<dyn ObjectStore>,
    path: Path,
    part_len: usize,
    /// The bytes for the next part.
    buffer: Vec<u8>,
    /// The upload, once there is more than one part.
    started: Option<Started>,
}

type Shared = Arc<Mutex<Box<dyn MultipartUpload>>>;

struct Started {
    upload: Shared,
    parts: JoinSet<Result<()>>,
}

impl Upload {
    /// Prepares to write an object of about this length, if it is known, without a request.
    pub(crate) fn new(location: &Location, len: Option<u64>) -> Self {
        Self {
            store: location.store.clone(),
            path: location.path.clone(),
            part_len: len.map_or(PART, part_len),
            buffer: Vec::new(),
            started: None,
        }
    }

    /// Writes to an encrypted store around the store, which chooses the parts itself.
    pub(crate) fn encrypt(&mut self, store: impl ObjectStore) {
        self.store = Arc::new(store);
        self.part_len = PART;
    }

    pub(crate) fn part_len(&self) -> usize {
        self.part_len
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() == self.part_len {
            self.upload_part()?;
        }
        let len = bytes.len().min(self.part_len - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..len]);
        Ok(len)
    }

    /// Uploads the rest, and makes the object appear.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        if self.started.is_none() {
            let put = self.store.put(&self.path, std::mem::take(&mut self.buffer).into());
            return block_on(put).map(drop);
        }
        if !self.buffer.is_empty() {
            self.upload_part()?;
        }
        let Some(Started { upload, parts }) = &mut self.started else { return Ok(()) };
        block_on(async {
            while let Some(part) = parts.join_next().await {
                part??;
            }
            upload.lock().await.complete().await
        })?;
        self.started = None;
        interrupt::forget();
        Ok(())
    }

    /// Starts to upload the buffer, when fewer parts are in flight.
    fn upload_part(&mut self) -> io::Result<()> {
        if self.started.is_none() {
            let upload: Shared = Arc::new(Mutex::new(block_on(self.store.put_multipart(&self.path))?));
            let to_abort = upload.clone();
            interrupt::undo_with(move || abort(&to_abort));
            self.started = Some(Started { upload, parts: JoinSet::new() });
        }
        let Some(Started { upload, parts }) = &mut self.started else { return Ok(()) };
        let next = Vec::with_capacity(self.part_len);
        let part = std::mem::replace(&mut self.buffer, next).into();
        block_on(async {
            while parts.len() >= IN_FLIGHT
                && let Some(part) = parts.join_next().await
            {
                part??;
            }
            let uploading = upload.lock().await.put_part(part);
            parts.spawn(uploading);
            Ok(())
        })
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(Started { upload, mut parts }) = self.started.take() {
            parts.abort_all();
            abort(&upload);
            interrupt::forget();
        }
    }
}

/// Deletes what was uploaded. Ignores errors: the object does not appear in any case.
fn abort(upload: &Shared) {
    if let Ok(runtime) = runtime() {
        let _ = runtime.block_on(async { timeout(ABORT, async { upload.lock().await.abort().await }).await });
    }
}

/// Returns the length of the parts of an object that has about this length.
fn part_len(len: u64) -> usize {
    let needed = len.div_ceil(PARTS).next_multiple_of(1 << 20);
    usize::try_from(needed).unwrap_or(usize::MAX).max(PART)
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;
    use object_store::memory::InMemory;
    use url::Url;

    use super::*;

    fn upload_to(store: &Arc<InMemory>, len: Option<u64>) -> Upload {
        let url = Url::parse("s3://bucket/a").unwrap();
        Upload::new(&Location { store: store.clone(), path: "a".into(), url }, len)
    }

    fn write_all(upload: &mut Upload, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[upload.write(bytes).unwrap()..];
        }
    }

    fn content(store: &InMemory) -> Option<Vec<u8>> {
        runtime().unwrap().block_on(async {
            let is_empty = store.list(None).try_collect::<Vec<_>>().await.unwrap().is_empty();
            if is_empty { None } else { Some(store.get(&"a".into()).await.unwrap().bytes().await.unwrap().into()) }
        })
    }

    #[test]
    fn an_object_appears_when_it_is_complete_or_not_at_all() {
        for len in [0, 1, PART - 1, PART, PART + 1, 6 * PART + 5] {
            let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let store = Arc::new(InMemory::new());
            let mut upload = upload_to(&store, None);
            write_all(&mut upload, &bytes);
            drop(upload);
            assert_eq!(content(&store), None, "{len}");

            let mut upload = upload_to(&store, None);
            write_all(&mut upload, &bytes);
            upload.finish().unwrap();
            assert!(content(&store) == Some(bytes), "{len}");
        }
    }

    #[test]
    fn a_long_object_has_no_more_parts_than_s3_allows() {
        assert_eq!(part_len(0), PART);
        assert_eq!(part_len(PARTS * PART as u64), PART);
        for len in [PARTS * PART as u64 + 1, 1 << 40, 5 << 40] {
            let parts = len.div_ceil(part_len(len) as u64);
            assert!((8000..=PARTS).contains(&parts), "{len} {parts}");
        }
    }
}
