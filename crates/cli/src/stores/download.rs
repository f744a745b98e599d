//! Reading an object.

use std::{
    fmt,
    io::{self, Read},
    ops::Range,
};

use bytes::{Buf, Bytes};
use futures_util::{TryStreamExt, stream::BoxStream};
use object_store::{Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, Result};
use url::Url;

use super::{Location, block_on, read_all, runtime};
use crate::failure::Failure;

/// The length of the first request: enough for most headers, so that a command that needs no more reads no more.
const START: u64 = 16 << 10;

/// Reads one version of an object, with two requests unless it is short.
pub(crate) struct Download {
    location: Location,
    meta: ObjectMeta,
    /// The number of bytes that were received.
    received: u64,
    /// The bytes that were received and not read.
    unread: Bytes,
    /// The answer to the second request.
    rest: Option<BoxStream<'static, Result<Bytes>>>,
}

impl Download {
    /// Requests the start of the object.
    pub(crate) fn start(location: Location) -> Result<Self, Failure> {
        let requested = runtime()?.block_on(request_start(&location));
        let (meta, unread) = requested.map_err(|error| Failure::from(error).of(&location.url))?;
        Ok(Self { location, meta, received: unread.len() as u64, unread, rest: None })
    }

    pub(crate) fn len(&self) -> u64 {
        self.meta.size
    }

    pub(crate) fn url(&self) -> &Url {
        &self.location.url
    }

    /// Fills `out` with the bytes at this offset.
    pub(crate) fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let len = out.len() as u64;
        let range = offset..offset + len;
        let request = async { read_all(self.request(GetRange::Bounded(range)).await?, len).await };
        let bytes = block_on(request)?;
        if bytes.len() != out.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out.copy_from_slice(&bytes);
        Ok(())
    }

    /// Requests a range of the version of which the start was read.
    async fn request(&self, range: GetRange) -> Result<object_store::GetResult> {
        // A weak e_tag never matches. To request a version needs a permission of its own.
        let e_tag = self.meta.e_tag.clone().filter(|e_tag| !e_tag.starts_with("W/"));
        let options = GetOptions { range: Some(range), if_match: e_tag, ..GetOptions::default() };
        self.location.store.get_opts(&self.location.path, options).await
    }

    /// Waits for the next bytes, of which there are some.
    fn receive(&mut self) -> io::Result<Bytes> {
        let next = async {
            let mut rest = match self.rest.take() {
                Some(rest) => rest,
                None => self.request(GetRange::Offset(self.received)).await?.into_stream(),
            };
            let next = rest.try_next().await;
            self.rest = Some(rest);
            next
        };
        block_on(next)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

async fn request_start(location: &Location) -> Result<(ObjectMeta, Bytes)> {
    let range = |range: Range<u64>| GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
    match location.store.get_opts(&location.path, range(0..START)).await {
        Ok(answer) => Ok((answer.meta.clone(), read_all(answer, START).await?)),
        // Stores have no range of an empty object.
        Err(error @ (Error::Generic { .. } | Error::NotSupported { .. })) => {
            match location.store.head(&location.path).await {
                Ok(meta) if meta.size == 0 => Ok((meta, Bytes::new())),
                _ => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

impl Read for Download {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.unread.is_empty() {
            if self.received == self.meta.size {
                return Ok(0);
            }
            self.unread = self.receive()?;
            self.received += self.unread.len() as u64;
        }
        let len = out.len().min(self.unread.len());
        self.unread.copy_to_slice(&mut out[..len]);
        Ok(len)
    }
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download").field("location", &self.location).field("meta", &self.meta).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;

    fn location(store: &Arc<InMemory>) -> Location {
        Location { store: store.clone(), path: "a".into(), url: Url::parse("s3://bucket/a").unwrap() }
    }

    fn put(store: &Arc<InMemory>, bytes: Vec<u8>) {
        runtime().unwrap().block_on(store.put(&"a".into(), bytes.into())).unwrap();
    }

    #[test]
    fn an_object_of_any_length_is_read_to_its_end() {
        let store = Arc::new(InMemory::new());
        for len in [0, 1, START as usize, START as usize + 1, 3_000_000] {
            let content: Vec<u8> = (0..len).map(|at| at as u8).collect();
            put(&store, content.clone());
            let mut download = Download::start(location(&store)).unwrap();
            assert_eq!(download.len(), len as u64);
            let mut read = Vec::new();
            download.read_to_end(&mut read).unwrap();
            assert!(read == content, "{len}");
            if len > 1 {
                let mut end = [0; 2];
                download.read_at(len as u64 - 2, &mut end).unwrap();
                assert_eq!(end, content[len - 2..]);
                assert!(download.read_at(len as u64 - 1, &mut end).is_err());
            }
        }
    }

    #[test]
    fn an_object_that_is_replaced_while_it_is_read_is_an_error() {
        let store = Arc::new(InMemory::new());
        put(&store, vec![1; 100_000]);
        let mut download = Download::start(location(&store)).unwrap();
        put(&store, vec![2; 100_000]);
        for _ in 0..2 {
            let error = download.read_to_end(&mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains("replaced while it was read"), "{error}");
        }
    }

    #[test]
    fn a_missing_object_is_an_error() {
        let failure = Download::start(location(&Arc::default())).unwrap_err();
        assert_eq!(failure.what(), "s3://bucket/a: the object does not exist");
    }
}
