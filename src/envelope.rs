//! The front door.

// In the order in which the documentation shows their methods.
mod buffers;
mod streams;

mod builder;
mod rewrap;
mod unlock;

use std::{fmt, sync::Arc};

pub use self::builder::EnvelopeBuilder;
use self::builder::Settings;
use crate::{
    cache::Fetch,
    context::EncryptionContext,
    error::{OpenError, SealError},
    materials,
    message::{ContentType, DetachedKeys, Header},
    stream::{
        self, AsyncRangeReader, AsyncReadAt, MessageInfo, Opener, RangeOpener, RangeReader, ReadAt, Sealer, SealerParts,
    },
};

/// Seals data under the keys of a [`KeyProvider`](crate::KeyProvider), and opens it again.
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

    /// Like [`range_reader`](Self::range_reader), but for an asynchronous source: an object in a store, or with the
    /// feature `tokio` one of tokio's files. The [`AsyncRangeReader`] also makes streams of ranges.
    ///
    /// # Errors
    /// As [`range_reader`](Self::range_reader).
    pub async fn async_range_reader<S: AsyncReadAt + Sync>(
        &self,
        source: S,
        sealed_len: u64,
        context: &EncryptionContext,
    ) -> Result<AsyncRangeReader<S>, OpenError> {
        let header = stream::range::read_header_async(&source, sealed_len, &self.settings.limits).await?;
        AsyncRangeReader::new(source, self.range_opener(&header, sealed_len, context).await?).await
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

    /// The opener of a message whose plaintext is given out whole or not at all.
    async fn opener_of_whole(&self, header: &Header, context: &EncryptionContext) -> Result<Opener, OpenError> {
        Ok(self.unlock(header, context, None).await?.0)
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
