//! Reading ranges of the plaintext without the rest of the message.

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

/// Opens ranges of one message's plaintext, and does no I/O.
///
/// Created by [`Envelope::range_opener`](crate::Envelope::range_opener). For each range,
/// [`sealed_range`](Self::sealed_range) returns which bytes of the message to fetch, and [`open`](Self::open) decrypts
/// them. A `RangeOpener` has no state, so threads can share it. [`RangeReader`] and [`AsyncRangeReader`] fetch the
/// bytes as well.
///
/// ```
/// use kms_envelope::{EncryptionContext, Envelope, Limits, RawAes, message::Header};
///
/// # pollster::block_on(async {
/// # let envelope = Envelope::new(RawAes::generate("example", "key")?);
/// # let context = EncryptionContext::new();
/// let message = envelope.seal(b"attack at dawn", &context).await?;
/// let fetch = |range: &std::ops::Range<u64>| &message[range.start as usize..range.end as usize];
///
/// let header = Header::parse(&message, &Limits::default())?;
/// let opener = envelope.range_opener(&header, message.len() as u64, &context).await?;
/// opener.prove_end(fetch(&opener.final_frame().sealed))?; // Now the length is verified.
/// assert_eq!(opener.geometry().plaintext_len(), 14);
///
/// let mut plaintext = [0; 4];
/// opener.open(&(10..14), fetch(&opener.sealed_range(&(10..14))?), &mut plaintext)?;
/// assert_eq!(&plaintext, b"dawn");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # What is authenticated
/// Every byte that is returned is authenticated, and so is its position. The length of the plaintext is computed from
/// the length of the message that you pass. It is not verified until the [final frame](Self::final_frame) is.
#[derive(Debug)]
pub struct RangeOpener {
    info: MessageInfo,
    cipher: FrameCipher,
    geometry: Geometry,
    final_frame: FrameLocation,
}

impl RangeOpener {
    /// Fails if the message is signed or not framed.
    pub(crate) fn new(opener: Opener, geometry: Geometry) -> Result<Self, OpenError> {
        let (info, cipher) = opener.into_parts()?;
        Ok(Self { info, cipher, geometry, final_frame: geometry.final_frame() })
    }

    /// Returns the message's metadata.
    pub fn info(&self) -> &MessageInfo {
        &self.info
    }

    /// Returns the positions of the frames and the length of the plaintext, if the length of the message is correct.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Returns the position of the final frame, which verifies the end of the message, and so its length.
    ///
    /// The length is verified once [`prove_end`](Self::prove_end) has succeeded, or [`open`](Self::open) with a range
    /// that includes bytes of the final frame.
    pub fn final_frame(&self) -> &FrameLocation {
        &self.final_frame
    }

    /// Verifies the [final frame](Self::final_frame), so that the length in [`geometry`](Self::geometry) is
    /// authenticated.
    ///
    /// `sealed` contains the bytes of that frame.
    ///
    /// # Errors
    /// Returns an [`OpenError`] if `sealed` is not the final frame of this message, or if authentication fails.
    pub fn prove_end(&self, sealed: &[u8]) -> Result<(), OpenError> {
        self.cipher.prove(&self.final_frame, sealed)
    }

    /// Returns the range of the message that contains the frames for a range of the plaintext. An empty range needs no
    /// bytes.
    ///
    /// # Errors
    /// Returns [`OpenError::OutOfRange`] if the range is outside of the plaintext, or its end is before its start.
    pub fn sealed_range(&self, range: &Range<u64>) -> Result<Range<u64>, OpenError> {
        Ok(self.frames(range)?.map_or(0..0, |(first, last)| first.sealed.start..last.sealed.end))
    }

    /// Decrypts a range of the plaintext to `out`, which must have exactly the length of the range.
    ///
    /// `sealed` contains the bytes of the message that [`sealed_range`](Self::sealed_range) returns for the range.
    ///
    /// # Errors
    /// Returns [`OpenError::OutOfRange`] if the range is outside of the plaintext, [`OpenError::OutputTooShort`] if
    /// `out` does not have the length of the range, and otherwise an [`OpenError`] that specifies why a frame cannot be
    /// opened. On error, `out` is filled with zeros.
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

    /// Returns the first and the last frame of a range, unless it is empty.
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

    /// Opens the frames that the targets need, each of them once. `sealed` contains these frames, and starts at offset
    /// `start` of the message. The targets must be sorted by start. The returned iterator copies the plaintext to
    /// targets that share frames, and yields the length of each.
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

    /// Opens the frames of targets that share no frames. `sealed` contains these frames, and starts at offset `start`
    /// of the message.
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

    /// Opens the frame that contains this part of a target.
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

/// Returns the length of a range, if a buffer can be that long.
fn len(range: &Range<u64>) -> Result<usize, OpenError> {
    let len = range.end - range.start;
    buffer_len(len).ok_or(OpenError::TooLongForMemory { len })
}

/// Allocates a buffer for a range of the plaintext.
fn buffer(range: &Range<u64>) -> Result<Vec<u8>, OpenError> {
    let len = len(range)?;
    check_memory(len)?;
    Ok(vec![0; len])
}

/// Returns an error if this much memory cannot be allocated. A caller's range must not abort the process.
fn check_memory(len: usize) -> Result<(), OpenError> {
    const ALWAYS_THERE: usize = 16 << 20;
    let mut probe = Vec::<u8>::new();
    if len > ALWAYS_THERE && probe.try_reserve_exact(len).is_err() {
        return Err(OpenError::TooLongForMemory { len: len as u64 });
    }
    // Otherwise, the compiler may remove the allocation as unused, and assume that it succeeds.
    drop(std::hint::black_box(probe));
    Ok(())
}

/// Returns the position of a range in a buffer that starts at offset `start`.
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
        // A wrong length, which only the final frame would reveal.
        let opener = pollster::block_on(envelope.range_opener(&header, 2 << 30, &context)).unwrap();
        let refused = opener.buffers(&vec![0..1 << 30; 1 << 20]).unwrap_err();
        assert!(matches!(refused, OpenError::TooLongForMemory { len } if len == 1 << 50), "{refused}");
        assert_eq!(opener.buffers(&[5..9, 7..7, 0..1]).unwrap(), [vec![0; 4], vec![], vec![0]]);
    }
}
