//! Reading objects and ranges of them.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::{
    StreamExt, TryStreamExt, future,
    stream::{self, BoxStream},
};
use kms_envelope::{
    OpenError,
    error::{FormatError, HeaderError},
    message::{DetachedKeys, Geometry, Header},
};

use super::{
    Core, STORE,
    object_store::{
        self, GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta, ObjectStore, Result, path::Path,
    },
    rewrap::may_open,
    source::Answer,
};
use crate::{
    Error,
    events::debug,
    frames::Frames,
    layout::Layout,
    objects::{Known, Name, Object},
    stats::Counters,
};

/// The number of concurrent requests of one call of `get_ranges`.
const CONCURRENCY: usize = 16;

/// Same as in the crate object_store: fetching 1 MiB more costs less than another request.
const GAP: u64 = object_store::OBJECT_STORE_COALESCE_DEFAULT;

/// The maximum length of ranges that are read with the inner store's `get_ranges`. That of `LocalFileSystem` is one task
/// for all of them, but allocates the memory in the thread of a pool, for which glibc keeps what is freed.
const SHORT_RANGES: u64 = 4 << 20;

/// The maximum length of detached keys, in bytes.
pub(super) const MAX_DETACHED_KEYS: u64 = 1 << 20;

/// A read that failed before any plaintext was returned.
struct Failure {
    error: object_store::Error,
    /// Whether the reason may be that the object was replaced since it was last seen.
    may_have_changed: bool,
}

impl From<object_store::Error> for Failure {
    fn from(error: object_store::Error) -> Self {
        Self { error, may_have_changed: false }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        object_store::Error::from(error).into()
    }
}

impl<T: ObjectStore> Core<T> {
    pub(super) async fn get(self: &Arc<Self>, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.check_name(location)?;
        if options.head {
            return self.head(location, options).await;
        }
        let (mut result, plaintext) = self.get_plaintext(location, &options).await?;
        result.payload = GetResultPayload::Stream(plaintext.into_stream());
        Ok(result)
    }

    /// Reads an object, or a range of it. Returns the result without its payload.
    pub(super) async fn get_plaintext(
        self: &Arc<Self>,
        location: &Path,
        options: &GetOptions,
    ) -> Result<(GetResult, Plaintext)> {
        let name = Self::name(location, options.version.as_ref());
        self.repeat_once(&name, |known| self.read(location, &name, options, known)).await
    }

    pub(super) async fn get_ranges(self: &Arc<Self>, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.check_name(location)?;
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        ranges.iter().try_for_each(|range| bounded(range).is_valid().map_err(out_of_range))?;
        let name = Self::name(location, None);
        self.repeat_once(&name, |known| self.read_ranges(location, &name, ranges, known)).await
    }

    /// Reads with what the cache knows of an object. If that may be out of date, or if the object may have been replaced
    /// between two requests, reads again.
    async fn repeat_once<R, F: Future<Output = Result<R, Failure>>>(
        &self,
        name: &Name,
        read: impl Fn(Option<Known>) -> F,
    ) -> Result<R> {
        let known = self.shared.objects.known(name).await;
        if known.is_some() {
            Counters::add(&self.shared.counters.cache_hits, 1);
        }
        match read(known).await {
            Err(Failure { may_have_changed: true, .. }) => {}
            done => return done.map_err(|failure| failure.error),
        }
        Counters::add(&self.shared.counters.repeated_reads, 1);
        let location = &name.location;
        debug!(%location, "reading an object again, because it may have been replaced");
        self.shared.objects.forget(name);
        read(None).await.map_err(|failure| failure.error)
    }

    /// Returns the metadata of an object.
    async fn head(self: &Arc<Self>, location: &Path, options: GetOptions) -> Result<GetResult> {
        let Answer { mut result, .. } = self.request(location, &options, None).await?;
        let (meta, look_up) = (result.meta.clone(), GetOptions { head: false, ..options.clone() });
        result.meta = self.plaintext_meta(meta, &look_up).await?;
        result.range = plaintext_range(options.range.as_ref(), result.meta.size)?;
        Ok(result)
    }

    async fn read(
        self: &Arc<Self>,
        location: &Path,
        name: &Name,
        options: &GetOptions,
        known: Option<Known>,
    ) -> Result<(GetResult, Plaintext), Failure> {
        if let Some(range) = &options.range {
            range.is_valid().map_err(out_of_range)?;
        }
        let (Answer { mut result, body }, object, may_have_changed) =
            match self.known_or_look_up(location, name, options, known).await? {
                Some((known, is_cached)) => {
                    let request = options.range.as_ref().map(|range| known_request(range, &known.object)).transpose();
                    let request = request.map_err(|error| Failure { error, may_have_changed: is_cached })?;
                    let answer = self.request(location, options, request).await.map_err(Failure::of_known)?;
                    if !known.is(answer.result.meta.e_tag.as_deref(), answer.result.meta.size) {
                        return Err(Failure::changed(location));
                    }
                    (answer, known.object, true)
                }
                None => self.request_unknown(location, name, options).await?,
            };
        let start = result.range.start;
        result.meta.size = object.plaintext_len();
        result.range = plaintext_range(options.range.as_ref(), result.meta.size)?;
        let frames = Frames::new(object, result.range.clone(), start);
        let mut plaintext = Plaintext { location: location.clone(), frames, body, first: None };
        // The first frames are opened here, while the read can be repeated.
        plaintext.first = plaintext
            .next()
            .await
            .map_err(|failure| Failure { may_have_changed: failure.may_have_changed && may_have_changed, ..failure })?;
        Ok((result, plaintext))
    }

    /// Returns what is known of an object, and whether that is from the cache. If nothing is, and sizes are looked up,
    /// requests and opens its header, which may have any layout.
    async fn known_or_look_up(
        self: &Arc<Self>,
        location: &Path,
        name: &Name,
        options: &GetOptions,
        known: Option<Known>,
    ) -> Result<Option<(Known, bool)>, Failure> {
        if known.is_none() && self.shared.looks_up_sizes {
            let (meta, header, _) = self.read_header(location, options).await?;
            let object = self.open(location, name, &meta, &header).await?;
            return Ok(Some((Known { object, e_tag: meta.e_tag }, false)));
        }
        Ok(known.map(|known| (known, true)))
    }

    /// Requests an object or a range of it, and opens its header, which is requested at the same time if the range does
    /// not include it. Returns whether there were two requests, between which the object may have changed.
    async fn request_unknown(
        self: &Arc<Self>,
        location: &Path,
        name: &Name,
        options: &GetOptions,
    ) -> Result<(Answer, Arc<Object>, bool), Failure> {
        let layout = &self.shared.layout;
        let request = options.range.as_ref().map(|range| match range {
            GetRange::Bounded(range) => GetRange::Bounded(layout.sealed(range)),
            GetRange::Offset(offset) => GetRange::Offset(layout.start(*offset)),
            GetRange::Suffix(len) => GetRange::Suffix(layout.sealed_suffix(*len)),
        });
        if let None | Some(GetRange::Bounded(Range { start: 0, .. }) | GetRange::Offset(0)) = request {
            let mut answer = self.request(location, options, request).await?;
            let header = header_of(&mut answer.body, layout.header_len).await?;
            return self.open_answer(location, name, options, (answer, header), false).await;
        }
        // The header first: a store that limits requests counts the range until it has been read.
        let ((meta, header), answer) =
            future::try_join(self.request_header(location, options), self.request(location, options, request)).await?;
        check_same(location, &meta, &answer.result.meta)?;
        self.open_answer(location, name, options, (answer, header), true).await
    }

    /// Opens the header of an object of which a part has been requested. If that needs detached keys, requests the part
    /// again: under a limit of requests, the keys may have to wait until the first answer has been dropped.
    async fn open_answer(
        self: &Arc<Self>,
        location: &Path,
        name: &Name,
        options: &GetOptions,
        (answer, header): (Answer, Bytes),
        may_have_changed: bool,
    ) -> Result<(Answer, Arc<Object>, bool), Failure> {
        let meta = answer.result.meta.clone();
        let error = match self.open_by_header(location, name, &meta, &header, None).await {
            Ok(object) => return Ok((answer, object, may_have_changed)),
            Err(error) if self.may_have_detached_keys(&error) => error,
            Err(error) => return Err(error.into()),
        };
        let request = match answer.result.range {
            range if range == (0..meta.size) => None,
            range => Some(GetRange::Bounded(range)),
        };
        drop(answer.body);
        let object = self.open_by_detached_keys(location, name, &meta, &header, error).await?;
        let answer = self.request(location, options, request).await.map_err(Failure::of_known)?;
        check_same(location, &meta, &answer.result.meta)?;
        Ok((answer, object, true))
    }

    async fn request_header(self: &Arc<Self>, location: &Path, options: &GetOptions) -> Result<(ObjectMeta, Bytes)> {
        Counters::add(&self.shared.counters.header_requests, 1);
        self.request_bytes(location, options, 0..self.shared.layout.header_len as u64).await
    }

    /// Reads several ranges of one version of an object.
    async fn read_ranges(
        self: &Arc<Self>,
        location: &Path,
        name: &Name,
        ranges: &[Range<u64>],
        known: Option<Known>,
    ) -> Result<Vec<Bytes>, Failure> {
        let options = GetOptions::default();
        if let Some((Known { object, .. }, is_cached)) = self.known_or_look_up(location, name, &options, known).await? {
            ranges
                .iter()
                .try_for_each(|range| plaintext_range(Some(&bounded(range)), object.plaintext_len()).map(drop))
                .map_err(|error| Failure { error, may_have_changed: is_cached })?;
            let pieces = self.request_known_ranges(location, &object, ranges).await?;
            return open_ranges(location, &object, ranges, &pieces).await;
        }
        let layout = self.shared.layout;
        let pieces = layout.merge(ranges, GAP);
        let needs_header = pieces.first().is_some_and(|piece| piece.start > 0);
        let header =
            async { if needs_header { self.request_header(location, &options).await.map(Some) } else { Ok(None) } };
        let fetched = stream::iter(pieces)
            .map(|piece| async { Ok((piece.start, self.request_bytes(location, &options, piece).await?)) })
            .buffered(CONCURRENCY)
            .try_collect::<Vec<_>>();
        let (header, fetched) = future::try_join(header, fetched).await?;

        let Some((_, (meta, first))) = fetched.first() else { return Ok(Vec::new()) };
        fetched.iter().try_for_each(|(_, (other, _))| check_same(location, meta, other))?;
        let header = match header {
            Some((other, header)) => {
                check_same(location, meta, &other)?;
                header
            }
            None => first.slice(..first.len().min(layout.header_len)),
        };
        let object = self.open(location, name, meta, &header).await?;
        let pieces: Vec<_> = fetched.into_iter().map(|(start, (_, bytes))| (start, bytes)).collect();
        open_ranges(location, &object, ranges, &pieces).await
    }

    /// Requests the bytes of a known object in which the frames of these ranges are. Returns them with their offsets.
    ///
    /// The answers need not be of the known version: frames of another one do not authenticate.
    async fn request_known_ranges(
        self: &Arc<Self>,
        location: &Path,
        object: &Object,
        ranges: &[Range<u64>],
    ) -> Result<Vec<(u64, Bytes)>, Failure> {
        let end = |piece: Range<u64>| piece.start..piece.end.min(object.sealed_len());
        let pieces: Vec<_> = object.layout.merge(ranges, GAP).into_iter().map(end).collect();
        let expected: u64 = pieces.iter().map(|piece| piece.end - piece.start).sum();
        if expected > SHORT_RANGES {
            let options = GetOptions::default();
            return stream::iter(pieces)
                .map(|piece| async { Ok((piece.start, self.request_bytes(location, &options, piece).await?.1)) })
                .buffered(CONCURRENCY)
                .try_collect()
                .await
                .map_err(Failure::of_known);
        }
        let counters = &self.shared.counters;
        Counters::add(&counters.read_requests, pieces.len() as u64);
        let fetched = self.inner.get_ranges(location, &pieces).await.map_err(Failure::of_known)?;
        let found = fetched.iter().map(|bytes| bytes.len() as u64).sum();
        Counters::add(&counters.bytes_read, found);
        if found != expected {
            let error = Error::ShortRead { location: location.to_string(), found, expected };
            return Err(Failure { error: error.into(), may_have_changed: true });
        }
        Ok(pieces.into_iter().map(|piece| piece.start).zip(fetched).collect())
    }

    /// Opens the header of an object, or finds it in the cache.
    async fn open(
        self: &Arc<Self>,
        location: &Path,
        name: &Name,
        meta: &ObjectMeta,
        header: &[u8],
    ) -> Result<Arc<Object>, Error> {
        match self.open_by_header(location, name, meta, header, None).await {
            Err(error) if self.may_have_detached_keys(&error) => {
                self.open_by_detached_keys(location, name, meta, header, error).await
            }
            opened => opened,
        }
    }

    /// Opens the header of an object with the keys in it, or with detached keys.
    async fn open_by_header(
        &self,
        location: &Path,
        name: &Name,
        meta: &ObjectMeta,
        header: &[u8],
        keys: Option<DetachedKeys>,
    ) -> Result<Arc<Object>, Error> {
        let open = || self.open_header(location, header, meta.size, keys.clone());
        self.shared.objects.get_or_open(name.clone(), meta.e_tag.as_deref(), (header, meta.size), open).await
    }

    /// Returns whether detached keys may help: no key in the header could be decrypted.
    fn may_have_detached_keys(&self, error: &Error) -> bool {
        let is_refused = matches!(error, Error::Open { source, .. } if matches!(**source, OpenError::Provider(_)));
        is_refused && !error.is_retryable() && self.shared.detached_keys.is_some()
    }

    /// Opens the header of an object with its detached keys. Returns `error` if none of them is for the key provider.
    async fn open_by_detached_keys(
        self: &Arc<Self>,
        location: &Path,
        name: &Name,
        meta: &ObjectMeta,
        header: &[u8],
        error: Error,
    ) -> Result<Arc<Object>, Error> {
        match self.detached_keys(location, header).await? {
            Some(keys) if may_open(&self.shared.envelope, keys.encrypted_data_keys()) => {
                self.open_by_header(location, name, meta, header, Some(keys)).await
            }
            _ => Err(error),
        }
    }

    async fn open_header(
        &self,
        location: &Path,
        header: &[u8],
        sealed_len: u64,
        keys: Option<DetachedKeys>,
    ) -> Result<Object, Error> {
        let shared = &self.shared;
        let located = |error: OpenError| Error::open(location, error);
        let header = match Header::parse(header, shared.envelope.limits()) {
            Err(HeaderError::Format(FormatError::Truncated(_))) if sealed_len > header.len() as u64 => {
                let (location, expected) = (location.to_string(), shared.layout.header_len);
                return Err(Error::HeaderLen { location, found: None, expected });
            }
            parsed => parsed.map_err(|error| Error::open(location, error))?,
        };
        let layout = self.layout_of(location, &header, sealed_len)?;
        let context = shared.contexts.expected(location.as_ref(), header.context());
        Counters::add(&shared.counters.data_keys, 1);
        debug!(%location, sealed_len, "opening the header of an object");
        let opener = match keys {
            None => shared.envelope.range_opener(&header, sealed_len, &context).await,
            Some(keys) => shared.envelope.with_detached_keys(keys).range_opener(&header, sealed_len, &context).await,
        };
        Ok(Object { opener: opener.map_err(located)?, layout })
    }

    /// Returns the layout of an object with this header, which must be that of the store unless sizes are looked up.
    fn layout_of(&self, location: &Path, header: &Header, sealed_len: u64) -> Result<Layout, Error> {
        let (layout, location) = (&self.shared.layout, location.to_string());
        let frame_len = header.content_type().frame_len();
        if self.shared.looks_up_sizes
            && let Some(frame_len) = frame_len
        {
            return Ok(Layout { header_len: header.len(), frame_len });
        }
        if header.len() != layout.header_len {
            return Err(Error::HeaderLen { location, found: Some(header.len()), expected: layout.header_len });
        }
        if frame_len != Some(layout.frame_len) {
            let (found, expected) = (frame_len.map(Into::into), layout.frame_len.get());
            return Err(Error::FrameLen { location, found, expected });
        }
        // Only an empty object of this store has an empty final frame.
        let is_ours = |geometry: &Geometry| geometry.frame_count() == 1 || !geometry.final_frame().plaintext.is_empty();
        match layout.geometry(sealed_len).filter(is_ours) {
            Some(_) => Ok(*layout),
            None => Err(Error::Length { location, sealed_len }),
        }
    }

    /// Returns the detached keys of an object, if there are any for this message.
    async fn detached_keys(self: &Arc<Self>, location: &Path, header: &[u8]) -> Result<Option<DetachedKeys>, Error> {
        let error = |source: Arc<dyn std::error::Error + Send + Sync>| Error::DetachedKeys {
            location: location.to_string(),
            source,
        };
        let Some(path) = self.detached_path(location) else { return Ok(None) };
        let options = GetOptions::default();
        let bytes = match self.request_bytes(&path, &options, 0..MAX_DETACHED_KEYS).await {
            Ok((_, bytes)) => bytes,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(failed) => return Err(error(Arc::new(failed))),
        };
        let keys = DetachedKeys::parse(&bytes, self.shared.envelope.limits())
            .map_err(|malformed| error(Arc::new(malformed)))?;
        let header =
            Header::parse(header, self.shared.envelope.limits()).map_err(|error| Error::open(location, error))?;
        Ok((keys.message_id() == header.message_id()).then_some(keys))
    }

    /// Reads the header of an object, of any length.
    pub(super) async fn read_header(
        self: &Arc<Self>,
        location: &Path,
        options: &GetOptions,
    ) -> Result<(ObjectMeta, Bytes, Header)> {
        let mut len = self.shared.layout.header_len as u64;
        loop {
            Counters::add(&self.shared.counters.header_requests, 1);
            let (meta, bytes) = self.request_bytes(location, options, 0..len).await?;
            match Header::parse(&bytes, self.shared.envelope.limits()) {
                Ok(header) => return Ok((meta, bytes.slice(..header.len()), header)),
                Err(HeaderError::Format(FormatError::Truncated(_))) if meta.size > len => len = len.saturating_mul(4),
                Err(error) => {
                    return Err(Error::open(location, error).into());
                }
            }
        }
    }
}

/// Returns the request for a range of an object whose length is known.
fn known_request(range: &GetRange, object: &Object) -> Result<GetRange, object_store::Error> {
    let plaintext = plaintext_range(Some(range), object.plaintext_len())?;
    // A range to the end of the plaintext includes the final frame, even if that is empty.
    Ok(if plaintext.end == object.plaintext_len() {
        GetRange::Offset(object.start(plaintext.start))
    } else {
        GetRange::Bounded(object.layout.sealed(&plaintext))
    })
}

fn bounded(range: &Range<u64>) -> GetRange {
    GetRange::Bounded(range.clone())
}

/// Resolves a range of the plaintext.
fn plaintext_range(range: Option<&GetRange>, len: u64) -> Result<Range<u64>> {
    range.map_or(Ok(0..len), |range| range.as_range(len).map_err(out_of_range))
}

fn out_of_range(error: impl std::error::Error + Send + Sync + 'static) -> object_store::Error {
    object_store::Error::Generic { store: STORE, source: Box::new(error) }
}

/// Returns an error if two answers are from different versions of an object.
fn check_same(location: &Path, one: &ObjectMeta, other: &ObjectMeta) -> Result<(), Failure> {
    let is_same = one.e_tag == other.e_tag
        && one.version == other.version
        && one.size == other.size
        && one.last_modified == other.last_modified;
    if is_same { Ok(()) } else { Err(Failure::changed(location)) }
}

impl Failure {
    fn changed(location: &Path) -> Self {
        Self { error: Error::Changed { location: location.to_string() }.into(), may_have_changed: true }
    }

    fn of_frame(location: &Path, source: OpenError) -> Self {
        Self { error: Error::open(location, source).into(), may_have_changed: true }
    }

    /// An error of the inner store, for a request for a range that depends on what is known of the object: if that is
    /// out of date, the object may not have such a range.
    fn of_known(error: object_store::Error) -> Self {
        Self { may_have_changed: matches!(error, object_store::Error::Generic { .. }), error }
    }
}

/// Returns the first bytes of an object, which stay in the body.
async fn header_of(body: &mut BoxStream<'static, Result<Bytes>>, len: usize) -> Result<Bytes> {
    let mut start = body.try_next().await?.unwrap_or_default();
    if start.len() < len {
        let mut bytes = Vec::from(start);
        while bytes.len() < len {
            let Some(piece) = body.try_next().await? else { break };
            bytes.extend_from_slice(&piece);
        }
        start = bytes.into();
    }
    let header = start.slice(..start.len().min(len));
    let rest = std::mem::replace(body, stream::empty().boxed());
    *body = stream::iter([Ok(start)]).chain(rest).boxed();
    Ok(header)
}

/// The plaintext of a range, while it is read.
pub(super) struct Plaintext {
    location: Path,
    frames: Frames,
    body: BoxStream<'static, Result<Bytes>>,
    /// Bytes that have been opened, but not returned.
    first: Option<Bytes>,
}

impl Plaintext {
    /// Returns the next bytes, or `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        if self.first.is_some() {
            return Ok(self.first.take());
        }
        loop {
            let opened = self.frames.next().map_err(|source| Failure::of_frame(&self.location, source))?;
            if opened.is_some() || self.frames.is_finished() {
                return Ok(opened);
            }
            let Some(piece) = self.body.try_next().await? else {
                let (found, expected) = self.frames.found_and_expected();
                return Err(Error::ShortRead { location: self.location.to_string(), found, expected }.into());
            };
            self.frames.push(piece);
        }
    }

    /// Returns the object that is read.
    pub(super) fn object(&self) -> &Object {
        self.frames.object()
    }

    /// Requests the bytes that were not read with one request for each `part_len` bytes, none of which stays open while
    /// nothing is read.
    pub(super) fn in_parts<T: ObjectStore>(mut self, core: &Arc<Core<T>>) -> Self {
        let unread = self.frames.unread();
        let end = unread.end;
        let parts = stream::iter(unread.step_by(core.shared.part_len));
        let (core, location) = (core.clone(), self.location.clone());
        let request = move |start: u64| {
            let (core, location) = (core.clone(), location.clone());
            async move {
                let part = start..end.min(start.saturating_add(core.shared.part_len as u64));
                core.request_bytes(&location, &GetOptions::default(), part).await.map(|(_, bytes)| bytes)
            }
        };
        self.body = parts.then(request).boxed();
        self
    }

    pub(super) fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        let next = |mut plaintext: Self| async move {
            let next = plaintext.next().await.map_err(|failure| failure.error)?;
            Ok(next.map(|next| (next, plaintext)))
        };
        stream::try_unfold(self, next).boxed()
    }
}

/// Opens ranges of the plaintext. `pieces` are the bytes of the object in which their frames are, with their offsets.
async fn open_ranges(
    location: &Path,
    object: &Object,
    ranges: &[Range<u64>],
    pieces: &[(u64, Bytes)],
) -> Result<Vec<Bytes>, Failure> {
    let layout = &object.layout;
    let mut sorted = Vec::with_capacity(ranges.len());
    for (index, asked) in ranges.iter().enumerate() {
        let range = plaintext_range(Some(&bounded(asked)), object.plaintext_len())?;
        let last = object.opener.final_frame();
        if range.end < asked.end && last.plaintext.is_empty() {
            // The range ends where the plaintext does, which no other frame shows.
            let sealed = sealed_bytes(location, pieces, &last.sealed)?;
            object.opener.prove_end(sealed).map_err(|source| Failure::of_frame(location, source))?;
        }
        sorted.push((range, index, 0));
    }
    sorted.sort_by_key(|(range, ..)| range.start);
    let mut end = 0;
    for (range, _, end_so_far) in &mut sorted {
        end = range.end.max(end);
        *end_so_far = end;
    }
    let mut opened = vec![Bytes::new(); ranges.len()];
    // Ranges that have a frame in common are opened together.
    for group in sorted.chunk_by(|(.., end), (next, ..)| layout.frame_of(next.start) <= layout.frame_of(end - 1)) {
        let (start, end) = (group[0].0.start, group[group.len() - 1].2);
        let plaintext = open_range(location, object, start..end, pieces).await?;
        for (range, index, _) in group {
            opened[*index] = plaintext.slice((range.start - start) as usize..(range.end - start) as usize);
        }
    }
    Ok(opened)
}

/// Opens one range of the plaintext, and lets other tasks run in between.
async fn open_range(
    location: &Path,
    object: &Object,
    range: Range<u64>,
    pieces: &[(u64, Bytes)],
) -> Result<Bytes, Failure> {
    let failed = |source| Failure::of_frame(location, source);
    if !range.is_empty() {
        // The length of the range may be one that the inner store made up.
        sealed_bytes(location, pieces, &object.opener.sealed_range(&range).map_err(failed)?)?;
    }
    let mut out =
        vec![0; usize::try_from(range.end - range.start).map_err(|error| Failure::from(out_of_range(error)))?];
    let (mut next, mut rest) = (range.start, &mut out[..]);
    while next < range.end {
        let end = object.layout.batch_end(next).min(range.end);
        let sealed = object.opener.sealed_range(&(next..end)).map_err(failed)?;
        let sealed = sealed_bytes(location, pieces, &sealed)?;
        let (out, after) = rest.split_at_mut((end - next) as usize);
        object.opener.open(&(next..end), sealed, out).map_err(failed)?;
        (next, rest) = (end, after);
        tokio::task::yield_now().await;
    }
    Ok(out.into())
}

/// Returns the bytes of a range of the object, which is in one of the pieces.
fn sealed_bytes<'a>(location: &Path, pieces: &'a [(u64, Bytes)], sealed: &Range<u64>) -> Result<&'a [u8], Error> {
    let (offset, piece) = &pieces[pieces.partition_point(|(offset, _)| *offset <= sealed.start).saturating_sub(1)];
    let within = (sealed.start - offset) as usize..(sealed.end - offset) as usize;
    piece.get(within.clone()).ok_or_else(|| {
        let (found, expected) = (piece.len() as u64, within.end as u64);
        Error::ShortRead { location: location.to_string(), found, expected }
    })
}
