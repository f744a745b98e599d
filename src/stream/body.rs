//! The body of a message that is being opened: frames, or a non-framed body.

use super::frame_cipher::{BodyCipher, FrameCipher};
use crate::{
    error::OpenError,
    message::{BLOCK_OVERHEAD, FINAL_FRAME_OVERHEAD, FrameHead, Limits, Parsed},
};

pub(super) enum Body {
    /// Frames. `due` is the sequence number of the next frame, from 1.
    Frames { cipher: FrameCipher, due: u32 },
    /// A non-framed body, which is one piece.
    NonFramed { cipher: BodyCipher, limits: Limits },
}

impl Body {
    /// Parses the head of the next frame, or of a non-framed body, at the start of `bytes`.
    pub(super) fn head(&self, bytes: &[u8]) -> Result<Parsed<FrameHead>, OpenError> {
        Ok(match self {
            Self::Frames { cipher, due } => cipher.head(bytes, *due)?,
            Self::NonFramed { limits, .. } => FrameHead::parse_block(bytes, limits)?,
        })
    }

    /// Returns the cipher for a single frame, or for the non-framed body.
    pub(super) fn cipher(&self) -> &BodyCipher {
        match self {
            Self::Frames { cipher, .. } => cipher.single(),
            Self::NonFramed { cipher, .. } => cipher,
        }
    }

    pub(super) fn frames(&self) -> Option<&FrameCipher> {
        match self {
            Self::Frames { cipher, .. } => Some(cipher),
            Self::NonFramed { .. } => None,
        }
    }

    /// Returns the maximum plaintext length of `sealed_len` bytes that start at the next frame.
    pub(super) fn plaintext_len(&self, sealed_len: usize) -> usize {
        match self {
            Self::Frames { cipher, .. } => {
                let (frames, rest) = (sealed_len / cipher.sealed_frame_len(), sealed_len % cipher.sealed_frame_len());
                frames * cipher.frame_len() + rest.saturating_sub(FINAL_FRAME_OVERHEAD).min(cipher.frame_len())
            }
            Self::NonFramed { .. } => sealed_len.saturating_sub(BLOCK_OVERHEAD),
        }
    }

    /// Describes where a message that ends here is truncated, for
    /// [`FormatError::Truncated`](crate::error::FormatError).
    pub(super) fn truncation_point(&self, has_begun: bool) -> String {
        match self {
            Self::Frames { due, .. } if has_begun => format!("frame {due}"),
            Self::Frames { due, .. } => format!("the body before frame {due}; the final frame is missing"),
            Self::NonFramed { .. } => "the body".into(),
        }
    }
}
