//! A stateless cipher for single frames, which can be sealed and opened in any order and on any thread.

use std::num::NonZeroU32;

use super::Threads;
use crate::{
    crypto::AesGcm,
    error::{FormatError, OpenError},
    message::{FRAME_OVERHEAD, FrameHead, FrameLocation, MessageId, Parsed, body_aad},
};

/// Seals and opens single frames of one message, or its non-framed body.
#[derive(Debug)]
pub(crate) struct BodyCipher {
    pub(super) key: AesGcm,
    pub(super) message_id: MessageId,
}

impl BodyCipher {
    /// Writes the frame to the start of `out`, which must be long enough, and returns its length in bytes.
    pub(crate) fn seal(&self, sequence: u32, is_final: bool, plaintext: &[u8], out: &mut [u8]) -> usize {
        let head = FrameHead::new(sequence, is_final, plaintext.len());
        let out = &mut out[..head.sealed_len()];
        head.write(out);
        let aad = body_aad(self.message_id.as_bytes(), &head);
        self.key.seal(&head.iv, aad.as_ref(), plaintext, &mut out[head.len()..]);
        out.len()
    }

    /// Writes the plaintext of a complete frame with the head `head` to the start of `out`, which must be long enough,
    /// and returns its length in bytes. If authentication fails, no plaintext is written.
    pub(crate) fn open(&self, head: &FrameHead, frame: &[u8], out: &mut [u8]) -> Result<usize, OpenError> {
        let out = &mut out[..head.content_len];
        let aad = body_aad(self.message_id.as_bytes(), head);
        self.key
            .open(&head.iv, aad.as_ref(), &frame[head.len()..], out)
            .map_err(|_| OpenError::FrameTag { sequence: head.sequence })?;
        Ok(out.len())
    }

    /// Like [`open`](Self::open), but decrypts in the memory of the frame, and returns the range of the plaintext in
    /// it. If authentication fails, the frame is zeroized.
    #[cfg(feature = "stream")]
    pub(crate) fn open_in_place(
        &self,
        head: &FrameHead,
        frame: &mut [u8],
    ) -> Result<std::ops::Range<usize>, OpenError> {
        let aad = body_aad(self.message_id.as_bytes(), head);
        self.key
            .open_in_place(&head.iv, aad.as_ref(), &mut frame[head.len()..])
            .map_err(|_| OpenError::FrameTag { sequence: head.sequence })?;
        Ok(head.len()..head.len() + head.content_len)
    }
}

/// Seals and opens the frames of one message.
#[derive(Debug)]
pub(crate) struct FrameCipher {
    cipher: BodyCipher,
    frame_len: NonZeroU32,
    threads: Threads,
}

impl FrameCipher {
    pub(crate) fn new(cipher: BodyCipher, frame_len: NonZeroU32, threads: Threads) -> Self {
        Self { cipher, frame_len, threads }
    }

    /// Returns the cipher for single frames.
    pub(crate) fn single(&self) -> &BodyCipher {
        &self.cipher
    }

    /// Returns the number of plaintext bytes in a regular frame.
    pub(crate) fn frame_len(&self) -> usize {
        self.frame_len.get() as usize
    }

    pub(crate) fn frame_len_nonzero(&self) -> NonZeroU32 {
        self.frame_len
    }

    /// Returns the length of a regular frame in the message.
    pub(crate) fn sealed_frame_len(&self) -> usize {
        self.frame_len() + FRAME_OVERHEAD
    }

    pub(crate) fn threads(&self) -> &Threads {
        &self.threads
    }

    /// Parses the head of the frame with the sequence number `due` at the start of `bytes`: see [`FrameHead::parse`].
    pub(crate) fn head(&self, bytes: &[u8], due: u32) -> Result<Parsed<FrameHead>, FormatError> {
        FrameHead::parse(bytes, due, self.frame_len.get())
    }

    /// Seals regular frames with sequence numbers from `first` to the start of `out`, and returns the number of bytes
    /// written. `plaintext` must consist of complete frames.
    pub(crate) fn seal_all(&self, first: u32, plaintext: &[u8], out: &mut [u8]) -> usize {
        let len = plaintext.len() / self.frame_len() * self.sealed_frame_len();
        let input = (plaintext, self.frame_len());
        let Ok(()) = self.threads.each(input, (&mut out[..len], self.sealed_frame_len()), |index, plaintext, out| {
            self.cipher.seal(number(first, index), false, plaintext, out);
            Ok::<_, std::convert::Infallible>(())
        });
        len
    }

    /// Returns the length of the complete regular frames at the start of `sealed`, with sequence numbers from `first`.
    pub(crate) fn regular_len(&self, first: u32, sealed: &[u8]) -> usize {
        let follows = |(index, frame): &(usize, &[u8])| {
            let head = self.head(frame, number(first, *index));
            matches!(head, Ok(Parsed::Complete(head)) if !head.is_last())
        };
        let frames = sealed.chunks_exact(self.sealed_frame_len()).enumerate().take_while(follows).count();
        frames * self.sealed_frame_len()
    }

    /// Opens [regular frames](Self::regular_len), and returns their number.
    pub(crate) fn open_all(&self, first: u32, sealed: &[u8], out: &mut [u8]) -> Result<usize, OpenError> {
        let frames = sealed.len() / self.sealed_frame_len();
        let out = (&mut out[..frames * self.frame_len()], self.frame_len());
        self.threads.each((sealed, self.sealed_frame_len()), out, |index, frame, out| {
            match self.head(frame, number(first, index))? {
                Parsed::Complete(head) => self.cipher.open(&head, frame, out).map(drop),
                Parsed::Incomplete { .. } => Err(OpenError::FrameTag { sequence: number(first, index) }),
            }
        })?;
        Ok(frames)
    }

    /// Opens the frame that must be at this location to `out`, which must have exactly the length of its plaintext.
    pub(crate) fn open_at(&self, location: &FrameLocation, sealed: &[u8], out: &mut [u8]) -> Result<(), OpenError> {
        let truncated = || FormatError::Truncated(format!("frame {}", location.sequence).into());
        let Parsed::Complete(head) = self.head(sealed, location.sequence)? else { return Err(truncated().into()) };
        let len = location.plaintext.end - location.plaintext.start;
        if head.is_last() != location.is_final || head.content_len as u64 != len {
            return Err(FormatError::Misplaced { sequence: location.sequence }.into());
        }
        let frame = sealed.get(..head.sealed_len()).ok_or_else(truncated)?;
        self.cipher.open(&head, frame, out).map(drop)
    }

    /// Verifies that the frame is the one that must be at this location.
    pub(crate) fn prove(&self, location: &FrameLocation, sealed: &[u8]) -> Result<(), OpenError> {
        // A frame is longer than its plaintext, so `sealed` bounds the allocation.
        let len =
            usize::try_from(location.plaintext.end - location.plaintext.start).unwrap_or(usize::MAX).min(sealed.len());
        self.open_at(location, sealed, &mut vec![0; len])
    }
}

/// Returns the sequence number of the frame `index` frames after `first`. It never saturates for a valid message.
fn number(first: u32, index: usize) -> u32 {
    first.saturating_add(u32::try_from(index).unwrap_or(u32::MAX))
}
