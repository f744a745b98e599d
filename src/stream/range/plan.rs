//! Plans the requests to a source for a set of ranges.

use std::{
    iter::{self, Peekable},
    ops::Range,
    vec,
};

use super::{RangeOpener, buffer, check_memory, len};
use crate::{error::OpenError, message::FRAME_OVERHEAD};

/// A range of the plaintext, and the buffer for it, which has its length.
pub(super) struct Target<'a> {
    pub(super) range: Range<u64>,
    pub(super) out: &'a mut [u8],
}

impl<'a> Target<'a> {
    /// Splits off and returns the part up to `end`, or all of it.
    pub(super) fn take_until(&mut self, end: u64) -> Target<'a> {
        let len = usize::try_from(end.saturating_sub(self.range.start)).unwrap_or(usize::MAX).min(self.out.len());
        let (out, rest) = std::mem::take(&mut self.out).split_at_mut(len);
        let start = self.range.start;
        self.range.start += len as u64;
        self.out = rest;
        Target { range: start..self.range.start, out }
    }
}

/// Combines each range with its buffer.
pub(super) fn targets<'a>(ranges: &[Range<u64>], out: &'a mut [Vec<u8>]) -> Vec<Target<'a>> {
    ranges.iter().zip(out).map(|(range, out)| Target { range: range.clone(), out }).collect()
}

/// One request to the source.
pub(super) struct Fetch<'a> {
    /// The range of the message.
    pub(super) sealed: Range<u64>,
    /// The parts of the targets in these frames, sorted by start.
    pub(super) targets: Vec<Target<'a>>,
}

/// The requests to the source, in order. Each gets its parts of the targets when it starts: for long ranges that
/// overlap, all parts together would take much more memory than the ranges.
pub(super) struct Fetches<'a> {
    /// The end of each request in the plaintext, and its range of the message.
    pieces: vec::IntoIter<(u64, Range<u64>)>,
    /// The targets that start after all earlier requests.
    targets: Peekable<vec::IntoIter<Target<'a>>>,
    /// The rest of the targets that started in earlier requests.
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
    /// Allocates a buffer for each range. Fails if any of them is outside of the plaintext.
    pub(super) fn buffers(&self, ranges: &[Range<u64>]) -> Result<Vec<Vec<u8>>, OpenError> {
        ranges.iter().try_for_each(|range| self.frames(range).map(drop))?;
        check_memory(len(&(0..ranges.iter().fold(0, |sum, range| sum.saturating_add(range.end - range.start))))?)?;
        ranges.iter().map(buffer).collect()
    }

    /// Returns the requests for these targets, in order. Each frame is in at most one request. A request has at most
    /// `piece_len` bytes, or one frame. It includes the bytes between two ranges if these are at most `gap` bytes.
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
                let limit = before.start + most;
                if next < end.min(limit) && next - before.end <= gap {
                    before.end = end.min(limit);
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

    /// Returns the end of the first piece of this range, if each piece has at most `piece_len` bytes of the message.
    pub(super) fn piece_end(&self, range: &Range<u64>, piece_len: u64) -> u64 {
        let frame_len = self.cipher.frame_len() as u64;
        range.end.min((range.start / frame_len).saturating_add(self.frames_in(piece_len)).saturating_mul(frame_len))
    }

    /// Returns the number of frames that fit into `sealed_len` bytes, at least 1.
    fn frames_in(&self, sealed_len: u64) -> u64 {
        (sealed_len / (self.cipher.frame_len() + FRAME_OVERHEAD) as u64).max(1)
    }
}
