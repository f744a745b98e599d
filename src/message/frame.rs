//! The fields before the ciphertext of a frame, or of the single block of a non-framed body, and the additional
//! authenticated data (specification, `data-format/message-body.md`).

use super::{Limits, Parsed};
use crate::{
    error::{FormatError, LimitError},
    suite::{IV_LEN, TAG_LEN},
};

/// The first field of a final frame. A regular frame has its sequence number there.
const FINAL_MARKER: u32 = u32::MAX;

const REGULAR_HEAD_LEN: usize = 4 + IV_LEN;
const FINAL_HEAD_LEN: usize = 4 + 4 + IV_LEN + 4;
const BLOCK_HEAD_LEN: usize = IV_LEN + 8;

/// The number of bytes by which a regular frame is longer than its plaintext.
pub const FRAME_OVERHEAD: usize = REGULAR_HEAD_LEN + TAG_LEN;

/// The number of bytes by which the final frame is longer than its plaintext.
pub const FINAL_FRAME_OVERHEAD: usize = FINAL_HEAD_LEN + TAG_LEN;

/// The number of bytes by which a non-framed body is longer than its plaintext.
pub(crate) const BLOCK_OVERHEAD: usize = BLOCK_HEAD_LEN + TAG_LEN;

/// The kind of a part of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// Any frame but the last.
    Regular,
    /// The last frame.
    Final,
    /// The entire body of a message that is not framed. This crate reads it, but never writes it.
    Block,
}

/// The fields before a frame's ciphertext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHead {
    pub(crate) kind: FrameKind,
    pub(crate) sequence: u32,
    /// The length of the ciphertext, which is also that of the plaintext, in bytes.
    pub(crate) content_len: usize,
    pub(crate) iv: [u8; IV_LEN],
}

impl FrameHead {
    /// Returns the head of a frame to be written. Its IV is its sequence number.
    pub(crate) fn new(sequence: u32, is_final: bool, content_len: usize) -> Self {
        let mut iv = [0; IV_LEN];
        iv[IV_LEN - 4..].copy_from_slice(&sequence.to_be_bytes());
        let kind = if is_final { FrameKind::Final } else { FrameKind::Regular };
        Self { kind, sequence, content_len, iv }
    }

    /// Returns whether this is the end of the body.
    pub(crate) fn is_last(&self) -> bool {
        self.kind != FrameKind::Regular
    }

    /// Returns the length of the head itself, in bytes.
    pub(crate) fn len(&self) -> usize {
        match self.kind {
            FrameKind::Regular => REGULAR_HEAD_LEN,
            FrameKind::Final => FINAL_HEAD_LEN,
            FrameKind::Block => BLOCK_HEAD_LEN,
        }
    }

    /// Returns the length of the entire frame: head, ciphertext and tag.
    pub(crate) fn sealed_len(&self) -> usize {
        self.len() + self.content_len + TAG_LEN
    }

    /// Writes the head to the start of `out`.
    pub(crate) fn write(&self, out: &mut [u8]) {
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        match self.kind {
            FrameKind::Regular => {
                put(0, &self.sequence.to_be_bytes());
                put(4, &self.iv);
            }
            FrameKind::Final => {
                put(0, &FINAL_MARKER.to_be_bytes());
                put(4, &self.sequence.to_be_bytes());
                put(8, &self.iv);
                let len = u32::try_from(self.content_len).expect("a final frame is no longer than the frame length");
                put(8 + IV_LEN, &len.to_be_bytes());
            }
            FrameKind::Block => {
                put(0, &self.iv);
                put(IV_LEN, &(self.content_len as u64).to_be_bytes());
            }
        }
    }

    /// Parses the head of the next frame, which must have the sequence number `due`.
    ///
    /// The IV can have any value: some SDKs have written IVs other than the sequence number.
    pub(crate) fn parse(bytes: &[u8], due: u32, frame_len: u32) -> Result<Parsed<Self>, FormatError> {
        let Some(first) = u32_at(bytes, 0) else { return Ok(Parsed::Incomplete { needed: 4 }) };
        let is_final = first == FINAL_MARKER;
        let sequence = if is_final {
            let Some(sequence) = u32_at(bytes, 4) else { return Ok(Parsed::Incomplete { needed: 8 }) };
            sequence
        } else {
            first
        };
        if sequence != due {
            return Err(FormatError::Sequence { expected: due, found: sequence });
        }
        let (iv_offset, head_len) = if is_final { (8, FINAL_HEAD_LEN) } else { (4, REGULAR_HEAD_LEN) };
        let Some(head) = bytes.get(..head_len) else { return Ok(Parsed::Incomplete { needed: head_len }) };
        let content_len = if is_final { u32_at(head, 8 + IV_LEN).unwrap_or(u32::MAX) } else { frame_len };
        if content_len > frame_len {
            return Err(FormatError::FinalFrameLen { len: content_len, frame_len });
        }
        let kind = if is_final { FrameKind::Final } else { FrameKind::Regular };
        Ok(Parsed::Complete(Self { kind, sequence, content_len: content_len as usize, iv: iv_at(head, iv_offset) }))
    }

    /// Parses the head of a non-framed body.
    pub(crate) fn parse_block(bytes: &[u8], limits: &Limits) -> Result<Parsed<Self>, LimitError> {
        let Some(head) = bytes.first_chunk::<BLOCK_HEAD_LEN>() else {
            return Ok(Parsed::Incomplete { needed: BLOCK_HEAD_LEN });
        };
        let mut len = [0; 8];
        len.copy_from_slice(&head[IV_LEN..]);
        let content_len = limits.check_non_framed_len(u64::from_be_bytes(len))?;
        Ok(Parsed::Complete(Self { kind: FrameKind::Block, sequence: 1, content_len, iv: iv_at(head, 0) }))
    }
}

fn iv_at(head: &[u8], at: usize) -> [u8; IV_LEN] {
    let mut iv = [0; IV_LEN];
    iv.copy_from_slice(&head[at..at + IV_LEN]);
    iv
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// Returns the additional authenticated data of a frame: `message id || content string || sequence number || length`
/// (specification, `data-format/message-body-aad.md`).
pub(crate) fn body_aad(message_id: &[u8], head: &FrameHead) -> impl AsRef<[u8]> + use<> {
    let content = match head.kind {
        FrameKind::Regular => "AWSKMSEncryptionClient Frame",
        FrameKind::Final => "AWSKMSEncryptionClient Final Frame",
        FrameKind::Block => "AWSKMSEncryptionClient Single Block",
    };
    let mut aad = Aad { bytes: [0; _], len: 0 };
    aad.put(message_id);
    aad.put(content.as_bytes());
    aad.put(&head.sequence.to_be_bytes());
    aad.put(&(head.content_len as u64).to_be_bytes());
    aad
}

/// On the stack, because every frame has one. At most 32 + 35 + 4 + 8 bytes are used.
struct Aad {
    bytes: [u8; 80],
    len: usize,
}

impl Aad {
    fn put(&mut self, part: &[u8]) {
        self.bytes[self.len..self.len + part.len()].copy_from_slice(part);
        self.len += part.len();
    }
}

impl AsRef<[u8]> for Aad {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(non_framed_len: usize) -> Limits {
        Limits::default().with_non_framed_len(non_framed_len)
    }

    #[test]
    fn a_head_is_read_back_as_written_and_asks_for_more_until_then() {
        for head in [FrameHead::new(7, false, 100), FrameHead::new(8, true, 99), FrameHead::new(1, true, 0)] {
            let mut bytes = vec![0; head.len()];
            head.write(&mut bytes);
            assert_eq!(FrameHead::parse(&bytes, head.sequence, 100), Ok(Parsed::Complete(head)));
            for len in 0..bytes.len() {
                match FrameHead::parse(&bytes[..len], head.sequence, 100).unwrap() {
                    Parsed::Incomplete { needed } => assert!(len < needed && needed <= bytes.len(), "{len} {needed}"),
                    Parsed::Complete(head) => panic!("{len}: {head:?}"),
                }
            }
        }
    }

    #[test]
    fn a_block_is_read_with_the_length_that_it_claims_up_to_the_limit() {
        let head = FrameHead { kind: FrameKind::Block, ..FrameHead::new(1, true, 100) };
        let mut bytes = [0; BLOCK_HEAD_LEN];
        head.write(&mut bytes);
        assert_eq!(FrameHead::parse_block(&bytes, &limits(100)), Ok(Parsed::Complete(head)));
        assert_eq!(FrameHead::parse_block(&bytes, &limits(99)), Err(LimitError::NonFramedLen { len: 100, limit: 99 }));
        assert_eq!(FrameHead::parse_block(&bytes[..19], &limits(99)), Ok(Parsed::Incomplete { needed: 20 }));
        assert_eq!(body_aad(&[], &head).as_ref(), b"AWSKMSEncryptionClient Single Block\0\0\0\x01\0\0\0\0\0\0\0\x64");
    }

    #[test]
    fn a_block_that_memory_cannot_address_is_refused_whatever_the_limit() {
        let longest = isize::MAX.unsigned_abs() - BLOCK_OVERHEAD;
        let parsed = |len: usize| {
            let head = FrameHead { kind: FrameKind::Block, ..FrameHead::new(1, true, len) };
            let mut bytes = [0; BLOCK_HEAD_LEN];
            head.write(&mut bytes);
            FrameHead::parse_block(&bytes, &limits(usize::MAX))
        };
        assert!(
            matches!(parsed(longest), Ok(Parsed::Complete(head)) if head.sealed_len() == isize::MAX.unsigned_abs())
        );
        for len in [longest + 1, isize::MAX.unsigned_abs(), usize::MAX] {
            assert_eq!(parsed(len), Err(LimitError::NonFramedLen { len: len as u64, limit: usize::MAX }));
        }
    }

    #[test]
    fn a_final_frame_longer_than_a_frame_is_refused() {
        let mut bytes = [0; FINAL_HEAD_LEN];
        FrameHead::new(1, true, 101).write(&mut bytes);
        let refused = FrameHead::parse(&bytes, 1, 100);
        assert_eq!(refused, Err(FormatError::FinalFrameLen { len: 101, frame_len: 100 }));
    }

    #[test]
    fn a_frame_out_of_order_is_refused_as_soon_as_its_number_is_there() {
        let refused = FrameHead::parse(&[0, 0, 0, 3], 2, 100);
        assert_eq!(refused, Err(FormatError::Sequence { expected: 2, found: 3 }));
        assert!(FrameHead::parse(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 3], 2, 100).is_err());
    }

    #[test]
    fn the_authenticated_data_is_that_of_the_specification() {
        let aad = body_aad(b"id", &FrameHead::new(2, false, 10));
        assert_eq!(aad.as_ref(), b"idAWSKMSEncryptionClient Frame\0\0\0\x02\0\0\0\0\0\0\0\x0a");
        let aad = body_aad(&[7; 32], &FrameHead::new(2, true, 10));
        assert_eq!(aad.as_ref()[32..], *b"AWSKMSEncryptionClient Final Frame\0\0\0\x02\0\0\0\0\0\0\0\x0a");
    }
}
