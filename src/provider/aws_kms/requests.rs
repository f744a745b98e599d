//! Requests to AWS KMS in one region, and what its answers mean.

use std::{
    borrow::Cow,
    collections::HashMap,
    error::Error,
    iter,
    time::{Duration, Instant},
};

use aws_sdk_kms::{
    Client, Config,
    config::{Builder, timeout::TimeoutConfig},
    error::{ProvideErrorMetadata, SdkError},
    primitives::Blob,
    types::EncryptionAlgorithmSpec,
};
use zeroize::Zeroizing;

use super::KeyArn;
use crate::{
    context::EncryptionContext,
    crypto::SecretKey,
    error::Cause,
    events::{debug, warn},
    message::EncryptedDataKey,
    provider::{DEFAULT_KEY_TIMEOUT, ProviderError, ProviderErrorKind as Kind},
};

const GENERATE_DATA_KEY: &str = "GenerateDataKey";
const ENCRYPT: &str = "Encrypt";
const DECRYPT: &str = "Decrypt";
const DESCRIBE_KEY: &str = "DescribeKey";
#[cfg(feature = "rsa")]
pub(super) const GET_PUBLIC_KEY: &str = "GetPublicKey";

/// A client, and what goes with each of its requests.
#[derive(Clone, Debug)]
pub(super) struct Requests {
    pub(super) client: Client,
    pub(super) grant_tokens: Vec<String>,
    pub(super) timeout: Option<Duration>,
}

/// Sends a request, unless the time for it is over, with its time limit, and tells `tracing` of it.
macro_rules! send {
    ($this:expr, $operation:expr, $key_id:expr, $deadline:expr, $request:expr) => {{
        let (operation, key_id): (&'static str, &str) = ($operation, $key_id);
        debug!(operation, key_id, "a request to AWS KMS");
        let config = $this.config(operation, key_id, $deadline)?;
        let request = $request.customize().config_override(config);
        request.send().await.map_err(|error| provider_error(operation, key_id, error))
    }};
}

impl Requests {
    pub(super) fn new(client: Client) -> Self {
        Self { client, grant_tokens: Vec::new(), timeout: None }
    }

    /// Identifies the client. Its clones share its configuration, and so this id.
    pub(super) fn client_id(&self) -> usize {
        std::ptr::from_ref(self.client.config()).addr()
    }

    /// Returns the part of a request's configuration that the client does not set: its time limit, retries included.
    /// There is always a limit. The SDK has none by default, and would wait for ever for a server that accepts a
    /// connection and is silent.
    fn config(
        &self,
        operation: &'static str,
        key_id: &str,
        deadline: Option<Instant>,
    ) -> Result<Builder, ProviderError> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            let source = "not sent: the time for all requests for this message was over";
            return Err(ProviderError::new(Kind::TimedOut, operation, key_id).with_source(source));
        }
        let of_client = self.client.config().timeout_config().and_then(TimeoutConfig::operation_timeout);
        let timeout = [self.timeout.or(of_client), left].into_iter().flatten().min().unwrap_or(DEFAULT_KEY_TIMEOUT);
        Ok(Config::builder().timeout_config(TimeoutConfig::builder().operation_timeout(timeout).build()))
    }

    fn grant_tokens(&self) -> Option<Vec<String>> {
        (!self.grant_tokens.is_empty()).then(|| self.grant_tokens.clone())
    }

    /// A new data key of so many bytes, in the clear and encrypted.
    pub(super) async fn generate_data_key(
        &self,
        key_arn: &str,
        len: usize,
        context: &EncryptionContext,
        deadline: Instant,
    ) -> Result<(SecretKey, EncryptedDataKey), ProviderError> {
        let request = self
            .client
            .generate_data_key()
            .key_id(key_arn)
            .number_of_bytes(i32::try_from(len).unwrap_or(i32::MAX))
            .set_encryption_context(pairs(context))
            .set_grant_tokens(self.grant_tokens());
        let answer = send!(self, GENERATE_DATA_KEY, key_arn, Some(deadline), request)?;
        let plaintext = data_key(GENERATE_DATA_KEY, key_arn, answer.plaintext, len)?;
        Ok((plaintext, encrypted(GENERATE_DATA_KEY, key_arn, answer.key_id, answer.ciphertext_blob)?))
    }

    /// A data key, encrypted.
    pub(super) async fn encrypt(
        &self,
        key_arn: &str,
        plaintext: &SecretKey,
        context: &EncryptionContext,
        deadline: Instant,
    ) -> Result<EncryptedDataKey, ProviderError> {
        let request = self
            .client
            .encrypt()
            .key_id(key_arn)
            .plaintext(Blob::new(plaintext.expose()))
            .set_encryption_context(pairs(context))
            .set_grant_tokens(self.grant_tokens());
        let answer = send!(self, ENCRYPT, key_arn, Some(deadline), request)?;
        encrypted(ENCRYPT, key_arn, answer.key_id, answer.ciphertext_blob)
    }

    /// A data key of so many bytes, decrypted.
    pub(super) async fn decrypt(
        &self,
        key_arn: &str,
        ciphertext: &[u8],
        len: usize,
        context: &EncryptionContext,
        deadline: Instant,
    ) -> Result<SecretKey, ProviderError> {
        let request = self.client.decrypt().set_encryption_context(pairs(context));
        data_key(DECRYPT, key_arn, Some(self.decrypted(key_arn, ciphertext, deadline, request).await?), len)
    }

    /// What an RSA key has encrypted in this way, decrypted.
    #[cfg_attr(not(feature = "rsa"), expect(dead_code, reason = "for RSA keys only"))]
    pub(super) async fn decrypt_rsa(
        &self,
        key_arn: &str,
        ciphertext: &[u8],
        algorithm: EncryptionAlgorithmSpec,
        deadline: Instant,
    ) -> Result<Zeroizing<Vec<u8>>, ProviderError> {
        let request = self.client.decrypt().encryption_algorithm(algorithm);
        Ok(Zeroizing::new(self.decrypted(key_arn, ciphertext, deadline, request).await?.into_inner()))
    }

    async fn decrypted(
        &self,
        key_arn: &str,
        ciphertext: &[u8],
        deadline: Instant,
        request: aws_sdk_kms::operation::decrypt::builders::DecryptFluentBuilder,
    ) -> Result<Blob, ProviderError> {
        let request =
            request.key_id(key_arn).ciphertext_blob(Blob::new(ciphertext)).set_grant_tokens(self.grant_tokens());
        let answer = send!(self, DECRYPT, key_arn, Some(deadline), request)?;
        let plaintext = answer.plaintext.map(Blob::into_inner).map(Zeroizing::new);
        if answer.key_id.as_deref() != Some(key_arn) {
            let what = format!("it used the key {}", answer.key_id.as_deref().unwrap_or("(none)"));
            return Err(unexpected(DECRYPT, key_arn, what));
        }
        // Moved out, and not copied.
        Ok(Blob::new(plaintext.map(|mut bytes| std::mem::take(&mut *bytes)).unwrap_or_default()))
    }

    /// The key that an identifier stands for now.
    pub(super) async fn describe_key(&self, key_id: &str) -> Result<KeyArn, ProviderError> {
        let request = self.client.describe_key().key_id(key_id).set_grant_tokens(self.grant_tokens());
        let answer = send!(self, DESCRIBE_KEY, key_id, None, request)?;
        let arn = answer.key_metadata.and_then(|key| key.arn);
        let arn = arn.ok_or_else(|| unexpected(DESCRIBE_KEY, key_id, "it names no key"))?;
        KeyArn::parse(&arn).map_err(|why| unexpected(DESCRIBE_KEY, key_id, format!("it names the key {arn:?}: {why}")))
    }

    /// The public half of an RSA key: a SubjectPublicKeyInfo in DER.
    #[cfg(feature = "rsa")]
    pub(super) async fn public_key(&self, key_arn: &str) -> Result<Vec<u8>, ProviderError> {
        let request = self.client.get_public_key().key_id(key_arn).set_grant_tokens(self.grant_tokens());
        let answer = send!(self, GET_PUBLIC_KEY, key_arn, None, request)?;
        if answer.key_id.as_deref() != Some(key_arn) {
            return Err(unexpected(GET_PUBLIC_KEY, key_arn, "it does not name this key"));
        }
        Ok(answer.public_key.map(Blob::into_inner).unwrap_or_default())
    }
}

/// What stands before the encrypted data keys of AWS KMS.
pub(super) const PROVIDER_ID: &str = "aws-kms";

/// The encrypted data key in an answer. It names its key by the ARN that KMS gives: any other key's would make a
/// message that its writer cannot open.
fn encrypted(
    operation: &'static str,
    key_arn: &str,
    key_id: Option<String>,
    ciphertext: Option<Blob>,
) -> Result<EncryptedDataKey, ProviderError> {
    let key_id =
        key_id.filter(|id| id == key_arn).ok_or_else(|| unexpected(operation, key_arn, "it does not name this key"))?;
    let ciphertext = ciphertext
        .filter(|blob| !blob.as_ref().is_empty())
        .ok_or_else(|| unexpected(operation, key_arn, "no encrypted data key"))?;
    Ok(EncryptedDataKey::new(PROVIDER_ID, key_id, ciphertext.into_inner()))
}

/// The data key in an answer, whose bytes are taken over, not copied.
fn data_key(
    operation: &'static str,
    key_arn: &str,
    plaintext: Option<Blob>,
    len: usize,
) -> Result<SecretKey, ProviderError> {
    match SecretKey::try_from(plaintext.map(Blob::into_inner).unwrap_or_default()) {
        Ok(key) if key.len() == len => Ok(key),
        Ok(key) => Err(unexpected(operation, key_arn, format!("a data key of {} bytes, not {len}", key.len()))),
        Err(error) => Err(unexpected(operation, key_arn, error.to_string())),
    }
}

fn pairs(context: &EncryptionContext) -> Option<HashMap<String, String>> {
    let pairs = || context.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    (!context.is_empty()).then(pairs)
}

fn unexpected(operation: &'static str, key_id: &str, what: impl Into<Cow<'static, str>>) -> ProviderError {
    ProviderError::new(Kind::UnexpectedResponse, operation, key_id).with_detail(what)
}

/// Returns an error of the SDK as a cause. Where it or a cause of it shows a request or an answer, as the error of an
/// endpoint without a scheme does, only their texts are left, without those.
fn without_messages(error: Box<dyn Error + Send + Sync>) -> Cause {
    /// How the SDK's Debug output begins, which some of its texts quote.
    const SHOWN: [&str; 3] = ["Request {", "Response {", "SdkBody"];
    let place = |text: &str| SHOWN.iter().filter_map(|shown| text.find(shown)).min();
    let chain = || iter::successors(Some(&*error as &(dyn Error + 'static)), |&error| error.source());
    if chain().all(|error| place(&format!("{error} {error:?}")).is_none()) {
        return error.into();
    }
    let mut texts: Vec<_> = chain()
        .map(|error| {
            let text = error.to_string();
            let Some(start) = place(&text) else { return text };
            // It stands in backticks, and what it quotes may have some too.
            let end = text.rfind('`').filter(|end| *end > start).map_or(text.len(), |end| end + 1);
            format!("{}(left out){}", text[..start].trim_end_matches('`'), &text[end..])
        })
        .collect();
    texts.dedup();
    texts.join(": ").into()
}

/// The SDK's error as ours, by the codes in KMS's API reference.
///
/// It stays as the source, but not the raw response beside it, nor a request in its text: either may hold a data key in
/// the clear, and the SDK prints it.
fn provider_error<E>(operation: &'static str, key_id: &str, error: SdkError<E>) -> ProviderError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code).map(str::to_owned);
    let failed_inside = error.raw_response().is_some_and(|response| response.status().is_server_error());
    // A date, which the header may be as well, is left alone.
    let retry_after = error.raw_response().and_then(|response| response.headers().get("retry-after")?.parse().ok());
    let never_sent = matches!(error, SdkError::ConstructionFailure(_));
    let timed_out = matches!(error, SdkError::TimeoutError(_));
    let source = without_messages(error.into_source().unwrap_or_else(|error| error.to_string().into()));
    let kind = match code.as_deref() {
        Some("AccessDeniedException") => Kind::AccessDenied,
        Some("NotFoundException") => Kind::NotFound,
        Some("DisabledException" | "KMSInvalidStateException" | "InvalidKeyUsageException") => Kind::KeyUnusable,
        Some("InvalidCiphertextException") => Kind::InvalidCiphertext,
        Some("IncorrectKeyException") => Kind::IncorrectKey,
        Some("ThrottlingException" | "LimitExceededException" | "TooManyRequestsException") => Kind::Throttled,
        Some("KMSInternalException" | "DependencyTimeoutException" | "KeyUnavailableException") => Kind::Unavailable,
        Some(_) if failed_inside => Kind::Unavailable,
        None if timed_out => Kind::TimedOut,
        // No answer, or none that can be understood: the network, or a proxy.
        None if !never_sent => Kind::Unavailable,
        _ => Kind::Other,
    };
    let error = ProviderError::new(kind, operation, key_id)
        .with_source(source)
        .with_retry_after(retry_after.map(Duration::from_secs));
    warn!(%error, "a request to AWS KMS failed");
    error
}
