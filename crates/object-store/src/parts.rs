//! From plaintext to the parts of a sealed object, without I/O.

use bytes::Bytes;
use kms_envelope::{SealError, stream::Sealer};

/// The maximum number of plaintext bytes that are sealed at once.
pub(crate) const SEAL_BATCH: usize = 1 << 20;

/// Seals an object and divides it into parts of equal length.
#[derive(Debug)]
pub(crate) struct Parts {
    /// `None` once the object is complete.
    sealer: Option<Sealer>,
    part_len: usize,
    part: Vec<u8>,
}

impl Parts {
    pub(crate) fn new(sealer: Sealer, part_len: usize) -> Self {
        Self { sealer: Some(sealer), part_len, part: Vec::new() }
    }

    /// Seals the next bytes of the plaintext, at most [`SEAL_BATCH`]. Take all [complete](Self::next) parts before.
    pub(crate) fn push(&mut self, plaintext: &[u8]) -> Result<(), SealError> {
        let Some(sealer) = &mut self.sealer else { return Err(SealError::Finished) };
        let start = self.part.len();
        let len = sealer.update_len(plaintext.len())?;
        if self.part.capacity() == 0 {
            self.part.reserve_exact(self.part_len.saturating_add(len));
        }
        self.part.resize(start + len, 0);
        let written = sealer.update(plaintext, &mut self.part[start..])?;
        self.part.truncate(start + written);
        Ok(())
    }

    /// Returns whether the end of the object has been sealed.
    pub(crate) fn is_finished(&self) -> bool {
        self.sealer.is_none()
    }

    /// Seals the end of the object.
    pub(crate) fn finish(&mut self) -> Result<(), SealError> {
        let sealer = self.sealer.take().ok_or(SealError::Finished)?;
        let start = self.part.len();
        self.part.resize(start + sealer.finish_len(), 0);
        let written = sealer.finish(&mut self.part[start..])?;
        self.part.truncate(start + written);
        Ok(())
    }

    /// Returns whether a part is complete.
    pub(crate) fn has_next(&self) -> bool {
        self.part.len() >= self.part_len || (self.sealer.is_none() && !self.part.is_empty())
    }

    /// Returns the next part that is complete. After [`finish`](Self::finish), the last one may be shorter.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        if self.part.len() > self.part_len {
            let mut next = Vec::with_capacity(self.part_len.saturating_add(SEAL_BATCH));
            next.extend_from_slice(&self.part[self.part_len..]);
            self.part.truncate(self.part_len);
            return Some(std::mem::replace(&mut self.part, next).into());
        }
        self.has_next().then(|| std::mem::take(&mut self.part).into())
    }
}
