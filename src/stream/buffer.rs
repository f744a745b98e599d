//! The parts that all readers and writers share: a sealer or an opener with buffers, so that each read, encryption and
//! write handles many frames.

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
    error::{OpenError, SealError, kind::is_transient},
    message::FRAME_OVERHEAD,
};

/// The default buffer length for each thread.
pub(super) const BATCH: usize = 1 << 20;

/// The maximum number of threads that the default buffer length takes into account: longer buffers are not faster.
const MAX_BATCHES: usize = 8;

/// The valid buffer lengths, in bytes.
pub(crate) const BUFFER_LENS: RangeInclusive<usize> = 4096..=1 << 30;

pub(crate) fn default_buffer_len(threads: &Threads) -> usize {
    BATCH * threads.count().min(MAX_BATCHES)
}

/// The number of bytes in the first read. It doubles each time a read fills the buffer.
const FIRST_READ: usize = 256 << 10;

/// Converts a length in bytes to a buffer length, if a buffer can be that long.
pub(crate) fn buffer_len(len: u64) -> Option<usize> {
    isize::try_from(len).ok().map(isize::unsigned_abs)
}

/// Appends bytes to a buffer that will hold at most `max` of them. The buffer's capacity grows fourfold up to `max`, so
/// that little is copied.
pub(super) fn extend_within(buffer: &mut Vec<u8>, bytes: &[u8], max: usize) {
    let len = buffer.len() + bytes.len();
    if len > buffer.capacity() {
        let capacity =
            if len > max / 2 { max } else { buffer.capacity().saturating_mul(4).max(FIRST_READ).min(max) }.max(len);
        buffer.reserve_exact(capacity - buffer.len());
    }
    buffer.extend_from_slice(bytes);
}

/// A buffer to read into. It grows with what arrives, up to `max` bytes.
struct InputBuffer {
    bytes: Vec<u8>,
    len: usize,
    max: usize,
}

impl InputBuffer {
    fn new(max: usize) -> Self {
        Self { bytes: Vec::new(), len: max.min(FIRST_READ), max }
    }

    /// Returns the first `len` bytes. `len` must not exceed the current length.
    fn get(&mut self, len: usize) -> &mut [u8] {
        lengthen(&mut self.bytes, len);
        &mut self.bytes[..len]
    }

    /// Grows if a read of `len` bytes has filled all of the `given` bytes.
    fn filled(&mut self, len: usize, given: usize) {
        if len == given {
            self.len = self.len.saturating_mul(2).min(self.max);
        }
    }
}

/// A sealer, and its output that has not been consumed yet.
pub(crate) struct SealBuffer {
    sealing: Sealing,
    layout: Layout,
    sealed: Vec<u8>,
    /// The part of `sealed` that has not been consumed.
    output: Range<usize>,
    /// The maximum number of plaintext bytes that are sealed in one call.
    batch_len: usize,
    /// The plaintext to seal next. Only readers use it.
    input: InputBuffer,
}

impl SealBuffer {
    /// Creates buffers of this length, or of one frame if that is longer.
    pub(crate) fn new(sealer: Sealer, len: usize) -> Self {
        let batch_len = (len / (sealer.frame_len() + FRAME_OVERHEAD)).max(1) * sealer.frame_len();
        Self {
            layout: sealer.layout(),
            sealing: Sealing::new(sealer),
            sealed: Vec::new(),
            output: 0..0,
            batch_len,
            input: InputBuffer::new(batch_len),
        }
    }

    /// Returns an error if the message accepts no more plaintext.
    pub(super) fn check_open(&mut self) -> Result<(), SealError> {
        self.sealing.check_open()
    }

    /// Returns the part of the message that must be consumed before more plaintext can be sealed.
    ///
    /// # Errors
    /// Returns an error if the message has failed.
    pub(super) fn output(&self) -> Result<&[u8], SealError> {
        self.sealing.check_not_failed()?;
        Ok(&self.sealed[self.output.clone()])
    }

    pub(super) fn consume(&mut self, len: usize) {
        self.output.start = self.output.start.saturating_add(len).min(self.output.end);
    }

    /// Seals the start of `plaintext`, and returns its length. The output must be empty.
    pub(super) fn seal(&mut self, plaintext: &[u8]) -> Result<usize, SealError> {
        debug_assert!(self.output.is_empty());
        let len = plaintext.len().min(self.batch_len);
        self.output = 0..self.sealing.update(&plaintext[..len], &mut self.sealed)?;
        Ok(len)
    }

    /// Returns the buffer to read plaintext into, for [`seal_input`](Self::seal_input).
    pub(super) fn input(&mut self) -> &mut [u8] {
        self.input.get(self.input.len)
    }

    /// Seals the `len` bytes that were read into [`input`](Self::input). 0 ends the message.
    pub(super) fn seal_input(&mut self, len: usize) -> Result<(), SealError> {
        if len == 0 {
            return self.finish();
        }
        debug_assert!(self.output.is_empty());
        self.output = 0..self.sealing.update(&self.input.bytes[..len], &mut self.sealed)?;
        self.input.filled(len, self.input.len);
        Ok(())
    }

    /// Returns whether the end of the message has been sealed.
    pub(super) fn is_finished(&self) -> bool {
        self.sealing.is_finished()
    }

    /// See [`Sealer::sealed_len`].
    pub(super) fn sealed_len(&self, plaintext_len: u64) -> Result<u64, SealError> {
        self.layout.sealed_len(plaintext_len)
    }

    /// Seals the end of the message. The output must be empty. A second call has no effect.
    pub(super) fn finish(&mut self) -> Result<(), SealError> {
        debug_assert!(self.output.is_empty());
        self.output = 0..self.sealing.finish(&mut self.sealed)?;
        Ok(())
    }

    /// Returns an error of the inner reader or writer. Unless it is [transient](is_transient), the message has failed.
    pub(super) fn failed(&mut self, error: io::Error) -> io::Error {
        if !is_transient(&error) {
            self.sealing.fail();
        }
        error
    }
}

/// Returns the length of a regular frame, or 1 for a non-framed body.
fn unit(opener: &Opener) -> usize {
    opener.cipher().map_or(1, FrameCipher::sealed_frame_len)
}

/// An opener, and its plaintext that has not been consumed yet.
pub(crate) struct OpenBuffer {
    opener: Opener,
    /// The part of the message to open next.
    input: InputBuffer,
    /// The length that [`input`](Self::input) returned last.
    input_len: usize,
    plaintext: Vec<u8>,
    /// The part of `plaintext` that has not been consumed.
    unread: Range<usize>,
    /// The offset in the message's plaintext up to which the opener has opened it.
    opened_to: u64,
    /// The number of plaintext bytes after that to discard, because a seek went into the middle of a frame.
    skip: u64,
    /// Whether both the message and its source have ended.
    is_finished: bool,
}

impl OpenBuffer {
    /// Creates buffers of this length, or of one frame if that is longer.
    pub(crate) fn new(opener: Opener, len: usize) -> Self {
        let unit = unit(&opener);
        Self {
            input: InputBuffer::new((len / unit).max(1) * unit),
            input_len: 0,
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

    /// Returns the authenticated plaintext that has not been consumed.
    ///
    /// # Errors
    /// Returns an error if the message or its source has failed.
    pub(super) fn unread(&self) -> Result<&[u8], OpenError> {
        self.opener.check_not_failed()?;
        Ok(&self.plaintext[self.unread.clone()])
    }

    /// Returns whether more of the message must be read before there is plaintext.
    pub(super) fn needs_more(&self) -> Result<bool, OpenError> {
        Ok(self.unread()?.is_empty() && !self.is_finished)
    }

    pub(super) fn consume(&mut self, len: usize) {
        self.unread.start = self.unread.start.saturating_add(len).min(self.unread.end);
    }

    /// Returns the buffer to read the next piece of the message into. If possible, its end is the end of a frame, so
    /// that few frames must be copied to be assembled.
    pub(super) fn input(&mut self) -> &mut [u8] {
        let unit = unit(&self.opener);
        // The opener may hold a part of a footer, which is not a multiple of a frame.
        let rest_of_unit = unit - self.opener.held_len() % unit;
        let units = self.input.len.saturating_sub(rest_of_unit) / unit;
        self.input_len = self.input.len.min(rest_of_unit + units * unit);
        self.input.get(self.input_len)
    }

    /// Opens the `len` bytes that were read into [`input`](Self::input). 0 means that the source has ended.
    pub(super) fn open(&mut self, len: usize) -> Result<(), OpenError> {
        debug_assert!(self.unread.is_empty());
        self.unread = 0..0;
        if len == 0 {
            self.opener.finish()?;
            self.is_finished = true;
            return Ok(());
        }
        lengthen(&mut self.plaintext, self.opener.update_len(len));
        let opened = self.opener.update(&self.input.bytes[..len], &mut self.plaintext)?;
        self.input.filled(len, self.input_len);
        self.opened_to += opened as u64;
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(opened);
        self.skip -= skipped as u64;
        self.unread = skipped..opened;
        Ok(())
    }

    /// Returns the offset in the plaintext of the next byte to read.
    pub(super) fn position(&self) -> u64 {
        self.opened_to + self.skip - self.unread.len() as u64
    }

    /// Continues with the frame `sequence`, whose plaintext starts at `start`, at the plaintext offset `target`.
    pub(super) fn restart(&mut self, sequence: u32, start: u64, target: u64) -> Result<(), OpenError> {
        self.opener.restart(sequence)?;
        (self.unread, self.opened_to, self.skip, self.is_finished) = (0..0, start, target - start, false);
        Ok(())
    }

    /// Returns an error of the inner reader. Unless it is [transient](is_transient), the message has failed.
    pub(super) fn failed(&mut self, error: io::Error) -> io::Error {
        if !is_transient(&error) {
            self.opener.fail();
        }
        error
    }
}

impl fmt::Debug for SealBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealBuffer")
            .field("sealing", &self.sealing)
            .field("output", &self.output)
            .finish_non_exhaustive()
    }
}

/// Omits the plaintext.
impl fmt::Debug for OpenBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenBuffer").field("opener", &self.opener).field("unread", &self.unread).finish_non_exhaustive()
    }
}

/// Implements `Debug` without the inner reader, writer or stream, which might print the data that it holds.
macro_rules! debug_without_inner {
    ($($outer:ident<$inner:ident>: $field:ident),+ $(,)?) => {$(
        impl<$inner> std::fmt::Debug for $outer<$inner> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($outer)).field(stringify!($field), &self.$field).finish_non_exhaustive()
            }
        }
    )+};
}
pub(super) use debug_without_inner;
