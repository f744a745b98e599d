//! Lengths and offsets in sealed objects whose headers and frames have fixed lengths.

use std::{num::NonZeroU32, ops::Range};

use kms_envelope::message::{FINAL_FRAME_OVERHEAD, FRAME_OVERHEAD, Geometry};

/// The number of bytes by which a final frame is longer than others.
const FINAL: u64 = (FINAL_FRAME_OVERHEAD - FRAME_OVERHEAD) as u64;

/// The maximum number of plaintext bytes that are opened at once, if frames are shorter.
const BATCH: u64 = 1 << 20;

/// The layout of a store's objects: the lengths of the header and of the plaintext of a frame, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) header_len: usize,
    pub(crate) frame_len: NonZeroU32,
}

impl Layout {
    /// Returns the positions of the frames of an object of this length, if an object of this layout can have it.
    pub(crate) fn geometry(&self, sealed_len: u64) -> Option<Geometry> {
        Geometry::of_sealed(self.header_len as u64, self.frame_len, 0, sealed_len).ok()
    }

    /// Returns the distance between the starts of two frames.
    pub(crate) fn stride(&self) -> u64 {
        u64::from(self.frame_len.get()) + FRAME_OVERHEAD as u64
    }

    /// Returns the index of the frame that contains the plaintext byte at this offset, from 0.
    pub(crate) fn frame_of(&self, offset: u64) -> u64 {
        offset / u64::from(self.frame_len.get())
    }

    /// Returns the offset in the plaintext up to which frames are opened at once, from the frame that contains the byte
    /// at `offset`. It is the end of a frame.
    pub(crate) fn batch_end(&self, offset: u64) -> u64 {
        let frame_len = u64::from(self.frame_len.get());
        (offset + BATCH.max(frame_len)) / frame_len * frame_len
    }

    /// Returns where the frame starts that contains the plaintext byte at this offset. If that is the first frame, the
    /// header is included.
    pub(crate) fn start(&self, offset: u64) -> u64 {
        self.start_of_frame(self.frame_of(offset))
    }

    fn start_of_frame(&self, index: u64) -> u64 {
        if index == 0 { 0 } else { self.frame_end(index) }
    }

    /// Returns where the frame before this one ends.
    fn frame_end(&self, index: u64) -> u64 {
        index.saturating_mul(self.stride()).saturating_add(self.header_len as u64)
    }

    /// Returns a range of the object that contains the frames of a range of the plaintext, which must not be empty. A
    /// final frame is longer than others by 8 bytes, which are included in any case.
    pub(crate) fn sealed(&self, range: &Range<u64>) -> Range<u64> {
        self.frames(self.frame_of(range.start)..self.frame_of(range.end - 1).saturating_add(1))
    }

    fn frames(&self, frames: Range<u64>) -> Range<u64> {
        self.start_of_frame(frames.start)..self.frame_end(frames.end).saturating_add(FINAL)
    }

    /// Returns the length of the end of an object that contains the frames of the last `len` bytes of the plaintext,
    /// however long the object is, and its final frame.
    pub(crate) fn sealed_suffix(&self, len: u64) -> u64 {
        let frames = self.frame_of(len.saturating_sub(1)).saturating_add(2);
        frames.saturating_mul(self.stride()).saturating_add(FINAL)
    }

    /// Returns ranges of the object for ranges of the plaintext, which must not be empty. Each frame is in at most one
    /// range. Frames that are at most `gap` bytes apart are in the same range.
    pub(crate) fn merge(&self, ranges: &[Range<u64>], gap: u64) -> Vec<Range<u64>> {
        let mut frames: Vec<_> =
            ranges.iter().map(|range| self.frame_of(range.start)..self.frame_of(range.end - 1) + 1).collect();
        frames.sort_by_key(|frames| frames.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for next in frames {
            match merged.last_mut() {
                Some(last) if next.start.saturating_sub(last.end).saturating_mul(self.stride()) <= gap => {
                    last.end = last.end.max(next.end);
                }
                _ => merged.push(next),
            }
        }
        merged.into_iter().map(|frames| self.frames(frames)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LAYOUT: Layout = Layout { header_len: 100, frame_len: NonZeroU32::new(10).unwrap() };

    #[test]
    fn a_range_in_the_first_frame_includes_the_header() {
        assert_eq!(LAYOUT.start(9), 0);
        assert_eq!(LAYOUT.start(10), 142);
        assert_eq!(LAYOUT.sealed(&(3..4)), 0..150);
        assert_eq!(LAYOUT.sealed(&(10..31)), 142..276);
    }

    #[test]
    fn ranges_near_each_other_are_one_request() {
        assert_eq!(LAYOUT.merge(&[10..11, 20..21], 0), vec![142..234]);
        assert_eq!(LAYOUT.merge(&[30..31, 10..11], 41), vec![142..192, 226..276]);
        assert_eq!(LAYOUT.merge(&[30..31, 10..11], 42), vec![142..276]);
        assert_eq!(LAYOUT.merge(&[10..40, 15..16, 15..16], 0), vec![142..276]);
    }

    #[test]
    fn no_range_overflows() {
        for range in [0..u64::MAX, u64::MAX - 1..u64::MAX] {
            assert!(LAYOUT.sealed(&range).end >= LAYOUT.sealed(&range).start);
            assert_eq!(LAYOUT.merge(&[range.clone(), range], u64::MAX).len(), 1);
        }
        assert_eq!(LAYOUT.sealed_suffix(u64::MAX), u64::MAX);
    }

    proptest! {
        #[test]
        fn requests_contain_the_frames_of_their_ranges(len in 1u64..500, start in 0u64..500, range_len in 1u64..100) {
            let geometry = Geometry::of_plaintext(100, LAYOUT.frame_len, 0, len).unwrap();
            prop_assert_eq!(LAYOUT.geometry(geometry.sealed_len()), Some(geometry));
            let range = start % len..(start % len + range_len).min(len);
            let (first, last) = (geometry.frame_of_offset(range.start), geometry.frame_of_offset(range.end - 1));
            let frames = first.unwrap().sealed.start..last.unwrap().sealed.end;
            let sealed = LAYOUT.sealed(&range);
            prop_assert!(sealed.start <= frames.start && frames.end <= sealed.end, "{:?} {:?}", sealed, frames);
            prop_assert!(sealed.end.min(geometry.sealed_len()) - frames.end <= 8);

            let suffix = range_len.min(len);
            let first = geometry.frame_of_offset(len - suffix).unwrap().sealed.start;
            prop_assert!(geometry.sealed_len().saturating_sub(LAYOUT.sealed_suffix(suffix)) <= first);
        }
    }
}
