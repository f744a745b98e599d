//! Streams of [`Bytes`], such as HTTP bodies and objects in a store.

use std::{
    error::Error as StdError,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_core::Stream;
use thiserror::Error;

use super::{
    MessageInfo, Opener, Sealer,
    buffer::debug_without_inner,
    poll_budget::PollBudget,
    sealer::{Layout, Sealing},
};
use crate::{
    error::{ErrorKind, OpenError, SealError, kind::Meaning},
    message::{Header, HeaderReader, Limits},
};

/// An error of a [`SealStream`] or an [`OpenStream`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StreamError<E> {
    /// The inner stream failed.
    #[error("the inner stream failed")]
    Source(#[source] E),
    /// The plaintext could not be sealed.
    #[error("{0}")]
    Seal(#[from] SealError),
    /// The message could not be opened.
    #[error("{0}")]
    Open(#[from] OpenError),
}

impl<E: StdError + 'static> StreamError<E> {
    /// Returns the category of the error, for example to choose an HTTP status.
    ///
    /// An error of the inner stream has the kind [`ErrorKind::Io`]. If an error of this crate caused it, for example
    /// because the inner stream opens a message itself, it has the kind of that error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Source(error) => Meaning::of(error).kind,
            Self::Seal(error) => error.kind(),
            Self::Open(error) => error.kind(),
        }
    }

    /// Returns whether sealing or opening the same message again later, from its start, may succeed.
    ///
    /// This is the case if the key provider's error is retryable, or if the inner stream failed with an [`io::Error`]
    /// of the kind `WouldBlock`, `TimedOut` or `Interrupted`.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Source(error) => Meaning::of(error).is_retryable,
            Self::Seal(error) => error.is_retryable(),
            Self::Open(error) => error.is_retryable(),
        }
    }

    /// Returns how long to wait before a retry, if the key service specified it.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Source(error) => Meaning::of(error).retry_after,
            Self::Seal(error) => error.retry_after(),
            Self::Open(error) => error.retry_after(),
        }
    }
}

/// Converts the error for code that accepts streams of [`io::Result`], such as `tokio_util::io::StreamReader`.
///
/// [`OpenError::from_io`] and [`SealError::from_io`] return the original error. If the inner stream's error is an
/// [`io::Error`], it is returned unchanged.
impl<E: Into<Box<dyn StdError + Send + Sync>>> From<StreamError<E>> for io::Error {
    fn from(error: StreamError<E>) -> Self {
        match error {
            StreamError::Source(error) => error.into().downcast().map_or_else(Self::other, |error| *error),
            StreamError::Seal(error) => error.into(),
            StreamError::Open(error) => error.into(),
        }
    }
}

/// Reads a message's header from a stream, and returns it with the start of the body.
pub(crate) async fn read_header<B: AsRef<[u8]>, E>(
    mut sealed: Pin<&mut impl Stream<Item = Result<B, E>>>,
    limits: &Limits,
) -> Result<(Header, Bytes), StreamError<E>> {
    let mut header = HeaderReader::new(limits);
    let mut budget = PollBudget::new();
    let mut first = Bytes::new();
    while header.needed() > 0 {
        let Some(piece) = poll_fn(|cx| sealed.as_mut().poll_next(cx)).await else { break };
        let piece = piece.map_err(StreamError::Source)?;
        let piece = piece.as_ref();
        let taken = header.feed(piece).map_err(OpenError::from)?;
        first = Bytes::copy_from_slice(&piece[taken..]);
        budget.spend(piece.len()).await;
    }
    Ok((header.finish().map_err(OpenError::from)?, first))
}

/// A stream that yields the encrypted form of a stream of plaintext.
///
/// Created by [`Envelope::seal_stream`](crate::Envelope::seal_stream). The message is complete when the stream ends
/// without an error. [`sealed_len`](Self::sealed_len) computes its length in advance. Each item of the inner stream is
/// sealed in one poll, so split large items.
///
/// # Errors
/// Every error is final, including an error of the inner stream: the message stays truncated, and every further item is
/// [`SealError::FailedBefore`]. The stream does not end after an error, so stop at the first one.
///
/// # Cancel safety
/// Waiting for the next item is cancel safe: no item is lost.
pub struct SealStream<S> {
    inner: Pin<Box<S>>,
    sealing: Sealing,
    layout: Layout,
}

impl<S> SealStream<S> {
    pub(crate) fn new(inner: S, sealer: Sealer) -> Self {
        Self { inner: Box::pin(inner), layout: sealer.layout(), sealing: Sealing::new(sealer) }
    }

    /// Returns the length in bytes of the entire message for a plaintext of `plaintext_len` bytes, for example for a
    /// `Content-Length` header.
    ///
    /// # Errors
    /// Returns [`SealError::TooLong`] if the plaintext needs more frames than a message can have.
    pub fn sealed_len(&self, plaintext_len: u64) -> Result<u64, SealError> {
        self.layout.sealed_len(plaintext_len)
    }
}

impl<S, B, E> Stream for SealStream<S>
where
    S: Stream<Item = Result<B, E>>,
    B: AsRef<[u8]>,
{
    type Item = Result<Bytes, StreamError<E>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let mut budget = PollBudget::new();
        while !this.sealing.is_finished() {
            this.sealing.check_open()?;
            let mut out = Vec::new();
            let (piece_len, sealed) = match ready!(this.inner.as_mut().poll_next(cx)) {
                Some(Ok(piece)) => (piece.as_ref().len(), this.sealing.update(piece.as_ref(), &mut out)),
                Some(Err(error)) => {
                    this.sealing.fail();
                    return Poll::Ready(Some(Err(StreamError::Source(error))));
                }
                None => (0, this.sealing.finish(&mut out)),
            };
            out.truncate(sealed?);
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(out.into())));
            }
            ready!(budget.poll_spend(piece_len, cx));
        }
        Poll::Ready(None)
    }
}

/// A stream that yields the plaintext of a message.
///
/// Created by [`Envelope::open_stream`](crate::Envelope::open_stream). Every item is authenticated, but the plaintext
/// is complete only when the stream ends without an error. Each item of the inner stream is opened in one poll.
///
/// # Errors
/// Every error is final, including an error of the inner stream: every further item is [`OpenError::FailedBefore`]. The
/// stream does not end after an error, so stop at the first one.
///
/// # Cancel safety
/// Waiting for the next item is cancel safe: no item is lost.
pub struct OpenStream<S> {
    inner: Pin<Box<S>>,
    opener: Opener,
    /// The start of the body, which came in the same item as the end of the header.
    first: Bytes,
    /// The next item, if one item of the inner stream became two.
    next: Option<Bytes>,
    /// Whether both the message and the inner stream have ended.
    is_finished: bool,
}

impl<S> OpenStream<S> {
    pub(crate) fn new(inner: Pin<Box<S>>, opener: Opener, first: Bytes) -> Self {
        Self { inner, opener, first, next: None, is_finished: false }
    }

    /// Returns the message's metadata.
    pub fn info(&self) -> &MessageInfo {
        self.opener.info()
    }
}

/// Opens a piece of the message. Returns the plaintext of the frame that it completes, which is decrypted in the memory
/// where it was assembled, and the plaintext of the frames after that.
fn open(opener: &mut Opener, mut sealed: &[u8]) -> Result<(Bytes, Bytes), OpenError> {
    let completed = opener.complete_held(&mut sealed)?;
    let mut out = vec![0; opener.update_len(sealed.len())];
    let len = opener.update(sealed, &mut out)?;
    out.truncate(len);
    Ok((completed, out.into()))
}

impl<S, B, E> Stream for OpenStream<S>
where
    S: Stream<Item = Result<B, E>>,
    B: AsRef<[u8]>,
{
    type Item = Result<Bytes, StreamError<E>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let mut budget = PollBudget::new();
        if let Some(next) = this.next.take() {
            return Poll::Ready(Some(Ok(next)));
        }
        while !this.is_finished {
            this.opener.check_not_failed().map_err(StreamError::Open)?;
            let first = std::mem::take(&mut this.first);
            let (piece_len, opened) = if first.is_empty() {
                match ready!(this.inner.as_mut().poll_next(cx)) {
                    Some(Ok(piece)) => (piece.as_ref().len(), open(&mut this.opener, piece.as_ref())),
                    Some(Err(error)) => {
                        this.opener.fail();
                        return Poll::Ready(Some(Err(StreamError::Source(error))));
                    }
                    None => {
                        this.opener.finish()?;
                        this.is_finished = true;
                        break;
                    }
                }
            } else {
                (first.len(), open(&mut this.opener, &first))
            };
            let (completed, after) = opened?;
            let mut opened = [completed, after].into_iter().filter(|opened| !opened.is_empty());
            if let Some(first) = opened.next() {
                this.next = opened.next();
                return Poll::Ready(Some(Ok(first)));
            }
            ready!(budget.poll_spend(piece_len, cx));
        }
        Poll::Ready(None)
    }
}

debug_without_inner!(SealStream<S>: sealing, OpenStream<S>: opener);

/// A stream of other items fails to compile at the call that passes it to the envelope, not where the result is used.
///
/// ```compile_fail,E0271
/// # use kms_envelope::{EncryptionContext, Envelope};
/// fn seal(envelope: &Envelope, context: &EncryptionContext) {
///     let pieces = futures_util::stream::iter([bytes::Bytes::from("attack at dawn")]);
///     drop(envelope.seal_stream(pieces, context));
/// }
/// ```
///
/// With items of the right type, it compiles:
///
/// ```
/// # use kms_envelope::{EncryptionContext, Envelope};
/// fn seal(envelope: &Envelope, context: &EncryptionContext) {
///     let pieces = futures_util::stream::iter([std::io::Result::Ok(bytes::Bytes::from("attack at dawn"))]);
///     drop(envelope.seal_stream(pieces, context));
/// }
/// ```
#[cfg(doctest)]
struct Items;
