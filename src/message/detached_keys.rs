//! Encrypted data keys that are kept beside their message.

use bytes::{BufMut, Bytes};

use super::{
    EncryptedDataKey, Limits, MessageId,
    key_section::{KeySection, put_encrypted_data_keys},
};
use crate::{
    error::{FormatError, HeaderError, SealError},
    suite::MessageVersion,
};

/// What the bytes begin with, the last of it the version.
const MAGIC: [u8; 5] = *b"KEDK\x01";

/// Encrypted forms of a message's data key that are kept beside the message: what [`Envelope::rewrap`] makes.
///
/// They name their message, and open no other. The message itself stays as it is, and still opens with the encrypted
/// data keys that it holds. These bytes need not be kept secret, no more than a message's header.
///
/// As bytes: `KEDK`, the version 1 (1 byte), the length of the message id (1 byte: 16 or 32), the message id, and the
/// format's own section of encrypted data keys (specification, `data-format/message-header.md`, "Encrypted Data
/// Keys"). They are not authenticated. The message's header proves the data key that comes out of them, but not their own
/// bytes and names.
///
/// [`Envelope::rewrap`]: crate::Envelope::rewrap
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetachedKeys {
    message_id: MessageId,
    encrypted_data_keys: Vec<EncryptedDataKey>,
}

impl DetachedKeys {
    pub(crate) fn new(message_id: MessageId, encrypted_data_keys: Vec<EncryptedDataKey>) -> Self {
        Self { message_id, encrypted_data_keys }
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote, which is all of `bytes`.
    ///
    /// # Errors
    /// [`FormatError::DetachedKeys`] and [`FormatError::EncryptedDataKeys`] where it is not that, [`LimitError`](crate::error::LimitError)
    /// where it has more or longer keys than a header may have.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, HeaderError> {
        let refused = |what| Err(FormatError::DetachedKeys(what).into());
        let (magic, version) = (&MAGIC[..4], MAGIC[4]);
        if !bytes.starts_with(magic) {
            return refused("they do not begin with KEDK");
        }
        limits.check_header_len(bytes.len())?;
        let mut fields = Fields { bytes, at: magic.len() };
        if fields.u8()? != version {
            return refused("their version is unknown: use a newer release");
        }
        let id_len = usize::from(fields.u8()?);
        let version = [MessageVersion::V1, MessageVersion::V2];
        let version = version.into_iter().find(|version| version.message_id_len() == id_len);
        let version = version.ok_or(FormatError::DetachedKeys("no message id has this length"))?;
        let message_id = MessageId::from_bytes(version, fields.take(id_len)?);
        let mut keys = KeySection::new(fields.u16()?, limits)?;
        while !keys.is_complete() {
            let len = fields.u16()?;
            let part = fields.take(usize::from(len))?;
            keys.push(fields.at - part.len()..fields.at, part)?;
        }
        if fields.at < bytes.len() {
            return refused("something follows their end");
        }
        Ok(Self { message_id, encrypted_data_keys: keys.into_keys(&Bytes::copy_from_slice(bytes)) })
    }

    /// The bytes to keep.
    ///
    /// # Errors
    /// [`SealError::DataKey`] where the format has no room for what a key provider has made.
    pub fn to_bytes(&self) -> Result<Vec<u8>, SealError> {
        let mut out = MAGIC.to_vec();
        let id = self.message_id.as_bytes();
        // 16 or 32.
        out.put_u8(u8::try_from(id.len()).unwrap_or(u8::MAX));
        out.put_slice(id);
        put_encrypted_data_keys(&mut out, &self.encrypted_data_keys)?;
        Ok(out)
    }

    /// The message that they belong to.
    pub fn message_id(&self) -> &MessageId {
        &self.message_id
    }

    /// The encrypted data keys: one or more.
    pub fn encrypted_data_keys(&self) -> &[EncryptedDataKey] {
        &self.encrypted_data_keys
    }
}

/// Reads fields from the start of bytes, all of which are there.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let field = self.bytes.get(self.at..self.at + len);
        self.at += len;
        field.ok_or(FormatError::DetachedKeys("they are truncated"))
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
        DetachedKeys::new(MessageId::from_bytes(version, id), keys.to_vec())
    }

    #[test]
    fn what_is_written_is_read_back() {
        for version in [MessageVersion::V1, MessageVersion::V2] {
            let keys = keys(version);
            assert_eq!(DetachedKeys::parse(&keys.to_bytes().unwrap(), &Limits::default()).unwrap(), keys);
        }
        let written = keys(MessageVersion::V1).to_bytes().unwrap();
        assert_eq!(written[..22], *b"KEDK\x01\x10\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07");
        assert_eq!(written[22..38], *b"\0\x02\0\x01p\0\x03one\0\x0aciph");
    }

    #[test]
    fn what_is_cut_or_longer_or_of_another_version_is_refused() {
        let written = keys(MessageVersion::V2).to_bytes().unwrap();
        for len in 0..written.len() {
            assert!(DetachedKeys::parse(&written[..len], &Limits::default()).is_err(), "{len}");
        }
        let refused = |bytes: &[u8]| DetachedKeys::parse(bytes, &Limits::default()).unwrap_err().to_string();
        assert!(refused(&[&written[..], b"!"].concat()).contains("follows"));
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
                prop_assert_eq!(keys.to_bytes().unwrap(), bytes);
            }
        }
    }
}
