//! The settings of an envelope, and its builder.

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
    error::{ConfigError, NotFips},
    materials::{self, MaterialsError, OpeningMaterials, SealingMaterials},
    message::{EncryptedDataKey, Limits, MessageId, least_header_len},
    provider::{self, DecryptDataKeyRequest, KeyProvider},
    stream::{self, SealerParts, Threads},
    suite::{AlgorithmSuite, CommitmentPolicy},
};

/// The default frame length. AES runs at full speed, and the frames' overhead is 0.05% of the plaintext.
const DEFAULT_FRAME_LEN: u32 = 65_536;

#[derive(Debug)]
pub(super) struct Settings {
    pub(super) provider: Arc<dyn KeyProvider>,
    pub(super) cache: Option<Partition>,
    pub(super) policy: CommitmentPolicy,
    pub(super) suite: AlgorithmSuite,
    pub(super) frame_len: NonZeroU32,
    pub(super) header_len: Option<usize>,
    pub(super) limits: Limits,
    pub(super) key_timeout: Duration,
    pub(super) required_context: BTreeSet<String>,
    pub(super) streams_signed: bool,
    pub(super) accepts_net_4_0_0: bool,
    pub(super) backend: Backend,
    pub(super) threads: Threads,
    pub(super) stream_buffer_len: Option<usize>,
    pub(super) random: Arc<Random>,
    pub(super) requires_fips: bool,
}

impl Settings {
    pub(super) async fn sealing_materials(
        &self,
        context: &EncryptionContext,
    ) -> Result<SealingMaterials, MaterialsError> {
        materials::for_sealing(
            &*self.provider,
            self.suite,
            context,
            &self.required_context,
            (self.frame_len, self.header_len, &self.limits),
            (self.backend, &self.random),
            self.deadline(),
        )
        .await
    }

    /// Returns the data key of a message of this suite, whose entire context is `context`. Without a deadline, the
    /// [key timeout](EnvelopeBuilder::key_timeout) starts now.
    pub(super) async fn opening_materials(
        &self,
        suite: AlgorithmSuite,
        context: &EncryptionContext,
        encrypted_data_keys: &[EncryptedDataKey],
        deadline: Option<Instant>,
    ) -> Result<OpeningMaterials, MaterialsError> {
        let request = DecryptDataKeyRequest::new(suite, context, encrypted_data_keys)
            .with_deadline(deadline.unwrap_or_else(|| self.deadline()))
            .with_tries_per_kms_key(self.limits.tries_per_kms_key)
            .with_backend(self.backend)
            .with_randomness(Randomness(&self.random));
        materials::for_opening(&*self.provider, &request).await
    }

    /// Checks what [`EnvelopeBuilder::require_fips`] requires, first what the caller can change without a new build.
    fn check_fips(&self) -> Result<(), NotFips> {
        const LEN_192: usize = 24;
        if matches!(*self.random, Random::Given(_)) {
            return Err(NotFips::Rng);
        }
        if !self.backend.is_aws_lc() {
            return Err(NotFips::Backend(self.backend));
        }
        if self.suite.data_key_len() == LEN_192 {
            return Err(NotFips::Suite(self.suite));
        }
        self.provider.check_fips()?;
        // Another crate can link the module, too, but only the feature makes this crate use all of it.
        let has_module = cfg!(feature = "fips") && self.backend.is_fips();
        if has_module { Ok(()) } else { Err(NotFips::Module) }
    }

    pub(super) fn sealer_parts<'a>(
        &'a self,
        message_id: MessageId,
        materials: &'a SealingMaterials,
    ) -> SealerParts<'a> {
        SealerParts {
            backend: self.backend,
            random: &self.random,
            suite: self.suite,
            message_id,
            frame_len: self.frame_len,
            threads: &self.threads,
            materials,
        }
    }

    /// Returns the length of a stream's buffers.
    pub(super) fn stream_buffer_len(&self) -> usize {
        self.stream_buffer_len.unwrap_or_else(|| stream::default_buffer_len(&self.threads))
    }

    /// Returns the deadline for a message whose calls to the key provider start now.
    pub(super) fn deadline(&self) -> Instant {
        provider::deadline_after(self.key_timeout)
    }
}

impl From<Settings> for Envelope {
    fn from(settings: Settings) -> Self {
        Self { settings: Arc::new(settings), detached_keys: None }
    }
}

/// Configures an [`Envelope`]. Every setting has a default, so most services need only a few of these methods.
///
/// ```
/// use std::time::Duration;
/// use kms_envelope::{DataKeyCache, Envelope, RawAes};
///
/// let envelope = Envelope::builder(RawAes::generate("example", "key")?)
///     .cache(DataKeyCache::builder(Duration::from_secs(300)).build()?)
///     .key_timeout(Duration::from_secs(3))
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// | to … | use … | default |
/// |---|---|---|
/// | reuse data keys for many messages | [`cache`](Self::cache) | a call to the key provider for every message |
/// | limit the time of the calls to the key provider | [`key_timeout`](Self::key_timeout) | 10 seconds |
/// | require context pairs that messages do not store | [`required_context`](Self::required_context) | none |
/// | limit what a message may request | [`limits`](Self::limits) | [`Limits::default`] |
/// | sign messages, or choose another suite | [`suite`](Self::suite) | AES-256-GCM with key commitment, unsigned |
/// | open old messages, without key commitment | [`commitment_policy`](Self::commitment_policy) | refuse them |
/// | refuse to stream signed messages | [`refuse_signed_streams`](Self::refuse_signed_streams) | stream them |
/// | open messages of AWS's SDK for .NET 4.0.0 | [`accept_esdk_net_4_0_0`](Self::accept_esdk_net_4_0_0) | refuse them |
/// | choose the frame length | [`frame_len`](Self::frame_len) | 65,536 bytes |
/// | give all headers the same length | [`header_len`](Self::header_len) | the length that a header needs |
/// | encrypt a message with several threads | [`threads`](Self::threads) | the calling thread |
/// | choose the buffers of readers and writers | [`stream_buffer_len`](Self::stream_buffer_len) | 1 MiB for each thread, at most 8 MiB |
/// | choose the cryptographic backend | [`backend`](Self::backend) | the fastest that is compiled in |
/// | refuse what does not use AWS-LC's FIPS module | [`require_fips`](Self::require_fips) | allow it |
/// | choose the random number generator | [`rng`](Self::rng) | the backend's |
#[derive(Debug)]
#[must_use]
pub struct EnvelopeBuilder {
    pub(super) settings: Settings,
    /// Not checked yet: it may be zero.
    frame_len: u32,
    /// Not checked yet: the policy may not allow it.
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
            header_len: None,
            limits: Limits::default(),
            key_timeout: provider::DEFAULT_KEY_TIMEOUT,
            required_context: BTreeSet::new(),
            streams_signed: true,
            accepts_net_4_0_0: false,
            backend: Backend::default(),
            threads: Threads::default(),
            stream_buffer_len: None,
            random: Arc::new(Random::System(Backend::DEFAULT)),
            requires_fips: false,
        };
        Self { settings, frame_len: DEFAULT_FRAME_LEN, suite: None }
    }

    /// Sets the algorithm suite for sealing. Opening uses the message's suite.
    ///
    /// Default: [the policy's](CommitmentPolicy::default_suite), which is
    /// [`AlgorithmSuite::Aes256GcmHkdfSha512Commit`] unless you choose another policy.
    pub fn suite(mut self, suite: AlgorithmSuite) -> Self {
        self.suite = Some(suite);
        self
    }

    /// Sets the commitment policy, which determines the suites that the envelope may seal with and open.
    ///
    /// Default: [`CommitmentPolicy::RequireEncryptRequireDecrypt`].
    pub fn commitment_policy(mut self, policy: CommitmentPolicy) -> Self {
        self.settings.policy = policy;
        self
    }

    /// Refuses to stream signed messages, so that they can only be opened in memory. By default, they can also be
    /// streamed.
    ///
    /// A stream releases the frames of a signed message, except for the last one, before it verifies the signature. Use
    /// this setting if your code cannot undo what it does with the first frames. Methods that stream a signed message
    /// then return [`OpenError::SignedStream`](crate::OpenError::SignedStream) before they call the key provider.
    pub fn refuse_signed_streams(mut self) -> Self {
        self.settings.streams_signed = false;
        self
    }

    /// Accepts messages from version 4.0.0 of the AWS Encryption SDK for .NET. By default, they are refused.
    ///
    /// That version computed the header's tag, and the encryption key of suites without key commitment, differently
    /// from the specification. All other checks stay the same.
    pub fn accept_esdk_net_4_0_0(mut self) -> Self {
        self.settings.accepts_net_4_0_0 = true;
        self
    }

    /// Sets the number of plaintext bytes in a frame, for sealing. Default: 65,536.
    ///
    /// Each frame adds 32 bytes to the message. Readers hold one frame in memory, so longer frames need more memory.
    /// Range readers decrypt complete frames, so short ranges of long frames are slower.
    pub fn frame_len(mut self, bytes: u32) -> Self {
        self.frame_len = bytes;
        self
    }

    /// Gives every message the same header length in bytes, at most 65,535. By default, the length of a header follows
    /// from the suite, the encryption context and the keys.
    ///
    /// With a fixed header length and [frame length](Self::frame_len), the plaintext length of an unsigned message
    /// follows from the length of the message: see [`Geometry::of_sealed`](crate::message::Geometry::of_sealed). A list
    /// of the lengths of stored objects is enough to know how long their plaintexts are.
    ///
    /// The length is that of [`Header::len`](crate::message::Header::len): the entire header, including its
    /// authentication tag. A shorter header is padded with one more entry in its list of encrypted data keys, of at
    /// least 28 bytes, whose provider id is `kms-envelope-padding`. All of AWS's SDKs pass over it. The entry counts
    /// toward [`Limits::encrypted_data_keys`]: readers that limit the number of encrypted data keys must allow one more.
    ///
    /// Sealing returns [`SealError::HeaderLen`](crate::SealError::HeaderLen) if the header needs more bytes, or is 1 to
    /// 27 bytes shorter. Choose a length with room for the longest encryption context and all keys: an encrypted data
    /// key of AWS KMS needs about 270 bytes. The setting does not apply to opening.
    ///
    /// ```
    /// use std::num::NonZeroU32;
    /// use kms_envelope::{EncryptionContext, Envelope, RawAes, message::Geometry};
    ///
    /// # pollster::block_on(async {
    /// let key = RawAes::generate("example", "key")?;
    /// let envelope = Envelope::builder(key).header_len(1024).frame_len(4096).build()?;
    /// let context = EncryptionContext::from([("tenant", "acme")]);
    /// let sealed = envelope.seal(&[7; 10_000], &context).await?;
    ///
    /// let frame_len = NonZeroU32::new(4096).unwrap();
    /// let geometry = Geometry::of_sealed(1024, frame_len, 0, sealed.len() as u64)?;
    /// assert_eq!(geometry.plaintext_len(), 10_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn header_len(mut self, bytes: usize) -> Self {
        self.settings.header_len = Some(bytes);
        self
    }

    /// Sets the limits on a message's header, frames and encrypted data keys. Default: [`Limits::default`].
    ///
    /// They protect opening from untrusted messages. They also apply to sealing, so that the envelope can open the
    /// messages that it seals.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// Sets the total timeout of all calls to the key provider for one message. Default: 10 seconds.
    ///
    /// [`Duration::MAX`] means no limit. Encryption, decryption and I/O do not count. A call that a
    /// [cache](Self::cache) shares between callers has its own timeout, which starts with the call.
    ///
    /// The key provider must enforce the timeout. The providers for AWS KMS do; for others, see
    /// [`KeyProvider`](crate::KeyProvider).
    pub fn key_timeout(mut self, timeout: Duration) -> Self {
        self.settings.key_timeout = timeout;
        self
    }

    /// Sets the names of required encryption context pairs, which are authenticated but **not stored** in the message.
    ///
    /// Every context for sealing and opening must contain these names. To open a message, pass the same values as for
    /// sealing. Use this for values that a message must not reveal, and that the code that opens it knows from
    /// elsewhere.
    ///
    /// AWS's SDKs call these names required encryption context keys, and also need them to open such a message.
    pub fn required_context<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.settings.required_context = names.into_iter().map(Into::into).collect();
        self
    }

    /// Caches data keys in `cache`, for sealing and opening.
    ///
    /// Default: no cache, so every message needs a call to the key provider.
    pub fn cache(mut self, cache: DataKeyCache) -> Self {
        self.settings.cache = Some(cache.partition());
        self
    }

    /// Sets the cryptographic backend. Default: the fastest that is compiled in.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.settings.backend = backend;
        self
    }

    /// Sets which threads encrypt and decrypt the frames of a message. Default: [`Threads::One`], the calling thread.
    pub fn threads(mut self, threads: Threads) -> Self {
        self.settings.threads = threads;
        self
    }

    /// Sets the buffer length of readers and writers in bytes, from 4,096 to 1,073,741,824.
    ///
    /// Default: 1 MiB for each of the [threads](Self::threads), at most 8 MiB.
    ///
    /// A reader or writer processes up to one buffer at a time. A writer holds one buffer and a reader holds two; each
    /// also holds up to one incomplete frame. Buffers grow with the data up to this length, or up to one frame if a
    /// frame is longer.
    ///
    /// Choose shorter buffers if a process has many concurrent streams. Buffers below 64 KiB, or with several threads
    /// below 128 KiB for each thread, are slower. Streams of `Bytes` have no buffers: they process each item when it
    /// arrives.
    pub fn stream_buffer_len(mut self, bytes: usize) -> Self {
        self.settings.stream_buffer_len = Some(bytes);
        self
    }

    /// Requires that the cryptography of the envelope and its key provider runs in AWS-LC's FIPS module, or in a key
    /// service. By default, any module is allowed.
    ///
    /// [`build`](Self::build) then fails with [`ConfigError::NotFips`] in these cases:
    ///
    /// - The feature `fips` is off, so that the program does not contain the module.
    /// - The [backend](Self::backend) is not [`Backend::AwsLc`], or an [`rng`](Self::rng) is set.
    /// - The [suite](Self::suite) for sealing has keys of 192 bits.
    /// - The key provider fails [`KeyProvider::check_fips`]. Providers that do not implement this method fail.
    ///
    /// [`Envelope::rewrap`] checks the new key provider in the same way.
    ///
    /// This setting does not restrict which suites are opened, and does not cover the TLS connections to a key service.
    /// [The guide](crate::guide::fips) lists which operations are services of the module.
    ///
    /// ```
    /// use kms_envelope::{ConfigError, Envelope, RawAes};
    ///
    /// let key = RawAes::generate("example", "key")?;
    /// match Envelope::builder(key).require_fips().build() {
    ///     Ok(envelope) => println!("{envelope:?} uses the FIPS module"),
    ///     Err(ConfigError::NotFips(why)) => println!("{why}"), // without the feature `fips`, for example
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok::<(), ConfigError>(())
    /// ```
    pub fn require_fips(mut self) -> Self {
        self.settings.requires_fips = true;
        self
    }

    /// Uses `rng` instead of the backend's random number generator: AWS-LC's own, or with RustCrypto the operating
    /// system's.
    ///
    /// Message ids come from it, and so does what key providers such as [`RawAes`](crate::RawAes) generate in this
    /// process: data keys, IVs, salts and ephemeral keys. Signing keys and signatures come from it only with
    /// [`Backend::RustCrypto`](crate::Backend::RustCrypto): AWS-LC uses its own generator for them, and for RSA padding.
    /// AWS KMS generates its data keys itself.
    ///
    /// Use this only for tests that need reproducible messages. Signed messages are reproducible with
    /// [`Backend::RustCrypto`](crate::Backend::RustCrypto) only.
    ///
    /// **In production, a generator that repeats its output reveals the plaintext.**
    pub fn rng<R: TryCryptoRng + Send + 'static>(mut self, rng: R) -> Self
    where
        R::Error: Send + Sync + 'static,
    {
        self.settings.random = Arc::new(Random::given(rng));
        self
    }

    /// Builds the envelope.
    ///
    /// # Errors
    /// - Returns [`ConfigError::CommitmentPolicy`] if the commitment policy does not allow the suite.
    /// - Returns [`ConfigError::FrameLen`] if the frame length is zero or exceeds [`Limits::frame_len`].
    /// - Returns [`ConfigError::HeaderLen`] if the header length is shorter than any header of the suite, or exceeds
    ///   65,535 bytes or [`Limits::header_len`].
    /// - Returns [`ConfigError::StreamBufferLen`] if the stream buffer length is out of range.
    /// - Returns [`ConfigError::NotFips`] if [`require_fips`](Self::require_fips) is set and not met.
    pub fn build(mut self) -> Result<Envelope, ConfigError> {
        let settings = &mut self.settings;
        let policy = settings.policy;
        settings.suite = self.suite.unwrap_or(policy.default_suite());
        if let Random::System(_) = *settings.random {
            settings.random = Arc::new(Random::System(settings.backend));
        }
        if !policy.allows_sealing(settings.suite) {
            return Err(ConfigError::CommitmentPolicy { suite: settings.suite, policy });
        }
        let max = settings.limits.max_frame_len();
        settings.frame_len = NonZeroU32::new(self.frame_len)
            .filter(|len| len.get() <= max)
            .ok_or(ConfigError::FrameLen { len: self.frame_len, max })?;
        if let Some(len) = settings.header_len {
            // Longer padding would not fit into one encrypted data key.
            let max = settings.limits.header_len.min(u16::MAX.into());
            let min = least_header_len(settings.suite.message_version());
            if !(min..=max).contains(&len) {
                return Err(ConfigError::HeaderLen { len, min, max });
            }
        }
        let lens = stream::BUFFER_LENS;
        if let Some(len) = settings.stream_buffer_len.filter(|len| !lens.contains(len)) {
            return Err(ConfigError::StreamBufferLen { len, min: *lens.start(), max: *lens.end() });
        }
        if settings.requires_fips {
            settings.check_fips().map_err(ConfigError::NotFips)?;
        }
        Ok(self.settings.into())
    }
}
