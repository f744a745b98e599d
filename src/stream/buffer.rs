//! What the shells have in common: a sealer or an opener with buffers of about a megabyte, so that each read, each
//! encryption and each write works on many frames.

use std::{fmt, ops::Range};

use super::{Opener, Sealer};
use crate::{
    error::{OpenError, SealError},
    message::{FINAL_FRAME_OVERHEAD, FRAME_OVERHEAD},
};

/// How many bytes the buffers have, where a frame is not longer.
const BATCH: usize = 1 << 20;

/// The bytes of as many whole frames as a batch has, at least one.
fn frames_in_batch(sealed_frame_len: usize) -> usize {
    (BATCH / sealed_frame_len).max(1)
}

/// A sealer, and what it has written but nobody has taken yet.
pub(super) struct SealBuffer {
    /// None once it is finished.
    sealer: Option<Sealer>,
    sealed: Vec<u8>,
    untaken: Range<usize>,
    /// The most plaintext that is taken at once.
    batch_len: usize,
}

impl SealBuffer {
    pub(super) fn new(sealer: Sealer) -> Self {
        let sealed_frame_len = sealer.frame_len() + FRAME_OVERHEAD;
        let frames = frames_in_batch(sealed_frame_len);
        // With the plaintext held, a batch completes as many frames as it has; and the final frame is one more.
        let len = sealer.header_len() + frames * sealed_frame_len + FINAL_FRAME_OVERHEAD;
        Self { batch_len: frames * sealer.frame_len(), sealer: Some(sealer), sealed: vec![0; len], untaken: 0..0 }
    }

    /// The part of the message that is to be taken before more plaintext can be sealed.
    pub(super) fn untaken(&self) -> &[u8] {
        &self.sealed[self.untaken.clone()]
    }

    pub(super) fn take(&mut self, len: usize) {
        self.untaken.start += len;
    }

    /// Seals the start of `plaintext` and says how much that is. Everything sealed must have been taken before.
    pub(super) fn seal(&mut self, plaintext: &[u8]) -> Result<usize, SealError> {
        debug_assert!(self.untaken.is_empty());
        let len = plaintext.len().min(self.batch_len);
        if let Some(sealer) = &mut self.sealer {
            self.untaken = 0..sealer.update(&plaintext[..len], &mut self.sealed)?;
        }
        Ok(len)
    }

    /// Seals the end of the message. Everything sealed must have been taken before. Has no effect the second time.
    pub(super) fn finish(&mut self) -> Result<(), SealError> {
        debug_assert!(self.untaken.is_empty());
        if let Some(sealer) = self.sealer.take() {
            self.untaken = 0..sealer.finish(&mut self.sealed)?;
        }
        Ok(())
    }
}

/// An opener, and the plaintext that nobody has read yet.
pub(super) struct OpenBuffer {
    opener: Opener,
    sealed: Vec<u8>,
    plaintext: Vec<u8>,
    unread: Range<usize>,
}

impl OpenBuffer {
    pub(super) fn new(opener: Opener) -> Self {
        let frames = frames_in_batch(opener.frame_len() + FRAME_OVERHEAD);
        let sealed = vec![0; frames * (opener.frame_len() + FRAME_OVERHEAD)];
        let plaintext = vec![0; frames * opener.frame_len()];
        Self { opener, sealed, plaintext, unread: 0..0 }
    }

    pub(super) fn opener(&self) -> &Opener {
        &self.opener
    }

    /// Verified plaintext.
    pub(super) fn unread(&self) -> &[u8] {
        &self.plaintext[self.unread.clone()]
    }

    pub(super) fn consume(&mut self, len: usize) {
        self.unread.start = (self.unread.start + len).min(self.unread.end);
    }

    /// Where the next piece of the message is to be read to. If it is filled, it ends with a frame's end, so that
    /// no frame is ever copied to be put together.
    pub(super) fn space(&mut self) -> &mut [u8] {
        let len = self.sealed.len() - self.opener.held_len();
        &mut self.sealed[..len]
    }

    /// Opens what was read to the [space](Self::space). Nothing read means that there is no more.
    pub(super) fn open(&mut self, len: usize) -> Result<(), OpenError> {
        debug_assert!(self.unread.is_empty());
        self.unread = 0..0;
        if len == 0 {
            return self.opener.finish();
        }
        self.unread = 0..self.opener.update(&self.sealed[..len], &mut self.plaintext)?;
        Ok(())
    }
}

impl fmt::Debug for SealBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealBuffer")
            .field("sealer", &self.sealer)
            .field("untaken", &self.untaken)
            .finish_non_exhaustive()
    }
}

/// Without the plaintext.
impl fmt::Debug for OpenBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenBuffer").field("opener", &self.opener).field("unread", &self.unread).finish_non_exhaustive()
    }
}
