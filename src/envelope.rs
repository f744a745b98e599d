//! [`Envelope`], its builder, and what it returns.

// In this order, because rustdoc shows the methods in the order of their modules.
mod buffers;
mod many;
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
    materials::{self, SealingMaterials},
    message::{ContentType, DetachedKeys, Header, Limits, MessageId},
    provider::KeyProvider,
    stream::{self, AsyncRangeReader, AsyncReadAt, MessageInfo, Opener, RangeOpener, RangeReader, ReadAt, Sealer},
    suite::AlgorithmSuite,
};

/// Encrypts (seals) and decrypts (opens) data with the data keys of a [`KeyProvider`](crate::KeyProvider).
///
/// Create an envelope once, with [`new`](Self::new) or [`builder`](Self::builder), and keep it. It is cheap to clone,
/// and threads and tasks can share it.
///
/// ```
/// use kms_envelope::{EncryptionContext, Envelope, RawAes};
///
/// # pollster::block_on(async {
/// // A local key. In production, use AwsKms.
/// let envelope = Envelope::new(RawAes::generate("my-service", "2026-11")?);
/// let context = EncryptionContext::from([("tenant", "acme")]);
///
/// let sealed: Vec<u8> = envelope.seal(b"attack at dawn", &context).await?;
/// let opened = envelope.open(&sealed, &context).await?;
/// assert_eq!(opened.plaintext, b"attack at dawn");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Methods by task
///
/// | to … | use … |
/// |---|---|
/// | seal and open data in memory | [`seal`](Self::seal), [`open`](Self::open) |
/// | the same, reusing buffers | [`seal_into`](Self::seal_into), [`open_into`](Self::open_into) |
/// | seal and open many messages at once | [`seal_many`](Self::seal_many), [`open_many`](Self::open_many) |
/// | stream with `std::io` | [`seal_writer`](Self::seal_writer), [`seal_reader`](Self::seal_reader), [`open_reader`](Self::open_reader) |
/// | stream with tokio (feature `tokio`) | [`seal_async_writer`], [`seal_async_reader`], [`open_async_reader`] |
/// | stream `Bytes`, such as HTTP bodies (feature `stream`) | [`seal_stream`], [`open_stream`] |
/// | read a part of the plaintext | [`range_reader`](Self::range_reader), [`async_range_reader`](Self::async_range_reader) |
/// | do the I/O yourself | [`sealer`](Self::sealer), [`opener`](Self::opener), [`range_opener`](Self::range_opener) |
/// | re-encrypt a message's data key under another key | [`rewrap`](Self::rewrap), then [`with_detached_keys`](Self::with_detached_keys) |
/// | encrypt a message again, with another data key | [`reseal`](Self::reseal), [`reseal_reader`](Self::reseal_reader), [`reseal_async_reader`] |
///
/// # Calls to the key provider
/// A method that seals calls the provider's `generate_data_key` once, and a method that opens calls `decrypt_data_key`
/// once. Readers, writers and streams make this call when they are created, and none afterwards.
/// [`seal_many`](Self::seal_many) and [`open_many`](Self::open_many) call the provider once for each message, or with a
/// cache once for each data key. [`rewrap`](Self::rewrap) calls `decrypt_data_key` of this provider, and
/// `encrypt_data_key` of the new one. The three `reseal` methods open with this envelope and seal with the new one.
///
/// With a [cache](EnvelopeBuilder::cache), a method that finds the data key in the cache skips the call. Methods that
/// open check the header's format, the limits, the commitment policy and the encryption context before they call the
/// provider.
///
/// # Cancellation
/// Dropping the future of any method is safe: the envelope stays usable. A buffer that was passed to
/// [`seal_into`](Self::seal_into), [`open_into`](Self::open_into), [`seal_many`](Self::seal_many) or
/// [`open_many`](Self::open_many) is then empty, and a reader that was passed by reference may have been read in part.
///
/// Dropping a future also cancels its call to the key provider. A call that a cache shares between several callers
/// continues until all of them have been canceled.
///
/// # Panics
/// The methods do not panic. A panic in your own key provider, reader, writer or stream propagates to the caller. If a
/// key provider panics during a call that a cache shares, all callers receive an error instead.
#[cfg_attr(feature = "tokio", doc = "")]
#[cfg_attr(feature = "tokio", doc = "[`seal_async_writer`]: Self::seal_async_writer")]
#[cfg_attr(feature = "tokio", doc = "[`seal_async_reader`]: Self::seal_async_reader")]
#[cfg_attr(feature = "tokio", doc = "[`open_async_reader`]: Self::open_async_reader")]
#[cfg_attr(feature = "tokio", doc = "[`reseal_async_reader`]: Self::reseal_async_reader")]
#[cfg_attr(feature = "stream", doc = "")]
#[cfg_attr(feature = "stream", doc = "[`seal_stream`]: Self::seal_stream")]
#[cfg_attr(feature = "stream", doc = "[`open_stream`]: Self::open_stream")]
// Links must have a target without the features, too.
#[cfg_attr(not(feature = "tokio"), doc = "")]
#[cfg_attr(not(feature = "tokio"), doc = "[`seal_async_writer`]: crate::Envelope")]
#[cfg_attr(not(feature = "tokio"), doc = "[`seal_async_reader`]: crate::Envelope")]
#[cfg_attr(not(feature = "tokio"), doc = "[`open_async_reader`]: crate::Envelope")]
#[cfg_attr(not(feature = "tokio"), doc = "[`reseal_async_reader`]: crate::Envelope")]
#[cfg_attr(not(feature = "stream"), doc = "")]
#[cfg_attr(not(feature = "stream"), doc = "[`seal_stream`]: crate::Envelope")]
#[cfg_attr(not(feature = "stream"), doc = "[`open_stream`]: crate::Envelope")]
#[derive(Clone, Debug)]
pub struct Envelope {
    settings: Arc<Settings>,
    /// Used instead of the encrypted data keys in a message's header.
    detached_keys: Option<Arc<DetachedKeys>>,
}

impl Envelope {
    /// Creates a reader for any range of the plaintext of the message in `source`, which is `sealed_len` bytes long.
    ///
    /// Reads the header, calls the key provider once, and reads the final frame, which proves the message's length.
    /// After that, the reader reads only the frames that a range needs. `source` is read with blocking I/O.
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
    /// Returns [`OpenError::NotSeekable`] if the message is signed or not framed,
    /// [`FormatError::Length`](crate::error::FormatError::Length) if a message with this header cannot be `sealed_len`
    /// bytes long, [`OpenError::Io`] if `source` fails, and otherwise the errors of [`open`](Self::open) for the header
    /// and the final frame.
    pub async fn range_reader<S: ReadAt>(
        &self,
        source: S,
        sealed_len: u64,
        context: &EncryptionContext,
    ) -> Result<RangeReader<S>, OpenError> {
        let header = stream::range::read_header(&source, sealed_len, &self.settings.limits)?;
        RangeReader::new(source, self.range_opener(&header, sealed_len, context).await?)
    }

    /// Like [`range_reader`](Self::range_reader), but for an asynchronous source, such as an object in a store, or a
    /// tokio file (feature `tokio`).
    ///
    /// With the feature `stream`, the [`AsyncRangeReader`] also returns a range as a stream of `Bytes`.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use kms_envelope::{EncryptionContext, Envelope, RawAes};
    ///
    /// # pollster::block_on(async {
    /// # let envelope = Envelope::new(RawAes::generate("example", "key")?);
    /// # let context = EncryptionContext::new();
    /// let object = Bytes::from(envelope.seal(b"attack at dawn", &context).await?);
    /// let reader = envelope.async_range_reader(object.clone(), object.len() as u64, &context).await?;
    /// assert_eq!(reader.read(10..14).await?, b"dawn");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Same as [`range_reader`](Self::range_reader).
    pub async fn async_range_reader<S: AsyncReadAt + Sync>(
        &self,
        source: S,
        sealed_len: u64,
        context: &EncryptionContext,
    ) -> Result<AsyncRangeReader<S>, OpenError> {
        let header = stream::range::read_header_async(&source, sealed_len, &self.settings.limits).await?;
        AsyncRangeReader::new(source, self.range_opener(&header, sealed_len, context).await?).await
    }

    /// Returns the algorithm suite with which this envelope seals.
    pub fn suite(&self) -> AlgorithmSuite {
        self.settings.suite
    }

    /// Returns the key provider.
    pub fn provider(&self) -> &dyn KeyProvider {
        &*self.settings.provider
    }

    /// Returns the limits on what a message may ask for.
    pub fn limits(&self) -> &Limits {
        &self.settings.limits
    }

    /// Creates a [`RangeOpener`], which opens ranges of a message and does no I/O. Calls the key provider once.
    ///
    /// `header` is the message's header, and `sealed_len` the length of the entire message in bytes.
    ///
    /// # Errors
    /// Same as [`range_reader`](Self::range_reader), except for errors of the final frame and of the source.
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

    /// Creates a [`Sealer`], which seals a message piece by piece and does no I/O. Calls the key provider once.
    ///
    /// # Errors
    /// Same as [`seal`](Self::seal).
    pub async fn sealer(&self, context: &EncryptionContext) -> Result<Sealer, SealError> {
        let (message_id, materials) = self.start_sealing(context, None).await?;
        Sealer::new(self.settings.sealer_parts(message_id, &materials))
    }

    /// Returns a new message id and the materials for a message. `plaintext_len` is the length of the plaintext, if it
    /// is known.
    async fn start_sealing(
        &self,
        context: &EncryptionContext,
        plaintext_len: Option<u64>,
    ) -> Result<(MessageId, Arc<SealingMaterials>), SealError> {
        let settings = &*self.settings;
        materials::check_sealing(context, &settings.required_context)?;
        let materials = match &settings.cache {
            None => Arc::new(settings.sealing_materials(context).await?),
            Some(cache) => {
                let fetch = self.fetch_for_sealing(context);
                cache.sealing(settings.suite, context, &settings.required_context, plaintext_len, fetch).await?
            }
        };
        let message_id = MessageId::generate(settings.suite.message_version(), |out| settings.random.fill(out))?;
        Ok((message_id, materials))
    }

    /// Returns a function that requests a data key for a cache.
    fn fetch_for_sealing<'a>(
        &'a self,
        context: &'a EncryptionContext,
    ) -> impl Fn() -> Fetch<SealingMaterials> + Send + Sync + 'a {
        || {
            let (settings, context) = (self.settings.clone(), context.clone());
            Box::pin(async move { settings.sealing_materials(&context).await })
        }
    }

    /// Creates an [`Opener`], which opens a message piece by piece and does no I/O. Calls the key provider once.
    ///
    /// # Errors
    /// Returns [`OpenError::SignedStream`] if the message is signed and the envelope
    /// [refuses to stream](EnvelopeBuilder::refuse_signed_streams) signed messages, and otherwise the errors of
    /// [`open`](Self::open) for the header.
    pub async fn opener(&self, header: &Header, context: &EncryptionContext) -> Result<Opener, OpenError> {
        if header.suite().signature().is_some() && !self.settings.streams_signed {
            return Err(OpenError::SignedStream);
        }
        Ok(self.unlock(&header.view(), context, None).await?.0)
    }
}

/// An opened message: the plaintext, and the message's metadata. [`Envelope::open`] returns it.
///
/// All of it is authenticated, except for [`MessageInfo::encrypted_data_key`] if it comes from
/// [detached keys](DetachedKeys).
#[derive(Clone)]
#[non_exhaustive]
pub struct Opened {
    /// The plaintext.
    pub plaintext: Vec<u8>,
    /// The message's encryption context, suite and id, and the key that decrypted its data key.
    pub info: MessageInfo,
}

/// Omits the plaintext.
impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("plaintext_len", &self.plaintext.len()).field("info", &self.info).finish()
    }
}
