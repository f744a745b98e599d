//! Shells for tokio's `AsyncRead` and `AsyncWrite`.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::{
    MessageInfo,
    buffer::{OpenBuffer, SealBuffer, debug_without_inner},
    turn::Turn,
};
use crate::{
    error::{OpenError, SealError},
    message::{Header, HeaderReader, Limits},
};

/// Reads a message's header, and nothing beyond.
pub(crate) async fn read_header(reader: &mut (impl AsyncRead + Unpin), limits: &Limits) -> Result<Header, OpenError> {
    let mut header = HeaderReader::new(limits);
    let mut piece = vec![0; 1024];
    let mut turn = Turn::new();
    while header.needed() > 0 {
        let room = header.needed().min(piece.len());
        match reader.read(&mut piece[..room]).await {
            Ok(0) => break,
            Ok(len) => {
                header.feed(&piece[..len])?;
                turn.after(len).await;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(header.finish()?)
}

/// Seals everything that is written to it, into an asynchronous writer.
///
/// Made by [`Envelope::seal_async_writer`](crate::Envelope::seal_async_writer). `shutdown` writes the end of the
/// message and shuts the writer inside down: without it the message is one that every reader refuses as truncated.
/// A write that is cancelled has taken nothing. Each poll seals one
/// [stream buffer](crate::EnvelopeBuilder::stream_buffer_len) at most.
///
/// # Errors
/// An error of the writer inside that may pass (`WouldBlock`, `TimedOut`, `Interrupted`) loses nothing: the call took
/// nothing, and can be made again. After any other error, and after the end of the message, every further write is an
/// error of the kind [`BrokenPipe`](io::ErrorKind::BrokenPipe), with a [`SealError`] inside. A second `shutdown`
/// succeeds only after one that has.
pub struct AsyncSealWriter<W> {
    inner: Pin<Box<W>>,
    buffer: SealBuffer,
    is_shut_down: bool,
}

impl<W: AsyncWrite> AsyncSealWriter<W> {
    pub(crate) fn new(inner: W, buffer: SealBuffer) -> Self {
        Self { inner: Box::pin(inner), buffer, is_shut_down: false }
    }

    /// The writer inside.
    pub fn get_ref(&self) -> &W {
        self.inner.as_ref().get_ref()
    }

    /// The writer inside. After `shutdown`, the message in it is complete.
    pub fn into_inner(self) -> W
    where
        W: Unpin,
    {
        *Pin::into_inner(self.inner)
    }

    fn poll_write_untaken(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut turn = Turn::new();
        loop {
            let untaken = self.buffer.untaken()?;
            if untaken.is_empty() {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.inner.as_mut().poll_write(cx, untaken)) {
                Ok(0) => return Poll::Ready(Err(self.buffer.failed(io::ErrorKind::WriteZero.into()))),
                Ok(len) => {
                    self.buffer.take(len);
                    if !self.buffer.untaken()?.is_empty() {
                        ready!(turn.poll_after(len, cx));
                    }
                }
                Err(error) => return Poll::Ready(Err(self.buffer.failed(error))),
            }
        }
    }
}

impl<W: AsyncWrite> AsyncWrite for AsyncSealWriter<W> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, plaintext: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.buffer.check_open()?;
        ready!(this.poll_write_untaken(cx))?;
        Poll::Ready(Ok(this.buffer.seal(plaintext)?))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_shut_down {
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_write_untaken(cx))?;
        let flushed = ready!(this.inner.as_mut().poll_flush(cx));
        Poll::Ready(flushed.map_err(|error| this.buffer.failed(error)))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_shut_down {
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_write_untaken(cx))?;
        this.buffer.finish()?;
        ready!(this.poll_write_untaken(cx))?;
        ready!(this.inner.as_mut().poll_shutdown(cx)).map_err(|error| this.buffer.failed(error))?;
        this.is_shut_down = true;
        Poll::Ready(Ok(()))
    }
}

/// Reads the message that the plaintext of an asynchronous reader becomes: sealing for those who pull.
///
/// Made by [`Envelope::seal_async_reader`](crate::Envelope::seal_async_reader). The message is complete when it
/// reports the end. A read that is cancelled has lost nothing. Each poll seals one
/// [stream buffer](crate::EnvelopeBuilder::stream_buffer_len) at most.
///
/// # Errors
/// As with [`SealReader`](super::SealReader): an error of the reader inside that may pass loses nothing, and any other
/// is final.
pub struct AsyncSealReader<R> {
    inner: Pin<Box<R>>,
    buffer: SealBuffer,
}

impl<R: AsyncRead> AsyncSealReader<R> {
    pub(crate) fn new(inner: R, buffer: SealBuffer) -> Self {
        Self { inner: Box::pin(inner), buffer }
    }

    /// The length of the whole message for a plaintext of this length, in bytes.
    ///
    /// # Errors
    /// [`SealError::TooLong`] where a message cannot have so many frames.
    pub fn sealed_len(&self, plaintext_len: u64) -> Result<u64, SealError> {
        self.buffer.sealed_len(plaintext_len)
    }
}

impl<R: AsyncRead> AsyncRead for AsyncSealReader<R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if out.remaining() == 0 {
            return Poll::Ready(Ok(self.buffer.untaken().map(drop)?));
        }
        poll_read_buffered(self, cx, out)
    }
}

impl<R: AsyncRead> AsyncBufRead for AsyncSealReader<R> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        let mut turn = Turn::new();
        while this.buffer.untaken()?.is_empty() && !this.buffer.is_finished() {
            let mut space = ReadBuf::new(this.buffer.space());
            let read = ready!(this.inner.as_mut().poll_read(cx, &mut space)).map(|()| space.filled().len());
            let len = read.map_err(|error| this.buffer.failed(error))?;
            this.buffer.seal_space(len)?;
            if this.buffer.untaken()?.is_empty() {
                ready!(turn.poll_after(len, cx));
            }
        }
        Poll::Ready(Ok(this.buffer.untaken()?))
    }

    fn consume(self: Pin<&mut Self>, len: usize) {
        self.get_mut().buffer.take(len);
    }
}

/// Reads the plaintext of a message from an asynchronous reader.
///
/// Made by [`Envelope::open_async_reader`](crate::Envelope::open_async_reader). As with
/// [`OpenReader`](super::OpenReader), every byte is authenticated, and the end is reported only when it is proven. A
/// read that is cancelled has lost nothing. Each poll opens one
/// [stream buffer](crate::EnvelopeBuilder::stream_buffer_len) at most, or a body without frames.
///
/// # Errors
/// As with [`OpenReader`](super::OpenReader): an error of the reader inside that may pass loses nothing, and any other,
/// and any [`OpenError`] about the message, is final.
pub struct AsyncOpenReader<R> {
    inner: Pin<Box<R>>,
    buffer: OpenBuffer,
}

impl<R: AsyncRead> AsyncOpenReader<R> {
    pub(crate) fn new(inner: Pin<Box<R>>, buffer: OpenBuffer) -> Self {
        Self { inner, buffer }
    }

    /// Returns what is known of the message besides its plaintext.
    pub fn info(&self) -> &MessageInfo {
        self.buffer.opener().info()
    }
}

impl<R: AsyncRead> AsyncRead for AsyncOpenReader<R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if out.remaining() == 0 {
            return Poll::Ready(Ok(self.buffer.unread().map(drop)?));
        }
        poll_read_buffered(self, cx, out)
    }
}

/// Reads from what is buffered, to an `out` that has room.
fn poll_read_buffered(
    mut reader: Pin<&mut impl AsyncBufRead>,
    cx: &mut Context<'_>,
    out: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let unread = ready!(reader.as_mut().poll_fill_buf(cx))?;
    let len = unread.len().min(out.remaining());
    out.put_slice(&unread[..len]);
    reader.consume(len);
    Poll::Ready(Ok(()))
}

impl<R: AsyncRead> AsyncBufRead for AsyncOpenReader<R> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        let mut turn = Turn::new();
        while this.buffer.needs_more()? {
            let mut space = ReadBuf::new(this.buffer.space());
            let read = ready!(this.inner.as_mut().poll_read(cx, &mut space)).map(|()| space.filled().len());
            let len = read.map_err(|error| this.buffer.failed(error))?;
            this.buffer.open(len)?;
            if this.buffer.needs_more()? {
                ready!(turn.poll_after(len, cx));
            }
        }
        Poll::Ready(Ok(this.buffer.unread()?))
    }

    fn consume(self: Pin<&mut Self>, len: usize) {
        self.get_mut().buffer.consume(len);
    }
}

debug_without_inner!(AsyncSealWriter<W>: buffer, AsyncSealReader<R>: buffer, AsyncOpenReader<R>: buffer);
