//! Readers, writers and streams.

use std::io::{Read, Write};

use super::Envelope;
use crate::{
    context::EncryptionContext,
    error::{OpenError, SealError},
    message::Header,
    stream::{self, OpenBuffer, OpenReader, SealBuffer, SealReader, SealWriter},
};

impl Envelope {
    /// A writer that seals what is written to it into `writer`. One request to the key provider, now; after that,
    /// nothing but `std::io`.
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
    /// let output = writer.finish()?; // Without this, the message has no end and does not open.
    /// # assert_eq!(envelope.open(&output, &context).await?.plaintext, b"attack at dawn");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    pub async fn seal_writer<W: Write>(
        &self,
        writer: W,
        context: &EncryptionContext,
    ) -> Result<SealWriter<W>, SealError> {
        Ok(SealWriter::new(writer, self.seal_buffer(context).await?))
    }

    /// A reader of the message that the plaintext in `reader` becomes. One request to the key provider, now; after
    /// that, nothing but `std::io`.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    pub async fn seal_reader<R: Read>(
        &self,
        reader: R,
        context: &EncryptionContext,
    ) -> Result<SealReader<R>, SealError> {
        Ok(SealReader::new(reader, self.seal_buffer(context).await?))
    }

    /// A reader of the plaintext of the message that `reader` gives. Reads the header, now, in small pieces; then
    /// makes one request to the key provider; after that, nothing but `std::io`.
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
    /// io::copy(&mut reader, &mut output)?; // An error: what came before it is not all.
    /// # assert_eq!(output, b"attack at dawn");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`open`](Self::open), as far as the header goes, and [`OpenError::Io`] where it cannot be read.
    pub async fn open_reader<R: Read>(
        &self,
        mut reader: R,
        context: &EncryptionContext,
    ) -> Result<OpenReader<R>, OpenError> {
        let header = stream::std_io::read_header(&mut reader, &self.settings.limits)?;
        Ok(OpenReader::new(reader, header.len(), self.open_buffer(&header, context).await?))
    }

    /// As [`seal_writer`](Self::seal_writer), for tokio.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    #[cfg(feature = "tokio")]
    pub async fn seal_async_writer<W: tokio::io::AsyncWrite>(
        &self,
        writer: W,
        context: &EncryptionContext,
    ) -> Result<stream::AsyncSealWriter<W>, SealError> {
        Ok(stream::AsyncSealWriter::new(writer, self.seal_buffer(context).await?))
    }

    /// As [`seal_reader`](Self::seal_reader), for tokio.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    #[cfg(feature = "tokio")]
    pub async fn seal_async_reader<R: tokio::io::AsyncRead>(
        &self,
        reader: R,
        context: &EncryptionContext,
    ) -> Result<stream::AsyncSealReader<R>, SealError> {
        Ok(stream::AsyncSealReader::new(reader, self.seal_buffer(context).await?))
    }

    /// As [`open_reader`](Self::open_reader), for tokio.
    ///
    /// # Errors
    /// As [`open_reader`](Self::open_reader).
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

    /// A stream of the message that a stream of plaintext becomes. One request to the key provider, now.
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
    ///     let piece: bytes::Bytes = piece?; // An error: what came before it is not a message.
    ///     # let _ = piece;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
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

    /// A stream of the plaintext of a stream of a message. Takes the header from it, now, and makes one request to
    /// the key provider.
    ///
    /// # Errors
    /// As [`open_reader`](Self::open_reader), or the error of the stream inside.
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
