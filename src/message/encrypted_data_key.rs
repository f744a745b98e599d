//! Encrypted data keys, as messages store them.

use std::fmt;

use bytes::Bytes;

use crate::{
    error::SealError,
    suite::{IV_LEN, RAW_AES_LENGTHS},
};

/// The provider id of padding.
const PADDING: &str = "kms-envelope-padding";

/// The ciphertext of padding. No encrypted data key is that short.
const PADDING_CIPHERTEXT: &[u8] = &[0];

/// The length of everything in the shortest padding but its provider info: the lengths of the three fields, the id, and
/// one byte of ciphertext.
const PADDING_OVERHEAD: usize = 3 * 2 + PADDING.len() + PADDING_CIPHERTEXT.len();

/// The length of the shortest padding. The AWS Encryption SDK for JavaScript refuses empty fields.
pub(crate) const MIN_PADDING_LEN: usize = PADDING_OVERHEAD + 1;

/// A data key that a key provider has encrypted, as a message's header stores it.
///
/// ```
/// use kms_envelope::message::EncryptedDataKey;
///
/// let arn = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
/// let key = EncryptedDataKey::new("aws-kms", arn, vec![0; 184]);
/// assert_eq!(key.key_name(), arn);
/// assert_eq!(key.to_string(), format!("aws-kms/{arn}"));
/// ```
///
/// The [specification](https://github.com/awslabs/aws-encryption-sdk-specification/blob/master/framework/structures.md#encrypted-data-key)
/// calls the fields the key provider id, the key provider information and the ciphertext.
#[derive(Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct EncryptedDataKey {
    /// The kind of key provider: `aws-kms`, or the namespace of a local key.
    pub provider_id: String,
    /// The key that encrypted the data key, in the provider's own format. For AWS KMS, the key's ARN. For a local AES
    /// key, its name, the tag and IV lengths, and the IV.
    pub provider_info: Bytes,
    /// The encrypted data key itself.
    pub ciphertext: Bytes,
}

impl EncryptedDataKey {
    /// Creates an encrypted data key from its fields. A message can store at most 65,535 bytes in each field. The
    /// length is checked when the key is written to a message.
    pub fn new(provider_id: impl Into<String>, provider_info: impl Into<Bytes>, ciphertext: impl Into<Bytes>) -> Self {
        Self { provider_id: provider_id.into(), provider_info: provider_info.into(), ciphertext: ciphertext.into() }
    }

    /// Returns the padding that makes a header of `header_len` bytes from one that needs `needed` bytes without it, or
    /// `None` if that is the same.
    pub(crate) fn padding(needed: usize, header_len: usize) -> Result<Option<Self>, SealError> {
        match header_len.checked_sub(needed) {
            Some(0) => Ok(None),
            Some(len) if len >= MIN_PADDING_LEN => {
                Ok(Some(Self::new(PADDING, vec![0; len - PADDING_OVERHEAD], PADDING_CIPHERTEXT)))
            }
            _ => Err(SealError::HeaderLen { header_len, needed }),
        }
    }

    /// Returns the number of header bytes that this entry occupies if it is the padding of a
    /// [fixed header length](crate::EnvelopeBuilder::header_len), and `None` if it is an encrypted data key.
    ///
    /// Padding has the provider id `kms-envelope-padding`, zero bytes as provider info, and one zero byte as
    /// ciphertext. Only the provider id and the ciphertext are checked here.
    pub fn padding_len(&self) -> Option<usize> {
        let fields = self.fields();
        is_padding(fields).then(|| fields.iter().map(|field| 2 + field.len()).sum())
    }

    /// Returns the name of the key that encrypted the data key, for display: the key's ARN for AWS KMS, or the name of
    /// a local key. Invalid UTF-8 is replaced by `�`. For [padding](Self::padding_len), returns its length, such as
    /// `540 bytes`.
    pub fn key_name(&self) -> String {
        if let Some(len) = self.padding_len() {
            return format!("{len} bytes");
        }
        // The provider info of a raw AES key is its name, these lengths and the IV.
        let info = &self.provider_info;
        let name = match info.len().checked_sub(RAW_AES_LENGTHS.len() + IV_LEN) {
            Some(name_len) if info[name_len..].starts_with(&RAW_AES_LENGTHS) => &info[..name_len],
            _ => info,
        };
        String::from_utf8_lossy(name).into_owned()
    }

    pub(crate) fn fields(&self) -> [&[u8]; 3] {
        [self.provider_id.as_bytes(), &self.provider_info, &self.ciphertext]
    }
}

/// Returns whether an encrypted data key with these fields is padding.
pub(super) fn is_padding([provider_id, _, ciphertext]: [&[u8]; 3]) -> bool {
    provider_id == PADDING.as_bytes() && ciphertext == PADDING_CIPHERTEXT
}

impl fmt::Debug for EncryptedDataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptedDataKey")
            .field("provider_id", &self.provider_id)
            .field("key_name", &self.key_name())
            .field("ciphertext_len", &self.ciphertext.len())
            .finish_non_exhaustive()
    }
}

/// Formats as `provider-id/key-name`.
impl fmt::Display for EncryptedDataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider_id.escape_debug(), self.key_name().escape_debug())
    }
}
