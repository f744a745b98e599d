//! Opening a message piece by piece, without I/O.

use std::{borrow::Cow, fmt, sync::Arc};

use subtle::ConstantTimeEq;

use super::{
    Threads,
    body::Body,
    buffer::extend_within,
    frame_cipher::{BodyCipher, FrameCipher},
    signature::SignatureVerifier,
};
use crate::{
    context::EncryptionContext,
    crypto::{AesGcm, Backend, Dialect, MessageKeys, SecretKey, VerifyingKey},
    error::{FormatError, OpenError},
    materials::KeyInfo,
    message::{
        ContentType, EncryptedDataKey, FINAL_FRAME_OVERHEAD, FOOTER_OVERHEAD, FrameHead, HeaderView, Limits, MessageId,
        Parsed, parse_footer,
    },
    suite::{AlgorithmSuite, COMMITMENT_LEN},
};

/// The metadata of a message whose header has been verified: its suite, id and encryption context, and its key.
///
/// All of it is authenticated, except for [`encrypted_data_key`](Self::encrypted_data_key) if it comes from
/// [detached keys](crate::message::DetachedKeys).
#[derive(Clone)]
pub struct MessageInfo {
    suite: AlgorithmSuite,
    message_id: MessageId,
    encrypted_data_key_index: usize,
    /// Shared by all messages with the same data key, so that a message of a cached data key allocates nothing for it.
    key: Arc<KeyInfo>,
}

impl MessageInfo {
    pub(crate) fn new(
        suite: AlgorithmSuite,
        message_id: MessageId,
        encrypted_data_key_index: usize,
        key: Arc<KeyInfo>,
    ) -> Self {
        Self { suite, message_id, encrypted_data_key_index, key }
    }

    /// Returns the algorithm suite.
    pub fn suite(&self) -> AlgorithmSuite {
        self.suite
    }

    /// Returns the message's random id.
    pub fn message_id(&self) -> &MessageId {
        &self.message_id
    }

    /// Returns the complete encryption context: the pairs that the message stores, and the
    /// [required pairs](crate::EnvelopeBuilder::required_context) that the caller passed. A signed message stores its
    /// public key in it, with the name `aws-crypto-public-key`.
    pub fn context(&self) -> &EncryptionContext {
        &self.key.context
    }

    /// Returns the encrypted data key that opened the message.
    ///
    /// It comes from the header, which is authenticated, or from [detached keys](crate::Envelope::with_detached_keys).
    /// For detached keys, the header authenticates the decrypted data key, but not the bytes, names and index of the
    /// encrypted one.
    pub fn encrypted_data_key(&self) -> &EncryptedDataKey {
        &self.key.encrypted_data_key
    }

    /// Returns the index of that encrypted data key in the header, or in the detached keys.
    pub fn encrypted_data_key_index(&self) -> usize {
        self.encrypted_data_key_index
    }

    /// Returns the id of the key that decrypted the data key: the ARN of a KMS key, or `namespace/name` of a local key.
    ///
    /// For a KMS multi-region key, this is the replica that was called. Its region may differ from that of the ARN in
    /// the message.
    pub fn key_id(&self) -> &str {
        &self.key.key_id
    }
}

impl fmt::Debug for MessageInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageInfo")
            .field("suite", &self.suite)
            .field("message_id", &self.message_id)
            .field("context", self.context())
            .field("encrypted_data_key", self.encrypted_data_key())
            .field("encrypted_data_key_index", &self.encrypted_data_key_index)
            .field("key_id", &self.key_id())
            .finish()
    }
}

/// Opens one message piece by piece, and does no I/O.
///
/// [`Envelope::opener`](crate::Envelope::opener) creates it from a message's header. Pass the body to
/// [`update`](Self::update), which writes the plaintext of each frame after its tag has been verified. Then call
/// [`finish`](Self::finish), which returns an error if the message is truncated. Until it succeeds, the plaintext is
/// authentic but may be incomplete.
///
/// The plaintext of a non-framed body is released in one piece, at its end.
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
///
/// # Signed messages
/// The plaintext of the final frame is released only after the signature has been verified. The frames before it were
/// encrypted with the message's data key, but not necessarily by the signer.
pub struct Opener {
    info: MessageInfo,
    body: Body,
    /// For suites that sign.
    verifier: Option<SignatureVerifier>,
    /// The start of the [next](Self::due) frame, body or footer, until it is complete.
    held: Vec<u8>,
    /// The minimum length of `held` at which parsing it makes progress.
    needed: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    Failed,
}

/// The next part of a message.
struct Due {
    /// The head of a frame or of a non-framed body. A footer has none.
    head: Option<FrameHead>,
    sealed_len: usize,
}

/// Verifies a message's header with a data key: first its commitment to that key, then its tag. Returns the key for the
/// body. `not_stored` is the part of the encryption context that the message does not store.
pub(crate) fn authenticate(
    header: &HeaderView<'_>,
    data_key: &SecretKey,
    not_stored: &EncryptionContext,
    backend: Backend,
    accepts_net_4_0_0: bool,
) -> Result<AesGcm, OpenError> {
    let authenticate = |dialect| {
        let keys = MessageKeys::derive(backend, header.suite(), data_key, header.message_id(), dialect);
        if let Some((derived, stored)) = keys.commitment.as_ref().zip(header.commitment())
            && !is_equal(derived, stored)
        {
            return Err(OpenError::Commitment);
        }
        let (iv, authenticated, tag) = header.authentication();
        let mut aad = Cow::Borrowed(authenticated);
        if !not_stored.is_empty() {
            not_stored.serialize_into(aad.to_mut())?;
        } else if dialect == Dialect::Net400 {
            aad.to_mut().extend([0, 0]);
        }
        keys.encryption.open(iv, &aad, tag, &mut []).map_err(|_| OpenError::HeaderTag)?;
        Ok(keys.encryption)
    };
    match authenticate(Dialect::Specification) {
        Err(OpenError::HeaderTag) if accepts_net_4_0_0 => authenticate(Dialect::Net400),
        authenticated => authenticated,
    }
}

/// Compares in constant time, in words: subtle compares slices byte by byte.
fn is_equal(one: &[u8; COMMITMENT_LEN], other: &[u8; COMMITMENT_LEN]) -> bool {
    let words = one.as_chunks().0.iter().zip(other.as_chunks().0);
    let word = |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes);
    words.fold(0, |differing, (one, other)| differing | (word(one) ^ word(other))).ct_eq(&0).into()
}

/// The arguments of [`Opener::new`].
#[derive(Debug)]
pub(crate) struct OpenerParts<'a> {
    pub(crate) header: &'a HeaderView<'a>,
    /// The key that [`authenticate`] returned for the header.
    pub(crate) key: AesGcm,
    pub(crate) info: MessageInfo,
    /// For suites that sign.
    pub(crate) verifying_key: Option<VerifyingKey>,
    pub(crate) backend: Backend,
    pub(crate) threads: &'a Threads,
    pub(crate) limits: Limits,
}

impl OpenerParts<'_> {
    /// Returns the head of the final frame, if it is all of the body and nothing has to be verified after it. Such a
    /// message needs no state.
    fn only_frame(&self, body: &[u8]) -> Option<FrameHead> {
        let ContentType::Framed { frame_len } = self.header.content_type() else { return None };
        match FrameHead::parse(body, 1, frame_len.get()) {
            Ok(Parsed::Complete(head)) if head.is_last() && head.sealed_len() == body.len() => {
                self.header.suite().signature().is_none().then_some(head)
            }
            _ => None,
        }
    }
}

impl Opener {
    pub(crate) fn new(parts: OpenerParts<'_>) -> Self {
        let OpenerParts { header, key, info, verifying_key, backend, threads, limits } = parts;
        let verifier = header.suite().signature().zip(verifying_key).map(|(algorithm, key)| {
            let mut verifier = SignatureVerifier::new(backend, key, algorithm, threads);
            verifier.update(header.as_bytes());
            verifier
        });
        let cipher = BodyCipher { key, message_id: *header.message_id() };
        let body = match header.content_type() {
            ContentType::Framed { frame_len } => {
                Body::Frames { cipher: FrameCipher::new(cipher, frame_len, threads.clone()), due: 1 }
            }
            ContentType::NonFramed => Body::NonFramed { cipher, limits },
        };
        Self { info, body, verifier, held: Vec::new(), needed: 0, state: State::Open }
    }

    /// Opens a complete body. Writes the plaintext to the start of the memory that `out` returns, which must have at
    /// least the length that `out` receives. Returns the length of the plaintext. On error, that memory contains zeros.
    pub(crate) fn open_buffer<'o>(
        parts: OpenerParts<'_>,
        body: &[u8],
        out: impl FnOnce(usize) -> &'o mut [u8],
    ) -> Result<(usize, MessageInfo), OpenError> {
        if let Some(head) = parts.only_frame(body) {
            let out = out(head.content_len);
            let cipher = BodyCipher { key: parts.key, message_id: *parts.header.message_id() };
            let len = cipher.open(&head, body, out).inspect_err(|_| out.fill(0))?;
            return Ok((len, parts.info));
        }
        let mut opener = Self::new(parts);
        let out = out(opener.update_len(body.len()));
        let len = opener.update(body, out)?;
        opener.finish().inspect_err(|_| out.fill(0))?;
        Ok((len, opener.info))
    }

    /// Returns the message's metadata.
    pub fn info(&self) -> &MessageInfo {
        &self.info
    }

    /// Returns the cipher for the frames, if the message is framed.
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
            Body::NonFramed { .. } => None,
        };
        let cipher = seekable(self.info.suite, cipher)?;
        Ok((self.info, cipher))
    }

    /// Continues with the frame `sequence`, regardless of the frames opened before.
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

    /// Returns the number of plaintext bytes in a frame, or `None` if the message is not framed.
    pub fn frame_len(&self) -> Option<usize> {
        self.cipher().map(FrameCipher::frame_len)
    }

    /// Returns how many bytes of the next frame have arrived.
    pub(crate) fn held_len(&self) -> usize {
        self.held.len()
    }

    /// Returns whether the end of the message has been verified. Any further byte is then an error.
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Returns the maximum number of bytes that [`update`](Self::update) writes for `sealed_len` bytes of the message.
    ///
    /// It is zero if they do not complete a frame.
    pub fn update_len(&self, sealed_len: usize) -> usize {
        let len = self.held.len().saturating_add(sealed_len);
        if self.is_incomplete(len) {
            return 0;
        }
        match (self.state, self.withheld_len()) {
            (State::Open, None) => self.body_len(len),
            (State::Open, Some(withheld_len)) => match parse_footer(&self.held) {
                Parsed::Incomplete { needed } if len < needed => 0,
                _ => withheld_len,
            },
            (State::Ended | State::Failed, _) => 0,
        }
    }

    /// Returns the maximum plaintext length of the next `len` bytes of the body, which include those held.
    fn body_len(&self, len: usize) -> usize {
        let Ok(Parsed::Complete(head)) = self.body.head(&self.held) else { return self.body.plaintext_len(len) };
        match len.checked_sub(head.sealed_len()) {
            None => 0,
            // It is withheld until the footer has arrived, too.
            Some(rest) if head.is_last() && self.verifier.is_some() && rest < FOOTER_OVERHEAD => 0,
            Some(_) if head.is_last() => head.content_len,
            Some(rest) => head.content_len + self.body.plaintext_len(rest),
        }
    }

    /// Returns whether `len` bytes are known to be too few to make progress, without parsing the held ones again.
    fn is_incomplete(&self, len: usize) -> bool {
        !self.held.is_empty() && len < self.needed
    }

    fn withheld_len(&self) -> Option<usize> {
        self.verifier.as_ref().and_then(SignatureVerifier::withheld_len)
    }

    /// Opens the next piece of the message's body: writes the plaintext of the frames that it completes to the start of
    /// `out`, and returns the number of bytes written.
    ///
    /// # Errors
    /// Returns [`OpenError::OutputTooShort`] if `out` is shorter than [`update_len`](Self::update_len) returns. In this
    /// case, nothing is consumed, and the call can be repeated with a longer buffer.
    ///
    /// Any other error is final: `out` is filled with zeros, and every later call returns [`OpenError::FailedBefore`].
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

    /// Returns an error if the message has failed.
    pub(super) fn check_not_failed(&self) -> Result<(), OpenError> {
        if self.state == State::Failed { Err(OpenError::FailedBefore) } else { Ok(()) }
    }

    /// Makes every later call return [`OpenError::FailedBefore`].
    pub(super) fn fail(&mut self) {
        self.state = State::Failed;
    }

    fn open_pieces(&mut self, mut sealed: &[u8], out: &mut [u8]) -> Result<usize, OpenError> {
        let mut written = 0;
        loop {
            written += self.open_regular(&mut sealed, &mut out[written..])?;
            // A part that is complete in the caller's memory is opened from there, without a copy.
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

    /// Returns the next part of the message if it is complete: in `held`, or at the start of `sealed` if nothing is
    /// held.
    fn due(&self, sealed: &[u8]) -> Result<Parsed<Due>, OpenError> {
        if self.is_incomplete(self.held.len()) {
            return Ok(Parsed::Incomplete { needed: self.needed });
        }
        let bytes = if self.held.is_empty() { sealed } else { &self.held };
        let due = match self.withheld_len() {
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

    /// Opens the next part of the message, which is `bytes`, and returns the number of bytes written.
    fn open_due(&mut self, due: &Due, bytes: &[u8], out: &mut [u8]) -> Result<usize, OpenError> {
        let written = match (&due.head, &mut self.verifier) {
            (Some(head), None) => self.body.cipher().open(head, bytes, out)?,
            (Some(head), Some(verifier)) => verifier.open(self.body.cipher(), head, bytes, out)?,
            (None, verifier) => verifier.take().ok_or(FormatError::TrailingBytes)?.finish(bytes, out)?,
        };
        self.advance_after(due.head.as_ref());
        Ok(written)
    }

    fn advance_after(&mut self, head: Option<&FrameHead>) {
        match (head, &mut self.body) {
            // Cannot overflow: u32::MAX marks a final frame.
            (Some(head), Body::Frames { due, .. }) if !head.is_last() => *due += 1,
            // The footer comes next.
            (Some(_), _) if self.verifier.is_some() => {}
            _ => self.state = State::Ended,
        }
    }

    /// With several threads, opens the regular frames at the start of `sealed` in parallel and removes them from it.
    /// Returns the number of bytes written.
    fn open_regular(&mut self, sealed: &mut &[u8], out: &mut [u8]) -> Result<usize, OpenError> {
        let is_due = self.state == State::Open && self.withheld_len().is_none() && self.held.is_empty();
        let Body::Frames { cipher, due } = &mut self.body else { return Ok(0) };
        if !is_due || cipher.threads().count() == 1 {
            return Ok(0);
        }
        let (regular, rest) = sealed.split_at(cipher.regular_len(*due, sealed));
        *sealed = rest;
        let frames = match &mut self.verifier {
            None => cipher.open_all(*due, regular, out)?,
            Some(verifier) => verifier.open_all(cipher, *due, regular, out)?,
        };
        // Cannot exceed u32: each frame has its own sequence number.
        *due += u32::try_from(frames).unwrap_or(0);
        Ok(frames * cipher.frame_len())
    }

    /// Completes the held frame, if any, with bytes from the start of `sealed`, which it removes, and decrypts it in
    /// its own memory. Returns the plaintext, which is empty if the frame is still incomplete or is withheld. Pass the
    /// rest to [`update`](Self::update).
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
                Parsed::Complete(Due { head: Some(head), .. }) if !(head.is_last() && self.verifier.is_some()) => {
                    let mut frame = std::mem::take(&mut self.held);
                    if let Some(verifier) = &mut self.verifier {
                        verifier.update(&frame);
                    }
                    let plaintext = self.body.cipher().open_in_place(&head, &mut frame)?;
                    self.advance_after(Some(&head));
                    return Ok(bytes::Bytes::from(frame).slice(plaintext));
                }
                Parsed::Incomplete { needed } if !sealed.is_empty() => self.hold(sealed, needed),
                _ => break,
            }
        }
        Ok(bytes::Bytes::new())
    }

    /// Moves bytes from the start of `sealed` to `held`, until `held` has `needed` bytes.
    fn hold(&mut self, sealed: &mut &[u8], needed: usize) {
        let (piece, rest) = sealed.split_at(sealed.len().min(needed - self.held.len()));
        // The next frame may be the final one, which has a longer head.
        let longest = self.frame_len().map_or(0, |len| len + FINAL_FRAME_OVERHEAD);
        extend_within(&mut self.held, piece, needed.max(longest));
        self.needed = needed;
        *sealed = rest;
    }

    /// Ends the message, and returns an error if it is truncated.
    ///
    /// Call it when the source of the message has ended.
    ///
    /// # Errors
    /// Returns [`FormatError::Truncated`] if the end of the message has not arrived, and [`OpenError::FailedBefore`] if
    /// an earlier call has failed.
    pub fn finish(&mut self) -> Result<(), OpenError> {
        let end = match (self.state, self.withheld_len()) {
            (State::Ended, _) => return Ok(()),
            (State::Failed, _) => return Err(OpenError::FailedBefore),
            (State::Open, None) => self.body.truncation_point(!self.held.is_empty()),
            (State::Open, Some(_)) => "the signature".into(),
        };
        self.fail();
        Err(FormatError::Truncated(end.into()).into())
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

/// Returns `frames` if parts of the message can be opened separately: it is unsigned and framed.
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
        message::{EncryptedDataKey, Header, HeaderFields, HeaderTemplate, Limits},
        provider::SecretKey,
        provider::{EncryptDataKeyRequest, KeyProvider},
    };

    fn provider() -> RawAes {
        RawAes::new("tests", "key", [7; 32]).unwrap()
    }

    /// Returns a message like those of AWS's SDK for .NET 4.0.0: the header's tag covers two more zero bytes, and
    /// without commitment, the derived key depends only on the suite.
    fn by_net_4_0_0(suite: AlgorithmSuite, context: &EncryptionContext) -> Vec<u8> {
        let data_key = SecretKey::try_from(vec![5; suite.data_key_len()]).unwrap();
        let request = EncryptDataKeyRequest::new(suite, context, &data_key);
        let encrypted: Vec<EncryptedDataKey> = block_on(provider().encrypt_data_key(&request)).unwrap();
        let version = suite.message_version();
        let message_id = MessageId::from_bytes(version, &[9; 32][..version.message_id_len()]);
        let keys = MessageKeys::derive(Backend::default(), suite, &data_key, &message_id, Dialect::Net400);
        let fields = HeaderFields {
            suite,
            context,
            required_context: &EncryptionContext::new(),
            encrypted_data_keys: &encrypted,
            frame_len: 16,
        };
        let template = HeaderTemplate::new(&fields).unwrap();
        let message = template.header(&message_id, keys.commitment.as_ref(), |authenticated| {
            let mut tag = [0; 16];
            keys.encryption.seal(&[0; 12], &[authenticated, &[0, 0]].concat(), &[], &mut tag);
            tag
        });
        let cipher = BodyCipher { key: keys.encryption, message_id };
        let cipher = FrameCipher::new(cipher, NonZeroU32::MIN.saturating_add(15), Threads::One);
        let mut frame = [0; 4 + FINAL_FRAME_OVERHEAD];
        cipher.single().seal(1, true, b"data", &mut frame);
        [&message[..], &frame].concat()
    }

    #[test]
    fn a_complete_body_opens_like_its_pieces_and_an_error_leaves_no_plaintext() {
        const OUT: usize = 64;
        let (suite, context, key) = (AlgorithmSuite::default(), EncryptionContext::new(), [5; 32]);
        let fields = HeaderFields {
            suite,
            context: &context,
            required_context: &context,
            encrypted_data_keys: &[EncryptedDataKey::new("id", "info", "key")],
            frame_len: 16,
        };
        let message_id = MessageId::from_bytes(suite.message_version(), &[9; 32]);
        let header = HeaderTemplate::new(&fields).unwrap().header(&message_id, Some(&[0; 32]), |_| [0; 16]);
        let header = HeaderView::parse(&header, &Limits::default()).unwrap();
        let info = KeyInfo {
            context: EncryptionContext::new(),
            encrypted_data_key: EncryptedDataKey::new("id", "info", "key"),
            key_id: "id".into(),
        };
        let info = MessageInfo::new(suite, message_id, 0, Arc::new(info));
        let cipher = || AesGcm::new(Backend::default(), &key);
        let parts = || OpenerParts {
            header: &header,
            key: cipher(),
            info: info.clone(),
            verifying_key: None,
            backend: Backend::default(),
            threads: &Threads::One,
            limits: Limits::default(),
        };
        let in_pieces = |body: &[u8], out: &mut [u8]| {
            let mut opener = Opener::new(parts());
            let written = opener.update(body, out)?;
            opener.finish()?;
            Ok::<_, OpenError>(written)
        };
        let frame = |sequence, is_final, plaintext: &[u8]| {
            let mut frame = vec![0; plaintext.len() + FINAL_FRAME_OVERHEAD];
            let len = BodyCipher { key: cipher(), message_id }.seal(sequence, is_final, plaintext, &mut frame);
            frame.truncate(len);
            frame
        };
        let mut opened = 0;
        for body in [
            vec![],
            frame(1, true, b""),
            frame(1, true, b"data"),
            frame(1, true, &[7; 16]),
            frame(1, true, &[7; 17]),
            frame(2, true, b"data"),
            frame(1, false, &[7; 16]),
            [frame(1, false, &[7; 16]), frame(2, true, b"data")].concat(),
            [frame(1, true, b"data"), frame(2, true, b"data")].concat(),
        ] {
            let truncated = (0..=body.len()).map(|len| body[..len].to_vec());
            let changed = (0..body.len()).map(|at| {
                let mut body = body.clone();
                body[at] ^= 1;
                body
            });
            let longer = [[&body[..], &[0]].concat()];
            for body in truncated.chain(changed).chain(longer) {
                let (mut expected_out, mut out) = ([1; OUT], [1; OUT]);
                let expected = in_pieces(&body, &mut expected_out);
                let result = Opener::open_buffer(parts(), &body, |len| {
                    assert!(len <= OUT);
                    &mut out
                });
                match (result, expected) {
                    (Ok((len, opened_info)), Ok(expected)) => {
                        assert_eq!(out[..len], expected_out[..expected], "{body:?}");
                        assert_eq!(opened_info.message_id(), &message_id);
                        opened += 1;
                    }
                    (Err(error), Err(expected)) => {
                        assert_eq!(format!("{error:?}"), format!("{expected:?}"), "{body:?}");
                        assert_eq!(out, [0; OUT], "{body:?}");
                    }
                    (result, expected) => panic!("{result:?} {expected:?} {body:?}"),
                }
            }
        }
        // Those without changes, and the final frame at the start of the last.
        assert_eq!(opened, 5);
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
