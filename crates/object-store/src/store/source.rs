//! Requests to the inner store.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};

use super::{
    Core,
    object_store::{GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta, ObjectStore, Result, path::Path},
};
use crate::{Error, stats::Counters};

/// The length of the pieces in which files are read: object_store's own streams of files have 8 KiB, each with a task of its own.
const FILE_PIECE: u64 = 1 << 20;

/// The answer to a request for a part of a sealed object.
pub(super) struct Answer {
    /// The result, without its payload.
    pub(super) result: GetResult,
    pub(super) body: BoxStream<'static, Result<Bytes>>,
}

impl<T: ObjectStore> Core<T> {
    /// Requests a part of a sealed object.
    pub(super) async fn request(
        self: &Arc<Self>,
        location: &Path,
        options: &GetOptions,
        range: Option<GetRange>,
    ) -> Result<Answer> {
        Counters::add(&self.shared.counters.read_requests, 1);
        let mut result = self.inner.get_opts(location, GetOptions { range: range.clone(), ..options.clone() }).await?;
        let size = result.meta.size;
        let expected = match range {
            None => 0..size,
            Some(GetRange::Bounded(range)) => range.start..range.end.min(size),
            Some(GetRange::Offset(start)) => start..size,
            Some(GetRange::Suffix(len)) => size.saturating_sub(len)..size,
        };
        if result.range != expected {
            let (location, found) = (location.to_string(), result.range);
            return Err(Error::WrongRange { location, found, expected }.into());
        }
        let payload = std::mem::replace(&mut result.payload, GetResultPayload::Stream(stream::empty().boxed()));
        let core = self.clone();
        let body = pieces(payload, result.range.clone()).and_then(move |piece| {
            Counters::add(&core.shared.counters.bytes_read, piece.len() as u64);
            // A stream that is always ready must not keep other tasks from running.
            tokio::task::consume_budget().map(|()| Ok(piece))
        });
        Ok(Answer { result, body: body.boxed() })
    }

    /// Requests a part of a sealed object, and reads all of it.
    pub(super) async fn request_bytes(
        self: &Arc<Self>,
        location: &Path,
        options: &GetOptions,
        range: Range<u64>,
    ) -> Result<(ObjectMeta, Bytes)> {
        let answer = self.request(location, options, Some(GetRange::Bounded(range))).await?;
        let GetResult { meta, range, .. } = answer.result;
        let expected = range.end.saturating_sub(range.start);
        let bytes = collect(answer.body, expected).await?;
        let found = bytes.len() as u64;
        if found != expected {
            return Err(Error::ShortRead { location: location.to_string(), found, expected }.into());
        }
        Ok((meta, bytes))
    }
}

/// Reads a stream to its end, or until it is longer than announced.
pub(super) async fn collect(mut body: BoxStream<'static, Result<Bytes>>, expected: u64) -> Result<Bytes> {
    let Some(first) = body.try_next().await? else { return Ok(Bytes::new()) };
    if first.len() as u64 >= expected {
        return Ok(first);
    }
    let mut bytes = Vec::from(first);
    while let Some(piece) = body.try_next().await? {
        bytes.extend_from_slice(&piece);
        if bytes.len() as u64 > expected {
            break;
        }
    }
    Ok(bytes.into())
}

/// Returns a payload as a stream.
fn pieces(payload: GetResultPayload, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
    match payload {
        GetResultPayload::Stream(stream) => stream,
        GetResultPayload::File(file, path) => stream::try_unfold((file, range), move |(file, range)| {
            let path = path.clone();
            async move {
                if range.is_empty() {
                    return Ok(None);
                }
                let end = range.end.min(range.start.saturating_add(FILE_PIECE));
                let wanted = range.start..end;
                // Not by the thread that reads: allocators keep freed memory for each thread.
                let piece = Vec::with_capacity(usize::try_from(end - range.start).unwrap_or_default());
                let read = move || read_file(file, wanted, piece);
                let read = match tokio::runtime::Handle::try_current() {
                    Ok(runtime) => {
                        runtime.spawn_blocking(read).await.map_err(std::io::Error::other).and_then(|read| read)
                    }
                    Err(_) => read(),
                };
                let (file, piece) = read.map_err(|error| super::object_store::Error::Generic {
                    store: super::STORE,
                    source: format!("cannot read {}: {error}", path.display()).into(),
                })?;
                // A piece that is too short is the end of the file, which the reader of the stream notices.
                let next = if piece.len() as u64 == end - range.start { end } else { range.end };
                Ok(Some((piece, (file, next..range.end))))
            }
        })
        .boxed(),
    }
}

/// Appends a range of a file to `piece`, or less if the file ends before.
fn read_file(mut file: File, range: Range<u64>, mut piece: Vec<u8>) -> std::io::Result<(File, Bytes)> {
    file.seek(SeekFrom::Start(range.start))?;
    (&mut file).take(range.end - range.start).read_to_end(&mut piece)?;
    Ok((file, piece.into()))
}
