//! What the shells have in common: a sealer or an opener with buffers, so that each read, each encryption and each
//! write works on many frames; and which errors end a message.

use std::{
    fmt, io,
    ops::{Range, RangeInclusive},
};

use super::{
    Opener, Sealer, Threads,
    frame_cipher::FrameCipher,
    sealer::{Layout, Sealing, lengthen},
};
use crate::{
    error::{OpenError, SealError, kind::may_pass},
    message::FRAME_OVERHEAD,
};

/// The length of a buffer for each thread, unless set.
pub(super) const BATCH: usize = 1 << 20;

/// For how many threads, however many there are: more memory would not make them faster.
const MAX_BATCHES: usize = 8;

/// The lengths in bytes that can be set for buffers.
pub(crate) const BUFFER_LENS: RangeInclusive<usize> = 4096..=1 << 30;

pub(crate) fn default_buffer_len(threads: &Threads) -> usize {
    BATCH * threads.count().min(MAX_BATCHES)
}

/// How many bytes are read at first. Memory then doubles while reads fill it.
const FIRST_READ: usize = 256 << 10;

/// A length in bytes as that of a buffer, if one can be so long.
pub(crate) fn buffer_len(len: u64) -> Option<usize> {
    isize::try_from(len).ok().map(isize::unsigned_abs)
}

/// Appends bytes to a buffer that will have `max` of them at most: beyond the first, its memory grows fourfold, up to
/// that, so that little is copied on the way.
pub(super) fn extend_within(buffer: &mut Vec<u8>, bytes: &[u8], max: usize) {
    let len = buffer.len() + bytes.len();
    if len > buffer.capacity() {
        let capacity =
            if len > max / 2 { max } else { buffer.capacity().saturating_mul(4).max(FIRST_READ).min(max) }.max(len);
        buffer.reserve_exact(capacity - buffer.len());
    }
    buffer.extend_from_slice(bytes);
}

/// Memory that is read to. It grows with what arrives, up to a limit.
struct Space {
    bytes: Vec<u8>,
    len: usize,
    max: usize,
}

impl Space {
    fn new(max: usize) -> Self {
        Self { bytes: Vec::new(), len: max.min(FIRST_READ), max }
    }

    /// So many bytes, which are no more than its length.
    fn get(&mut self, len: usize) -> &mut [u8] {
        lengthen(&mut self.bytes, len);
        &mut self.bytes[..len]
    }

    /// Grows where a read has left no room.
    fn filled(&mut self, len: usize, room: usize) {
        if len == room {
            self.len = self.len.saturating_mul(2).min(self.max);
        }
    }
}

/// A sealer, and what it has written but nobody has taken yet.
pub(crate) struct SealBuffer {
    sealing: Sealing,
    layout: Layout,
    sealed: Vec<u8>,
    untaken: Range<usize>,
    /// The most plaintext that is taken at once.
    batch_len: usize,
    /// Plaintext to be sealed, for shells that read it.
    space: Space,
}

impl SealBuffer {
    /// Buffers of this length, or one frame where that is longer.
    pub(crate) fn new(sealer: Sealer, len: usize) -> Self {
        let batch_len = (len / (sealer.frame_len() + FRAME_OVERHEAD)).max(1) * sealer.frame_len();
        Self {
            layout: sealer.layout(),
            sealing: Sealing::new(sealer),
            sealed: Vec::new(),
            untaken: 0..0,
            batch_len,
            space: Space::new(batch_len),
        }
    }

    /// An error where the message takes no more plaintext.
    pub(super) fn check_open(&mut self) -> Result<(), SealError> {
        self.sealing.check_open()
    }

    /// The part of the message that is to be taken before more plaintext can be sealed.
    ///
    /// # Errors
    /// Where the message has failed.
    pub(super) fn untaken(&self) -> Result<&[u8], SealError> {
        self.sealing.check_not_failed()?;
        Ok(&self.sealed[self.untaken.clone()])
    }

    pub(super) fn take(&mut self, len: usize) {
        self.untaken.start = self.untaken.start.saturating_add(len).min(self.untaken.end);
    }

    /// Seals the start of `plaintext` and says how much that is. Everything sealed must have been taken before.
    pub(super) fn seal(&mut self, plaintext: &[u8]) -> Result<usize, SealError> {
        debug_assert!(self.untaken.is_empty());
        let len = plaintext.len().min(self.batch_len);
        self.untaken = 0..self.sealing.update(&plaintext[..len], &mut self.sealed)?;
        Ok(len)
    }

    /// Where plaintext can be read to, for [`seal_space`](Self::seal_space).
    pub(super) fn space(&mut self) -> &mut [u8] {
        self.space.get(self.space.len)
    }

    /// Seals what was read to the [space](Self::space). Nothing read means that there is no more.
    pub(super) fn seal_space(&mut self, len: usize) -> Result<(), SealError> {
        if len == 0 {
            return self.finish();
        }
        debug_assert!(self.untaken.is_empty());
        self.untaken = 0..self.sealing.update(&self.space.bytes[..len], &mut self.sealed)?;
        self.space.filled(len, self.space.len);
        Ok(())
    }

    /// Whether the end of the message has been sealed.
    pub(super) fn is_finished(&self) -> bool {
        self.sealing.is_finished()
    }

    /// See [`Sealer::sealed_len`].
    pub(super) fn sealed_len(&self, plaintext_len: u64) -> Result<u64, SealError> {
        self.layout.sealed_len(plaintext_len)
    }

    /// Seals the end of the message. Everything sealed must have been taken before. Has no effect the second time.
    pub(super) fn finish(&mut self) -> Result<(), SealError> {
        debug_assert!(self.untaken.is_empty());
        self.untaken = 0..self.sealing.finish(&mut self.sealed)?;
        Ok(())
    }

    /// Passes an error of the reader or writer inside on. Unless it [may pass](may_pass), the message has failed.
    pub(super) fn failed(&mut self, error: io::Error) -> io::Error {
        if !may_pass(&error) {
            self.sealing.fail();
        }
        error
    }
}

/// The length of a regular frame. A body without frames is read in any length.
fn unit(opener: &Opener) -> usize {
    opener.cipher().map_or(1, FrameCipher::sealed_frame_len)
}

/// An opener, and the plaintext that nobody has read yet.
pub(crate) struct OpenBuffer {
    opener: Opener,
    /// What is read of the message.
    space: Space,
    /// How much of it was given out last.
    room: usize,
    plaintext: Vec<u8>,
    unread: Range<usize>,
    /// How far into the whole plaintext the opener has come.
    opened_to: u64,
    /// How many bytes after that are not wanted.
    skip: u64,
    /// Whether the message has ended, and its source too.
    is_finished: bool,
}

impl OpenBuffer {
    /// Buffers of this length, or one frame where that is longer.
    pub(crate) fn new(opener: Opener, len: usize) -> Self {
        let unit = unit(&opener);
        Self {
            space: Space::new((len / unit).max(1) * unit),
            room: 0,
            plaintext: Vec::new(),
            unread: 0..0,
            opened_to: 0,
            skip: 0,
            is_finished: false,
            opener,
        }
    }

    pub(super) fn opener(&self) -> &Opener {
        &self.opener
    }

    /// Verified plaintext.
    ///
    /// # Errors
    /// Where the message, or its source, has failed.
    pub(super) fn unread(&self) -> Result<&[u8], OpenError> {
        self.opener.check_not_failed()?;
        Ok(&self.plaintext[self.unread.clone()])
    }

    /// Whether there is nothing to be read before more of the message is there.
    pub(super) fn needs_more(&self) -> Result<bool, OpenError> {
        Ok(self.unread()?.is_empty() && !self.is_finished)
    }

    pub(super) fn consume(&mut self, len: usize) {
        self.unread.start = self.unread.start.saturating_add(len).min(self.unread.end);
    }

    /// Where the next piece of the message is to be read to. If it is filled, it ends with a frame's end where one is
    /// in reach, so that few frames are copied to be put together.
    pub(super) fn space(&mut self) -> &mut [u8] {
        let unit = unit(&self.opener);
        // A footer is held in any length.
        let rest_of_unit = unit - self.opener.held_len() % unit;
        let units = self.space.len.saturating_sub(rest_of_unit) / unit;
        self.room = self.space.len.min(rest_of_unit + units * unit);
        self.space.get(self.room)
    }

    /// Opens what was read to the [space](Self::space). Nothing read means that there is no more.
    pub(super) fn open(&mut self, len: usize) -> Result<(), OpenError> {
        debug_assert!(self.unread.is_empty());
        self.unread = 0..0;
        if len == 0 {
            self.opener.finish()?;
            self.is_finished = true;
            return Ok(());
        }
        lengthen(&mut self.plaintext, self.opener.update_len(len));
        let opened = self.opener.update(&self.space.bytes[..len], &mut self.plaintext)?;
        self.space.filled(len, self.room);
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
        (self.unread, self.opened_to, self.skip, self.is_finished) = (0..0, start, target - start, false);
        Ok(())
    }

    /// Passes an error of the reader inside on. Unless it [may pass](may_pass), the message has failed.
    pub(super) fn failed(&mut self, error: io::Error) -> io::Error {
        if !may_pass(&error) {
            self.opener.fail();
        }
        error
    }
}

impl fmt::Debug for SealBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealBuffer")
            .field("sealing", &self.sealing)
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

/// The Debug of a shell, without the reader, writer or stream inside, which may print what it holds.
macro_rules! debug_without_inner {
    ($($shell:ident<$inner:ident>: $field:ident),+ $(,)?) => {$(
        impl<$inner> std::fmt::Debug for $shell<$inner> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($shell)).field(stringify!($field), &self.$field).finish_non_exhaustive()
            }
        }
    )+};
}
pub(super) use debug_without_inner;
