//! Tests of the key provider for Vault's transit engine, with a simulated server that encrypts like transit.

#[expect(dead_code, reason = "the program's main")]
#[path = "../src/bin/vault.rs"]
mod vault;

use std::{
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use aes_gcm::{
    Aes256Gcm, KeyInit, Nonce,
    aead::{Aead, Payload},
};
use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    routing::post,
};
use base64ct::{Base64, Encoding};
use kms_envelope::{
    AlgorithmSuite, CommitmentPolicy, EncryptionContext, Envelope, OpenError, ProviderError, SealError,
    provider::ProviderErrorKind as Kind, testing::Conformance,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use vault::VaultTransit;

const TOKEN: &str = "hvs.the-token";

/// A simulated transit engine with one key, `invoices`, of the type `aes256-gcm96`.
struct Transit {
    cipher: Aes256Gcm,
    requests: AtomicUsize,
    /// The status of all responses, unless it is 0.
    status: AtomicU16,
}

type Answer = (StatusCode, [(&'static str, &'static str); 1], Json<Value>);

fn refused(status: StatusCode, why: &str) -> Answer {
    let retry_after = if status == StatusCode::TOO_MANY_REQUESTS { "7" } else { "" };
    (status, [("retry-after", retry_after)], Json(json!({ "errors": [why] })))
}

impl Transit {
    async fn start() -> (String, Arc<Self>) {
        let mut key = [0; 32];
        getrandom::fill(&mut key).unwrap();
        let cipher = Aes256Gcm::new(&key.into());
        let this = Arc::new(Self { cipher, requests: AtomicUsize::new(0), status: AtomicU16::new(0) });
        let routes = Router::new().route("/v1/transit/{operation}/{key}", post(answer)).with_state(this.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, routes).await });
        (address, this)
    }

    /// Sets the status of all later responses.
    fn fail(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    fn encrypt(&self, msg: &[u8], aad: &[u8]) -> String {
        let mut nonce = [0; 12];
        getrandom::fill(&mut nonce).unwrap();
        let encrypted = self.cipher.encrypt(&Nonce::from(nonce), Payload { msg, aad }).unwrap();
        format!("vault:v1:{}", Base64::encode_string(&[&nonce[..], &encrypted].concat()))
    }

    fn decrypt(&self, ciphertext: &str, aad: &[u8]) -> Option<Vec<u8>> {
        let bytes = Base64::decode_vec(ciphertext.strip_prefix("vault:v1:")?).ok()?;
        let (nonce, msg) = bytes.split_first_chunk::<12>()?;
        self.cipher.decrypt(&Nonce::from(*nonce), Payload { msg, aad }).ok()
    }
}

async fn answer(
    State(transit): State<Arc<Transit>>,
    Path((operation, key)): Path<(String, String)>,
    headers: HeaderMap,
    Json(request): Json<Value>,
) -> Answer {
    transit.requests.fetch_add(1, Ordering::Relaxed);
    if let Ok(status) = StatusCode::from_u16(transit.status.load(Ordering::Relaxed)) {
        return refused(status, "as the test wants it");
    }
    if headers.get("x-vault-token").is_none_or(|token| token != TOKEN) {
        return refused(StatusCode::FORBIDDEN, "permission denied");
    }
    if key != "invoices" {
        return refused(StatusCode::BAD_REQUEST, "encryption key not found");
    }
    let text = |name: &str| request[name].as_str().unwrap();
    let aad = Base64::decode_vec(text("associated_data")).unwrap();
    let data = match &*operation {
        "encrypt" => json!({ "ciphertext": transit.encrypt(&Base64::decode_vec(text("plaintext")).unwrap(), &aad) }),
        "decrypt" => match transit.decrypt(text("ciphertext"), &aad) {
            Some(plaintext) => json!({ "plaintext": Base64::encode_string(&plaintext) }),
            None => return refused(StatusCode::BAD_REQUEST, "cipher: message authentication failed"),
        },
        _ => return refused(StatusCode::NOT_FOUND, "unsupported path"),
    };
    (StatusCode::OK, [("x-request-id", "1")], Json(json!({ "request_id": "1", "data": data })))
}

fn envelope(address: &str, key: &str) -> Envelope {
    Envelope::new(VaultTransit::new(address, TOKEN, key).unwrap())
}

fn acme() -> EncryptionContext {
    EncryptionContext::from([("tenant", "acme")])
}

/// Returns the error of the only failed attempt to decrypt.
fn attempt(error: OpenError) -> ProviderError {
    match error {
        OpenError::Provider(error) if error.attempts().len() == 1 => error.attempts()[0].clone(),
        error => panic!("{error:?}"),
    }
}

fn run(address: &str, token: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vault"))
        .args(["invoices", "attack at dawn"])
        .envs([("VAULT_ADDR", address), ("VAULT_TOKEN", token)])
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_program_seals_and_opens_a_text_with_one_request_each() {
    let (address, transit) = Transit::start().await;
    let output = run(&address, TOKEN);
    let expected = "14 bytes, sealed 278, key vault-transit/invoices\nopened: attack at dawn\n";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    assert_eq!(transit.requests(), 2);

    let output = run(&address, "another");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("Encrypt with key invoices: access denied"), "{stderr}");
    assert!(stderr.contains("Vault returned 403 Forbidden: permission denied"), "{stderr}");
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test]
async fn it_passes_the_conformance_suite_for_key_providers() {
    let (address, _transit) = Transit::start().await;
    let provider = VaultTransit::new(&*address, TOKEN, "invoices").unwrap();
    Conformance::new(&provider).with_secret(TOKEN).check().await;
}

#[tokio::test]
async fn keys_of_each_length_are_decrypted() {
    let (address, _transit) = Transit::start().await;
    for suite in AlgorithmSuite::all().filter(|suite| !suite.is_committing()) {
        let provider = VaultTransit::new(&*address, TOKEN, "invoices").unwrap();
        let builder = Envelope::builder(provider).commitment_policy(CommitmentPolicy::ForbidEncryptAllowDecrypt);
        let envelope = builder.suite(suite).build().unwrap();
        let sealed = envelope.seal(b"attack at dawn", &acme()).await.unwrap();
        assert_eq!(envelope.open(&sealed, &acme()).await.unwrap().plaintext, b"attack at dawn", "{suite}");
    }
}

#[tokio::test]
async fn a_data_key_is_bound_to_its_context() {
    let (address, transit) = Transit::start().await;
    let envelope = envelope(&address, "invoices");
    let mut sealed = envelope.seal(b"attack at dawn", &acme()).await.unwrap();
    let other = EncryptionContext::from([("tenant", "other")]);
    assert!(matches!(envelope.open(&sealed, &other).await, Err(OpenError::Context(_))));
    assert_eq!(transit.requests(), 1, "that needs no request");

    // Now the message itself names the other tenant, so only the key service can detect it.
    let at = sealed.windows(4).position(|window| window == b"acme").unwrap();
    sealed[at..at + 4].copy_from_slice(b"evil");
    let evil = EncryptionContext::from([("tenant", "evil")]);
    let error = attempt(envelope.open(&sealed, &evil).await.unwrap_err());
    assert_eq!(error.kind(), Kind::InvalidCiphertext);
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "Vault returned 400 Bad Request: cipher: message authentication failed");
}

#[tokio::test]
async fn a_message_of_another_key_costs_no_request() {
    let (address, transit) = Transit::start().await;
    let sealed = envelope(&address, "invoices").seal(b"attack at dawn", &acme()).await.unwrap();
    let error = envelope(&address, "letters").open(&sealed, &acme()).await.unwrap_err();
    let expected = "none of the message's encrypted data keys is for vault-transit/letters; they are for: \
                    vault-transit/invoices";
    assert_eq!(error.to_string(), expected);
    assert_eq!(transit.requests(), 1);
}

#[tokio::test]
async fn each_http_status_becomes_the_matching_error_kind() {
    let (address, transit) = Transit::start().await;
    let envelope = envelope(&address, "invoices");
    let sealed = envelope.seal(b"attack at dawn", &acme()).await.unwrap();
    for (status, kind, may_be_retried) in [
        (403, Kind::AccessDenied, false),
        (404, Kind::NotFound, false),
        (429, Kind::Throttled, true),
        (500, Kind::Unavailable, true),
        (503, Kind::Unavailable, true),
        (307, Kind::Other, false),
    ] {
        transit.fail(status);
        let SealError::Provider(error) = envelope.seal(b"attack at dawn", &acme()).await.unwrap_err() else { panic!() };
        assert_eq!((error.kind(), error.is_retryable()), (kind, may_be_retried), "{error:?}");
        assert_eq!(error.retry_after(), (status == 429).then_some(Duration::from_secs(7)));
        let error = attempt(envelope.open(&sealed, &acme()).await.unwrap_err());
        assert_eq!((error.kind(), error.is_retryable()), (kind, may_be_retried), "{error:?}");
        assert_eq!(error.retry_after(), (status == 429).then_some(Duration::from_secs(7)));
    }
    transit.fail(400);
    let error = attempt(envelope.open(&sealed, &acme()).await.unwrap_err());
    assert_eq!(error.kind(), Kind::InvalidCiphertext, "{error:?}");
}

#[tokio::test]
async fn a_missing_server_is_unavailable_and_a_silent_server_does_not_block_beyond_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    // The server accepts the connection and does not respond before the deadline.
    let provider = VaultTransit::new(&address, TOKEN, "invoices").unwrap();
    let hasty = Envelope::builder(provider).key_timeout(Duration::from_millis(300)).build().unwrap();
    let start = Instant::now();
    let silent = hasty.seal(b"attack at dawn", &acme()).await.unwrap_err();
    assert!(matches!(&silent, SealError::Provider(e) if e.kind() == Kind::TimedOut), "{silent:?}");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    drop(listener);
    let absent = envelope(&address, "invoices").seal(b"attack at dawn", &acme()).await.unwrap_err();
    assert!(matches!(&absent, SealError::Provider(e) if e.kind() == Kind::Unavailable), "{absent:?}");
}

#[test]
fn the_token_is_not_printed_and_a_key_name_cannot_change_the_path() {
    let provider = VaultTransit::new("http://127.0.0.1:8200", TOKEN, "invoices").unwrap();
    assert!(!format!("{provider:?}").contains(TOKEN), "{provider:?}");
    for key in ["../keys/invoices", "a/b", "a?b", "..", ""] {
        assert!(VaultTransit::new("http://127.0.0.1:8200", TOKEN, key).is_err(), "{key}");
    }
}
