//! Frames, each by its position alone: no state, so they can be sealed and opened in any order, on any thread.

use std::num::NonZeroU32;

use super::Threads;
use crate::{
    crypto::AesGcm,
    error::{FormatError, OpenError},
    message::{FRAME_OVERHEAD, FrameHead, FrameLocation, MessageId, Parsed, body_aad},
};

/// Seals and opens single frames of one message, or its block.
#[derive(Debug)]
pub(crate) struct BodyCipher {
    pub(super) key: AesGcm,
    pub(super) message_id: MessageId,
}

impl BodyCipher {
    /// Writes the frame to the start of `out`, which has room for it, and gives its length in bytes.
    pub(crate) fn seal(&self, sequence: u32, is_final: bool, plaintext: &[u8], out: &mut [u8]) -> usize {
        let head = FrameHead::new(sequence, is_final, plaintext.len());
        let out = &mut out[..head.sealed_len()];
        head.write(out);
        let aad = body_aad(self.message_id.as_bytes(), &head);
        self.key.seal(&head.iv, aad.as_ref(), plaintext, &mut out[head.len()..]);
        out.len()
    }

    /// Writes the plaintext of a whole frame, whose head has been read, to the start of `out`, which has room for
    /// it, and gives its length in bytes. Where the frame does not authenticate, nothing of it is written.
    pub(crate) fn open(&self, head: &FrameHead, frame: &[u8], out: &mut [u8]) -> Result<usize, OpenError> {
        let out = &mut out[..head.content_len];
        let aad = body_aad(self.message_id.as_bytes(), head);
        self.key
            .open(&head.iv, aad.as_ref(), &frame[head.len()..], out)
            .map_err(|_| OpenError::FrameTag { sequence: head.sequence })?;
        Ok(out.len())
    }

    /// As [`open`](Self::open), in the memory of the frame: returns where in it the plaintext is. Where the frame does
    /// not authenticate, it is wiped.
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

    /// Seals and opens single frames.
    pub(crate) fn single(&self) -> &BodyCipher {
        &self.cipher
    }

    /// The plaintext bytes of a frame.
    pub(crate) fn frame_len(&self) -> usize {
        self.frame_len.get() as usize
    }

    pub(crate) fn frame_len_nonzero(&self) -> NonZeroU32 {
        self.frame_len
    }

    /// The bytes of a regular frame.
    pub(crate) fn sealed_frame_len(&self) -> usize {
        self.frame_len() + FRAME_OVERHEAD
    }

    pub(crate) fn threads(&self) -> &Threads {
        &self.threads
    }

    /// The head of the frame that is due, at the start of `bytes`: see [`FrameHead::parse`].
    pub(crate) fn head(&self, bytes: &[u8], due: u32) -> Result<Parsed<FrameHead>, FormatError> {
        FrameHead::parse(bytes, due, self.frame_len.get())
    }

    /// Seals whole regular frames, the first of which has the number `first`, to the start of `out`. Gives the
    /// number of bytes written.
    pub(crate) fn seal_all(&self, first: u32, plaintext: &[u8], out: &mut [u8]) -> usize {
        let len = plaintext.len() / self.frame_len() * self.sealed_frame_len();
        let input = (plaintext, self.frame_len());
        let Ok(()) = self.threads.each(input, (&mut out[..len], self.sealed_frame_len()), |index, plaintext, out| {
            self.cipher.seal(number(first, index), false, plaintext, out);
            Ok::<_, std::convert::Infallible>(())
        });
        len
    }

    /// How many bytes at the start of `sealed` are regular frames that follow each other from the number `first` on.
    pub(crate) fn regular_len(&self, first: u32, sealed: &[u8]) -> usize {
        let follows = |(index, frame): &(usize, &[u8])| {
            let head = self.head(frame, number(first, *index));
            matches!(head, Ok(Parsed::Complete(head)) if !head.is_last())
        };
        let frames = sealed.chunks_exact(self.sealed_frame_len()).enumerate().take_while(follows).count();
        frames * self.sealed_frame_len()
    }

    /// Opens [regular frames](Self::regular_len), and gives their number.
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

    /// Opens the frame that must be at this place to `out`, which has room for its plaintext exactly.
    pub(crate) fn open_at(&self, place: &FrameLocation, sealed: &[u8], out: &mut [u8]) -> Result<(), OpenError> {
        let truncated = || FormatError::Truncated(format!("frame {}", place.sequence).into());
        let Parsed::Complete(head) = self.head(sealed, place.sequence)? else { return Err(truncated().into()) };
        let len = place.plaintext.end - place.plaintext.start;
        if head.is_last() != place.is_final || head.content_len as u64 != len {
            return Err(FormatError::Misplaced { sequence: place.sequence }.into());
        }
        let frame = sealed.get(..head.sealed_len()).ok_or_else(truncated)?;
        self.cipher.open(&head, frame, out).map(drop)
    }

    /// Verifies that the frame is the one that must be at this place.
    pub(crate) fn prove(&self, place: &FrameLocation, sealed: &[u8]) -> Result<(), OpenError> {
        // What is there, if it is the frame at all, is longer than its plaintext.
        let len = usize::try_from(place.plaintext.end - place.plaintext.start).unwrap_or(usize::MAX).min(sealed.len());
        self.open_at(place, sealed, &mut vec![0; len])
    }
}

/// The number of the frame that is `index` after `first`. Those that a message can have do not wrap.
fn number(first: u32, index: usize) -> u32 {
    first.saturating_add(u32::try_from(index).unwrap_or(u32::MAX))
}
