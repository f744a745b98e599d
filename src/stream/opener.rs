//! Message in, plaintext out.

use std::fmt;

use subtle::ConstantTimeEq;

use super::{
    Threads,
    body::Body,
    buffer::extend_within,
    frame_cipher::{BodyCipher, FrameCipher},
    signature::SignatureGate,
};
use crate::{
    context::EncryptionContext,
    crypto::{AesGcm, Backend, Dialect, MessageKeys, SecretKey, VerifyingKey},
    error::{FormatError, OpenError},
    message::{
        ContentType, EncryptedDataKey, FINAL_FRAME_OVERHEAD, FOOTER_OVERHEAD, FrameHead, Header, Limits, MessageId,
        Parsed, parse_footer,
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
    body: Body,
    /// Of suites that sign.
    gate: Option<SignatureGate>,
    /// The start of what is [due](Self::due), until all of it is there.
    held: Vec<u8>,
    /// How many bytes must be held before it makes sense to look at them.
    needed: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    Failed,
}

/// What comes next in a message.
struct Due {
    /// Of a frame or the block. A footer has none.
    head: Option<FrameHead>,
    sealed_len: usize,
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
    pub(crate) limits: Limits,
}

impl Opener {
    pub(crate) fn new(parts: OpenerParts<'_>) -> Self {
        let OpenerParts { header, key, info, verifying_key, threads, limits } = parts;
        let cipher = BodyCipher { key, message_id: *header.message_id() };
        let body = match header.content_type() {
            ContentType::Framed { frame_len } => {
                Body::Frames { cipher: FrameCipher::new(cipher, frame_len, threads), due: 1 }
            }
            ContentType::NonFramed => Body::Block { cipher, limits },
        };
        let gate = header.suite().signature().zip(verifying_key).map(|(algorithm, key)| {
            let mut gate = SignatureGate::new(key, algorithm);
            gate.update(header.as_bytes());
            gate
        });
        Self { info, body, gate, held: Vec::new(), needed: 0, state: State::Open }
    }

    /// Returns what is known of the message besides its plaintext.
    pub fn info(&self) -> &MessageInfo {
        &self.info
    }

    pub(crate) fn into_info(self) -> MessageInfo {
        self.info
    }

    /// The cipher of the frames, if the message has any.
    pub(super) fn cipher(&self) -> Option<&FrameCipher> {
        self.body.frames()
    }

    /// See [`seekable`].
    pub(super) fn seekable(&self) -> Result<&FrameCipher, OpenError> {
        seekable(self.info.suite, self.cipher())
    }

    /// See [`seekable`].
    pub(super) fn into_parts(self) -> Result<(MessageInfo, FrameCipher), OpenError> {
        let cipher = match self.body {
            Body::Frames { cipher, .. } => Some(cipher),
            Body::Block { .. } => None,
        };
        let cipher = seekable(self.info.suite, cipher)?;
        Ok((self.info, cipher))
    }

    /// Goes on with the frame of this number, whatever came before.
    pub(super) fn restart(&mut self, sequence: u32) -> Result<(), OpenError> {
        self.check_not_failed()?;
        self.seekable()?;
        if let Body::Frames { due, .. } = &mut self.body {
            *due = sequence;
        }
        self.held.clear();
        self.state = State::Open;
        Ok(())
    }

    /// Returns the plaintext bytes of a frame, or `None` for a message without frames.
    pub fn frame_len(&self) -> Option<usize> {
        self.cipher().map(FrameCipher::frame_len)
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
        if self.is_incomplete(len) {
            return 0;
        }
        match (self.state, self.kept_back_len()) {
            (State::Open, None) => self.body_len(len),
            (State::Open, Some(kept_back_len)) => match parse_footer(&self.held) {
                Parsed::Incomplete { needed } if len < needed => 0,
                _ => kept_back_len,
            },
            (State::Ended | State::Failed, _) => 0,
        }
    }

    /// The most plaintext that the next `len` bytes of the body can give, of which the first are held.
    fn body_len(&self, len: usize) -> usize {
        let Ok(Parsed::Complete(head)) = self.body.head(&self.held) else { return self.body.plaintext_len(len) };
        match len.checked_sub(head.sealed_len()) {
            None => 0,
            // It is kept back until a footer is there too.
            Some(rest) if head.is_last() && self.gate.is_some() && rest < FOOTER_OVERHEAD => 0,
            Some(_) if head.is_last() => head.content_len,
            Some(rest) => head.content_len + self.body.plaintext_len(rest),
        }
    }

    /// Whether what is held needs more than so many bytes, as far as is known without another look at it.
    fn is_incomplete(&self, len: usize) -> bool {
        !self.held.is_empty() && len < self.needed
    }

    fn kept_back_len(&self) -> Option<usize> {
        self.gate.as_ref().and_then(SignatureGate::kept_back_len)
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
        let opened = self.open_pieces(sealed, out);
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

    fn open_pieces(&mut self, mut sealed: &[u8], out: &mut [u8]) -> Result<usize, OpenError> {
        let mut written = 0;
        loop {
            written += self.open_regular(&mut sealed, &mut out[written..])?;
            // From the caller's memory, where all of it is there.
            let is_held = !self.held.is_empty();
            match self.due(sealed)? {
                Parsed::Complete(due) if is_held => {
                    let mut held = std::mem::take(&mut self.held);
                    written += self.open_due(&due, &held, &mut out[written..])?;
                    held.clear();
                    self.held = held;
                }
                Parsed::Complete(due) => {
                    let (bytes, rest) = sealed.split_at(due.sealed_len);
                    written += self.open_due(&due, bytes, &mut out[written..])?;
                    sealed = rest;
                }
                Parsed::Incomplete { .. } if sealed.is_empty() => return Ok(written),
                Parsed::Incomplete { needed } => self.hold(&mut sealed, needed),
            }
        }
    }

    /// What comes next, if all of it is held or, where nothing is held, at the start of `sealed`.
    fn due(&self, sealed: &[u8]) -> Result<Parsed<Due>, OpenError> {
        if self.is_incomplete(self.held.len()) {
            return Ok(Parsed::Incomplete { needed: self.needed });
        }
        let bytes = if self.held.is_empty() { sealed } else { &self.held };
        let due = match self.kept_back_len() {
            _ if self.state == State::Ended && !bytes.is_empty() => return Err(FormatError::TrailingBytes.into()),
            None => self.body.head(bytes)?.map(|head| Due { sealed_len: head.sealed_len(), head: Some(head) }),
            Some(_) => {
                parse_footer(bytes).map(|signature| Due { sealed_len: FOOTER_OVERHEAD + signature.len(), head: None })
            }
        };
        Ok(match due {
            Parsed::Complete(due) if bytes.len() < due.sealed_len => Parsed::Incomplete { needed: due.sealed_len },
            due => due,
        })
    }

    /// Opens what is due, which is `bytes`. Gives the number of bytes written.
    fn open_due(&mut self, due: &Due, bytes: &[u8], out: &mut [u8]) -> Result<usize, OpenError> {
        let written = match (&due.head, &mut self.gate) {
            (Some(head), None) => self.body.cipher().open(head, bytes, out)?,
            (Some(head), Some(gate)) => gate.open(self.body.cipher(), head, bytes, out)?,
            (None, Some(gate)) => gate.open_end(bytes, out)?,
            (None, None) => return Err(FormatError::TrailingBytes.into()),
        };
        self.go_on_after(due.head.as_ref());
        Ok(written)
    }

    fn go_on_after(&mut self, head: Option<&FrameHead>) {
        match (head, &mut self.body) {
            // Never wraps: u32::MAX marks a final frame.
            (Some(head), Body::Frames { due, .. }) if !head.is_last() => *due += 1,
            // The footer is due.
            (Some(_), _) if self.gate.is_some() => {}
            _ => self.state = State::Ended,
        }
    }

    /// Opens the regular frames at the start of `sealed` at once, where there are several threads, and takes them from
    /// it. Gives the number of bytes written.
    fn open_regular(&mut self, sealed: &mut &[u8], out: &mut [u8]) -> Result<usize, OpenError> {
        let is_due = self.state == State::Open && self.kept_back_len().is_none() && self.held.is_empty();
        let Body::Frames { cipher, due } = &mut self.body else { return Ok(0) };
        if !is_due || cipher.threads().count() == 1 {
            return Ok(0);
        }
        let (regular, rest) = sealed.split_at(cipher.regular_len(*due, sealed));
        *sealed = rest;
        let mut open = || cipher.open_all(*due, regular, out);
        let frames = match &mut self.gate {
            None => open()?,
            Some(gate) => cipher.threads().join(open, || gate.update(regular)).0?,
        };
        // There are no more than the sequence numbers that they have.
        *due += u32::try_from(frames).unwrap_or(0);
        Ok(frames * cipher.frame_len())
    }

    /// Completes the frame that is held, if there is one, with bytes from the start of `sealed`, which it takes from it,
    /// and opens it in its own memory. Returns the plaintext: nothing, where the frame is not complete yet or is kept
    /// back. The rest is for [`update`](Self::update).
    #[cfg(feature = "stream")]
    pub(super) fn complete_held(&mut self, sealed: &mut &[u8]) -> Result<bytes::Bytes, OpenError> {
        self.check_not_failed()?;
        let opened = self.open_held(sealed);
        if opened.is_err() {
            self.fail();
        }
        opened
    }

    #[cfg(feature = "stream")]
    fn open_held(&mut self, sealed: &mut &[u8]) -> Result<bytes::Bytes, OpenError> {
        while !self.held.is_empty() {
            match self.due(sealed)? {
                Parsed::Complete(Due { head: Some(head), .. }) if !(head.is_last() && self.gate.is_some()) => {
                    let mut frame = std::mem::take(&mut self.held);
                    if let Some(gate) = &mut self.gate {
                        gate.update(&frame);
                    }
                    let plaintext = self.body.cipher().open_in_place(&head, &mut frame)?;
                    self.go_on_after(Some(&head));
                    return Ok(bytes::Bytes::from(frame).slice(plaintext));
                }
                Parsed::Incomplete { needed } if !sealed.is_empty() => self.hold(sealed, needed),
                _ => break,
            }
        }
        Ok(bytes::Bytes::new())
    }

    /// Moves bytes from the start of `sealed` to those that are held, until those are as many as needed.
    fn hold(&mut self, sealed: &mut &[u8], needed: usize) {
        let (piece, rest) = sealed.split_at(sealed.len().min(needed - self.held.len()));
        // The next frame may be the final one, which is longer by a few bytes.
        let longest = self.frame_len().map_or(0, |len| len + FINAL_FRAME_OVERHEAD);
        extend_within(&mut self.held, piece, needed.max(longest));
        self.needed = needed;
        *sealed = rest;
    }

    /// Says that nothing follows: the message is complete, or it is truncated.
    ///
    /// # Errors
    /// [`FormatError::Truncated`] where its end has not come, and [`OpenError::FailedBefore`] where it failed to open,
    /// or was truncated, before.
    pub fn finish(&mut self) -> Result<(), OpenError> {
        let place = match (self.state, self.kept_back_len()) {
            (State::Ended, _) => return Ok(()),
            (State::Failed, _) => return Err(OpenError::FailedBefore),
            (State::Open, None) => self.body.place(!self.held.is_empty()),
            (State::Open, Some(_)) => "its signature".into(),
        };
        self.fail();
        Err(FormatError::Truncated(place.into()).into())
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener")
            .field("info", &self.info)
            .field("frame_len", &self.frame_len())
            .field("held_len", &self.held.len())
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// Returns the frames that a message has, if any part of it can be opened without the rest.
pub(crate) fn seekable<F>(suite: AlgorithmSuite, frames: Option<F>) -> Result<F, OpenError> {
    match (suite.signature(), frames) {
        (Some(_), _) => Err(OpenError::NotSeekable { what: "is signed" }),
        (None, None) => Err(OpenError::NotSeekable { what: "has no frames" }),
        (None, Some(frames)) => Ok(frames),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

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
        let cipher = BodyCipher { key: keys.encryption, message_id };
        let cipher = FrameCipher::new(cipher, NonZeroU32::MIN.saturating_add(15), Threads::One);
        let mut frame = [0; 4 + FINAL_FRAME_OVERHEAD];
        cipher.single().seal(1, true, b"data", &mut frame);
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
