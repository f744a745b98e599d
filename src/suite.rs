//! The eleven algorithm suites of the AWS Encryption SDK, as one table.
//!
//! Source: AWS Encryption SDK specification, `framework/algorithm-suites.md`. All suites encrypt with AES-GCM,
//! a 12-byte IV and a 16-byte tag.

use std::fmt;

/// The bytes of an IV.
pub(crate) const IV_LEN: usize = 12;
/// The same, as the format stores it.
#[allow(clippy::cast_possible_truncation, reason = "it is 12")]
pub(crate) const IV_LEN_FIELD: u8 = IV_LEN as u8;
/// The bytes of an authentication tag.
pub(crate) const TAG_LEN: usize = 16;
/// The length of the tag in bits and of the IV in bytes, as a raw AES key's provider info has them
/// (specification, `framework/raw-aes-keyring.md`, "Key Provider Information").
#[allow(clippy::cast_possible_truncation, reason = "it is 128")]
pub(crate) const RAW_AES_LENGTHS: [u8; 8] = [0, 0, 0, TAG_LEN as u8 * 8, 0, 0, 0, IV_LEN_FIELD];
/// The bytes of a header's commitment to its data key.
pub(crate) const COMMITMENT_LEN: usize = 32;

/// What a message is encrypted with: the key length, how the message's keys come from the data key, whether the
/// header commits to the data key, and whether the message is signed.
///
/// All can be sealed and opened, as far as the [commitment policy](CommitmentPolicy) allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum AlgorithmSuite {
    /// `0x0014`: AES-128-GCM under the data key itself.
    Aes128Gcm,
    /// `0x0046`: AES-192-GCM under the data key itself.
    Aes192Gcm,
    /// `0x0078`: AES-256-GCM under the data key itself.
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

/// The version of the message format that a suite is written in: its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MessageVersion {
    /// Suites without key commitment.
    V1,
    /// Suites with key commitment.
    V2,
}

impl MessageVersion {
    /// Returns the first byte of a message: 1 or 2.
    pub const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }

    /// The length of the message id in bytes.
    pub const fn message_id_len(self) -> usize {
        match self {
            Self::V1 => 16,
            Self::V2 => 32,
        }
    }
}

/// How a message's encryption key comes from its data key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyDerivation {
    /// The data key is the encryption key.
    Identity,
    /// HKDF ([RFC 5869](https://www.rfc-editor.org/rfc/rfc5869)) with this hash.
    Hkdf(HashAlgorithm),
}

/// Such as `HKDF-SHA512`, or `no key derivation`.
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

/// Such as `SHA512`.
impl fmt::Display for HashAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256 => "SHA256",
            Self::Sha384 => "SHA384",
            Self::Sha512 => "SHA512",
        })
    }
}

/// What a suite signs its messages with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SignatureAlgorithm {
    /// ECDSA over P-256 with SHA-256.
    EcdsaP256Sha256,
    /// ECDSA over P-384 with SHA-384.
    EcdsaP384Sha384,
}

impl SignatureAlgorithm {
    /// Returns the length of the signatures that this crate writes, in bytes of DER: 71 or 103. Like AWS's SDKs for Java
    /// and Python, it signs again until a signature has this length, so that a message's length is known beforehand. The
    /// signatures of AWS's SDK for JavaScript differ in length. Readers accept any length.
    pub const fn signature_len(self) -> usize {
        match self {
            Self::EcdsaP256Sha256 => 71,
            Self::EcdsaP384Sha384 => 103,
        }
    }
}

/// Such as `ECDSA P-384`.
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

/// In the order of the enum: a suite's discriminant is its row.
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
    /// All suites, in the order of their ids.
    pub fn all() -> impl ExactSizeIterator<Item = Self> {
        TABLE.iter().map(|row| row.suite)
    }

    /// The suite with this id in a message's header, if there is one.
    pub fn from_id(id: u16) -> Option<Self> {
        TABLE.iter().find(|row| row.id == id).map(|row| row.suite)
    }

    fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// The suite's id in a message's header.
    pub fn id(self) -> u16 {
        self.row().id
    }

    /// The length of the data key, and of the encryption key, in bytes: 16, 24 or 32.
    pub fn data_key_len(self) -> usize {
        self.row().key_len
    }

    /// How the encryption key comes from the data key.
    pub fn key_derivation(self) -> KeyDerivation {
        self.row().derivation
    }

    /// Whether the header commits to the data key, so that a message opens under one key only.
    pub fn is_committing(self) -> bool {
        self.row().commits
    }

    /// What messages are signed with, if they are.
    pub fn signature(self) -> Option<SignatureAlgorithm> {
        self.row().signature
    }

    /// The version of the message format that the suite is written in.
    pub fn message_version(self) -> MessageVersion {
        if self.is_committing() { MessageVersion::V2 } else { MessageVersion::V1 }
    }
}

/// Whether messages must commit to their data key. Specification: `client-apis/client.md`, "Commitment Policy".
///
/// Without key commitment, somebody who knows two data keys can make a message that opens under each, to different
/// plaintexts. The names are AWS's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CommitmentPolicy {
    /// Seals without key commitment only, for readers that do not know it; opens either. The default suite is
    /// [`Aes256GcmHkdfSha256`](AlgorithmSuite::Aes256GcmHkdfSha256).
    ForbidEncryptAllowDecrypt,
    /// Seals with key commitment only; opens either: for as long as there are old messages.
    RequireEncryptAllowDecrypt,
    /// Seals and opens with key commitment only. The default.
    #[default]
    RequireEncryptRequireDecrypt,
}

impl CommitmentPolicy {
    /// Whether messages of the suite may be sealed.
    pub fn allows_sealing(self, suite: AlgorithmSuite) -> bool {
        suite.is_committing() != (self == Self::ForbidEncryptAllowDecrypt)
    }

    /// Whether messages of the suite may be opened.
    pub fn allows_opening(self, suite: AlgorithmSuite) -> bool {
        suite.is_committing() || self != Self::RequireEncryptRequireDecrypt
    }

    /// The suite that is sealed with unless another is chosen: AES-256-GCM, without a signature.
    pub fn default_suite(self) -> AlgorithmSuite {
        match self {
            Self::ForbidEncryptAllowDecrypt => AlgorithmSuite::Aes256GcmHkdfSha256,
            _ => AlgorithmSuite::Aes256GcmHkdfSha512Commit,
        }
    }

    /// What to do where a suite is refused for sealing.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::ForbidEncryptAllowDecrypt => "choose a suite without key commitment, or another policy",
            _ => {
                "choose a suite with key commitment (0478 or 0578), or, for readers that do not know it, \
                 CommitmentPolicy::ForbidEncryptAllowDecrypt"
            }
        }
    }
}

/// As AWS writes it, such as `REQUIRE_ENCRYPT_REQUIRE_DECRYPT`.
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
    /// `0x0478`: key commitment, no signature.
    fn default() -> Self {
        Self::Aes256GcmHkdfSha512Commit
    }
}

/// The id as the specification writes it, such as `0478`.
impl fmt::Display for AlgorithmSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_is_its_own_row_and_is_found_by_its_id() {
        assert_eq!(AlgorithmSuite::all().len(), 11);
        for (index, suite) in AlgorithmSuite::all().enumerate() {
            assert_eq!(suite as usize, index);
            assert_eq!(AlgorithmSuite::from_id(suite.id()), Some(suite));
        }
    }

    #[test]
    fn ids_of_other_aws_formats_are_no_suites_of_ours() {
        for id in [0x0000, 0x0070, 0x0074, 0x6700, 0x6701, 0xffff] {
            assert_eq!(AlgorithmSuite::from_id(id), None, "{id:04x}");
        }
    }
}
