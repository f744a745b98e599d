//! Reading ranges of a message from a blocking source.

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

/// The length of the first read. Nearly every header is shorter.
pub(super) const HEADER_GUESS: u64 = 4096;

/// Reading 64 KiB more costs less than another read of a file.
const GAP: u64 = 64 << 10;

/// A reader for ranges of one message's plaintext.
///
/// Created by [`Envelope::range_reader`](crate::Envelope::range_reader), which reads the header and the final frame.
/// After that, it reads only the frames that a range needs. Any number of threads can read from it at the same time.
/// [`AsyncRangeReader`](super::AsyncRangeReader) does the same for asynchronous sources.
///
/// # What is authenticated
/// Each frame has its own tag, which binds it to its message and its position there. A range consists only of bytes of
/// frames whose tags have been verified. The final frame, which is verified when the reader is created, proves that the
/// message ends where its source ends, so [`len`](Self::len) is authenticated. A modified frame causes errors only for
/// the ranges that need it.
pub struct RangeReader<S> {
    source: S,
    opener: RangeOpener,
    piece_len: u64,
    gap: u64,
}

impl<S> RangeReader<S> {
    /// Sets the maximum number of bytes of the message in one read. Default: 1 MiB.
    ///
    /// A piece consists of complete frames, at least one. It may be 8 bytes longer if it includes the final frame.
    #[must_use]
    pub fn with_piece_len(mut self, bytes: u64) -> Self {
        self.piece_len = bytes;
        self
    }

    /// Sets the maximum gap between two ranges that [`read_ranges`](Self::read_ranges) reads together, in bytes of the
    /// message between their frames. Default: 64 KiB.
    ///
    /// The bytes in the gap are read but not decrypted. 0 combines only ranges whose frames are adjacent.
    #[must_use]
    pub fn with_coalesced_gap(mut self, bytes: u64) -> Self {
        self.gap = bytes;
        self
    }

    /// Returns the message's metadata.
    pub fn info(&self) -> &MessageInfo {
        self.opener.info()
    }

    /// Returns the length of the plaintext in bytes, which the final frame has authenticated.
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
    /// Returns [`OpenError::OutOfRange`] if the range is outside of the plaintext, [`OpenError::Io`] if the source
    /// fails, and otherwise an [`OpenError`] that specifies why a frame cannot be opened. An error does not affect
    /// later reads.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u8>, OpenError> {
        self.opener.frames(&range)?;
        let mut out = buffer(&range)?;
        self.read_into(range.start, &mut out)?;
        Ok(out)
    }

    /// Fills `out` with the plaintext from `offset` on. Like [`read`](Self::read), but reuses an existing buffer.
    ///
    /// # Errors
    /// Same as [`read`](Self::read). On error, `out` is filled with zeros.
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
            let sealed = self.opener.sealed_range(&piece.range)?;
            self.opener.open_targets(sealed.start, &read_range(&self.source, &sealed)?, [piece])?;
        }
        Ok(())
    }

    /// Reads several ranges of the plaintext, and returns them in the order of `ranges`.
    ///
    /// Ranges may be empty, overlap, and be in any order. Each frame is read and decrypted once, even if several ranges
    /// need it. Ranges whose frames are adjacent or [close to each other](Self::with_coalesced_gap) are read together,
    /// in [pieces](Self::with_piece_len).
    ///
    /// The result is as long as all ranges together. Limit their number and length if a client chooses them. In
    /// addition, the method holds one piece in memory, and one more for ranges that share frames.
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
    /// Same as [`read`](Self::read). If any range is outside of the plaintext, nothing is read.
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

/// Reads the header of the message in a source.
pub(crate) fn read_header(source: &impl ReadAt, sealed_len: u64, limits: &Limits) -> Result<Header, OpenError> {
    let (mut header, mut next) = (HeaderReader::new(limits), 0..sealed_len.min(HEADER_GUESS));
    while !next.is_empty() {
        let bytes = read_range(source, &next)?;
        next = feed(&mut header, &bytes, next, sealed_len)?;
    }
    Ok(header.finish()?)
}

/// Passes the bytes of a range to the header reader, and returns the range to read next. It is at least as long as all
/// earlier ones together, so that a long header takes few reads. It is empty if the header is complete or the source
/// has ended.
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
