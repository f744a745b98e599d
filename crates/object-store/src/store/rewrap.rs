//! Moving objects to another key.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use kms_envelope::{
    EncryptionContext, Envelope, EnvelopeBuilder, OpenError, RewrapError,
    error::FormatError,
    message::{DetachedKeys, EncryptedDataKey, Header},
};

use super::{
    Core, EncryptedStore, Inspected, Listed, STORE,
    copy::upload_all,
    inventory::{self, read_start, version},
    object_store::{
        self, GetOptions, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions,
        PutOptions, PutPayload, Result, UpdateVersion, path::Path,
    },
    upload::seal_all,
};
use crate::{
    Content, Error, Message, RewrapOptions, Rewrapped, SettingsError, rewrap::Pace, settings::envelope, stats::Counters,
};

/// How often an object is rewrapped again because it changed at the same time.
const ATTEMPTS: usize = 5;

/// The maximum number of parts of a multipart upload to S3. A margin is left for headers of other lengths.
const MAX_PARTS: u64 = 9_990;

/// Names with this prefix are reserved by the format (specification, `framework/structures.md`, "Encryption Context").
const RESERVED: &str = "aws-crypto-";

impl<T: ObjectStore> EncryptedStore<T> {
    /// Encrypts the data key of an object under another key, and stores it as
    /// [detached keys](crate::StoreSettings::detached_keys) beside the object, which is not modified.
    ///
    /// The envelope of this store opens the object with the old key. `new` has the new key, and opens the object with
    /// the detached keys before they are stored. An object that opens with the new key already is left as it is. Detached
    /// keys for other keys are kept, also those for the old key. If `new` has several keys, one that opens the object is
    /// enough: use one at a time.
    ///
    /// The object may have any layout, and may be [signed](kms_envelope::AlgorithmSuite::signature).
    ///
    /// # This does not revoke the old key
    /// The object still opens with the old key: see [`Envelope::rewrap`]. To write the data anew, use
    /// [`reseal`](Self::reseal).
    ///
    /// # Errors
    /// Returns the errors of the inner store, and:
    /// - [`Error::NoDetachedKeys`] if the store has no suffix for detached keys.
    /// - [`Error::Open`] if the object cannot be opened with the old key.
    /// - [`Error::Rewrap`] if the data key cannot be encrypted under the new key, and [`Error::Unverified`] if the new
    ///   detached keys do not open the object. Nothing is stored.
    /// - [`Error::DetachedKeys`] if what is stored under the name of the detached keys is something else. It stays.
    /// - [`Error::Changed`] if the object or its detached keys are replaced at the same time, several times.
    pub async fn rewrap(&self, location: &Path, new: &Envelope) -> Result<Rewrapped> {
        let pace = RewrapOptions::default().attempts(1).pace();
        self.core.rewrap(location, None, new, &pace).await.map(|(rewrapped, _)| rewrapped)
    }

    /// Rewraps the objects of an [inventory](super::Inventory), several at the same time. Each is returned with the result
    /// of [`rewrap`](Self::rewrap) and the version of its detached keys, in no particular order. An object that fails does
    /// not keep the others from being rewrapped. The stream ends with an error if the objects cannot be listed.
    ///
    /// The inventory must look for detached keys with the same suffix. An object that it could not read is returned with
    /// that error.
    ///
    /// All of this can be repeated, for example after the process was stopped: objects that were rewrapped before cost
    /// one call to the new key, and nothing is written.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use futures_util::TryStreamExt;
    /// # use kms_envelope::{Envelope, RawAes};
    /// # use kms_envelope_object_store::{RewrapOptions, Rewrapped, StoreSettings};
    /// # use kms_envelope_object_store::v0_14::{EncryptedStore, Inventory, object_store::{ObjectStoreExt, memory::InMemory}};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let bucket = Arc::new(InMemory::new());
    /// # let (old_key, new_key) = (RawAes::generate("example", "old")?, RawAes::generate("example", "new")?);
    /// let settings = StoreSettings::new(Envelope::builder(old_key)).detached_keys(".keys");
    /// let store = EncryptedStore::new(bucket.clone(), settings)?;
    /// # store.put(&"2026/a".into(), "attack at dawn".into()).await?;
    ///
    /// let objects = Inventory::new(bucket).detached_keys(".keys").stream();
    /// let mut results = store.rewrap_all(objects, &Envelope::new(new_key), &RewrapOptions::default());
    /// while let Some((object, result)) = results.try_next().await? {
    ///     println!("{}: {:?}", object.meta.location, result?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn rewrap_all(
        &self,
        objects: BoxStream<'static, Result<Inspected>>,
        new: &Envelope,
        options: &RewrapOptions,
    ) -> BoxStream<'static, Result<(Listed, Result<Rewrapped>)>>
    where
        T: 'static,
    {
        let (core, new, pace) = (self.core.clone(), new.clone(), options.pace());
        let rewrap = move |Inspected { listed: Listed { meta, detached_keys }, content }: Inspected| {
            let (core, new, pace) = (core.clone(), new.clone(), pace.clone());
            async move {
                let result = match content {
                    Ok(Content::Message(message)) => {
                        core.rewrap(&meta.location, Some((meta.clone(), *message)), &new, &pace).await
                    }
                    Ok(_) => Ok((Rewrapped::NoMessage, None)),
                    Err(error) => Err(error),
                };
                let stored = result.as_ref().ok().and_then(|(_, stored)| *stored);
                let listed = Listed { meta, detached_keys: stored.or(detached_keys) };
                Ok((listed, result.map(|(rewrapped, _)| rewrapped)))
            }
        };
        objects.map_ok(rewrap).try_buffer_unordered(options.concurrency.max(1)).boxed()
    }

    /// Opens an object, and seals it again with another data key from `new`, which replaces the object.
    ///
    /// Use it if the data key may have been compromised, or if the old key must not open the object. **Only the keys of
    /// `new` open the new object**: pass the keys of all other readers, too. In a bucket with versions, the old version
    /// remains until it is deleted.
    ///
    /// `new` returns the envelope's builder for the header of an object. The new object has the same location, encryption
    /// context and frame length, and the same header length if the old header was padded or has that of this store, so programs
    /// read it with the settings that they have, and the new key. Attributes are kept. What object_store does not know is
    /// not: tags, the storage class, and the settings of server-side encryption are the defaults of the bucket. Objects of
    /// any layout can be resealed if the store [looks up sizes](crate::StoreSettings::look_up_sizes), but signed ones
    /// cannot.
    ///
    /// The object is replaced when the new one is complete, and only if it is still the one that was read. An object that
    /// is not longer than a [part](crate::StoreSettings::part_len) is replaced with a conditional request, if the inner
    /// store supports that. No store has conditional multipart uploads: before a longer object is replaced, its metadata
    /// is compared, and a change between these two requests is lost.
    ///
    /// # Errors
    /// Returns the errors of reading and writing; [`SettingsError`](crate::SettingsError) if the settings of `new` are not
    /// valid for a store; and [`Error::Changed`] if the object was replaced at the same time. The object is then unchanged.
    pub async fn reseal(&self, location: &Path, new: impl FnOnce(&Header) -> EnvelopeBuilder) -> Result<()> {
        match self.core.inspect(location, None).await? {
            (_, Content::Message(message)) => self.core.reseal(location, message.header(), new(message.header())).await,
            (_, Content::Other(error)) => Err(Error::open(location, error).into()),
            _ => Err(Error::open(location, FormatError::DetachedKeys("these are detached keys, not a message")).into()),
        }
    }

    /// Reseals the objects of an [inventory](super::Inventory) that have an encrypted data key for the old key, several at
    /// the same time. Like [`rewrap_all`](Self::rewrap_all), but with [`reseal`](Self::reseal).
    ///
    /// An object that was replaced at the same time is resealed again. One that has only the new key is opened with it.
    pub fn reseal_all(
        &self,
        objects: BoxStream<'static, Result<Inspected>>,
        new: impl Fn(&Header) -> EnvelopeBuilder + Send + Sync + 'static,
        options: &RewrapOptions,
    ) -> BoxStream<'static, Result<(Listed, Result<Rewrapped>)>>
    where
        T: 'static,
    {
        let (core, new, pace) = (self.core.clone(), Arc::new(new), options.pace());
        let reseal = move |Inspected { listed, content }: Inspected| {
            let (core, new, pace) = (core.clone(), new.clone(), pace.clone());
            async move {
                let result = match content {
                    Ok(content) => core.reseal_content(&listed.meta.location, content, &*new, &pace).await,
                    Err(error) => Err(error),
                };
                Ok((listed, result))
            }
        };
        objects.map_ok(reseal).try_buffer_unordered(options.concurrency.max(1)).boxed()
    }
}

impl<T: ObjectStore> Core<T> {
    /// Rewraps an object that may have been inspected before. Returns the version of the detached keys if they were read.
    async fn rewrap(
        &self,
        location: &Path,
        mut inspected: Option<(ObjectMeta, Message)>,
        new: &Envelope,
        pace: &Pace,
    ) -> Result<(Rewrapped, Option<u64>)> {
        self.check_name(location)?;
        let keys_at = self.detached_path(location);
        let keys_at = keys_at.ok_or_else(|| Error::NoDetachedKeys { location: location.to_string() })?;
        for _ in 0..ATTEMPTS {
            let (meta, message) = match inspected.take() {
                // Most objects of a store may be for other keys: they need no more requests.
                Some((_, message))
                    if ![&self.shared.envelope, new].iter().any(|it| message.may_open_with(it.provider())) =>
                {
                    return Ok((Rewrapped::OtherKey, None));
                }
                Some(inspected) => inspected,
                None => match self.inspect(location, Some(&keys_at)).await? {
                    (meta, Content::Message(message)) => (meta, *message),
                    _ => return Ok((Rewrapped::NoMessage, None)),
                },
            };
            if let Some(rewrapped) = self.rewrap_version(&meta, &message, &keys_at, new, pace).await? {
                return Ok(rewrapped);
            }
        }
        Err(Error::Changed { location: location.to_string() }.into())
    }

    /// Reads the header of an object, and its detached keys if their location is given.
    async fn inspect(&self, location: &Path, keys_at: Option<&Path>) -> Result<(ObjectMeta, Content)> {
        let listed = self.inner.head(location).await?;
        inventory::inspect(&self.inner, &listed, keys_at, self.shared.envelope.limits()).await
    }

    /// Rewraps a version of an object. Returns `None` if the object or its detached keys were replaced at the same time.
    async fn rewrap_version(
        &self,
        meta: &ObjectMeta,
        message: &Message,
        keys_at: &Path,
        new: &Envelope,
        pace: &Pace,
    ) -> Result<Option<(Rewrapped, Option<u64>)>> {
        let (header, old) = (message.header(), &self.shared.envelope);
        let context = self.shared.contexts.expected(meta.location.as_ref(), header.context());
        let failed = |error: RewrapError| match error {
            RewrapError::Open(error) => Error::open(&meta.location, error),
            error => Error::Rewrap { location: meta.location.to_string(), source: Arc::new(error) },
        };
        if may_open(new, header.encrypted_data_keys()) && opens(new, header, &context, pace).await.map_err(failed)? {
            return Ok(Some((Rewrapped::Before, None)));
        }
        let stored = inventory::detached_keys(&self.inner, keys_at, old.limits()).await?;
        let keys = stored.as_ref().map(|(_, keys)| keys).filter(|keys| keys.message_id() == header.message_id());
        if let Some(keys) = keys.filter(|keys| may_open(new, keys.encrypted_data_keys()))
            && opens(&new.with_detached_keys(keys.clone()), header, &context, pace).await.map_err(failed)?
        {
            return Ok(Some((Rewrapped::Before, stored.as_ref().map(|(stored, _)| version(stored)))));
        }
        let opening = if may_open(old, header.encrypted_data_keys()) {
            old.clone()
        } else if let Some(keys) = keys.filter(|keys| may_open(old, keys.encrypted_data_keys())) {
            old.with_detached_keys(keys.clone())
        } else {
            return Ok(Some((Rewrapped::OtherKey, None)));
        };

        let rewrap = || opening.rewrap(header, &context, new.provider());
        let rewrapped = pace.call(2, RewrapError::is_retryable, rewrap).await.map_err(failed)?;
        let is_other = |key: &&EncryptedDataKey| !new.provider().may_decrypt(key);
        let others = keys.into_iter().flat_map(DetachedKeys::encrypted_data_keys).filter(is_other);
        let keys = rewrapped.encrypted_data_keys().iter().chain(others).cloned().collect();
        let keys =
            DetachedKeys::new(*header.message_id(), keys).map_err(|error| failed(RewrapError::Keys(error)))?.to_bytes();

        // Verified as they will be read, before they replace others.
        let parsed = DetachedKeys::parse(&keys, new.limits()).map_err(|error| Error::open(&meta.location, error))?;
        check(&new.with_detached_keys(parsed), header, &context, pace).await.map_err(|error| {
            let (location, source) = (meta.location.to_string(), Arc::new(error));
            Error::Unverified { location, source }
        })?;
        let stored = stored.map(|(stored, _)| stored);
        if !self.put_if_unchanged(keys_at, stored, keys.clone().into(), PutOptions::default()).await? {
            return Ok(None);
        }
        let read = read_start(&self.inner, keys_at, &GetOptions::default(), keys.len() as u64 + 1).await;
        let (stored, found) = match read {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            read => read?,
        };
        let is_whole = found == keys && is_version(&self.inner.head(&meta.location).await?, meta);
        Ok(is_whole.then(|| (Rewrapped::Stored, Some(version(&stored)))))
    }

    /// Writes an object if it is still the one with this metadata, or if there is still none. Returns whether it is.
    async fn put_if_unchanged(
        &self,
        location: &Path,
        stored: Option<ObjectMeta>,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<bool> {
        let mode = match stored {
            Some(ObjectMeta { e_tag, version, .. }) => PutMode::Update(UpdateVersion { e_tag, version }),
            None => PutMode::Create,
        };
        let conditional = PutOptions { mode, ..options.clone() };
        Counters::add(&self.shared.counters.write_requests, 1);
        Counters::add(&self.shared.counters.bytes_written, payload.content_length() as u64);
        match self.inner.put_opts(location, payload.clone(), conditional).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
            // S3 answers this if there is no object to update.
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(object_store::Error::NotImplemented { .. }) => {
                self.inner.put_opts(location, payload, options).await.map(|_| true)
            }
            Err(error) => Err(error),
        }
    }

    /// Reseals an object until it is not replaced at the same time.
    async fn reseal_content(
        self: &Arc<Self>,
        location: &Path,
        mut content: Content,
        new: &(impl Fn(&Header) -> EnvelopeBuilder + Sync),
        pace: &Pace,
    ) -> Result<Rewrapped> {
        let old = self.shared.envelope.provider();
        for _ in 0..ATTEMPTS {
            let Content::Message(message) = content else { return Ok(Rewrapped::NoMessage) };
            let header = message.header();
            if !message.may_open_with(old) {
                let new = new(header).build().map_err(|error| generic(error.into()))?;
                if !may_open(&new, header.encrypted_data_keys()) {
                    return Ok(Rewrapped::OtherKey);
                }
                let context = self.shared.contexts.expected(location.as_ref(), header.context());
                check(&new, header, &context, pace).await.map_err(|error| Error::open(location, error))?;
                return Ok(Rewrapped::Before);
            }
            match pace.call(2, is_retryable, || self.reseal(location, header, new(header))).await {
                // An answer that was lost looks like a change, too.
                Err(error) if is_change(&error) => {
                    (_, content) = self.inspect(location, self.detached_path(location).as_ref()).await?;
                }
                resealed => return resealed.map(|()| Rewrapped::Stored),
            }
        }
        Err(Error::Changed { location: location.to_string() }.into())
    }

    /// Reseals the object if it has this header.
    async fn reseal(self: &Arc<Self>, location: &Path, header: &Header, new: EnvelopeBuilder) -> Result<()> {
        self.check_name(location)?;
        let failed = |error| Error::seal(location, error);
        let changed = || object_store::Error::from(Error::Changed { location: location.to_string() });
        let (mut source, plaintext) = self.get_plaintext(location, &GetOptions::default()).await?;
        let (stored, attributes) = (source.meta.clone(), source.attributes.clone());
        let is_unchanged = async || self.inner.head(location).await.map(|found| is_version(&found, &stored));

        let object = plaintext.object();
        let info = object.opener.info();
        if info.message_id() != header.message_id() {
            return Err(changed());
        }
        let is_padded = header.encrypted_data_keys().iter().any(|key| key.padding_len().is_some());
        let header_len = (is_padded || header.len() == self.shared.layout.header_len).then_some(header.len());
        let new = envelope(new, header_len, object.layout.frame_len).map_err(generic)?;
        let context = info.context().iter().filter(|(name, _)| !name.starts_with(RESERVED));
        Counters::add(&self.shared.counters.data_keys, 1);
        let sealer = new.sealer(&context.collect()).await.map_err(failed)?;
        if stored.size <= self.shared.part_len as u64 {
            source.payload = GetResultPayload::Stream(plaintext.into_stream());
            let sealed = seal_all(sealer, source.bytes().await?.into()).await.map_err(failed)?;
            let options = PutOptions { attributes, ..PutOptions::default() };
            let is_replaced = is_unchanged().await?
                && self.put_if_unchanged(location, Some(stored.clone()), sealed.into(), options).await?;
            if !is_replaced {
                return Err(changed());
            }
            self.forget(location);
            return Ok(());
        }
        // As many parts as S3 allows, whatever the length of the parts of this store is.
        let min_part_len = usize::try_from(object.sealed_len().div_ceil(MAX_PARTS)).unwrap_or(usize::MAX);
        source.payload = GetResultPayload::Stream(plaintext.in_parts(self).into_stream());
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let check = async || if is_unchanged().await? { Ok(()) } else { Err(changed()) };
        let upload = self.upload_of(sealer, location, self.shared.part_len.max(min_part_len), options).await?;
        upload_all(upload, source, check).await
    }
}

/// Returns whether an envelope's provider may decrypt one of these keys.
pub(super) fn may_open(envelope: &Envelope, keys: &[EncryptedDataKey]) -> bool {
    keys.iter().any(|key| key.padding_len().is_none() && envelope.provider().may_decrypt(key))
}

/// Returns whether an envelope opens a message. Returns an error only if that is not known.
async fn opens(
    envelope: &Envelope,
    header: &Header,
    context: &EncryptionContext,
    pace: &Pace,
) -> Result<bool, RewrapError> {
    match check(envelope, header, context, pace).await {
        Ok(()) => Ok(true),
        Err(error) if error.is_retryable() => Err(error.into()),
        Err(_) => Ok(false),
    }
}

/// Opens the header of a message.
async fn check(
    envelope: &Envelope,
    header: &Header,
    context: &EncryptionContext,
    pace: &Pace,
) -> Result<(), OpenError> {
    pace.call(1, OpenError::is_retryable, || envelope.opener(header, context)).await.map(drop)
}

/// Returns whether a call that failed may succeed later, with the same object.
fn is_retryable(error: &object_store::Error) -> bool {
    cause(error).is_some_and(|error| error.is_retryable() && !matches!(error, Error::Changed { .. }))
}

fn is_change(error: &object_store::Error) -> bool {
    matches!(cause(error), Some(Error::Changed { .. }))
}

/// Returns the error of this crate in an error of object_store.
fn cause(error: &object_store::Error) -> Option<&Error> {
    match error {
        object_store::Error::Generic { source, .. } => source.downcast_ref(),
        _ => None,
    }
}

fn generic(error: SettingsError) -> object_store::Error {
    object_store::Error::Generic { store: STORE, source: Box::new(error) }
}

/// Returns whether this is the metadata of the same version of an object.
fn is_version(one: &ObjectMeta, other: &ObjectMeta) -> bool {
    one.e_tag == other.e_tag && one.version == other.version && one.last_modified == other.last_modified
}
