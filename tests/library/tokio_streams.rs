//! Tests of the streams for tokio.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use kms_envelope::{Envelope, OpenError, RawAes, error::FormatError};
use test_support::{context, plaintext};
use tokio::io::{self, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

fn envelope(frame_len: u32) -> Envelope {
    Envelope::builder(RawAes::new("tests", "key", [7; 32]).unwrap()).frame_len(frame_len).build().unwrap()
}

/// Passes at most this many bytes per call, and is pending on every other call.
#[derive(Debug)]
struct Halting<T> {
    inner: T,
    len: usize,
    halted: bool,
}

impl<T> Halting<T> {
    fn new(inner: T, len: usize) -> Self {
        Self { inner, len, halted: false }
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.halted = !self.halted;
        if self.halted {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Halting<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.poll_turn(cx).is_pending() {
            return Poll::Pending;
        }
        let mut piece = vec![0; self.len.min(out.remaining())];
        let mut part = ReadBuf::new(&mut piece);
        let read = Pin::new(&mut self.inner).poll_read(cx, &mut part);
        out.put_slice(part.filled());
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Halting<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.poll_turn(cx).is_pending() {
            return Poll::Pending;
        }
        let len = self.len.min(bytes.len());
        Pin::new(&mut self.inner).poll_write(cx, &bytes[..len])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

async fn seal(envelope: &Envelope, plaintext: &[u8], piece_len: usize) -> Vec<u8> {
    let mut sealed = Vec::new();
    let mut writer = envelope.seal_async_writer(Halting::new(&mut sealed, piece_len), &context()).await.unwrap();
    for piece in plaintext.chunks(piece_len) {
        writer.write_all(piece).await.unwrap();
    }
    writer.shutdown().await.unwrap();
    drop(writer);
    sealed
}

async fn open(envelope: &Envelope, sealed: &[u8], piece_len: usize) -> Result<Vec<u8>, OpenError> {
    let mut reader = envelope.open_async_reader(Halting::new(sealed, piece_len), &context()).await?;
    let mut plaintext = Vec::new();
    match reader.read_to_end(&mut plaintext).await {
        Ok(_) => Ok(plaintext),
        Err(error) => Err(error.downcast().unwrap()),
    }
}

#[tokio::test]
async fn messages_sealed_asynchronously_open_with_every_method_and_vice_versa() {
    let envelope = envelope(16);
    for len in [0, 1, 15, 16, 17, 32, 33, 1000] {
        for piece_len in [1, 7, 16, 1000] {
            let plaintext = plaintext(len);
            let sealed = seal(&envelope, &plaintext, piece_len).await;
            assert_eq!(envelope.open(&sealed, &context()).await.unwrap().plaintext, plaintext);
            assert_eq!(open(&envelope, &sealed, piece_len).await.unwrap(), plaintext);
            let sealed = envelope.seal(&plaintext, &context()).await.unwrap();
            assert_eq!(open(&envelope, &sealed, piece_len).await.unwrap(), plaintext);
        }
    }
}

#[tokio::test]
async fn streams_longer_than_their_buffers_open() {
    let envelope = envelope(65_536);
    let plaintext = plaintext(5_000_001);
    let sealed = seal(&envelope, &plaintext, 3_000_000).await;
    let mut reader = envelope.open_async_reader(&sealed[..], &context()).await.unwrap();
    assert_eq!(reader.info().context(), &context());
    let mut opened = Vec::new();
    io::copy_buf(&mut reader, &mut opened).await.unwrap();
    assert!(opened == plaintext);
}

#[tokio::test]
async fn a_truncated_message_or_one_with_trailing_bytes_is_refused() {
    let envelope = envelope(16);
    let mut sealed = envelope.seal(&plaintext(40), &context()).await.unwrap();
    for len in 0..sealed.len() {
        let opened = open(&envelope, &sealed[..len], 7).await;
        assert!(matches!(opened, Err(OpenError::Format(FormatError::Truncated(_)))), "{len}: {opened:?}");
    }
    sealed.push(0);
    let opened = open(&envelope, &sealed, 7).await;
    assert!(matches!(opened, Err(OpenError::Format(FormatError::TrailingBytes))), "{opened:?}");
}

#[tokio::test]
async fn a_writer_that_is_not_shut_down_leaves_no_message() {
    let envelope = envelope(16);
    let mut sealed = Vec::new();
    let mut writer = envelope.seal_async_writer(&mut sealed, &context()).await.unwrap();
    writer.write_all(&plaintext(100)).await.unwrap();
    writer.flush().await.unwrap();
    drop(writer);
    assert!(matches!(envelope.open(&sealed, &context()).await, Err(OpenError::Format(FormatError::Truncated(_)))));
}

#[tokio::test]
async fn a_canceled_write_or_read_loses_nothing() {
    let envelope = envelope(16);
    let plaintext = plaintext(200);
    let mut sealed = Vec::new();
    let mut writer = envelope.seal_async_writer(Halting::new(&mut sealed, 9), &context()).await.unwrap();
    let mut rest = &plaintext[..];
    while !rest.is_empty() {
        // Polled once and dropped. Only bytes that it reported as written are consumed.
        let mut cx = Context::from_waker(std::task::Waker::noop());
        if let Poll::Ready(len) = Pin::new(&mut writer).poll_write(&mut cx, &rest[..rest.len().min(20)]) {
            rest = &rest[len.unwrap()..];
        }
    }
    writer.shutdown().await.unwrap();
    drop(writer);
    assert_eq!(envelope.open(&sealed, &context()).await.unwrap().plaintext, plaintext);

    let mut reader = envelope.open_async_reader(Halting::new(&sealed[..], 9), &context()).await.unwrap();
    let mut opened = Vec::new();
    loop {
        tokio::select! {
            biased;
            len = reader.read_buf(&mut opened) => if len.unwrap() == 0 { break },
            () = std::future::ready(()) => {}
        }
    }
    assert_eq!(opened, plaintext);
}
