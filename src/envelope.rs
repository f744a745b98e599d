//! The front door.

mod rewrap;

use std::{
    collections::BTreeSet,
    fmt,
    io::{Read, Write},
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use rand_core::TryCryptoRng;

use crate::{
    cache::{DataKeyCache, Fetch, Partition},
    context::EncryptionContext,
    crypto::{Backend, Random},
    error::{ConfigError, OpenError, SealError},
    materials::{self, MaterialsError, SealingMaterials},
    message::{ContentType, DetachedKeys, EncryptedDataKey, Header, Limits, MessageId},
    provider::{self, DecryptDataKeyRequest, KeyProvider, PlaintextDataKey},
    stream::{
        self, AsyncReadAt, MessageInfo, OpenReader, Opener, OpenerParts, RangeOpener, RangeReader, ReadAt, SealReader,
        SealWriter, Sealer, SealerParts, Threads,
    },
    suite::{AlgorithmSuite, CommitmentPolicy},
};

/// The plaintext bytes of a frame, unless set: AES at full speed, and 0.05 % more bytes.
const DEFAULT_FRAME_LEN: u32 = 65_536;

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

#[derive(Debug)]
struct Settings {
    provider: Arc<dyn KeyProvider>,
    cache: Option<Partition>,
    policy: CommitmentPolicy,
    suite: AlgorithmSuite,
    frame_len: NonZeroU32,
    limits: Limits,
    key_timeout: Duration,
    required_context: BTreeSet<String>,
    streams_signed: bool,
    accepts_net_4_0_0: bool,
    backend: Backend,
    threads: Threads,
    random: Arc<Random>,
}

impl Settings {
    async fn sealing_materials(&self, context: &EncryptionContext) -> Result<SealingMaterials, MaterialsError> {
        let randomness = (self.backend, &*self.random);
        let deadline = self.deadline();
        materials::for_sealing(&*self.provider, self.suite, context, &self.required_context, randomness, deadline).await
    }

    /// The data key of a message of this suite, whose whole context is `context`. Without a deadline, its time begins
    /// now.
    async fn opening_data_key(
        &self,
        suite: AlgorithmSuite,
        context: &EncryptionContext,
        encrypted_data_keys: &[EncryptedDataKey],
        deadline: Option<Instant>,
    ) -> Result<PlaintextDataKey, MaterialsError> {
        let request = DecryptDataKeyRequest::new(suite, context, encrypted_data_keys)
            .with_deadline(deadline.unwrap_or_else(|| self.deadline()))
            .with_tries_per_kms_key(self.limits.tries_per_kms_key);
        materials::for_opening(&*self.provider, &request).await
    }

    /// The deadline of the requests for a message that begin now.
    fn deadline(&self) -> Instant {
        provider::deadline_after(self.key_timeout)
    }
}

impl From<Settings> for Envelope {
    fn from(settings: Settings) -> Self {
        Self { settings: Arc::new(settings), detached_keys: None }
    }
}

impl Envelope {
    /// An envelope with the default settings.
    pub fn new(provider: impl KeyProvider + 'static) -> Self {
        Self::from(EnvelopeBuilder::new(provider).settings)
    }

    /// An envelope whose settings are to be chosen.
    pub fn builder(provider: impl KeyProvider + 'static) -> EnvelopeBuilder {
        EnvelopeBuilder::new(provider)
    }

    /// Seals a whole plaintext. One request to the key provider.
    ///
    /// The context is stored in the message in the clear; [`open`](Self::open) can demand it. The work takes the
    /// processor's time in the calling task: about a second for 5 to 10 GB.
    ///
    /// # Errors
    /// A [`SealError`]: the key provider gave no data key, the context cannot be used, the randomness failed, or the
    /// plaintext has too many frames.
    pub async fn seal(&self, plaintext: &[u8], context: &EncryptionContext) -> Result<Vec<u8>, SealError> {
        let mut sealed = Vec::new();
        self.seal_into(plaintext, context, &mut sealed).await?;
        Ok(sealed)
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

    /// Opens a whole message. One request to the key provider.
    ///
    /// Every pair of `context` must be in the message with the same value; the message may have others, which
    /// [`Opened::context`] shows. That is checked before any key is asked for.
    ///
    /// # Errors
    /// An [`OpenError`] that says which check failed. Nothing of the plaintext is given out then.
    pub async fn open(&self, sealed: &[u8], context: &EncryptionContext) -> Result<Opened, OpenError> {
        let mut plaintext = Vec::new();
        let info = self.open_into(sealed, context, &mut plaintext).await?;
        let MessageInfo { suite, message_id, context, encrypted_data_key, key_id, .. } = info;
        Ok(Opened { plaintext, context, suite, message_id, encrypted_data_key, key_id })
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
    /// use kms_envelope::{Envelope, EncryptionContext, LocalKey};
    ///
    /// # pollster::block_on(async {
    /// # let envelope = Envelope::new(LocalKey::generate("example", "key")?);
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
        Ok(SealWriter::new(writer, self.sealer(context).await?))
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
        Ok(SealReader::new(reader, self.sealer(context).await?))
    }

    /// A reader of the plaintext of the message that `reader` gives. Reads the header, now, in small pieces; then
    /// makes one request to the key provider; after that, nothing but `std::io`.
    ///
    /// ```
    /// use std::io::{self, Read};
    /// use kms_envelope::{Envelope, EncryptionContext, LocalKey};
    ///
    /// # pollster::block_on(async {
    /// # let envelope = Envelope::new(LocalKey::generate("example", "key")?);
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
        Ok(OpenReader::new(reader, header.len(), self.opener(&header, context).await?))
    }

    /// As [`seal_writer`](Self::seal_writer), for tokio.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    #[cfg(feature = "tokio")]
    pub async fn seal_async_writer<W: tokio::io::AsyncWrite + Unpin>(
        &self,
        writer: W,
        context: &EncryptionContext,
    ) -> Result<stream::AsyncSealWriter<W>, SealError> {
        Ok(stream::AsyncSealWriter::new(writer, self.sealer(context).await?))
    }

    /// As [`seal_reader`](Self::seal_reader), for tokio.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    #[cfg(feature = "tokio")]
    pub async fn seal_async_reader<R: tokio::io::AsyncRead + Unpin>(
        &self,
        reader: R,
        context: &EncryptionContext,
    ) -> Result<stream::AsyncSealReader<R>, SealError> {
        Ok(stream::AsyncSealReader::new(reader, self.sealer(context).await?))
    }

    /// A stream of the message that a stream of plaintext becomes. One request to the key provider, now.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    #[cfg(feature = "stream")]
    pub async fn seal_stream<S>(
        &self,
        plaintext: S,
        context: &EncryptionContext,
    ) -> Result<stream::SealStream<S>, SealError> {
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
        mut sealed: S,
        context: &EncryptionContext,
    ) -> Result<stream::OpenStream<S>, stream::StreamError<E>>
    where
        S: futures_core::Stream<Item = Result<B, E>> + Unpin,
        B: AsRef<[u8]>,
    {
        let (header, first) = stream::bytes_stream::read_header(&mut sealed, &self.settings.limits).await?;
        let opener = self.opener(&header, context).await?;
        Ok(stream::OpenStream::new(sealed, opener, first))
    }

    /// As [`open_reader`](Self::open_reader), for tokio.
    ///
    /// # Errors
    /// As [`open_reader`](Self::open_reader).
    #[cfg(feature = "tokio")]
    pub async fn open_async_reader<R: tokio::io::AsyncRead + Unpin>(
        &self,
        mut reader: R,
        context: &EncryptionContext,
    ) -> Result<stream::AsyncOpenReader<R>, OpenError> {
        let header = stream::tokio_io::read_header(&mut reader, &self.settings.limits).await?;
        Ok(stream::AsyncOpenReader::new(reader, self.opener(&header, context).await?))
    }

    /// A reader of any range of the plaintext of the message in `source`, which has `sealed_len` bytes. Reads the
    /// header and the final frame, now, and makes one request to the key provider; after that, only the frames that
    /// a range needs are read.
    ///
    /// ```
    /// use kms_envelope::{Envelope, EncryptionContext, LocalKey};
    ///
    /// # pollster::block_on(async {
    /// # let envelope = Envelope::new(LocalKey::generate("example", "key")?);
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
    /// [`FormatError::Length`](crate::FormatError::Length) where no message has this length, and
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
        stream::check_seekable(header.suite(), header.content_type() != ContentType::NonFramed)?;
        let geometry = header.geometry(sealed_len)?;
        Ok(RangeOpener::new(self.opener(header, context).await?, geometry))
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

    /// The opener of a message, and its data key. A deadline is given where the request for it is not the only one.
    async fn unlock(
        &self,
        header: &Header,
        context: &EncryptionContext,
        deadline: Option<Instant>,
    ) -> Result<(Opener, Arc<PlaintextDataKey>), OpenError> {
        let settings = &*self.settings;
        let (suite, policy) = (header.suite(), settings.policy);
        if !policy.allows_opening(suite) {
            return Err(OpenError::CommitmentPolicy { suite, policy });
        }
        if let ContentType::Framed { frame_len } = header.content_type() {
            settings.limits.check_frame_len(frame_len)?;
        }
        let verifying_key = materials::verifying_key(header, settings.backend)?;
        let (whole, not_stored) = materials::check_expected(header.context(), context, &settings.required_context)?;
        let encrypted_data_keys = match &self.detached_keys {
            None => header.encrypted_data_keys(),
            Some(keys) if keys.message_id() == header.message_id() => keys.encrypted_data_keys(),
            Some(keys) => {
                let (keys, message) = (keys.message_id().to_string(), header.message_id().to_string());
                return Err(OpenError::DetachedKeys { keys, message });
            }
        };
        let authenticate = |data_key: &PlaintextDataKey| {
            stream::authenticate(header, &data_key.key, &not_stored, settings.backend, settings.accepts_net_4_0_0)
        };
        let (key, data_key, index) = match &settings.cache {
            None => {
                let data_key = settings.opening_data_key(suite, &whole, encrypted_data_keys, deadline).await?;
                let index = data_key.index;
                (authenticate(&data_key)?, Arc::new(data_key), index)
            }
            Some(cache) => {
                let fetch = |encrypted_data_keys: &[EncryptedDataKey]| -> Fetch<_> {
                    let (settings, context) = (self.settings.clone(), whole.clone());
                    let encrypted_data_keys = encrypted_data_keys.to_vec();
                    // It is not one caller's, so it has a deadline of its own.
                    Box::pin(
                        async move { settings.opening_data_key(suite, &context, &encrypted_data_keys, None).await },
                    )
                };
                let required = not_stored.iter().map(|(name, _)| name);
                let lookup = cache.opening(suite, &whole, required, encrypted_data_keys)?;
                let mut found = lookup.find(0, fetch).await?;
                let key = loop {
                    match authenticate(&found.data_key) {
                        // The message lists the encrypted data key of another message. Its own must be among the others.
                        Err(OpenError::Commitment) if found.is_cached() && encrypted_data_keys.len() > 1 => {
                            found = lookup.find(found.index + 1, fetch).await?;
                        }
                        authenticated => break authenticated?,
                    }
                };
                let index = found.index;
                (key, found.keep(), index)
            }
        };
        let info = MessageInfo {
            suite,
            message_id: *header.message_id(),
            context: whole,
            encrypted_data_key: encrypted_data_keys[index].clone(),
            encrypted_data_key_index: index,
            key_id: data_key.key_id.clone(),
        };
        let (threads, non_framed_len) = (settings.threads.clone(), settings.limits.non_framed_len);
        let opener = Opener::new(OpenerParts { header, key, info, verifying_key, threads, non_framed_len });
        Ok((opener, data_key))
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

/// Chooses an [`Envelope`]'s settings. Each has a default.
///
/// ```
/// use kms_envelope::{Envelope, LocalKey, Limits};
///
/// let envelope = Envelope::builder(LocalKey::generate("example", "key")?)
///     .frame_len(4096)
///     .limits(Limits { encrypted_data_keys: 3, ..Limits::default() })
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct EnvelopeBuilder {
    settings: Settings,
    /// As given: it may be zero.
    frame_len: u32,
    /// As given: the policy may not allow it.
    suite: Option<AlgorithmSuite>,
}

impl EnvelopeBuilder {
    fn new(provider: impl KeyProvider + 'static) -> Self {
        let settings = Settings {
            provider: Arc::new(provider),
            cache: None,
            policy: CommitmentPolicy::default(),
            suite: AlgorithmSuite::default(),
            frame_len: NonZeroU32::MIN.saturating_add(DEFAULT_FRAME_LEN - 1),
            limits: Limits::default(),
            key_timeout: provider::DEFAULT_KEY_TIMEOUT,
            required_context: BTreeSet::new(),
            streams_signed: true,
            accepts_net_4_0_0: false,
            backend: Backend::default(),
            threads: Threads::default(),
            random: Arc::default(),
        };
        Self { settings, frame_len: DEFAULT_FRAME_LEN, suite: None }
    }

    /// The algorithm suite for sealing. Default: [the policy's](CommitmentPolicy::default_suite), which is
    /// [`AlgorithmSuite::Aes256GcmHkdfSha512Commit`] unless another policy is chosen.
    pub fn suite(mut self, suite: AlgorithmSuite) -> Self {
        self.suite = Some(suite);
        self
    }

    /// Which suites may be sealed and opened. Default: [`CommitmentPolicy::RequireEncryptRequireDecrypt`].
    pub fn commitment_policy(mut self, policy: CommitmentPolicy) -> Self {
        self.settings.policy = policy;
        self
    }

    /// Opens signed messages as whole buffers only, where nothing comes out before the signature has verified. Their
    /// streams fail with [`OpenError::SignedStream`] as soon as their header has been read, before any key is asked
    /// for. For readers that cannot take back what they did with the first frames.
    pub fn refuse_signed_streams(mut self) -> Self {
        self.settings.streams_signed = false;
        self
    }

    /// Opens also what AWS's SDK for .NET 4.0.0 sealed, and other versions did not: it computed the header's tag, and
    /// the key of suites without commitment, in ways of its own. All else that is checked stays as it is.
    pub fn accept_net_4_0_0(mut self) -> Self {
        self.settings.accepts_net_4_0_0 = true;
        self
    }

    /// The plaintext bytes of a frame, for sealing. Default: 65,536. Each frame is 32 bytes longer than its
    /// plaintext; it is the unit in which readers authenticate, and the memory that they need.
    pub fn frame_len(mut self, bytes: u32) -> Self {
        self.frame_len = bytes;
        self
    }

    /// What a message may ask for on opening. Nothing that exceeds it is sealed, either.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// Sets how long all requests to the key provider for one message may take together. Default: 10 seconds.
    /// [`Duration::MAX`] means no limit. Work on frames is not counted. A request that a [cache](Self::cache) shares
    /// between callers has that long from its own start.
    ///
    /// The provider enforces it: those for AWS KMS do, and for others see [`KeyProvider`].
    pub fn key_timeout(mut self, timeout: Duration) -> Self {
        self.settings.key_timeout = timeout;
        self
    }

    /// Names that every context must have, whose pairs are authenticated but **not stored** in the message: to open
    /// it, they must be given again. For what a message should not reveal, and what its reader knows anyway.
    ///
    /// AWS's SDKs call them required encryption context keys, and need them as well to open such a message.
    pub fn required_context<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.settings.required_context = names.into_iter().map(Into::into).collect();
        self
    }

    /// Keeps data keys in this cache, for sealing and for opening. Default: none, and every message makes a request.
    pub fn cache(mut self, cache: DataKeyCache) -> Self {
        self.settings.cache = Some(cache.partition());
        self
    }

    /// What does the cryptography. Default: the fastest that is compiled in.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.settings.backend = backend;
        self
    }

    /// Which threads work on the frames of a message. Default: [`Threads::One`], the calling one.
    pub fn threads(mut self, threads: Threads) -> Self {
        self.settings.threads = threads;
        self
    }

    /// Takes message ids from this generator instead of the operating system's.
    ///
    /// For tests that need the same bytes twice. A generator that repeats itself in production gives the data away.
    pub fn rng<R: TryCryptoRng + Send + 'static>(mut self, rng: R) -> Self
    where
        R::Error: Send + Sync + 'static,
    {
        self.settings.random = Arc::new(Random::given(rng));
        self
    }

    /// The envelope.
    ///
    /// # Errors
    /// [`ConfigError::CommitmentPolicy`] for a suite that the policy does not allow, and [`ConfigError::FrameLen`] for
    /// a frame length of zero or beyond the limit on opening.
    pub fn build(mut self) -> Result<Envelope, ConfigError> {
        let settings = &mut self.settings;
        let policy = settings.policy;
        settings.suite = self.suite.unwrap_or(policy.default_suite());
        if !policy.allows_sealing(settings.suite) {
            return Err(ConfigError::CommitmentPolicy { suite: settings.suite, policy });
        }
        let max = settings.limits.max_frame_len();
        settings.frame_len = NonZeroU32::new(self.frame_len)
            .filter(|len| len.get() <= max)
            .ok_or(ConfigError::FrameLen { len: self.frame_len, max })?;
        Ok(self.settings.into())
    }
}

/// A message that was opened. Its plaintext, context, suite and message id are authentic.
#[derive(Clone)]
#[non_exhaustive]
pub struct Opened {
    /// The plaintext.
    pub plaintext: Vec<u8>,
    /// The whole encryption context: what the message stores, and the required pairs that were given.
    pub context: EncryptionContext,
    /// The algorithm suite.
    pub suite: AlgorithmSuite,
    /// The random name of the message.
    pub message_id: MessageId,
    /// The encrypted data key that opened it; [`key_name`](EncryptedDataKey::key_name) is the KMS key's ARN. A detached
    /// one is not authenticated: see [`MessageInfo::encrypted_data_key`].
    pub encrypted_data_key: EncryptedDataKey,
    /// What decrypted that: see [`MessageInfo::key_id`].
    pub key_id: String,
}

/// Without the plaintext.
impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("plaintext_len", &self.plaintext.len())
            .field("context", &self.context)
            .field("suite", &self.suite)
            .field("message_id", &self.message_id)
            .field("encrypted_data_key", &self.encrypted_data_key)
            .field("key_id", &self.key_id)
            .finish()
    }
}
