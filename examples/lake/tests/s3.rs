//! The command for queries on tables in S3, with a key in KMS. moto simulates both. Run with
//!
//! ```text
//! (cd ../.. && python3 -m venv .venv && .venv/bin/pip install -r tests/python/requirements.txt)
//! cargo test --test s3 -- --ignored
//! ```

use std::{
    env, fs,
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

fn python() -> String {
    env::var("KMS_ENVELOPE_PYTHON")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../.venv/bin/python").into())
}

/// moto, until the value is dropped.
struct Moto {
    process: Child,
    address: SocketAddr,
}

impl Moto {
    fn start() -> Self {
        // The port is free after the listener is dropped. moto binds it before another process is likely to.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new(python());
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &address.port().to_string()]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("Python with moto");
        let moto = Self { process, address };
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(start.elapsed() < Duration::from_secs(60), "moto does not answer");
            thread::sleep(Duration::from_millis(50));
        }
        moto
    }

    /// Runs a program that uses moto as AWS, and returns what it printed.
    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program)
            .args(arguments)
            .envs([("AWS_ENDPOINT_URL", format!("http://{}", self.address)), ("AWS_ALLOW_HTTP", "true".into())])
            .envs([("AWS_REGION", "us-east-1"), ("AWS_DEFAULT_REGION", "us-east-1")])
            .envs([("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
#[ignore = "needs Python with moto: see the top of this file"]
fn tables_in_s3_are_written_and_queried_with_a_key_in_kms() {
    let moto = Moto::start();
    let boto = |code: &str| moto.run(&python(), &["-c", &format!("from boto3 import client; {code}")]);
    boto("client('s3').create_bucket(Bucket='lake')");
    let arn = boto("print(client('kms').create_key()['KeyMetadata']['Arn'], end='')");
    let sql = |arguments: &[&str]| {
        let arguments = [&["sql", "--kms-key", &arn], arguments].concat();
        moto.run(env!("CARGO_BIN_EXE_kms-envelope-lake"), &arguments)
    };

    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("cities.csv");
    fs::write(&plain, "name,people\nOslo,700000\nBergen,290000\n").unwrap();
    let plain = format!("cities={}", plain.display());
    sql(&["--plain", &plain, "COPY cities TO 's3://lake/cities/1.parquet'"]);
    let object = boto("print(client('s3').get_object(Bucket='lake', Key='cities/1.parquet')['Body'].read())");
    assert!(!object.contains("PAR1"), "the object is not encrypted: {object}");
    for url in ["s3://lake/cities/1.parquet", "s3://lake/cities/"] {
        let table = sql(&["--table", &format!("c={url}"), "SELECT sum(people) AS people FROM c"]);
        assert_eq!(table, "+--------+\n| people |\n+--------+\n| 990000 |\n+--------+\n");
    }
}
