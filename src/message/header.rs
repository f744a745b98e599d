//! The header of a message (specification, `data-format/message-header.md`).

use std::{num::NonZeroU32, ops::Range};

use bytes::{BufMut, Bytes};

use super::{
    EncryptedDataKey, EncryptedDataKeys, Geometry, MessageId,
    key_section::{put_encrypted_data_keys, put_u16_prefixed},
};
use crate::{
    context::{EncryptionContext, SerializedContext},
    error::{FormatError, SealError},
    suite::{AlgorithmSuite, COMMITMENT_LEN, IV_LEN, IV_LEN_FIELD, MessageVersion, TAG_LEN},
};

pub(super) const VERSION_1: u8 = 1;
pub(super) const VERSION_2: u8 = 2;
pub(super) const TYPE_CUSTOMER_AUTHENTICATED_ENCRYPTED_DATA: u8 = 0x80;
pub(super) const NON_FRAMED: u8 = 1;
pub(super) const FRAMED: u8 = 2;

/// The structure of a message's body: frames, or a single block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ContentType {
    /// A single block of at most 64 GiB, without frames. This crate opens such messages, but never writes them.
    NonFramed,
    /// Frames of `frame_len` plaintext bytes each, and a final frame of at most as many.
    Framed {
        /// The plaintext length of a frame, in bytes.
        frame_len: NonZeroU32,
    },
}

impl ContentType {
    /// Returns the plaintext length of a frame in bytes, or `None` if the message is not framed.
    pub const fn frame_len(self) -> Option<NonZeroU32> {
        match self {
            Self::NonFramed => None,
            Self::Framed { frame_len } => Some(frame_len),
        }
    }
}

/// A message's header. It can be read without a key.
///
/// **A parsed header is not authenticated**: anyone who can modify the message can set its values. Opening the message
/// authenticates the header.
///
/// ```
/// use kms_envelope::{Limits, message::Header};
///
/// # let key = kms_envelope::RawAes::generate("doc", "example")?;
/// # let envelope = kms_envelope::Envelope::new(key);
/// # let context = kms_envelope::EncryptionContext::from([("tenant", "acme")]);
/// # let sealed = pollster::block_on(envelope.seal(b"hello", &context))?;
/// let header = Header::parse(&sealed, &Limits::default())?;
/// assert_eq!(header.context().get("tenant"), Some("acme"));
/// assert_eq!(header.geometry(sealed.len() as u64)?.plaintext_len(), 5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Header {
    parts: HeaderParts,
    context: EncryptionContext,
    encrypted_data_keys: Vec<EncryptedDataKey>,
    /// The serialized header, including its IV and tag.
    bytes: Bytes,
}

impl Header {
    pub(super) fn new(parts: HeaderParts, bytes: Bytes) -> Self {
        let view = HeaderView { parts: parts.clone(), bytes: &bytes };
        let (context, encrypted_data_keys) = (view.context().parse(), view.encrypted_data_keys().in_bytes(&bytes));
        Self { parts, context, encrypted_data_keys, bytes }
    }

    /// Returns the algorithm suite.
    pub fn suite(&self) -> AlgorithmSuite {
        self.parts.suite
    }

    /// Returns the random id of the message.
    pub fn message_id(&self) -> &MessageId {
        &self.parts.message_id
    }

    /// Returns the encryption context that the header stores. It does not contain the pairs of a
    /// [required encryption context](crate::EnvelopeBuilder::required_context).
    pub fn context(&self) -> &EncryptionContext {
        &self.context
    }

    /// Returns the encrypted data keys. There is at least one. One of them can be
    /// [padding](EncryptedDataKey::padding_len).
    pub fn encrypted_data_keys(&self) -> &[EncryptedDataKey] {
        &self.encrypted_data_keys
    }

    /// Returns the structure of the body.
    pub fn content_type(&self) -> ContentType {
        self.parts.content_type
    }

    /// Returns the length of the header in bytes, including its authentication tag.
    #[expect(clippy::len_without_is_empty, reason = "a header is never empty")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Computes the offsets and lengths of the parts of an unsigned, framed message. `sealed_len` is the length of the
    /// entire message, in bytes.
    ///
    /// # Errors
    /// Returns [`FormatError::FooterLenNeeded`] if the message is signed: use
    /// [`signed_geometry`](Self::signed_geometry) instead. Returns [`FormatError::Length`] if no message with this
    /// header can have this length, or if the message is not framed.
    pub fn geometry(&self, sealed_len: u64) -> Result<Geometry, FormatError> {
        match (self.content_type(), self.suite().signature()) {
            (ContentType::Framed { .. }, Some(_)) => Err(FormatError::FooterLenNeeded),
            _ => self.signed_geometry(sealed_len, 0),
        }
    }

    /// Computes the offsets and lengths of the parts of a signed, framed message. `sealed_len` is the length of the
    /// entire message and `footer_len` that of its footer, in bytes.
    ///
    /// The footer is the signature and the two bytes of its length. The length of signatures varies:
    /// [`footer_lens`](super::footer_lens) returns the lengths that fit the message's last bytes. The result is wrong
    /// if `footer_len` is not the length of this message's footer.
    ///
    /// # Errors
    /// Returns [`FormatError::Length`] if no message with this header can have these lengths, or if the message is not
    /// framed.
    pub fn signed_geometry(&self, sealed_len: u64, footer_len: usize) -> Result<Geometry, FormatError> {
        let header_len = self.len() as u64;
        match self.content_type() {
            ContentType::Framed { frame_len } => {
                Geometry::of_sealed(header_len, frame_len, footer_len as u64, sealed_len)
            }
            ContentType::NonFramed => Err(FormatError::Length { sealed_len, header_len, frame_len: 0 }),
        }
    }

    pub(crate) fn view(&self) -> HeaderView<'_> {
        HeaderView { parts: self.parts.clone(), bytes: &self.bytes }
    }
}

/// The fields of a header that have a fixed length, and the places of the others.
#[derive(Clone, Debug)]
pub(super) struct HeaderParts {
    pub(super) suite: AlgorithmSuite,
    pub(super) message_id: MessageId,
    pub(super) context: Range<usize>,
    pub(super) context_is_sorted: bool,
    pub(super) encrypted_data_keys: Range<usize>,
    pub(super) content_type: ContentType,
    pub(super) commitment: Option<[u8; COMMITMENT_LEN]>,
    pub(super) iv: [u8; IV_LEN],
    pub(super) tag: [u8; TAG_LEN],
}

/// A parsed header in the memory of its message. Its context and its encrypted data keys are not decoded yet.
#[derive(Debug)]
pub(crate) struct HeaderView<'a> {
    pub(super) parts: HeaderParts,
    /// The serialized header, including its IV and tag.
    pub(super) bytes: &'a [u8],
}

impl<'a> HeaderView<'a> {
    pub(crate) fn suite(&self) -> AlgorithmSuite {
        self.parts.suite
    }

    pub(crate) fn message_id(&self) -> &MessageId {
        &self.parts.message_id
    }

    pub(crate) fn context(&self) -> SerializedContext<'a> {
        SerializedContext::new(&self.bytes[self.parts.context.clone()], self.parts.context_is_sorted)
    }

    pub(crate) fn encrypted_data_keys(&self) -> EncryptedDataKeys<'a> {
        EncryptedDataKeys::new(&self.bytes[self.parts.encrypted_data_keys.clone()])
    }

    pub(crate) fn content_type(&self) -> ContentType {
        self.parts.content_type
    }

    /// Returns the serialized header.
    pub(crate) fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the header's commitment to its data key, if the suite has one.
    pub(crate) fn commitment(&self) -> Option<&[u8; COMMITMENT_LEN]> {
        self.parts.commitment.as_ref()
    }

    /// Returns the IV, the authenticated bytes, and the tag of the header.
    pub(crate) fn authentication(&self) -> (&[u8; IV_LEN], &'a [u8], &[u8; TAG_LEN]) {
        let auth_len = if self.suite().is_committing() { TAG_LEN } else { IV_LEN + TAG_LEN };
        (&self.parts.iv, &self.bytes[..self.bytes.len() - auth_len], &self.parts.tag)
    }
}

/// The fields that the headers of all messages with the same data key have in common.
#[derive(Debug)]
pub(crate) struct HeaderFields<'a> {
    pub(crate) suite: AlgorithmSuite,
    /// The pairs to store.
    pub(crate) context: &'a EncryptionContext,
    /// The pairs to authenticate without storing them.
    pub(crate) required_context: &'a EncryptionContext,
    pub(crate) encrypted_data_keys: &'a [EncryptedDataKey],
    pub(crate) frame_len: u32,
}

/// The serialized header of a framed message, except for the message's id, commitment, IV and tag.
#[derive(Debug)]
pub(crate) struct HeaderTemplate {
    suite: AlgorithmSuite,
    /// The part of the header that the tag authenticates, followed by the serialized required context. The id and the
    /// commitment are zero.
    authenticated: Vec<u8>,
    /// The length of the part of the header in `authenticated`.
    len: usize,
}

impl HeaderTemplate {
    pub(crate) fn new(fields: &HeaderFields<'_>) -> Result<Self, SealError> {
        let HeaderFields { suite, context, required_context, encrypted_data_keys, frame_len } = *fields;
        let version = suite.message_version();
        let context = context.serialize()?;
        let mut out = Vec::with_capacity(256 + context.len() + 512 * encrypted_data_keys.len());
        match version {
            MessageVersion::V1 => out.put_slice(&[VERSION_1, TYPE_CUSTOMER_AUTHENTICATED_ENCRYPTED_DATA]),
            MessageVersion::V2 => out.put_u8(VERSION_2),
        }
        out.put_u16(suite.id());
        out.put_bytes(0, version.message_id_len());
        put_u16_prefixed(&mut out, &context)?;
        put_encrypted_data_keys(&mut out, encrypted_data_keys)?;
        out.put_u8(FRAMED);
        if version == MessageVersion::V1 {
            out.put_u32(0);
            out.put_u8(IV_LEN_FIELD);
        }
        out.put_u32(frame_len);
        out.put_bytes(0, if suite.is_committing() { COMMITMENT_LEN } else { 0 });
        let len = out.len();
        required_context.serialize_into(&mut out)?;
        out.shrink_to_fit();
        Ok(Self { suite, authenticated: out, len })
    }

    /// Returns the length of the header, including its authentication.
    pub(crate) fn header_len(&self) -> usize {
        self.len + self.authentication_len()
    }

    /// Returns the memory that the template owns, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.authenticated.len()
    }

    /// Returns the length of the IV, which only version 1 stores, and of the tag.
    fn authentication_len(&self) -> usize {
        TAG_LEN + if self.suite.message_version() == MessageVersion::V1 { IV_LEN } else { 0 }
    }

    /// Writes the header of a message to the start of `out`. `seal` computes the tag of the authenticated bytes, with a
    /// zero IV.
    pub(crate) fn write(
        &self,
        out: &mut [u8],
        message_id: &MessageId,
        commitment: Option<&[u8; COMMITMENT_LEN]>,
        seal: impl FnOnce(&[u8]) -> [u8; TAG_LEN],
    ) {
        let (header, authentication) = out[..self.header_len()].split_at_mut(self.len);
        let (stored, required_context) = self.authenticated.split_at(self.len);
        header.copy_from_slice(stored);
        let message_id_at = if self.suite.message_version() == MessageVersion::V1 { 4 } else { 3 };
        header[message_id_at..][..message_id.as_bytes().len()].copy_from_slice(message_id.as_bytes());
        if let Some(commitment) = commitment {
            header[self.len - COMMITMENT_LEN..].copy_from_slice(commitment);
        }
        let tag = match required_context {
            [] => seal(header),
            required_context => seal(&[&*header, required_context].concat()),
        };
        let (iv, tag_out) = authentication.split_at_mut(authentication.len() - TAG_LEN);
        iv.fill(0);
        tag_out.copy_from_slice(&tag);
    }

    #[cfg(test)]
    pub(crate) fn header(
        &self,
        message_id: &MessageId,
        commitment: Option<&[u8; COMMITMENT_LEN]>,
        seal: impl FnOnce(&[u8]) -> [u8; TAG_LEN],
    ) -> Vec<u8> {
        let mut header = vec![1; self.header_len()];
        self.write(&mut header, message_id, commitment, seal);
        header
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        error::{HeaderError, LimitError},
        message::{HeaderReader, Limits},
    };

    #[test]
    fn a_header_that_differs_in_its_id_and_authentication_is_read_from_the_one_before() {
        for (bytes, id, authentication_len) in [(v1(), 4..20, 12 + 16), (v2(), 3..35, 32 + 16)] {
            let variable = [id, bytes.len() - authentication_len..bytes.len()];
            let limits = Limits::default();
            let other = HeaderView::parse(&bytes, &limits).unwrap();
            let mut read = 0;
            for at in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                let like = HeaderView::parse_like(&changed, &other);
                assert_eq!(like.is_some(), variable.iter().any(|range| range.contains(&at)), "{at} of {}", bytes.len());
                if let Some(like) = like {
                    let parsed = HeaderView::parse(&changed, &limits).unwrap();
                    assert_eq!(format!("{like:?}"), format!("{parsed:?}"));
                    read += 1;
                }
                assert!(HeaderView::parse_like(&bytes[..at], &other).is_none());
            }
            assert_eq!(read, variable.iter().map(ExactSizeIterator::len).sum::<usize>());
            let longer = [&bytes[..], b"body"].concat();
            assert_eq!(HeaderView::parse_like(&longer, &other).unwrap().as_bytes(), bytes);
        }
    }

    fn v2() -> Vec<u8> {
        let message_id = MessageId::from_bytes(MessageVersion::V2, &[9; 32]);
        let fields = HeaderFields {
            suite: AlgorithmSuite::default(),
            context: &EncryptionContext::from([("a", "A")]),
            required_context: &EncryptionContext::new(),
            encrypted_data_keys: &vec![EncryptedDataKey::new("p", &b"info"[..], &b"key"[..]); 2],
            frame_len: 4096,
        };
        HeaderTemplate::new(&fields).unwrap().header(&message_id, Some(&[5; 32]), |_| [6; TAG_LEN])
    }

    /// A version-1 header, written by hand from the specification's table.
    fn v1() -> Vec<u8> {
        let mut bytes = vec![0x01, 0x80, 0x03, 0x78];
        bytes.extend([9; 16]);
        bytes.extend(b"\0\x08\0\x01\0\x01a\0\x01A");
        bytes.extend(b"\0\x01\0\x01p\0\x04info\0\x03key");
        bytes.extend(b"\x02\0\0\0\0\x0c\0\0\x10\0");
        bytes.extend([7; IV_LEN]);
        bytes.extend([6; TAG_LEN]);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Header, HeaderError> {
        Header::parse(bytes, &Limits::default())
    }

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = v2();
        let header = read(&[&bytes[..], b"body"].concat()).unwrap();
        assert_eq!(header.suite(), AlgorithmSuite::default());
        assert_eq!(header.message_id().to_string(), "09".repeat(32));
        assert_eq!(header.context().get("a"), Some("A"));
        assert_eq!(header.encrypted_data_keys().len(), 2);
        assert_eq!(header.encrypted_data_keys()[1].to_string(), "p/info");
        assert_eq!(header.content_type(), ContentType::Framed { frame_len: 4096.try_into().unwrap() });
        assert_eq!(header.view().commitment(), Some(&[5; 32]));
        assert_eq!(header.view().authentication(), (&[0; 12], &bytes[..bytes.len() - 16], &[6; 16]));
        assert_eq!(header.len(), bytes.len());
    }

    #[test]
    fn a_version_1_header_is_read_with_its_iv() {
        let bytes = v1();
        let header = read(&bytes).unwrap();
        assert_eq!(header.suite(), AlgorithmSuite::Aes256GcmHkdfSha384EcdsaP384);
        assert_eq!(header.message_id().as_bytes(), [9; 16]);
        assert_eq!(header.view().commitment(), None);
        assert_eq!(header.view().authentication(), (&[7; 12], &bytes[..bytes.len() - 28], &[6; 16]));
    }

    #[test]
    fn a_version_1_header_is_written_as_the_specification_has_it() {
        let by_hand = v1();
        let header = read(&by_hand).unwrap();
        let fields = HeaderFields {
            suite: header.suite(),
            context: header.context(),
            required_context: &EncryptionContext::new(),
            encrypted_data_keys: header.encrypted_data_keys(),
            frame_len: 4096,
        };
        let mut written = HeaderTemplate::new(&fields).unwrap().header(header.message_id(), None, |_| [6; TAG_LEN]);
        // The IV differs: this crate writes zero.
        let iv = by_hand.len() - 28..by_hand.len() - 16;
        assert_eq!(written[iv.clone()], [0; IV_LEN]);
        written[iv].fill(7);
        assert_eq!(written, by_hand);
    }

    #[test]
    fn a_required_context_of_any_length_is_authenticated_and_not_written() {
        let message_id = MessageId::from_bytes(MessageVersion::V2, &[9; 32]);
        for value_len in [0, 1, 50] {
            let required_context = EncryptionContext::from([("r", "R".repeat(value_len))]);
            let fields = HeaderFields {
                suite: AlgorithmSuite::default(),
                context: &EncryptionContext::from([("a", "A")]),
                required_context: &required_context,
                encrypted_data_keys: &vec![EncryptedDataKey::new("p", &b"info"[..], &b"key"[..]); 2],
                frame_len: 4096,
            };
            let template = HeaderTemplate::new(&fields).unwrap();
            let header = template.header(&message_id, Some(&[5; 32]), |authenticated| {
                let by_hand = [&v2()[..v2().len() - TAG_LEN], &required_context.serialize().unwrap()].concat();
                assert_eq!(authenticated, by_hand);
                [6; TAG_LEN]
            });
            assert_eq!((&header, template.header_len()), (&v2(), header.len()));
        }
    }

    #[test]
    fn every_truncation_is_reported_as_one() {
        for bytes in [v1(), v2()] {
            for len in 0..bytes.len() {
                assert_eq!(read(&bytes[..len]).unwrap_err(), FormatError::Truncated("the header".into()).into());
            }
        }
    }

    #[test]
    fn a_reader_asks_for_what_the_header_has_and_takes_no_byte_of_the_body() {
        for bytes in [v1(), v2()] {
            let message = [&bytes[..], b"body"].concat();
            let (mut at_once, mut as_asked) =
                (HeaderReader::new(&Limits::default()), HeaderReader::new(&Limits::default()));
            assert_eq!(at_once.feed(&message).unwrap(), bytes.len());
            let (mut at, mut rounds) = (0, 0);
            while as_asked.needed() > 0 {
                let needed = as_asked.needed();
                assert!(at + needed <= bytes.len(), "{at} {needed}");
                assert_eq!(as_asked.feed(&message[at..at + needed]).unwrap(), needed);
                (at, rounds) = (at + needed, rounds + 1);
            }
            assert!(at == bytes.len() && rounds < 10, "{rounds}");
            for mut reader in [at_once, as_asked] {
                assert_eq!(reader.feed(b"body").unwrap(), 0);
                assert_eq!(reader.finish().unwrap().view().as_bytes(), bytes);
            }
        }
    }

    #[test]
    fn a_reader_that_has_refused_a_header_refuses_it_for_good() {
        let mut reader = HeaderReader::new(&Limits::default());
        let refused = reader.feed(&changed(v1(), 1, 0x81)).unwrap_err();
        assert_eq!(refused, FormatError::Type(0x81).into());
        assert_eq!(reader.feed(&v1()).unwrap_err(), refused);
        assert_eq!(reader.feed(&[]).unwrap_err(), refused);
        assert_eq!(reader.finish().unwrap_err(), refused);
    }

    fn changed(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
        bytes[at] = value;
        bytes
    }

    #[test]
    fn each_malformed_field_has_its_own_error() {
        let (v1, v2) = (v1(), v2());
        let v2_tail = v2.len() - 16 - 32 - 4 - 1;
        let v1_tail = v1.len() - 28 - 4 - 1 - 4 - 1;
        for (bytes, expected) in [
            (b"hello".to_vec(), "not an AWS Encryption SDK message: the first byte is 0x68"),
            (b"AYAAFA==".to_vec(), "base64"),
            (b"AgR4AAAA".to_vec(), "base64"),
            (b"AgV4AAAA".to_vec(), "base64"),
            (changed(v1.clone(), 1, 0x81), "type is 0x81"),
            (changed(v1.clone(), 3, 0x79), "suite 0x0379"),
            (changed(v2.clone(), 1, 0x03), "suite 0x0378 for message version 2"),
            (changed(v1.clone(), 2, 0x04), "suite 0x0478 for message version 1"),
            (changed(v1.clone(), 23, 0), "context is malformed"),
            (changed(v1.clone(), 31, 0), "encrypted data keys are malformed: the list is empty"),
            (changed(v1.clone(), v1_tail, 3), "content type is 3"),
            (changed(v1.clone(), v1_tail, 1), "frame length is 4096"),
            (changed(v1.clone(), v1_tail + 1, 1), "reserved field is 16777216"),
            (changed(v1.clone(), v1_tail + 5, 16), "IV length is 16"),
            (changed(v1.clone(), v1_tail + 8, 0), "frame length is 0"),
            (changed(v2.clone(), v2_tail, 0), "content type is 0"),
            (changed(v2.clone(), v2_tail + 3, 0), "frame length is 0"),
        ] {
            let error = read(&bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected:?} is not in {error:?}");
        }
    }

    #[test]
    fn base64_is_recognized_even_if_it_arrives_byte_by_byte() {
        let mut reader = HeaderReader::new(&Limits::default());
        assert_eq!(reader.feed(b"A"), Ok(1));
        assert_eq!(reader.feed(b"g"), Err(FormatError::Base64.into()));
        assert_eq!(read(b"AY").unwrap_err(), FormatError::Base64.into());
        assert_eq!(read(b"AB").unwrap_err(), FormatError::Version(b'A').into());
    }

    #[test]
    fn too_many_encrypted_data_keys_are_refused_as_soon_as_their_count_is_read() {
        let upto_count = &changed(v1(), 31, 17)[..32];
        let error = read(upto_count).unwrap_err();
        assert_eq!(error, LimitError::EncryptedDataKeys { count: 17, limit: 16 }.into());
    }

    #[test]
    fn a_header_that_claims_to_be_too_long_is_refused_before_it_arrives() {
        let limits = Limits::default().with_header_len(1000);
        let mut start = v1()[..20].to_vec();
        start.extend([0xff, 0xff]);
        // The length known so far: the context, and the shortest form of the fields after it.
        let least = 22 + 65_535 + (v1().len() - 22 - 8 - 8);
        let error = Header::parse(&start, &limits).unwrap_err();
        assert_eq!(error, LimitError::HeaderLen { len: least, limit: 1000 }.into());
        let just_too_short = Limits::default().with_header_len(v1().len() - 1);
        assert!(Header::parse(&v1(), &just_too_short).is_err());
    }

    proptest! {
        #[test]
        fn changed_headers_are_read_or_refused_alike_in_any_pieces(
            which: bool, at: prop::sample::Index, value: u8, len: prop::sample::Index, cuts in prop::collection::vec(1usize..20, 1..10),
        ) {
            let mut bytes = if which { v1() } else { v2() };
            let at = at.index(bytes.len());
            bytes[at] = value;
            bytes.truncate(len.index(bytes.len() + 1));
            let mut reader = HeaderReader::new(&Limits::default());
            let (mut rest, mut fed) = (&bytes[..], 0);
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at(rest.len().min(*cut));
                rest = after;
                fed += reader.feed(piece).unwrap_or(0);
                if rest.is_empty() {
                    break;
                }
            }
            match (read(&bytes), reader.finish()) {
                (Ok(whole), Ok(in_pieces)) => {
                    prop_assert_eq!(whole.len(), fed);
                    prop_assert_eq!(format!("{whole:?}"), format!("{in_pieces:?}"));
                }
                (Err(whole), Err(in_pieces)) => prop_assert_eq!(whole, in_pieces),
                (whole, in_pieces) => prop_assert!(false, "{whole:?} {in_pieces:?}"),
            }
        }
    }
}
