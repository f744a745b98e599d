//! What can go wrong, split by operation.
//!
//! An error of decryption says which check failed, and never anything about the data. The sources are kept: walk
//! [`std::error::Error::source`] for the cause, such as the error of the AWS SDK.

use std::{borrow::Cow, error::Error as StdError, fmt, io, ops::Deref, sync::Arc};

use thiserror::Error;

use crate::suite::{AlgorithmSuite, CommitmentPolicy};

/// The cause of an error, of whatever type. Shared: all who waited for a request that failed are told the same.
///
/// Any error becomes one by `into`, and so does a text. It dereferences to [`std::error::Error`].
#[derive(Clone)]
pub struct Cause(Arc<dyn StdError + Send + Sync>);

impl<E: Into<Box<dyn StdError + Send + Sync>>> From<E> for Cause {
    fn from(error: E) -> Self {
        Self(error.into().into())
    }
}

// Not an error itself, so that `source()` of an error gives what is inside, ready to be downcast.
impl Deref for Cause {
    type Target = dyn StdError + Send + Sync;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Bytes that are not a message, or not a whole one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes end before the message does.
    #[error("the message is truncated: it ends in {0}")]
    Truncated(Cow<'static, str>),
    /// The message was encoded as text on its way.
    #[error("this looks like a base64-encoded message: decode it first")]
    Base64,
    /// The first byte is no version of the format.
    #[error("not a message of the AWS Encryption SDK: it begins with {0:#04x}, not with a version (0x01 or 0x02)")]
    Version(u8),
    /// The second byte of a version-1 message is not its type.
    #[error("not a message of the AWS Encryption SDK: its type is {0:#04x}, not 0x80")]
    Type(u8),
    /// The suite id is unknown, or does not belong to the message's version.
    #[error("the header names the algorithm suite {id:#06x}, which message version {version} does not have")]
    Suite {
        /// The id in the header.
        id: u16,
        /// The version in the header.
        version: u8,
    },
    /// The encryption context is malformed.
    #[error("the header's encryption context is malformed: {0}")]
    Context(&'static str),
    /// The public key of a signed message is missing or malformed, or an unsigned message has one.
    #[error("the header's encryption context is wrong for its suite: {0}")]
    PublicKey(&'static str),
    /// The encrypted data keys are malformed.
    #[error("the header's encrypted data keys are malformed: {0}")]
    EncryptedDataKeys(&'static str),
    /// The bytes are no [detached keys](crate::message::DetachedKeys), or not whole ones.
    #[error("these are not the detached keys of a message: {0}")]
    DetachedKeys(&'static str),
    /// A field has a value that the format does not allow.
    #[error("the header's {field} is {value}, which the format does not allow")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A frame is out of order.
    #[error("frame {expected} should come next, but this one says it is frame {found}")]
    Sequence {
        /// The sequence number that is due.
        expected: u32,
        /// The one in the frame.
        found: u32,
    },
    /// The final frame says that it is longer than a frame may be.
    #[error("the final frame has {len} bytes, more than the frame length of {frame_len}")]
    FinalFrameLen {
        /// The length that the frame claims, in bytes.
        len: u32,
        /// The message's frame length, in bytes.
        frame_len: u32,
    },
    /// A frame is not at the place where the message's length puts it.
    #[error("frame {sequence} is not where the message's length puts it: that length is not the message's")]
    NotThere {
        /// The frame's sequence number, from 1.
        sequence: u32,
    },
    /// There is something behind the end of the message.
    #[error("something follows the end of the message")]
    TrailingBytes,
    /// The message is signed, and its length alone does not say where its frames are.
    #[error(
        "the message is signed, so the length of its footer is needed: find it with message::footer_lens and give it \
         to Header::signed_geometry"
    )]
    FooterLenNeeded,
    /// No message of these lengths exists.
    #[error("no message has {sealed_len} bytes in all with a header of {header_len} and frames of {frame_len}")]
    Length {
        /// The length of the whole message, in bytes.
        sealed_len: u64,
        /// The length of the header, in bytes.
        header_len: u64,
        /// The plaintext bytes of a frame.
        frame_len: u32,
    },
}

/// A message asks for more than the [limits](crate::Limits) allow, before anything in it could be authenticated.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LimitError {
    /// Too many encrypted data keys.
    #[error("the header has {count} encrypted data keys, more than the limit of {limit}")]
    EncryptedDataKeys {
        /// How many there are.
        count: u16,
        /// How many are allowed.
        limit: u16,
    },
    /// A header that is too long.
    #[error("the header has at least {len} bytes, more than the limit of {limit}")]
    HeaderLen {
        /// The bytes known so far.
        len: usize,
        /// The bytes allowed.
        limit: usize,
    },
    /// Frames that are too long to be held in memory.
    #[error("the message has frames of {len} bytes, more than the limit of {limit}")]
    FrameLen {
        /// The plaintext bytes of a frame.
        len: u32,
        /// The bytes allowed.
        limit: u32,
    },
    /// A body without frames that is too long to be held in memory.
    #[error("the message has a body of {len} bytes without frames, more than the limit of {limit}")]
    NonFramedLen {
        /// The plaintext bytes that the body claims to have.
        len: u64,
        /// The bytes allowed.
        limit: usize,
    },
}

/// A header that cannot be read: see [`Header::parse`](crate::message::Header::parse).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// It is malformed.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// It exceeds a limit.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

/// An encryption context that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ContextError {
    /// It takes more bytes than the format has room for.
    #[error("the encryption context takes {len} bytes, more than the 65535 that the format has room for")]
    TooLong {
        /// The bytes it would take.
        len: usize,
    },
    /// A name that the format keeps for itself.
    #[error("the encryption context has the name {name:?}: names that begin with \"aws-crypto-\" are reserved")]
    ReservedName {
        /// The name.
        name: String,
    },
    /// A pair that must be given is not.
    #[error("the encryption context lacks {name:?}, which this envelope requires")]
    RequiredNameMissing {
        /// The name.
        name: String,
    },
    /// A message has a pair with another value than the caller expects.
    #[error("the message's encryption context has another value for {name:?} than expected")]
    ValueDiffers {
        /// The name.
        name: String,
    },
    /// A message does not have a pair that the caller expects.
    #[error("the message's encryption context has no {name:?}, which was expected")]
    PairMissing {
        /// The name.
        name: String,
    },
}

/// A setting that an [`Envelope`](crate::Envelope), a key provider or a key file cannot have.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The commitment policy does not allow the suite.
    #[error("the algorithm suite {suite} is not for sealing under the commitment policy {policy}: {}", policy.advice())]
    CommitmentPolicy {
        /// The suite.
        suite: AlgorithmSuite,
        /// The policy.
        policy: CommitmentPolicy,
    },
    /// A frame length of zero, or one that this envelope itself would refuse to open.
    #[error("a frame length of {len} bytes is not possible: give 1 to {max}, the limit for opening")]
    FrameLen {
        /// The length given.
        len: u32,
        /// The limit on opening.
        max: u32,
    },
    /// A data-key cache that could not work.
    #[error("a data-key cache cannot be built so: {what}")]
    Cache {
        /// What must be otherwise.
        what: &'static str,
    },
    /// A key of a length that AES does not have.
    #[error("a key of {0} bytes is not possible: AES takes 16, 24 or 32")]
    KeyLen(usize),
    /// A namespace or name that the format has no room for, or that it keeps for AWS KMS.
    #[error("the key's {field} is not possible: {why}")]
    KeyName {
        /// `namespace` or `name`.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A key in PEM that cannot be used.
    #[error("the {what} cannot be used: {why}")]
    Pem {
        /// `RSA private key`, for example.
        what: &'static str,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// A KMS key identifier that does not name one key for sure.
    #[error("{key_id:?} is not the ARN of a KMS key: {why}")]
    KmsKeyId {
        /// What was given.
        key_id: String,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// KMS keys or regions that do not go together.
    #[error("these KMS keys cannot be used so: {why}")]
    KmsKeys {
        /// What is wrong with them, and what to do.
        why: String,
    },
    /// A key file that does not hold a key.
    #[error("the key file does not hold a key: {0}")]
    KeyFile(String),
    /// A key file that cannot be read or written.
    #[error("the key file {path:?} cannot be {action}: {source}", path = path.display())]
    KeyFileIo {
        /// The file.
        path: std::path::PathBuf,
        /// `read` or `written`.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The system's randomness failed.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// The random number generator failed.
#[derive(Clone, Debug, Error)]
#[error("the random number generator failed")]
pub struct RandomError(#[source] pub(crate) Cause);

/// A key provider could not do its part: see [`KeyProvider`](crate::KeyProvider).
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// The caller may not use the key in this way.
    #[error("{operation} with key {key_id}: access denied; allow it in the key policy or an IAM policy")]
    AccessDenied {
        /// What was asked for, such as `GenerateDataKey`.
        operation: &'static str,
        /// The key.
        key_id: String,
        /// The service's answer.
        source: Cause,
    },
    /// There is no such key.
    #[error("{operation} with key {key_id}: the key does not exist; check the id, the account and the region")]
    NotFound {
        /// What was asked for.
        operation: &'static str,
        /// The key.
        key_id: String,
        /// The service's answer.
        source: Cause,
    },
    /// The key is disabled, pending deletion, or of a kind that cannot do this.
    #[error("{operation} with key {key_id}: the key's state or kind does not allow it; enable it, or use another")]
    KeyUnusable {
        /// What was asked for.
        operation: &'static str,
        /// The key.
        key_id: String,
        /// The service's answer.
        source: Cause,
    },
    /// The encrypted data key does not decrypt: it is damaged, of another key, or of another encryption context.
    #[error(
        "{operation} with key {key_id}: the encrypted data key is damaged, or belongs to another key or encryption context"
    )]
    InvalidCiphertext {
        /// What was asked for.
        operation: &'static str,
        /// The key.
        key_id: String,
        /// The service's answer, where there is a service.
        source: Option<Cause>,
    },
    /// Too many requests. A retry makes sense.
    #[error("{operation} with key {key_id}: too many requests; retry later, or ask for a higher quota")]
    Throttled {
        /// What was asked for.
        operation: &'static str,
        /// The key.
        key_id: String,
        /// The service's answer.
        source: Cause,
    },
    /// The service did not answer, or failed. A retry makes sense.
    #[error("{operation} with key {key_id}: the key service did not answer or failed; retry, and check the network")]
    Unavailable {
        /// What was asked for.
        operation: &'static str,
        /// The key.
        key_id: String,
        /// What happened.
        source: Cause,
    },
    /// There was no answer in time. A retry makes sense.
    #[error("{operation} with key {key_id}: no answer in time; retry, check the network, or allow more time")]
    TimedOut {
        /// What was asked for.
        operation: &'static str,
        /// The key.
        key_id: String,
        /// What took how long.
        source: Cause,
    },
    /// A multi-region key's region failed, and so did all that stand in for it.
    #[error("{operation} failed in every region: {}", join(attempts))]
    AllRegionsFailed {
        /// What was asked for.
        operation: &'static str,
        /// What happened in each, in order.
        attempts: Vec<ProviderError>,
    },
    /// The provider does not do this at all.
    #[error("{operation} with {key_id} is not possible: {why}")]
    Unsupported {
        /// What was asked for.
        operation: &'static str,
        /// The provider or its key.
        key_id: String,
        /// Why not, and what to do.
        why: &'static str,
    },
    /// The service answered something that it must not answer.
    #[error("{operation} with key {key_id}: the answer cannot be right: {what}")]
    UnexpectedResponse {
        /// What was asked for.
        operation: &'static str,
        /// The key.
        key_id: String,
        /// What is wrong with it.
        what: String,
    },
    /// None of the message's encrypted data keys belongs to this provider.
    #[error("none of the message's encrypted data keys is for {provider}; they are for: {}", found.join(", "))]
    NoMatchingKey {
        /// The provider and its key.
        provider: String,
        /// The provider and key of each encrypted data key.
        found: Vec<String>,
    },
    /// Encrypted data keys belong to this provider, but it could decrypt none of them.
    #[error("no encrypted data key could be decrypted: {}", join(attempts))]
    NoneDecrypted {
        /// What happened with each, in order.
        attempts: Vec<ProviderError>,
    },
    /// Some encrypted data keys were left alone, since others under the same KMS key had failed. It comes last among the
    /// attempts of [`NoneDecrypted`](Self::NoneDecrypted).
    #[error(
        "encrypted data keys not tried: {count}; the limit under one KMS key is {limit} (Limits::tries_per_kms_key)"
    )]
    NotTried {
        /// How many.
        count: usize,
        /// How many under one KMS key may be tried: [`Limits::tries_per_kms_key`](crate::Limits::tries_per_kms_key).
        limit: u16,
    },
    /// The random number generator failed.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// Anything else.
    #[error("{operation} with key {key_id} failed")]
    Other {
        /// What was asked for.
        operation: &'static str,
        /// The key.
        key_id: String,
        /// What happened.
        source: Cause,
    },
}

impl ProviderError {
    /// Whether the same request may succeed when it is made again later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Throttled { .. } | Self::Unavailable { .. } | Self::TimedOut { .. } => true,
            Self::NoneDecrypted { attempts } | Self::AllRegionsFailed { attempts, .. } => {
                attempts.iter().any(Self::is_retryable)
            }
            _ => false,
        }
    }
}

fn join(errors: &[ProviderError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A message could not be sealed.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum SealError {
    /// The encryption context cannot be used.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The key provider gave no data key.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The key provider gave a data key that does not fit.
    #[error("the key provider gave {what}")]
    DataKey {
        /// What does not fit.
        what: String,
    },
    /// The header would exceed a limit that this envelope has for opening.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The random number generator failed.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The plaintext needs more frames than a message can have.
    #[error(
        "the plaintext is too long: a message has at most 4294967295 frames of {frame_len} bytes; use longer frames"
    )]
    TooLong {
        /// The plaintext bytes of a frame.
        frame_len: u32,
    },
    /// The output has more bytes than this platform can address.
    #[error("the output has {len} bytes, more than this platform can address: seal the plaintext as a stream")]
    TooLongForMemory {
        /// Its length, in bytes.
        len: u64,
    },
    /// The buffer given for the output is too short; nothing was consumed.
    #[error("the output buffer has {len} bytes, but {needed} are needed")]
    OutputTooShort {
        /// Its length, in bytes.
        len: usize,
        /// The length needed, in bytes.
        needed: usize,
    },
    /// The message is finished, so it takes no more plaintext; nothing was consumed.
    #[error("the message is finished and takes no more plaintext: seal the rest as another message")]
    Finished,
    /// The message failed to be sealed before. It has no end, and no reader accepts it.
    #[error("sealing this message has failed before: it has no end, and does not open; seal it again from the start")]
    FailedBefore,
}

/// A message could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It is not a whole, well-formed message.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// It asks for more than the limits allow.
    #[error("{0}; raise the limit if you trust the message's source")]
    Limit(#[from] LimitError),
    /// The commitment policy does not allow its suite.
    #[error(
        "the message's algorithm suite {suite} has no key commitment, which the commitment policy {policy} demands; \
         to open it all the same, build the envelope with CommitmentPolicy::RequireEncryptAllowDecrypt"
    )]
    CommitmentPolicy {
        /// The suite.
        suite: AlgorithmSuite,
        /// The policy.
        policy: CommitmentPolicy,
    },
    /// It is signed or has no frames, so that no part of it can be opened without the rest.
    #[error("the message {what}, so that no part of it can be opened by itself: open it whole, from its start")]
    NotSeekable {
        /// `is signed` or `has no frames`.
        what: &'static str,
    },
    /// It is signed, and this envelope [refuses to stream](crate::EnvelopeBuilder::refuse_signed_streams) those.
    #[error(
        "the message is signed, and this envelope gives no plaintext of those before all is verified: open it whole"
    )]
    SignedStream,
    /// The [detached keys](crate::Envelope::with_detached_keys) belong to another message.
    #[error(
        "the detached keys are those of message {keys}, but this is message {message}: give those that belong to it"
    )]
    DetachedKeys {
        /// The id of the message that the keys belong to.
        keys: String,
        /// The id of the message that was to be opened.
        message: String,
    },
    /// Its encryption context is not what was expected.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The key provider gave no data key.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The key provider gave a data key that does not fit.
    #[error("the key provider gave {what}")]
    DataKey {
        /// What does not fit.
        what: String,
    },
    /// The header does not commit to this data key: the key is wrong or the header was changed.
    #[error("the key commitment does not match: this data key is not the one that the message was sealed with")]
    Commitment,
    /// The header does not authenticate: it was changed, or a required pair of the encryption context is wrong.
    #[error("the header does not authenticate: the message was changed, or a required context pair is wrong")]
    HeaderTag,
    /// A frame does not authenticate.
    #[error("frame {sequence} does not authenticate: the message was changed")]
    FrameTag {
        /// The frame's sequence number, from 1.
        sequence: u32,
    },
    /// The signature does not match.
    #[error("the signature does not match: the message was changed, or signed with another key")]
    Signature,
    /// The plaintext does not have the range that was asked for.
    #[error("the plaintext has {plaintext_len} bytes, and not the range {} to {}", range.start, range.end)]
    OutOfRange {
        /// The range, in bytes.
        range: std::ops::Range<u64>,
        /// The length of the plaintext, in bytes.
        plaintext_len: u64,
    },
    /// The message failed to open, or its source failed, before; what was given out until then must not be taken for
    /// the whole.
    #[error("opening this message has failed before: what was read until then is not all of it")]
    FailedBefore,
    /// The requested plaintext has more bytes than this platform can address.
    #[error("{len} bytes are more than this platform can address: read them in parts")]
    TooLongForMemory {
        /// The length, in bytes.
        len: u64,
    },
    /// The buffer given for the output is too short; nothing was consumed.
    #[error("the output buffer has {len} bytes, but up to {needed} are needed")]
    OutputTooShort {
        /// Its length, in bytes.
        len: usize,
        /// The length needed, in bytes.
        needed: usize,
    },
    /// The source of the message could not be read.
    #[error("the message cannot be read")]
    Io(#[from] io::Error),
}

/// A message's data key could not be put under another key: see [`Envelope::rewrap`](crate::Envelope::rewrap).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RewrapError {
    /// The message does not open, as far as its header goes.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The new key provider does not encrypt the data key.
    #[error("the data key cannot be put under the new key")]
    Encrypt(#[source] ProviderError),
    /// The new key provider gave encrypted data keys that the format, or this envelope's limits, have no room for.
    #[error("the new key's encrypted data keys cannot be used")]
    Keys(#[source] SealError),
}

/// A message could not be sealed anew: see [`Envelope::reseal`](crate::Envelope::reseal).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ResealError {
    /// The old message does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The new one cannot be sealed.
    #[error("the message opens, but cannot be sealed anew")]
    Seal(#[from] SealError),
}

impl From<HeaderError> for OpenError {
    fn from(error: HeaderError) -> Self {
        match error {
            HeaderError::Format(error) => error.into(),
            HeaderError::Limit(error) => error.into(),
        }
    }
}

/// As `std::io`'s traits need it; [`io::Error::downcast`] gives the [`OpenError`] back.
impl From<OpenError> for io::Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Io(error) => error,
            OpenError::Format(FormatError::Truncated(_)) => Self::new(io::ErrorKind::UnexpectedEof, error),
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// As `std::io`'s traits need it; [`io::Error::downcast`] gives the [`SealError`] back.
impl From<SealError> for io::Error {
    fn from(error: SealError) -> Self {
        let kind = match error {
            SealError::Finished | SealError::FailedBefore => io::ErrorKind::BrokenPipe,
            _ => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}
