//! A custom key provider, whose keys are in the transit engine of HashiCorp Vault.
//!
//! ```text
//! vault secrets enable transit && vault write -f transit/keys/invoices
//! VAULT_ADDR=... VAULT_TOKEN=... cargo run -p kms-envelope-examples --bin vault -- invoices 'attack at dawn'
//! ```
//!
//! The token needs `update` on `transit/encrypt/invoices` and `transit/decrypt/invoices`.

use std::{
    borrow::Cow,
    env, fmt, str,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use async_trait::async_trait;
use base64ct::{Base64, Encoding};
use kms_envelope::{
    EncryptionContext, Envelope, KeyProvider, ProviderError,
    message::EncryptedDataKey,
    provider::{DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, ProviderErrorKind as Kind, SecretKey},
};
use reqwest::{
    Client, StatusCode,
    header::{HeaderValue, RETRY_AFTER},
    redirect::Policy,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (key, text) = env::args().nth(1).zip(env::args().nth(2)).context("usage: vault KEY TEXT")?;
    let (address, token) =
        (env::var("VAULT_ADDR").context("VAULT_ADDR")?, env::var("VAULT_TOKEN").context("VAULT_TOKEN")?);
    let envelope = Envelope::new(VaultTransit::new(address, &token, key)?);

    let context = EncryptionContext::from([("tenant", "acme")]);
    let sealed = envelope.seal(text.as_bytes(), &context).await?;
    let opened = envelope.open(&sealed, &context).await?;
    println!("{} bytes, sealed {}, key {}", text.len(), sealed.len(), opened.info.encrypted_data_key());
    println!("opened: {}", String::from_utf8(opened.plaintext)?);
    Ok(())
}

/// A key of Vault's transit engine. Its type must support associated data, like the default (`aes256-gcm96`). Vault
/// refuses associated data for other types.
#[derive(Debug)]
pub(crate) struct VaultTransit {
    http: Client,
    address: String,
    token: HeaderValue,
    key: String,
}

impl VaultTransit {
    pub(crate) fn new(address: impl Into<String>, token: &str, key: impl Into<String>) -> anyhow::Result<Self> {
        let (address, key) = (address.into(), key.into());
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        ensure!(
            !key.is_empty() && key.bytes().all(is_plain) && !key.starts_with('.'),
            "{key:?} is not a valid name for a transit key"
        );
        let mut token = HeaderValue::from_str(token)?;
        token.set_sensitive(true); // Debug does not print it.
        // A redirect would send the token and the data keys to another server.
        let http = Client::builder().redirect(Policy::none()).build()?;
        Ok(Self { http, address, token, key })
    }

    async fn decrypt(
        &self,
        encrypted: &EncryptedDataKey,
        associated_data: &str,
        deadline: Option<Instant>,
    ) -> Result<SecretKey, ProviderError> {
        let ciphertext = str::from_utf8(&encrypted.ciphertext)
            .map_err(|error| self.error(Kind::InvalidCiphertext, "Decrypt").with_source(error))?;
        let Decrypted { plaintext } = self.post("Decrypt", &Decrypt { ciphertext, associated_data }, deadline).await?;
        let key = Base64::decode_vec(&plaintext).map_err(|_| self.unexpected("Decrypt", "the key is not base64"))?;
        // Takes ownership of the bytes, and wipes them if their length is not that of a key.
        SecretKey::try_from(key).map_err(|error| self.unexpected("Decrypt", error.to_string()))
    }

    /// Sends one request. Copies of a key in the buffers of the HTTP client and TLS are not wiped.
    async fn post<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        request: &impl Serialize,
        deadline: Option<Instant>,
    ) -> Result<T, ProviderError> {
        let left = deadline.map_or(TIMEOUT, |deadline| deadline.saturating_duration_since(Instant::now()).min(TIMEOUT));
        if left.is_zero() {
            return Err(self.error(Kind::TimedOut, operation).with_source("not sent: the deadline has passed"));
        }
        let url =
            format!("{}/v1/transit/{}/{}", self.address.trim_end_matches('/'), operation.to_lowercase(), self.key);
        let request = self.http.post(url).header("x-vault-token", &self.token).timeout(left).json(request);
        let answered = async {
            let answer = request.send().await?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            Ok::<_, reqwest::Error>((status, headers, Zeroizing::new(answer.bytes().await?.to_vec())))
        };
        let (status, headers, body) = answered.await.map_err(|error| {
            let kind = if error.is_timeout() { Kind::TimedOut } else { Kind::Unavailable };
            self.error(kind, operation).with_source(error)
        })?;
        if status.is_success() {
            // serde's error is not the source, because it can quote the response, which contains a key.
            let answer = serde_json::from_slice::<Answer<T>>(&body);
            return Ok(answer.map_err(|_| self.unexpected(operation, "not a response of the transit engine"))?.data);
        }
        let said = serde_json::from_slice(&body).map_or_else(|_| String::new(), |Refused { errors }| errors.join("; "));
        let kind = match status {
            StatusCode::BAD_REQUEST if operation == "Decrypt" => Kind::InvalidCiphertext,
            StatusCode::FORBIDDEN => Kind::AccessDenied,
            StatusCode::NOT_FOUND => Kind::NotFound,
            StatusCode::TOO_MANY_REQUESTS => Kind::Throttled,
            _ if status.is_server_error() => Kind::Unavailable,
            _ => Kind::Other,
        };
        let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Err(self
            .error(kind, operation)
            .with_source(format!("Vault returned {status}: {said}"))
            .with_retry_after(seconds.map(Duration::from_secs)))
    }

    /// Returns the associated data that binds a data key to its context. Different contexts never have the same bytes.
    fn associated_data(&self, operation: &'static str, context: &EncryptionContext) -> Result<String, ProviderError> {
        let context = context.serialize().map_err(|error| self.error(Kind::Other, operation).with_source(error))?;
        Ok(Base64::encode_string(&context))
    }

    fn error(&self, kind: Kind, operation: &'static str) -> ProviderError {
        ProviderError::new(kind, operation, &self.key)
    }

    fn unexpected(&self, operation: &'static str, what: impl Into<Cow<'static, str>>) -> ProviderError {
        self.error(Kind::UnexpectedResponse, operation).with_detail(what)
    }
}

/// `vault-transit/key`.
impl fmt::Display for VaultTransit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PROVIDER_ID}/{}", self.key)
    }
}

/// The default `generate_data_key` generates data keys. Transit's own `datakey` does not accept associated data, so it
/// could not bind a data key to the context.
#[async_trait]
impl KeyProvider for VaultTransit {
    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        let plaintext = &Zeroizing::new(Base64::encode_string(request.data_key.expose()));
        let associated_data = &self.associated_data("Encrypt", request.context)?;
        let body = Encrypt { plaintext, associated_data };
        let Encrypted { ciphertext } = self.post("Encrypt", &body, request.deadline).await?;
        Ok(vec![EncryptedDataKey::new(PROVIDER_ID, self.key.clone(), ciphertext)])
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        let associated_data = &self.associated_data("Decrypt", request.context)?;
        let decrypt = async |encrypted| {
            let is_ours = self.may_decrypt(encrypted);
            if is_ours { Some(self.decrypt(encrypted, associated_data, request.deadline).await) } else { None }
        };
        request.async_first_decrypted(self, decrypt).await
    }

    fn may_decrypt(&self, encrypted: &EncryptedDataKey) -> bool {
        encrypted.provider_id == PROVIDER_ID && encrypted.provider_info == self.key
    }
}

/// The timeout of a request, unless the message's deadline is earlier.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The provider id of this provider's encrypted data keys.
const PROVIDER_ID: &str = "vault-transit";

#[derive(Serialize)]
struct Encrypt<'a> {
    plaintext: &'a str,
    associated_data: &'a str,
}

#[derive(Serialize)]
struct Decrypt<'a> {
    ciphertext: &'a str,
    associated_data: &'a str,
}

#[derive(Deserialize)]
struct Answer<T> {
    data: T,
}

#[derive(Deserialize)]
struct Encrypted {
    ciphertext: String,
}

#[derive(Deserialize)]
struct Decrypted {
    plaintext: Zeroizing<String>,
}

#[derive(Deserialize)]
struct Refused {
    errors: Vec<String>,
}
