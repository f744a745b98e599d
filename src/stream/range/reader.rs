//! Ranges of a message in a source that blocks.

use std::ops::Range;

use super::{
    RangeOpener, ReadAt, buffer,
    plan::{Target, targets},
    read_at::read_range,
};
use crate::{
    error::OpenError,
    message::{Header, HeaderReader, Limits},
    stream::{
        MessageInfo,
        buffer::{BATCH, debug_without_inner},
    },
};

/// How much of a message is read first: nearly every header is shorter.
pub(super) const HEADER_GUESS: u64 = 4096;

/// Reading on is cheaper than another request to a file.
const GAP: u64 = 64 << 10;

/// Reads any range of one message's plaintext from its source.
///
/// Made by [`Envelope::range_reader`](crate::Envelope::range_reader). Reads the header and the final frame of the
/// message once, and then only the frames that a range needs. Any number of threads can read from it at once.
/// [`AsyncRangeReader`](super::AsyncRangeReader) does the same for asynchronous sources.
///
/// # What is authenticated
/// Each frame has a tag of its own, which binds it to its message and to its place there. A range contains bytes of
/// frames whose tags have been verified, and no others. The final frame, verified when this reader is made, proves that
/// the message ends with its source, so [`len`](Self::len) is true. Damage to a frame is noticed by the ranges that need
/// the frame, and by no others.
pub struct RangeReader<S> {
    source: S,
    opener: RangeOpener,
    piece_len: u64,
    gap: u64,
}

impl<S> RangeReader<S> {
    /// Sets how many bytes of the message are read at once. The default is 1 MiB.
    ///
    /// A piece is made of whole frames, at least one; 8 bytes more where the final frame is among them.
    #[must_use]
    pub fn with_piece_len(mut self, bytes: u64) -> Self {
        self.piece_len = bytes;
        self
    }

    /// Sets up to which distance [`read_ranges`](Self::read_ranges) reads two ranges at once, in bytes of the message
    /// between their frames. The default is 64 KiB.
    ///
    /// Bytes between the ranges are read, and not opened. 0 merges only ranges whose frames touch.
    #[must_use]
    pub fn with_coalesced_gap(mut self, bytes: u64) -> Self {
        self.gap = bytes;
        self
    }

    /// Returns what is known of the message besides its plaintext.
    pub fn info(&self) -> &MessageInfo {
        self.opener.info()
    }

    /// Returns the length of the plaintext, in bytes, as the final frame has proven.
    pub fn len(&self) -> u64 {
        self.opener.geometry.plaintext_len()
    }

    /// Returns whether the plaintext is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<S: ReadAt> RangeReader<S> {
    pub(crate) fn new(source: S, opener: RangeOpener) -> Result<Self, OpenError> {
        opener.prove_end(&read_range(&source, &opener.final_frame().sealed)?)?;
        Ok(Self { source, opener, piece_len: BATCH as u64, gap: GAP })
    }

    /// Reads a range of the plaintext.
    ///
    /// # Errors
    /// Returns [`OpenError::OutOfRange`] if the plaintext does not have the range, [`OpenError::Io`] if the source fails,
    /// and otherwise an [`OpenError`] that says why a frame does not open.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u8>, OpenError> {
        self.opener.frames(&range)?;
        let mut out = buffer(&range)?;
        self.read_into(range.start, &mut out)?;
        Ok(out)
    }

    /// Fills `out` with the plaintext from `offset` on.
    ///
    /// # Errors
    /// As [`read`](Self::read); `out` is wiped then.
    pub fn read_into(&self, offset: u64, out: &mut [u8]) -> Result<(), OpenError> {
        let range = offset..offset.saturating_add(out.len() as u64);
        let frames = self.opener.frames(&range);
        let read = frames.and_then(|_| self.read_pieces(Target { range, out: &mut *out }));
        if read.is_err() {
            out.fill(0);
        }
        read
    }

    fn read_pieces(&self, mut rest: Target<'_>) -> Result<(), OpenError> {
        while !rest.range.is_empty() {
            let piece = rest.take_until(self.opener.piece_end(&rest.range, self.piece_len));
            let place = self.opener.sealed_range(&piece.range)?;
            self.opener.open_targets(place.start, &read_range(&self.source, &place)?, [piece])?;
        }
        Ok(())
    }

    /// Reads several ranges of the plaintext, and returns them in the order of `ranges`.
    ///
    /// Ranges may be empty, overlap, and come in any order. Each frame is read and opened once, however many ranges
    /// need it. Ranges whose frames touch, or are [close to each other](Self::with_coalesced_gap), are read at once, in
    /// [pieces](Self::with_piece_len). Besides the result, one piece is held in memory, and one more for ranges that
    /// share frames.
    ///
    /// The result is as long as all ranges together. Limit their number and length if a client chooses them.
    ///
    /// ```
    /// use kms_envelope::{EncryptionContext, Envelope, RawAes};
    ///
    /// # pollster::block_on(async {
    /// # let envelope = Envelope::new(RawAes::generate("example", "key")?);
    /// # let context = EncryptionContext::new();
    /// # let sealed = envelope.seal(b"attack at dawn", &context).await?;
    /// let reader = envelope.range_reader(&sealed[..], sealed.len() as u64, &context).await?;
    /// assert_eq!(reader.read_ranges(&[10..14, 0..6])?, [&b"dawn"[..], b"attack"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`read`](Self::read), for any of the ranges; nothing is read if the plaintext does not have all of them.
    pub fn read_ranges(&self, ranges: &[Range<u64>]) -> Result<Vec<Vec<u8>>, OpenError> {
        let mut out = self.opener.buffers(ranges)?;
        for fetch in self.opener.fetches(targets(ranges, &mut out), self.piece_len, self.gap)? {
            let sealed = read_range(&self.source, &fetch.sealed)?;
            let mut copies = self.opener.open_sharing(fetch.sealed.start, &sealed, fetch.targets)?;
            copies.try_for_each(|copied| copied.map(drop))?;
        }
        Ok(out)
    }
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

/// Takes the bytes that a source gave for a range, and returns the range to read next: at least as long as all before
/// it, so that a long header takes few reads. It is empty where the header is complete, or the source has ended.
pub(super) fn feed(
    header: &mut HeaderReader,
    bytes: &[u8],
    range: Range<u64>,
    sealed_len: u64,
) -> Result<Range<u64>, OpenError> {
    header.feed(bytes)?;
    let has_ended = (bytes.len() as u64) < range.end - range.start;
    let wanted = if has_ended || header.needed() == 0 { 0 } else { range.end.max(header.needed() as u64) };
    Ok(range.end..range.end.saturating_add(wanted).min(sealed_len))
}

debug_without_inner!(RangeReader<S>: opener);
