//! Failures as the user reads them: what failed, and a hint about what to do.

use std::{
    error::Error,
    fmt::{self, Display},
    io::{self, Write},
    iter,
    path::Path,
};

#[cfg(feature = "aws-kms")]
use kms_envelope::provider::ResolveError;
use kms_envelope::{
    ConfigError, OpenError, ProviderError, RewrapError, SealError,
    error::{ContextError, FormatError, HeaderError, LimitError},
    provider::ProviderErrorKind,
};

use crate::console::say;

/// Why the command failed. As an error, it can be the source of an [`io::Error`].
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    what: String,
    advice: Option<&'static str>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Failed,
    /// The arguments are invalid.
    Usage,
    /// The reader of the output closed the pipe, like `head` when it has read enough.
    NoReader,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), advice: None, kind: Kind::Failed }
    }

    /// Creates a failure because of invalid arguments.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self { kind: Kind::Usage, ..Self::new(what) }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// Appends a detail.
    pub(crate) fn and(mut self, more: &str) -> Self {
        self.what.push_str("; ");
        self.what.push_str(more);
        self
    }

    pub(crate) fn advise(mut self, advice: &'static str) -> Self {
        self.advice = Some(advice);
        self
    }

    /// Prepends the name of the file or stream that failed.
    pub(crate) fn of(mut self, name: impl Display) -> Self {
        self.what = format!("{name}: {}", self.what);
        self
    }

    pub(crate) fn reading(name: impl Display, error: &io::Error) -> Self {
        if let Some(failure) = Self::in_error(error) {
            return failure.of(name);
        }
        Self::new(format!("{name}: cannot be read: {error}"))
    }

    pub(crate) fn writing(name: impl Display, error: &io::Error) -> Self {
        if let Some(failure) = Self::in_error(error) {
            return failure.of(name);
        }
        let kind = if error.kind() == io::ErrorKind::BrokenPipe { Kind::NoReader } else { Kind::Failed };
        Self { kind, ..Self::new(format!("{name}: cannot be written: {error}")) }
    }

    /// Returns the failure that is the source of an I/O error.
    fn in_error(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().cloned()
    }

    pub(crate) fn of_key_file(path: &Path, error: &ConfigError) -> Self {
        let name = path.display();
        match error {
            ConfigError::KeyFileIo { source, action, .. } => {
                let this = Self::new(format!("{name}: the key file cannot be {action}: {source}"));
                match (source.kind(), *action) {
                    (io::ErrorKind::AlreadyExists, _) => {
                        this.advise("an existing key is never overwritten; choose another name")
                    }
                    (io::ErrorKind::NotFound, "read") => {
                        this.advise("check the path; `kms-envelope keygen KEYFILE` creates a new key, which cannot open existing messages")
                    }
                    _ => this,
                }
            }
            ConfigError::KeyFile(_) => Self::new(error.to_string())
                .of(name)
                .advise("restore the key file from a backup; a new key does not open existing messages"),
            _ => Self::new(error.to_string()),
        }
    }

    /// Prints the failure and its hint.
    pub(crate) fn report(&self) {
        say(&self.what);
        if let Some(advice) = self.advice {
            let _ = writeln!(io::stderr(), "  hint: {advice}");
        }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Failure {}

impl From<ProviderError> for Failure {
    fn from(error: ProviderError) -> Self {
        let this = Self::new(provider(&error));
        match advice_on_provider(&error, &this.what) {
            Some(advice) => this.advise(advice),
            None => this,
        }
    }
}

#[cfg(feature = "aws-kms")]
impl From<ResolveError> for Failure {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Provider(error) => error.into(),
            error => Self::new(error.to_string()),
        }
    }
}

impl From<SealError> for Failure {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Provider(error) => error.into(),
            SealError::TooLong { .. } => {
                Self::new(error.to_string()).advise("set a longer frame length with `--frame-len`")
            }
            SealError::HeaderLen { header_len, needed } => Self::new(format!(
                "the header cannot have {header_len} bytes; set `--header-len` to {needed}, or to {} or more",
                needed + 28
            )),
            error => Self::new(chain(&error)),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Provider(error) => error.into(),
            OpenError::Format(error) => error.into(),
            OpenError::Limit(error) => error.into(),
            OpenError::Io(error) => Self::new(format!("cannot be read: {error}")),
            OpenError::Context(ContextError::PairMissing { .. } | ContextError::ValueDiffers { .. }) => {
                Self::new(error.to_string()).advise("`kms-envelope inspect` shows the message's encryption context")
            }
            OpenError::Commitment | OpenError::HeaderTag | OpenError::FrameTag { .. } | OpenError::Signature => {
                Self::new(error.to_string()).advise(ANOTHER_COPY)
            }
            OpenError::DetachedKeys { .. } => Self::new(error.to_string())
                .advise("`--keys` needs the file that `kms-envelope rewrap` wrote for this message"),
            OpenError::CommitmentPolicy { suite, .. } => Self::new(format!(
                "the message's algorithm suite {suite} has no key commitment, which the policy requires"
            ))
            .advise("to open it anyway, use `--commitment-policy require-encrypt-allow-decrypt`"),
            error => Self::new(chain(&error)),
        }
    }
}

impl From<RewrapError> for Failure {
    fn from(error: RewrapError) -> Self {
        let what = error.to_string();
        match error {
            RewrapError::Open(error) => error.into(),
            RewrapError::Encrypt(error) => Self::from(error).of(what),
            RewrapError::Keys(error) => Self::from(error).of(what),
            error => Self::new(chain(&error)),
        }
    }
}

const ANOTHER_COPY: &str = "it cannot be repaired; use another copy of the message";

impl From<FormatError> for Failure {
    fn from(error: FormatError) -> Self {
        let this = Self::new(error.to_string());
        match error {
            FormatError::Base64 => this.advise("for example: `base64 -d FILE | kms-envelope open ...`"),
            FormatError::Truncated(_) => {
                this.advise("a copy or download may have stopped early; get the complete message")
            }
            FormatError::Version(_) | FormatError::Type(_) => {
                this.advise("use a file that `kms-envelope seal` or an AWS Encryption SDK wrote")
            }
            FormatError::DetachedKeys(_) => this.advise("use a file that `kms-envelope rewrap` wrote"),
            FormatError::TrailingBytes => this.advise("something was appended to the message; use another copy"),
            FormatError::Length { .. } => this.advise("the message is truncated, or has trailing bytes after its end"),
            _ => this.advise(ANOTHER_COPY),
        }
    }
}

impl From<LimitError> for Failure {
    fn from(error: LimitError) -> Self {
        Self::new(error.to_string())
            .advise("the command cannot raise this limit, but the library can: see kms_envelope::Limits")
    }
}

impl From<HeaderError> for Failure {
    fn from(error: HeaderError) -> Self {
        match error {
            HeaderError::Format(error) => error.into(),
            HeaderError::Limit(error) => error.into(),
            error => Self::new(error.to_string()),
        }
    }
}

/// Parts of error texts for missing or rejected credentials: words of the SDK, and error codes of AWS.
const CREDENTIALS: [&str; 6] = [
    "credential",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "MissingAuthenticationToken",
    "UnrecognizedClientException",
];

fn advice_on_provider(error: &ProviderError, described: &str) -> Option<&'static str> {
    match error.kind() {
        ProviderErrorKind::NoMatchingKey => Some("pass one of the keys that the message names with --key"),
        ProviderErrorKind::NoneDecrypted => {
            error.attempts().iter().find_map(|attempt| advice_on_provider(attempt, described))
        }
        ProviderErrorKind::InvalidCiphertext | ProviderErrorKind::IncorrectKey => Some(
            "check the key, and the `--required` pairs that the message was sealed with; if both are right, the \
                 message was modified or corrupted: use another copy",
        ),
        ProviderErrorKind::Unavailable | ProviderErrorKind::Other
            if CREDENTIALS.iter().any(|about| described.contains(about)) =>
        {
            Some("set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in with `aws sso login`")
        }
        _ => None,
    }
}

/// Returns the error with its causes, on one line.
fn provider(error: &ProviderError) -> String {
    match (error.kind(), error.source()) {
        // The Display of an attempt omits its causes.
        (ProviderErrorKind::NoneDecrypted, _) => {
            let attempts: Vec<_> = error.attempts().iter().map(provider).collect();
            format!("no encrypted data key could be decrypted: {}", attempts.join("; "))
        }
        (ProviderErrorKind::Unavailable, Some(source)) if is_about_credentials(source) => {
            let cause = causes(source).last().map(ToString::to_string).unwrap_or_default();
            // A list of all the sources that were tried follows.
            let why = first_line(&cause).trim_end_matches(" Attempted:");
            format!("{} with key {}: no usable AWS credentials: {why}", error.operation(), error.key_id())
        }
        _ => chain(error),
    }
}

/// Returns whether the SDK found no credentials to sign the request with. It has no public type for this error.
fn is_about_credentials(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|error| error.to_string().contains("credential"))
}

/// Iterates over the error itself, its source, the source of that, and so on.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&error| error.source())
}

/// Returns the text of the error and of those of its causes that add something new: their first lines, or for a
/// response of AWS, its error code and message.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    for cause in error.source().into_iter().flat_map(causes) {
        #[cfg(feature = "aws-kms")]
        if let Some(answer) = aws_answer(cause) {
            // Its causes repeat the same text.
            return format!("{text}: {answer}");
        }
        let cause = cause.to_string();
        let said = first_line(&cause);
        if !text.contains(said) {
            text.push_str(": ");
            text.push_str(said);
        }
    }
    text
}

/// Returns the first line, without a request or response that the SDK shows: its body may contain a data key.
fn first_line(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    let end = ["Request {", "Response {", "SdkBody {"].iter().filter_map(|shown| line.find(shown)).min();
    end.map_or(line, |end| line[..end].trim_end_matches([' ', '`']))
}

/// Returns the error code and message of the response of KMS or DynamoDB, if the error is one.
#[cfg(feature = "aws-kms")]
fn aws_answer(error: &(dyn Error + 'static)) -> Option<String> {
    use aws_sdk_dynamodb::operation::{
        create_table::CreateTableError, describe_table::DescribeTableError, get_item::GetItemError,
        transact_write_items::TransactWriteItemsError,
    };
    use aws_sdk_kms::{
        error::{ErrorMetadata, ProvideErrorMetadata},
        operation::{
            decrypt::DecryptError, describe_key::DescribeKeyError, encrypt::EncryptError,
            generate_data_key::GenerateDataKeyError,
            generate_data_key_without_plaintext::GenerateDataKeyWithoutPlaintextError, re_encrypt::ReEncryptError,
        },
    };

    fn metadata<'a, E: ProvideErrorMetadata + Error + 'static>(
        error: &'a (dyn Error + 'static),
    ) -> Option<&'a ErrorMetadata> {
        Some(error.downcast_ref::<E>()?.meta())
    }
    let readers = [
        metadata::<CreateTableError>,
        metadata::<DecryptError>,
        metadata::<DescribeKeyError>,
        metadata::<DescribeTableError>,
        metadata::<EncryptError>,
        metadata::<GenerateDataKeyError>,
        metadata::<GenerateDataKeyWithoutPlaintextError>,
        metadata::<GetItemError>,
        metadata::<ReEncryptError>,
        metadata::<TransactWriteItemsError>,
    ];
    let metadata = readers.iter().find_map(|read| read(error))?;
    match (metadata.code(), metadata.message()) {
        (Some(code), Some(message)) => Some(format!("{code}: {message}")),
        (code, message) => code.or(message).map(str::to_owned),
    }
}
