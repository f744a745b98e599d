//! The settings of an envelope.

use std::{
    collections::BTreeSet,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use rand_core::TryCryptoRng;

use super::Envelope;
use crate::{
    cache::{DataKeyCache, Partition},
    context::EncryptionContext,
    crypto::{Backend, Random, Randomness},
    error::ConfigError,
    materials::{self, MaterialsError, SealingMaterials},
    message::{EncryptedDataKey, Limits},
    provider::{self, DecryptDataKeyRequest, DecryptedDataKey, KeyProvider},
    stream::{self, Threads},
    suite::{AlgorithmSuite, CommitmentPolicy},
};

/// The plaintext bytes of a frame, unless set: AES at full speed, and 0.05 % more bytes.
const DEFAULT_FRAME_LEN: u32 = 65_536;

#[derive(Debug)]
pub(super) struct Settings {
    pub(super) provider: Arc<dyn KeyProvider>,
    pub(super) cache: Option<Partition>,
    pub(super) policy: CommitmentPolicy,
    pub(super) suite: AlgorithmSuite,
    pub(super) frame_len: NonZeroU32,
    pub(super) limits: Limits,
    pub(super) key_timeout: Duration,
    pub(super) required_context: BTreeSet<String>,
    pub(super) streams_signed: bool,
    pub(super) accepts_net_4_0_0: bool,
    pub(super) backend: Backend,
    pub(super) threads: Threads,
    pub(super) stream_buffer_len: Option<usize>,
    pub(super) random: Arc<Random>,
}

impl Settings {
    pub(super) async fn sealing_materials(
        &self,
        context: &EncryptionContext,
    ) -> Result<SealingMaterials, MaterialsError> {
        let randomness = (self.backend, &*self.random);
        let deadline = self.deadline();
        materials::for_sealing(&*self.provider, self.suite, context, &self.required_context, randomness, deadline).await
    }

    /// The data key of a message of this suite, whose whole context is `context`. Without a deadline, its time begins
    /// now.
    pub(super) async fn opening_data_key(
        &self,
        suite: AlgorithmSuite,
        context: &EncryptionContext,
        encrypted_data_keys: &[EncryptedDataKey],
        deadline: Option<Instant>,
    ) -> Result<DecryptedDataKey, MaterialsError> {
        let request = DecryptDataKeyRequest::new(suite, context, encrypted_data_keys)
            .with_deadline(deadline.unwrap_or_else(|| self.deadline()))
            .with_tries_per_kms_key(self.limits.tries_per_kms_key)
            .with_backend(self.backend)
            .with_randomness(Randomness(&self.random));
        materials::for_opening(&*self.provider, &request).await
    }

    /// The length of the buffers of a stream.
    pub(super) fn stream_buffer_len(&self) -> usize {
        self.stream_buffer_len.unwrap_or_else(|| stream::default_buffer_len(&self.threads))
    }

    /// The deadline of the requests for a message that begin now.
    pub(super) fn deadline(&self) -> Instant {
        provider::deadline_after(self.key_timeout)
    }
}

impl From<Settings> for Envelope {
    fn from(settings: Settings) -> Self {
        Self { settings: Arc::new(settings), detached_keys: None }
    }
}

/// Chooses an [`Envelope`]'s settings. Each has a default.
///
/// ```
/// use kms_envelope::{Envelope, Limits, RawAes};
///
/// let envelope = Envelope::builder(RawAes::generate("example", "key")?)
///     .frame_len(4096)
///     .limits(Limits::default().with_encrypted_data_keys(3))
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct EnvelopeBuilder {
    pub(super) settings: Settings,
    /// As given: it may be zero.
    frame_len: u32,
    /// As given: the policy may not allow it.
    suite: Option<AlgorithmSuite>,
}

impl EnvelopeBuilder {
    pub(super) fn new(provider: impl KeyProvider + 'static) -> Self {
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
            stream_buffer_len: None,
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
    /// streams fail with [`OpenError::SignedStream`](crate::OpenError::SignedStream) as soon as their header has been read, before any key is asked
    /// for. For readers that cannot take back what they did with the first frames.
    pub fn refuse_signed_streams(mut self) -> Self {
        self.settings.streams_signed = false;
        self
    }

    /// Opens also what AWS's SDK for .NET 4.0.0 sealed, and other versions did not: it computed the header's tag, and
    /// the key of suites without commitment, in ways of its own. All else that is checked stays as it is.
    pub fn accept_esdk_net_4_0_0(mut self) -> Self {
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

    /// Sets the length in bytes of the buffers of readers and writers, which is what they work on at once: from 4,096 to
    /// 1,073,741,824. Default: 1 MiB for each of the [threads](Self::threads), and 8 MiB at most.
    ///
    /// A writer holds one buffer, a reader two, and each a frame that has begun. A buffer is not longer than what
    /// arrives, but is always long enough for a whole frame. Shorter buffers are for many streams at once; below 64 KiB,
    /// and below 128 KiB for each thread, they cost speed. Streams of `Bytes` have no buffers: they work on pieces of
    /// the length in which they come.
    pub fn stream_buffer_len(mut self, bytes: usize) -> Self {
        self.settings.stream_buffer_len = Some(bytes);
        self
    }

    /// Takes random bytes from this generator instead of the operating system's: message ids, signing keys, and the
    /// data keys and IVs of providers that make them in this process, such as [`RawAes`](crate::RawAes). AWS KMS draws
    /// its own, and so does AWS-LC for signatures and for RSA's padding.
    ///
    /// For tests that need the same bytes twice; of signed messages, only
    /// [`Backend::RustCrypto`](crate::Backend::RustCrypto) makes them. A generator that repeats itself in production
    /// gives the data away.
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
    /// [`ConfigError::CommitmentPolicy`] for a suite that the policy does not allow, [`ConfigError::FrameLen`] for a
    /// frame length of zero or beyond the limit on opening, and [`ConfigError::StreamBufferLen`] for stream buffers that
    /// are too short or too long.
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
        let lens = stream::BUFFER_LENS;
        if let Some(len) = settings.stream_buffer_len.filter(|len| !lens.contains(len)) {
            return Err(ConfigError::StreamBufferLen { len, min: *lens.start(), max: *lens.end() });
        }
        Ok(self.settings.into())
    }
}
