//! Any range of the plaintext, without the rest.

mod async_reader;
mod plan;
mod read_at;
mod reader;
#[cfg(feature = "stream")]
mod stream;

use std::ops::Range;

use self::plan::Target;
#[cfg(feature = "stream")]
pub use self::stream::RangeStream;
pub use self::{
    async_reader::AsyncRangeReader,
    read_at::{AsyncReadAt, ReadAt},
    reader::RangeReader,
};
pub(crate) use self::{async_reader::read_header_async, reader::read_header};
use super::{MessageInfo, Opener, buffer::buffer_len, frame_cipher::FrameCipher};
use crate::{
    error::OpenError,
    message::{FrameLocation, Geometry},
};

/// Opens any range of one message's plaintext, with no I/O of its own.
///
/// Made by [`Envelope::range_opener`](crate::Envelope::range_opener). It is stateless, and can be shared between
/// threads: [`sealed_range`](Self::sealed_range) says which bytes of the message a range needs, and
/// [`open`](Self::open) opens them. [`RangeReader`] and [`AsyncRangeReader`] do the reading as well.
///
/// The length of the plaintext follows from the length of the message, which may be a lie until
/// [the end is proven](Self::final_frame). Every byte that is given out is authenticated, wherever it is.
#[derive(Debug)]
pub struct RangeOpener {
    info: MessageInfo,
    cipher: FrameCipher,
    geometry: Geometry,
    final_frame: FrameLocation,
}

impl RangeOpener {
    /// For a message without a signature.
    pub(crate) fn new(opener: Opener, geometry: Geometry) -> Result<Self, OpenError> {
        let (info, cipher) = opener.into_parts()?;
        Ok(Self { info, cipher, geometry, final_frame: geometry.final_frame() })
    }

    /// Returns what is known of the message besides its plaintext.
    pub fn info(&self) -> &MessageInfo {
        &self.info
    }

    /// Where everything is in the message, if its length is true.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The frame that proves the message's end, and so its length: opening any range that it holds a byte of does,
    /// and so does [`prove_end`](Self::prove_end).
    pub fn final_frame(&self) -> &FrameLocation {
        &self.final_frame
    }

    /// Verifies the [final frame](Self::final_frame): then the plaintext has the length that
    /// [`geometry`](Self::geometry) says. `sealed` is the frame.
    ///
    /// # Errors
    /// An [`OpenError`] where the final frame is not there, or does not authenticate.
    pub fn prove_end(&self, sealed: &[u8]) -> Result<(), OpenError> {
        self.cipher.prove(&self.final_frame, sealed)
    }

    /// The bytes of the message that hold the frames with this range of the plaintext. Nothing for an empty one.
    ///
    /// # Errors
    /// [`OpenError::OutOfRange`] where the range ends after the plaintext, or before it starts.
    pub fn sealed_range(&self, range: &Range<u64>) -> Result<Range<u64>, OpenError> {
        Ok(self.frames(range)?.map_or(0..0, |(first, last)| first.sealed.start..last.sealed.end))
    }

    /// Opens a range of the plaintext to `out`, which has its length. `sealed` is what
    /// [`sealed_range`](Self::sealed_range) says.
    ///
    /// # Errors
    /// [`OpenError::OutOfRange`] as there, and [`OpenError::OutputTooShort`] where `out` has another length. Otherwise
    /// an [`OpenError`] that says why a frame does not open. On any error, `out` is wiped.
    pub fn open(&self, range: &Range<u64>, sealed: &[u8], out: &mut [u8]) -> Result<(), OpenError> {
        let opened = self.open_range(range, sealed, out);
        if opened.is_err() {
            out.fill(0);
        }
        opened
    }

    fn open_range(&self, range: &Range<u64>, sealed: &[u8], out: &mut [u8]) -> Result<(), OpenError> {
        let frames = self.frames(range)?;
        let needed = len(range)?;
        if out.len() != needed {
            return Err(OpenError::OutputTooShort { len: out.len(), needed });
        }
        let Some((first, _)) = frames else { return Ok(()) };
        self.open_targets(first.sealed.start, sealed, [Target { range: range.clone(), out }])
    }

    /// The first and the last frame with a byte of this range, if it is not empty.
    fn frames(&self, range: &Range<u64>) -> Result<Option<(FrameLocation, FrameLocation)>, OpenError> {
        let plaintext_len = self.geometry.plaintext_len();
        if range.start > range.end || range.end > plaintext_len {
            return Err(OpenError::OutOfRange { range: range.clone(), plaintext_len });
        }
        if range.is_empty() {
            return Ok(None);
        }
        Ok(self.geometry.frame_of_offset(range.start).zip(self.geometry.frame_of_offset(range.end - 1)))
    }

    /// Opens the frames that these ranges need, each once. `sealed` has all of them, and begins at `start`. The ranges
    /// are sorted by their starts. Those that share frames are copied by the iterator, which gives the length of each.
    fn open_sharing<'a>(
        &self,
        start: u64,
        sealed: &[u8],
        targets: Vec<Target<'a>>,
    ) -> Result<impl Iterator<Item = Result<usize, OpenError>> + use<'a>, OpenError> {
        let frame_len = self.cipher.frame_len() as u64;
        let mut groups: Vec<(Range<u64>, Vec<Target<'a>>)> = Vec::new();
        for target in targets {
            match groups.last_mut() {
                Some((range, group)) if target.range.start / frame_len <= (range.end - 1) / frame_len => {
                    range.end = range.end.max(target.range.end);
                    group.push(target);
                }
                _ => groups.push((target.range.clone(), vec![target])),
            }
        }
        let (shared, alone): (Vec<_>, Vec<_>) = groups.into_iter().partition(|(_, group)| group.len() > 1);
        let mut opened = shared.iter().map(|(range, _)| buffer(range)).collect::<Result<Vec<_>, _>>()?;
        let once = shared.iter().zip(&mut opened).map(|((range, _), out)| Target { range: range.clone(), out });
        self.open_targets(start, sealed, alone.into_iter().flat_map(|(_, group)| group).chain(once))?;
        Ok(shared.into_iter().zip(opened).flat_map(|((range, group), opened)| {
            group.into_iter().map(move |target| {
                target.out.copy_from_slice(&opened[within(&target.range, range.start)?]);
                Ok(target.out.len())
            })
        }))
    }

    /// Opens the frames of these ranges, no two of which share one. `sealed` has all frames, and begins at `start`.
    fn open_targets<'a>(
        &self,
        start: u64,
        sealed: &[u8],
        targets: impl IntoIterator<Item = Target<'a>>,
    ) -> Result<(), OpenError> {
        let frame_len = self.cipher.frame_len() as u64;
        let mut parts = Vec::with_capacity(sealed.len() / self.cipher.sealed_frame_len() + 1);
        for mut target in targets {
            while !target.range.is_empty() {
                parts.push(target.take_until((target.range.start / frame_len + 1) * frame_len));
            }
        }
        let frame = |part: &Target<'_>| part.range.start / frame_len;
        if !parts.is_sorted_by_key(frame) {
            parts.sort_by_key(frame);
        }
        self.cipher.threads().each_item(&mut parts, sealed.len(), |part| self.open_part(start, sealed, part))
    }

    /// Opens the frame that this is a part of.
    fn open_part(&self, start: u64, sealed: &[u8], part: &mut Target<'_>) -> Result<(), OpenError> {
        let Some(frame) = self.geometry.frame_of_offset(part.range.start) else { return Ok(()) };
        let sealed = sealed.get(within(&frame.sealed, start)?).unwrap_or_default();
        if part.range == frame.plaintext {
            return self.cipher.open_at(&frame, sealed, part.out);
        }
        let mut plaintext = vec![0; len(&frame.plaintext)?];
        self.cipher.open_at(&frame, sealed, &mut plaintext)?;
        part.out.copy_from_slice(&plaintext[within(&part.range, frame.plaintext.start)?]);
        Ok(())
    }
}

/// A range's length, if it can be the length of a buffer.
fn len(range: &Range<u64>) -> Result<usize, OpenError> {
    let len = range.end - range.start;
    buffer_len(len).ok_or(OpenError::TooLongForMemory { len })
}

/// Returns memory for a range of the plaintext.
fn buffer(range: &Range<u64>) -> Result<Vec<u8>, OpenError> {
    let len = len(range)?;
    check_memory(len)?;
    Ok(vec![0; len])
}

/// A caller may ask for more memory than there is, which must not end the process.
fn check_memory(len: usize) -> Result<(), OpenError> {
    const ALWAYS_THERE: usize = 16 << 20;
    let mut probe = Vec::<u8>::new();
    if len > ALWAYS_THERE && probe.try_reserve_exact(len).is_err() {
        return Err(OpenError::TooLongForMemory { len: len as u64 });
    }
    // Or the compiler takes it for unused, and successful.
    drop(std::hint::black_box(probe));
    Ok(())
}

/// A range's place in a buffer that begins at `start`.
fn within(range: &Range<u64>, start: u64) -> Result<Range<usize>, OpenError> {
    Ok(len(&(start..range.start))?..len(&(start..range.end))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_not_there_is_an_error_and_does_not_end_the_process() {
        assert_eq!(buffer(&(5..9)).unwrap(), [0; 4]);
        for len in [1 << 50, 1 << 60, u64::MAX] {
            let refused = buffer(&(0..len)).unwrap_err();
            assert!(matches!(refused, OpenError::TooLongForMemory { len: asked } if asked == len), "{refused}");
        }
    }

    #[test]
    fn ranges_that_are_longer_together_than_memory_are_an_error_and_do_not_end_the_process() {
        let envelope = crate::Envelope::new(crate::RawAes::generate("tests", "key").unwrap());
        let context = crate::EncryptionContext::new();
        let sealed = pollster::block_on(envelope.seal(b"x", &context)).unwrap();
        let mut header = crate::message::HeaderReader::new(&crate::message::Limits::default());
        header.feed(&sealed).unwrap();
        let header = header.finish().unwrap();
        // A lie, which only the final frame would reveal.
        let opener = pollster::block_on(envelope.range_opener(&header, 2 << 30, &context)).unwrap();
        let refused = opener.buffers(&vec![0..1 << 30; 1 << 20]).unwrap_err();
        assert!(matches!(refused, OpenError::TooLongForMemory { len } if len == 1 << 50), "{refused}");
        assert_eq!(opener.buffers(&[5..9, 7..7, 0..1]).unwrap(), [vec![0; 4], vec![], vec![0]]);
    }
}
