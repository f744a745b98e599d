//! The settings of a store.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use kms_envelope::{EncryptionContext, Envelope, EnvelopeBuilder, SealError, stream::Sealer};

use crate::{
    Binding, Error, SettingsError,
    binding::{Contexts, Form},
    layout::Layout,
    objects::Objects,
    stats::Counters,
};

/// The settings of an `EncryptedStore`. All but the envelope have defaults.
///
/// ```
/// use kms_envelope::{Envelope, RawAes};
/// use kms_envelope_object_store::StoreSettings;
///
/// let settings = StoreSettings::new(Envelope::builder(RawAes::generate("example", "key")?)).base("s3://my-bucket/data");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// | to … | use … | default |
/// |---|---|---|
/// | bind objects to the bucket | [`base`](Self::base) | no base: to the location within the store |
/// | share data keys between objects, or copy without sealing again | [`binding`](Self::binding) | [`Binding::Path`] |
/// | add pairs to the encryption context | [`context`](Self::context) | none |
/// | read less for short ranges, or spend less on long ones | [`frame_len`](Self::frame_len) | 65,536 bytes |
/// | use many keys, or long paths | [`header_len`](Self::header_len) | 1,024 bytes |
/// | write objects of more than 78 GiB to S3 | [`part_len`](Self::part_len) | 8 MiB |
/// | upload faster, or in less memory | [`parts_in_flight`](Self::parts_in_flight) | 4 |
/// | limit how long a revoked key opens known objects | [`cache_max_age`](Self::cache_max_age) | 5 minutes |
/// | limit the memory for known objects | [`cache_capacity`](Self::cache_capacity) | 64 MiB |
/// | read objects of other programs | [`look_up_sizes`](Self::look_up_sizes) | compute all sizes |
/// | use rewrapped keys | [`detached_keys`](Self::detached_keys) | do not look for them |
#[derive(Debug)]
#[must_use]
pub struct StoreSettings {
    envelope: EnvelopeBuilder,
    base: String,
    binding: Binding,
    context: EncryptionContext,
    header_len: usize,
    frame_len: u32,
    part_len: usize,
    parts_in_flight: usize,
    cache_max_age: Duration,
    cache_capacity: u64,
    looks_up_sizes: bool,
    detached_keys: Option<String>,
}

impl StoreSettings {
    /// Creates the settings. The store sets the envelope's header length and frame length.
    pub fn new(envelope: EnvelopeBuilder) -> Self {
        Self {
            envelope,
            base: String::new(),
            binding: Binding::default(),
            context: EncryptionContext::new(),
            header_len: 1024,
            frame_len: 65_536,
            part_len: 8 << 20,
            parts_in_flight: 4,
            cache_max_age: Duration::from_secs(300),
            cache_capacity: 64 << 20,
            looks_up_sizes: false,
            detached_keys: None,
        }
    }

    /// Sets the text that precedes every location in what objects are [bound](Self::binding) to, such as the URL of the
    /// bucket. Default: empty.
    ///
    /// All programs that share the objects must use the same base. A slash at the end is ignored.
    pub fn base(mut self, base: impl Into<String>) -> Self {
        self.base = base.into();
        self
    }

    /// Sets the base if there is none.
    pub(crate) fn default_base(self, base: String) -> Self {
        if self.base.is_empty() { self.base(base) } else { self }
    }

    /// Sets how the encryption context of an object depends on its path. Default: [`Binding::Path`].
    pub fn binding(mut self, binding: Binding) -> Self {
        self.binding = binding;
        self
    }

    /// Sets pairs of the encryption context of all objects. Default: none.
    pub fn context(mut self, context: EncryptionContext) -> Self {
        self.context = context;
        self
    }

    /// Sets the length of the header of an object, in bytes. Default: 1,024.
    ///
    /// The header contains the encrypted data keys and the encryption context, and is padded to this length. A store
    /// reads only objects that have it, unless it [looks up sizes](Self::look_up_sizes).
    pub fn header_len(mut self, bytes: usize) -> Self {
        self.header_len = bytes;
        self
    }

    /// Sets the number of plaintext bytes in a frame. Default: 65,536.
    ///
    /// Every read fetches complete frames. A store reads only objects that have this frame length, unless it
    /// [looks up sizes](Self::look_up_sizes).
    pub fn frame_len(mut self, bytes: u32) -> Self {
        self.frame_len = bytes;
        self
    }

    /// Sets the length of the parts of multipart uploads, in bytes. Default: 8 MiB. At least 5 MiB for S3,
    /// and at most 5 GiB.
    ///
    /// All parts but the last have this length. S3 allows 10,000 parts. An object that is not longer than a part is
    /// copied with a single request.
    pub fn part_len(mut self, bytes: usize) -> Self {
        self.part_len = bytes;
        self
    }

    /// Sets how many parts of one multipart upload are in flight. Default: 4. An upload holds at most one more in memory.
    pub fn parts_in_flight(mut self, parts: usize) -> Self {
        self.parts_in_flight = parts;
        self
    }

    /// Sets how long the data key of an object is kept after it was decrypted. Default: 5 minutes. Zero keeps none.
    ///
    /// A key that is revoked opens the objects in this cache for as long.
    pub fn cache_max_age(mut self, age: Duration) -> Self {
        self.cache_max_age = age;
        self
    }

    /// Sets the memory for data keys of objects, in bytes. Default: 64 MiB, which is enough for about 14,000 objects.
    pub fn cache_capacity(mut self, bytes: u64) -> Self {
        self.cache_capacity = bytes;
        self
    }

    /// Reads the header of every object that is listed, or whose metadata is requested, instead of computing the length
    /// of its plaintext.
    ///
    /// Needs one more request for each object. The store then also reads messages of other programs, which have other
    /// lengths of headers and frames. Objects that are not messages are listed with their own length.
    pub fn look_up_sizes(mut self) -> Self {
        self.looks_up_sizes = true;
        self
    }

    /// Sets the suffix of the names of [detached keys](kms_envelope::message::DetachedKeys): those of the object `a` are
    /// in `a` followed by the suffix. Default: the store does not look for detached keys.
    ///
    /// They are requested only if no key in the object's own header can be decrypted. Lists omit them, and they are
    /// deleted, copied and renamed with their object. If an object is replaced, the detached keys of the earlier one stay
    /// and are ignored, until the object is rewrapped.
    ///
    /// Choose a suffix that no object of yours has: such objects are hidden, and deleted with the object whose name
    /// precedes the suffix.
    pub fn detached_keys(mut self, suffix: impl Into<String>) -> Self {
        self.detached_keys = Some(suffix.into());
        self
    }

    /// Checks the settings.
    pub(crate) fn build(self) -> Result<Shared, SettingsError> {
        let invalid = |reason: String| Err(SettingsError::Invalid(reason));
        let Some(frame_len) = NonZeroU32::new(self.frame_len) else {
            return invalid("the frame length is 0; set at least 1 byte".into());
        };
        let envelope = envelope(self.envelope, Some(self.header_len), frame_len)?;
        if self.part_len == 0 || self.parts_in_flight == 0 {
            return invalid("a multipart upload needs at least one part of at least 1 byte".into());
        }
        if self.part_len as u64 > 5 << 30 {
            return invalid("a part has at most 5 GiB".into());
        }
        let is_plain = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
        if self.detached_keys.as_ref().is_some_and(|suffix| suffix.is_empty() || !suffix.chars().all(is_plain)) {
            return invalid("the suffix of detached keys must consist of letters, digits, `.`, `_` and `-`".into());
        }
        let base = self.base.strip_suffix('/').unwrap_or(&self.base).to_owned();
        let contexts = Contexts { binding: self.binding, base, pairs: self.context };
        if let Some(name) = contexts.conflict() {
            return invalid(format!(
                "the context has the pair `{name}`, which the binding of the store sets; use another name"
            ));
        }
        Ok(Shared {
            envelope,
            contexts,
            layout: Layout { header_len: self.header_len, frame_len },
            part_len: self.part_len,
            parts_in_flight: self.parts_in_flight,
            looks_up_sizes: self.looks_up_sizes,
            detached_keys: self.detached_keys,
            objects: Objects::new(self.cache_max_age, self.cache_capacity),
            counters: Counters::default(),
            too_long_text: AtomicUsize::new(usize::MAX),
        })
    }
}

/// Builds the envelope of objects of a store. Without a header length, headers are as long as they need to be.
pub(crate) fn envelope(
    builder: EnvelopeBuilder,
    header_len: Option<usize>,
    frame_len: NonZeroU32,
) -> Result<Envelope, SettingsError> {
    let builder = builder.frame_len(frame_len.get());
    let envelope = if let Some(len) = header_len { builder.header_len(len) } else { builder }.build()?;
    if envelope.suite().signature().is_some() {
        return Err(SettingsError::SignedSuite(envelope.suite()));
    }
    Ok(envelope)
}

/// The checked settings of a store and its state, the same for all versions of object_store.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) envelope: Envelope,
    pub(crate) contexts: Contexts,
    pub(crate) layout: Layout,
    pub(crate) part_len: usize,
    pub(crate) parts_in_flight: usize,
    pub(crate) looks_up_sizes: bool,
    pub(crate) detached_keys: Option<String>,
    pub(crate) objects: Objects,
    pub(crate) counters: Counters,
    /// The length of the shortest text that did not fit into a header.
    pub(crate) too_long_text: AtomicUsize,
}

impl Shared {
    /// Starts to seal the object at this location.
    pub(crate) async fn sealer(&self, location: &str) -> Result<Sealer, Error> {
        let error = |error| Error::seal(location, error);
        let text = self.contexts.binding.text(location);
        if text.is_none_or(|text| text.len() < self.too_long_text.load(Relaxed)) {
            Counters::add(&self.counters.data_keys, 1);
            match (self.envelope.sealer(&self.contexts.of(location, Form::Text)).await, text) {
                (Err(SealError::HeaderLen { .. }), Some(text)) => self.too_long_text.fetch_min(text.len(), Relaxed),
                (sealer, _) => return sealer.map_err(error),
            };
        }
        Counters::add(&self.counters.data_keys, 1);
        self.envelope.sealer(&self.contexts.of(location, Form::Hash)).await.map_err(error)
    }
}
