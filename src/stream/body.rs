//! The body of a message that is being opened: frames, or a single block.

use super::frame_cipher::{BodyCipher, FrameCipher};
use crate::{
    error::OpenError,
    message::{BLOCK_OVERHEAD, FINAL_FRAME_OVERHEAD, FrameHead, Limits, Parsed},
};

pub(super) enum Body {
    /// Frames, up to the final one. The number of the one that is due, from 1.
    Frames { cipher: FrameCipher, due: u32 },
    /// The whole body of a message without frames.
    Block { cipher: BodyCipher, limits: Limits },
}

impl Body {
    /// The head of the frame that is due, or of the block, at the start of `bytes`.
    pub(super) fn head(&self, bytes: &[u8]) -> Result<Parsed<FrameHead>, OpenError> {
        Ok(match self {
            Self::Frames { cipher, due } => cipher.head(bytes, *due)?,
            Self::Block { limits, .. } => FrameHead::parse_block(bytes, limits)?,
        })
    }

    /// What opens the frame or the block with this head.
    pub(super) fn cipher(&self) -> &BodyCipher {
        match self {
            Self::Frames { cipher, .. } => cipher.single(),
            Self::Block { cipher, .. } => cipher,
        }
    }

    pub(super) fn frames(&self) -> Option<&FrameCipher> {
        match self {
            Self::Frames { cipher, .. } => Some(cipher),
            Self::Block { .. } => None,
        }
    }

    /// The most plaintext that so many bytes can give, where what is due begins with them.
    pub(super) fn plaintext_len(&self, sealed_len: usize) -> usize {
        match self {
            Self::Frames { cipher, .. } => {
                let (frames, rest) = (sealed_len / cipher.sealed_frame_len(), sealed_len % cipher.sealed_frame_len());
                frames * cipher.frame_len() + rest.saturating_sub(FINAL_FRAME_OVERHEAD).min(cipher.frame_len())
            }
            Self::Block { .. } => sealed_len.saturating_sub(BLOCK_OVERHEAD),
        }
    }

    /// Where a message is cut off that ends here.
    pub(super) fn place(&self, has_begun: bool) -> String {
        match self {
            Self::Frames { due, .. } if has_begun => format!("frame {due}"),
            Self::Frames { due, .. } => format!("front of frame {due}: its final frame is missing"),
            Self::Block { .. } => "its body".into(),
        }
    }
}
