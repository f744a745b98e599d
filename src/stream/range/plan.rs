//! Which requests to a source give which ranges.

use std::{
    iter::{self, Peekable},
    ops::Range,
    vec,
};

use super::{RangeOpener, buffer, check_memory, len};
use crate::{error::OpenError, message::FRAME_OVERHEAD};

/// A range of the plaintext, and memory of its length.
pub(super) struct Target<'a> {
    pub(super) range: Range<u64>,
    pub(super) out: &'a mut [u8],
}

impl<'a> Target<'a> {
    /// Takes the part off that ends at `end`, or all of it.
    pub(super) fn take_until(&mut self, end: u64) -> Target<'a> {
        let len = usize::try_from(end.saturating_sub(self.range.start)).unwrap_or(usize::MAX).min(self.out.len());
        let (out, rest) = std::mem::take(&mut self.out).split_at_mut(len);
        let start = self.range.start;
        self.range.start += len as u64;
        self.out = rest;
        Target { range: start..self.range.start, out }
    }
}

/// Ranges, each with the buffer for it.
pub(super) fn targets<'a>(ranges: &[Range<u64>], out: &'a mut [Vec<u8>]) -> Vec<Target<'a>> {
    ranges.iter().zip(out).map(|(range, out)| Target { range: range.clone(), out }).collect()
}

/// One request to the source.
pub(super) struct Fetch<'a> {
    /// The frames' bytes in the message.
    pub(super) sealed: Range<u64>,
    /// What the frames hold of the ranges, sorted by the starts.
    pub(super) targets: Vec<Target<'a>>,
}

/// Requests to the source, in order. Each is given its parts of the ranges when it is due, since all of them together
/// take much more memory than the ranges where these are long and overlap.
pub(super) struct Fetches<'a> {
    /// Where each request ends in the plaintext, and its bytes in the message.
    pieces: vec::IntoIter<(u64, Range<u64>)>,
    /// Ranges that begin after the requests before.
    targets: Peekable<vec::IntoIter<Target<'a>>>,
    /// The rests of those that began before.
    begun: Vec<Target<'a>>,
}

impl<'a> Iterator for Fetches<'a> {
    type Item = Fetch<'a>;

    fn next(&mut self) -> Option<Fetch<'a>> {
        let (end, sealed) = self.pieces.next()?;
        self.begun.extend(iter::from_fn(|| self.targets.next_if(|target| target.range.start < end)));
        let targets = self.begun.iter_mut().map(|target| target.take_until(end)).collect();
        self.begun.retain(|target| !target.range.is_empty());
        Some(Fetch { sealed, targets })
    }
}

impl RangeOpener {
    /// A buffer for each of these ranges, if the plaintext has them all.
    pub(super) fn buffers(&self, ranges: &[Range<u64>]) -> Result<Vec<Vec<u8>>, OpenError> {
        ranges.iter().try_for_each(|range| self.frames(range).map(drop))?;
        check_memory(len(&(0..ranges.iter().fold(0, |sum, range| sum.saturating_add(range.end - range.start))))?)?;
        ranges.iter().map(buffer).collect()
    }

    /// The requests that give these ranges: in order, each frame in one of them at most. Each has at most `piece_len`
    /// bytes, or one frame; and takes in what lies between two ranges if that is at most `gap` bytes.
    pub(super) fn fetches<'a>(
        &self,
        mut targets: Vec<Target<'a>>,
        piece_len: u64,
        gap: u64,
    ) -> Result<Fetches<'a>, OpenError> {
        let frame_len = self.cipher.frame_len() as u64;
        let (most, gap) = (self.frames_in(piece_len), gap / (frame_len + FRAME_OVERHEAD as u64));
        targets.retain(|target| !target.range.is_empty());
        targets.sort_by_key(|target| target.range.start);

        let mut runs: Vec<Range<u64>> = Vec::new();
        for Target { range, .. } in &targets {
            let (mut next, end) = (range.start / frame_len, (range.end - 1) / frame_len + 1);
            if let Some(before) = runs.last_mut() {
                next = next.max(before.end);
                let room = before.start + most;
                if next < end.min(room) && next - before.end <= gap {
                    before.end = end.min(room);
                    next = before.end;
                }
            }
            while next < end {
                runs.push(next..end.min(next + most));
                next = end.min(next + most);
            }
        }
        let mut pieces = Vec::with_capacity(runs.len());
        for frames in runs {
            let plaintext = frames.start * frame_len..(frames.end * frame_len).min(self.geometry.plaintext_len());
            pieces.push((plaintext.end, self.sealed_range(&plaintext)?));
        }
        Ok(Fetches { pieces: pieces.into_iter(), targets: targets.into_iter().peekable(), begun: Vec::new() })
    }

    /// The end of the first of the pieces of at most `piece_len` sealed bytes in which this range is read.
    pub(super) fn piece_end(&self, range: &Range<u64>, piece_len: u64) -> u64 {
        let frame_len = self.cipher.frame_len() as u64;
        range.end.min((range.start / frame_len).saturating_add(self.frames_in(piece_len)).saturating_mul(frame_len))
    }

    /// How many frames so many bytes have room for: at least one.
    fn frames_in(&self, sealed_len: u64) -> u64 {
        (sealed_len / (self.cipher.frame_len() + FRAME_OVERHEAD) as u64).max(1)
    }
}
