//! Plaintext in, message out.

use std::{fmt, num::NonZeroU32, sync::Arc};

use zeroize::Zeroizing;

use super::{
    Threads,
    buffer::{buffer_len, extend_within},
    frame_cipher::{BodyCipher, FrameCipher},
    signature::Signer,
};
use crate::{
    crypto::{Backend, Dialect, MessageKeys, Random},
    error::SealError,
    materials::SealingMaterials,
    message::{FINAL_FRAME_OVERHEAD, Geometry, HeaderFields, Limits, MessageId, put_authentication},
    suite::{AlgorithmSuite, TAG_LEN},
};

/// Seals one message, piece by piece, with no I/O of its own.
///
/// Made by [`Envelope::sealer`](crate::Envelope::sealer). Plaintext goes in by [`update`](Self::update), and the
/// message comes out; [`finish`](Self::finish) writes its end. Without that, what came out is no message: every
/// reader refuses it as truncated.
///
/// ```
/// use kms_envelope::{EncryptionContext, Envelope, RawAes};
///
/// # pollster::block_on(async {
/// let envelope = Envelope::new(RawAes::generate("example", "key")?);
/// let context = EncryptionContext::new();
///
/// let mut sealer = envelope.sealer(&context).await?;
/// let mut message = Vec::new();
/// for piece in [&b"attack "[..], b"at dawn"] {
///     let start = message.len();
///     message.resize(start + sealer.update_len(piece.len())?, 0);
///     sealer.update(piece, &mut message[start..])?;
/// }
/// let start = message.len();
/// message.resize(start + sealer.finish_len(), 0);
/// sealer.finish(&mut message[start..])?;
///
/// assert_eq!(envelope.open(&message, &context).await?.plaintext, b"attack at dawn");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub struct Sealer {
    cipher: FrameCipher,
    /// The number of the next frame, from 1.
    sequence: u32,
    /// The header, until it is written.
    header: Vec<u8>,
    header_len: usize,
    /// Plaintext of the next frame: it stays here until more follows, since the final frame is written differently.
    held: Zeroizing<Vec<u8>>,
    /// Of suites that sign.
    signer: Option<Signer>,
}

/// What a sealer is made from.
#[derive(Debug)]
pub(crate) struct SealerParts<'a> {
    pub(crate) backend: Backend,
    pub(crate) random: &'a Arc<Random>,
    pub(crate) suite: AlgorithmSuite,
    pub(crate) frame_len: NonZeroU32,
    pub(crate) limits: &'a Limits,
    pub(crate) threads: &'a Threads,
    pub(crate) materials: &'a SealingMaterials,
}

impl Sealer {
    pub(crate) fn new(parts: SealerParts<'_>) -> Result<Self, SealError> {
        let SealerParts { backend, random, suite, frame_len, limits, threads, materials } = parts;
        let SealingMaterials { data_key, signing_key, stored_context, required_context } = materials;
        let version = suite.message_version();
        let message_id = MessageId::generate(version, |out| random.fill(out))?;
        let keys = MessageKeys::derive(backend, suite, &data_key.plaintext, &message_id, Dialect::Specification);
        let mut header = HeaderFields {
            suite,
            message_id: &message_id,
            context: stored_context,
            encrypted_data_keys: &data_key.encrypted_data_keys,
            frame_len: frame_len.get(),
            commitment: keys.commitment,
        }
        .write()?;
        let aad = [&header[..], &required_context.serialize()?].concat();
        let mut tag = [0; TAG_LEN];
        keys.encryption.seal(&[0; _], &aad, &[], &mut tag);
        put_authentication(&mut header, version, &tag);
        // What this envelope could not open again, it does not seal.
        limits.check_encrypted_data_keys(data_key.encrypted_data_keys.len())?;
        limits.check_header_len(header.len())?;
        let mut signer = suite
            .signature()
            .zip(signing_key.clone())
            .map(|(algorithm, key)| Signer::new(key, algorithm, random.clone()));
        if let Some(signer) = &mut signer {
            signer.update(&header);
        }
        Ok(Self {
            cipher: FrameCipher::new(BodyCipher { key: keys.encryption, message_id }, frame_len, threads.clone()),
            sequence: 1,
            header_len: header.len(),
            header,
            held: Zeroizing::default(),
            signer,
        })
    }

    /// The length of the message's header, in bytes.
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// The plaintext bytes of a frame.
    pub fn frame_len(&self) -> usize {
        self.cipher.frame_len()
    }

    /// The length of the whole message for a plaintext of this length, in bytes.
    ///
    /// # Errors
    /// [`SealError::TooLong`] where a message cannot have so many frames.
    pub fn sealed_len(&self, plaintext_len: u64) -> Result<u64, SealError> {
        self.layout().sealed_len(plaintext_len)
    }

    pub(super) fn layout(&self) -> Layout {
        Layout {
            header_len: self.header_len as u64,
            frame_len: self.cipher.frame_len_nonzero(),
            footer_len: self.footer_len() as u64,
        }
    }

    fn footer_len(&self) -> usize {
        self.signer.as_ref().map_or(0, Signer::footer_len)
    }

    /// How many regular frames go out when this much plaintext comes in: all but the last byte's. The message has
    /// numbers for them and for the final one.
    fn frames_for(&self, plaintext_len: usize) -> Result<usize, SealError> {
        let frames = self.held.len().saturating_add(plaintext_len).saturating_sub(1) / self.frame_len();
        if u64::from(self.sequence).saturating_add(frames as u64) > u64::from(u32::MAX) {
            return Err(SealError::TooLong { frame_len: self.cipher.frame_len_nonzero().get() });
        }
        Ok(frames)
    }

    /// Returns how many bytes exactly [`update`](Self::update) will write for `plaintext_len` bytes: zero where the
    /// plaintext is only held until there is more.
    ///
    /// # Errors
    /// [`SealError::TooLong`] where the message would have too many frames, and [`SealError::TooLongForMemory`] where
    /// the output does not fit into memory.
    pub fn update_len(&self, plaintext_len: usize) -> Result<usize, SealError> {
        let frames = self.frames_for(plaintext_len)?;
        let frames_len = (frames as u64).saturating_mul(self.cipher.sealed_frame_len() as u64);
        let len = frames_len.saturating_add(self.header.len() as u64);
        buffer_len(len).ok_or(SealError::TooLongForMemory { len })
    }

    /// Takes the next piece of plaintext, and writes as much of the message as it completes to the start of `out`.
    /// Gives the number of bytes written.
    ///
    /// # Errors
    /// [`SealError::OutputTooShort`] where `out` is shorter than [`update_len`](Self::update_len) says, and the errors
    /// of that. Nothing is taken or written then.
    pub fn update(&mut self, mut plaintext: &[u8], out: &mut [u8]) -> Result<usize, SealError> {
        let frames = self.frames_for(plaintext.len())?;
        check_room(out.len(), self.update_len(plaintext.len())?)?;
        let mut written = self.write_header(out);
        let mut frames_left = frames;
        if frames_left > 0 && !self.held.is_empty() {
            let (rest_of_frame, rest) = plaintext.split_at(self.frame_len() - self.held.len());
            plaintext = rest;
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(rest_of_frame);
            written += self.seal_frames(1, &mut &held[..], &mut out[written..]);
            held.clear();
            self.held = held;
            frames_left -= 1;
        }
        // From the caller's memory, where whole frames are there.
        written += self.seal_frames(frames_left, &mut plaintext, &mut out[written..]);
        extend_within(&mut self.held, plaintext, self.cipher.frame_len());
        Ok(written)
    }

    /// Seals so many frames from the start of `plaintext`.
    fn seal_frames(&mut self, frames: usize, plaintext: &mut &[u8], out: &mut [u8]) -> usize {
        let (regular, rest) = plaintext.split_at(frames * self.frame_len());
        *plaintext = rest;
        let first = self.sequence;
        // Checked to fit before.
        self.sequence += u32::try_from(frames).unwrap_or(0);
        match &mut self.signer {
            None => self.cipher.seal_all(first, regular, out),
            Some(signer) => seal_and_sign(&self.cipher, signer, first, regular, out),
        }
    }

    /// How many bytes exactly [`finish`](Self::finish) will write.
    pub fn finish_len(&self) -> usize {
        self.header.len() + self.held.len() + FINAL_FRAME_OVERHEAD + self.footer_len()
    }

    /// Ends the message: writes its final frame, and its signature if it has one, to the start of `out`. Gives the
    /// number of bytes written.
    ///
    /// # Errors
    /// [`SealError::OutputTooShort`] where `out` is shorter than [`finish_len`](Self::finish_len) says, and
    /// [`SealError::Random`] where there is no randomness for a signature. The message cannot be finished any more
    /// then.
    pub fn finish(mut self, out: &mut [u8]) -> Result<usize, SealError> {
        check_room(out.len(), self.finish_len())?;
        let written = self.write_header(out);
        let held = std::mem::take(&mut self.held);
        Ok(written + self.seal_end(&held, &mut out[written..])?)
    }

    /// Seals a whole plaintext at once, from the caller's memory alone, to `out`, which has the message's length.
    pub(crate) fn seal_buffer(mut self, mut plaintext: &[u8], out: &mut [u8]) -> Result<(), SealError> {
        let frames = self.frames_for(plaintext.len())?;
        let mut written = self.write_header(out);
        written += self.seal_frames(frames, &mut plaintext, &mut out[written..]);
        self.seal_end(plaintext, &mut out[written..]).map(drop)
    }

    /// Seals the final frame and signs. Gives the number of bytes written.
    fn seal_end(self, plaintext: &[u8], out: &mut [u8]) -> Result<usize, SealError> {
        let mut written = self.cipher.single().seal(self.sequence, true, plaintext, out);
        if let Some(mut signer) = self.signer {
            signer.update(&out[..written]);
            let footer = written..written + signer.footer_len();
            written = footer.end;
            signer.finish(&mut out[footer])?;
        }
        Ok(written)
    }

    /// Writes the header, unless that was done before.
    fn write_header(&mut self, out: &mut [u8]) -> usize {
        let header = std::mem::take(&mut self.header);
        out[..header.len()].copy_from_slice(&header);
        header.len()
    }
}

/// A sealer, and what becomes of it. Finished and failed never go back.
#[derive(Debug)]
pub(super) enum Sealing {
    Open(Box<Sealer>),
    Finished,
    Failed,
}

impl Sealing {
    pub(super) fn new(sealer: Sealer) -> Self {
        Self::Open(Box::new(sealer))
    }

    pub(super) fn is_finished(&self) -> bool {
        matches!(self, Self::Finished)
    }

    fn sealer(&mut self) -> Result<&mut Sealer, SealError> {
        match self {
            Self::Open(sealer) => Ok(sealer),
            Self::Finished => Err(SealError::Finished),
            Self::Failed => Err(SealError::FailedBefore),
        }
    }

    /// An error where the message takes no more plaintext.
    pub(super) fn check_open(&mut self) -> Result<(), SealError> {
        self.sealer().map(drop)
    }

    /// An error where the message has failed.
    pub(super) fn check_not_failed(&self) -> Result<(), SealError> {
        if let Self::Failed = self { Err(SealError::FailedBefore) } else { Ok(()) }
    }

    pub(super) fn fail(&mut self) {
        *self = Self::Failed;
    }

    /// As [`Sealer::update`], to a buffer that grows as needed.
    pub(super) fn update(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<usize, SealError> {
        let sealer = self.sealer()?;
        let updated = sealer.update_len(plaintext.len()).and_then(|len| {
            lengthen(out, len);
            sealer.update(plaintext, out)
        });
        if updated.is_err() {
            self.fail();
        }
        updated
    }

    /// As [`Sealer::finish`], to a buffer that grows as needed. Has no effect the second time.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> Result<usize, SealError> {
        self.check_not_failed()?;
        match std::mem::replace(self, Self::Failed) {
            Self::Open(sealer) => {
                lengthen(out, sealer.finish_len());
                let len = sealer.finish(out)?;
                *self = Self::Finished;
                Ok(len)
            }
            other => {
                *self = other;
                Ok(0)
            }
        }
    }
}

/// Gives a buffer this length, or more. What was in it is gone then, unless it was long enough.
pub(super) fn lengthen(buffer: &mut Vec<u8>, len: usize) {
    if buffer.len() < len {
        // Fresh memory comes from the system as zeros, and is not written to before it is needed. First the old goes.
        *buffer = Vec::new();
        *buffer = vec![0; len];
    }
}

/// The lengths that a message has whatever its plaintext, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    header_len: u64,
    frame_len: NonZeroU32,
    footer_len: u64,
}

impl Layout {
    /// See [`Sealer::sealed_len`].
    pub(super) fn sealed_len(&self, plaintext_len: u64) -> Result<u64, SealError> {
        let Self { header_len, frame_len, footer_len } = *self;
        Ok(Geometry::of_plaintext(header_len, frame_len, footer_len, plaintext_len)?.sealed_len())
    }
}

/// How many bytes of frames are signed at once, while the next ones are being sealed.
const SIGNED_AT_ONCE: usize = 512 << 10;

/// As [`FrameCipher::seal_all`]: each batch of frames is signed while the next one is being sealed.
fn seal_and_sign(
    cipher: &FrameCipher,
    signer: &mut Signer,
    mut sequence: u32,
    plaintext: &[u8],
    mut out: &mut [u8],
) -> usize {
    let frames = (SIGNED_AT_ONCE / cipher.sealed_frame_len()).max(1);
    let (mut sealed, mut written): (&[u8], _) = (&[], 0);
    for batch in plaintext.chunks(frames * cipher.frame_len()) {
        let batch_frames = batch.len() / cipher.frame_len();
        let (batch_out, rest) = out.split_at_mut(batch_frames * cipher.sealed_frame_len());
        cipher.threads().join(|| cipher.seal_all(sequence, batch, batch_out), || signer.update(sealed));
        // Checked to fit before.
        sequence += u32::try_from(batch_frames).unwrap_or(0);
        written += batch_out.len();
        (sealed, out) = (batch_out, rest);
    }
    signer.update(sealed);
    written
}

/// Without the plaintext that is held.
impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("frame_len", &self.frame_len())
            .field("sequence", &self.sequence)
            .field("held_len", &self.held.len())
            .finish_non_exhaustive()
    }
}

fn check_room(len: usize, needed: usize) -> Result<(), SealError> {
    if len < needed { Err(SealError::OutputTooShort { len, needed }) } else { Ok(()) }
}
