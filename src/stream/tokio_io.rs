//! Shells for tokio's `AsyncRead` and `AsyncWrite`.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

use super::{
    MessageInfo, Opener, Sealer,
    buffer::{OpenBuffer, SealBuffer},
};
use crate::error::SealError;

/// Seals everything that is written to it, into an asynchronous writer.
///
/// Made by [`Envelope::seal_async_writer`](crate::Envelope::seal_async_writer). `shutdown` writes the end of the
/// message and shuts the writer inside down: without it the message is one that every reader refuses as truncated.
/// A write that is cancelled has taken nothing. Each poll seals at most about a megabyte.
#[derive(Debug)]
pub struct AsyncSealWriter<W> {
    inner: W,
    buffer: SealBuffer,
}

impl<W: AsyncWrite + Unpin> AsyncSealWriter<W> {
    pub(crate) fn new(inner: W, sealer: Sealer) -> Self {
        Self { inner, buffer: SealBuffer::new(sealer) }
    }

    /// The writer inside.
    pub fn get_ref(&self) -> &W {
        &self.inner
    }

    /// The writer inside. After `shutdown`, the message in it is complete.
    pub fn into_inner(self) -> W {
        self.inner
    }

    fn poll_write_untaken(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffer.untaken().is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, self.buffer.untaken()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => self.buffer.take(len),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for AsyncSealWriter<W> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, plaintext: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_write_untaken(cx))?;
        Poll::Ready(Ok(this.buffer.seal(plaintext)?))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_untaken(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_untaken(cx))?;
        this.buffer.finish()?;
        ready!(this.poll_write_untaken(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

/// Reads the message that the plaintext of an asynchronous reader becomes: sealing for those who pull.
///
/// Made by [`Envelope::seal_async_reader`](crate::Envelope::seal_async_reader). The message is complete when it
/// reports the end. A read that is cancelled has lost nothing. Each poll seals at most about a megabyte.
#[derive(Debug)]
pub struct AsyncSealReader<R> {
    inner: R,
    buffer: SealBuffer,
}

impl<R: AsyncRead + Unpin> AsyncSealReader<R> {
    pub(crate) fn new(inner: R, sealer: Sealer) -> Self {
        Self { inner, buffer: SealBuffer::new(sealer) }
    }

    /// The length of the whole message for a plaintext of this length, in bytes.
    ///
    /// # Errors
    /// [`SealError::TooLong`] where a message cannot have so many frames.
    pub fn sealed_len(&self, plaintext_len: u64) -> Result<u64, SealError> {
        self.buffer.sealed_len(plaintext_len)
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for AsyncSealReader<R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        poll_read_buffered(self, cx, out)
    }
}

impl<R: AsyncRead + Unpin> AsyncBufRead for AsyncSealReader<R> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        while this.buffer.untaken().is_empty() && !this.buffer.is_finished() {
            let mut space = ReadBuf::new(this.buffer.space());
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut space))?;
            let len = space.filled().len();
            this.buffer.seal_space(len)?;
        }
        Poll::Ready(Ok(this.buffer.untaken()))
    }

    fn consume(self: Pin<&mut Self>, len: usize) {
        self.get_mut().buffer.take(len);
    }
}

/// Reads the plaintext of a message from an asynchronous reader.
///
/// Made by [`Envelope::open_async_reader`](crate::Envelope::open_async_reader). As with [`OpenReader`](super::OpenReader),
/// every byte is authenticated, the end is reported only when it is proven, and an error is for good. A read that is
/// cancelled has lost nothing. Each poll opens at most about a megabyte, or one frame where that is longer.
#[derive(Debug)]
pub struct AsyncOpenReader<R> {
    inner: R,
    buffer: OpenBuffer,
}

impl<R: AsyncRead + Unpin> AsyncOpenReader<R> {
    pub(crate) fn new(inner: R, opener: Opener) -> Self {
        Self { inner, buffer: OpenBuffer::new(opener) }
    }

    /// What is authenticated of the message besides its plaintext.
    pub fn info(&self) -> &MessageInfo {
        self.buffer.opener().info()
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for AsyncOpenReader<R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        poll_read_buffered(self, cx, out)
    }
}

/// Reads from what is buffered.
fn poll_read_buffered(
    mut reader: Pin<&mut impl AsyncBufRead>,
    cx: &mut Context<'_>,
    out: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    if out.remaining() == 0 {
        return Poll::Ready(Ok(()));
    }
    let unread = ready!(reader.as_mut().poll_fill_buf(cx))?;
    let len = unread.len().min(out.remaining());
    out.put_slice(&unread[..len]);
    reader.consume(len);
    Poll::Ready(Ok(()))
}

impl<R: AsyncRead + Unpin> AsyncBufRead for AsyncOpenReader<R> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        while this.buffer.unread().is_empty() {
            let mut space = ReadBuf::new(this.buffer.space());
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut space))?;
            let len = space.filled().len();
            this.buffer.open(len)?;
            if len == 0 {
                break;
            }
        }
        Poll::Ready(Ok(this.buffer.unread()))
    }

    fn consume(self: Pin<&mut Self>, len: usize) {
        self.get_mut().buffer.consume(len);
    }
}
