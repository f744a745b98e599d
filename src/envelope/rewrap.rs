//! Rewrapping and resealing existing messages.

use std::{io::Read, sync::Arc};

use zeroize::Zeroizing;

use super::Envelope;
use crate::{
    context::EncryptionContext,
    crypto::Randomness,
    error::{DataKeyError, HeaderError, ResealError, RewrapError},
    message::{DetachedKeys, Header},
    provider::{self, EncryptDataKeyRequest, KeyProvider},
    stream::{OpenReader, SealReader},
};

impl Envelope {
    /// Re-encrypts a message's data key under another key, and returns it as detached keys. The message is not
    /// modified.
    ///
    /// *Detached keys* are encrypted data keys stored beside the message. Store the returned keys: an envelope with the
    /// new key needs them to open the message, with [`with_detached_keys`](Self::with_detached_keys).
    ///
    /// This envelope must be able to open the message; `context` has the same meaning as for [`open`](Self::open). The
    /// header is verified first. The encryption context stays the same, and `new` receives it too.
    ///
    /// The method needs only the header, so its cost does not depend on the message's length. It calls this envelope's
    /// key provider once to decrypt the data key, and `new` once to encrypt it. Both calls together have this
    /// envelope's [`key_timeout`](crate::EnvelopeBuilder::key_timeout).
    ///
    /// # Rewrapping does not revoke the old key
    /// The message still contains its old encrypted data keys, so it opens with the old key as long as that key can be
    /// used. They cannot be replaced: anyone who sees two different headers with the same data key and message id can
    /// forge the message. Rewrapping does not revoke a leaked data key either. If the old key or the data key may have
    /// been compromised, use [`reseal`](Self::reseal).
    ///
    /// ```
    /// use kms_envelope::{EncryptionContext, Envelope, Limits, RawAes, message::{DetachedKeys, Header}};
    ///
    /// # pollster::block_on(async {
    /// let old = Envelope::new(RawAes::generate("example", "2025")?);
    /// let new_key = RawAes::new("example", "2026", [7; 32])?;
    /// let context = EncryptionContext::from([("tenant", "acme")]);
    /// let sealed = old.seal(b"attack at dawn", &context).await?;
    ///
    /// let header = Header::parse(&sealed, &Limits::default())?;
    /// let keys: Vec<u8> = old.rewrap(&header, &context, &new_key).await?.to_bytes(); // store these
    ///
    /// let keys = DetachedKeys::parse(&keys, &Limits::default())?;
    /// let new = Envelope::new(new_key);
    /// let opened = new.with_detached_keys(keys).open(&sealed, &context).await?;
    /// assert_eq!(opened.plaintext, b"attack at dawn");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// - Returns [`RewrapError::Open`] if the header cannot be opened.
    /// - Returns [`RewrapError::Encrypt`] if `new` fails, or if this envelope
    ///   [requires FIPS](crate::EnvelopeBuilder::require_fips) and `new` fails [`KeyProvider::check_fips`].
    /// - Returns [`RewrapError::Keys`] if `new` returns more encrypted data keys, or longer ones, than a message or
    ///   this envelope's limits allow.
    pub async fn rewrap(
        &self,
        header: &Header,
        context: &EncryptionContext,
        new: &dyn KeyProvider,
    ) -> Result<DetachedKeys, RewrapError> {
        if self.settings.requires_fips {
            let allowed = new.check_fips().map_err(|error| provider::not_fips(error, "Encrypt", &new.to_string()));
            allowed.map_err(RewrapError::Encrypt)?;
        }
        let deadline = self.settings.deadline();
        let (opener, materials) = self.unlock(&header.view(), context, Some(deadline)).await?;
        let info = opener.info();
        let request = EncryptDataKeyRequest::new(info.suite(), info.context(), &materials.data_key)
            .with_deadline(deadline)
            .with_backend(self.settings.backend)
            .with_randomness(Randomness(&self.settings.random));
        let encrypted = new.encrypt_data_key(&request).await.map_err(RewrapError::Encrypt)?;
        let keys = DetachedKeys::new(*info.message_id(), encrypted).map_err(RewrapError::Keys)?;
        // Do not return keys that could not be parsed again.
        DetachedKeys::parse(&keys.to_bytes(), &self.settings.limits).map_err(|error| {
            RewrapError::Keys(match error {
                HeaderError::Limit(error) => error.into(),
                HeaderError::Format(error) => DataKeyError::from(error).into(),
            })
        })
    }

    /// Returns an envelope that opens one message with detached keys instead of the keys in the message's header.
    ///
    /// The keys apply to all methods that open: in memory, as a stream, by ranges, and in [`rewrap`](Self::rewrap) and
    /// [`reseal`](Self::reseal). For any other message, they fail with
    /// [`OpenError::DetachedKeys`](crate::OpenError::DetachedKeys). Sealing is unaffected. [`rewrap`](Self::rewrap) has
    /// an example.
    #[must_use]
    pub fn with_detached_keys(&self, keys: DetachedKeys) -> Self {
        Self { settings: self.settings.clone(), detached_keys: Some(Arc::new(keys)) }
    }

    /// Opens a message, and seals its plaintext with `new` as a new message, with another data key and message id.
    ///
    /// The suite and the frame length are those of `new`. The encryption context stays the same; the settings of `new`
    /// determine which pairs are stored. Calls the key provider of this envelope once, and that of `new` once.
    ///
    /// The plaintext is held in memory. For long messages, use [`reseal_reader`](Self::reseal_reader).
    ///
    /// ```
    /// use kms_envelope::{EncryptionContext, Envelope, RawAes};
    ///
    /// # pollster::block_on(async {
    /// let old = Envelope::new(RawAes::generate("example", "2025")?);
    /// let new = Envelope::new(RawAes::generate("example", "2026")?);
    /// let context = EncryptionContext::from([("tenant", "acme")]);
    /// let message = old.seal(b"attack at dawn", &context).await?;
    ///
    /// let message = old.reseal(&message, &context, &new).await?;
    /// assert_eq!(new.open(&message, &context).await?.plaintext, b"attack at dawn");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Returns [`ResealError::Open`] with an error of [`open`](Self::open), or [`ResealError::Seal`] with an error of
    /// [`seal`](Self::seal).
    pub async fn reseal(&self, sealed: &[u8], context: &EncryptionContext, new: &Self) -> Result<Vec<u8>, ResealError> {
        let mut plaintext = Zeroizing::new(Vec::new());
        let info = self.open_into(sealed, context, &mut plaintext).await?;
        Ok(new.seal(&plaintext, &info.context().without_reserved_names()).await?)
    }

    /// Like [`reseal`](Self::reseal), but for streams: creates a reader of the new message from a reader of the old
    /// one.
    ///
    /// If a later part of the old message cannot be opened, reading returns that [`OpenError`](crate::OpenError). The
    /// bytes read until then are a truncated message, which cannot be opened.
    ///
    /// ```
    /// use std::io;
    /// use kms_envelope::{EncryptionContext, Envelope, RawAes};
    ///
    /// # pollster::block_on(async {
    /// # let old = Envelope::new(RawAes::generate("example", "2025")?);
    /// # let new = Envelope::new(RawAes::generate("example", "2026")?);
    /// # let context = EncryptionContext::new();
    /// # let sealed = old.seal(b"attack at dawn", &context).await?;
    /// # let (file, mut output) = (&sealed[..], Vec::new());
    /// let mut reader = old.reseal_reader(file, &context, &new).await?;
    /// io::copy(&mut reader, &mut output)?;
    /// # assert_eq!(new.open(&output, &context).await?.plaintext, b"attack at dawn");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Returns [`ResealError::Open`] with an error of [`open_reader`](Self::open_reader), or [`ResealError::Seal`] with
    /// an error of [`seal_reader`](Self::seal_reader).
    pub async fn reseal_reader<R: Read>(
        &self,
        reader: R,
        context: &EncryptionContext,
        new: &Self,
    ) -> Result<SealReader<OpenReader<R>>, ResealError> {
        let opened = self.open_reader(reader, context).await?;
        let context = opened.info().context().without_reserved_names();
        Ok(new.seal_reader(opened, &context).await?)
    }

    /// Like [`reseal_reader`](Self::reseal_reader), but for tokio's [`AsyncRead`](tokio::io::AsyncRead).
    ///
    /// # Errors
    /// Same as [`reseal_reader`](Self::reseal_reader).
    #[cfg(feature = "tokio")]
    pub async fn reseal_async_reader<R: tokio::io::AsyncRead>(
        &self,
        reader: R,
        context: &EncryptionContext,
        new: &Self,
    ) -> Result<crate::stream::AsyncSealReader<crate::stream::AsyncOpenReader<R>>, ResealError> {
        let opened = self.open_async_reader(reader, context).await?;
        let context = opened.info().context().without_reserved_names();
        Ok(new.seal_async_reader(opened, &context).await?)
    }
}
