//! Any range of the plaintext, without the rest.

use std::{
    fs::File,
    io,
    ops::{Deref, Range},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    MessageInfo, Opener,
    buffer::{buffer_len, debug_without_inner},
    frame_cipher::FrameCipher,
};
use crate::{
    error::OpenError,
    message::{FrameLocation, Geometry, Header, HeaderReader, Limits},
};

/// How much of a message is read first: nearly every header is shorter.
const HEADER_GUESS: u64 = 4096;

/// How many bytes of frames are read and opened at once.
const BATCH: u64 = 1 << 20;

/// Where a message is, to be read at any place: a file, a slice, or what can read ranges of something stored.
pub trait ReadAt {
    /// Reads bytes from `offset` on, as many as come at once and `out` has room for. 0 means the end.
    ///
    /// # Errors
    /// Those of the source.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for [u8] {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let len = rest.len().min(out.len());
        out[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        self.deref().read_at(out, offset)
    }
}

impl ReadAt for Bytes {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        self.deref().read_at(out, offset)
    }
}

#[cfg(unix)]
impl ReadAt for File {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, out, offset)
    }
}

/// Moves the file's own position.
#[cfg(windows)]
impl ReadAt for File {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(self, out, offset)
    }
}

impl<R: ReadAt + ?Sized> ReadAt for &R {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        R::read_at(self, out, offset)
    }
}

impl<R: ReadAt + ?Sized> ReadAt for Arc<R> {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        R::read_at(self, out, offset)
    }
}

/// Where a message is, to be read at any place, asynchronously: an object store, for one.
pub trait AsyncReadAt {
    /// The bytes of a range. Fewer mean that the source ends there.
    ///
    /// # Errors
    /// Those of the source.
    fn read_range(&self, range: Range<u64>) -> impl Future<Output = io::Result<Bytes>> + Send;
}

/// Opens any range of one message's plaintext, with no I/O of its own.
///
/// Made by [`Envelope::range_opener`](crate::Envelope::range_opener). It is stateless, and can be shared between
/// threads: [`sealed_range`](Self::sealed_range) says which bytes of the message a range needs, and
/// [`open`](Self::open) opens them. [`RangeReader`] does the reading as well.
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
    /// an [`OpenError`] that says why a frame does not open; `out` is wiped then.
    pub fn open(&self, range: &Range<u64>, sealed: &[u8], out: &mut [u8]) -> Result<(), OpenError> {
        let Some((first, last)) = self.frames(range)? else { return Ok(()) };
        let needed = len(range)?;
        if out.len() != needed {
            return Err(OpenError::OutputTooShort { len: out.len(), needed });
        }
        let opened = (first.sequence..=last.sequence)
            .filter_map(|sequence| self.geometry.frame(sequence))
            .try_for_each(|frame| {
                let bytes = sealed.get(within(&frame.sealed, first.sealed.start)?).unwrap_or_default();
                let wanted = range.start.max(frame.plaintext.start)..range.end.min(frame.plaintext.end);
                let out = &mut out[within(&wanted, range.start)?];
                if wanted == frame.plaintext {
                    return self.cipher.open_at(&frame, bytes, out);
                }
                let mut whole = vec![0; len(&frame.plaintext)?];
                self.cipher.open_at(&frame, bytes, &mut whole)?;
                out.copy_from_slice(&whole[within(&wanted, frame.plaintext.start)?]);
                Ok(())
            });
        if opened.is_err() {
            out.fill(0);
        }
        opened
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

    /// A range in parts of about a megabyte, each ending with a frame.
    fn parts(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        let frame_len = self.cipher.frame_len() as u64;
        let step = (BATCH / frame_len).max(1) * frame_len;
        let mut start = range.start;
        std::iter::from_fn(move || {
            let part = start..range.end.min((start / frame_len).saturating_mul(frame_len).saturating_add(step));
            start = part.end;
            (!part.is_empty()).then_some(part)
        })
    }
}

/// A range's length, if it can be the length of a buffer.
fn len(range: &Range<u64>) -> Result<usize, OpenError> {
    let len = range.end - range.start;
    buffer_len(len).ok_or(OpenError::TooLongForMemory { len })
}

/// A range's place in a buffer that begins at `start`.
fn within(range: &Range<u64>, start: u64) -> Result<Range<usize>, OpenError> {
    Ok(len(&(start..range.start))?..len(&(start..range.end))?)
}

/// Reads any range of one message's plaintext from its source.
///
/// Made by [`Envelope::range_reader`](crate::Envelope::range_reader) or, for an asynchronous source, by
/// [`Envelope::async_range_reader`](crate::Envelope::async_range_reader). It reads no more of the message than the
/// header, once, the final frame, once, and the frames that a range needs. The final frame proves that the message
/// is as long as its source, so [`len`](Self::len) is true. Any number of threads or tasks can read from it at once.
pub struct RangeReader<S> {
    source: S,
    opener: RangeOpener,
}

impl<S> RangeReader<S> {
    /// Returns what is known of the message besides its plaintext.
    pub fn info(&self) -> &MessageInfo {
        self.opener.info()
    }

    /// The length of the plaintext, in bytes, as the final frame has proven.
    pub fn len(&self) -> u64 {
        self.opener.geometry.plaintext_len()
    }

    /// Whether the plaintext is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<S: ReadAt> RangeReader<S> {
    pub(crate) fn new(source: S, opener: RangeOpener) -> Result<Self, OpenError> {
        opener.prove_end(&read_range(&source, &opener.final_frame().sealed)?)?;
        Ok(Self { source, opener })
    }

    /// A range of the plaintext.
    ///
    /// # Errors
    /// [`OpenError::OutOfRange`] where the plaintext does not have it, [`OpenError::Io`] where the source fails, and
    /// otherwise an [`OpenError`] that says why a frame does not open.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u8>, OpenError> {
        self.opener.frames(&range)?;
        let mut out = vec![0; len(&range)?];
        self.read_into(range.start, &mut out)?;
        Ok(out)
    }

    /// Fills `out` with the plaintext from `offset` on.
    ///
    /// # Errors
    /// As [`read`](Self::read); `out` holds nothing to be used then.
    pub fn read_into(&self, offset: u64, out: &mut [u8]) -> Result<(), OpenError> {
        let range = offset..offset.saturating_add(out.len() as u64);
        self.opener.frames(&range)?;
        let mut rest = out;
        for part in self.opener.parts(range) {
            let sealed = read_range(&self.source, &self.opener.sealed_range(&part)?)?;
            let (out, after) = rest.split_at_mut(len(&part)?);
            self.opener.open(&part, &sealed, out)?;
            rest = after;
        }
        Ok(())
    }
}

impl<S: AsyncReadAt + Sync> RangeReader<S> {
    pub(crate) async fn new_async(source: S, opener: RangeOpener) -> Result<Self, OpenError> {
        opener.prove_end(&source.read_range(opener.final_frame().sealed.clone()).await?)?;
        Ok(Self { source, opener })
    }

    /// As [`read`](Self::read), from an asynchronous source.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_async(&self, range: Range<u64>) -> Result<Vec<u8>, OpenError> {
        self.opener.frames(&range)?;
        let mut out = vec![0; len(&range)?];
        let mut filled = 0;
        for part in self.opener.parts(range) {
            let sealed = self.source.read_range(self.opener.sealed_range(&part)?).await?;
            let end = filled + len(&part)?;
            self.opener.open(&part, &sealed, &mut out[filled..end])?;
            filled = end;
        }
        Ok(out)
    }
}

/// The bytes of a range: fewer where the source ends.
fn read_range(source: &(impl ReadAt + ?Sized), range: &Range<u64>) -> Result<Vec<u8>, OpenError> {
    let mut bytes = vec![0; len(range)?];
    let mut filled = 0;
    while filled < bytes.len() {
        match source.read_at(&mut bytes[filled..], range.start + filled as u64) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// The header of the message in a source.
pub(crate) fn read_header(source: &impl ReadAt, sealed_len: u64, limits: &Limits) -> Result<Header, OpenError> {
    let (mut header, mut next) = (HeaderReader::new(limits), 0..sealed_len.min(HEADER_GUESS));
    while !next.is_empty() {
        let bytes = read_range(source, &next)?;
        next = feed(&mut header, &bytes, next, sealed_len)?;
    }
    Ok(header.finish()?)
}

/// The header of the message in an asynchronous source.
pub(crate) async fn read_header_async(
    source: &impl AsyncReadAt,
    sealed_len: u64,
    limits: &Limits,
) -> Result<Header, OpenError> {
    let (mut header, mut next) = (HeaderReader::new(limits), 0..sealed_len.min(HEADER_GUESS));
    while !next.is_empty() {
        let bytes = source.read_range(next.clone()).await?;
        next = feed(&mut header, &bytes, next, sealed_len)?;
    }
    Ok(header.finish()?)
}

/// Takes the bytes that a source gave for a range, and returns the range to read next: at least as long as all before
/// it, so that a long header takes few reads. It is empty where the header is complete, or the source has ended.
fn feed(header: &mut HeaderReader, bytes: &[u8], range: Range<u64>, sealed_len: u64) -> Result<Range<u64>, OpenError> {
    header.feed(bytes)?;
    let has_ended = (bytes.len() as u64) < range.end - range.start;
    let wanted = if has_ended || header.needed() == 0 { 0 } else { range.end.max(header.needed() as u64) };
    Ok(range.end..range.end.saturating_add(wanted).min(sealed_len))
}

debug_without_inner!(RangeReader<S>: opener);
