//! From pieces of a sealed object to pieces of its plaintext, without I/O.

use std::{ops::Range, sync::Arc};

use bytes::{Buf, Bytes};
use kms_envelope::{OpenError, message::FrameLocation};

use crate::objects::Object;

/// Opens the frames of a range of the plaintext. If the range ends at the end of the plaintext, also verifies the end of
/// the object.
#[derive(Debug)]
pub(crate) struct Frames {
    object: Arc<Object>,
    /// The part of the range that has not been returned.
    range: Range<u64>,
    /// Whether the final frame is empty, and has to be verified at the end.
    proves_end: bool,
    /// The offset in the object of the first byte of `begun` or, if that is empty, of `piece`.
    offset: u64,
    /// The start of a frame that came in an earlier piece.
    begun: Vec<u8>,
    piece: Bytes,
}

impl Frames {
    /// `offset` is where the pieces start in the object. It must not be after the first frame of the range.
    pub(crate) fn new(object: Arc<Object>, range: Range<u64>, offset: u64) -> Self {
        let proves_end = range.end == object.plaintext_len() && object.opener.final_frame().plaintext.is_empty();
        Self { object, range, proves_end, offset, begun: Vec::new(), piece: Bytes::new() }
    }

    pub(crate) fn object(&self) -> &Object {
        &self.object
    }

    /// Passes the next bytes of the object. The plaintext of earlier ones must have been taken with [`next`](Self::next).
    pub(crate) fn push(&mut self, piece: Bytes) {
        debug_assert!(self.piece.is_empty());
        self.piece = piece;
    }

    /// Returns the next bytes of the plaintext, or `None` if more bytes of the object are needed, or none are.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, OpenError> {
        let Some(frame) = self.next_frame() else {
            self.piece.clear();
            return Ok(None);
        };
        self.skip_to(frame.sealed.start);
        let frame_len = usize::try_from(frame.sealed.end - frame.sealed.start).unwrap_or(usize::MAX);
        if self.begun.is_empty() && self.piece.len() >= frame_len && !self.range.is_empty() {
            return self.open_batch(&frame).map(Some);
        }
        let missing = self.piece.len().min(frame_len.saturating_sub(self.begun.len()));
        self.begun.extend_from_slice(&self.piece.split_to(missing));
        if self.begun.len() < frame_len {
            return Ok(None);
        }
        let sealed = std::mem::take(&mut self.begun);
        self.offset = frame.sealed.end;
        if self.range.is_empty() {
            self.object.opener.prove_end(&sealed)?;
            self.proves_end = false;
            return self.next();
        }
        self.open(self.range.start..self.range.end.min(frame.plaintext.end), &sealed).map(Some)
    }

    /// Returns how many bytes of the object have been passed, and how many are needed, from its start.
    pub(crate) fn found_and_expected(&self) -> (u64, u64) {
        let found = self.offset + self.begun.len() as u64 + self.piece.len() as u64;
        let end = self.object.opener.geometry().frame_of_offset(self.range.end.saturating_sub(1));
        (found, end.map_or(self.object.sealed_len(), |frame| frame.sealed.end))
    }

    /// Returns the bytes of the object that have not been passed, to its end.
    pub(crate) fn unread(&self) -> Range<u64> {
        self.found_and_expected().0..self.object.sealed_len()
    }

    /// Returns whether everything has been returned, and the end has been verified if the range contains it.
    pub(crate) fn is_finished(&self) -> bool {
        self.next_frame().is_none()
    }

    fn next_frame(&self) -> Option<FrameLocation> {
        if self.range.is_empty() {
            return self.proves_end.then(|| self.object.opener.final_frame().clone());
        }
        self.object.opener.geometry().frame_of_offset(self.range.start)
    }

    /// Skips the bytes before this offset of the object.
    fn skip_to(&mut self, start: u64) {
        if self.begun.is_empty() {
            let skipped =
                usize::try_from(start.saturating_sub(self.offset)).unwrap_or(usize::MAX).min(self.piece.len());
            self.piece.advance(skipped);
            self.offset += skipped as u64;
        }
    }

    /// Opens the complete frames in the current piece, which starts with the complete frame `first`.
    fn open_batch(&mut self, first: &FrameLocation) -> Result<Bytes, OpenError> {
        let (opener, layout) = (&self.object.opener, &self.object.layout);
        let frame_len = u64::from(layout.frame_len.get());
        let has_final = self.offset + self.piece.len() as u64 >= self.object.sealed_len();
        let end = if has_final {
            self.object.plaintext_len()
        } else {
            let complete = self.piece.len() as u64 / layout.stride();
            opener.final_frame().plaintext.start.min(first.plaintext.start + complete * frame_len)
        };
        let batch_end = layout.batch_end(first.plaintext.start);
        let range = self.range.start..end.min(batch_end).max(first.plaintext.end).min(self.range.end);
        let sealed_end = opener.sealed_range(&range)?.end;
        let sealed = self.piece.split_to((sealed_end - self.offset) as usize);
        self.offset = sealed_end;
        self.open(range, &sealed)
    }

    fn open(&mut self, range: Range<u64>, sealed: &[u8]) -> Result<Bytes, OpenError> {
        let mut out = vec![0; (range.end - range.start) as usize];
        self.object.opener.open(&range, sealed, &mut out)?;
        self.range.start = range.end;
        Ok(out.into())
    }
}
