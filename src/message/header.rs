//! The header: what a message is encrypted with, its encryption context and its encrypted data keys.
//! Specification: `data-format/message-header.md`.

use std::{fmt, ops::Range};

use bytes::{BufMut, Bytes};

use super::{EncryptedDataKey, FOOTER_OVERHEAD, Geometry, Limits};
use crate::{
    context::EncryptionContext,
    error::{FormatError, HeaderError, LimitError, SealError},
    suite::{AlgorithmSuite, MessageVersion},
};

pub(crate) const IV_LEN: usize = 12;
pub(crate) const TAG_LEN: usize = 16;
pub(crate) const COMMITMENT_LEN: usize = 32;

const VERSION_1: u8 = 1;
const VERSION_2: u8 = 2;
const TYPE_CUSTOMER_AUTHENTICATED_ENCRYPTED_DATA: u8 = 0x80;
const NON_FRAMED: u8 = 1;
const FRAMED: u8 = 2;

/// The random name of a message: 16 bytes in version 1, 32 in version 2. Written in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageId {
    bytes: [u8; 32],
    version: MessageVersion,
}

impl MessageId {
    /// Fills a new id with what `random` gives.
    pub(crate) fn generate<E>(
        version: MessageVersion,
        random: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut bytes = [0; 32];
        random(&mut bytes[..version.message_id_len()])?;
        Ok(Self { bytes, version })
    }

    /// The id with these bytes, which are as many as the version has.
    pub(crate) fn from_bytes(version: MessageVersion, bytes: &[u8]) -> Self {
        let Ok(id) = Self::generate(version, |out| {
            out.copy_from_slice(bytes);
            Ok::<_, std::convert::Infallible>(())
        });
        id
    }

    /// The id's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.version.message_id_len()]
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageId({self})")
    }
}

/// How the body is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContentType {
    /// One piece of at most 64 GiB. Old; not written any more.
    NonFramed,
    /// Frames of `frame_len` plaintext bytes each, and a final one of as many or fewer.
    Framed {
        /// The plaintext bytes of a frame: 1 or more.
        frame_len: std::num::NonZeroU32,
    },
}

/// A message's header, readable without a key.
///
/// **Nothing in it is authenticated**: whoever could change the message chose what stands here. What an
/// [`Opened`](crate::Opened) message says of itself is authenticated.
///
/// ```
/// use kms_envelope::{Limits, message::{Header, Parsed}};
///
/// # let key = kms_envelope::LocalKey::generate("doc", "example")?;
/// # let envelope = kms_envelope::Envelope::new(key);
/// # let context = kms_envelope::EncryptionContext::from([("tenant", "acme")]);
/// # let sealed = pollster::block_on(envelope.seal(b"hello", &context))?;
/// let Parsed::Complete(header) = Header::parse(&sealed, &Limits::default())? else { panic!("truncated") };
/// assert_eq!(header.context().get("tenant"), Some("acme"));
/// assert_eq!(header.geometry(sealed.len() as u64)?.plaintext_len(), 5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Header {
    suite: AlgorithmSuite,
    message_id: MessageId,
    context: EncryptionContext,
    encrypted_data_keys: Vec<EncryptedDataKey>,
    content_type: ContentType,
    commitment: Option<[u8; COMMITMENT_LEN]>,
    iv: [u8; IV_LEN],
    tag: [u8; TAG_LEN],
    /// The header as received: what its tag authenticates, and the IV and tag themselves.
    bytes: Bytes,
}

/// What [`Header::parse`] made of the bytes so far.
#[derive(Clone, Debug)]
pub enum Parsed {
    /// The header is there. The body begins at [`Header::len`].
    Complete(Box<Header>),
    /// The header goes on.
    Incomplete {
        /// How many bytes, from the message's first one on, must be there before another try makes sense.
        needed: usize,
    },
}

impl Header {
    /// Reads the header at the start of `bytes`; what follows it is left alone.
    ///
    /// # Errors
    /// [`FormatError`] where the bytes cannot be the start of a message, [`LimitError`] where the header has too
    /// many encrypted data keys or is too long.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Parsed, HeaderError> {
        match parse(bytes, limits) {
            Ok(header) => Ok(Parsed::Complete(Box::new(header))),
            Err(Stop::Incomplete { needed }) if needed > limits.header_len => {
                Err(LimitError::HeaderLen { len: needed, limit: limits.header_len }.into())
            }
            Err(Stop::Incomplete { needed }) => Ok(Parsed::Incomplete { needed }),
            Err(Stop::Error(error)) => Err(error),
        }
    }

    /// The algorithm suite.
    pub fn suite(&self) -> AlgorithmSuite {
        self.suite
    }

    /// The random name of the message.
    pub fn message_id(&self) -> &MessageId {
        &self.message_id
    }

    /// The encryption context as stored: pairs that are [required](crate::EnvelopeBuilder::required_context) are not
    /// in it.
    pub fn context(&self) -> &EncryptionContext {
        &self.context
    }

    /// The encrypted data keys: one or more.
    pub fn encrypted_data_keys(&self) -> &[EncryptedDataKey] {
        &self.encrypted_data_keys
    }

    /// How the body is cut.
    pub fn content_type(&self) -> ContentType {
        self.content_type
    }

    /// The length of the header in bytes, its authentication included.
    #[expect(clippy::len_without_is_empty, reason = "a header is never empty")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Where everything is in the whole message, given its length in bytes. Of a signed message, the footer is taken
    /// to have the length that all SDKs give it.
    ///
    /// # Errors
    /// [`FormatError::Length`] where no message with this header has this length, or where it has no frames.
    pub fn geometry(&self, sealed_len: u64) -> Result<Geometry, FormatError> {
        let header_len = self.len() as u64;
        match self.content_type {
            ContentType::Framed { frame_len } => {
                Geometry::of_sealed(header_len, frame_len, self.footer_len(), sealed_len)
            }
            ContentType::NonFramed => Err(FormatError::Length { sealed_len, header_len, frame_len: 0 }),
        }
    }

    /// The usual length of the footer in bytes: 0 where the suite does not sign.
    fn footer_len(&self) -> u64 {
        self.suite.signature().map_or(0, |signature| (FOOTER_OVERHEAD + signature.signature_len()) as u64)
    }

    /// The header as it was received.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the header says of the data key that it belongs to.
    pub(crate) fn commitment(&self) -> Option<&[u8; COMMITMENT_LEN]> {
        self.commitment.as_ref()
    }

    /// The header's authentication: the IV, the bytes that are authenticated, and their tag.
    pub(crate) fn authentication(&self) -> (&[u8; IV_LEN], &[u8], &[u8; TAG_LEN]) {
        let auth_len = if self.suite.is_committing() { TAG_LEN } else { IV_LEN + TAG_LEN };
        (&self.iv, &self.bytes[..self.len() - auth_len], &self.tag)
    }
}

pub(super) enum Stop {
    Incomplete { needed: usize },
    Error(HeaderError),
}

impl<E: Into<HeaderError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

pub(super) struct Cursor<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Stop> {
        let end = self.at + len;
        let taken = self.bytes.get(self.at..end).ok_or(Stop::Incomplete { needed: end })?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Stop> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, Stop> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, Stop> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// A field that its length precedes, and where it is.
    fn u16_prefixed(&mut self) -> Result<(&'a [u8], Range<usize>), Stop> {
        let len = self.u16()?;
        let start = self.at;
        Ok((self.take(usize::from(len))?, start..self.at))
    }
}

fn parse(bytes: &[u8], limits: &Limits) -> Result<Header, Stop> {
    let mut cursor = Cursor { bytes, at: 0 };
    let version = match cursor.u8()? {
        VERSION_1 => MessageVersion::V1,
        VERSION_2 => MessageVersion::V2,
        // The base64 of 01 80, and of 02 04 78 or 02 05 78.
        b'A' if matches!(cursor.u8()?, b'Y' | b'g') => return Err(FormatError::Base64.into()),
        other => return Err(FormatError::Version(other).into()),
    };
    if version == MessageVersion::V1 {
        let kind = cursor.u8()?;
        if kind != TYPE_CUSTOMER_AUTHENTICATED_ENCRYPTED_DATA {
            return Err(FormatError::Type(kind).into());
        }
    }
    let id = cursor.u16()?;
    let suite = AlgorithmSuite::from_id(id)
        .filter(|suite| suite.message_version() == version)
        .ok_or(FormatError::Suite { id, version: bytes[0] })?;
    let message_id = MessageId::from_bytes(version, cursor.take(version.message_id_len())?);
    let context = EncryptionContext::parse(cursor.u16_prefixed()?.0)?;
    let encrypted_data_keys = parse_encrypted_data_keys(&mut cursor, limits)?;
    let content_type = cursor.u8()?;
    if version == MessageVersion::V1 {
        let reserved = cursor.u32()?;
        if reserved != 0 {
            return Err(FormatError::Field { field: "reserved field", value: reserved.into() }.into());
        }
        let iv_len = cursor.u8()?;
        if usize::from(iv_len) != IV_LEN {
            return Err(FormatError::Field { field: "IV length", value: iv_len.into() }.into());
        }
    }
    let frame_len = cursor.u32()?;
    let content_type = match (content_type, std::num::NonZeroU32::new(frame_len)) {
        (FRAMED, Some(frame_len)) => ContentType::Framed { frame_len },
        (NON_FRAMED, None) => ContentType::NonFramed,
        (FRAMED | NON_FRAMED, _) => {
            return Err(FormatError::Field { field: "frame length", value: frame_len.into() }.into());
        }
        (other, _) => return Err(FormatError::Field { field: "content type", value: other.into() }.into()),
    };
    let commitment = suite.is_committing().then(|| cursor.array()).transpose()?;
    let iv = if version == MessageVersion::V1 { cursor.array()? } else { [0; IV_LEN] };
    let tag = cursor.array()?;
    let len = cursor.at;
    if len > limits.header_len {
        return Err(LimitError::HeaderLen { len, limit: limits.header_len }.into());
    }
    let bytes = Bytes::copy_from_slice(&bytes[..len]);
    let encrypted_data_keys = encrypted_data_keys
        .into_iter()
        .map(|(id, info, ciphertext)| EncryptedDataKey::new(id, bytes.slice(info), bytes.slice(ciphertext)))
        .collect();
    Ok(Header { suite, message_id, context, encrypted_data_keys, content_type, commitment, iv, tag, bytes })
}

/// For each its provider id, and where its provider info and its ciphertext are.
pub(super) type KeyFields<'a> = (&'a str, Range<usize>, Range<usize>);

pub(super) fn parse_encrypted_data_keys<'a>(
    cursor: &mut Cursor<'a>,
    limits: &Limits,
) -> Result<Vec<KeyFields<'a>>, Stop> {
    let count = cursor.u16()?;
    if count == 0 {
        return Err(FormatError::EncryptedDataKeys("there are none").into());
    }
    if count > limits.encrypted_data_keys {
        return Err(LimitError::EncryptedDataKeys { count, limit: limits.encrypted_data_keys }.into());
    }
    let mut keys = Vec::new();
    for _ in 0..count {
        let provider_id = std::str::from_utf8(cursor.u16_prefixed()?.0)
            .map_err(|_| FormatError::EncryptedDataKeys("a provider id is not UTF-8"))?;
        keys.push((provider_id, cursor.u16_prefixed()?.1, cursor.u16_prefixed()?.1));
    }
    Ok(keys)
}

/// What a header is written from.
#[derive(Debug)]
pub(crate) struct HeaderFields<'a> {
    pub(crate) suite: AlgorithmSuite,
    pub(crate) message_id: &'a MessageId,
    /// The pairs to store.
    pub(crate) context: &'a EncryptionContext,
    pub(crate) encrypted_data_keys: &'a [EncryptedDataKey],
    pub(crate) frame_len: u32,
    /// Of suites that have it.
    pub(crate) commitment: Option<[u8; COMMITMENT_LEN]>,
}

impl HeaderFields<'_> {
    /// The header of a framed message up to its authentication: what its tag authenticates. There is room for the
    /// rest, which [`put_authentication`] appends.
    pub(crate) fn write(&self) -> Result<Vec<u8>, SealError> {
        let version = self.suite.message_version();
        let context = self.context.serialize()?;
        let mut out = Vec::with_capacity(256 + context.len() + 512 * self.encrypted_data_keys.len());
        match version {
            MessageVersion::V1 => out.put_slice(&[VERSION_1, TYPE_CUSTOMER_AUTHENTICATED_ENCRYPTED_DATA]),
            MessageVersion::V2 => out.put_u8(VERSION_2),
        }
        out.put_u16(self.suite.id());
        out.put_slice(self.message_id.as_bytes());
        put_u16_prefixed(&mut out, &context)?;
        put_encrypted_data_keys(&mut out, self.encrypted_data_keys)?;
        out.put_u8(FRAMED);
        if version == MessageVersion::V1 {
            out.put_u32(0);
            out.put_u8(12);
        }
        out.put_u32(self.frame_len);
        out.put_slice(self.commitment.as_ref().map_or(&[], |commitment| &commitment[..]));
        Ok(out)
    }
}

/// Appends the authentication of a header: in version 1 the IV, which is zero, and in both the tag.
pub(crate) fn put_authentication(header: &mut Vec<u8>, version: MessageVersion, tag: &[u8; TAG_LEN]) {
    if version == MessageVersion::V1 {
        header.put_slice(&[0; IV_LEN]);
    }
    header.put_slice(tag);
}

pub(super) fn put_encrypted_data_keys(out: &mut Vec<u8>, keys: &[EncryptedDataKey]) -> Result<(), SealError> {
    out.put_u16(u16_len(keys.len(), "encrypted data keys")?);
    keys.iter().flat_map(EncryptedDataKey::fields).try_for_each(|field| put_u16_prefixed(out, field))
}

fn put_u16_prefixed(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), SealError> {
    out.put_u16(u16_len(bytes.len(), "bytes in a field of an encrypted data key")?);
    out.put_slice(bytes);
    Ok(())
}

fn u16_len(len: usize, what: &str) -> Result<u16, SealError> {
    u16::try_from(len).map_err(|_| SealError::DataKey { what: format!("{len} {what}; the format has room for 65535") })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2() -> Vec<u8> {
        let message_id = MessageId::from_bytes(MessageVersion::V2, &[9; 32]);
        let mut bytes = HeaderFields {
            suite: AlgorithmSuite::default(),
            message_id: &message_id,
            context: &EncryptionContext::from([("a", "A")]),
            encrypted_data_keys: &vec![EncryptedDataKey::new("p", &b"info"[..], &b"key"[..]); 2],
            frame_len: 4096,
            commitment: Some([5; 32]),
        }
        .write()
        .unwrap();
        put_authentication(&mut bytes, MessageVersion::V2, &[6; TAG_LEN]);
        bytes
    }

    /// A header of version 1, by hand from the specification's table.
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

    fn read(bytes: &[u8]) -> Result<Parsed, HeaderError> {
        Header::parse(bytes, &Limits::default())
    }

    fn complete(bytes: &[u8]) -> Header {
        match read(bytes) {
            Ok(Parsed::Complete(header)) => *header,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = v2();
        let header = complete(&[&bytes[..], b"body"].concat());
        assert_eq!(header.suite(), AlgorithmSuite::default());
        assert_eq!(header.message_id().to_string(), "09".repeat(32));
        assert_eq!(header.context().get("a"), Some("A"));
        assert_eq!(header.encrypted_data_keys().len(), 2);
        assert_eq!(header.encrypted_data_keys()[1].to_string(), "p/info");
        assert_eq!(header.content_type(), ContentType::Framed { frame_len: 4096.try_into().unwrap() });
        assert_eq!(header.commitment(), Some(&[5; 32]));
        assert_eq!(header.authentication(), (&[0; 12], &bytes[..bytes.len() - 16], &[6; 16]));
        assert_eq!(header.len(), bytes.len());
    }

    #[test]
    fn a_version_1_header_is_read_with_its_iv() {
        let bytes = v1();
        let header = complete(&bytes);
        assert_eq!(header.suite(), AlgorithmSuite::Aes256GcmHkdfSha384EcdsaP384);
        assert_eq!(header.message_id().as_bytes(), [9; 16]);
        assert_eq!(header.commitment(), None);
        assert_eq!(header.authentication(), (&[7; 12], &bytes[..bytes.len() - 28], &[6; 16]));
    }

    #[test]
    fn a_version_1_header_is_written_as_the_specification_has_it() {
        let by_hand = v1();
        let header = complete(&by_hand);
        let mut written = HeaderFields {
            suite: header.suite(),
            message_id: header.message_id(),
            context: header.context(),
            encrypted_data_keys: header.encrypted_data_keys(),
            frame_len: 4096,
            commitment: None,
        }
        .write()
        .unwrap();
        put_authentication(&mut written, MessageVersion::V1, &[6; TAG_LEN]);
        // But for the IV, which is zero in what is written.
        let iv = by_hand.len() - 28..by_hand.len() - 16;
        assert_eq!(written[iv.clone()], [0; IV_LEN]);
        written[iv].fill(7);
        assert_eq!(written, by_hand);
    }

    #[test]
    fn every_truncation_asks_for_more_and_no_more_than_is_there() {
        for bytes in [v1(), v2()] {
            for len in 0..bytes.len() {
                match read(&bytes[..len]) {
                    Ok(Parsed::Incomplete { needed }) => assert!(len < needed && needed <= bytes.len()),
                    other => panic!("{len}: {other:?}"),
                }
            }
        }
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
            (b"hello".to_vec(), "not a message of the AWS Encryption SDK: it begins with 0x68"),
            (b"AYAAFA==".to_vec(), "base64"),
            (b"AgR4AAAA".to_vec(), "base64"),
            (b"AgV4AAAA".to_vec(), "base64"),
            (changed(v1.clone(), 1, 0x81), "type is 0x81"),
            (changed(v1.clone(), 3, 0x79), "suite 0x0379"),
            (changed(v2.clone(), 1, 0x03), "suite 0x0378, which message version 2 does not have"),
            (changed(v1.clone(), 2, 0x04), "suite 0x0478, which message version 1 does not have"),
            (changed(v1.clone(), 23, 0), "context is malformed"),
            (changed(v1.clone(), 31, 0), "encrypted data keys are malformed: there are none"),
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
    fn base64_is_recognised_however_little_of_it_is_there_at_first() {
        assert!(matches!(read(b"A"), Ok(Parsed::Incomplete { needed: 2 })));
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
        let limits = Limits { header_len: 1000, ..Limits::default() };
        let mut start = v1()[..20].to_vec();
        start.extend([0xff, 0xff]);
        let error = Header::parse(&start, &limits).unwrap_err();
        assert_eq!(error, LimitError::HeaderLen { len: 22 + 65_535, limit: 1000 }.into());
        let just_too_short = Limits { header_len: v1().len() - 1, ..Limits::default() };
        assert!(Header::parse(&v1(), &just_too_short).is_err());
    }

    proptest! {
        #[test]
        fn changed_headers_are_read_or_refused_without_panic(
            which: bool, at: prop::sample::Index, value: u8, len: prop::sample::Index,
        ) {
            let mut bytes = if which { v1() } else { v2() };
            let at = at.index(bytes.len());
            bytes[at] = value;
            bytes.truncate(len.index(bytes.len() + 1));
            let _ = read(&bytes);
        }
    }
}
