//! Shells for streams of [`Bytes`], such as HTTP bodies and objects in a store.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_core::Stream;
use thiserror::Error;

use super::{MessageInfo, Opener, Sealer};
use crate::error::{OpenError, SealError};

/// What ends a [`SealStream`] or an [`OpenStream`] early.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StreamError<E> {
    /// The stream inside failed.
    #[error("the stream inside failed")]
    Source(#[source] E),
    /// The plaintext could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The message could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Seals a stream of plaintext: a stream of the message.
///
/// Made by [`Envelope::seal_stream`](crate::Envelope::seal_stream). The message is complete when the stream ends
/// without an error; [`sealed_len`](Self::sealed_len) says its length beforehand.
pub struct SealStream<S> {
    inner: S,
    /// None once it is finished, or has failed.
    sealer: Option<Sealer>,
}

impl<S> SealStream<S> {
    pub(crate) fn new(inner: S, sealer: Sealer) -> Self {
        Self { inner, sealer: Some(sealer) }
    }

    /// The length of the whole message for a plaintext of this length, in bytes: a `Content-Length`. Before the
    /// stream has ended.
    ///
    /// # Errors
    /// [`SealError::TooLong`] where a message cannot have so many frames.
    pub fn sealed_len(&self, plaintext_len: u64) -> Result<u64, SealError> {
        self.sealer.as_ref().map_or(Ok(0), |sealer| sealer.sealed_len(plaintext_len))
    }
}

impl<S, B, E> Stream for SealStream<S>
where
    S: Stream<Item = Result<B, E>> + Unpin,
    B: AsRef<[u8]>,
{
    type Item = Result<Bytes, StreamError<E>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        while let Some(sealer) = &mut this.sealer {
            let sealed = match ready!(Pin::new(&mut this.inner).poll_next(cx)) {
                Some(Ok(piece)) => {
                    let piece = piece.as_ref();
                    let mut out = vec![0; sealer.update_len(piece.len())];
                    sealer.update(piece, &mut out).map(|_| out).map_err(StreamError::from)
                }
                Some(Err(error)) => Err(StreamError::Source(error)),
                None => {
                    let mut out = vec![0; sealer.finish_len()];
                    let finished = this.sealer.take().map_or(Ok(0), |sealer| sealer.finish(&mut out));
                    finished.map(|_| out).map_err(StreamError::from)
                }
            };
            match sealed {
                Ok(sealed) if sealed.is_empty() => {}
                Ok(sealed) => return Poll::Ready(Some(Ok(sealed.into()))),
                Err(error) => {
                    this.sealer = None;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        Poll::Ready(None)
    }
}

/// Opens a stream of a message: a stream of the plaintext.
///
/// Made by [`Envelope::open_stream`](crate::Envelope::open_stream). Every piece is authenticated; the plaintext is
/// whole only when the stream ends without an error.
pub struct OpenStream<S> {
    inner: S,
    opener: Opener,
    /// What came with the header's last piece.
    first: Bytes,
    is_ended: bool,
}

impl<S> OpenStream<S> {
    pub(crate) fn new(inner: S, opener: Opener, first: Bytes) -> Self {
        Self { inner, opener, first, is_ended: false }
    }

    /// What is authenticated of the message besides its plaintext.
    pub fn info(&self) -> &MessageInfo {
        self.opener.info()
    }
}

/// Opens a piece of the message.
fn open<E>(opener: &mut Opener, sealed: &[u8]) -> Result<Vec<u8>, StreamError<E>> {
    let mut out = vec![0; opener.update_len(sealed.len())];
    let len = opener.update(sealed, &mut out)?;
    out.truncate(len);
    Ok(out)
}

impl<S, B, E> Stream for OpenStream<S>
where
    S: Stream<Item = Result<B, E>> + Unpin,
    B: AsRef<[u8]>,
{
    type Item = Result<Bytes, StreamError<E>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        while !this.is_ended {
            let first = std::mem::take(&mut this.first);
            let opened = if first.is_empty() {
                match ready!(Pin::new(&mut this.inner).poll_next(cx)) {
                    Some(Ok(piece)) => open(&mut this.opener, piece.as_ref()),
                    Some(Err(error)) => Err(StreamError::Source(error)),
                    None => {
                        this.is_ended = true;
                        this.opener.finish().map(|()| Vec::new()).map_err(StreamError::from)
                    }
                }
            } else {
                open(&mut this.opener, &first)
            };
            match opened {
                Ok(opened) if opened.is_empty() => {}
                Ok(opened) => return Poll::Ready(Some(Ok(opened.into()))),
                Err(error) => {
                    this.is_ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        Poll::Ready(None)
    }
}

impl<S> fmt::Debug for SealStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealStream").field("sealer", &self.sealer).finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for OpenStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenStream").field("opener", &self.opener).finish_non_exhaustive()
    }
}
