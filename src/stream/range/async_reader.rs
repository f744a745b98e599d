//! Ranges of a message in an asynchronous source.

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
        turn::Turn,
    },
};

const CONCURRENCY: usize = 8;
#[cfg(feature = "stream")]
const READAHEAD: usize = 2;

/// As in object_store: reading on is cheaper than another request to a store.
const GAP: u64 = 1 << 20;

/// Reads any range of one message's plaintext from its asynchronous source.
///
/// Made by [`Envelope::async_range_reader`](crate::Envelope::async_range_reader). Reads the header and the final frame
/// of the message once, and then only the frames that a range needs. It is cheap to clone, and any number of tasks can
/// read from it at once. Frames are opened, and ranges that share frames are copied, in the calling task: in each poll,
/// at most one [piece](Self::with_piece_len) and 1 MiB more.
///
/// # What is authenticated
/// As with [`RangeReader`](super::RangeReader): a range contains bytes of frames whose tags have been verified, and no
/// others; the final frame has proven the message's end, and so [`len`](Self::len).
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
    /// The bytes of the message in this range: fewer where the source ends.
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
    /// Sets how many bytes of the message a request to the source asks for at most. The default is 1 MiB.
    ///
    /// A piece is made of whole frames, at least one; 8 bytes more where the final frame is among them. Longer pieces
    /// make fewer requests, and take more memory.
    #[must_use]
    pub fn with_piece_len(mut self, bytes: u64) -> Self {
        self.piece_len = bytes;
        self
    }

    /// Sets how many requests [`read`](Self::read), [`read_into`](Self::read_into) and
    /// [`read_ranges`](Self::read_ranges) make to the source at the same time, at least 1. The default is 8.
    #[must_use]
    pub fn with_concurrency(mut self, requests: usize) -> Self {
        self.concurrency = requests;
        self
    }

    /// Sets up to which distance [`read_ranges`](Self::read_ranges) asks for two ranges in one request, in bytes of the
    /// message between their frames. The default is 1 MiB, so that ranges that fit into one
    /// [piece](Self::with_piece_len) are one request.
    ///
    /// Bytes between the ranges are fetched, and not opened. 0 merges only ranges whose frames touch.
    #[must_use]
    pub fn with_coalesced_gap(mut self, bytes: u64) -> Self {
        self.gap = bytes;
        self
    }

    /// Sets how many pieces a stream of a range fetches ahead of the one that it gives out. The default is 2; 0 fetches
    /// each piece when it is asked for.
    #[cfg(feature = "stream")]
    #[must_use]
    pub fn with_readahead(mut self, pieces: usize) -> Self {
        self.readahead = pieces;
        self
    }

    /// Returns what is known of the message besides its plaintext.
    pub fn info(&self) -> &MessageInfo {
        self.inner.opener.info()
    }

    /// Returns the length of the plaintext, in bytes, as the final frame has proven.
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

    /// Reads a range of the plaintext, in [pieces](Self::with_piece_len) that are
    /// [fetched at the same time](Self::with_concurrency).
    ///
    /// Besides the result, at most as many pieces are held in memory as are fetched at the same time. `stream` (feature
    /// `stream`) does not hold the range in memory.
    ///
    /// # Errors
    /// Returns [`OpenError::OutOfRange`] if the plaintext does not have the range, [`OpenError::Io`] if the source fails,
    /// and otherwise an [`OpenError`] that says why a frame does not open.
    pub async fn read(&self, range: Range<u64>) -> Result<Vec<u8>, OpenError> {
        self.inner.opener.frames(&range)?;
        let mut out = buffer(&range)?;
        self.read_targets(vec![Target { range, out: &mut out }]).await?;
        Ok(out)
    }

    /// Fills `out` with the plaintext from `offset` on. Like [`read`](Self::read), but reuses an existing buffer.
    ///
    /// # Errors
    /// As [`read`](Self::read); `out` is wiped then. If the future is dropped, `out` may hold a part of the plaintext.
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
    /// Ranges may be empty, overlap, and come in any order. Each frame is fetched and opened once, however many ranges
    /// need it. Ranges whose frames touch, or are [close to each other](Self::with_coalesced_gap), are fetched by one
    /// request of at most one [piece](Self::with_piece_len), and several requests are made
    /// [at the same time](Self::with_concurrency). Besides the result, so many pieces are held in memory at most, and
    /// one more for ranges that share frames: 9 MiB by default.
    ///
    /// The result is as long as all ranges together. Limit their number and length if a client chooses them.
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
    /// As [`read`](Self::read), for any of the ranges; nothing is fetched if the plaintext does not have all of them.
    pub async fn read_ranges(&self, ranges: &[Range<u64>]) -> Result<Vec<Vec<u8>>, OpenError> {
        let mut out = self.inner.opener.buffers(ranges)?;
        self.read_targets(targets(ranges, &mut out)).await?;
        Ok(out)
    }

    async fn read_targets(&self, targets: Vec<Target<'_>>) -> Result<(), OpenError> {
        let mut waiting = self.inner.opener.fetches(targets, self.piece_len, self.gap)?;
        let mut running = FuturesUnordered::new();
        let mut turn = Turn::new();
        loop {
            let free = self.concurrency.max(1) - running.len();
            running.extend(waiting.by_ref().take(free).map(|fetch| self.run(fetch)));
            let Some(fetched) = running.next().await else { return Ok(()) };
            let (fetch, sealed) = fetched?;
            let copies = self.inner.opener.open_sharing(fetch.sealed.start, &sealed, fetch.targets)?;
            turn.after(sealed.len()).await;
            for copied in copies {
                turn.after(copied?).await;
            }
        }
    }

    async fn run<'a>(&self, fetch: Fetch<'a>) -> io::Result<(Fetch<'a>, Bytes)> {
        let sealed = self.inner.fetch(&fetch.sealed).await?;
        Ok((fetch, sealed))
    }
}

/// The header of the message in an asynchronous source.
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
