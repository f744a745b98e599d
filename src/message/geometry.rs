//! The offsets and lengths of a message's parts, computed without reading its body.

use std::{num::NonZeroU32, ops::Range};

use super::{
    Parsed,
    frame::{FINAL_FRAME_OVERHEAD, FRAME_OVERHEAD, FrameHead},
};
use crate::error::{FormatError, SealError};

/// The offsets and lengths of the parts of a framed message, in bytes.
///
/// A geometry is computed from the length of the plaintext before sealing, or from the length of the message before
/// opening. It is not authenticated: it is correct only if the given lengths are. Opening the final frame proves that.
///
/// ```
/// use std::num::NonZeroU32;
/// use kms_envelope::message::Geometry;
///
/// let frame_len = NonZeroU32::new(4096).unwrap();
/// let geometry = Geometry::of_plaintext(200, frame_len, 0, 10_000)?;
/// assert_eq!(geometry.frame_count(), 3);
/// assert_eq!(geometry.sealed_len(), 200 + 2 * (4096 + 32) + (10_000 - 2 * 4096 + 40));
/// assert_eq!(Geometry::of_sealed(200, frame_len, 0, geometry.sealed_len())?.plaintext_len(), 10_000);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    header_len: u64,
    frame_len: NonZeroU32,
    /// The number of frames, not counting the final one.
    regular_frames: u32,
    /// The plaintext length of the final frame, from 0 to the frame length.
    final_len: u32,
    sealed_len: u64,
}

/// The location of one frame of a message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct FrameLocation {
    /// The frame's sequence number, starting at 1.
    pub sequence: u32,
    /// Whether it is the final frame.
    pub is_final: bool,
    /// The frame's byte range in the message.
    pub sealed: Range<u64>,
    /// The byte range of the frame's plaintext in the entire plaintext.
    pub plaintext: Range<u64>,
}

impl FrameLocation {
    /// Returns whether `bytes` can be the start of this frame.
    ///
    /// Checks the sequence number, whether the frame is the final one and, if it is, its length. The first
    /// [`FINAL_FRAME_OVERHEAD`] bytes of the frame, or the entire frame if it is shorter, are always enough. Returns
    /// `false` if there are too few bytes to decide. The result is not authenticated.
    pub fn can_begin_with(&self, bytes: &[u8]) -> bool {
        let len = self.plaintext.end.checked_sub(self.plaintext.start).and_then(|len| u32::try_from(len).ok());
        let head = len.map(|len| (len as usize, FrameHead::parse(bytes, self.sequence, len)));
        matches!(head, Some((len, Ok(Parsed::Complete(head)))) if head.is_last() == self.is_final && head.content_len == len)
    }
}

impl Geometry {
    /// Computes the geometry of the message that this crate writes for a plaintext of this length. All lengths are in
    /// bytes. The final frame of such a message is empty only if the plaintext is empty.
    ///
    /// # Errors
    /// Returns [`SealError::TooLong`] if the message would need more than 2³² − 1 frames, or would be longer than
    /// 2⁶⁴ − 1 bytes.
    pub fn of_plaintext(
        header_len: u64,
        frame_len: NonZeroU32,
        footer_len: u64,
        plaintext_len: u64,
    ) -> Result<Self, SealError> {
        let too_long = || SealError::TooLong { frame_len: frame_len.get() };
        let len = u64::from(frame_len.get());
        let regular_frames = plaintext_len.saturating_sub(1) / len;
        let final_len = plaintext_len - regular_frames * len;
        let frames_len = regular_frames.checked_mul(len + FRAME_OVERHEAD as u64).ok_or_else(too_long)?;
        let sealed_len = [header_len, FINAL_FRAME_OVERHEAD as u64, final_len, footer_len]
            .into_iter()
            .try_fold(frames_len, u64::checked_add)
            .ok_or_else(too_long)?;
        match (u32::try_from(regular_frames), u32::try_from(final_len)) {
            (Ok(regular_frames), Ok(final_len)) if regular_frames < u32::MAX => {
                Ok(Self { header_len, frame_len, regular_frames, final_len, sealed_len })
            }
            _ => Err(too_long()),
        }
    }

    /// Computes the geometry of a message of `sealed_len` bytes, including its header and footer. `footer_len` is 0 for
    /// an unsigned message. For a signed message, [`footer_lens`](super::footer_lens) returns the possible lengths.
    ///
    /// No byte of the message is needed if its header length is [fixed](crate::EnvelopeBuilder::header_len), its frame
    /// length known, and its suite unsigned.
    ///
    /// ```
    /// use std::num::NonZeroU32;
    /// use kms_envelope::message::Geometry;
    ///
    /// // From a list of files or objects, which are messages with headers of 1,024 bytes.
    /// let frame_len = NonZeroU32::new(65_536).unwrap();
    /// let plaintext_len = |sealed_len| Geometry::of_sealed(1024, frame_len, 0, sealed_len).map(|it| it.plaintext_len());
    /// assert_eq!(plaintext_len(1_064)?, 0);
    /// assert_eq!(plaintext_len(101_096)?, 100_000);
    /// assert!(plaintext_len(1_063).is_err()); // shorter than any message
    /// assert!(plaintext_len(1_024 + 65_568 + 39).is_err()); // ends within the final frame's first bytes
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Returns [`FormatError::Length`] if no message can have these lengths.
    pub fn of_sealed(
        header_len: u64,
        frame_len: NonZeroU32,
        footer_len: u64,
        sealed_len: u64,
    ) -> Result<Self, FormatError> {
        let none = FormatError::Length { sealed_len, header_len, frame_len: frame_len.get() };
        let others = [header_len, footer_len, FINAL_FRAME_OVERHEAD as u64];
        let Some(rest) = others.into_iter().try_fold(sealed_len, u64::checked_sub) else {
            return Err(none);
        };
        let stride = u64::from(frame_len.get()) + FRAME_OVERHEAD as u64;
        let (regular_frames, final_len) = (rest / stride, rest % stride);
        match (u32::try_from(regular_frames), u32::try_from(final_len)) {
            (Ok(regular_frames), Ok(final_len)) if regular_frames < u32::MAX && final_len <= frame_len.get() => {
                Ok(Self { header_len, frame_len, regular_frames, final_len, sealed_len })
            }
            _ => Err(none),
        }
    }

    /// Returns the length of a regular frame: the distance from its start to that of the next frame, in bytes.
    fn stride(&self) -> u64 {
        u64::from(self.frame_len.get()) + FRAME_OVERHEAD as u64
    }

    /// Returns the length of the entire message, in bytes.
    pub fn sealed_len(&self) -> u64 {
        self.sealed_len
    }

    /// Returns the length of the plaintext, in bytes.
    pub fn plaintext_len(&self) -> u64 {
        u64::from(self.regular_frames) * u64::from(self.frame_len.get()) + u64::from(self.final_len)
    }

    /// Returns the number of frames, including the final one. It is at least 1.
    pub fn frame_count(&self) -> u32 {
        self.regular_frames + 1
    }

    /// Returns the frame with this sequence number, starting at 1, or `None` if the message has no such frame.
    pub fn frame(&self, sequence: u32) -> Option<FrameLocation> {
        let index = sequence.checked_sub(1).filter(|index| *index <= self.regular_frames)?;
        Some(self.frame_at(index))
    }

    /// Returns the final frame.
    pub fn final_frame(&self) -> FrameLocation {
        self.frame_at(self.regular_frames)
    }

    fn frame_at(&self, index: u32) -> FrameLocation {
        let is_final = index == self.regular_frames;
        let (sealed_len, plaintext_len) = if is_final {
            (FINAL_FRAME_OVERHEAD as u64 + u64::from(self.final_len), u64::from(self.final_len))
        } else {
            (self.stride(), u64::from(self.frame_len.get()))
        };
        let sealed_start = self.header_len + u64::from(index) * self.stride();
        let plaintext_start = u64::from(index) * u64::from(self.frame_len.get());
        FrameLocation {
            sequence: index + 1,
            is_final,
            sealed: sealed_start..sealed_start + sealed_len,
            plaintext: plaintext_start..plaintext_start + plaintext_len,
        }
    }

    /// Returns the frame that contains the plaintext byte at this offset, or `None` if the plaintext is not that long.
    pub fn frame_of_offset(&self, offset: u64) -> Option<FrameLocation> {
        if offset >= self.plaintext_len() {
            return None;
        }
        let index = u32::try_from(offset / u64::from(self.frame_len.get())).ok()?;
        self.frame(index + 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame_len(len: u32) -> NonZeroU32 {
        NonZeroU32::new(len).unwrap()
    }

    #[test]
    fn an_empty_plaintext_is_one_empty_final_frame() {
        let geometry = Geometry::of_plaintext(7, frame_len(10), 0, 0).unwrap();
        assert_eq!((geometry.frame_count(), geometry.sealed_len()), (1, 47));
        assert_eq!(geometry.frame_of_offset(0), None);
    }

    #[test]
    fn an_exact_multiple_ends_with_a_full_final_frame() {
        let geometry = Geometry::of_plaintext(0, frame_len(10), 0, 20).unwrap();
        assert_eq!((geometry.frame_count(), geometry.sealed_len()), (2, 42 + 50));
        let signed = Geometry::of_plaintext(0, frame_len(10), 105, 20).unwrap();
        assert_eq!((signed.final_frame(), signed.sealed_len()), (geometry.final_frame(), 42 + 50 + 105));
    }

    #[test]
    fn an_empty_final_frame_after_full_ones_is_understood() {
        let geometry = Geometry::of_sealed(0, frame_len(10), 0, 42 + 42 + 40).unwrap();
        assert_eq!((geometry.frame_count(), geometry.plaintext_len()), (3, 20));
    }

    #[test]
    fn lengths_that_no_message_has_are_refused() {
        // The first ones are too short for a final frame, the last two have a final frame longer than a frame.
        for sealed_len in [0, 106, 107 + 40 - 1 - 107, 100 + 40 + 11, 100 + 40 + 41] {
            assert!(Geometry::of_sealed(100, frame_len(10), 0, sealed_len).is_err(), "{sealed_len}");
        }
    }

    #[test]
    fn a_message_has_at_most_2_to_the_32_less_1_frames() {
        let most = u64::from(u32::MAX);
        assert_eq!(Geometry::of_plaintext(0, frame_len(1), 0, most).unwrap().frame_count(), u32::MAX);
        assert!(Geometry::of_plaintext(0, frame_len(1), 0, most + 1).is_err());
        assert!(Geometry::of_sealed(0, frame_len(1), 0, 33 * (most - 1) + 41).is_ok());
        assert!(Geometry::of_sealed(0, frame_len(1), 0, 33 * most + 41).is_err());
    }

    #[test]
    fn lengths_near_2_to_the_64_neither_panic_nor_wrap() {
        assert!(Geometry::of_plaintext(0, frame_len(u32::MAX), 0, u64::MAX).is_err());
        assert!(Geometry::of_plaintext(u64::MAX, frame_len(10), 0, 10).is_err());
        let _ = Geometry::of_sealed(0, frame_len(u32::MAX), 0, u64::MAX);
        assert!(Geometry::of_sealed(u64::MAX, frame_len(1), 0, 0).is_err());
    }

    #[test]
    fn a_frame_begins_with_its_own_head_only() {
        let geometry = Geometry::of_plaintext(7, frame_len(10), 0, 25).unwrap();
        let head = |sequence, is_final, len| {
            let head = FrameHead::new(sequence, is_final, len);
            let mut bytes = vec![0xff; FINAL_FRAME_OVERHEAD];
            head.write(&mut bytes);
            (bytes, head.len())
        };
        let (regular, last) = (geometry.frame(2).unwrap(), geometry.final_frame());
        for (frame, (bytes, head_len), others) in [
            (
                regular,
                head(2, false, 10),
                [head(1, false, 10), head(2, true, 10), head(3, false, 10), head(3, true, 5)],
            ),
            (last, head(3, true, 5), [head(2, true, 5), head(3, true, 4), head(3, true, 6), head(3, false, 5)]),
        ] {
            assert!(frame.can_begin_with(&bytes) && frame.can_begin_with(&bytes[..head_len]));
            (0..head_len).for_each(|len| assert!(!frame.can_begin_with(&bytes[..len]), "{len}"));
            others.iter().for_each(|(other, _)| assert!(!frame.can_begin_with(other), "{other:?}"));
        }
        let made_up = FrameLocation { plaintext: Range { start: 5, end: 0 }, ..geometry.final_frame() };
        assert!(!made_up.can_begin_with(&head(3, true, 5).0));
    }

    proptest! {
        #[test]
        fn the_plaintext_length_comes_back_from_the_sealed_length(
            header_len in 0u64..100_000, footer_len in 0u64..200, len in 1u32.., plaintext_len in 0u64..1 << 50,
        ) {
            if let Ok(geometry) = Geometry::of_plaintext(header_len, frame_len(len), footer_len, plaintext_len) {
                prop_assert_eq!(geometry.plaintext_len(), plaintext_len);
                let back = Geometry::of_sealed(header_len, frame_len(len), footer_len, geometry.sealed_len());
                prop_assert_eq!(back.unwrap(), geometry);
            } else {
                prop_assert!(plaintext_len > u64::from(len) * u64::from(u32::MAX));
            }
        }

        #[test]
        fn frames_follow_each_other_without_gap_and_cover_the_whole(
            header_len in 0u64..1000, len in 1u32..50, plaintext_len in 0u64..1000,
        ) {
            let geometry = Geometry::of_plaintext(header_len, frame_len(len), 0, plaintext_len).unwrap();
            let (mut sealed, mut plaintext) = (header_len, 0);
            for sequence in 1..=geometry.frame_count() {
                let frame = geometry.frame(sequence).unwrap();
                prop_assert_eq!((frame.sealed.start, frame.plaintext.start), (sealed, plaintext));
                prop_assert_eq!(frame.is_final, sequence == geometry.frame_count());
                for offset in frame.plaintext.clone() {
                    prop_assert_eq!(geometry.frame_of_offset(offset).unwrap(), frame.clone());
                }
                (sealed, plaintext) = (frame.sealed.end, frame.plaintext.end);
            }
            prop_assert_eq!((sealed, plaintext), (geometry.sealed_len(), plaintext_len));
            prop_assert_eq!(Some(geometry.final_frame()), geometry.frame(geometry.frame_count()));
            prop_assert_eq!(geometry.frame(0), None);
            prop_assert_eq!(geometry.frame(geometry.frame_count() + 1), None);
            prop_assert_eq!(geometry.frame_of_offset(plaintext_len), None);
        }

        #[test]
        fn any_sealed_length_is_a_geometry_of_that_length_or_refused(
            header_len: u64, footer_len: u64, len in 1u32.., sealed_len: u64,
        ) {
            if let Ok(geometry) = Geometry::of_sealed(header_len, frame_len(len), footer_len, sealed_len) {
                prop_assert_eq!(geometry.sealed_len(), sealed_len);
            }
        }
    }
}
