//! Single frames, each by its position alone: no state, so frames can be sealed and opened in any order.

use crate::{
    crypto::AesGcm,
    error::OpenError,
    message::{FrameHead, MessageId, body_aad},
};

/// Seals and opens the frames of one message.
#[derive(Debug)]
pub(crate) struct FrameCipher {
    key: AesGcm,
    message_id: MessageId,
}

impl FrameCipher {
    pub(crate) fn new(key: AesGcm, message_id: MessageId) -> Self {
        Self { key, message_id }
    }

    /// Writes the frame to the start of `out`, which has room for it, and gives its length in bytes.
    pub(crate) fn seal(&self, sequence: u32, is_final: bool, plaintext: &[u8], out: &mut [u8]) -> usize {
        let content_len = u32::try_from(plaintext.len()).expect("a frame length is a u32");
        let head = FrameHead::new(sequence, is_final, content_len);
        let out = &mut out[..head.sealed_len()];
        head.write(out);
        let aad = body_aad(self.message_id.as_bytes(), &head);
        self.key.seal(&head.iv, aad.as_ref(), plaintext, &mut out[head.len()..]);
        out.len()
    }

    /// Writes the plaintext of a whole frame, whose head has been read, to the start of `out`, which has room for
    /// it, and gives its length in bytes. Where the frame does not authenticate, nothing of it is written.
    pub(crate) fn open(&self, head: &FrameHead, frame: &[u8], out: &mut [u8]) -> Result<usize, OpenError> {
        let out = &mut out[..head.content_len as usize];
        let aad = body_aad(self.message_id.as_bytes(), head);
        self.key
            .open(&head.iv, aad.as_ref(), &frame[head.len()..], out)
            .map_err(|_| OpenError::FrameTag { sequence: head.sequence })?;
        Ok(out.len())
    }
}
