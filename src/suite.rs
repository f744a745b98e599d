//! The algorithm suites of the AWS Encryption SDK, as one table (specification, `framework/algorithm-suites.md`).

use std::fmt;

/// The length of an IV, in bytes.
pub(crate) const IV_LEN: usize = 12;
/// The length of an IV as the format stores it.
#[allow(clippy::cast_possible_truncation, reason = "it is 12")]
pub(crate) const IV_LEN_FIELD: u8 = IV_LEN as u8;
/// The length of an authentication tag, in bytes.
pub(crate) const TAG_LEN: usize = 16;
/// The length of the tag in bits and of the IV in bytes, as the provider info of a raw AES key contains them
/// (specification, `framework/raw-aes-keyring.md`, "Key Provider Information").
#[allow(clippy::cast_possible_truncation, reason = "it is 128")]
pub(crate) const RAW_AES_LENGTHS: [u8; 8] = [0, 0, 0, TAG_LEN as u8 * 8, 0, 0, 0, IV_LEN_FIELD];
/// The length of the longest data key and encryption key, in bytes.
pub(crate) const MAX_KEY_LEN: usize = 32;
/// The length of a header's commitment to its data key, in bytes.
pub(crate) const COMMITMENT_LEN: usize = 32;

/// The algorithms that seal a message.
///
/// All suites encrypt with AES-GCM, 12-byte IVs and 16-byte tags. They differ in the key length, in how the encryption
/// key is derived from the data key, and in whether they have key commitment and a signature. An
/// [`Envelope`](crate::Envelope) seals with one suite, set with
/// [`EnvelopeBuilder::suite`](crate::EnvelopeBuilder::suite), and opens messages of all suites that its
/// [commitment policy](CommitmentPolicy) allows.
///
/// Use the default suite unless you need a signature or a reader needs another suite. With key commitment, a message
/// opens with only one data key. A signature is useful when you trust those who open messages less than those who seal
/// them: knowing a message's data key is then not enough to forge another message with it. Signed messages are slower
/// to seal and to open. See AWS's
/// [algorithm suites reference](https://docs.aws.amazon.com/encryption-sdk/latest/developer-guide/algorithms-reference.html).
///
/// ```
/// use kms_envelope::AlgorithmSuite;
///
/// let suite = AlgorithmSuite::default();
/// assert_eq!(suite.id(), 0x0478);
/// assert!(suite.is_committing() && suite.signature().is_none());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum AlgorithmSuite {
    /// `0x0014`: AES-128-GCM, without key derivation.
    Aes128Gcm,
    /// `0x0046`: AES-192-GCM, without key derivation.
    Aes192Gcm,
    /// `0x0078`: AES-256-GCM, without key derivation.
    Aes256Gcm,
    /// `0x0114`: AES-128-GCM, HKDF-SHA256.
    Aes128GcmHkdfSha256,
    /// `0x0146`: AES-192-GCM, HKDF-SHA256.
    Aes192GcmHkdfSha256,
    /// `0x0178`: AES-256-GCM, HKDF-SHA256.
    Aes256GcmHkdfSha256,
    /// `0x0214`: AES-128-GCM, HKDF-SHA256, ECDSA P-256.
    Aes128GcmHkdfSha256EcdsaP256,
    /// `0x0346`: AES-192-GCM, HKDF-SHA384, ECDSA P-384.
    Aes192GcmHkdfSha384EcdsaP384,
    /// `0x0378`: AES-256-GCM, HKDF-SHA384, ECDSA P-384.
    Aes256GcmHkdfSha384EcdsaP384,
    /// `0x0478`: AES-256-GCM, HKDF-SHA512, key commitment. The default.
    Aes256GcmHkdfSha512Commit,
    /// `0x0578`: AES-256-GCM, HKDF-SHA512, key commitment, ECDSA P-384.
    Aes256GcmHkdfSha512CommitEcdsaP384,
}

/// The version of the message format, which depends on the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MessageVersion {
    /// Version 1, for suites without key commitment.
    V1,
    /// Version 2, for suites with key commitment.
    V2,
}

impl MessageVersion {
    /// Returns the version number: 1 or 2. It is the first byte of a message.
    pub const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }

    /// Returns the length of the message id in bytes: 16 or 32.
    pub const fn message_id_len(self) -> usize {
        match self {
            Self::V1 => 16,
            Self::V2 => 32,
        }
    }
}

/// The method that derives a message's encryption key from its data key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyDerivation {
    /// The data key is the encryption key.
    Identity,
    /// HKDF ([RFC 5869](https://www.rfc-editor.org/rfc/rfc5869)) with this hash.
    Hkdf(HashAlgorithm),
}

/// Formats as, for example, `HKDF-SHA512`, or as `no key derivation`.
impl fmt::Display for KeyDerivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => f.write_str("no key derivation"),
            Self::Hkdf(hash) => write!(f, "HKDF-{hash}"),
        }
    }
}

/// A hash function of the SHA-2 family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HashAlgorithm {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// Formats as, for example, `SHA512`.
impl fmt::Display for HashAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256 => "SHA256",
            Self::Sha384 => "SHA384",
            Self::Sha512 => "SHA512",
        })
    }
}

/// The signature algorithm of a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SignatureAlgorithm {
    /// ECDSA over P-256 with SHA-256.
    EcdsaP256Sha256,
    /// ECDSA over P-384 with SHA-384.
    EcdsaP384Sha384,
}

impl SignatureAlgorithm {
    /// Returns the length of the DER-encoded signatures that this crate writes, in bytes: 71 or 103.
    ///
    /// ECDSA signatures vary in length. Like AWS's SDKs for Java and Python, this crate signs again until a signature
    /// has this length, so that a message's length is known before it is sealed. AWS's SDK for JavaScript does not.
    /// Readers accept any length.
    pub const fn signature_len(self) -> usize {
        match self {
            Self::EcdsaP256Sha256 => 71,
            Self::EcdsaP384Sha384 => 103,
        }
    }

    /// Returns the hash of the signed bytes.
    pub(crate) const fn hash(self) -> HashAlgorithm {
        match self {
            Self::EcdsaP256Sha256 => HashAlgorithm::Sha256,
            Self::EcdsaP384Sha384 => HashAlgorithm::Sha384,
        }
    }
}

/// Formats as, for example, `ECDSA P-384`.
impl fmt::Display for SignatureAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EcdsaP256Sha256 => "ECDSA P-256",
            Self::EcdsaP384Sha384 => "ECDSA P-384",
        })
    }
}

struct Row {
    suite: AlgorithmSuite,
    id: u16,
    key_len: usize,
    derivation: KeyDerivation,
    commits: bool,
    signature: Option<SignatureAlgorithm>,
}

/// The rows are in the order of the enum, because a suite's discriminant is its index.
#[rustfmt::skip]
static TABLE: [Row; 11] = {
    use AlgorithmSuite::*;
    use HashAlgorithm::*;
    use KeyDerivation::*;
    use SignatureAlgorithm::*;
    const fn row(suite: AlgorithmSuite, id: u16, key_len: usize, derivation: KeyDerivation, commits: bool, signature: Option<SignatureAlgorithm>) -> Row {
        Row { suite, id, key_len, derivation, commits, signature }
    }
    [
        row(Aes128Gcm,                          0x0014, 16, Identity,     false, None),
        row(Aes192Gcm,                          0x0046, 24, Identity,     false, None),
        row(Aes256Gcm,                          0x0078, 32, Identity,     false, None),
        row(Aes128GcmHkdfSha256,                0x0114, 16, Hkdf(Sha256), false, None),
        row(Aes192GcmHkdfSha256,                0x0146, 24, Hkdf(Sha256), false, None),
        row(Aes256GcmHkdfSha256,                0x0178, 32, Hkdf(Sha256), false, None),
        row(Aes128GcmHkdfSha256EcdsaP256,       0x0214, 16, Hkdf(Sha256), false, Some(EcdsaP256Sha256)),
        row(Aes192GcmHkdfSha384EcdsaP384,       0x0346, 24, Hkdf(Sha384), false, Some(EcdsaP384Sha384)),
        row(Aes256GcmHkdfSha384EcdsaP384,       0x0378, 32, Hkdf(Sha384), false, Some(EcdsaP384Sha384)),
        row(Aes256GcmHkdfSha512Commit,          0x0478, 32, Hkdf(Sha512), true,  None),
        row(Aes256GcmHkdfSha512CommitEcdsaP384, 0x0578, 32, Hkdf(Sha512), true,  Some(EcdsaP384Sha384)),
    ]
};

impl AlgorithmSuite {
    /// Returns an iterator over all suites, in the order of their ids.
    pub fn all() -> impl ExactSizeIterator<Item = Self> {
        TABLE.iter().map(|row| row.suite)
    }

    /// Returns the suite with this id, or `None` if the id is unknown.
    pub fn from_id(id: u16) -> Option<Self> {
        TABLE.iter().find(|row| row.id == id).map(|row| row.suite)
    }

    fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// Returns the suite's id, which a message's header contains.
    pub fn id(self) -> u16 {
        self.row().id
    }

    /// Returns the length of the data key and of the encryption key, in bytes: 16, 24 or 32.
    pub fn data_key_len(self) -> usize {
        self.row().key_len
    }

    /// Returns how the encryption key is derived from the data key.
    pub fn key_derivation(self) -> KeyDerivation {
        self.row().derivation
    }

    /// Returns whether the suite has key commitment: the header commits to the data key, so that a message opens with
    /// only one data key.
    pub fn is_committing(self) -> bool {
        self.row().commits
    }

    /// Returns the signature algorithm, or `None` if the suite does not sign messages.
    pub fn signature(self) -> Option<SignatureAlgorithm> {
        self.row().signature
    }

    /// Returns the version of the message format that the suite uses.
    pub fn message_version(self) -> MessageVersion {
        if self.is_committing() { MessageVersion::V2 } else { MessageVersion::V1 }
    }
}

/// The policy on key commitment: which suites an envelope seals with, and which it opens.
///
/// Without key commitment, a sender can create a message that opens with two data keys, to a different plaintext with
/// each. Use the default unless you exchange messages with software that does not support key commitment. Set the
/// policy with [`EnvelopeBuilder::commitment_policy`](crate::EnvelopeBuilder::commitment_policy). The policies are the
/// same as [AWS's](https://docs.aws.amazon.com/encryption-sdk/latest/developer-guide/migrate-commitment-policy.html).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CommitmentPolicy {
    /// Seals without key commitment, and opens messages with or without it. Use this policy only if some readers do not
    /// support key commitment. The default suite is then [`Aes256GcmHkdfSha256`](AlgorithmSuite::Aes256GcmHkdfSha256).
    ForbidEncryptAllowDecrypt,
    /// Seals with key commitment, and opens messages with or without it. Use this policy while you still have messages
    /// without key commitment.
    RequireEncryptAllowDecrypt,
    /// Seals with key commitment, and opens only messages with key commitment. The default.
    #[default]
    RequireEncryptRequireDecrypt,
}

impl CommitmentPolicy {
    /// Returns whether the policy allows sealing messages with the suite.
    pub fn allows_sealing(self, suite: AlgorithmSuite) -> bool {
        suite.is_committing() != (self == Self::ForbidEncryptAllowDecrypt)
    }

    /// Returns whether the policy allows opening messages of the suite.
    pub fn allows_opening(self, suite: AlgorithmSuite) -> bool {
        suite.is_committing() || self != Self::RequireEncryptRequireDecrypt
    }

    /// Returns the suite that an envelope with this policy seals with by default.
    pub fn default_suite(self) -> AlgorithmSuite {
        match self {
            Self::ForbidEncryptAllowDecrypt => AlgorithmSuite::Aes256GcmHkdfSha256,
            _ => AlgorithmSuite::Aes256GcmHkdfSha512Commit,
        }
    }

    /// Returns what to do if the policy does not allow sealing with a suite.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::ForbidEncryptAllowDecrypt => "use a suite without key commitment, or another commitment policy",
            _ => {
                "use a suite with key commitment (0478 or 0578), or CommitmentPolicy::ForbidEncryptAllowDecrypt \
                 if some readers do not support key commitment"
            }
        }
    }
}

/// Formats as AWS's name, for example `REQUIRE_ENCRYPT_REQUIRE_DECRYPT`.
impl fmt::Display for CommitmentPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ForbidEncryptAllowDecrypt => "FORBID_ENCRYPT_ALLOW_DECRYPT",
            Self::RequireEncryptAllowDecrypt => "REQUIRE_ENCRYPT_ALLOW_DECRYPT",
            Self::RequireEncryptRequireDecrypt => "REQUIRE_ENCRYPT_REQUIRE_DECRYPT",
        })
    }
}

impl Default for AlgorithmSuite {
    /// Returns `0x0478`: AES-256-GCM with key commitment, without a signature.
    fn default() -> Self {
        Self::Aes256GcmHkdfSha512Commit
    }
}

/// Formats as the id in hexadecimal, for example `0478`.
impl fmt::Display for AlgorithmSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_has_its_row_and_is_found_by_its_id() {
        assert_eq!(AlgorithmSuite::all().len(), 11);
        for (index, suite) in AlgorithmSuite::all().enumerate() {
            assert_eq!(suite as usize, index);
            assert_eq!(AlgorithmSuite::from_id(suite.id()), Some(suite));
        }
    }

    #[test]
    fn ids_of_other_aws_formats_are_unknown() {
        for id in [0x0000, 0x0070, 0x0074, 0x6700, 0x6701, 0xffff] {
            assert_eq!(AlgorithmSuite::from_id(id), None, "{id:04x}");
        }
    }
}
