//! Sends requests to AWS KMS in one region, and interprets the responses.

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
#[cfg(feature = "branch-key")]
const GENERATE_WITHOUT_PLAINTEXT: &str = "GenerateDataKeyWithoutPlaintext";
#[cfg(feature = "branch-key")]
const RE_ENCRYPT: &str = "ReEncrypt";
const DESCRIBE_KEY: &str = "DescribeKey";
#[cfg(any(feature = "ecdh", feature = "rsa"))]
pub(in crate::provider) const GET_PUBLIC_KEY: &str = "GetPublicKey";
#[cfg(feature = "ecdh")]
const DERIVE_SHARED_SECRET: &str = "DeriveSharedSecret";

/// A client, and the settings of its requests.
#[derive(Clone, Debug)]
pub(in crate::provider) struct Requests {
    pub(in crate::provider) client: Client,
    pub(in crate::provider) grant_tokens: Vec<String>,
    pub(in crate::provider) timeout: Option<Duration>,
}

/// Sends a request with its time limit, unless the deadline has passed, and records an event with `tracing`.
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
    pub(in crate::provider) fn new(client: Client) -> Self {
        Self { client, grant_tokens: Vec::new(), timeout: None }
    }

    /// Identifies the client. Clones of a client share its configuration, and therefore have the same id.
    pub(in crate::provider) fn client_id(&self) -> usize {
        std::ptr::from_ref(self.client.config()).addr()
    }

    /// Returns the configuration that sets a request's time limit, retries included.
    ///
    /// Every request has a limit. The SDK has none by default, and would wait forever for a server that accepts a
    /// connection and does not answer.
    fn config(
        &self,
        operation: &'static str,
        key_id: &str,
        deadline: Option<Instant>,
    ) -> Result<Builder, ProviderError> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            let source = "not sent, because the time limit for all requests for this message was reached";
            return Err(ProviderError::new(Kind::TimedOut, operation, key_id).with_source(source));
        }
        let of_client = self.client.config().timeout_config().and_then(TimeoutConfig::operation_timeout);
        let timeout = [self.timeout.or(of_client), left].into_iter().flatten().min().unwrap_or(DEFAULT_KEY_TIMEOUT);
        Ok(Config::builder().timeout_config(TimeoutConfig::builder().operation_timeout(timeout).build()))
    }

    fn grant_tokens(&self) -> Option<Vec<String>> {
        (!self.grant_tokens.is_empty()).then(|| self.grant_tokens.clone())
    }

    /// Generates a data key of `len` bytes, and returns it in plaintext and encrypted.
    pub(in crate::provider) async fn generate_data_key(
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
        let ciphertext = encrypted(GENERATE_DATA_KEY, key_arn, answer.key_id, answer.ciphertext_blob)?;
        Ok((plaintext, EncryptedDataKey::new(PROVIDER_ID, key_arn.to_owned(), ciphertext)))
    }

    /// Encrypts a data key.
    pub(in crate::provider) async fn encrypt(
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
        let ciphertext = encrypted(ENCRYPT, key_arn, answer.key_id, answer.ciphertext_blob)?;
        Ok(EncryptedDataKey::new(PROVIDER_ID, key_arn.to_owned(), ciphertext))
    }

    /// Decrypts a data key of `len` bytes.
    pub(in crate::provider) async fn decrypt(
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

    /// Decrypts data that was encrypted with an RSA key and `algorithm`.
    #[cfg_attr(not(feature = "rsa"), expect(dead_code, reason = "for RSA keys only"))]
    pub(in crate::provider) async fn decrypt_rsa(
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
            let what = format!("the response names the key {}", answer.key_id.as_deref().unwrap_or("(none)"));
            return Err(unexpected(DECRYPT, key_arn, what));
        }
        // Moves the bytes instead of copying them.
        Ok(Blob::new(plaintext.map(|mut bytes| std::mem::take(&mut *bytes)).unwrap_or_default()))
    }

    /// Generates a key of `len` bytes, and returns it encrypted.
    #[cfg(feature = "branch-key")]
    pub(in crate::provider) async fn generate_without_plaintext(
        &self,
        key_arn: &KeyArn,
        len: usize,
        context: &EncryptionContext,
        deadline: Instant,
    ) -> Result<Vec<u8>, ProviderError> {
        let key_arn = &key_arn.to_string();
        let request = self
            .client
            .generate_data_key_without_plaintext()
            .key_id(key_arn)
            .number_of_bytes(i32::try_from(len).unwrap_or(i32::MAX))
            .set_encryption_context(pairs(context))
            .set_grant_tokens(self.grant_tokens());
        let answer = send!(self, GENERATE_WITHOUT_PLAINTEXT, key_arn, Some(deadline), request)?;
        encrypted(GENERATE_WITHOUT_PLAINTEXT, key_arn, answer.key_id, answer.ciphertext_blob)
    }

    /// Decrypts a ciphertext of the key and encrypts it again under the same key, in KMS, with another context.
    #[cfg(feature = "branch-key")]
    pub(in crate::provider) async fn re_encrypt(
        &self,
        key_arn: &KeyArn,
        ciphertext: &[u8],
        from: &EncryptionContext,
        to: &EncryptionContext,
        deadline: Instant,
    ) -> Result<Vec<u8>, ProviderError> {
        let key_arn = &key_arn.to_string();
        let request = self
            .client
            .re_encrypt()
            .ciphertext_blob(Blob::new(ciphertext))
            .source_key_id(key_arn)
            .destination_key_id(key_arn)
            .set_source_encryption_context(pairs(from))
            .set_destination_encryption_context(pairs(to))
            .set_grant_tokens(self.grant_tokens());
        let answer = send!(self, RE_ENCRYPT, key_arn, Some(deadline), request)?;
        if answer.source_key_id.as_deref() != Some(key_arn) {
            return Err(unexpected(RE_ENCRYPT, key_arn, "the response does not name this key as the source"));
        }
        encrypted(RE_ENCRYPT, key_arn, answer.key_id, answer.ciphertext_blob)
    }

    /// Returns the key that an identifier currently refers to.
    pub(in crate::provider) async fn describe_key(&self, key_id: &str) -> Result<KeyArn, ProviderError> {
        let request = self.client.describe_key().key_id(key_id).set_grant_tokens(self.grant_tokens());
        let answer = send!(self, DESCRIBE_KEY, key_id, None, request)?;
        let arn = answer.key_metadata.and_then(|key| key.arn);
        let arn = arn.ok_or_else(|| unexpected(DESCRIBE_KEY, key_id, "the response names no key"))?;
        KeyArn::parse(&arn)
            .map_err(|why| unexpected(DESCRIBE_KEY, key_id, format!("the response names the key {arn:?}: {why}")))
    }

    /// Returns the public key of an asymmetric key with this usage, as SubjectPublicKeyInfo in DER.
    #[cfg(any(feature = "ecdh", feature = "rsa"))]
    pub(in crate::provider) async fn public_key(
        &self,
        key_arn: &str,
        usage: aws_sdk_kms::types::KeyUsageType,
    ) -> Result<Vec<u8>, ProviderError> {
        let request = self.client.get_public_key().key_id(key_arn).set_grant_tokens(self.grant_tokens());
        let answer = send!(self, GET_PUBLIC_KEY, key_arn, None, request)?;
        if answer.key_id.as_deref() != Some(key_arn) {
            return Err(unexpected(GET_PUBLIC_KEY, key_arn, "the response does not name this key"));
        }
        match answer.key_usage {
            Some(of_key) if of_key == usage => Ok(answer.public_key.map(Blob::into_inner).unwrap_or_default()),
            of_key => {
                let of_key = of_key.as_ref().map_or("(none)", |usage| usage.as_str());
                let what = format!("its usage is {of_key}, not {usage}");
                Err(ProviderError::new(Kind::KeyUnusable, GET_PUBLIC_KEY, key_arn).with_detail(what))
            }
        }
    }

    /// Returns the secret of `len` bytes that a key shares with the owner of `public_key`, a SubjectPublicKeyInfo in
    /// DER.
    #[cfg(feature = "ecdh")]
    pub(in crate::provider) async fn shared_secret(
        &self,
        key_arn: &str,
        public_key: Vec<u8>,
        len: usize,
        deadline: Instant,
    ) -> Result<Zeroizing<Vec<u8>>, ProviderError> {
        use aws_sdk_kms::types::KeyAgreementAlgorithmSpec::Ecdh;

        let request = self
            .client
            .derive_shared_secret()
            .key_id(key_arn)
            .key_agreement_algorithm(Ecdh)
            .public_key(Blob::new(public_key))
            .set_grant_tokens(self.grant_tokens());
        let answer = send!(self, DERIVE_SHARED_SECRET, key_arn, Some(deadline), request)?;
        let secret = Zeroizing::new(answer.shared_secret.map(Blob::into_inner).unwrap_or_default());
        let refused = |what: String| Err(unexpected(DERIVE_SHARED_SECRET, key_arn, what));
        if answer.key_id.as_deref() != Some(key_arn) {
            return refused("the response does not name this key".into());
        }
        if answer.key_agreement_algorithm != Some(Ecdh) {
            return refused("the response does not name the algorithm ECDH".into());
        }
        if secret.len() != len {
            return refused(format!("a shared secret of {} bytes, not {len}", secret.len()));
        }
        Ok(secret)
    }
}

/// The provider id of encrypted data keys of AWS KMS.
pub(in crate::provider) const PROVIDER_ID: &str = "aws-kms";

/// Returns the ciphertext in a response. The response must name the requested key: the writer could not open a
/// message that names a different one.
fn encrypted(
    operation: &'static str,
    key_arn: &str,
    key_id: Option<String>,
    ciphertext: Option<Blob>,
) -> Result<Vec<u8>, ProviderError> {
    if key_id.as_deref() != Some(key_arn) {
        return Err(unexpected(operation, key_arn, "the response does not name this key"));
    }
    let ciphertext = ciphertext.map(Blob::into_inner).filter(|bytes| !bytes.is_empty());
    ciphertext.ok_or_else(|| unexpected(operation, key_arn, "no encrypted data key"))
}

/// Returns the data key in a response. Moves the bytes instead of copying them.
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

/// Converts an error of the SDK to a cause that contains no request or response.
///
/// If an error in the chain prints one (such as the error for an endpoint URL without a scheme), the chain is replaced
/// by its texts, with the request or response removed.
fn without_messages(error: Box<dyn Error + Send + Sync>) -> Cause {
    /// The start of the SDK's `Debug` output, which some of its error texts quote.
    const QUOTES: [&str; 3] = ["Request {", "Response {", "SdkBody"];
    let quote_start = |text: &str| QUOTES.iter().filter_map(|quote| text.find(quote)).min();
    let chain = || iter::successors(Some(&*error as &(dyn Error + 'static)), |&error| error.source());
    if chain().all(|error| quote_start(&format!("{error} {error:?}")).is_none()) {
        return error.into();
    }
    let mut texts: Vec<_> = chain()
        .map(|error| {
            let text = error.to_string();
            let Some(start) = quote_start(&text) else { return text };
            // The quotation is in backticks and can contain backticks itself.
            let end = text.rfind('`').filter(|end| *end > start).map_or(text.len(), |end| end + 1);
            format!("{}(omitted){}", text[..start].trim_end_matches('`'), &text[end..])
        })
        .collect();
    texts.dedup();
    texts.join(": ").into()
}

/// Converts an error of the SDK, according to the error codes in the KMS API reference.
///
/// The SDK's error becomes the source, without the raw response and without requests in its text. Both can contain a
/// plaintext data key or a shared secret, which would be printed with the error.
fn provider_error<E>(operation: &'static str, key_id: &str, error: SdkError<E>) -> ProviderError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code).map(str::to_owned);
    let is_server_error = error.raw_response().is_some_and(|response| response.status().is_server_error());
    // The header can also be a date, which is ignored.
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
        Some(_) if is_server_error => Kind::Unavailable,
        None if timed_out => Kind::TimedOut,
        // No response, or one that cannot be parsed: a problem with the network or a proxy.
        None if !never_sent => Kind::Unavailable,
        _ => Kind::Other,
    };
    let error = ProviderError::new(kind, operation, key_id)
        .with_source(source)
        .with_retry_after(retry_after.map(Duration::from_secs));
    warn!(%error, "a request to AWS KMS failed");
    error
}
