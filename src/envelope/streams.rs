//! Creating readers, writers and streams.

use std::io::{Read, Write};

use super::Envelope;
use crate::{
    context::EncryptionContext,
    error::{OpenError, SealError},
    message::Header,
    stream::{self, OpenBuffer, OpenReader, SealBuffer, SealReader, SealWriter},
};

impl Envelope {
    /// Creates a writer that encrypts what is written to it, and writes the message to `writer`.
    ///
    /// Calls the key provider once. The writer then works with blocking I/O only. Call
    /// [`finish`](SealWriter::finish) at the end.
    ///
    /// ```
    /// use std::io::{self, Write};
    /// use kms_envelope::{EncryptionContext, Envelope, RawAes};
    ///
    /// # pollster::block_on(async {
    /// # let envelope = Envelope::new(RawAes::generate("example", "key")?);
    /// # let context = EncryptionContext::new();
    /// # let (mut input, output) = (&b"attack at dawn"[..], Vec::new());
    /// let mut writer = envelope.seal_writer(output, &context).await?;
    /// io::copy(&mut input, &mut writer)?;
    /// let output = writer.finish()?; // Without this, the message is truncated and cannot be opened.
    /// # assert_eq!(envelope.open(&output, &context).await?.plaintext, b"attack at dawn");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Same as [`seal`](Self::seal). On error, nothing has been written to `writer`.
    pub async fn seal_writer<W: Write>(
        &self,
        writer: W,
        context: &EncryptionContext,
    ) -> Result<SealWriter<W>, SealError> {
        Ok(SealWriter::new(writer, self.seal_buffer(context).await?))
    }

    /// Creates a reader that yields the encrypted form of what it reads from `reader`.
    ///
    /// Calls the key provider once. The reader then works with blocking I/O only.
    ///
    /// ```
    /// use std::io;
    /// use kms_envelope::{EncryptionContext, Envelope, RawAes};
    ///
    /// # pollster::block_on(async {
    /// # let envelope = Envelope::new(RawAes::generate("example", "key")?);
    /// # let context = EncryptionContext::new();
    /// # let (file, mut upload) = (&b"attack at dawn"[..], Vec::new());
    /// let mut reader = envelope.seal_reader(file, &context).await?;
    /// io::copy(&mut reader, &mut upload)?;
    /// # assert_eq!(envelope.open(&upload, &context).await?.plaintext, b"attack at dawn");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Same as [`seal`](Self::seal). On error, nothing has been read from `reader`.
    pub async fn seal_reader<R: Read>(
        &self,
        reader: R,
        context: &EncryptionContext,
    ) -> Result<SealReader<R>, SealError> {
        Ok(SealReader::new(reader, self.seal_buffer(context).await?))
    }

    /// Creates a reader that yields the plaintext of the message in `reader`.
    ///
    /// Reads the message's header, in small pieces and with blocking I/O, and calls the key provider once. The reader
    /// then works with blocking I/O only.
    ///
    /// ```
    /// use std::io::{self, Read};
    /// use kms_envelope::{EncryptionContext, Envelope, RawAes};
    ///
    /// # pollster::block_on(async {
    /// # let envelope = Envelope::new(RawAes::generate("example", "key")?);
    /// # let context = EncryptionContext::new();
    /// # let sealed = envelope.seal(b"attack at dawn", &context).await?;
    /// # let (file, mut output) = (&sealed[..], Vec::new());
    /// let mut reader = envelope.open_reader(file, &context).await?;
    /// io::copy(&mut reader, &mut output)?; // On error, the output is incomplete.
    /// # assert_eq!(output, b"attack at dawn");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Returns [`OpenError::Io`] if `reader` fails, [`OpenError::SignedStream`] if the message is signed and the
    /// envelope [refuses to stream](crate::EnvelopeBuilder::refuse_signed_streams) signed messages, and otherwise the
    /// errors of [`open`](Self::open) for the header. Later errors come from the reader.
    pub async fn open_reader<R: Read>(
        &self,
        mut reader: R,
        context: &EncryptionContext,
    ) -> Result<OpenReader<R>, OpenError> {
        let header = stream::std_io::read_header(&mut reader, &self.settings.limits)?;
        Ok(OpenReader::new(reader, header.len(), self.open_buffer(&header, context).await?))
    }

    /// Like [`seal_writer`](Self::seal_writer), but for tokio's [`AsyncWrite`](tokio::io::AsyncWrite).
    ///
    /// Call [`shutdown`](tokio::io::AsyncWriteExt::shutdown) at the end.
    ///
    /// ```
    /// use kms_envelope::{EncryptionContext, Envelope, RawAes};
    /// use tokio::io::AsyncWriteExt;
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let envelope = Envelope::new(RawAes::generate("example", "key")?);
    /// # let context = EncryptionContext::new();
    /// # let (mut input, output) = (&b"attack at dawn"[..], Vec::new());
    /// let mut writer = envelope.seal_async_writer(output, &context).await?;
    /// tokio::io::copy(&mut input, &mut writer).await?;
    /// writer.shutdown().await?; // Without this, the message is truncated and cannot be opened.
    /// # assert_eq!(envelope.open(writer.get_ref(), &context).await?.plaintext, b"attack at dawn");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Same as [`seal`](Self::seal). On error, nothing has been written to `writer`.
    #[cfg(feature = "tokio")]
    pub async fn seal_async_writer<W: tokio::io::AsyncWrite>(
        &self,
        writer: W,
        context: &EncryptionContext,
    ) -> Result<stream::AsyncSealWriter<W>, SealError> {
        Ok(stream::AsyncSealWriter::new(writer, self.seal_buffer(context).await?))
    }

    /// Like [`seal_reader`](Self::seal_reader), but for tokio's [`AsyncRead`](tokio::io::AsyncRead).
    ///
    /// # Errors
    /// Same as [`seal`](Self::seal). On error, nothing has been read from `reader`.
    #[cfg(feature = "tokio")]
    pub async fn seal_async_reader<R: tokio::io::AsyncRead>(
        &self,
        reader: R,
        context: &EncryptionContext,
    ) -> Result<stream::AsyncSealReader<R>, SealError> {
        Ok(stream::AsyncSealReader::new(reader, self.seal_buffer(context).await?))
    }

    /// Like [`open_reader`](Self::open_reader), but for tokio's [`AsyncRead`](tokio::io::AsyncRead).
    ///
    /// ```
    /// use kms_envelope::{EncryptionContext, Envelope, RawAes};
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let envelope = Envelope::new(RawAes::generate("example", "key")?);
    /// # let context = EncryptionContext::new();
    /// # let sealed = envelope.seal(b"attack at dawn", &context).await?;
    /// # let (file, mut output) = (&sealed[..], Vec::new());
    /// let mut reader = envelope.open_async_reader(file, &context).await?;
    /// tokio::io::copy(&mut reader, &mut output).await?; // On error, the output is incomplete.
    /// # assert_eq!(output, b"attack at dawn");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Same as [`open_reader`](Self::open_reader).
    ///
    /// # Cancel safety
    /// If the future is dropped, the part of the header that it has read from `reader` is lost.
    #[cfg(feature = "tokio")]
    pub async fn open_async_reader<R: tokio::io::AsyncRead>(
        &self,
        reader: R,
        context: &EncryptionContext,
    ) -> Result<stream::AsyncOpenReader<R>, OpenError> {
        let mut reader = Box::pin(reader);
        let header = stream::tokio_io::read_header(&mut reader, &self.settings.limits).await?;
        Ok(stream::AsyncOpenReader::new(reader, self.open_buffer(&header, context).await?))
    }

    /// Creates a stream that yields the encrypted form of a stream of plaintext, as [`Bytes`](bytes::Bytes).
    ///
    /// Calls the key provider once.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use futures_util::{StreamExt, stream};
    /// # use kms_envelope::{EncryptionContext, Envelope, RawAes};
    ///
    /// # pollster::block_on(async {
    /// # let envelope = Envelope::new(RawAes::generate("example", "key")?);
    /// # let context = EncryptionContext::new();
    /// let plaintext = stream::iter(["attack ", "at dawn"]).map(Ok::<_, Infallible>);
    /// let mut sealed = envelope.seal_stream(plaintext, &context).await?;
    /// while let Some(piece) = sealed.next().await {
    ///     let piece: bytes::Bytes = piece?; // On error, the pieces before are a truncated message.
    ///     # let _ = piece;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Same as [`seal`](Self::seal).
    #[cfg(feature = "stream")]
    pub async fn seal_stream<S, B, E>(
        &self,
        plaintext: S,
        context: &EncryptionContext,
    ) -> Result<stream::SealStream<S>, SealError>
    where
        S: futures_core::Stream<Item = Result<B, E>>,
        B: AsRef<[u8]>,
    {
        Ok(stream::SealStream::new(plaintext, self.sealer(context).await?))
    }

    /// Creates a stream that yields the plaintext of a message, as [`Bytes`](bytes::Bytes).
    ///
    /// Reads the message's header from `sealed`, and calls the key provider once.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use futures_util::{TryStreamExt, stream};
    /// use kms_envelope::{EncryptionContext, Envelope, RawAes};
    ///
    /// # pollster::block_on(async {
    /// # let envelope = Envelope::new(RawAes::generate("example", "key")?);
    /// # let context = EncryptionContext::new();
    /// # let sealed = envelope.seal(b"attack at dawn", &context).await?;
    /// let body = stream::iter(sealed.chunks(100).map(Ok::<_, Infallible>));
    /// let plaintext = envelope.open_stream(body, &context).await?;
    /// let pieces: Vec<bytes::Bytes> = plaintext.try_collect().await?;
    /// assert_eq!(pieces.concat(), b"attack at dawn");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Returns [`StreamError::Source`](stream::StreamError::Source) if `sealed` yields an error, and otherwise
    /// [`StreamError::Open`](stream::StreamError::Open) with an error of [`open_reader`](Self::open_reader).
    ///
    /// # Cancel safety
    /// If the future is dropped, the items that it has taken from `sealed` are lost.
    #[cfg(feature = "stream")]
    pub async fn open_stream<S, B, E>(
        &self,
        sealed: S,
        context: &EncryptionContext,
    ) -> Result<stream::OpenStream<S>, stream::StreamError<E>>
    where
        S: futures_core::Stream<Item = Result<B, E>>,
        B: AsRef<[u8]>,
    {
        let mut sealed = Box::pin(sealed);
        let (header, first) = stream::bytes_stream::read_header(sealed.as_mut(), &self.settings.limits).await?;
        let opener = self.opener(&header, context).await?;
        Ok(stream::OpenStream::new(sealed, opener, first))
    }

    async fn seal_buffer(&self, context: &EncryptionContext) -> Result<SealBuffer, SealError> {
        Ok(SealBuffer::new(self.sealer(context).await?, self.settings.stream_buffer_len()))
    }

    async fn open_buffer(&self, header: &Header, context: &EncryptionContext) -> Result<OpenBuffer, OpenError> {
        Ok(OpenBuffer::new(self.opener(header, context).await?, self.settings.stream_buffer_len()))
    }
}
