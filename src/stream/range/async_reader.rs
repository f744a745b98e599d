//! Reading ranges of a message from an asynchronous source.

use std::{io, ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::{
    AsyncReadAt, RangeOpener, buffer,
    plan::{Fetch, Target, targets},
    read_at::read_range_async,
    reader::{HEADER_GUESS, feed},
};
use crate::{
    error::OpenError,
    message::{Header, HeaderReader, Limits},
    stream::{
        MessageInfo,
        buffer::{BATCH, debug_without_inner},
        poll_budget::PollBudget,
    },
};

const CONCURRENCY: usize = 8;
#[cfg(feature = "stream")]
const READAHEAD: usize = 2;

/// Same as in the crate object_store: fetching 1 MiB more costs less than another request.
const GAP: u64 = 1 << 20;

/// A reader for ranges of one message's plaintext, from an asynchronous source.
///
/// Created by [`Envelope::async_range_reader`](crate::Envelope::async_range_reader), which reads the header and the
/// final frame. After that, it fetches only the frames that a range needs. It is cheap to clone, and any number of
/// tasks can read from it at the same time.
///
/// Decryption, and copying for ranges that share frames, run in the calling task. Each poll handles at most one
/// [piece](Self::with_piece_len) and 1 MiB more.
///
/// # What is authenticated
/// Same as for [`RangeReader`](super::RangeReader): every byte that is returned, its position, and [`len`](Self::len).
///
/// # Cancel safety
/// All methods are cancel safe: dropping their futures cancels their requests to the source, and the reader stays
/// usable.
pub struct AsyncRangeReader<S> {
    pub(super) inner: Arc<Inner<S>>,
    pub(super) piece_len: u64,
    gap: u64,
    concurrency: usize,
    #[cfg(feature = "stream")]
    pub(super) readahead: usize,
}

pub(super) struct Inner<S> {
    source: S,
    pub(super) opener: RangeOpener,
}

impl<S: AsyncReadAt> Inner<S> {
    /// Fetches this range of the message. The result is shorter if the source ends before.
    pub(super) async fn fetch(&self, sealed: &Range<u64>) -> io::Result<Bytes> {
        read_range_async(&self.source, sealed).await
    }
}

impl<S> Clone for AsyncRangeReader<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), ..*self }
    }
}

impl<S> AsyncRangeReader<S> {
    /// Sets the maximum number of bytes of the message in one request to the source. Default: 1 MiB.
    ///
    /// A piece consists of complete frames, at least one. It may be 8 bytes longer if it includes the final frame.
    /// Longer pieces need fewer requests and more memory.
    #[must_use]
    pub fn with_piece_len(mut self, bytes: u64) -> Self {
        self.piece_len = bytes;
        self
    }

    /// Sets the maximum number of concurrent requests to the source in one call of [`read`](Self::read),
    /// [`read_into`](Self::read_into) or [`read_ranges`](Self::read_ranges). Default: 8. 0 means 1.
    #[must_use]
    pub fn with_concurrency(mut self, requests: usize) -> Self {
        self.concurrency = requests;
        self
    }

    /// Sets the maximum gap between two ranges that [`read_ranges`](Self::read_ranges) fetches with one request, in
    /// bytes of the message between their frames. Default: 1 MiB.
    ///
    /// The bytes in the gap are fetched but not decrypted. The ranges must also fit into one
    /// [piece](Self::with_piece_len). 0 combines only ranges whose frames are adjacent.
    #[must_use]
    pub fn with_coalesced_gap(mut self, bytes: u64) -> Self {
        self.gap = bytes;
        self
    }

    /// Sets how many pieces a [`stream`](Self::stream) fetches in advance while the caller uses the current one.
    /// Default: 2.
    ///
    /// 0 fetches each piece when the stream is polled for it.
    #[cfg(feature = "stream")]
    #[must_use]
    pub fn with_readahead(mut self, pieces: usize) -> Self {
        self.readahead = pieces;
        self
    }

    /// Returns the message's metadata.
    pub fn info(&self) -> &MessageInfo {
        self.inner.opener.info()
    }

    /// Returns the length of the plaintext in bytes, which the final frame has authenticated.
    pub fn len(&self) -> u64 {
        self.inner.opener.geometry.plaintext_len()
    }

    /// Returns whether the plaintext is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<S: AsyncReadAt + Sync> AsyncRangeReader<S> {
    pub(crate) async fn new(source: S, opener: RangeOpener) -> Result<Self, OpenError> {
        let inner = Inner { source, opener };
        let sealed = inner.fetch(&inner.opener.final_frame().sealed).await?;
        inner.opener.prove_end(&sealed)?;
        Ok(Self {
            inner: Arc::new(inner),
            piece_len: BATCH as u64,
            gap: GAP,
            concurrency: CONCURRENCY,
            #[cfg(feature = "stream")]
            readahead: READAHEAD,
        })
    }

    /// Reads a range of the plaintext, in [pieces](Self::with_piece_len) that are fetched
    /// [concurrently](Self::with_concurrency).
    ///
    /// In addition to the result, the method holds one piece for each concurrent request in memory. To read a range
    /// without holding all of it in memory, use `stream` (feature `stream`).
    ///
    /// # Errors
    /// Returns [`OpenError::OutOfRange`] if the range is outside of the plaintext, [`OpenError::Io`] if the source
    /// fails, and otherwise an [`OpenError`] that specifies why a frame cannot be opened. An error does not affect
    /// later reads.
    pub async fn read(&self, range: Range<u64>) -> Result<Vec<u8>, OpenError> {
        self.inner.opener.frames(&range)?;
        let mut out = buffer(&range)?;
        self.read_targets(vec![Target { range, out: &mut out }]).await?;
        Ok(out)
    }

    /// Fills `out` with the plaintext from `offset` on. Like [`read`](Self::read), but reuses an existing buffer.
    ///
    /// # Errors
    /// Same as [`read`](Self::read). On error, `out` is filled with zeros. If the future is dropped, `out` may contain
    /// a part of the plaintext.
    pub async fn read_into(&self, offset: u64, out: &mut [u8]) -> Result<(), OpenError> {
        let range = offset..offset.saturating_add(out.len() as u64);
        let read = match self.inner.opener.frames(&range) {
            Ok(_) => self.read_targets(vec![Target { range, out: &mut *out }]).await,
            Err(error) => Err(error),
        };
        if read.is_err() {
            out.fill(0);
        }
        read
    }

    /// Reads several ranges of the plaintext, and returns them in the order of `ranges`.
    ///
    /// Ranges may be empty, overlap, and be in any order. Each frame is fetched and decrypted once, even if several
    /// ranges need it. Ranges whose frames are adjacent or [close to each other](Self::with_coalesced_gap) are fetched
    /// with one request of at most one [piece](Self::with_piece_len). Requests run
    /// [concurrently](Self::with_concurrency).
    ///
    /// The result is as long as all ranges together. Limit their number and length if a client chooses them. In
    /// addition, the method holds one piece for each concurrent request, and one more for ranges that share frames:
    /// 9 MiB by default.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use kms_envelope::{EncryptionContext, Envelope, RawAes};
    ///
    /// # pollster::block_on(async {
    /// # let envelope = Envelope::new(RawAes::generate("example", "key")?);
    /// # let context = EncryptionContext::new();
    /// let sealed = Bytes::from(envelope.seal(b"attack at dawn", &context).await?);
    /// let reader = envelope.async_range_reader(sealed.clone(), sealed.len() as u64, &context).await?;
    /// assert_eq!(reader.read_ranges(&[10..14, 0..6]).await?, [&b"dawn"[..], b"attack"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Same as [`read`](Self::read). If any range is outside of the plaintext, nothing is fetched.
    pub async fn read_ranges(&self, ranges: &[Range<u64>]) -> Result<Vec<Vec<u8>>, OpenError> {
        let mut out = self.inner.opener.buffers(ranges)?;
        self.read_targets(targets(ranges, &mut out)).await?;
        Ok(out)
    }

    async fn read_targets(&self, targets: Vec<Target<'_>>) -> Result<(), OpenError> {
        let mut waiting = self.inner.opener.fetches(targets, self.piece_len, self.gap)?;
        let mut running = FuturesUnordered::new();
        let mut budget = PollBudget::new();
        loop {
            let free = self.concurrency.max(1) - running.len();
            running.extend(waiting.by_ref().take(free).map(|fetch| self.run(fetch)));
            let Some(fetched) = running.next().await else { return Ok(()) };
            let (fetch, sealed) = fetched?;
            let copies = self.inner.opener.open_sharing(fetch.sealed.start, &sealed, fetch.targets)?;
            budget.spend(sealed.len()).await;
            for copied in copies {
                budget.spend(copied?).await;
            }
        }
    }

    async fn run<'a>(&self, fetch: Fetch<'a>) -> io::Result<(Fetch<'a>, Bytes)> {
        let sealed = self.inner.fetch(&fetch.sealed).await?;
        Ok((fetch, sealed))
    }
}

/// Reads the header of the message in an asynchronous source.
pub(crate) async fn read_header_async(
    source: &impl AsyncReadAt,
    sealed_len: u64,
    limits: &Limits,
) -> Result<Header, OpenError> {
    let (mut header, mut next) = (HeaderReader::new(limits), 0..sealed_len.min(HEADER_GUESS));
    while !next.is_empty() {
        let bytes = read_range_async(source, &next).await?;
        next = feed(&mut header, &bytes, next, sealed_len)?;
    }
    Ok(header.finish()?)
}

debug_without_inner!(AsyncRangeReader<S>: inner, Inner<S>: opener);
