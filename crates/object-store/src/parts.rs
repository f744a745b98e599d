//! From plaintext to the parts of a sealed object, without I/O.

use std::collections::VecDeque;

use bytes::Bytes;
use kms_envelope::{SealError, stream::Sealer};

/// The maximum number of plaintext bytes that are sealed at once.
pub(crate) const SEAL_BATCH: usize = 1 << 20;

/// The length of the buffers for short batches.
const BUFFER: usize = 1 << 20;

/// Seals an object and divides it into parts of equal length.
///
/// A part consists of several buffers. Allocators reuse them better than one of its length, and no bytes are copied
/// where a part ends.
#[derive(Debug)]
pub(crate) struct Parts {
    /// `None` once the object is complete.
    sealer: Option<Sealer>,
    part_len: usize,
    /// The buffers that are complete.
    buffers: VecDeque<Bytes>,
    buffer: Vec<u8>,
    /// The number of bytes in all buffers.
    len: usize,
}

impl Parts {
    pub(crate) fn new(sealer: Sealer, part_len: usize) -> Self {
        Self { sealer: Some(sealer), part_len, buffers: VecDeque::new(), buffer: Vec::new(), len: 0 }
    }

    /// Seals the next bytes of the plaintext, at most [`SEAL_BATCH`]. Take all [complete](Self::next) parts before.
    pub(crate) fn push(&mut self, plaintext: &[u8]) -> Result<(), SealError> {
        let len = self.sealer.as_ref().ok_or(SealError::Finished)?.update_len(plaintext.len())?;
        self.append(len, |sealer, out| sealer.as_mut().ok_or(SealError::Finished)?.update(plaintext, out))
    }

    /// Returns whether the end of the object has been sealed.
    pub(crate) fn is_finished(&self) -> bool {
        self.sealer.is_none()
    }

    /// Seals the end of the object.
    pub(crate) fn finish(&mut self) -> Result<(), SealError> {
        let len = self.sealer.as_ref().ok_or(SealError::Finished)?.finish_len();
        self.append(len, |sealer, out| sealer.take().ok_or(SealError::Finished)?.finish(out))
    }

    /// Adds `len` bytes, which `seal` writes.
    fn append(
        &mut self,
        len: usize,
        seal: impl FnOnce(&mut Option<Sealer>, &mut [u8]) -> Result<usize, SealError>,
    ) -> Result<(), SealError> {
        if self.buffer.capacity() - self.buffer.len() < len {
            self.end_buffer();
            self.buffer.reserve_exact(if len < BUFFER / 4 { BUFFER.min(self.part_len).max(len) } else { len });
        }
        let start = self.buffer.len();
        self.buffer.resize(start + len, 0);
        self.len += seal(&mut self.sealer, &mut self.buffer[start..])?;
        Ok(())
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        (self.sealer, self.buffers, self.buffer, self.len) = (None, VecDeque::new(), Vec::new(), 0);
    }

    fn end_buffer(&mut self) {
        if !self.buffer.is_empty() {
            self.buffers.push_back(std::mem::take(&mut self.buffer).into());
        }
    }

    /// Returns whether a part is complete.
    pub(crate) fn has_next(&self) -> bool {
        self.len >= self.part_len || (self.is_finished() && self.len > 0)
    }

    /// Returns the next part that is complete. After [`finish`](Self::finish), the last one may be shorter.
    pub(crate) fn next(&mut self) -> Option<Vec<Bytes>> {
        if !self.has_next() {
            return None;
        }
        self.end_buffer();
        let mut missing = self.part_len.min(self.len);
        self.len -= missing;
        let mut part = Vec::new();
        while missing > 0
            && let Some(buffer) = self.buffers.front_mut()
        {
            let piece = buffer.split_to(buffer.len().min(missing));
            missing -= piece.len();
            if buffer.is_empty() {
                self.buffers.pop_front();
            }
            part.push(piece);
        }
        Some(part)
    }
}
