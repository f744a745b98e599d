//! Message in, plaintext out.

use std::{fmt, num::NonZeroU32};

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use super::{Threads, buffer::extend_within, frame_cipher::FrameCipher, signature::SignatureCheck};
use crate::{
    context::EncryptionContext,
    crypto::{AesGcm, Backend, Dialect, MessageKeys, SecretKey, VerifyingKey},
    error::{FormatError, OpenError},
    message::{
        BLOCK_OVERHEAD, ContentType, EncryptedDataKey, FINAL_FRAME_OVERHEAD, FOOTER_OVERHEAD, FrameHead, Header,
        MessageId, Parsed, parse_footer,
    },
    suite::AlgorithmSuite,
};

/// What is known of a message besides its plaintext, once its header has verified. All of it is authenticated, except
/// for a detached encrypted data key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MessageInfo {
    /// The algorithm suite.
    pub suite: AlgorithmSuite,
    /// The random name of the message.
    pub message_id: MessageId,
    /// The whole encryption context: what the message stores, and the required pairs that were given. A signed message
    /// stores its public key in it, under `aws-crypto-public-key`.
    pub context: EncryptionContext,
    /// The encrypted data key that opened the message: one of the header's, which is authenticated, or a
    /// [detached](crate::Envelope::with_detached_keys) one. The header proves the data key that a detached one holds,
    /// but its own bytes, names and place are not authenticated.
    pub encrypted_data_key: EncryptedDataKey,
    /// Its place among the header's encrypted data keys, or the detached ones, from 0.
    pub encrypted_data_key_index: usize,
    /// What decrypted it: the ARN of the KMS key that was asked, which for a multi-region key may be another region's
    /// than the message names; `namespace/name` of a local key.
    pub key_id: String,
}

/// Opens one message, piece by piece, with no I/O of its own.
///
/// Made by [`Envelope::opener`](crate::Envelope::opener) from a header. The body goes in by
/// [`update`](Self::update), and plaintext comes out, frame by frame, each after its tag has verified.
/// [`finish`](Self::finish) says whether that was the whole message: until then, what came out is authentic but may
/// not be all. Of a signed message, the final frame comes out only when the signature has verified: what came before
/// it was made by somebody who has the data key, but not necessarily by who signed.
///
/// The body of a message without frames comes out whole, at its end.
///
/// ```
/// use kms_envelope::{EncryptionContext, Envelope, Limits, RawAes, message::Header};
///
/// # pollster::block_on(async {
/// let envelope = Envelope::new(RawAes::generate("example", "key")?);
/// let context = EncryptionContext::new();
/// let message = envelope.seal(b"attack at dawn", &context).await?;
///
/// let header = Header::parse(&message, &Limits::default())?;
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
    /// The most bytes of a body without frames, where the message has one.
    block_limit: Option<usize>,
    /// The number of the next frame, from 1.
    sequence: u32,
    /// The start of the next frame, or of the footer, until all of it is there.
    held: Vec<u8>,
    /// Of suites that sign.
    signature: Option<SignatureCheck>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Body,
    Footer,
    Ended,
    Failed,
}

/// Verifies a message's header under a data key: its commitment to that key first, then its tag. Returns the key of the
/// body. `not_stored` is the part of the encryption context that the message does not store.
pub(crate) fn authenticate(
    header: &Header,
    data_key: &SecretKey,
    not_stored: &EncryptionContext,
    backend: Backend,
    accepts_net_4_0_0: bool,
) -> Result<AesGcm, OpenError> {
    let authenticate = |dialect| {
        let keys = MessageKeys::derive(backend, header.suite(), data_key, header.message_id(), dialect);
        if let Some((derived, stored)) = keys.commitment.as_ref().zip(header.commitment())
            && !bool::from(derived.ct_eq(stored))
        {
            return Err(OpenError::Commitment);
        }
        let (iv, authenticated, tag) = header.authentication();
        let mut aad = [authenticated, &not_stored.serialize()?].concat();
        if dialect == Dialect::Net400 && not_stored.is_empty() {
            aad.extend([0, 0]);
        }
        keys.encryption.open(iv, &aad, tag, &mut []).map_err(|_| OpenError::HeaderTag)?;
        Ok(keys.encryption)
    };
    match authenticate(Dialect::Specification) {
        Err(OpenError::HeaderTag) if accepts_net_4_0_0 => authenticate(Dialect::Net400),
        authenticated => authenticated,
    }
}

/// What an opener is made from.
#[derive(Debug)]
pub(crate) struct OpenerParts<'a> {
    pub(crate) header: &'a Header,
    /// What [`authenticate`] returned for the header.
    pub(crate) key: AesGcm,
    pub(crate) info: MessageInfo,
    /// Of suites that sign.
    pub(crate) verifying_key: Option<VerifyingKey>,
    pub(crate) threads: Threads,
    /// The most bytes of a body without frames.
    pub(crate) non_framed_len: usize,
}

/// What is read at once of a body without frames.
const BLOCK_PIECE: NonZeroU32 = NonZeroU32::new(65_536).expect("it is not zero");

impl Opener {
    pub(crate) fn new(parts: OpenerParts<'_>) -> Self {
        let OpenerParts { header, key, info, verifying_key, threads, non_framed_len } = parts;
        let (frame_len, block_limit) = match header.content_type() {
            ContentType::Framed { frame_len } => (frame_len, None),
            ContentType::NonFramed => (BLOCK_PIECE, Some(non_framed_len)),
        };
        let mut signature =
            header.suite().signature().zip(verifying_key).map(|(algorithm, key)| SignatureCheck::new(key, algorithm));
        if let Some(signature) = &mut signature {
            signature.update(header.as_bytes());
        }
        let cipher = FrameCipher::new(key, *header.message_id(), frame_len, threads);
        Self { info, cipher, block_limit, sequence: 1, held: Vec::new(), signature, state: State::Body }
    }

    /// Returns what is known of the message besides its plaintext.
    pub fn info(&self) -> &MessageInfo {
        &self.info
    }

    pub(crate) fn into_info(self) -> MessageInfo {
        self.info
    }

    pub(super) fn cipher(&self) -> &FrameCipher {
        &self.cipher
    }

    /// See [`check_seekable`].
    pub(super) fn check_seekable(&self) -> Result<(), OpenError> {
        check_seekable(self.info.suite, self.block_limit.is_none())
    }

    /// Goes on with the frame of this number, whatever came before.
    pub(super) fn restart(&mut self, sequence: u32) -> Result<(), OpenError> {
        self.check_not_failed()?;
        self.held.clear();
        self.sequence = sequence;
        self.state = State::Body;
        Ok(())
    }

    pub(super) fn into_parts(self) -> (MessageInfo, FrameCipher) {
        (self.info, self.cipher)
    }

    /// The plaintext bytes of a frame. Of a message without frames: how many are best given at once.
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

    /// Whether the end of the message has come, and verified. Anything that still follows is an error.
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Returns how many bytes [`update`](Self::update) may write, at most, for `sealed_len` bytes: zero where they do
    /// not complete the frame that has begun.
    pub fn update_len(&self, sealed_len: usize) -> usize {
        let len = self.held.len().saturating_add(sealed_len);
        match self.state {
            State::Body => self.body_len(len),
            State::Footer => match parse_footer(&self.held) {
                Parsed::Incomplete { needed } if len < needed => 0,
                _ => self.signature.as_ref().map_or(0, |signature| signature.kept_back.len()),
            },
            State::Ended | State::Failed => 0,
        }
    }

    /// The most plaintext that the next `len` bytes of the body can give, of which the first are held.
    fn body_len(&self, len: usize) -> usize {
        match self.head(&self.held).ok() {
            Some(Parsed::Complete(head)) => match len.checked_sub(head.sealed_len()) {
                None => 0,
                // It is kept back until a footer is there too.
                Some(rest) if head.is_last() && self.signature.is_some() && rest < FOOTER_OVERHEAD => 0,
                Some(_) if head.is_last() => head.content_len,
                Some(rest) => head.content_len + self.frames_len(rest),
            },
            _ if self.block_limit.is_some() => len.saturating_sub(BLOCK_OVERHEAD),
            _ => self.frames_len(len),
        }
    }

    /// The most plaintext that frames of `len` bytes hold, the first of which begins with them.
    fn frames_len(&self, len: usize) -> usize {
        let (frames, rest) = (len / self.cipher.sealed_frame_len(), len % self.cipher.sealed_frame_len());
        frames * self.frame_len() + rest.saturating_sub(FINAL_FRAME_OVERHEAD).min(self.frame_len())
    }

    /// Takes the next piece of the message's body, and writes the plaintext of the frames that it completes to the
    /// start of `out`. Gives the number of bytes written.
    ///
    /// # Errors
    /// [`OpenError::OutputTooShort`] where `out` is shorter than [`update_len`](Self::update_len) says; nothing is
    /// taken then. Any other error says why the message does not open: `out` is wiped, and the opener gives nothing
    /// but [`OpenError::FailedBefore`] from then on.
    pub fn update(&mut self, sealed: &[u8], out: &mut [u8]) -> Result<usize, OpenError> {
        self.check_not_failed()?;
        let needed = self.update_len(sealed.len());
        if out.len() < needed {
            return Err(OpenError::OutputTooShort { len: out.len(), needed });
        }
        let opened = self.open_frames(sealed, out);
        if opened.is_err() {
            self.fail();
            out.fill(0);
        }
        opened
    }

    /// An error where the message has failed to open.
    pub(super) fn check_not_failed(&self) -> Result<(), OpenError> {
        if self.state == State::Failed { Err(OpenError::FailedBefore) } else { Ok(()) }
    }

    /// Gives nothing any more but [`OpenError::FailedBefore`].
    pub(super) fn fail(&mut self) {
        self.state = State::Failed;
    }

    fn open_frames(&mut self, mut sealed: &[u8], out: &mut [u8]) -> Result<usize, OpenError> {
        let mut written = 0;
        loop {
            if self.held.is_empty() && sealed.is_empty() {
                return Ok(written);
            }
            if self.state == State::Ended {
                return Err(FormatError::TrailingBytes.into());
            }
            if self.state == State::Body && self.held.is_empty() && self.threads().count() > 1 {
                written += self.open_regular(&mut sealed, &mut out[written..])?;
                if sealed.is_empty() {
                    return Ok(written);
                }
            }
            // From the caller's memory, where the whole frame or footer is there.
            let held = std::mem::take(&mut self.held);
            let bytes = if held.is_empty() { sealed } else { &held };
            let opened = if self.state == State::Body {
                self.open_frame(bytes, &mut out[written..])?
            } else {
                self.verify_footer(bytes, &mut out[written..])?
            };
            let from_held = !held.is_empty();
            self.held = held;
            match opened {
                Parsed::Complete(Opened { taken, given }) => {
                    written += given;
                    if from_held {
                        self.held.clear();
                    } else {
                        sealed = &sealed[taken..];
                    }
                }
                Parsed::Incomplete { .. } if sealed.is_empty() => return Ok(written),
                Parsed::Incomplete { needed } => self.hold(&mut sealed, needed),
            }
        }
    }

    /// Opens the regular frames at the start of `sealed` at once, on several threads, and takes them from it. Gives
    /// the number of bytes written.
    fn open_regular(&mut self, sealed: &mut &[u8], out: &mut [u8]) -> Result<usize, OpenError> {
        if self.block_limit.is_some() {
            return Ok(0);
        }
        let (regular, rest) = sealed.split_at(self.cipher.regular_len(self.sequence, sealed));
        let cipher = &self.cipher;
        let frames = match &mut self.signature {
            None => cipher.open_all(self.sequence, regular, out)?,
            Some(signature) => {
                let open = || cipher.open_all(self.sequence, regular, out);
                let (frames, ()) = cipher.threads().join(open, || signature.update(regular));
                frames?
            }
        };
        *sealed = rest;
        // There are no more than the sequence numbers that they have.
        self.sequence += u32::try_from(frames).unwrap_or(0);
        Ok(frames * self.frame_len())
    }

    /// Opens the frame at the start of `bytes`.
    fn open_frame(&mut self, bytes: &[u8], out: &mut [u8]) -> Result<Parsed<Opened>, OpenError> {
        let head = match self.head(bytes)? {
            Parsed::Complete(head) => head,
            Parsed::Incomplete { needed } => return Ok(Parsed::Incomplete { needed }),
        };
        let Some(frame) = bytes.get(..head.sealed_len()) else {
            return Ok(Parsed::Incomplete { needed: head.sealed_len() });
        };
        if let Some(signature) = &mut self.signature {
            signature.update(frame);
        }
        let given = match &mut self.signature {
            Some(signature) if head.is_last() => {
                signature.kept_back.0 = Zeroizing::new(vec![0; head.content_len]);
                self.cipher.open(&head, frame, &mut signature.kept_back.0)?;
                0
            }
            _ => self.cipher.open(&head, frame, out)?,
        };
        self.go_on_after(&head);
        Ok(Parsed::Complete(Opened { taken: frame.len(), given }))
    }

    fn go_on_after(&mut self, head: &FrameHead) {
        if !head.is_last() {
            // Never wraps: u32::MAX marks a final frame.
            self.sequence += 1;
        } else if self.signature.is_some() {
            self.state = State::Footer;
        } else {
            self.state = State::Ended;
        }
    }

    /// Completes the frame that is held, if there is one, with bytes from the start of `sealed`, which it takes from it,
    /// and opens it in its own memory. Returns the plaintext: nothing, where the frame is not complete yet or is kept
    /// back. The rest is for [`update`](Self::update).
    #[cfg(feature = "stream")]
    pub(super) fn complete_held(&mut self, sealed: &mut &[u8]) -> Result<bytes::Bytes, OpenError> {
        self.check_not_failed()?;
        let opened = self.complete_frame(sealed);
        if opened.is_err() {
            self.fail();
        }
        opened
    }

    #[cfg(feature = "stream")]
    fn complete_frame(&mut self, sealed: &mut &[u8]) -> Result<bytes::Bytes, OpenError> {
        while self.state == State::Body && !self.held.is_empty() {
            let (head, needed) = match self.head(&self.held)? {
                Parsed::Complete(head) => (Some(head), head.sealed_len()),
                Parsed::Incomplete { needed } => (None, needed),
            };
            match head {
                Some(head) if self.held.len() == needed && !(head.is_last() && self.signature.is_some()) => {
                    let mut frame = std::mem::take(&mut self.held);
                    if let Some(signature) = &mut self.signature {
                        signature.update(&frame);
                    }
                    let plaintext = self.cipher.open_in_place(&head, &mut frame)?;
                    self.go_on_after(&head);
                    return Ok(bytes::Bytes::from(frame).slice(plaintext));
                }
                _ if self.held.len() == needed || sealed.is_empty() => break,
                _ => self.hold(sealed, needed),
            }
        }
        Ok(bytes::Bytes::new())
    }

    /// The head of the frame that is due, or of the body without frames, at the start of `bytes`.
    fn head(&self, bytes: &[u8]) -> Result<Parsed<FrameHead>, OpenError> {
        Ok(match self.block_limit {
            Some(limit) => FrameHead::parse_block(bytes, limit)?,
            None => self.cipher.head(bytes, self.sequence)?,
        })
    }

    /// Moves bytes from the start of `sealed` to those that are held, until those are as many as needed.
    fn hold(&mut self, sealed: &mut &[u8], needed: usize) {
        let (piece, rest) = sealed.split_at(sealed.len().min(needed - self.held.len()));
        // The next frame may be the final one, which is longer by a few bytes.
        let max = needed.max(self.frame_len() + FINAL_FRAME_OVERHEAD);
        extend_within(&mut self.held, piece, max);
        *sealed = rest;
    }

    /// Verifies the footer at the start of `bytes`. Then nothing is kept back any more.
    fn verify_footer(&mut self, bytes: &[u8], out: &mut [u8]) -> Result<Parsed<Opened>, OpenError> {
        let Some(signature) = &mut self.signature else { return Err(FormatError::TrailingBytes.into()) };
        let taken = match signature.verify(bytes)? {
            Parsed::Complete(taken) => taken,
            Parsed::Incomplete { needed } => return Ok(Parsed::Incomplete { needed }),
        };
        let given = signature.kept_back.len();
        out[..given].copy_from_slice(&signature.kept_back.0);
        signature.kept_back.0.zeroize();
        self.state = State::Ended;
        Ok(Parsed::Complete(Opened { taken, given }))
    }

    /// Says that nothing follows: the message is complete, or it is truncated.
    ///
    /// # Errors
    /// [`FormatError::Truncated`] where its end has not come, and [`OpenError::FailedBefore`] where it failed to open,
    /// or was truncated, before.
    pub fn finish(&mut self) -> Result<(), OpenError> {
        let place = match self.state {
            State::Ended => return Ok(()),
            State::Failed => return Err(OpenError::FailedBefore),
            State::Footer => "its signature".into(),
            State::Body if self.block_limit.is_some() => "its body".into(),
            State::Body if self.held.is_empty() => {
                format!("front of frame {}: its final frame is missing", self.sequence)
            }
            State::Body => format!("frame {}", self.sequence),
        };
        self.fail();
        Err(FormatError::Truncated(place.into()).into())
    }
}

/// What was opened.
struct Opened {
    /// How many bytes of the message that was.
    taken: usize,
    /// How many bytes of plaintext were written.
    given: usize,
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

/// An error where no part of a message can be opened without the rest.
pub(crate) fn check_seekable(suite: AlgorithmSuite, has_frames: bool) -> Result<(), OpenError> {
    match (suite.signature(), has_frames) {
        (Some(_), _) => Err(OpenError::NotSeekable { what: "is signed" }),
        (None, false) => Err(OpenError::NotSeekable { what: "has no frames" }),
        (None, true) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::*;
    use crate::{
        CommitmentPolicy, Envelope, RawAes,
        message::{EncryptedDataKey, HeaderFields, Limits, put_authentication},
        provider::SecretKey,
        provider::{EncryptDataKeyRequest, KeyProvider},
    };

    fn provider() -> RawAes {
        RawAes::new("tests", "key", [7; 32]).unwrap()
    }

    /// A message as AWS's SDK for .NET 4.0.0 sealed it: the tag of its header is over two zero bytes more, and without
    /// commitment, its key depends on the suite alone.
    fn by_net_4_0_0(suite: AlgorithmSuite, context: &EncryptionContext) -> Vec<u8> {
        let data_key = SecretKey::try_from(vec![5; suite.data_key_len()]).unwrap();
        let request = EncryptDataKeyRequest::new(suite, context, &data_key);
        let encrypted: Vec<EncryptedDataKey> = block_on(provider().encrypt_data_key(&request)).unwrap();
        let version = suite.message_version();
        let message_id = MessageId::from_bytes(version, &[9; 32][..version.message_id_len()]);
        let keys = MessageKeys::derive(Backend::default(), suite, &data_key, &message_id, Dialect::Net400);
        let mut message = HeaderFields {
            suite,
            message_id: &message_id,
            context,
            encrypted_data_keys: &encrypted,
            frame_len: 16,
            commitment: keys.commitment,
        }
        .write()
        .unwrap();
        let mut tag = [0; 16];
        keys.encryption.seal(&[0; 12], &[&message[..], &[0, 0]].concat(), &[], &mut tag);
        put_authentication(&mut message, version, &tag);
        let cipher = FrameCipher::new(keys.encryption, message_id, NonZeroU32::MIN.saturating_add(15), Threads::One);
        let mut frame = [0; 4 + FINAL_FRAME_OVERHEAD];
        cipher.seal(1, true, b"data", &mut frame);
        [&message[..], &frame].concat()
    }

    #[test]
    fn what_net_4_0_0_sealed_opens_where_that_is_asked_for_and_nothing_else_does() {
        let context = EncryptionContext::from([("tenant", "acme")]);
        for suite in AlgorithmSuite::all().filter(|suite| suite.signature().is_none()) {
            let builder =
                || Envelope::builder(provider()).commitment_policy(CommitmentPolicy::RequireEncryptAllowDecrypt);
            let (strict, accepting) = (builder().build().unwrap(), builder().accept_esdk_net_4_0_0().build().unwrap());
            let message = by_net_4_0_0(suite, &context);
            assert!(matches!(block_on(strict.open(&message, &context)), Err(OpenError::HeaderTag)), "{suite}");
            assert_eq!(block_on(accepting.open(&message, &context)).unwrap().plaintext, b"data", "{suite}");

            let header = Header::parse(&message, &Limits::default()).unwrap();
            for at in 0..message.len() {
                let mut changed = message.clone();
                changed[at] ^= 1;
                assert!(block_on(accepting.open(&changed, &context)).is_err(), "{suite} {at} of {}", header.len());
            }
        }
    }
}
