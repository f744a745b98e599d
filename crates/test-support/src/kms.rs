//! A simulated KMS over HTTP: the operations that the tests need, the errors of the real KMS, and faults on demand.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::{
    agreement::{Algorithm, ECDH_P256, ECDH_P384, ECDH_P521, PrivateKey, UnparsedPublicKey, agree},
    encoding::{AsDer, PublicKeyX509Der},
    rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey},
};
use aws_sdk_kms::{
    Client, Config,
    config::{Builder, Credentials, Region, retry::RetryConfig},
};
use base64ct::{Base64, Encoding};
use kms_envelope::{
    AlgorithmSuite, EncryptionContext, KeyProvider, RawAes,
    message::EncryptedDataKey,
    provider::{DecryptDataKeyRequest, EncryptDataKeyRequest, SecretKey},
};
use pollster::block_on;
use serde_json::{Value, json};

use crate::fixtures::{RSA_PRIVATE, RSA_PUBLIC, pem};

/// The account of all keys.
pub const ACCOUNT: &str = "111122223333";

/// Returns the ARN of the key with this id.
pub fn arn(region: &str, id: &str) -> String {
    format!("arn:aws:kms:{region}:{ACCOUNT}:key/{id}")
}

/// How a request is handled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// A normal response.
    None,
    /// A `ThrottlingException`.
    Throttle,
    /// An error with this code.
    Refuse(&'static str),
    /// The response for another key.
    OtherKey,
    /// A normal response after this delay.
    Late(Duration),
    /// No response, until the caller closes the connection.
    Hang,
    /// A transaction that is canceled for this reason, in DynamoDB.
    Cancel(&'static str),
    /// Half of the response, then the connection is closed.
    Cut,
    /// The connection is closed without a response.
    Close,
}

/// The curves of the keys for key agreement, in the names of the fixtures.
pub const CURVES: [&str; 3] = ["p256", "p384", "p521"];
const ALGORITHMS: [&Algorithm; 3] = [&ECDH_P256, &ECDH_P384, &ECDH_P521];

/// Returns the id of the second key for key agreement on a curve.
pub fn other(curve: &str) -> String {
    format!("{curve}-other")
}

fn der_of(pem: &str) -> Vec<u8> {
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    Base64::decode_vec(&base64).unwrap()
}

type Script = Box<dyn Fn(&Request) -> Fault + Send>;

/// The fields of a request that scripts can use.
#[derive(Clone, Debug)]
pub struct Request {
    /// The number of the request, from 0.
    pub number: usize,
    /// The operation, such as `GenerateDataKey`.
    pub operation: String,
    /// The region in the request's signature.
    pub region: String,
    /// The ARN of the key.
    pub key: String,
    /// The request's `GrantTokens`.
    pub grant_tokens: Value,
}

/// A KMS server in this process. It runs until the process ends.
#[expect(missing_debug_implementations, reason = "its script is a closure")]
pub struct Endpoint {
    url: String,
    state: Arc<State>,
}

struct State {
    /// The existing keys: region and id. A multi-region key has the same key material in all regions.
    keys: BTreeSet<(String, String)>,
    disabled: Mutex<BTreeSet<String>>,
    script: Mutex<Script>,
    requests: Mutex<Vec<Request>>,
    given_up: AtomicUsize,
    rsa: Option<Rsa>,
    /// The keys for key agreement, by id.
    agreement_keys: BTreeMap<String, PrivateKey>,
}

/// An RSA key.
#[expect(missing_debug_implementations, reason = "it decrypts by a closure")]
pub struct Rsa {
    /// A SubjectPublicKeyInfo in DER.
    pub public: Vec<u8>,
    /// Decrypts a ciphertext with an algorithm.
    pub decrypt: RsaDecrypt,
}

/// A function that decrypts a ciphertext with the named algorithm.
pub type RsaDecrypt = Box<dyn Fn(&str, &[u8]) -> Option<Vec<u8>> + Send + Sync>;

impl Rsa {
    /// Returns the RSA key of the fixtures.
    pub fn of_fixtures() -> Self {
        let [public, private] = [RSA_PUBLIC, RSA_PRIVATE].map(der_of);
        let key = OaepPrivateDecryptingKey::new(PrivateDecryptingKey::from_pkcs8(&private).unwrap()).unwrap();
        let decrypt = move |algorithm: &str, ciphertext: &[u8]| {
            let padding = match algorithm {
                "RSAES_OAEP_SHA_1" => &OAEP_SHA1_MGF1SHA1,
                "RSAES_OAEP_SHA_256" => &OAEP_SHA256_MGF1SHA256,
                other => panic!("{other}"),
            };
            let mut plaintext = vec![0; key.min_output_size()];
            let len = key.decrypt(padding, ciphertext, &mut plaintext, None).ok()?.len();
            plaintext.truncate(len);
            Some(plaintext)
        };
        Self { public, decrypt: Box::new(decrypt) }
    }
}

impl Endpoint {
    /// Starts a server with these keys.
    pub fn new<'a>(keys: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self::with_rsa(keys, None)
    }

    /// Starts a server with these keys. If `rsa` is given, they are RSA keys.
    pub fn with_rsa<'a>(keys: impl IntoIterator<Item = (&'a str, &'a str)>, rsa: Option<Rsa>) -> Self {
        Self::start(keys, rsa, BTreeMap::new())
    }

    /// Starts a server with keys for key agreement in this region. For each [curve](CURVES), there are two: the private
    /// key of the fixtures, whose id is the curve, and another one, whose id is [`other`] of the curve.
    pub fn with_agreement_keys(region: &str) -> Self {
        let mut keys = BTreeMap::new();
        for (curve, algorithm) in CURVES.into_iter().zip(ALGORITHMS) {
            let of_fixtures = PrivateKey::from_private_key_der(algorithm, &der_of(&pem(&format!("{curve}-private"))));
            keys.insert(curve.to_owned(), of_fixtures.unwrap());
            keys.insert(other(curve), PrivateKey::generate(algorithm).unwrap());
        }
        let ids: Vec<_> = keys.keys().cloned().collect();
        Self::start(ids.iter().map(|id| (region, &**id)), None, keys)
    }

    fn start<'a>(
        keys: impl IntoIterator<Item = (&'a str, &'a str)>,
        rsa: Option<Rsa>,
        agreement_keys: BTreeMap<String, PrivateKey>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            keys: keys.into_iter().map(|(region, id)| (region.to_owned(), id.to_owned())).collect(),
            disabled: Mutex::default(),
            script: Mutex::new(Box::new(|_| Fault::None)),
            requests: Mutex::default(),
            given_up: AtomicUsize::new(0),
            rsa,
            agreement_keys,
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || state.serve(stream));
            }
        });
        Self { url, state }
    }

    /// Returns the URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns a client in this region that makes no retries.
    pub fn client(&self, region: &str) -> Client {
        self.client_with(region, |config| config.retry_config(RetryConfig::disabled()))
    }

    /// Returns a client in this region with further settings.
    pub fn client_with(&self, region: &str, configure: impl FnOnce(Builder) -> Builder) -> Client {
        client_of(&self.url, region, configure)
    }

    /// Sets the script that decides how later requests are handled.
    pub fn script(&self, script: impl Fn(&Request) -> Fault + Send + 'static) {
        *lock(&self.state.script) = Box::new(script);
    }

    /// Disables this key in all regions.
    pub fn disable(&self, id: &str) {
        lock(&self.state.disabled).insert(id.to_owned());
    }

    /// Returns the number of requests for each operation.
    pub fn calls(&self) -> BTreeMap<String, usize> {
        let mut calls = BTreeMap::new();
        lock(&self.state.requests).iter().for_each(|request| *calls.entry(request.operation.clone()).or_default() += 1);
        calls
    }

    /// Returns the number of requests for this operation.
    pub fn calls_of(&self, operation: &str) -> usize {
        self.calls().get(operation).copied().unwrap_or(0)
    }

    /// Returns the operations and regions of all requests, in order.
    pub fn log(&self) -> Vec<(String, String)> {
        lock(&self.state.requests).iter().map(|request| (request.operation.clone(), request.region.clone())).collect()
    }

    /// Returns the grant tokens of all requests.
    pub fn grant_tokens(&self) -> Vec<Value> {
        lock(&self.state.requests).iter().map(|request| request.grant_tokens.clone()).collect()
    }

    /// Returns how many callers closed the connection while they waited for a response.
    pub fn given_up(&self) -> usize {
        self.state.given_up.load(Ordering::SeqCst)
    }
}

/// Returns a client of the KMS at this endpoint.
pub(crate) fn client_of(endpoint: &str, region: &str, configure: impl FnOnce(Builder) -> Builder) -> Client {
    let config = Config::builder()
        .behavior_version_latest()
        .region(Region::new(region.to_owned()))
        .credentials_provider(Credentials::for_tests())
        .endpoint_url(endpoint)
        .http_client(aws_smithy_http_client::Builder::new().build_http());
    Client::from_conf(configure(config).build())
}

impl State {
    /// Handles the requests of one connection.
    fn serve(&self, stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut stream = stream;
        while let Some((operation, region, body)) = read_request(&mut reader) {
            let request = {
                let mut requests = lock(&self.requests);
                let grant_tokens = body["GrantTokens"].clone();
                let key = key_arn(&body).to_owned();
                let request = Request { number: requests.len(), operation, region, key, grant_tokens };
                requests.push(request.clone());
                request
            };
            let fault = lock(&self.script)(&request);
            let (status, answer) = match fault {
                Fault::Throttle => refusal("ThrottlingException"),
                Fault::Refuse(code) => refusal(code),
                _ => self.answer(&request, &body).map_or_else(refusal, |answer| (200, answer)),
            };
            let answer = match fault {
                Fault::OtherKey => answer.to_string().replace(":key/", ":key/another-"),
                _ => answer.to_string(),
            };
            if !respond(&mut reader, &mut stream, fault, status, &answer, &self.given_up) {
                return;
            }
        }
    }

    /// Returns the response, or the code of an error.
    fn answer(&self, request: &Request, body: &Value) -> Result<Value, &'static str> {
        let key_arn = key_arn(body);
        let id = key_arn.strip_prefix(&format!("arn:aws:kms:{}:{ACCOUNT}:key/", request.region));
        let id = id.ok_or("NotFoundException")?;
        if !self.keys.contains(&(request.region.clone(), id.to_owned())) {
            return Err("NotFoundException");
        }
        if lock(&self.disabled).contains(id) {
            return Err("DisabledException");
        }
        let context_of = |field: &str| -> EncryptionContext {
            let pairs = body[field].as_object().into_iter().flatten();
            pairs.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect()
        };
        let context = context_of("EncryptionContext");
        let suite = AlgorithmSuite::default();
        let key = RawAes::new("kms", id, [id.len() as u8; 32]).unwrap();
        let bytes = |field: &str| Base64::decode_vec(body[field].as_str().unwrap_or_default()).unwrap();
        let encrypted_with = |context: &EncryptionContext, data_key: &SecretKey| {
            let request = EncryptDataKeyRequest::new(suite, context, data_key);
            let [encrypted] = &block_on(key.encrypt_data_key(&request)).unwrap()[..] else { panic!() };
            let parts = [&[encrypted.provider_info.len() as u8][..], &encrypted.provider_info, &encrypted.ciphertext];
            Base64::encode_string(&parts.concat())
        };
        let encrypted = |data_key: &SecretKey| encrypted_with(&context, data_key);
        let decrypted = |context: &EncryptionContext| {
            let blob = bytes("CiphertextBlob");
            let (len, rest) = blob.split_first().ok_or("InvalidCiphertextException")?;
            let (info, ciphertext) = rest.split_at_checked((*len).into()).ok_or("InvalidCiphertextException")?;
            // A data key of any length, followed by a tag of 16 bytes.
            let is_its = |suite: &AlgorithmSuite| suite.data_key_len() + 16 == ciphertext.len();
            let suite = AlgorithmSuite::all().find(is_its).ok_or("InvalidCiphertextException")?;
            let encrypted = EncryptedDataKey::new("kms", info.to_vec(), ciphertext.to_vec());
            if encrypted.key_name() != id {
                return Err("IncorrectKeyException");
            }
            let keys = [encrypted];
            let request = DecryptDataKeyRequest::new(suite, context, &keys);
            Ok(block_on(key.decrypt_data_key(&request)).map_err(|_| "InvalidCiphertextException")?.plaintext)
        };
        match &request.operation[..] {
            "GenerateDataKey" => {
                let len = body["NumberOfBytes"].as_u64().unwrap() as usize;
                let mut plaintext = vec![0; len];
                getrandom::fill(&mut plaintext).unwrap();
                let encoded = Base64::encode_string(&plaintext);
                let blob = encrypted(&SecretKey::try_from(plaintext).unwrap());
                Ok(json!({"KeyId": key_arn, "Plaintext": encoded, "CiphertextBlob": blob}))
            }
            "GenerateDataKeyWithoutPlaintext" => {
                let mut plaintext = vec![0; body["NumberOfBytes"].as_u64().unwrap() as usize];
                getrandom::fill(&mut plaintext).unwrap();
                let blob = encrypted(&SecretKey::try_from(plaintext).unwrap());
                Ok(json!({"KeyId": key_arn, "CiphertextBlob": blob}))
            }
            "ReEncrypt" => {
                assert_eq!(body["SourceKeyId"], body["DestinationKeyId"], "a test for two keys is missing");
                let plaintext = decrypted(&context_of("SourceEncryptionContext"))?;
                let blob = encrypted_with(&context_of("DestinationEncryptionContext"), &plaintext);
                Ok(json!({"KeyId": key_arn, "SourceKeyId": key_arn, "CiphertextBlob": blob}))
            }
            "Encrypt" => {
                let plaintext = SecretKey::try_from(bytes("Plaintext")).unwrap();
                Ok(json!({"KeyId": key_arn, "CiphertextBlob": encrypted(&plaintext)}))
            }
            "Decrypt" => {
                let blob = bytes("CiphertextBlob");
                if let Some(Rsa { decrypt, .. }) = &self.rsa {
                    let algorithm = body["EncryptionAlgorithm"].as_str().unwrap_or_default();
                    assert!(body.get("EncryptionContext").is_none(), "KMS refuses a context with RSA");
                    let plaintext = decrypt(algorithm, &blob).ok_or("InvalidCiphertextException")?;
                    return Ok(json!({"KeyId": key_arn, "Plaintext": Base64::encode_string(&plaintext)}));
                }
                let plaintext = decrypted(&context)?;
                Ok(json!({"KeyId": key_arn, "Plaintext": Base64::encode_string(plaintext.expose())}))
            }
            "GetPublicKey" => {
                let (public, usage) = match (self.agreement_keys.get(id), &self.rsa) {
                    (Some(key), _) => {
                        let der: PublicKeyX509Der<'_> = key.compute_public_key().unwrap().as_der().unwrap();
                        (der.as_ref().to_vec(), "KEY_AGREEMENT")
                    }
                    (None, Some(rsa)) => (rsa.public.clone(), "ENCRYPT_DECRYPT"),
                    (None, None) => return Err("UnsupportedOperationException"),
                };
                Ok(json!({"KeyId": key_arn, "KeyUsage": usage, "PublicKey": Base64::encode_string(&public)}))
            }
            "DeriveSharedSecret" => {
                let key = self.agreement_keys.get(id).ok_or("InvalidKeyUsageException")?;
                assert_eq!(body["KeyAgreementAlgorithm"], "ECDH");
                let public = bytes("PublicKey");
                // A SubjectPublicKeyInfo in DER, with an uncompressed point.
                assert!([91, 120, 158].contains(&public.len()), "{public:?}");
                let peer = UnparsedPublicKey::new(key.algorithm(), public);
                let encode = |secret: &[u8]| Ok(Base64::encode_string(secret));
                let secret = agree(key, peer, "ValidationException", encode)?;
                Ok(json!({"KeyId": key_arn, "KeyAgreementAlgorithm": "ECDH", "SharedSecret": secret}))
            }
            other => panic!("{other}"),
        }
    }
}

/// Returns the key that a request names.
fn key_arn(body: &Value) -> &str {
    let names = ["KeyId", "DestinationKeyId"];
    names.iter().find_map(|name| body[name].as_str()).unwrap_or_default()
}

fn refusal(code: &str) -> (u16, Value) {
    (400, json!({"__type": code, "message": "said KMS"}))
}

/// Sends a response, unless the fault prevents it. Returns whether the connection stays open. Counts the callers that
/// close it while they wait.
pub(crate) fn respond(
    reader: &mut impl Read,
    stream: &mut TcpStream,
    fault: Fault,
    status: u16,
    answer: &str,
    given_up: &AtomicUsize,
) -> bool {
    if let Fault::Late(delay) = fault {
        std::thread::sleep(delay);
    }
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\n\r\n",
        answer.len()
    );
    let bytes = [head.as_bytes(), answer.as_bytes()].concat();
    match fault {
        Fault::Cut => {
            let _ = stream.write_all(&bytes[..head.len() + answer.len() / 2]);
            false
        }
        Fault::Close => false,
        Fault::Hang => {
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            if matches!(reader.read(&mut [0]), Ok(0)) {
                given_up.fetch_add(1, Ordering::SeqCst);
            }
            false
        }
        _ => stream.write_all(&bytes).is_ok(),
    }
}

/// Reads a request: its operation, the region of its signature, and its body. Returns `None` at the end of the
/// connection.
pub(crate) fn read_request(reader: &mut impl BufRead) -> Option<(String, String, Value)> {
    let (mut operation, mut region, mut len) = (None, None, 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            if line.trim_end().is_empty() {
                break;
            }
            continue;
        };
        match &name.to_ascii_lowercase()[..] {
            "x-amz-target" => operation = value.split('.').nth(1).map(str::to_owned),
            // Credential=ID/DATE/REGION/SERVICE/aws4_request
            "authorization" => region = value.split('/').nth(2).map(str::to_owned),
            "content-length" => len = value.parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).ok()?;
    Some((operation?, region?, serde_json::from_slice(&body).unwrap()))
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}
