//! Whole plaintexts and messages in memory.

use super::{Envelope, EnvelopeBuilder, Opened};
use crate::{
    context::EncryptionContext,
    error::{OpenError, SealError},
    message::Header,
    provider::KeyProvider,
    stream::{self, MessageInfo},
};

impl Envelope {
    /// An envelope with the default settings.
    pub fn new(provider: impl KeyProvider + 'static) -> Self {
        EnvelopeBuilder::new(provider).settings.into()
    }

    /// An envelope whose settings are to be chosen.
    pub fn builder(provider: impl KeyProvider + 'static) -> EnvelopeBuilder {
        EnvelopeBuilder::new(provider)
    }

    /// Seals a whole plaintext. One request to the key provider.
    ///
    /// The context is stored in the message in the clear; [`open`](Self::open) can demand it.
    ///
    /// # In an async service
    /// Once the data key is there, sealing and opening occupy the calling task until they are done. A GiB takes about
    /// 0.2 s in memory that is [used again](Self::seal_into), and 0.6 to 3.5 s in fresh memory, which the operating
    /// system has to provide first. For 64 KiB, that is 0.01 to 0.2 ms, about what a runtime such as tokio expects between
    /// two awaits. For 1 MiB, it is 0.2 to 3.5 ms, and the other tasks of the thread wait. From about 1 MiB on, use a
    /// reader or writer for tokio, which lets others run after each [buffer](EnvelopeBuilder::stream_buffer_len), or
    /// make the whole call in a thread for blocking work:
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
    /// A [`SealError`]: the key provider gave no data key, the context cannot be used, the randomness failed, or the
    /// plaintext has too many frames.
    pub async fn seal(&self, plaintext: &[u8], context: &EncryptionContext) -> Result<Vec<u8>, SealError> {
        let mut sealed = Vec::new();
        self.seal_into(plaintext, context, &mut sealed).await?;
        Ok(sealed)
    }

    /// Opens a whole message. One request to the key provider.
    ///
    /// Every pair of `context` must be in the message with the same value; the message may have others, which
    /// [`MessageInfo::context`] shows. That is checked before any key is asked for.
    ///
    /// Opening occupies the calling task for as long as sealing: [`seal`](Self::seal) says what to do in an async
    /// service from about 1 MiB on.
    ///
    /// # Errors
    /// An [`OpenError`] that says which check failed. Nothing of the plaintext is given out then.
    pub async fn open(&self, sealed: &[u8], context: &EncryptionContext) -> Result<Opened, OpenError> {
        let mut plaintext = Vec::new();
        let info = self.open_into(sealed, context, &mut plaintext).await?;
        Ok(Opened { plaintext, info })
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
