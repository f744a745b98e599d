//! A range as a stream.

use std::{
    collections::VecDeque,
    fmt, io,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::{
    FutureExt,
    future::{BoxFuture, MaybeDone, maybe_done},
};

use super::{AsyncRangeReader, AsyncReadAt, async_reader::Inner, len};
use crate::error::OpenError;

/// A range of the plaintext, and the frames that hold it.
type Fetched = (Range<u64>, io::Result<Bytes>);

impl<S: AsyncReadAt + Send + Sync + 'static> AsyncRangeReader<S> {
    /// Returns a range of the plaintext as a stream: the body of an HTTP response, for one.
    ///
    /// The stream fetches the message in [pieces](Self::with_piece_len), opens each of them once, and yields it as one
    /// [`Bytes`]: what it was opened to, without a copy. While the caller works on a piece, up to
    /// [`with_readahead`](Self::with_readahead) more are fetched, so a stream holds at most two pieces more than that:
    /// 4 MiB by default. It fetches nothing before it is polled, and nothing more once it is dropped.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use futures_util::TryStreamExt;
    /// use kms_envelope::{EncryptionContext, Envelope, RawAes};
    ///
    /// # pollster::block_on(async {
    /// # let envelope = Envelope::new(RawAes::generate("example", "key")?);
    /// # let context = EncryptionContext::new();
    /// let sealed = Bytes::from(envelope.seal(b"attack at dawn", &context).await?);
    /// let reader = envelope.async_range_reader(sealed.clone(), sealed.len() as u64, &context).await?;
    /// // With axum: Body::from_stream(reader.stream(10..14)?)
    /// let pieces: Vec<Bytes> = reader.stream(10..14)?.try_collect().await?;
    /// assert_eq!(pieces.concat(), b"dawn");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Returns [`OpenError::OutOfRange`] if the plaintext does not have the range. See [`RangeStream`] for the errors of
    /// the stream.
    pub fn stream(&self, range: Range<u64>) -> Result<RangeStream<S>, OpenError> {
        self.inner.opener.frames(&range)?;
        Ok(RangeStream {
            inner: self.inner.clone(),
            piece_len: self.piece_len,
            readahead: self.readahead,
            rest: range,
            fetching: VecDeque::new(),
            has_failed: false,
        })
    }
}

/// Reads a range of the plaintext as a stream of [`Bytes`].
///
/// Made by [`AsyncRangeReader::stream`]. Every byte that it yields is authenticated. Each poll opens at most one piece.
///
/// # Errors
/// Any error is final: every further item is [`OpenError::FailedBefore`]. The stream does not end after an error, so
/// stop at the first one. The stream can be made again, to go on with the rest of the range.
pub struct RangeStream<S> {
    inner: Arc<Inner<S>>,
    piece_len: u64,
    readahead: usize,
    /// What is still to be fetched.
    rest: Range<u64>,
    /// In order.
    fetching: VecDeque<MaybeDone<BoxFuture<'static, Fetched>>>,
    has_failed: bool,
}

impl<S: AsyncReadAt + Send + Sync + 'static> RangeStream<S> {
    /// Fetches so many pieces at the same time.
    fn poll_fetch(&mut self, pieces: usize, cx: &mut Context<'_>) -> Result<(), OpenError> {
        while !self.rest.is_empty() && self.fetching.len() < pieces {
            let piece = self.rest.start..self.inner.opener.piece_end(&self.rest, self.piece_len);
            self.rest.start = piece.end;
            let sealed = self.inner.opener.sealed_range(&piece)?;
            let inner = self.inner.clone();
            self.fetching.push_back(maybe_done(async move { (piece, inner.fetch(&sealed).await) }.boxed()));
        }
        for fetch in &mut self.fetching {
            let _ = fetch.poll_unpin(cx);
        }
        Ok(())
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, OpenError>>> {
        self.poll_fetch(self.readahead.saturating_add(1), cx)?;
        let Some(first) = self.fetching.front_mut() else { return Poll::Ready(None) };
        let Some((piece, sealed)) = Pin::new(first).take_output() else { return Poll::Pending };
        self.fetching.pop_front();
        let sealed = sealed?;
        self.poll_fetch(self.readahead, cx)?;
        let mut out = vec![0; len(&piece)?];
        self.inner.opener.open(&piece, &sealed, &mut out)?;
        Poll::Ready(Some(Ok(out.into())))
    }
}

impl<S: AsyncReadAt + Send + Sync + 'static> Stream for RangeStream<S> {
    type Item = Result<Bytes, OpenError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.has_failed {
            return Poll::Ready(Some(Err(OpenError::FailedBefore)));
        }
        let next = this.poll_piece(cx);
        if let Poll::Ready(Some(Err(_))) = next {
            this.has_failed = true;
            this.fetching.clear();
        }
        next
    }
}

/// Without the source, and what was read of it.
impl<S> fmt::Debug for RangeStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RangeStream")
            .field("opener", &self.inner.opener)
            .field("rest", &self.rest)
            .finish_non_exhaustive()
    }
}
