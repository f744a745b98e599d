//! Reading a range as a stream.

use std::{
    collections::BTreeMap,
    fmt, io,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};

use super::{AsyncRangeReader, AsyncReadAt, async_reader::Inner, len};
use crate::error::OpenError;

/// A range of the plaintext, and the frames that contain it.
type Fetched = (Range<u64>, io::Result<Bytes>);

impl<S: AsyncReadAt + Send + Sync + 'static> AsyncRangeReader<S> {
    /// Returns a range of the plaintext as a stream of `Bytes`, for example for the body of an HTTP response.
    ///
    /// The stream fetches the message in [pieces](Self::with_piece_len), and yields the plaintext of each piece as one
    /// item, without a copy. While the caller uses an item, the stream fetches up to
    /// [`with_readahead`](Self::with_readahead) more pieces, so it holds at most two pieces more than that: 4 MiB by
    /// default. It fetches nothing before it is polled, and nothing after it has been dropped.
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
    /// Returns [`OpenError::OutOfRange`] if the range is outside of the plaintext. See [`RangeStream`] for the errors
    /// of the stream.
    pub fn stream(&self, range: Range<u64>) -> Result<RangeStream<S>, OpenError> {
        self.inner.opener.frames(&range)?;
        Ok(RangeStream {
            inner: self.inner.clone(),
            piece_len: self.piece_len,
            readahead: self.readahead,
            position: range.start,
            rest: range,
            fetching: FuturesUnordered::new(),
            fetched: BTreeMap::new(),
            has_failed: false,
        })
    }
}

/// A stream of a range of the plaintext.
///
/// Created by [`AsyncRangeReader::stream`]. Every byte that it yields is authenticated. Each poll decrypts at most one
/// piece.
///
/// # Errors
/// Every error is final: every further item is [`OpenError::FailedBefore`]. The stream does not end after an error, so
/// stop at the first one. To continue, create a new stream for the rest of the range.
///
/// # Cancel safety
/// Waiting for the next item is cancel safe: no item is lost.
pub struct RangeStream<S> {
    inner: Arc<Inner<S>>,
    piece_len: u64,
    readahead: usize,
    /// The start of the next item.
    position: u64,
    /// The part of the range that has not been requested.
    rest: Range<u64>,
    fetching: FuturesUnordered<BoxFuture<'static, Fetched>>,
    /// The pieces that have arrived, by their starts, with their ends.
    fetched: BTreeMap<u64, (u64, io::Result<Bytes>)>,
    has_failed: bool,
}

impl<S: AsyncReadAt + Send + Sync + 'static> RangeStream<S> {
    /// Makes sure that up to `pieces` pieces are being fetched or have arrived.
    fn poll_fetch(&mut self, pieces: usize, cx: &mut Context<'_>) -> Result<(), OpenError> {
        while !self.rest.is_empty() && self.fetching.len() + self.fetched.len() < pieces {
            let piece = self.rest.start..self.inner.opener.piece_end(&self.rest, self.piece_len);
            self.rest.start = piece.end;
            let sealed = self.inner.opener.sealed_range(&piece)?;
            let inner = self.inner.clone();
            let mut fetch = async move { (piece, inner.fetch(&sealed).await) }.boxed();
            // `fetching` may not poll all of its futures in one call, but the request must start now.
            match fetch.poll_unpin(cx) {
                Poll::Ready(fetched) => self.arrived(fetched),
                Poll::Pending => self.fetching.push(fetch),
            }
        }
        while let Poll::Ready(Some(fetched)) = self.fetching.poll_next_unpin(cx) {
            self.arrived(fetched);
        }
        Ok(())
    }

    fn arrived(&mut self, (piece, sealed): Fetched) {
        self.fetched.insert(piece.start, (piece.end, sealed));
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, OpenError>>> {
        self.poll_fetch(self.readahead.saturating_add(1), cx)?;
        let Some((end, sealed)) = self.fetched.remove(&self.position) else {
            return match self.fetching.is_empty() {
                _ if self.position == self.rest.end => Poll::Ready(None),
                // The source panicked, and the request was lost.
                true => Poll::Ready(Some(Err(OpenError::FailedBefore))),
                false => Poll::Pending,
            };
        };
        let piece = std::mem::replace(&mut self.position, end)..end;
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
            this.fetched.clear();
        }
        next
    }
}

/// Omits the source, and the bytes read from it.
impl<S> fmt::Debug for RangeStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RangeStream")
            .field("opener", &self.inner.opener)
            .field("rest", &self.rest)
            .finish_non_exhaustive()
    }
}
