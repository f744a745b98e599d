//! Sealing and opening in memory.

use super::{Envelope, EnvelopeBuilder, Opened};
use crate::{
    context::EncryptionContext,
    error::{OpenError, SealError},
    message::HeaderView,
    provider::KeyProvider,
    stream::{self, MessageInfo, Opener, Sealer},
};

impl Envelope {
    /// Creates an envelope with the default settings. See [`EnvelopeBuilder`] for the defaults.
    pub fn new(provider: impl KeyProvider + 'static) -> Self {
        EnvelopeBuilder::new(provider).settings.into()
    }

    /// Creates a builder for an envelope with other settings.
    pub fn builder(provider: impl KeyProvider + 'static) -> EnvelopeBuilder {
        EnvelopeBuilder::new(provider)
    }

    /// Encrypts `plaintext`, and returns it as one message. Calls the key provider once.
    ///
    /// The encryption context is authenticated, and is stored in the message unencrypted. [`open`](Self::open) can
    /// require its pairs.
    ///
    /// # In an async service
    /// After the call to the key provider, this method encrypts in the calling task without yielding, and
    /// [`open`](Self::open) decrypts in the same way. Each of them takes about this long:
    ///
    /// | plaintext | in a [reused buffer](Self::seal_into) | in a new buffer |
    /// |---|---|---|
    /// | 64 KiB | 0.01 ms | up to 0.2 ms |
    /// | 1 MiB | 0.2 ms | up to 3.5 ms |
    /// | 1 GiB | 0.2 s | 0.6 to 3.5 s |
    ///
    /// New buffers take longer because the operating system must provide their memory first. Up to 0.2 ms is about what
    /// a runtime such as tokio expects between two `.await` points; during a longer call, the other tasks of the thread
    /// wait. From about 1 MiB, use a tokio reader or writer, which lets other tasks run after each
    /// [buffer](EnvelopeBuilder::stream_buffer_len), or move the call to a thread for blocking work:
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
    /// Returns a [`SealError`] if the key provider fails or returns a data key that cannot be used, the encryption
    /// context is invalid or lacks a [required name](EnvelopeBuilder::required_context), the header would exceed the
    /// envelope's [limits](EnvelopeBuilder::limits), the random number generator fails, or the plaintext is too long.
    pub async fn seal(&self, plaintext: &[u8], context: &EncryptionContext) -> Result<Vec<u8>, SealError> {
        let mut sealed = Vec::new();
        self.seal_into(plaintext, context, &mut sealed).await?;
        Ok(sealed)
    }

    /// Decrypts the message `sealed`, and returns its plaintext and metadata. Calls the key provider once.
    ///
    /// `context` contains the pairs that you require: the message's encryption context must contain each of them, and
    /// may contain others, which [`MessageInfo::context`] includes. This is checked before the key provider is called.
    /// An empty context requires no pair.
    ///
    /// Like [`seal`](Self::seal), this method occupies the calling task while it decrypts.
    ///
    /// ```
    /// use kms_envelope::{EncryptionContext, Envelope, ErrorKind, RawAes};
    ///
    /// # pollster::block_on(async {
    /// # let envelope = Envelope::new(RawAes::generate("example", "key")?);
    /// let context = EncryptionContext::from([("tenant", "acme"), ("purpose", "invoices")]);
    /// let sealed = envelope.seal(b"attack at dawn", &context).await?;
    ///
    /// let opened = envelope.open(&sealed, &EncryptionContext::from([("tenant", "acme")])).await?;
    /// assert_eq!(opened.plaintext, b"attack at dawn");
    /// assert_eq!(opened.info.context().get("purpose"), Some("invoices"));
    ///
    /// let error = envelope.open(&sealed, &EncryptionContext::from([("tenant", "other")])).await.unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::WrongContext);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Returns an [`OpenError`] that specifies which check failed. In this case, no plaintext is released.
    pub async fn open(&self, sealed: &[u8], context: &EncryptionContext) -> Result<Opened, OpenError> {
        let mut plaintext = Vec::new();
        let info = self.open_into(sealed, context, &mut plaintext).await?;
        Ok(Opened { plaintext, info })
    }

    /// Like [`seal`](Self::seal), but writes the message to `sealed`, replacing its contents and reusing its memory.
    ///
    /// For a long plaintext, this takes half the time or less. Do not clear the buffer between calls: this method would
    /// have to fill it with zeros again.
    ///
    /// ```
    /// use kms_envelope::{EncryptionContext, Envelope, RawAes};
    ///
    /// # pollster::block_on(async {
    /// # let envelope = Envelope::new(RawAes::generate("example", "key")?);
    /// # let context = EncryptionContext::new();
    /// let mut sealed = Vec::new();
    /// for record in ["attack at dawn", "retreat at dusk"] {
    ///     envelope.seal_into(record.as_bytes(), &context, &mut sealed).await?;
    ///     // Store or send `sealed`.
    /// }
    /// # assert_eq!(envelope.open(&sealed, &context).await?.plaintext, b"retreat at dusk");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Same as [`seal`](Self::seal). On error, and if the future is dropped, `sealed` is empty and its memory has been
    /// freed.
    pub async fn seal_into(
        &self,
        plaintext: &[u8],
        context: &EncryptionContext,
        sealed: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        // Take the buffer, so that `sealed` does not contain an earlier message if this call fails or is canceled.
        let mut buffer = std::mem::take(sealed);
        let (message_id, materials) = self.start_sealing(context, Some(plaintext.len() as u64)).await?;
        let parts = self.settings.sealer_parts(message_id, &materials);
        let len = parts.sealed_len(plaintext.len() as u64)?;
        resize(&mut buffer, stream::buffer_len(len).ok_or(SealError::TooLongForMemory { len })?);
        Sealer::seal_buffer(parts, plaintext, &mut buffer)?;
        *sealed = buffer;
        Ok(())
    }

    /// Like [`open`](Self::open), but writes the plaintext to `plaintext`, replacing its contents and reusing its
    /// memory.
    ///
    /// # Errors
    /// Same as [`open`](Self::open). On error, and if the future is dropped, `plaintext` is empty and its memory has
    /// been freed.
    pub async fn open_into(
        &self,
        sealed: &[u8],
        context: &EncryptionContext,
        plaintext: &mut Vec<u8>,
    ) -> Result<MessageInfo, OpenError> {
        // Take the buffer, so that `plaintext` does not contain that of another message if this call fails or is
        // canceled.
        let mut buffer = std::mem::take(plaintext);
        let header = HeaderView::parse(sealed, &self.settings.limits)?;
        let mut checked = self.check(&header, context)?;
        // Look in the cache first: creating the future of `find_key` takes longer than a lookup.
        let cached = self.find_cached(&checked).map_or(Err(0), |found| self.verify_cached(&checked, found));
        let unlocked = match cached {
            Ok(unlocked) => unlocked?,
            Err(from) => self.find_key(&checked, from, None).await?,
        };
        let parts = self.opener_parts(&mut checked, unlocked, &self.settings.threads);
        let (len, info) = Opener::open_buffer(parts, &sealed[header.as_bytes().len()..], |len| {
            resize(&mut buffer, len);
            &mut buffer
        })?;
        buffer.truncate(len);
        *plaintext = buffer;
        Ok(info)
    }
}

/// Sets the length of a buffer whose contents do not matter. A buffer that is too small is replaced by a new
/// allocation: the operating system provides that zeroed, so nothing is written to it here.
pub(super) fn resize(buffer: &mut Vec<u8>, len: usize) {
    if buffer.capacity() < len {
        *buffer = vec![0; len];
    } else {
        buffer.resize(len, 0);
    }
}
