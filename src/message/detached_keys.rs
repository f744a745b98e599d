//! Encrypted data keys that are stored beside their message.

use std::fmt;

use bytes::{BufMut, Bytes};

use super::{
    EncryptedDataKey, EncryptedDataKeys, Limits, MessageId,
    key_section::{KeySection, put_encrypted_data_keys},
};
use crate::{
    error::{FormatError, HeaderError, SealError},
    suite::MessageVersion,
};

/// The bytes that detached keys begin with. The last one is the version.
const MAGIC: [u8; 5] = *b"KEDK\x01";

/// Detached keys: encrypted data keys stored beside the message, as [`Envelope::rewrap`] returns them.
///
/// Detached keys contain the id of their message and open only that message. Rewrapping does not modify the message,
/// which still opens with the encrypted data keys in its header. Detached keys need no more protection than a message's
/// header: they contain only encrypted data keys and key names.
///
/// ```
/// use kms_envelope::{EncryptionContext, Envelope, Limits, RawAes, message::{DetachedKeys, Header}};
///
/// # pollster::block_on(async {
/// let old = Envelope::new(RawAes::generate("example", "2025")?);
/// let new_key = RawAes::generate("example", "2026")?;
/// let context = EncryptionContext::new();
/// let sealed = old.seal(b"data", &context).await?;
///
/// // Store these bytes beside the message.
/// let header = Header::parse(&sealed, &Limits::default())?;
/// let stored: Vec<u8> = old.rewrap(&header, &context, &new_key).await?.to_bytes();
///
/// let keys = DetachedKeys::parse(&stored, &Limits::default())?;
/// let new = Envelope::new(new_key).with_detached_keys(keys);
/// assert_eq!(new.open(&sealed, &context).await?.plaintext, b"data");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Format
/// The bytes `KEDK`, the version 1 (1 byte), the length of the message id (1 byte: 16 or 32), the message id, and the
/// encrypted data keys, serialized like those in a
/// [message header](https://github.com/awslabs/aws-encryption-sdk-specification/blob/master/data-format/message-header.md#encrypted-data-keys).
///
/// The bytes are not authenticated. On opening, the message's header authenticates the decrypted data key, but not the
/// key names and other bytes of the detached keys.
///
/// [`Envelope::rewrap`]: crate::Envelope::rewrap
#[derive(Clone, PartialEq, Eq)]
pub struct DetachedKeys {
    message_id: MessageId,
    encrypted_data_keys: Vec<EncryptedDataKey>,
    /// The same keys, serialized, after their number.
    serialized: Bytes,
}

impl fmt::Debug for DetachedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DetachedKeys")
            .field("message_id", &self.message_id)
            .field("encrypted_data_keys", &self.encrypted_data_keys)
            .finish_non_exhaustive()
    }
}

impl DetachedKeys {
    /// Creates the detached keys of a message, for example to combine those of several calls of
    /// [`Envelope::rewrap`](crate::Envelope::rewrap).
    ///
    /// # Errors
    /// Returns [`SealError::DataKey`] if there are more than 65,535 encrypted data keys, or if a field of one is longer
    /// than 65,535 bytes.
    pub fn new(message_id: MessageId, encrypted_data_keys: Vec<EncryptedDataKey>) -> Result<Self, SealError> {
        let mut serialized = Vec::new();
        put_encrypted_data_keys(&mut serialized, &encrypted_data_keys)?;
        Ok(Self { message_id, encrypted_data_keys, serialized: serialized.into() })
    }

    /// Parses the output of [`to_bytes`](Self::to_bytes). `bytes` must contain nothing else.
    ///
    /// # Errors
    /// Returns [`FormatError::DetachedKeys`] or [`FormatError::EncryptedDataKeys`] if the bytes are malformed, and
    /// [`LimitError`](crate::error::LimitError) if they exceed the limits on the number of encrypted data keys or on
    /// the length of a header.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, HeaderError> {
        let refused = |what| Err(FormatError::DetachedKeys(what).into());
        let (magic, version) = (&MAGIC[..4], MAGIC[4]);
        if !bytes.starts_with(magic) {
            return refused("the data does not begin with KEDK");
        }
        limits.check_header_len(bytes.len())?;
        let mut fields = Fields { bytes, at: magic.len() };
        if fields.u8()? != version {
            return refused("the version is unknown; use a newer release of kms-envelope");
        }
        let id_len = usize::from(fields.u8()?);
        let version = [MessageVersion::V1, MessageVersion::V2];
        let version = version.into_iter().find(|version| version.message_id_len() == id_len);
        let version = version.ok_or(FormatError::DetachedKeys("invalid length of the message id"))?;
        let message_id = MessageId::from_bytes(version, fields.take(id_len)?);
        let serialized_at = fields.at;
        let count = fields.u16()?;
        let mut keys = KeySection::new(fields.at, count, limits)?;
        while !keys.is_complete() {
            let len = fields.u16()?;
            let part = fields.take(usize::from(len))?;
            keys.push(fields.at, part)?;
        }
        if fields.at < bytes.len() {
            return refused("trailing bytes after the last key");
        }
        let bytes = Bytes::copy_from_slice(bytes);
        let encrypted_data_keys = EncryptedDataKeys::new(&bytes[keys.range()]).in_bytes(&bytes);
        Ok(Self { message_id, encrypted_data_keys, serialized: bytes.slice(serialized_at..) })
    }

    /// Serializes the keys, so that they can be stored beside the message.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let id = self.message_id.as_bytes();
        out.put_u8(u8::try_from(id.len()).unwrap_or(u8::MAX));
        out.put_slice(id);
        out.put_slice(&self.serialized);
        out
    }

    /// Returns the id of the message that the keys belong to.
    pub fn message_id(&self) -> &MessageId {
        &self.message_id
    }

    /// Returns the encrypted data keys. There is at least one.
    pub fn encrypted_data_keys(&self) -> &[EncryptedDataKey] {
        &self.encrypted_data_keys
    }

    /// Returns the encrypted data keys as [`HeaderView`](super::HeaderView) has them.
    pub(crate) fn serialized(&self) -> EncryptedDataKeys<'_> {
        EncryptedDataKeys::new(&self.serialized[2..])
    }
}

/// A cursor over complete input.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let field = self.bytes.get(self.at..self.at + len);
        self.at += len;
        field.ok_or(FormatError::DetachedKeys("the data is truncated"))
    }

    fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, FormatError> {
        let field = self.take(2)?;
        Ok(u16::from_be_bytes([field[0], field[1]]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(version: MessageVersion) -> DetachedKeys {
        let id = &[7; 32][..version.message_id_len()];
        let keys = ["one", "two"].map(|name| EncryptedDataKey::new("p", name.as_bytes(), &b"ciphertext"[..]));
        DetachedKeys::new(MessageId::from_bytes(version, id), keys.to_vec()).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        for version in [MessageVersion::V1, MessageVersion::V2] {
            let keys = keys(version);
            assert_eq!(DetachedKeys::parse(&keys.to_bytes(), &Limits::default()).unwrap(), keys);
        }
        let written = keys(MessageVersion::V1).to_bytes();
        assert_eq!(written[..22], *b"KEDK\x01\x10\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07");
        assert_eq!(written[22..38], *b"\0\x02\0\x01p\0\x03one\0\x0aciph");
    }

    #[test]
    fn truncated_or_extended_keys_and_other_versions_are_refused() {
        let written = keys(MessageVersion::V2).to_bytes();
        for len in 0..written.len() {
            assert!(DetachedKeys::parse(&written[..len], &Limits::default()).is_err(), "{len}");
        }
        let refused = |bytes: &[u8]| DetachedKeys::parse(bytes, &Limits::default()).unwrap_err().to_string();
        assert!(refused(&[&written[..], b"!"].concat()).contains("trailing"));
        assert!(refused(&[b"KEDK\x02", &written[5..]].concat()).contains("newer"));
        assert!(refused(&[b"KEDK\x01\x11", &written[6..]].concat()).contains("length"));
        assert!(refused(b"\x02\x04\x78").contains("KEDK"));
        let few = Limits::default().with_encrypted_data_keys(1);
        assert!(matches!(DetachedKeys::parse(&written, &few), Err(HeaderError::Limit(_))));
        let short = Limits::default().with_header_len(written.len() - 1);
        assert!(matches!(DetachedKeys::parse(&written, &short), Err(HeaderError::Limit(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_written_back_as_they_were(rest in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = [&MAGIC[..], &rest].concat();
            if let Ok(keys) = DetachedKeys::parse(&bytes, &Limits::default()) {
                prop_assert_eq!(keys.to_bytes(), bytes);
            }
        }
    }
}
