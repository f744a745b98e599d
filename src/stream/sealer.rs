//! Sealing a message piece by piece, without I/O.

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
    message::{FINAL_FRAME_OVERHEAD, FOOTER_OVERHEAD, Geometry, MessageId},
    suite::{AlgorithmSuite, TAG_LEN},
};

/// Seals one message piece by piece, and does no I/O.
///
/// Created by [`Envelope::sealer`](crate::Envelope::sealer). Pass the plaintext to [`update`](Self::update), and call
/// [`finish`](Self::finish) at the end. Both write parts of the message to a buffer that you provide. Without `finish`,
/// the message is truncated and cannot be opened.
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
    /// The sequence number of the next frame, from 1.
    sequence: u32,
    /// The header, until it is written.
    header: Vec<u8>,
    header_len: usize,
    /// The plaintext of the next frame. It is held until more plaintext follows, because the final frame has another
    /// format.
    held: Zeroizing<Vec<u8>>,
    /// For suites that sign.
    signer: Option<Signer>,
}

/// The arguments of [`Sealer::new`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct SealerParts<'a> {
    pub(crate) backend: Backend,
    pub(crate) random: &'a Arc<Random>,
    pub(crate) suite: AlgorithmSuite,
    pub(crate) message_id: MessageId,
    pub(crate) frame_len: NonZeroU32,
    pub(crate) threads: &'a Threads,
    pub(crate) materials: &'a SealingMaterials,
}

impl SealerParts<'_> {
    /// Returns the length of the message for a plaintext of this length. See [`Sealer::sealed_len`].
    pub(crate) fn sealed_len(&self, plaintext_len: u64) -> Result<u64, SealError> {
        let template = self.materials.header.as_ref().map_err(Clone::clone)?;
        let footer_len = self.suite.signature().map_or(0, |algorithm| FOOTER_OVERHEAD + algorithm.signature_len());
        let (header_len, footer_len) = (template.header_len() as u64, footer_len as u64);
        Layout { header_len, frame_len: self.frame_len, footer_len }.sealed_len(plaintext_len)
    }
}

impl Sealer {
    pub(crate) fn new(parts: SealerParts<'_>) -> Result<Self, SealError> {
        let template = parts.materials.header.as_ref().map_err(Clone::clone)?;
        let mut header = vec![0; template.header_len()];
        let sealer = Self::start(parts, &mut header)?;
        Ok(Self { header, ..sealer })
    }

    /// Seals a complete plaintext without copying it. `out` must have the [length](SealerParts::sealed_len) of the
    /// message.
    pub(crate) fn seal_buffer(parts: SealerParts<'_>, mut plaintext: &[u8], out: &mut [u8]) -> Result<(), SealError> {
        let mut sealer = Self::start(parts, out)?;
        let frames = sealer.frames_for(plaintext.len())?;
        let mut written = sealer.header_len;
        written += sealer.seal_frames(frames, &mut plaintext, &mut out[written..]);
        sealer.seal_end(plaintext, &mut out[written..]).map(drop)
    }

    /// Writes the header to the start of `out`, and returns a sealer of the rest of the message.
    fn start(parts: SealerParts<'_>, out: &mut [u8]) -> Result<Self, SealError> {
        let SealerParts { backend, random, suite, message_id, frame_len, threads, materials } = parts;
        let template = materials.header.as_ref().map_err(Clone::clone)?;
        let keys = MessageKeys::derive(backend, suite, &materials.data_key, &message_id, Dialect::Specification);
        let header = &mut out[..template.header_len()];
        template.write(header, &message_id, keys.commitment.as_ref(), |authenticated| {
            let mut tag = [0; TAG_LEN];
            keys.encryption.seal(&[0; _], authenticated, &[], &mut tag);
            tag
        });
        let mut signer = suite
            .signature()
            .zip(materials.signing_key.clone())
            .map(|(algorithm, key)| Signer::new(backend, key, algorithm, random.clone(), threads));
        if let Some(signer) = &mut signer {
            signer.update(header);
        }
        Ok(Self {
            cipher: FrameCipher::new(BodyCipher { key: keys.encryption, message_id }, frame_len, threads.clone()),
            sequence: 1,
            header_len: header.len(),
            header: Vec::new(),
            held: Zeroizing::default(),
            signer,
        })
    }

    /// Returns the length of the message's header, in bytes.
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// Returns the number of plaintext bytes in a frame.
    pub fn frame_len(&self) -> usize {
        self.cipher.frame_len()
    }

    /// Returns the length in bytes of the entire message for a plaintext of `plaintext_len` bytes.
    ///
    /// # Errors
    /// Returns [`SealError::TooLong`] if the plaintext needs more frames than a message can have.
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

    /// Returns how many regular frames this much plaintext completes: all except the one with the last byte, which may
    /// be the final frame. Checks that there are sequence numbers for them and for the final frame.
    fn frames_for(&self, plaintext_len: usize) -> Result<usize, SealError> {
        let frames = self.held.len().saturating_add(plaintext_len).saturating_sub(1) / self.frame_len();
        if u64::from(self.sequence).saturating_add(frames as u64) > u64::from(u32::MAX) {
            return Err(SealError::TooLong { frame_len: self.cipher.frame_len_nonzero().get() });
        }
        Ok(frames)
    }

    /// Returns the exact number of bytes that [`update`](Self::update) writes for `plaintext_len` bytes of plaintext.
    ///
    /// It is zero if the plaintext is only buffered. The first call also writes the header.
    ///
    /// # Errors
    /// Returns [`SealError::TooLong`] if the message would have too many frames, and [`SealError::TooLongForMemory`] if
    /// the output exceeds the address space.
    pub fn update_len(&self, plaintext_len: usize) -> Result<usize, SealError> {
        let frames = self.frames_for(plaintext_len)?;
        let frames_len = (frames as u64).saturating_mul(self.cipher.sealed_frame_len() as u64);
        let len = frames_len.saturating_add(self.header.len() as u64);
        buffer_len(len).ok_or(SealError::TooLongForMemory { len })
    }

    /// Seals the next piece of plaintext: writes the part of the message that it completes to the start of `out`, and
    /// returns the number of bytes written.
    ///
    /// # Errors
    /// Returns [`SealError::OutputTooShort`] if `out` is shorter than [`update_len`](Self::update_len) returns, and
    /// otherwise the errors of `update_len`. On error, nothing is consumed or written.
    pub fn update(&mut self, mut plaintext: &[u8], out: &mut [u8]) -> Result<usize, SealError> {
        let frames = self.frames_for(plaintext.len())?;
        check_output_len(out.len(), self.update_len(plaintext.len())?)?;
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
        // Complete frames are sealed from the caller's memory, without a copy.
        written += self.seal_frames(frames_left, &mut plaintext, &mut out[written..]);
        extend_within(&mut self.held, plaintext, self.cipher.frame_len());
        Ok(written)
    }

    /// Seals frames from the start of `plaintext`, and removes them from it. Returns the number of bytes written.
    fn seal_frames(&mut self, frames: usize, plaintext: &mut &[u8], out: &mut [u8]) -> usize {
        let (regular, rest) = plaintext.split_at(frames * self.frame_len());
        *plaintext = rest;
        let first = self.sequence;
        // The caller has checked that it fits.
        self.sequence += u32::try_from(frames).unwrap_or(0);
        match &mut self.signer {
            None => self.cipher.seal_all(first, regular, out),
            Some(signer) => signer.seal_all(&self.cipher, first, regular, out),
        }
    }

    /// Returns the exact number of bytes that [`finish`](Self::finish) writes.
    pub fn finish_len(&self) -> usize {
        self.header.len() + self.held.len() + FINAL_FRAME_OVERHEAD + self.footer_len()
    }

    /// Ends the message: writes its final frame, and its signature if it has one, to the start of `out`. Returns the
    /// number of bytes written.
    ///
    /// # Errors
    /// Returns [`SealError::OutputTooShort`] if `out` is shorter than [`finish_len`](Self::finish_len) returns, and
    /// [`SealError::Random`] if the random number generator fails for a signature. The message then stays truncated:
    /// seal it again from the start.
    pub fn finish(mut self, out: &mut [u8]) -> Result<usize, SealError> {
        check_output_len(out.len(), self.finish_len())?;
        let written = self.write_header(out);
        let held = std::mem::take(&mut self.held);
        Ok(written + self.seal_end(&held, &mut out[written..])?)
    }

    /// Seals the final frame and signs. Returns the number of bytes written.
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

    /// Writes the header, unless it has been written. Returns the number of bytes written.
    fn write_header(&mut self, out: &mut [u8]) -> usize {
        let header = std::mem::take(&mut self.header);
        out[..header.len()].copy_from_slice(&header);
        header.len()
    }
}

/// The state of a message that is being sealed. `Finished` and `Failed` are final.
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

    /// Returns an error if the message accepts no more plaintext.
    pub(super) fn check_open(&mut self) -> Result<(), SealError> {
        self.sealer().map(drop)
    }

    /// Returns an error if the message has failed.
    pub(super) fn check_not_failed(&self) -> Result<(), SealError> {
        if let Self::Failed = self { Err(SealError::FailedBefore) } else { Ok(()) }
    }

    pub(super) fn fail(&mut self) {
        *self = Self::Failed;
    }

    /// Like [`Sealer::update`], but writes to a buffer that grows as needed.
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

    /// Like [`Sealer::finish`], but writes to a buffer that grows as needed. A second call has no effect.
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

/// Makes a buffer at least this long. If it is too short, its contents are lost.
pub(super) fn lengthen(buffer: &mut Vec<u8>, len: usize) {
    if buffer.len() < len {
        // The operating system provides a new allocation zeroed, so nothing is written to it here. The old one is freed
        // first, so that both are never held.
        *buffer = Vec::new();
        *buffer = vec![0; len];
    }
}

/// The lengths of a message that do not depend on its plaintext, in bytes.
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

/// Omits the buffered plaintext.
impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("frame_len", &self.frame_len())
            .field("sequence", &self.sequence)
            .field("held_len", &self.held.len())
            .finish_non_exhaustive()
    }
}

fn check_output_len(len: usize, needed: usize) -> Result<(), SealError> {
    if len < needed { Err(SealError::OutputTooShort { len, needed }) } else { Ok(()) }
}
