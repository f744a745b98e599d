//! AWS's SDKs for Python and JavaScript, and moto as KMS, each in a separate process.
//!
//! They need packages that Cargo does not install:
//!
//! ```text
//! python3 -m venv .venv && .venv/bin/pip install -r tests/python/requirements.txt
//! (cd tests/javascript && npm ci)
//! ```
//!
//! `KMS_ENVELOPE_PYTHON` can name another Python with the same packages.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use aws_sdk_kms::{
    Client,
    types::{KeySpec, KeyUsageType},
};
use kms_envelope::{AlgorithmSuite, EncryptionContext, provider::SecretKey};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{dynamodb, fixtures::repository, header, kms};

/// The region of [`Moto`].
pub const REGION: &str = "eu-central-1";

fn python() -> PathBuf {
    repository(&env::var("KMS_ENVELOPE_PYTHON").unwrap_or_else(|_| ".venv/bin/python".into()))
}

/// A process that is killed when the value is dropped.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One of AWS's SDKs, in a separate process.
#[derive(Debug)]
pub struct Peer {
    _process: Process,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    folder: TempDir,
}

impl Peer {
    /// Starts Python with AWS's services at this endpoint.
    pub fn start(endpoint: Option<&str>) -> Self {
        Self::start_with(endpoint.into_iter().flat_map(aws_environment))
    }

    /// Like [`start`](Self::start), with KMS at another endpoint.
    pub fn start_with_kms(endpoint: &str, kms: &str) -> Self {
        Self::start_with(aws_environment(endpoint).into_iter().chain([("AWS_ENDPOINT_URL_KMS", kms)]))
    }

    fn start_with<'a>(environment: impl IntoIterator<Item = (&'static str, &'a str)>) -> Self {
        let mut command = Command::new(python());
        command.arg(repository("tests/python/esdk.py")).arg("serve").envs(environment);
        Self::of(command)
    }

    /// Starts JavaScript.
    pub fn start_javascript() -> Self {
        let mut command = Command::new("node");
        command.arg(repository("tests/javascript/esdk.js"));
        Self::of(command)
    }

    fn of(mut command: Command) -> Self {
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = spawned.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let requests = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Self { _process: Process(process), requests, answers, folder: tempfile::tempdir().unwrap() }
    }

    /// Returns the folder of this peer's files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a key file in the peer's format, and returns its path.
    pub fn key_file(&self, name: &str, entry: &Value) -> String {
        let file = path(self.folder(), name);
        fs::write(&file, entry.to_string()).unwrap();
        file
    }

    fn ask(&mut self, request: &Value) -> Result<Value, String> {
        writeln!(self.requests, "{request}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        if answer["ok"] == true { Ok(answer) } else { Err(answer["error"].to_string()) }
    }

    /// Performs an operation of AWS's key store, as tests/python/branch_keys.py describes.
    ///
    /// # Errors
    /// Returns the peer's error text.
    pub fn key_store(&mut self, store: &Value, operation: &str, arguments: Value) -> Result<Value, String> {
        let request = json!({"op": "key_store", "operation": operation, "store": store, "arguments": arguments});
        let mut answer = self.ask(&request)?;
        answer.as_object_mut().unwrap().remove("ok");
        Ok(answer)
    }

    /// Seals in the default suite. `key` is a key file or an ARN; with a frame length of 0, the message has no frames.
    pub fn seal(&mut self, key: &str, context: &EncryptionContext, frame_len: u32, plaintext: &[u8]) -> Vec<u8> {
        self.seal_with(AlgorithmSuite::default(), key, context, frame_len, plaintext)
    }

    /// Like [`seal`](Self::seal), in this suite.
    pub fn seal_with(
        &mut self,
        suite: AlgorithmSuite,
        key: &str,
        context: &EncryptionContext,
        frame_len: u32,
        plaintext: &[u8],
    ) -> Vec<u8> {
        let (input, output) = (self.folder.path().join("in"), self.folder.path().join("out"));
        fs::write(&input, plaintext).unwrap();
        let request = json!({
            "op": "seal", "key": key, "context": object(context), "frame_len": frame_len,
            "suite": suite.to_string(), "in": input, "out": output,
        });
        self.ask(&request).unwrap();
        fs::read(&output).unwrap()
    }

    /// Opens a message, and checks what the peer reports about it.
    ///
    /// # Errors
    /// Returns the peer's error text.
    pub fn open(&mut self, key: &str, context: &EncryptionContext, sealed: &[u8]) -> Result<Vec<u8>, String> {
        let (input, output) = (self.folder.path().join("in"), self.folder.path().join("out"));
        fs::write(&input, sealed).unwrap();
        let request = json!({ "op": "open", "key": key, "context": object(context), "in": input, "out": output });
        let answer = self.ask(&request)?;
        assert_eq!(answer["suite"], header(sealed).suite().to_string());
        for (name, value) in context {
            assert_eq!(answer["context"][name], value);
        }
        Ok(fs::read(&output).unwrap())
    }
}

/// Returns a context as a JSON object.
pub fn object(context: &EncryptionContext) -> Value {
    context.iter().map(|(name, value)| (name.to_owned(), Value::from(value))).collect()
}

/// Returns the SHA-256 digest of a key in hexadecimal, to compare it with that of a peer.
pub fn digest(key: &SecretKey) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.expose());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// moto's services over HTTP, until the value is dropped.
#[derive(Debug)]
pub struct Moto {
    _process: Process,
    endpoint: String,
}

impl Moto {
    /// Starts moto and waits until it answers.
    pub fn start() -> Self {
        // The port is free after the listener is dropped. moto binds it before another process is likely to.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new(python())
            .arg(repository("tests/python/moto_kms.py"))
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Python with moto");
        let this = Self { _process: Process(process), endpoint: format!("http://127.0.0.1:{port}") };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(60), "moto does not answer");
            thread::sleep(Duration::from_millis(50));
        }
        this
    }

    /// Returns the URL.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns a client of KMS.
    pub fn client(&self) -> Client {
        kms::client_of(&self.endpoint, REGION, |config| config)
    }

    /// Returns a client of DynamoDB.
    pub fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        dynamodb::client_of(&self.endpoint, REGION, |config| config)
    }

    /// Creates a key of KMS, and returns its ARN.
    pub async fn create_key(&self) -> String {
        let created = self.client().create_key().send().await.unwrap();
        created.key_metadata.unwrap().arn.unwrap()
    }

    /// Creates a key of KMS for key agreement, and returns its ARN and its public key in DER.
    pub async fn create_agreement_key(&self, spec: KeySpec) -> (String, Vec<u8>) {
        let create = self.client().create_key().key_spec(spec).key_usage(KeyUsageType::KeyAgreement);
        let arn = create.send().await.unwrap().key_metadata.unwrap().arn.unwrap();
        let answer = self.client().get_public_key().key_id(&arn).send().await.unwrap();
        (arn, answer.public_key.unwrap().into_inner())
    }
}

/// Returns environment variables with which programs use this endpoint as AWS.
pub fn aws_environment(endpoint: &str) -> [(&'static str, &str); 5] {
    [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_REGION", REGION),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ]
}

/// Returns the path of a file in a folder, as text.
pub fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_owned()
}
