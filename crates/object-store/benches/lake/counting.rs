//! A store that counts the requests to another one.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use kms_envelope_object_store::v0_14::object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, UploadPart, memory::InMemory, path::Path,
};

use crate::{KIB, MIB};

/// Like a remote store, it has no method of its own for several ranges: object_store merges those.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counting {
    inner: Arc<InMemory>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    lists: AtomicU64,
    reads: AtomicU64,
    bytes_read: AtomicU64,
    writes: AtomicU64,
    bytes_written: AtomicU64,
}

impl Counting {
    /// Returns the requests and bytes since the last call, as a cell of a table.
    pub(crate) fn take(&self) -> String {
        let [lists, reads, bytes_read, writes, bytes_written] = [
            &self.counts.lists,
            &self.counts.reads,
            &self.counts.bytes_read,
            &self.counts.writes,
            &self.counts.bytes_written,
        ]
        .map(|counter| counter.swap(0, Relaxed));
        let mut cells = Vec::new();
        for (count, name) in [(lists, "list"), (reads, "read"), (writes, "write")] {
            if count > 0 {
                cells.push(format!("{count} {name}{}", if count == 1 { "" } else { "s" }));
            }
        }
        if bytes_read + bytes_written > 0 {
            cells.push(length(bytes_read + bytes_written));
        }
        cells.join(", ")
    }

    fn written(&self, bytes: usize) {
        self.counts.writes.fetch_add(1, Relaxed);
        self.counts.bytes_written.fetch_add(bytes as u64, Relaxed);
    }
}

fn length(bytes: u64) -> String {
    let (unit, name) = if bytes < MIB { (KIB, "KiB") } else { (MIB, "MiB") };
    format!("{:.1} {name}", bytes as f64 / unit as f64)
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Counting({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Counting {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.written(payload.content_length());
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(Upload { inner, store: self.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.counts.reads.fetch_add(1, Relaxed);
        let is_head = options.head;
        let result = self.inner.get_opts(location, options).await?;
        if !is_head {
            self.counts.bytes_read.fetch_add(result.range.end - result.range.start, Relaxed);
        }
        Ok(result)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.counts.lists.fetch_add(1, Relaxed);
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.counts.lists.fetch_add(1, Relaxed);
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.written(0);
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct Upload {
    inner: Box<dyn MultipartUpload>,
    store: Counting,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.store.written(data.content_length());
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
