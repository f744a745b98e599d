//! Shells for streams of [`Bytes`], such as HTTP bodies and objects in a store.

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
    sealer::{Layout, Sealing},
    turn::Turn,
};
use crate::{
    error::{ErrorKind, OpenError, SealError, kind::Meaning},
    message::{Header, HeaderReader, Limits},
};

/// What ends a [`SealStream`] or an [`OpenStream`] early.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StreamError<E> {
    /// The stream inside failed.
    #[error("the stream inside failed")]
    Source(#[source] E),
    /// The plaintext could not be sealed.
    #[error("{0}")]
    Seal(#[from] SealError),
    /// The message could not be opened.
    #[error("{0}")]
    Open(#[from] OpenError),
}

impl<E: StdError + 'static> StreamError<E> {
    /// Returns what the error means to a service. An error of the stream inside is of the kind [`ErrorKind::Io`], unless
    /// an error of this crate is behind it, as where that stream opens: then it is of that one's kind.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Source(error) => Meaning::of(error).kind,
            Self::Seal(error) => error.kind(),
            Self::Open(error) => error.kind(),
        }
    }

    /// Returns whether the same message may be sealed or opened when it is tried again later, from its start: for the
    /// key provider's reasons, or since the stream inside failed with an [`io::Error`] of the kind `WouldBlock`,
    /// `TimedOut` or `Interrupted`.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Source(error) => Meaning::of(error).is_retryable,
            Self::Seal(error) => error.is_retryable(),
            Self::Open(error) => error.is_retryable(),
        }
    }

    /// Returns how long the key service wants to be left alone before a retry, if it has said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Source(error) => Meaning::of(error).retry_after,
            Self::Seal(error) => error.retry_after(),
            Self::Open(error) => error.retry_after(),
        }
    }
}

/// For code that takes streams of [`io::Result`], such as `tokio_util::io::StreamReader`. [`OpenError::from_io`] and
/// [`SealError::from_io`] give what is inside back; an error of the stream inside that is an [`io::Error`] stays as it is.
impl<E: Into<Box<dyn StdError + Send + Sync>>> From<StreamError<E>> for io::Error {
    fn from(error: StreamError<E>) -> Self {
        match error {
            StreamError::Source(error) => error.into().downcast().map_or_else(Self::other, |error| *error),
            StreamError::Seal(error) => error.into(),
            StreamError::Open(error) => error.into(),
        }
    }
}

/// Takes a message's header from a stream, and returns it with the start of the body.
pub(crate) async fn read_header<B: AsRef<[u8]>, E>(
    mut sealed: Pin<&mut impl Stream<Item = Result<B, E>>>,
    limits: &Limits,
) -> Result<(Header, Bytes), StreamError<E>> {
    let mut header = HeaderReader::new(limits);
    let mut turn = Turn::new();
    let mut first = Bytes::new();
    while header.needed() > 0 {
        let Some(piece) = poll_fn(|cx| sealed.as_mut().poll_next(cx)).await else { break };
        let piece = piece.map_err(StreamError::Source)?;
        let piece = piece.as_ref();
        let taken = header.feed(piece).map_err(OpenError::from)?;
        first = Bytes::copy_from_slice(&piece[taken..]);
        turn.after(piece.len()).await;
    }
    Ok((header.finish().map_err(OpenError::from)?, first))
}

/// Seals a stream of plaintext: a stream of the message.
///
/// Made by [`Envelope::seal_stream`](crate::Envelope::seal_stream). The message is complete when the stream ends
/// without an error; [`sealed_len`](Self::sealed_len) says its length beforehand. Each piece is sealed in one poll.
///
/// # Errors
/// Any error is final, also one of the stream inside: the message has no end then, and every further item is
/// [`SealError::FailedBefore`]. The stream does not end after an error, so stop at the first one.
pub struct SealStream<S> {
    inner: Pin<Box<S>>,
    sealing: Sealing,
    layout: Layout,
}

impl<S> SealStream<S> {
    pub(crate) fn new(inner: S, sealer: Sealer) -> Self {
        Self { inner: Box::pin(inner), layout: sealer.layout(), sealing: Sealing::new(sealer) }
    }

    /// The length of the whole message for a plaintext of this length, in bytes: a `Content-Length`.
    ///
    /// # Errors
    /// [`SealError::TooLong`] where a message cannot have so many frames.
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
        let mut turn = Turn::new();
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
            ready!(turn.poll_after(piece_len, cx));
        }
        Poll::Ready(None)
    }
}

/// Opens a stream of a message: a stream of the plaintext.
///
/// Made by [`Envelope::open_stream`](crate::Envelope::open_stream). Every piece is authenticated; the plaintext is
/// whole only when the stream ends without an error. Each piece of the message is opened in one poll.
///
/// # Errors
/// Any error is final, also one of the stream inside: every further item is [`OpenError::FailedBefore`]. The stream does
/// not end after an error, so stop at the first one.
pub struct OpenStream<S> {
    inner: Pin<Box<S>>,
    opener: Opener,
    /// What came with the header's last piece.
    first: Bytes,
    /// Plaintext that comes next.
    next: Option<Bytes>,
    /// Whether the message has ended, and its stream too.
    is_finished: bool,
}

impl<S> OpenStream<S> {
    pub(crate) fn new(inner: Pin<Box<S>>, opener: Opener, first: Bytes) -> Self {
        Self { inner, opener, first, next: None, is_finished: false }
    }

    /// Returns what is known of the message besides its plaintext.
    pub fn info(&self) -> &MessageInfo {
        self.opener.info()
    }
}

/// Opens a piece of the message: the frame that it completes, which is opened in the memory where it was put together,
/// and the frames after that.
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
        let mut turn = Turn::new();
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
            ready!(turn.poll_after(piece_len, cx));
        }
        Poll::Ready(None)
    }
}

debug_without_inner!(SealStream<S>: sealing, OpenStream<S>: opener);

/// A stream of other items is refused where it is given to the envelope, not where the result is first used.
///
/// ```compile_fail,E0271
/// # use kms_envelope::{EncryptionContext, Envelope};
/// fn seal(envelope: &Envelope, context: &EncryptionContext) {
///     let pieces = futures_util::stream::iter([bytes::Bytes::from("attack at dawn")]);
///     drop(envelope.seal_stream(pieces, context));
/// }
/// ```
///
/// Nothing else is wrong with it:
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
