//! Message in, plaintext out.

use std::fmt;

use subtle::ConstantTimeEq;

use super::{Threads, frame_cipher::FrameCipher};
use crate::{
    context::EncryptionContext,
    crypto::{Backend, MessageKeys},
    error::{FormatError, OpenError},
    message::{ContentType, EncryptedDataKey, FINAL_FRAME_OVERHEAD, FrameHead, Header, MessageId},
    provider::PlaintextDataKey,
    suite::AlgorithmSuite,
};

/// What is known, and authenticated, of a message besides its plaintext.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MessageInfo {
    /// The algorithm suite.
    pub suite: AlgorithmSuite,
    /// The random name of the message.
    pub message_id: MessageId,
    /// The whole encryption context: what the message stores, and the required pairs that were given.
    pub context: EncryptionContext,
    /// The encrypted data key that opened the message.
    pub encrypted_data_key: EncryptedDataKey,
    /// Its place among the header's encrypted data keys, from 0.
    pub encrypted_data_key_index: usize,
}

/// Opens one message, piece by piece, with no I/O of its own.
///
/// Made by [`Envelope::opener`](crate::Envelope::opener) from a header. The body goes in by
/// [`update`](Self::update), and plaintext comes out, frame by frame, each after its tag has verified.
/// [`finish`](Self::finish) says whether that was the whole message: until then, what came out is authentic but may
/// not be all.
///
/// ```
/// use kms_envelope::{Envelope, EncryptionContext, LocalKey, Limits, message::{Header, Parsed}};
///
/// # pollster::block_on(async {
/// let envelope = Envelope::new(LocalKey::generate("example", "key")?);
/// let context = EncryptionContext::new();
/// let message = envelope.seal(b"attack at dawn", &context).await?;
///
/// let Parsed::Complete(header) = Header::parse(&message, &Limits::default())? else { panic!("truncated") };
/// let mut opener = envelope.opener(&header, &context).await?;
/// let mut plaintext = Vec::new();
/// for piece in message[header.len()..].chunks(10) {
///     let start = plaintext.len();
///     plaintext.resize(start + opener.update_len(piece.len()), 0);
///     let written = opener.update(piece, &mut plaintext[start..])?;
///     plaintext.truncate(start + written);
/// }
/// opener.finish()?;
/// assert_eq!(plaintext, b"attack at dawn");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub struct Opener {
    info: MessageInfo,
    cipher: FrameCipher,
    /// The number of the next frame, from 1.
    sequence: u32,
    /// The start of the next frame, until all of it is there.
    held: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Frames,
    Ended,
    Failed,
}

impl Opener {
    /// Checks the header: its commitment to the data key first, then its tag. `context` is the whole context, and
    /// `required` the part of it that the message does not store.
    pub(crate) fn new(
        backend: Backend,
        threads: Threads,
        header: &Header,
        data_key: PlaintextDataKey,
        context: EncryptionContext,
        required: &EncryptionContext,
    ) -> Result<Self, OpenError> {
        let ContentType::Framed { frame_len } = header.content_type() else {
            return Err(OpenError::Unsupported { what: "a body without frames".into() });
        };
        let commitment = header.commitment().ok_or_else(|| unsupported_suite(header.suite()))?;
        let keys = MessageKeys::derive(backend, header.suite(), &data_key.key, header.message_id());
        if !bool::from(keys.commitment.ct_eq(commitment)) {
            return Err(OpenError::Commitment);
        }
        let (iv, authenticated, tag) = header.authentication();
        let aad = [authenticated, &required.serialize()?].concat();
        keys.encryption.open(iv, &aad, tag, &mut []).map_err(|_| OpenError::HeaderTag)?;
        let info = MessageInfo {
            suite: header.suite(),
            message_id: *header.message_id(),
            context,
            encrypted_data_key: header.encrypted_data_keys()[data_key.index].clone(),
            encrypted_data_key_index: data_key.index,
        };
        Ok(Self {
            info,
            cipher: FrameCipher::new(keys.encryption, *header.message_id(), frame_len, threads),
            sequence: 1,
            held: Vec::new(),
            state: State::Frames,
        })
    }

    /// What is authenticated of the message besides its plaintext.
    pub fn info(&self) -> &MessageInfo {
        &self.info
    }

    pub(crate) fn into_info(self) -> MessageInfo {
        self.info
    }

    pub(super) fn cipher(&self) -> &FrameCipher {
        &self.cipher
    }

    /// Goes on with the frame of this number, whatever came before.
    pub(super) fn restart(&mut self, sequence: u32) -> Result<(), OpenError> {
        if self.state == State::Failed {
            return Err(OpenError::FailedBefore);
        }
        self.held.clear();
        self.sequence = sequence;
        self.state = State::Frames;
        Ok(())
    }

    pub(super) fn into_parts(self) -> (MessageInfo, FrameCipher) {
        (self.info, self.cipher)
    }

    /// The plaintext bytes of a frame.
    pub fn frame_len(&self) -> usize {
        self.cipher.frame_len()
    }

    pub(crate) fn threads(&self) -> &Threads {
        self.cipher.threads()
    }

    /// How many bytes of the next frame are there already.
    pub(crate) fn held_len(&self) -> usize {
        self.held.len()
    }

    /// Whether the final frame has come, and verified. Anything that still follows is an error.
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// How many bytes [`update`](Self::update) may write, at most, for `sealed_len` bytes.
    pub fn update_len(&self, sealed_len: usize) -> usize {
        let len = self.held.len() + sealed_len;
        let frames = len / self.cipher.sealed_frame_len();
        let rest = (len % self.cipher.sealed_frame_len()).saturating_sub(FINAL_FRAME_OVERHEAD);
        frames * self.frame_len() + rest.min(self.frame_len())
    }

    /// Takes the next piece of the message's body, and writes the plaintext of the frames that it completes to the
    /// start of `out`. Gives the number of bytes written.
    ///
    /// # Errors
    /// [`OpenError::OutputTooShort`] where `out` is shorter than [`update_len`](Self::update_len) says; nothing is
    /// taken then. Any other error says why the message does not open: `out` is wiped, and the opener gives nothing
    /// but [`OpenError::FailedBefore`] from then on.
    pub fn update(&mut self, sealed: &[u8], out: &mut [u8]) -> Result<usize, OpenError> {
        let needed = self.update_len(sealed.len());
        if out.len() < needed {
            return Err(OpenError::OutputTooShort { len: out.len(), needed });
        }
        let opened = self.open_frames(sealed, out);
        if opened.is_err() {
            self.state = State::Failed;
            out.fill(0);
        }
        opened
    }

    fn open_frames(&mut self, mut sealed: &[u8], out: &mut [u8]) -> Result<usize, OpenError> {
        let mut written = 0;
        loop {
            if self.state == State::Failed {
                return Err(OpenError::FailedBefore);
            }
            if self.held.is_empty() && sealed.is_empty() {
                return Ok(written);
            }
            if self.state == State::Ended {
                return Err(FormatError::TrailingBytes.into());
            }
            if self.held.is_empty() && self.threads().count() > 1 {
                let frames = self.cipher.open_all(self.sequence, sealed, &mut out[written..])?;
                sealed = &sealed[frames * self.cipher.sealed_frame_len()..];
                written += frames * self.frame_len();
                // There are no more than the sequence numbers that they have.
                self.sequence += u32::try_from(frames).unwrap_or(0);
                if sealed.is_empty() {
                    return Ok(written);
                }
            }
            // From the caller's memory, where the whole frame is there.
            let from_held = !self.held.is_empty();
            let bytes = if from_held { &self.held } else { sealed };
            let head = self.cipher.head(bytes, self.sequence)?;
            let needed = head.as_ref().map_or_else(|needed| *needed, FrameHead::sealed_len);
            match (head, bytes.get(..needed)) {
                (Ok(head), Some(frame)) => {
                    written += self.cipher.open(&head, frame, &mut out[written..])?;
                    if from_held {
                        self.held.clear();
                    } else {
                        sealed = &sealed[needed..];
                    }
                    if head.is_final {
                        self.state = State::Ended;
                    } else {
                        // Never wraps: u32::MAX marks a final frame.
                        self.sequence += 1;
                    }
                }
                _ if sealed.is_empty() => return Ok(written),
                _ => {
                    let (piece, rest) = sealed.split_at(sealed.len().min(needed - self.held.len()));
                    self.held.extend_from_slice(piece);
                    sealed = rest;
                }
            }
        }
    }

    /// Whether the message is complete.
    ///
    /// # Errors
    /// [`FormatError::Truncated`] where its end has not come, [`OpenError::FailedBefore`] where it failed to open.
    pub fn finish(&self) -> Result<(), OpenError> {
        match self.state {
            State::Ended => Ok(()),
            State::Failed => Err(OpenError::FailedBefore),
            State::Frames if self.held.is_empty() => {
                let place = format!("front of frame {}: its final frame is missing", self.sequence);
                Err(FormatError::Truncated(place.into()).into())
            }
            State::Frames => Err(FormatError::Truncated(format!("frame {}", self.sequence).into()).into()),
        }
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener")
            .field("info", &self.info)
            .field("frame_len", &self.frame_len())
            .field("sequence", &self.sequence)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

pub(crate) fn unsupported_suite(suite: AlgorithmSuite) -> OpenError {
    OpenError::Unsupported { what: format!("the algorithm suite {suite}") }
}
