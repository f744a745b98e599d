//! AWS KMS. Specification: `framework/aws-kms/aws-kms-keyring.md`.

use std::{collections::HashMap, fmt};

use async_trait::async_trait;
use aws_sdk_kms::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    primitives::Blob,
};

use super::{
    DataKey, DecryptDataKeyRequest, EncryptDataKeyRequest, GenerateDataKeyRequest, KeyProvider, PlaintextDataKey,
};
use crate::{
    context::EncryptionContext,
    crypto::SecretKey,
    error::{Cause, ConfigError, ProviderError},
    message::EncryptedDataKey,
};

/// What stands before the encrypted data keys of AWS KMS.
const PROVIDER_ID: &str = "aws-kms";

const GENERATE_DATA_KEY: &str = "GenerateDataKey";
const ENCRYPT: &str = "Encrypt";
const DECRYPT: &str = "Decrypt";
const DESCRIBE_KEY: &str = "DescribeKey";

/// A symmetric encryption key in AWS KMS as key provider.
///
/// The client is the caller's: its region, credentials, retries and time-outs are those of
/// [`aws_sdk_kms`](https://docs.rs/aws-sdk-kms). The encryption context goes to KMS with every call, where it can be
/// logged and made a condition of access.
///
/// Sealing needs the permission `kms:GenerateDataKey`, opening `kms:Decrypt`, and
/// [`resolve`](Self::resolve) of anything but a key ARN `kms:DescribeKey`.
///
/// ```no_run
/// use kms_envelope::{AwsKms, EncryptionContext, Envelope};
///
/// # async fn example(config: aws_sdk_kms::Config) -> Result<(), Box<dyn std::error::Error>> {
/// let client = aws_sdk_kms::Client::from_conf(config);
/// let key = AwsKms::resolve(client, "alias/invoices").await?;
/// let envelope = Envelope::new(key);
/// let sealed = envelope.seal(b"attack at dawn", &EncryptionContext::from([("tenant", "acme")])).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct AwsKms {
    client: Client,
    key_arn: String,
    grant_tokens: Vec<String>,
}

impl AwsKms {
    /// The key with this ARN: `arn:aws:kms:REGION:ACCOUNT:key/ID`. Makes no request.
    ///
    /// A message names its key by ARN, so only an ARN finds it again. For an alias or a bare key id, there is
    /// [`resolve`](Self::resolve).
    ///
    /// # Errors
    /// [`ConfigError::KmsKeyId`] where `key_arn` is not the ARN of a key.
    pub fn new(client: Client, key_arn: impl Into<String>) -> Result<Self, ConfigError> {
        let key_arn = key_arn.into();
        match KeyId::parse(&key_arn) {
            Ok(KeyId::KeyArn) => Ok(Self { client, key_arn, grant_tokens: Vec::new() }),
            Ok(KeyId::Other) => {
                let why = "an alias or a bare id can stand for another key tomorrow; use AwsKms::resolve";
                Err(ConfigError::KmsKeyId { key_id: key_arn, why })
            }
            Err(why) => Err(ConfigError::KmsKeyId { key_id: key_arn, why }),
        }
    }

    /// The key that this identifier stands for now: a key ARN, an alias ARN, an alias (`alias/NAME`) or a bare key
    /// id. Anything but a key ARN is looked up, once, by DescribeKey; an alias that is pointed at another key later
    /// has no effect on this value.
    ///
    /// # Errors
    /// [`ProviderError`] where the look-up fails, or [`ProviderError::Other`] with a [`ConfigError`] as source where
    /// `key_id` is none of these.
    pub async fn resolve(client: Client, key_id: impl Into<String>) -> Result<Self, ProviderError> {
        let key_id = key_id.into();
        let refused = |error: ConfigError, key_id: &str| ProviderError::Other {
            operation: DESCRIBE_KEY,
            key_id: key_id.into(),
            source: error.into(),
        };
        match KeyId::parse(&key_id) {
            Ok(KeyId::KeyArn) => return Self::new(client, &*key_id).map_err(|error| refused(error, &key_id)),
            Ok(KeyId::Other) => {}
            Err(why) => return Err(refused(ConfigError::KmsKeyId { key_id: key_id.clone(), why }, &key_id)),
        }
        let described = client
            .describe_key()
            .key_id(&key_id)
            .send()
            .await
            .map_err(|error| provider_error(DESCRIBE_KEY, &key_id, error))?;
        match described.key_metadata.and_then(|key| key.arn) {
            Some(arn) => Self::new(client, arn).map_err(|error| refused(error, &key_id)),
            None => Err(unexpected(DESCRIBE_KEY, &key_id, "it names no key")),
        }
    }

    /// Sends these grant tokens with every request.
    #[must_use]
    pub fn with_grant_tokens<T: Into<String>>(mut self, tokens: impl IntoIterator<Item = T>) -> Self {
        self.grant_tokens = tokens.into_iter().map(Into::into).collect();
        self
    }

    /// The key's ARN.
    pub fn key_arn(&self) -> &str {
        &self.key_arn
    }

    fn grant_tokens(&self) -> Option<Vec<String>> {
        (!self.grant_tokens.is_empty()).then(|| self.grant_tokens.clone())
    }

    async fn decrypt(
        &self,
        encrypted: &EncryptedDataKey,
        request: &DecryptDataKeyRequest<'_>,
    ) -> Result<SecretKey, ProviderError> {
        let answer = self
            .client
            .decrypt()
            .key_id(&self.key_arn)
            .ciphertext_blob(Blob::new(encrypted.ciphertext.clone()))
            .set_encryption_context(pairs(request.context))
            .set_grant_tokens(self.grant_tokens())
            .send()
            .await
            .map_err(|error| provider_error(DECRYPT, &self.key_arn, error))?;
        if answer.key_id.as_deref() != Some(&self.key_arn) {
            let what = format!("it used the key {}", answer.key_id.as_deref().unwrap_or("(none)"));
            return Err(unexpected(DECRYPT, &self.key_arn, what));
        }
        self.data_key(DECRYPT, answer.plaintext, request.suite.data_key_len())
    }

    /// The data key in an answer, whose bytes are taken over, not copied.
    fn data_key(
        &self,
        operation: &'static str,
        plaintext: Option<Blob>,
        len: usize,
    ) -> Result<SecretKey, ProviderError> {
        match SecretKey::try_from(plaintext.map(Blob::into_inner).unwrap_or_default()) {
            Ok(key) if key.len() == len => Ok(key),
            Ok(key) => {
                Err(unexpected(operation, &self.key_arn, format!("a data key of {} bytes, not {len}", key.len())))
            }
            Err(error) => Err(unexpected(operation, &self.key_arn, error.to_string())),
        }
    }

    /// The encrypted data key in an answer. It names its key by the ARN that KMS gives.
    fn encrypted(
        &self,
        operation: &'static str,
        key_id: Option<String>,
        ciphertext: Option<Blob>,
    ) -> Result<EncryptedDataKey, ProviderError> {
        // Any other key's ARN would make a message that this provider does not open.
        let key_id = key_id
            .filter(|id| *id == self.key_arn)
            .ok_or_else(|| unexpected(operation, &self.key_arn, "it does not name this key"))?;
        let ciphertext = ciphertext
            .filter(|blob| !blob.as_ref().is_empty())
            .ok_or_else(|| unexpected(operation, &self.key_arn, "no encrypted data key"))?;
        Ok(EncryptedDataKey::new(PROVIDER_ID, key_id, ciphertext.into_inner()))
    }
}

#[async_trait]
impl KeyProvider for AwsKms {
    async fn generate_data_key(&self, request: &GenerateDataKeyRequest<'_>) -> Result<DataKey, ProviderError> {
        let len = request.suite.data_key_len();
        let answer = self
            .client
            .generate_data_key()
            .key_id(&self.key_arn)
            .number_of_bytes(i32::try_from(len).unwrap_or(i32::MAX))
            .set_encryption_context(pairs(request.context))
            .set_grant_tokens(self.grant_tokens())
            .send()
            .await
            .map_err(|error| provider_error(GENERATE_DATA_KEY, &self.key_arn, error))?;
        let plaintext = self.data_key(GENERATE_DATA_KEY, answer.plaintext, len)?;
        let encrypted = vec![self.encrypted(GENERATE_DATA_KEY, answer.key_id, answer.ciphertext_blob)?];
        Ok(DataKey { plaintext, encrypted })
    }

    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        let answer = self
            .client
            .encrypt()
            .key_id(&self.key_arn)
            .plaintext(Blob::new(request.data_key.expose()))
            .set_encryption_context(pairs(request.context))
            .set_grant_tokens(self.grant_tokens())
            .send()
            .await
            .map_err(|error| provider_error(ENCRYPT, &self.key_arn, error))?;
        Ok(vec![self.encrypted(ENCRYPT, answer.key_id, answer.ciphertext_blob)?])
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<PlaintextDataKey, ProviderError> {
        let mut attempts = Vec::new();
        for (index, encrypted) in request.encrypted_data_keys.iter().enumerate() {
            if encrypted.provider_id != PROVIDER_ID || encrypted.provider_info != self.key_arn.as_bytes() {
                continue;
            }
            match self.decrypt(encrypted, request).await {
                Ok(key) => return Ok(PlaintextDataKey { key, index, key_id: self.key_arn.clone() }),
                Err(error) => attempts.push(error),
            }
        }
        Err(request.none_decrypted(self, attempts))
    }
}

fn pairs(context: &EncryptionContext) -> Option<HashMap<String, String>> {
    let pairs = || context.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    (!context.is_empty()).then(pairs)
}

/// What names a KMS key.
enum KeyId {
    /// The ARN of a key: it names the same key for ever.
    KeyArn,
    /// An alias ARN, an alias, or a bare key id.
    Other,
}

impl KeyId {
    /// Specification: `framework/aws-kms/aws-kms-key-arn.md`.
    fn parse(id: &str) -> Result<Self, &'static str> {
        if id.is_empty() {
            return Err("it is empty");
        }
        if !id.starts_with("arn:") {
            let bare = !id.contains([':', '/']);
            let alias = id.strip_prefix("alias/").is_some_and(|name| !name.is_empty());
            return if bare || alias { Ok(Self::Other) } else { Err("it is no ARN, no alias/NAME and no key id") };
        }
        let parts: Vec<_> = id.split(':').collect();
        let [_, partition, service, region, account, resource] = parts[..] else {
            return Err("an ARN has six parts: arn:aws:kms:REGION:ACCOUNT:key/ID");
        };
        if [partition, region, account].contains(&"") {
            return Err("a part of the ARN is empty");
        }
        if service != "kms" {
            return Err("its service is not kms");
        }
        match resource.split_once('/') {
            Some(("key" | "alias", "")) | None => Err("it names no key: an ARN ends in key/ID or alias/NAME"),
            Some(("key", _)) => Ok(Self::KeyArn),
            Some(("alias", _)) => Ok(Self::Other),
            Some(_) => Err("it names something other than a key: an ARN ends in key/ID or alias/NAME"),
        }
    }
}

fn unexpected(operation: &'static str, key_id: &str, what: impl Into<String>) -> ProviderError {
    ProviderError::UnexpectedResponse { operation, key_id: key_id.into(), what: what.into() }
}

/// The SDK's error as ours, by the codes in KMS's API reference.
///
/// It stays as the source, but not the raw response beside it: what could not be read of an answer may hold a data
/// key in the clear, and the SDK prints it.
fn provider_error<E>(operation: &'static str, key_id: &str, error: SdkError<E>) -> ProviderError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let key_id = key_id.to_owned();
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code).map(str::to_owned);
    let failed_inside = error.raw_response().is_some_and(|response| response.status().is_server_error());
    let never_sent = matches!(error, SdkError::ConstructionFailure(_));
    let source: Cause = error.into_source().unwrap_or_else(|error| error.to_string().into()).into();
    match code.as_deref() {
        Some("AccessDeniedException") => ProviderError::AccessDenied { operation, key_id, source },
        Some("NotFoundException") => ProviderError::NotFound { operation, key_id, source },
        Some("DisabledException" | "KMSInvalidStateException" | "InvalidKeyUsageException") => {
            ProviderError::KeyUnusable { operation, key_id, source }
        }
        Some("InvalidCiphertextException" | "IncorrectKeyException") => {
            ProviderError::InvalidCiphertext { operation, key_id, source: Some(source) }
        }
        Some("ThrottlingException" | "LimitExceededException" | "TooManyRequestsException") => {
            ProviderError::Throttled { operation, key_id, source }
        }
        Some("KMSInternalException" | "DependencyTimeoutException" | "KeyUnavailableException") => {
            ProviderError::Unavailable { operation, key_id, source }
        }
        Some(_) if failed_inside => ProviderError::Unavailable { operation, key_id, source },
        // No answer, or none that can be understood: the network, a proxy, or a time-out.
        None if !never_sent => ProviderError::Unavailable { operation, key_id, source },
        _ => ProviderError::Other { operation, key_id, source },
    }
}

/// The key's ARN.
impl fmt::Display for AwsKms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key_arn)
    }
}

impl fmt::Debug for AwsKms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AwsKms({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_arn_of_a_key_names_a_key_for_ever() {
        for arn in ["arn:aws:kms:eu-west-1:1:key/a", "arn:aws-cn:kms:cn-north-1:1:key/mrk-1/x"] {
            assert!(matches!(KeyId::parse(arn), Ok(KeyId::KeyArn)), "{arn}");
        }
        for id in ["arn:aws:kms:eu-west-1:1:alias/a", "alias/a", "1234abcd-12ab-34cd-56ef-1234567890ab", "mrk-1"] {
            assert!(matches!(KeyId::parse(id), Ok(KeyId::Other)), "{id}");
        }
    }

    #[test]
    fn what_names_no_key_is_refused() {
        for id in [
            "",
            "alias/",
            "key/a",
            "a:b",
            "arn:aws:kms:eu-west-1:1",
            "arn:aws:kms:eu-west-1:1:key/a:b",
            "arn::kms:eu-west-1:1:key/a",
            "arn:aws:s3:eu-west-1:1:key/a",
            "arn:aws:kms::1:key/a",
            "arn:aws:kms:eu-west-1::key/a",
            "arn:aws:kms:eu-west-1:1:key",
            "arn:aws:kms:eu-west-1:1:key/",
            "arn:aws:kms:eu-west-1:1:grant/a",
        ] {
            assert!(KeyId::parse(id).is_err(), "{id}");
        }
    }
}
