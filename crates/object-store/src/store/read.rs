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

/// The maximum length of detached keys, in bytes.
const MAX_DETACHED_KEYS: u64 = 1 << 20;

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
        if options.head {
            return self.head(location, options).await;
        }
        let name = Self::name(location, options.version.as_ref());
        self.repeat_once(&name, |known| self.read(location, &name, &options, known)).await
    }

    pub(super) async fn get_ranges(self: &Arc<Self>, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        ranges.iter().try_for_each(|range| GetRange::Bounded(range.clone()).is_valid().map_err(out_of_range))?;
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
        result.meta.size = self.plaintext_len(&result.meta).await?;
        result.range = plaintext_range(options.range.as_ref(), result.meta.size)?;
        Ok(result)
    }

    /// Reads an object, or a range of it.
    async fn read(
        self: &Arc<Self>,
        location: &Path,
        name: &Name,
        options: &GetOptions,
        mut known: Option<Known>,
    ) -> Result<GetResult, Failure> {
        if let Some(range) = &options.range {
            range.is_valid().map_err(out_of_range)?;
        }
        if known.is_none() && self.shared.looks_up_sizes {
            known = Some(self.look_up(location, name, options).await?);
        }
        let (Answer { mut result, mut body }, header) = match (&options.range, &known) {
            (None, _) => (self.request(location, options, None).await?, None),
            (Some(range), Some(known)) => {
                let request = known_request(range, &known.object).map_err(Failure::of_known)?;
                (self.request(location, options, Some(request)).await.map_err(Failure::of_known)?, None)
            }
            (Some(range), None) => self.request_with_header(location, options, range).await?,
        };

        let mut offset = result.range.start;
        let is_one_request = known.is_none() && header.is_none();
        let object = match (known, header) {
            (Some(known), _) => {
                check_known(location, &known, &result.meta)?;
                known.object
            }
            (None, Some(header)) => self.open(location, name, &result.meta, header).await?,
            (None, None) => {
                let (header, rest) = split_header(&mut body, self.shared.layout.header_len).await?;
                offset += header.len() as u64;
                body = stream::iter([Ok(rest)]).chain(body).boxed();
                self.open(location, name, &result.meta, header).await?
            }
        };

        result.meta.size = object.plaintext_len();
        result.range = plaintext_range(options.range.as_ref(), result.meta.size)
            .map_err(|error| Failure { error, may_have_changed: !is_one_request })?;
        let frames = Frames::new(object, result.range.clone(), offset);
        let mut plaintext = Plaintext { location: location.clone(), frames, body };
        // The first frames are opened here, while the read can be repeated.
        let first = plaintext
            .next()
            .await
            .map_err(|failure| Failure { may_have_changed: failure.may_have_changed && !is_one_request, ..failure })?;
        result.payload = GetResultPayload::Stream(plaintext.into_stream(first));
        Ok(result)
    }

    /// Requests a range of an object whose header is not known, and at the same time its header, if the range does not
    /// include it.
    async fn request_with_header(
        self: &Arc<Self>,
        location: &Path,
        options: &GetOptions,
        range: &GetRange,
    ) -> Result<(Answer, Option<Bytes>), Failure> {
        let layout = &self.shared.layout;
        let request = match range {
            GetRange::Bounded(range) => GetRange::Bounded(layout.sealed(range)),
            GetRange::Offset(offset) => GetRange::Offset(layout.start(*offset)),
            GetRange::Suffix(len) => GetRange::Suffix(layout.sealed_suffix(*len)),
        };
        let (GetRange::Bounded(Range { start: 0, .. }) | GetRange::Offset(0)) = request else {
            // The header first: a store that limits requests counts the range until it has been read.
            let ((meta, header), answer) = future::try_join(
                self.request_header(location, options),
                self.request(location, options, Some(request)),
            )
            .await?;
            check_same(location, &meta, &answer.result.meta)?;
            return Ok((answer, Some(header)));
        };
        Ok((self.request(location, options, Some(request)).await?, None))
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
        mut known: Option<Known>,
    ) -> Result<Vec<Bytes>, Failure> {
        let options = GetOptions::default();
        if known.is_none() && self.shared.looks_up_sizes {
            known = Some(self.look_up(location, name, &options).await?);
        }
        let layout = known.as_ref().map_or(self.shared.layout, |known| known.object.layout);
        let pieces = layout.merge(ranges, GAP);
        let needs_header = known.is_none() && pieces.first().is_some_and(|piece| piece.start > 0);
        let header =
            async { if needs_header { self.request_header(location, &options).await.map(Some) } else { Ok(None) } };
        let fetched = stream::iter(pieces)
            .map(|piece| async { Ok((piece.start, self.request_bytes(location, &options, piece).await?)) })
            .buffered(CONCURRENCY)
            .try_collect::<Vec<_>>();
        let (header, fetched) = future::try_join(header, fetched).await.map_err(if known.is_some() {
            Failure::of_known
        } else {
            Failure::from
        })?;

        let Some((_, (meta, first))) = fetched.first() else { return Ok(Vec::new()) };
        fetched.iter().try_for_each(|(_, (other, _))| check_same(location, meta, other))?;
        let object = match (known, header) {
            (Some(known), _) => {
                check_known(location, &known, meta)?;
                known.object
            }
            (None, Some((other, header))) => {
                check_same(location, meta, &other)?;
                self.open(location, name, meta, header).await?
            }
            (None, None) => {
                let header = first.slice(..first.len().min(layout.header_len));
                self.open(location, name, meta, header).await?
            }
        };
        let pieces: Vec<_> = fetched.into_iter().map(|(start, (_, bytes))| (start, bytes)).collect();
        open_ranges(location, &object, ranges, &pieces).await
    }

    /// Opens the header of an object, or finds it in the cache.
    async fn open(
        self: &Arc<Self>,
        location: &Path,
        name: &Name,
        meta: &ObjectMeta,
        header: Bytes,
    ) -> Result<Arc<Object>, Error> {
        // A copy: a part of the answer would keep all of it in memory, as long as it is in the cache.
        let header = Bytes::copy_from_slice(&header);
        let content = (header.clone(), meta.size);
        let open = || self.open_header(location, header.clone(), meta.size);
        self.shared.objects.get_or_open(name.clone(), meta.e_tag.as_deref(), content, open).await
    }

    async fn open_header(self: &Arc<Self>, location: &Path, header: Bytes, sealed_len: u64) -> Result<Object, Error> {
        let shared = &self.shared;
        let located = |error: OpenError| Error::open(location, error);
        let header = match Header::parse(&header, shared.envelope.limits()) {
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
        let opener = match shared.envelope.range_opener(&header, sealed_len, &context).await {
            Err(error @ OpenError::Provider(_)) if !error.is_retryable() => {
                let Some(keys) = self.detached_keys(location, &header).await? else { return Err(located(error)) };
                shared.envelope.with_detached_keys(keys).range_opener(&header, sealed_len, &context).await
            }
            opener => opener,
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
    async fn detached_keys(self: &Arc<Self>, location: &Path, header: &Header) -> Result<Option<DetachedKeys>, Error> {
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

    /// Reads and opens the header of an object that may have any layout.
    async fn look_up(self: &Arc<Self>, location: &Path, name: &Name, options: &GetOptions) -> Result<Known, Failure> {
        let (meta, header, _) = self.read_header(location, options).await?;
        Ok(Known { object: self.open(location, name, &meta, header).await?, e_tag: meta.e_tag })
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

/// Returns an error if an answer is not from the version of the object that is known.
fn check_known(location: &Path, known: &Known, meta: &ObjectMeta) -> Result<(), Failure> {
    if known.is(meta.e_tag.as_deref(), meta.size) { Ok(()) } else { Err(Failure::changed(location)) }
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

/// Reads the first bytes of an object. Returns them, and the bytes that came in the same piece.
async fn split_header(body: &mut BoxStream<'static, Result<Bytes>>, len: usize) -> Result<(Bytes, Bytes)> {
    let mut header = body.try_next().await?.unwrap_or_default();
    if header.len() < len {
        let mut bytes = Vec::from(header);
        while bytes.len() < len {
            let Some(piece) = body.try_next().await? else { break };
            bytes.extend_from_slice(&piece);
        }
        header = bytes.into();
    }
    let rest = header.split_off(header.len().min(len));
    Ok((header, rest))
}

/// The plaintext of a range, while it is read.
struct Plaintext {
    location: Path,
    frames: Frames,
    body: BoxStream<'static, Result<Bytes>>,
}

impl Plaintext {
    /// Returns the next bytes, or `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
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

    fn into_stream(self, first: Option<Bytes>) -> BoxStream<'static, Result<Bytes>> {
        let Some(first) = first else { return stream::empty().boxed() };
        let rest = stream::try_unfold(Some(self), |plaintext| async {
            let Some(mut plaintext) = plaintext else { return Ok(None) };
            let next = plaintext.next().await.map_err(|failure| failure.error)?;
            Ok(next.map(|next| (next, Some(plaintext))))
        });
        stream::iter([Ok(first)]).chain(rest).boxed()
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
        let range = plaintext_range(Some(&GetRange::Bounded(asked.clone())), object.plaintext_len())
            .map_err(|error| Failure { error, may_have_changed: true })?;
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
