//! What the shells have in common: a sealer or an opener with buffers of about a megabyte, so that each read, each
//! encryption and each write works on many frames.

use std::{fmt, ops::Range};

use super::{Opener, Sealer, Threads};
use crate::{
    error::{OpenError, SealError},
    message::{FINAL_FRAME_OVERHEAD, FRAME_OVERHEAD},
};

/// How many bytes the buffers have, where a frame is not longer.
const BATCH: usize = 1 << 20;

/// How many whole frames a batch has, at least one, and a batch for each thread.
fn frames_in_batch(sealed_frame_len: usize, threads: &Threads) -> usize {
    (BATCH / sealed_frame_len).max(1) * threads.count()
}

/// A sealer, and what it has written but nobody has taken yet.
pub(super) struct SealBuffer {
    /// None once it is finished.
    sealer: Option<Sealer>,
    sealed: Vec<u8>,
    untaken: Range<usize>,
    /// The most plaintext that is taken at once.
    batch_len: usize,
    /// Plaintext to be sealed, for those who pull.
    space: Vec<u8>,
}

impl SealBuffer {
    pub(super) fn new(sealer: Sealer) -> Self {
        let sealed_frame_len = sealer.frame_len() + FRAME_OVERHEAD;
        let frames = frames_in_batch(sealed_frame_len, sealer.threads());
        // With the plaintext held, a batch completes as many frames as it has; and the final frame is one more.
        let len = sealer.header_len() + frames * sealed_frame_len + FINAL_FRAME_OVERHEAD;
        let batch_len = frames * sealer.frame_len();
        Self { sealer: Some(sealer), sealed: vec![0; len], untaken: 0..0, batch_len, space: Vec::new() }
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

    /// Where plaintext can be read to, for [`seal_space`](Self::seal_space).
    pub(super) fn space(&mut self) -> &mut [u8] {
        self.space.resize(self.batch_len, 0);
        &mut self.space
    }

    /// Seals what was read to the [space](Self::space). Nothing read means that there is no more.
    pub(super) fn seal_space(&mut self, len: usize) -> Result<(), SealError> {
        if len == 0 {
            return self.finish();
        }
        let space = std::mem::take(&mut self.space);
        let sealed = self.seal(&space[..len]).map(drop);
        self.space = space;
        sealed
    }

    /// Whether the end of the message has been sealed.
    pub(super) fn is_finished(&self) -> bool {
        self.sealer.is_none()
    }

    /// See [`Sealer::sealed_len`]. Of a message that is finished, nothing more is known.
    pub(super) fn sealed_len(&self, plaintext_len: u64) -> Result<u64, SealError> {
        self.sealer.as_ref().map_or(Ok(0), |sealer| sealer.sealed_len(plaintext_len))
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
    /// How far into the whole plaintext the opener has come.
    opened_to: u64,
    /// How many bytes after that are not wanted.
    skip: u64,
}

impl OpenBuffer {
    pub(super) fn new(opener: Opener) -> Self {
        let frames = frames_in_batch(opener.frame_len() + FRAME_OVERHEAD, opener.threads());
        let sealed = vec![0; frames * (opener.frame_len() + FRAME_OVERHEAD)];
        let plaintext = vec![0; frames * opener.frame_len()];
        Self { opener, sealed, plaintext, unread: 0..0, opened_to: 0, skip: 0 }
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
        // A body without frames, and a footer, are held in any length.
        let len = self.sealed.len() - self.opener.held_len() % self.sealed.len();
        &mut self.sealed[..len]
    }

    /// Opens what was read to the [space](Self::space). Nothing read means that there is no more.
    pub(super) fn open(&mut self, len: usize) -> Result<(), OpenError> {
        debug_assert!(self.unread.is_empty());
        self.unread = 0..0;
        if len == 0 {
            return self.opener.finish();
        }
        // More than a batch where a final frame was kept back, or the message has no frames.
        let needed = self.opener.update_len(len);
        if needed > self.plaintext.len() {
            self.plaintext.resize(needed, 0);
        }
        let opened = self.opener.update(&self.sealed[..len], &mut self.plaintext)?;
        self.opened_to += opened as u64;
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(opened);
        self.skip -= skipped as u64;
        self.unread = skipped..opened;
        Ok(())
    }

    /// The place in the plaintext that is read next.
    pub(super) fn position(&self) -> u64 {
        self.opened_to + self.skip - self.unread.len() as u64
    }

    /// Goes on with the frame of this number, whose plaintext begins at `start`, and in it with `target`.
    pub(super) fn restart(&mut self, sequence: u32, start: u64, target: u64) -> Result<(), OpenError> {
        self.opener.restart(sequence)?;
        (self.unread, self.opened_to, self.skip) = (0..0, start, target - start);
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
