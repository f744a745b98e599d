//! An incremental parser of headers (specification, `data-format/message-header.md`).

use std::{fmt, ops::Range};

use bytes::Bytes;

use super::{
    ContentType, Header, Limits, MessageId,
    header::{
        FRAMED, HeaderParts, HeaderView, NON_FRAMED, TYPE_CUSTOMER_AUTHENTICATED_ENCRYPTED_DATA, VERSION_1, VERSION_2,
    },
    key_section::KeySection,
};
use crate::{
    context::SerializedContext,
    error::{FormatError, HeaderError},
    suite::{AlgorithmSuite, COMMITMENT_LEN, IV_LEN, MessageVersion, TAG_LEN},
};

/// Parses a message's header in pieces, without doing any I/O.
///
/// Use it with your own transport. [`needed`](Self::needed) returns the minimum number of bytes to read next,
/// [`feed`](Self::feed) accepts them, and [`finish`](Self::finish) returns the header. Each byte is parsed once,
/// however the pieces are divided, and memory grows only with the bytes received.
///
/// ```
/// use std::io::Read;
/// use kms_envelope::{EncryptionContext, Envelope, Limits, RawAes, message::HeaderReader};
///
/// # pollster::block_on(async {
/// # let envelope = Envelope::new(RawAes::generate("example", "key")?);
/// # let context = EncryptionContext::new();
/// # let sealed = envelope.seal(b"attack at dawn", &context).await?;
/// let mut source = &sealed[..]; // or a socket
/// let mut reader = HeaderReader::new(&Limits::default());
/// let mut piece = [0; 512];
/// while reader.needed() > 0 {
///     let wanted = reader.needed().min(piece.len());
///     let len = source.read(&mut piece[..wanted])?;
///     if len == 0 {
///         break; // `finish` reports that the header is truncated.
///     }
///     reader.feed(&piece[..len])?;
/// }
/// let header = reader.finish()?;
///
/// // The body is next in the source.
/// let mut opener = envelope.opener(&header, &context).await?;
/// let mut plaintext = vec![0; opener.update_len(source.len())];
/// let len = opener.update(source, &mut plaintext)?;
/// opener.finish()?;
/// assert_eq!(plaintext[..len], *b"attack at dawn");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct HeaderReader {
    limits: Limits,
    bytes: Vec<u8>,
    parser: Parser,
    failure: Option<HeaderError>,
}

impl HeaderReader {
    /// Creates a reader for the header of one message.
    pub fn new(limits: &Limits) -> Self {
        Self { limits: *limits, bytes: Vec::new(), parser: Parser::new(), failure: None }
    }

    /// Returns the minimum number of bytes that are missing from the header, or 0 if it is complete.
    ///
    /// Reading that many bytes never reads into the body.
    pub fn needed(&self) -> usize {
        self.parser.least_len - self.bytes.len()
    }

    /// Parses the next bytes of the message, and returns how many of them belong to the header. The remaining bytes are
    /// the start of the body.
    ///
    /// # Errors
    /// Returns [`FormatError`] if the bytes cannot be the start of a message, and
    /// [`LimitError`](crate::error::LimitError) if the header exceeds a limit. Every later call returns the same error.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, HeaderError> {
        let mut taken = 0;
        loop {
            if let Some(error) = &self.failure {
                return Err(error.clone());
            }
            let len = self.needed().min(bytes.len() - taken);
            if len == 0 {
                return Ok(taken);
            }
            self.bytes.extend_from_slice(&bytes[taken..taken + len]);
            taken += len;
            self.failure = self.parser.advance(&self.bytes, &self.limits).err();
        }
    }

    /// Returns the header.
    ///
    /// # Errors
    /// Returns [`FormatError::Truncated`] if the header is incomplete. If [`feed`](Self::feed) has failed, returns the
    /// same error.
    pub fn finish(self) -> Result<Header, HeaderError> {
        match self.failure {
            Some(error) => Err(error),
            None => Ok(Header::new(self.parser.finish()?, self.bytes.into())),
        }
    }
}

impl fmt::Debug for HeaderReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderReader")
            .field("len", &self.bytes.len())
            .field("needed", &self.needed())
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

impl Header {
    /// Parses the header at the start of `bytes`. The bytes after it are ignored. Use [`HeaderReader`] if the bytes
    /// arrive in pieces.
    ///
    /// # Errors
    /// Returns [`FormatError`] if the bytes are not the start of a message, or end before the header does. Returns
    /// [`LimitError`](crate::error::LimitError) if the header has too many encrypted data keys or is too long.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, HeaderError> {
        let HeaderView { parts, bytes } = HeaderView::parse(bytes, limits)?;
        Ok(Self::new(parts, Bytes::copy_from_slice(bytes)))
    }
}

impl<'a> HeaderView<'a> {
    /// Like [`Header::parse`], but does not copy or decode anything.
    pub(crate) fn parse(bytes: &'a [u8], limits: &Limits) -> Result<Self, HeaderError> {
        let mut parser = Parser::new();
        parser.advance(bytes, limits)?;
        let bytes = &bytes[..parser.at];
        Ok(Self { parts: parser.finish()?, bytes })
    }

    /// Like [`parse`](Self::parse), but returns `None` unless the header differs from `other` only in its message id
    /// and its authentication. This is faster, because the rest has been parsed. The limits must be the same.
    pub(crate) fn parse_like(bytes: &'a [u8], other: &HeaderView<'_>) -> Option<Self> {
        let bytes = bytes.get(..other.bytes.len())?;
        let version = other.parts.suite.message_version();
        let (id_at, authentication_len) = match version {
            MessageVersion::V1 => (4, IV_LEN + TAG_LEN),
            MessageVersion::V2 => (3, COMMITMENT_LEN + TAG_LEN),
        };
        let id = id_at..id_at + version.message_id_len();
        let rest = id.end..bytes.len() - authentication_len;
        if bytes[..id.start] != other.bytes[..id.start] || bytes[rest.clone()] != other.bytes[rest.clone()] {
            return None;
        }
        let mut parts = other.parts.clone();
        parts.message_id = MessageId::from_bytes(version, &bytes[id]);
        let (first, tag) = bytes[rest.end..].split_at(authentication_len - TAG_LEN);
        match version {
            MessageVersion::V1 => parts.iv = array(first),
            MessageVersion::V2 => parts.commitment = Some(array(first)),
        }
        parts.tag = array(tag);
        Some(Self { parts, bytes })
    }
}

/// A header, as far as it has been read.
#[derive(Clone)]
struct Parser {
    /// The number of bytes parsed so far.
    at: usize,
    /// The next field.
    next: Field,
    /// The minimum length of the header: what the length fields parsed so far announce, and the shortest form of the
    /// rest.
    least_len: usize,
    version: MessageVersion,
    suite: AlgorithmSuite,
    message_id: MessageId,
    context: Range<usize>,
    context_is_sorted: bool,
    keys: KeySection,
    content_type: u8,
    body: ContentType,
    commitment: Option<[u8; COMMITMENT_LEN]>,
    iv: [u8; IV_LEN],
    tag: [u8; TAG_LEN],
}

/// The fields in their order. A field with `V1` in its name exists in version 1 only; `Commitment` in version 2 only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Version,
    /// The second character of input that may be base64.
    Base64,
    TypeV1,
    Suite,
    MessageId,
    ContextLen,
    Context(u16),
    KeyCount,
    /// The length of an encrypted data key's provider id, provider info or ciphertext.
    KeyPartLen,
    KeyPart(u16),
    ContentType,
    ReservedV1,
    IvLenV1,
    FrameLen,
    Commitment,
    IvV1,
    Tag,
    End,
}

/// Returns the length of the shortest header: an empty context, and one encrypted data key of three empty parts.
pub(crate) const fn least_len(version: MessageVersion) -> usize {
    let (context, keys, frame_len) = (2, 2 + KeySection::LEAST_KEY_LEN, 1 + 4);
    match version {
        MessageVersion::V1 => 1 + 1 + 2 + 16 + context + keys + frame_len + 4 + 1 + IV_LEN + TAG_LEN,
        MessageVersion::V2 => 1 + 2 + 32 + context + keys + frame_len + COMMITMENT_LEN + TAG_LEN,
    }
}

impl Parser {
    fn new() -> Self {
        // Until the version is known, assume the one with the shorter header.
        let version = MessageVersion::V1;
        Self {
            at: 0,
            next: Field::Version,
            least_len: least_len(version),
            version,
            suite: AlgorithmSuite::default(),
            message_id: MessageId::from_bytes(version, &[0; 16]),
            context: 0..0,
            context_is_sorted: true,
            keys: KeySection::default(),
            content_type: 0,
            body: ContentType::NonFramed,
            commitment: None,
            iv: [0; IV_LEN],
            tag: [0; TAG_LEN],
        }
    }

    /// Parses all complete fields in `bytes`, which starts with the bytes parsed before.
    fn advance(&mut self, bytes: &[u8], limits: &Limits) -> Result<(), HeaderError> {
        while self.next != Field::End {
            let Some(field) = bytes.get(self.at..self.at + self.field_len()) else {
                return Ok(());
            };
            self.at += field.len();
            self.next = self.read(field, limits)?;
            limits.check_header_len(self.least_len)?;
        }
        Ok(())
    }

    /// Returns the length of the next field, in bytes.
    fn field_len(&self) -> usize {
        match self.next {
            Field::Version | Field::Base64 | Field::TypeV1 | Field::ContentType | Field::IvLenV1 => 1,
            Field::Suite | Field::ContextLen | Field::KeyCount | Field::KeyPartLen => 2,
            Field::ReservedV1 | Field::FrameLen => 4,
            Field::MessageId => self.version.message_id_len(),
            Field::Context(len) | Field::KeyPart(len) => usize::from(len),
            Field::Commitment => COMMITMENT_LEN,
            Field::IvV1 => IV_LEN,
            Field::Tag => TAG_LEN,
            Field::End => 0,
        }
    }

    /// Parses the next field from `bytes`, which contains nothing else, and returns the field after it.
    fn read(&mut self, bytes: &[u8], limits: &Limits) -> Result<Field, HeaderError> {
        let is_v1 = self.version == MessageVersion::V1;
        Ok(match self.next {
            Field::Version => match bytes[0] {
                VERSION_1 => Field::TypeV1,
                VERSION_2 => {
                    self.version = MessageVersion::V2;
                    self.least_len = least_len(self.version);
                    Field::Suite
                }
                b'A' => Field::Base64,
                other => return Err(FormatError::Version(other).into()),
            },
            // 01 80 starts with "AY" in base64, 02 04 78 and 02 05 78 with "Ag".
            Field::Base64 if matches!(bytes, b"Y" | b"g") => return Err(FormatError::Base64.into()),
            Field::Base64 => return Err(FormatError::Version(b'A').into()),
            Field::TypeV1 => match bytes[0] {
                TYPE_CUSTOMER_AUTHENTICATED_ENCRYPTED_DATA => Field::Suite,
                other => return Err(FormatError::Type(other).into()),
            },
            Field::Suite => {
                let id = u16(bytes);
                let version = if is_v1 { VERSION_1 } else { VERSION_2 };
                self.suite = AlgorithmSuite::from_id(id)
                    .filter(|suite| suite.message_version() == self.version)
                    .ok_or(FormatError::Suite { id, version })?;
                Field::MessageId
            }
            Field::MessageId => {
                self.message_id = MessageId::from_bytes(self.version, bytes);
                Field::ContextLen
            }
            Field::ContextLen => {
                let len = u16(bytes);
                self.grow(usize::from(len));
                Field::Context(len)
            }
            Field::Context(_) => {
                self.context = self.at - bytes.len()..self.at;
                self.context_is_sorted = SerializedContext::check(bytes)?.is_sorted();
                Field::KeyCount
            }
            Field::KeyCount => {
                let count = u16(bytes);
                self.keys = KeySection::new(self.at, count, limits)?;
                self.grow((usize::from(count) - 1) * KeySection::LEAST_KEY_LEN);
                Field::KeyPartLen
            }
            Field::KeyPartLen => {
                let len = u16(bytes);
                self.grow(usize::from(len));
                Field::KeyPart(len)
            }
            Field::KeyPart(_) => {
                self.keys.push(self.at, bytes)?;
                if self.keys.is_complete() { Field::ContentType } else { Field::KeyPartLen }
            }
            Field::ContentType => {
                self.content_type = bytes[0];
                if is_v1 { Field::ReservedV1 } else { Field::FrameLen }
            }
            Field::ReservedV1 => match u32(bytes) {
                0 => Field::IvLenV1,
                value => return Err(FormatError::Field { field: "reserved field", value: value.into() }.into()),
            },
            Field::IvLenV1 => match bytes[0] {
                len if usize::from(len) == IV_LEN => Field::FrameLen,
                value => return Err(FormatError::Field { field: "IV length", value: value.into() }.into()),
            },
            Field::FrameLen => {
                self.body = content_type(self.content_type, u32(bytes))?;
                if is_v1 { Field::IvV1 } else { Field::Commitment }
            }
            Field::Commitment => {
                self.commitment = Some(array(bytes));
                Field::Tag
            }
            Field::IvV1 => {
                self.iv = array(bytes);
                Field::Tag
            }
            Field::Tag => {
                self.tag = array(bytes);
                Field::End
            }
            Field::End => Field::End,
        })
    }

    /// Adds the bytes that a length field announces.
    fn grow(&mut self, len: usize) {
        self.least_len = self.least_len.saturating_add(len);
    }

    /// Returns the parts of the header, if it is complete.
    fn finish(self) -> Result<HeaderParts, HeaderError> {
        if self.next != Field::End {
            return Err(FormatError::Truncated("the header".into()).into());
        }
        let Self { suite, message_id, context, context_is_sorted, keys, body, commitment, iv, tag, .. } = self;
        let encrypted_data_keys = keys.range();
        let content_type = body;
        Ok(HeaderParts {
            suite,
            message_id,
            context,
            context_is_sorted,
            encrypted_data_keys,
            content_type,
            commitment,
            iv,
            tag,
        })
    }
}

fn content_type(content_type: u8, frame_len: u32) -> Result<ContentType, FormatError> {
    match (content_type, std::num::NonZeroU32::new(frame_len)) {
        (FRAMED, Some(frame_len)) => Ok(ContentType::Framed { frame_len }),
        (NON_FRAMED, None) => Ok(ContentType::NonFramed),
        (FRAMED | NON_FRAMED, _) => Err(FormatError::Field { field: "frame length", value: frame_len.into() }),
        (other, _) => Err(FormatError::Field { field: "content type", value: other.into() }),
    }
}

/// Converts a field of length `N`.
fn array<const N: usize>(field: &[u8]) -> [u8; N] {
    field.first_chunk().copied().unwrap_or([0; N])
}

fn u16(field: &[u8]) -> u16 {
    u16::from_be_bytes(array(field))
}

fn u32(field: &[u8]) -> u32 {
    u32::from_be_bytes(array(field))
}
