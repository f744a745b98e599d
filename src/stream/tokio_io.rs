//! Readers and writers for tokio's `AsyncRead` and `AsyncWrite`.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::{
    MessageInfo,
    buffer::{OpenBuffer, SealBuffer, debug_without_inner},
    poll_budget::PollBudget,
};
use crate::{
    error::{OpenError, SealError},
    message::{Header, HeaderReader, Limits},
};

/// Reads a message's header, and no byte after it.
pub(crate) async fn read_header(reader: &mut (impl AsyncRead + Unpin), limits: &Limits) -> Result<Header, OpenError> {
    let mut header = HeaderReader::new(limits);
    let mut piece = vec![0; 1024];
    let mut budget = PollBudget::new();
    while header.needed() > 0 {
        let max = header.needed().min(piece.len());
        match reader.read(&mut piece[..max]).await {
            Ok(0) => break,
            Ok(len) => {
                header.feed(&piece[..len])?;
                budget.spend(len).await;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(header.finish()?)
}

/// An asynchronous writer that encrypts what is written to it, and writes the message to an inner writer.
///
/// Created by [`Envelope::seal_async_writer`](crate::Envelope::seal_async_writer). Call
/// [`shutdown`](tokio::io::AsyncWriteExt::shutdown) at the end: it writes the end of the message, and shuts down the
/// inner writer. Without it, the message is truncated and cannot be opened.
///
/// It holds as much memory as a [`SealWriter`](super::SealWriter). Each poll encrypts at most one
/// [stream buffer](crate::EnvelopeBuilder::stream_buffer_len).
///
/// # Errors
/// Errors of the inner writer with the kind `WouldBlock`, `TimedOut` or `Interrupted` are transient: the call has
/// consumed nothing and can be repeated. After any other error, and after the end of the message, every further write
/// returns an error of the kind [`BrokenPipe`](io::ErrorKind::BrokenPipe) that contains a [`SealError`]. After a
/// successful `shutdown`, further calls to `shutdown` have no effect.
///
/// # Cancel safety
/// [`write`](tokio::io::AsyncWriteExt::write), `flush` and `shutdown` are cancel safe: a canceled `write` has consumed
/// nothing, and a canceled `flush` or `shutdown` continues when it is called again. `write_all` is not cancel safe.
pub struct AsyncSealWriter<W> {
    inner: Pin<Box<W>>,
    buffer: SealBuffer,
    is_shut_down: bool,
}

impl<W: AsyncWrite> AsyncSealWriter<W> {
    pub(crate) fn new(inner: W, buffer: SealBuffer) -> Self {
        Self { inner: Box::pin(inner), buffer, is_shut_down: false }
    }

    /// Returns a reference to the inner writer.
    pub fn get_ref(&self) -> &W {
        self.inner.as_ref().get_ref()
    }

    /// Returns the inner writer. It contains a complete message only after `shutdown` has succeeded.
    pub fn into_inner(self) -> W
    where
        W: Unpin,
    {
        *Pin::into_inner(self.inner)
    }

    fn poll_write_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut budget = PollBudget::new();
        loop {
            let output = self.buffer.output()?;
            if output.is_empty() {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.inner.as_mut().poll_write(cx, output)) {
                Ok(0) => return Poll::Ready(Err(self.buffer.failed(io::ErrorKind::WriteZero.into()))),
                Ok(len) => {
                    self.buffer.consume(len);
                    if !self.buffer.output()?.is_empty() {
                        ready!(budget.poll_spend(len, cx));
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
        ready!(this.poll_write_output(cx))?;
        Poll::Ready(Ok(this.buffer.seal(plaintext)?))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_shut_down {
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_write_output(cx))?;
        let flushed = ready!(this.inner.as_mut().poll_flush(cx));
        Poll::Ready(flushed.map_err(|error| this.buffer.failed(error)))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_shut_down {
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_write_output(cx))?;
        this.buffer.finish()?;
        ready!(this.poll_write_output(cx))?;
        ready!(this.inner.as_mut().poll_shutdown(cx)).map_err(|error| this.buffer.failed(error))?;
        this.is_shut_down = true;
        Poll::Ready(Ok(()))
    }
}

/// An asynchronous reader that yields the encrypted form of what it reads from an inner reader.
///
/// Created by [`Envelope::seal_async_reader`](crate::Envelope::seal_async_reader). The message is complete when the
/// reader returns `Ok(0)`.
///
/// It holds as much memory as a [`SealReader`](super::SealReader). Each poll encrypts at most one
/// [stream buffer](crate::EnvelopeBuilder::stream_buffer_len). It implements `AsyncBufRead`, which avoids a copy.
///
/// # Errors
/// Same as [`SealReader`](super::SealReader): transient errors of the inner reader lose nothing, and any other error is
/// final.
///
/// # Cancel safety
/// [`read`](tokio::io::AsyncReadExt::read) is cancel safe: a canceled read loses no data.
pub struct AsyncSealReader<R> {
    inner: Pin<Box<R>>,
    buffer: SealBuffer,
}

impl<R: AsyncRead> AsyncSealReader<R> {
    pub(crate) fn new(inner: R, buffer: SealBuffer) -> Self {
        Self { inner: Box::pin(inner), buffer }
    }

    /// Returns the length in bytes of the entire message for a plaintext of `plaintext_len` bytes.
    ///
    /// # Errors
    /// Returns [`SealError::TooLong`] if the plaintext needs more frames than a message can have.
    pub fn sealed_len(&self, plaintext_len: u64) -> Result<u64, SealError> {
        self.buffer.sealed_len(plaintext_len)
    }
}

impl<R: AsyncRead> AsyncRead for AsyncSealReader<R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if out.remaining() == 0 {
            return Poll::Ready(Ok(self.buffer.output().map(drop)?));
        }
        poll_read_buffered(self, cx, out)
    }
}

impl<R: AsyncRead> AsyncBufRead for AsyncSealReader<R> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        let mut budget = PollBudget::new();
        while this.buffer.output()?.is_empty() && !this.buffer.is_finished() {
            let mut input = ReadBuf::new(this.buffer.input());
            let read = ready!(this.inner.as_mut().poll_read(cx, &mut input)).map(|()| input.filled().len());
            let len = read.map_err(|error| this.buffer.failed(error))?;
            this.buffer.seal_input(len)?;
            if this.buffer.output()?.is_empty() {
                ready!(budget.poll_spend(len, cx));
            }
        }
        Poll::Ready(Ok(this.buffer.output()?))
    }

    fn consume(self: Pin<&mut Self>, len: usize) {
        self.get_mut().buffer.consume(len);
    }
}

/// An asynchronous reader that yields the plaintext of the message in an inner reader.
///
/// Created by [`Envelope::open_async_reader`](crate::Envelope::open_async_reader). Every byte that it returns is
/// authenticated. It returns `Ok(0)` only after it has verified the end of the message and that no bytes follow it.
///
/// It holds as much memory as an [`OpenReader`](super::OpenReader). Each poll decrypts at most one
/// [stream buffer](crate::EnvelopeBuilder::stream_buffer_len), or a complete non-framed body. It implements
/// `AsyncBufRead`, which avoids a copy.
///
/// # Errors
/// Same as [`OpenReader`](super::OpenReader): transient errors of the inner reader lose nothing. Any other error of the
/// inner reader, and any [`OpenError`] about the message, is final.
///
/// # Cancel safety
/// [`read`](tokio::io::AsyncReadExt::read) is cancel safe: a canceled read loses no data.
pub struct AsyncOpenReader<R> {
    inner: Pin<Box<R>>,
    buffer: OpenBuffer,
}

impl<R: AsyncRead> AsyncOpenReader<R> {
    pub(crate) fn new(inner: Pin<Box<R>>, buffer: OpenBuffer) -> Self {
        Self { inner, buffer }
    }

    /// Returns the message's metadata.
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

/// Reads from the buffer into `out`, which must not be full.
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
        let mut budget = PollBudget::new();
        while this.buffer.needs_more()? {
            let mut input = ReadBuf::new(this.buffer.input());
            let read = ready!(this.inner.as_mut().poll_read(cx, &mut input)).map(|()| input.filled().len());
            let len = read.map_err(|error| this.buffer.failed(error))?;
            this.buffer.open(len)?;
            if this.buffer.needs_more()? {
                ready!(budget.poll_spend(len, cx));
            }
        }
        Poll::Ready(Ok(this.buffer.unread()?))
    }

    fn consume(self: Pin<&mut Self>, len: usize) {
        self.get_mut().buffer.consume(len);
    }
}

debug_without_inner!(AsyncSealWriter<W>: buffer, AsyncSealReader<R>: buffer, AsyncOpenReader<R>: buffer);
