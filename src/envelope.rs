//! The front door.

mod builder;
mod rewrap;
mod unlock;

use std::{
    fmt,
    io::{Read, Write},
    sync::Arc,
};

pub use self::builder::EnvelopeBuilder;
use self::builder::Settings;
use crate::{
    cache::Fetch,
    context::EncryptionContext,
    error::{OpenError, SealError},
    materials,
    message::{ContentType, DetachedKeys, Header},
    provider::KeyProvider,
    stream::{
        self, AsyncReadAt, MessageInfo, OpenBuffer, OpenReader, Opener, RangeOpener, RangeReader, ReadAt, SealBuffer,
        SealReader, SealWriter, Sealer, SealerParts,
    },
};

/// Seals data under the keys of a [`KeyProvider`], and opens it again.
///
/// Cheap to clone and to share between threads. What is said to make a request to the key provider makes none where a
/// [cache](EnvelopeBuilder::cache) has the data key. See the [crate's documentation](crate) for examples.
#[derive(Clone, Debug)]
pub struct Envelope {
    settings: Arc<Settings>,
    /// Instead of those in a message's header.
    detached_keys: Option<Arc<DetachedKeys>>,
}

impl Envelope {
    /// An envelope with the default settings.
    pub fn new(provider: impl KeyProvider + 'static) -> Self {
        EnvelopeBuilder::new(provider).settings.into()
    }

    /// An envelope whose settings are to be chosen.
    pub fn builder(provider: impl KeyProvider + 'static) -> EnvelopeBuilder {
        EnvelopeBuilder::new(provider)
    }

    /// Seals a whole plaintext. One request to the key provider.
    ///
    /// The context is stored in the message in the clear; [`open`](Self::open) can demand it.
    ///
    /// # In an async service
    /// Once the data key is there, sealing and opening occupy the calling task until they are done. A GiB takes about
    /// 0.2 s in memory that is [used again](Self::seal_into), and 0.6 to 3.5 s in fresh memory, which the operating
    /// system has to provide first. For 64 KiB, that is 0.01 to 0.2 ms, about what a runtime such as tokio expects between
    /// two awaits. For 1 MiB, it is 0.2 to 3.5 ms, and the other tasks of the thread wait. From about 1 MiB on, use a
    /// reader or writer for tokio, which lets others run after each [buffer](EnvelopeBuilder::stream_buffer_len), or
    /// make the whole call in a thread for blocking work:
    ///
    /// ```
    /// # use kms_envelope::{EncryptionContext, Envelope, RawAes};
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let envelope = Envelope::new(RawAes::generate("example", "key")?);
    /// # let context = EncryptionContext::new();
    /// # let plaintext = vec![7; 2 << 20];
    /// let runtime = tokio::runtime::Handle::current();
    /// let sealed =
    ///     tokio::task::spawn_blocking(move || runtime.block_on(envelope.seal(&plaintext, &context))).await??;
    /// # assert!(sealed.len() > 2 << 20);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// A [`SealError`]: the key provider gave no data key, the context cannot be used, the randomness failed, or the
    /// plaintext has too many frames.
    pub async fn seal(&self, plaintext: &[u8], context: &EncryptionContext) -> Result<Vec<u8>, SealError> {
        let mut sealed = Vec::new();
        self.seal_into(plaintext, context, &mut sealed).await?;
        Ok(sealed)
    }

    /// Opens a whole message. One request to the key provider.
    ///
    /// Every pair of `context` must be in the message with the same value; the message may have others, which
    /// [`MessageInfo::context`] shows. That is checked before any key is asked for.
    ///
    /// Opening occupies the calling task for as long as sealing: [`seal`](Self::seal) says what to do in an async
    /// service from about 1 MiB on.
    ///
    /// # Errors
    /// An [`OpenError`] that says which check failed. Nothing of the plaintext is given out then.
    pub async fn open(&self, sealed: &[u8], context: &EncryptionContext) -> Result<Opened, OpenError> {
        let mut plaintext = Vec::new();
        let info = self.open_into(sealed, context, &mut plaintext).await?;
        Ok(Opened { plaintext, info })
    }

    /// As [`seal`](Self::seal), into a buffer that is there already: its contents are replaced, and its memory is
    /// used again. With memory that has been used before, sealing a long plaintext takes about half the time. Do not
    /// clear the buffer in between: what it grows by is filled with zeros first.
    ///
    /// # Errors
    /// As [`seal`](Self::seal). The buffer is empty then, and its memory gone, as when the call is cancelled.
    pub async fn seal_into(
        &self,
        plaintext: &[u8],
        context: &EncryptionContext,
        sealed: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        // Taken, so that no other message is in the buffer if this call fails or is cancelled.
        let mut buffer = std::mem::take(sealed);
        let sealer = self.sealer_of(context, Some(plaintext.len() as u64)).await?;
        let len = sealer.sealed_len(plaintext.len() as u64)?;
        resize(&mut buffer, stream::buffer_len(len).ok_or(SealError::TooLongForMemory { len })?);
        sealer.seal_whole(plaintext, &mut buffer)?;
        *sealed = buffer;
        Ok(())
    }

    /// As [`open`](Self::open), into a buffer that is there already: its contents are replaced by the plaintext, and
    /// its memory is used again.
    ///
    /// # Errors
    /// As [`open`](Self::open). The buffer is empty then, and its memory gone, as when the call is cancelled.
    pub async fn open_into(
        &self,
        sealed: &[u8],
        context: &EncryptionContext,
        plaintext: &mut Vec<u8>,
    ) -> Result<MessageInfo, OpenError> {
        // Taken, so that no other message's plaintext is in the buffer if this call fails or is cancelled.
        let mut buffer = std::mem::take(plaintext);
        let header = Header::parse(sealed, &self.settings.limits)?;
        let mut opener = self.opener_of_whole(&header, context).await?;
        let body = &sealed[header.len()..];
        resize(&mut buffer, opener.update_len(body.len()));
        let len = opener.update(body, &mut buffer)?;
        opener.finish()?;
        buffer.truncate(len);
        *plaintext = buffer;
        Ok(opener.into_info())
    }

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

    /// A reader of any range of the plaintext of the message in `source`, which has `sealed_len` bytes. Reads the
    /// header and the final frame, now, and makes one request to the key provider; after that, only the frames that
    /// a range needs are read.
    ///
    /// ```
    /// use kms_envelope::{EncryptionContext, Envelope, RawAes};
    ///
    /// # pollster::block_on(async {
    /// # let envelope = Envelope::new(RawAes::generate("example", "key")?);
    /// # let context = EncryptionContext::new();
    /// # let sealed = envelope.seal(b"attack at dawn", &context).await?;
    /// let reader = envelope.range_reader(&sealed[..], sealed.len() as u64, &context).await?;
    /// assert_eq!(reader.len(), 14);
    /// assert_eq!(reader.read(10..14)?, b"dawn");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`open`](Self::open), as far as header and final frame go;
    /// [`FormatError::Length`](crate::error::FormatError::Length) where no message has this length, and
    /// [`OpenError::NotSeekable`] for a message that is signed or has no frames.
    pub async fn range_reader<S: ReadAt>(
        &self,
        source: S,
        sealed_len: u64,
        context: &EncryptionContext,
    ) -> Result<RangeReader<S>, OpenError> {
        let header = stream::range::read_header(&source, sealed_len, &self.settings.limits)?;
        RangeReader::new(source, self.range_opener(&header, sealed_len, context).await?)
    }

    /// As [`range_reader`](Self::range_reader), for an asynchronous source.
    ///
    /// # Errors
    /// As [`range_reader`](Self::range_reader).
    pub async fn async_range_reader<S: AsyncReadAt + Sync>(
        &self,
        source: S,
        sealed_len: u64,
        context: &EncryptionContext,
    ) -> Result<RangeReader<S>, OpenError> {
        let header = stream::range::read_header_async(&source, sealed_len, &self.settings.limits).await?;
        RangeReader::new_async(source, self.range_opener(&header, sealed_len, context).await?).await
    }

    /// The bare [`RangeOpener`] for the message with this header and this length in all, for a transport of one's
    /// own. One request to the key provider.
    ///
    /// # Errors
    /// As [`range_reader`](Self::range_reader), as far as the header goes.
    pub async fn range_opener(
        &self,
        header: &Header,
        sealed_len: u64,
        context: &EncryptionContext,
    ) -> Result<RangeOpener, OpenError> {
        stream::seekable(header.suite(), (header.content_type() != ContentType::NonFramed).then_some(()))?;
        let geometry = header.geometry(sealed_len)?;
        RangeOpener::new(self.opener(header, context).await?, geometry)
    }

    /// The bare [`Sealer`], for a transport of one's own. One request to the key provider.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    pub async fn sealer(&self, context: &EncryptionContext) -> Result<Sealer, SealError> {
        self.sealer_of(context, None).await
    }

    /// The sealer of a plaintext of this length, if that is known.
    async fn sealer_of(&self, context: &EncryptionContext, plaintext_len: Option<u64>) -> Result<Sealer, SealError> {
        let settings = &*self.settings;
        materials::check_sealing(context, &settings.required_context)?;
        let fetch = || -> Fetch<_> {
            let (settings, context) = (self.settings.clone(), context.clone());
            Box::pin(async move { settings.sealing_materials(&context).await })
        };
        let materials = match &settings.cache {
            None => Arc::new(settings.sealing_materials(context).await?),
            Some(cache) => {
                let required = settings.required_context.iter().map(String::as_str);
                cache.sealing(settings.suite, context, required, plaintext_len, fetch).await?
            }
        };
        Sealer::new(SealerParts {
            backend: settings.backend,
            random: &settings.random,
            suite: settings.suite,
            frame_len: settings.frame_len,
            limits: &settings.limits,
            threads: &settings.threads,
            materials: &materials,
        })
    }

    /// The bare [`Opener`] for the message with this header, for a transport of one's own. One request to the key
    /// provider.
    ///
    /// # Errors
    /// As [`open`](Self::open), as far as the header goes, and [`OpenError::SignedStream`] where the message is signed
    /// and those are [refused](EnvelopeBuilder::refuse_signed_streams).
    pub async fn opener(&self, header: &Header, context: &EncryptionContext) -> Result<Opener, OpenError> {
        if header.suite().signature().is_some() && !self.settings.streams_signed {
            return Err(OpenError::SignedStream);
        }
        self.opener_of_whole(header, context).await
    }

    async fn seal_buffer(&self, context: &EncryptionContext) -> Result<SealBuffer, SealError> {
        Ok(SealBuffer::new(self.sealer(context).await?, self.settings.stream_buffer_len()))
    }

    async fn open_buffer(&self, header: &Header, context: &EncryptionContext) -> Result<OpenBuffer, OpenError> {
        Ok(OpenBuffer::new(self.opener(header, context).await?, self.settings.stream_buffer_len()))
    }

    /// The opener of a message whose plaintext is given out whole or not at all.
    async fn opener_of_whole(&self, header: &Header, context: &EncryptionContext) -> Result<Opener, OpenError> {
        Ok(self.unlock(header, context, None).await?.0)
    }
}

/// Gives a buffer this length. Fresh memory comes from the system as zeros, and is not written to; memory that was
/// used is left as it is.
fn resize(buffer: &mut Vec<u8>, len: usize) {
    if buffer.capacity() < len {
        *buffer = vec![0; len];
    } else {
        buffer.resize(len, 0);
    }
}

/// A message that was opened: [`Envelope::open`] returns it. Everything in it is authenticated, except for a detached
/// encrypted data key.
#[derive(Clone)]
#[non_exhaustive]
pub struct Opened {
    /// The plaintext.
    pub plaintext: Vec<u8>,
    /// The message's context, suite and id, and the key that opened it.
    pub info: MessageInfo,
}

/// Without the plaintext.
impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("plaintext_len", &self.plaintext.len()).field("info", &self.info).finish()
    }
}
