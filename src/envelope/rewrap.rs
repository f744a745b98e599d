//! Other keys for data that is there already.

use std::{io::Read, sync::Arc};

use zeroize::Zeroizing;

use super::Envelope;
use crate::{
    context::EncryptionContext,
    crypto::Randomness,
    error::{DataKeyError, HeaderError, ResealError, RewrapError},
    message::{DetachedKeys, Header},
    provider::{EncryptDataKeyRequest, KeyProvider},
    stream::{OpenReader, SealReader},
};

impl Envelope {
    /// Puts a message's data key under another key, without touching the message: the encrypted data keys that this
    /// gives, kept beside the message, open it with the new key. This envelope holds the old key and the `context`,
    /// as for opening. One request to its key provider to decrypt, one to `new` to encrypt, whatever the message's
    /// length; together they have this envelope's [`key_timeout`](crate::EnvelopeBuilder::key_timeout).
    ///
    /// The header verifies first, so what is rewrapped is this message's data key. The encryption context stays the
    /// same, and the new provider is given it too.
    ///
    /// The message still holds the old encrypted data keys, and opens with the old key for as long as that can be used:
    /// a header cannot be written anew, as two headers under one data key would let anyone who sees both forge the
    /// message. And whoever has had the data key still has it. Where the old key may be known to others,
    /// [`reseal`](Self::reseal).
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
    /// let keys: Vec<u8> = old.rewrap(&header, &context, &new_key).await?.to_bytes()?; // to be kept
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
    /// [`RewrapError::Open`] where the header does not open, [`RewrapError::Encrypt`] where `new` fails, and
    /// [`RewrapError::Keys`] where it gives more than a message or this envelope's limits have room for.
    pub async fn rewrap(
        &self,
        header: &Header,
        context: &EncryptionContext,
        new: &dyn KeyProvider,
    ) -> Result<DetachedKeys, RewrapError> {
        let deadline = self.settings.deadline();
        let (opener, data_key) = self.unlock(header, context, Some(deadline)).await?;
        let info = opener.info();
        let request = EncryptDataKeyRequest::new(info.suite, &info.context, &data_key.plaintext)
            .with_deadline(deadline)
            .with_backend(self.settings.backend)
            .with_randomness(Randomness(&self.settings.random));
        let encrypted = new.encrypt_data_key(&request).await.map_err(RewrapError::Encrypt)?;
        let keys = DetachedKeys::new(info.message_id, encrypted).to_bytes().map_err(RewrapError::Keys)?;
        // What would not be read again is not given out.
        DetachedKeys::parse(&keys, &self.settings.limits).map_err(|error| {
            RewrapError::Keys(match error {
                HeaderError::Limit(error) => error.into(),
                HeaderError::Format(error) => DataKeyError::from(error).into(),
            })
        })
    }

    /// This envelope, for opening the one message that these keys belong to: by them, and not by those in its header.
    /// That goes for whole buffers, streams and ranges, for [`rewrap`](Self::rewrap) and for [`reseal`](Self::reseal).
    /// Sealing is as before.
    #[must_use]
    pub fn with_detached_keys(&self, keys: DetachedKeys) -> Self {
        Self { settings: self.settings.clone(), detached_keys: Some(Arc::new(keys)) }
    }

    /// Opens a message and seals its plaintext anew, with `new`: another data key, another message id, and the suite
    /// and frame length of `new`. The encryption context stays the same; whether its pairs are stored is for `new` to
    /// say. For messages that do not fit into memory, there is [`reseal_reader`](Self::reseal_reader).
    ///
    /// # Errors
    /// [`ResealError::Open`] as [`open`](Self::open), [`ResealError::Seal`] as [`seal`](Self::seal).
    pub async fn reseal(&self, sealed: &[u8], context: &EncryptionContext, new: &Self) -> Result<Vec<u8>, ResealError> {
        let mut plaintext = Zeroizing::new(Vec::new());
        let info = self.open_into(sealed, context, &mut plaintext).await?;
        Ok(new.seal(&plaintext, &info.context.without_reserved_names()).await?)
    }

    /// As [`reseal`](Self::reseal): a reader of the new message, from a reader of the old one. Where the old one does
    /// not open, reading fails with that error, and what was read has no end and opens nowhere.
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
    /// [`ResealError::Open`] as [`open_reader`](Self::open_reader), [`ResealError::Seal`] as [`seal`](Self::seal).
    pub async fn reseal_reader<R: Read>(
        &self,
        reader: R,
        context: &EncryptionContext,
        new: &Self,
    ) -> Result<SealReader<OpenReader<R>>, ResealError> {
        let opened = self.open_reader(reader, context).await?;
        let context = opened.info().context.without_reserved_names();
        Ok(new.seal_reader(opened, &context).await?)
    }

    /// As [`reseal_reader`](Self::reseal_reader), for tokio.
    ///
    /// # Errors
    /// As [`reseal_reader`](Self::reseal_reader).
    #[cfg(feature = "tokio")]
    pub async fn reseal_async_reader<R: tokio::io::AsyncRead>(
        &self,
        reader: R,
        context: &EncryptionContext,
        new: &Self,
    ) -> Result<crate::stream::AsyncSealReader<crate::stream::AsyncOpenReader<R>>, ResealError> {
        let opened = self.open_async_reader(reader, context).await?;
        let context = opened.info().context.without_reserved_names();
        Ok(new.seal_async_reader(opened, &context).await?)
    }
}
