//! Tests of the file service, over HTTP.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use reqwest::{Client, Response, StatusCode};
use tempfile::TempDir;
use test_support::plaintext;

/// The running program. It ends when the value is dropped.
struct Service {
    process: Child,
    address: String,
    folder: TempDir,
    http: Client,
}

impl Service {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_uploads"))
            .arg(folder.path())
            .arg("127.0.0.1:0")
            .env_remove("KMS_ENVELOPE_KEY")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on http://").unwrap().to_owned();
        Self { process, address, folder, http: Client::new() }
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}/files/{name}", self.address)
    }

    async fn put(&self, name: &str, bytes: &[u8]) -> StatusCode {
        self.http.put(self.url(name)).body(bytes.to_vec()).send().await.unwrap().status()
    }

    async fn get(&self, name: &str) -> Response {
        self.http.get(self.url(name)).send().await.unwrap()
    }

    async fn get_range(&self, name: &str, range: &str) -> Response {
        self.http.get(self.url(name)).header("range", range).send().await.unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the names of all files in the folder, including partial uploads.
    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// Changes a byte of the frame that contains the plaintext byte at this offset. Assumes the default frame length and a
/// header shorter than a frame.
fn damage(path: &Path, offset: usize) {
    let mut sealed = fs::read(path).unwrap();
    sealed[offset / 65_536 * 65_568 + 32_768] ^= 1;
    fs::write(path, sealed).unwrap();
}

#[tokio::test]
async fn an_upload_is_returned_unchanged_and_stored_encrypted() {
    let service = Service::start();
    let text = b"attack at dawn, ".repeat(200_000);
    assert_eq!(service.put("plan.txt", &text).await, StatusCode::CREATED);

    let response = service.get("plan.txt").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(&response, "accept-ranges"), "bytes");
    assert_eq!(header(&response, "content-length"), text.len().to_string());
    assert!(response.bytes().await.unwrap() == text);

    let head = service.http.head(service.url("plan.txt")).send().await.unwrap();
    assert_eq!((head.status(), header(&head, "content-length")), (StatusCode::OK, &*text.len().to_string()));
    assert!(head.bytes().await.unwrap().is_empty());

    assert_eq!(service.files(), ["plan.txt"]);
    let sealed = fs::read(service.path("plan.txt")).unwrap();
    assert!(sealed.len() > text.len() && !sealed.windows(6).any(|window| window == b"attack"));

    assert_eq!(service.put("plan.txt", b"").await, StatusCode::CREATED);
    let response = service.get("plan.txt").await;
    assert_eq!((response.status(), header(&response, "content-length")), (StatusCode::OK, "0"));
    assert_eq!(service.get("none.txt").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_range_request_returns_that_part_of_the_file() {
    let service = Service::start();
    let bytes = plaintext(3_000_000);
    service.put("file", &bytes).await;
    for (asked, range) in [
        ("bytes=0-0", 0..1),
        ("bytes=0-99", 0..100),
        ("bytes=65535-65536", 65_535..65_537),
        ("bytes=1000000-2500000", 1_000_000..2_500_001),
        ("bytes=2999990-", 2_999_990..3_000_000),
        ("bytes=2999990-4000000", 2_999_990..3_000_000),
        ("bytes=-7", 2_999_993..3_000_000),
        ("bytes=-4000000", 0..3_000_000),
    ] {
        let response = service.get_range("file", asked).await;
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT, "{asked}");
        let content_range = format!("bytes {}-{}/3000000", range.start, range.end - 1);
        assert_eq!(header(&response, "content-range"), content_range, "{asked}");
        assert_eq!(header(&response, "content-length"), range.len().to_string(), "{asked}");
        assert!(response.bytes().await.unwrap() == bytes[range], "{asked}");
    }
    for asked in ["bytes=3000000-", "bytes=4000000-5000000", "bytes=-0"] {
        let response = service.get_range("file", asked).await;
        assert_eq!(response.status(), StatusCode::RANGE_NOT_SATISFIABLE, "{asked}");
        assert_eq!(header(&response, "content-range"), "bytes */3000000");
    }
    for asked in ["bytes=0-1, 10-11", "bytes=9-5", "lines=1-2", "bytes=one"] {
        let response = service.get_range("file", asked).await;
        assert_eq!((response.status(), header(&response, "content-range")), (StatusCode::OK, ""), "{asked}");
        assert!(response.bytes().await.unwrap() == bytes, "{asked}");
    }
    service.put("empty", b"").await;
    assert_eq!(service.get_range("empty", "bytes=0-").await.status(), StatusCode::RANGE_NOT_SATISFIABLE);
}

#[tokio::test]
async fn a_damaged_file_never_gives_a_complete_response_and_its_other_frames_are_still_readable() {
    let service = Service::start();
    let bytes = plaintext(5_000_000);
    service.put("file", &bytes).await;
    damage(&service.path("file"), 3_000_000);

    let mut response = service.get("file").await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut received = Vec::new();
    let error = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => received.extend_from_slice(&chunk),
            Ok(None) => panic!("complete"),
            Err(error) => break error,
        }
    };
    assert!(received.len() < 3_000_000 && bytes.starts_with(&received), "{error}: {}", received.len());
    // If no frame opens, the connection may close before the response head is sent.
    let request = service.http.get(service.url("file")).header("range", "bytes=3000000-3000000");
    let answered = async { request.send().await?.bytes().await };
    assert!(answered.await.is_err());

    let response = service.get_range("file", "bytes=4000000-4000099").await;
    assert!(response.bytes().await.unwrap() == bytes[4_000_000..4_000_100]);
}

#[tokio::test]
async fn a_truncated_or_renamed_file_is_refused_with_an_error_status() {
    let service = Service::start();
    service.put("file", &plaintext(200_000)).await;
    fs::copy(service.path("file"), service.path("renamed")).unwrap();
    let sealed = fs::read(service.path("file")).unwrap();
    fs::write(service.path("file"), &sealed[..sealed.len() - 1]).unwrap();
    for name in ["file", "renamed"] {
        assert_eq!(service.get(name).await.status(), StatusCode::INTERNAL_SERVER_ERROR, "{name}");
    }
}

#[tokio::test]
async fn a_name_cannot_point_outside_the_folder() {
    let service = Service::start();
    fs::write(service.folder.path().with_extension("secret"), b"secret").unwrap();
    let beside = service.folder.path().with_extension("secret");
    let beside = beside.file_name().unwrap().to_str().unwrap();
    for name in [&*format!("..%2F{beside}"), "%2Fetc%2Fpasswd", "..%2F..", ".hidden", "a%5Cb", "a%00b", "%C3%A4"] {
        assert_eq!(service.get(name).await.status(), StatusCode::BAD_REQUEST, "{name}");
        assert_eq!(service.put(name, b"x").await, StatusCode::BAD_REQUEST, "{name}");
    }
    assert!(service.files().is_empty());
    fs::remove_file(service.folder.path().with_extension("secret")).unwrap();
}

#[tokio::test]
async fn an_interrupted_upload_does_not_replace_the_existing_file() {
    let service = Service::start();
    service.put("file", b"first").await;
    let mut connection = TcpStream::connect(&service.address).unwrap();
    let head = "PUT /files/file HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n";
    connection.write_all(head.as_bytes()).unwrap();
    connection.write_all(&plaintext(500_000)).unwrap();
    let start = Instant::now();
    while service.files().len() == 1 {
        assert!(start.elapsed() < Duration::from_secs(10), "the upload did not begin");
        thread::sleep(Duration::from_millis(5));
    }
    drop(connection);
    while service.files().len() != 1 {
        assert!(start.elapsed() < Duration::from_secs(20), "what had come is still there");
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(service.get("file").await.bytes().await.unwrap(), "first");
}
