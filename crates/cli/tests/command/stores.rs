//! Objects in stores.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    thread,
};

use kms_envelope::{Envelope, RawAes};
use kms_envelope_object_store::{Binding, StoreSettings, v0_14::EncryptedStore};
use object_store::{ObjectStoreExt, aws::AmazonS3Builder, local::LocalFileSystem, path::Path};
use serde_json::Value;
use url::Url;

use crate::{Ended, Folder, data, end};
use test_support::peers::{Moto, aws_environment};

/// A folder that is also a store.
impl Folder {
    pub(crate) fn url(&self, name: &str) -> String {
        Url::from_file_path(self.path(name)).unwrap().into()
    }

    /// Runs the command with an input, and with URLs for arguments that begin with `url:`.
    pub(crate) fn run_at(&self, args: &[&str], input: &[u8]) -> Ended {
        let args: Vec<_> = args
            .iter()
            .map(|arg| arg.strip_prefix("url:").map_or_else(|| (*arg).to_owned(), |name| self.url(name)))
            .collect();
        end(&mut self.command(&args), input)
    }

    pub(crate) fn location(&self, name: &str) -> Path {
        Path::from_absolute_path(self.path(name)).unwrap()
    }

    /// Returns the same store through the library.
    fn store(&self, change: impl FnOnce(StoreSettings) -> StoreSettings) -> EncryptedStore<LocalFileSystem> {
        let envelope = Envelope::builder(RawAes::read_key_file(self.path("key")).unwrap());
        EncryptedStore::new(LocalFileSystem::new(), change(StoreSettings::new(envelope).base("file:///"))).unwrap()
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(future)
}

fn get(store: &EncryptedStore<LocalFileSystem>, location: &Path) -> object_store::Result<Vec<u8>> {
    block_on(async { Ok(store.get(location).await?.bytes().await?.into()) })
}

#[test]
fn an_object_of_any_length_is_sealed_and_opened_from_files_pipes_and_objects() {
    let folder = Folder::with_key();
    for len in [0, 1, 65_536, 65_537, 20_000_000] {
        let plaintext = data(len);
        folder.write("in", &plaintext);
        folder.run_at(&["seal", "--key", "key", "-o", "url:a", "in"], b"").done();
        folder.run_at(&["seal", "--key", "key", "-o", "url:b", "url:in"], b"").done();
        folder.run_at(&["seal", "--key", "key", "-o", "url:c"], &plaintext).done();
        for name in ["a", "b", "c"] {
            let url = format!("url:{name}");
            assert!(folder.run_at(&["open", "--key", "key", &url], b"").done() == plaintext, "{len} {name}");
        }
        folder.run_at(&["open", "--key", "key", "-o", "url:out", "url:a"], b"").done();
        assert!(folder.read("out") == plaintext);
        assert_eq!(folder.names(), ["a", "b", "c", "in", "out"], "{len}");
    }
}

#[test]
fn the_command_and_an_encrypted_store_read_each_others_objects() {
    let folder = Folder::with_key();
    let bindings: [(&[&str], Binding); 3] = [
        (&[], Binding::Path),
        (&["--binding", "prefix:1"], Binding::Prefix { segments: 1 }),
        (&["--binding", "none"], Binding::None),
    ];
    for (args, binding) in bindings {
        let store = folder.store(|settings| settings.binding(binding).context([("tenant", "acme")].into()));
        for len in [0, 1, 70_000, 20_000_000] {
            let plaintext = data(len);
            let args = [&["--key", "key", "-c", "tenant=acme"], args].concat();
            folder.run_at(&[&["seal", "-o", "url:ours"], &args[..]].concat(), &plaintext).done();
            let location = folder.location("ours");
            assert!(get(&store, &location).unwrap() == plaintext, "{binding:?} {len}");
            assert_eq!(block_on(store.head(&location)).unwrap().size, len as u64);

            block_on(store.put(&folder.location("theirs"), plaintext.clone().into())).unwrap();
            let opened = folder.run_at(&[&["open", "url:theirs"], &args[..]].concat(), b"").done();
            assert!(opened == plaintext, "{binding:?} {len}");
            assert_eq!(folder.read("ours").len(), folder.read("theirs").len());
        }
    }
}

#[test]
fn the_lengths_and_the_base_of_a_store_can_be_set() {
    let folder = Folder::with_key();
    let options = ["--header-len", "2000", "--frame-len", "4KiB", "--base", "s3://elsewhere/"];
    folder.run_at(&[&["seal", "--key", "key", "-o", "url:a"], &options[..]].concat(), &data(10_000)).done();
    let store = folder.store(|settings| settings.header_len(2000).frame_len(4096).base("s3://elsewhere"));
    assert!(get(&store, &folder.location("a")).unwrap() == data(10_000));
    assert!(folder.run_at(&["open", "--key", "key", "--base", "s3://elsewhere", "url:a"], b"").done() == data(10_000));
    let said = folder.run_at(&["open", "--key", "key", "url:a"], b"").failed();
    assert!(said.contains("a different value for \"path\""), "{said}");

    // As a program without a base, and with a path that only fits into a header as its hash.
    let without_base = folder.store(|settings| settings.base(""));
    let long = "long/".repeat(190) + "name";
    let location = Path::from(format!("{}/{long}", folder.location("x")));
    block_on(without_base.put(&location, "data".into())).unwrap();
    let url = format!("url:x/{long}");
    assert_eq!(folder.run_at(&["open", "--key", "key", "--base", "", &url], b"").done(), b"data");
    let said = folder.run_at(&["open", "--key", "key", &url], b"").failed();
    assert!(said.contains("path-sha256"), "{said}");
}

#[test]
fn an_object_that_was_moved_does_not_open() {
    let folder = Folder::with_key();
    folder.run_at(&["seal", "--key", "key", "-o", "url:a"], b"data").done();
    fs::rename(folder.path("a"), folder.path("b")).unwrap();
    let said = folder.run_at(&["open", "--key", "key", "url:b"], b"").failed();
    assert!(said.contains("a different value for \"path\"") && said.contains("--binding none"), "{said}");
    assert_eq!(folder.run_at(&["open", "--key", "key", "--binding", "none", "url:b"], b"").done(), b"data");
    // A downloaded object is a message like any other.
    assert_eq!(folder.run_at(&["open", "--key", "key", "b"], b"").done(), b"data");
}

#[test]
fn messages_of_other_programs_open_as_objects_without_a_binding() {
    let folder = Folder::with_key();
    for (name, args) in
        [("signed", &["--sign"][..]), ("frames", &["--frame-len", "100"]), ("padded", &["--header-len", "3000"])]
    {
        folder.run_at(&[&["seal", "--key", "key", "-o", name], args].concat(), &data(50_000)).done();
        let url = format!("url:{name}");
        assert!(folder.run_at(&["open", "--key", "key", "--binding", "none", &url], b"").done() == data(50_000));
        let said = folder.run_at(&["open", "--key", "key", &url], b"").failed();
        assert!(said.contains("no \"path\"") && said.contains("--binding none"), "{said}");
        let [by_url, by_path] = [&url, name].map(|from| folder.run_at(&["inspect", "--json", from], b"").done());
        assert_eq!(by_url, by_path);
    }
}

#[test]
fn an_upload_that_fails_leaves_nothing() {
    let folder = Folder::with_key();
    let sealed = folder.run_with_input(&["seal", "--key", "key"], &data(30_000_000)).done();
    folder.write("broken", &sealed[..sealed.len() - 1]);
    folder.run_at(&["open", "--key", "key", "-o", "url:out", "broken"], b"").failed();
    folder.write("in", b"");
    for args in [
        &["seal", "--key", "nowhere", "-o", "url:out", "in"][..],
        &["seal", "--key", "key", "--header-len", "100", "-o", "url:out", "in"],
        &["seal", "--key", "key", "-o", "url:out", "nowhere"],
        &["seal", "--key", "key", "-o", "url:out", "."],
    ] {
        folder.run_at(args, b"").failed();
    }
    assert_eq!(folder.names(), ["broken", "in"]);
}

#[cfg(unix)]
#[test]
fn a_signal_leaves_nothing_of_an_upload() {
    use std::os::unix::process::ExitStatusExt;

    let folder = Folder::with_key();
    folder.write("out", b"as it was");
    let mut command = folder.command(&["seal", "--key", "key", "-o", &folder.url("out")]);
    let (mut process, _pipe) = crate::signals::start(&mut command, &data(60_000_000));
    // More than one part has been written.
    assert_eq!(folder.names().len(), 2, "{:?}", folder.names());
    crate::signals::send("TERM", &process);
    assert_eq!(process.wait().unwrap().signal(), Some(15));
    assert_eq!(folder.names(), ["out"]);
    assert_eq!(folder.read("out"), b"as it was");
}

#[test]
fn detached_keys_are_found_beside_an_object() {
    let folder = Folder::with_key();
    folder.run(&["keygen", "new"]).done();
    folder.run_at(&["seal", "--key", "key", "-o", "url:a"], b"data").done();
    let opens = |args: &[&str]| folder.run_at(&[&["open", "--key", "new", "url:a"], args].concat(), b"");
    let without = opens(&[]).failed();
    assert!(without.contains("pass one of the keys that the message names"), "{without}");

    folder.run_at(&["rewrap", "--key", "key", "--to", "new", "-o", "url:a.keys", "url:a"], b"").done();
    assert_eq!(opens(&[]).done(), b"data");
    assert_eq!(opens(&["--keys", "url:a.keys"]).done(), b"data");
    // They do not hide why another key of the same name as that in the header fails.
    let key: Value = serde_json::from_slice(&folder.read("key")).unwrap();
    let [namespace, name] = ["namespace", "name"].map(|field| key[field].as_str().unwrap());
    folder.run(&["keygen", "same", "--namespace", namespace, "--name", name]).done();
    let fails = |args: &[&str]| folder.run_at(&[&["open", "--key", "same", "url:a"], args].concat(), b"").failed();
    assert_eq!(fails(&[]), fails(&["--detached-keys", ""]));
    fs::rename(folder.path("a.keys"), folder.path("a.new")).unwrap();
    assert_eq!(opens(&["--detached-keys", ".new"]).done(), b"data");
    assert_eq!(opens(&[]).failed(), without);
    assert_eq!(opens(&["--detached-keys", ""]).failed(), without);
    // The store of the library finds the same.
    let envelope = Envelope::builder(RawAes::read_key_file(folder.path("new")).unwrap());
    let settings = StoreSettings::new(envelope).base("file:///").detached_keys(".new");
    let store = EncryptedStore::new(LocalFileSystem::new(), settings).unwrap();
    assert_eq!(get(&store, &folder.location("a")).unwrap(), b"data");

    // Those of another message are ignored, and what are no keys is an error.
    folder.run_at(&["seal", "--key", "key", "-o", "url:b"], b"other").done();
    folder.run_at(&["rewrap", "--key", "key", "--to", "new", "-o", "url:a.new", "url:b"], b"").done();
    assert_eq!(opens(&["--detached-keys", ".new"]).failed(), without);
    folder.write("a.new", b"no keys");
    let said = opens(&["--detached-keys", ".new"]).failed();
    assert!(said.contains(&format!("{}: ", folder.url("a.new"))), "{said}");
    let said = folder.run_at(&["rewrap", "--key", "key", "--to", "new", "-o", "url:a", "url:a"], b"").failed();
    assert!(said.contains("still needed"), "{said}");
}

#[test]
fn an_object_is_inspected_like_a_file() {
    let folder = Folder::with_key();
    folder.run_at(&["seal", "--key", "key", "-c", "tenant=acme", "-o", "url:a"], &data(100_000)).done();
    let by_url = folder.run_at(&["inspect", "--json", "url:a"], b"").done();
    assert_eq!(by_url, folder.run(&["inspect", "--json", "a"]).done());
    let report: Value = serde_json::from_slice(&by_url).unwrap();
    assert_eq!((&report["header_len"], &report["plaintext_len"]), (&1024.into(), &100_000.into()));
    assert_eq!(report["context"]["path"], folder.url("a"));

    let verified = folder.run_at(&["inspect", "--json", "--key", "key", "url:a"], b"").done();
    assert_eq!(serde_json::from_slice::<Value>(&verified).unwrap()["authenticated"], true);
    fs::copy(folder.path("a"), folder.path("b")).unwrap();
    let said = folder.run_at(&["inspect", "--json", "--key", "key", "url:b"], b"");
    assert!(said.stderr.contains("a different value for \"path\""), "{}", said.stderr);
}

#[test]
fn ls_shows_the_sizes_of_the_plaintext() {
    let folder = Folder::with_key();
    fs::create_dir(folder.path("store")).unwrap();
    for (name, len) in [("a", 0), ("b", 100_000), ("x/c", 1)] {
        fs::create_dir_all(folder.path("store/x")).unwrap();
        folder.run_at(&["seal", "--key", "key", "-o", &format!("url:store/{name}")], &data(len)).done();
    }
    folder.write("store/b.keys", b"detached keys");
    folder.write("store/z\u{202e}", b"not a message");
    let listed = |args: &[&str]| -> Vec<String> {
        let out = folder.run_at(&[&["ls"], args].concat(), b"").done();
        let mut lines: Vec<_> = String::from_utf8(out).unwrap().lines().map(str::to_owned).collect();
        lines.sort_by_key(|line| line.rsplit('/').next().unwrap().to_owned());
        lines
    };
    let lines = listed(&["url:store"]);
    let sizes: Vec<_> = lines.iter().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(sizes, ["0", "100000", "1", "?"], "{lines:?}");
    let store = folder.location("store");
    for (line, name) in lines.iter().zip(["a", "b", "x/c", "z\\u{202e}"]) {
        assert!(line.ends_with(&format!("Z {store}/{name}")), "{line}");
    }
    assert_eq!(listed(&["url:store/x"]), [lines[2].clone()]);
    assert_eq!(listed(&["url:store/b"]), [lines[1].clone()]);
    assert_eq!(listed(&["--detached-keys", "", "url:store"]).len(), 5);

    let objects: Vec<Value> =
        listed(&["--json", "url:store"]).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let object = objects.iter().find(|object| object["path"] == format!("{store}/b")).unwrap();
    assert_eq!((&object["sealed_len"], &object["plaintext_len"]), (&101_096.into(), &100_000.into()));
    assert!(objects.iter().any(|object| object["plaintext_len"].is_null()));

    folder
        .run_at(&["seal", "--key", "key", "--header-len", "600", "--frame-len", "100", "-o", "url:other/a"], &data(999))
        .done();
    let lines = listed(&["--header-len", "600", "--frame-len", "100", "url:other"]);
    assert!(lines[0].trim_start().starts_with("999 "), "{lines:?}");
    // With headers, the lengths need not be known.
    folder.run_at(&["seal", "--key", "key", "--sign", "-o", "other/signed"], b"data").done();
    folder.run_at(&["rewrap", "--key", "key", "--to", "key", "-o", "other/a.keys", "url:other/a"], b"").done();
    let long = folder.run_at(&["ls", "-l", "url:other"], b"").done();
    let long = String::from_utf8(long).unwrap();
    for words in [
        "            999 ",
        "suite 0478, header of 600 bytes, frames of 100 bytes\n",
        "              ? ",
        "suite 0578, header of ",
    ] {
        assert!(long.contains(words), "{words}: {long}");
    }
    let key: Value = serde_json::from_slice(&folder.read("key")).unwrap();
    // In the header and detached, and in the signed message.
    assert_eq!(long.matches(key["name"].as_str().unwrap()).count(), 3, "{long}");
    let objects = listed(&["-l", "--json", "url:other", "--detached-keys", ""]);
    let kind = |name: &str| -> Value {
        let object = objects.iter().find(|line| line.contains(&format!("/{name}\""))).unwrap();
        serde_json::from_str::<Value>(object).unwrap()["kind"].clone()
    };
    assert_eq!([kind("a"), kind("signed"), kind("a.keys")], ["message", "message", "other"]);
    let objects = listed(&["-l", "--json", "url:other"]);
    let object = objects.iter().find(|line| line.contains("/a\"")).unwrap();
    let object: Value = serde_json::from_str(object).unwrap();
    assert_eq!(
        (&object["header_len"], &object["frame_len"], &object["plaintext_len"]),
        (&600.into(), &100.into(), &999.into())
    );
    assert_eq!(object["encrypted_data_keys"][0]["key_name"], key["name"]);
    assert_eq!(object["detached_keys"][0]["key_name"], key["name"]);
    let said = folder.run_at(&["ls", "url:nowhere"], b"").failed();
    assert!(said.contains("there are no objects"), "{said}");
    assert!(folder.run(&["ls", "store"]).usage().contains("file:///PATH"));
}

#[test]
fn a_key_is_not_overwritten_by_an_object() {
    let folder = Folder::with_key();
    let key = folder.read("key");
    let sealed = folder.run_with_input(&["seal", "--key", "key"], b"data").done();
    for (command, input) in [("seal", &b"data"[..]), ("open", &sealed)] {
        let said = folder.run_at(&[command, "--key", "key", "-o", "url:key"], input).failed();
        assert!(said.contains("must not be overwritten"), "{said}");
    }
    assert_eq!(folder.read("key"), key);
}

#[test]
fn invalid_urls_and_options_are_refused_and_credentials_in_them_are_not_printed() {
    let folder = Folder::with_key();
    for (args, words) in [
        (&["open", "ftp://server/a"][..], "expected s3://BUCKET/PATH"),
        (&["open", "http://server/a"], "expected s3://BUCKET/PATH"),
        (&["open", "s3://user:SECRET@bucket/a"], "a URL cannot have credentials"),
        (&["open", "--keys", "https://a.blob.core.windows.net/c/a?sig=SECRET", "a"], "a URL cannot have a query"),
        (&["ls", "s3://bucket/a#SECRET"], "a URL cannot have a query or a fragment"),
        (&["seal", "--binding", "prefix:x", "-o", "s3://bucket/a"], "expected path, prefix:N"),
        (&["seal", "--sign", "-o", "s3://bucket/a"], "suite 0578 signs the whole message"),
        (&["seal", "--suite", "0578", "-o", "s3://bucket/a"], "seal it to a file, and upload it"),
        (&["seal", "--binding", "none", "-o", "a"], "apply only to objects"),
        (&["open", "--base", "x", "a"], "apply only to objects"),
        (&["inspect", "--base", "x", "s3://bucket/a"], "require --key"),
    ] {
        let args: &[&str] =
            &if matches!(args[0], "seal" | "open") { [args, &["--key", "key"]].concat() } else { args.to_vec() };
        let said = folder.run(args).usage();
        assert!(said.contains(words) && !said.contains("SECRET"), "{args:?}: {said}");
    }
    let said = folder.run_at(&["seal", "--key", "key", "-c", "path=x", "-o", "url:a"], b"").failed();
    assert!(said.contains("the context has the pair `path`"), "{said}");
    let said = folder.run(&["seal", "--key", "key", "-o", &format!("{}/", folder.url("folder"))]).failed();
    assert!(said.contains("this is a bucket or a folder, not an object"), "{said}");
    assert!(folder.names().is_empty());
}

/// Runs the command with a server of S3 that returns the status and the body that `answer` chooses for the first line of a
/// request.
fn answered(
    folder: &Folder,
    args: &[&str],
    answer: impl Fn(&str) -> (&'static str, &'static str) + Send + 'static,
) -> Ended {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut lines = BufReader::new(connection.try_clone().unwrap()).lines();
            let Some(Ok(request)) = lines.next() else { continue };
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let (status, body) = answer(&request);
            let len = body.len();
            let _ = write!(connection, "HTTP/1.1 {status}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}");
        }
    });
    let mut command = folder.command(args);
    command.envs([
        ("AWS_ENDPOINT_URL", &*endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "PRIVATE"),
    ]);
    // Must not be taken for a session token.
    command.env("TOKEN", "PRIVATE");
    end(&mut command, b"data")
}

#[test]
fn the_answers_of_a_store_are_reported_with_advice() {
    let folder = Folder::with_key();
    for (status, body, words) in [
        ("404 Not Found", "<Error><Code>NoSuchKey</Code></Error>", "s3://bucket/a: the object does not exist"),
        (
            "404 Not Found",
            "<Error><Code>NoSuchBucket</Code></Error>",
            "s3://bucket/a: the bucket does not exist\n  hint: check the name",
        ),
        (
            "403 Forbidden",
            "<Error><Code>AccessDenied</Code><Message>no\u{1b}</Message><HostId>PRIVATE</HostId></Error>",
            "s3://bucket/a: the store denies access: AccessDenied: no\\u{1b}\n  hint: check the permissions",
        ),
        (
            "403 Forbidden",
            "<Error><Code>SignatureDoesNotMatch</Code><Message>no</Message><StringToSign>PRIVATE</StringToSign></Error>",
            "the store rejects the credentials: SignatureDoesNotMatch: no\n  hint: S3 needs AWS_ACCESS_KEY_ID",
        ),
        (
            "400 Bad Request",
            "<Error><Code>ExpiredToken</Code><Message>old</Message></Error>",
            "ExpiredToken: old\n  hint: S3 needs",
        ),
        ("301 Moved Permanently", "", "an incorrectly configured region\n  hint: set AWS_REGION"),
    ] {
        for args in [
            &["open", "--key", "key", "s3://bucket/a"][..],
            &["seal", "--key", "key", "-o", "s3://bucket/a"],
            &["inspect", "s3://bucket/a"],
        ] {
            let said = answered(&folder, args, move |_| (status, body)).failed();
            assert!(said.contains(words) && !said.contains("PRIVATE"), "{args:?} {status} {body}: {said}");
        }
    }
}

#[test]
fn ls_reports_objects_that_it_cannot_read_and_lists_the_others() {
    const LIST: &str = "<ListBucketResult>\
        <Contents><Key>denied</Key><LastModified>2026-11-29T01:02:03.000Z</LastModified><Size>9</Size></Contents>\
        <Contents><Key>deleted</Key><LastModified>2026-11-29T01:02:03.000Z</LastModified><Size>9</Size></Contents>\
        <Contents><Key>empty</Key><LastModified>2026-11-29T01:02:03.000Z</LastModified><Size>0</Size></Contents>\
        </ListBucketResult>";
    let folder = Folder::new();
    let answer = |request: &str| match request {
        request if request.contains("list-type=2") => ("200 OK", LIST),
        request if request.contains("/denied") => ("403 Forbidden", "<Error><Code>AccessDenied</Code></Error>"),
        _ => ("404 Not Found", "<Error><Code>NoSuchKey</Code></Error>"),
    };
    let ended = answered(&folder, &["ls", "-l", "s3://bucket"], answer);
    let mut lines: Vec<_> = str::from_utf8(&ended.stdout).unwrap().lines().map(str::trim).collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "? 2026-11-29T01:02:03Z denied",
            "? 2026-11-29T01:02:03Z empty",
            "cannot be read: the store denies access: AccessDenied",
            "not a message: the message is truncated: unexpected end in the header",
        ]
    );
    assert!(ended.failed().contains("s3://bucket: objects that could not be read: 1\n"));
}

#[test]
fn missing_credentials_are_reported_before_any_request() {
    let folder = Folder::with_key();
    // The folder's commands do not use the metadata service of EC2.
    for args in [&["ls", "s3://bucket"][..], &["open", "--key", "key", "s3://bucket/a"]] {
        let said = folder.run(args).failed();
        assert!(said.contains("no credentials for the store\n  hint: S3 needs AWS_ACCESS_KEY_ID"), "{said}");
    }
    let said = end(folder.command(&["ls", "s3://bucket"]).env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), b"").failed();
    assert!(said.contains("s3://bucket: Missing SecretAccessKey\n  hint: S3 needs AWS_ACCESS_KEY_ID"), "{said}");
    let said = folder.run(&["ls", "az://container/a"]).failed();
    assert!(said.contains("AZURE_STORAGE_ACCOUNT_NAME"), "{said}");
}

/// Sends a request to S3 that is not signed, which moto accepts, and returns the answer.
fn unsigned(moto: &Moto, request: &str) -> String {
    let mut connection = TcpStream::connect(moto.endpoint().strip_prefix("http://").unwrap()).unwrap();
    write!(connection, "{request} HTTP/1.1\r\nHost: s3\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
#[ignore = "needs Python with moto: see CONTRIBUTING.md"]
fn objects_in_s3_are_sealed_opened_inspected_rewrapped_and_listed() {
    let moto = Moto::start();
    let (old, new) = block_on(async { (moto.create_key().await, moto.create_key().await) });
    let created = unsigned(&moto, "PUT /letters");
    assert!(created.starts_with("HTTP/1.1 200"), "{created}");
    let folder = Folder::new();
    let command = |args: &[&str]| -> Command {
        let mut command = folder.command(args);
        command.envs(aws_environment(moto.endpoint())).env("AWS_ALLOW_HTTP", "true");
        command
    };
    let run = |args: &[&str], input: &[u8]| end(&mut command(args), input);
    let s3 = AmazonS3Builder::new()
        .with_endpoint(moto.endpoint())
        .with_allow_http(true)
        .with_bucket_name("letters")
        .with_access_key_id("test")
        .with_secret_access_key("test");
    let envelope = Envelope::builder(kms_envelope::AwsKms::new(moto.client(), &*old).unwrap());
    let settings = StoreSettings::new(envelope).base("s3://letters");
    let store = EncryptedStore::new(s3.build().unwrap(), settings).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();

    for len in [0, 1, 100_000, 30_000_000] {
        let (plaintext, location) = (data(len), Path::from(format!("a/{len}")));
        let (sealed, plain) = (format!("s3://letters/{location}"), format!("s3://letters/plain/{len}"));
        run(&["seal", "--key", &old, "-o", &sealed], &plaintext).done();
        let read = runtime.block_on(async { store.get(&location).await?.bytes().await }).unwrap();
        assert!(read == plaintext, "{len}");
        runtime.block_on(store.put(&location, plaintext.clone().into())).unwrap();
        assert!(run(&["open", "--key", &old, &sealed], b"").done() == plaintext, "{len}");
        // From object to object, in both directions.
        run(&["open", "--key", &old, "-o", &plain, &sealed], b"").done();
        run(&["seal", "--key", &old, "-o", &sealed, &plain], b"").done();
        let read = runtime.block_on(async { store.get(&location).await?.bytes().await }).unwrap();
        assert!(read == plaintext, "{len}");

        run(&["rewrap", "--key", &old, "--to", &new, "-o", &format!("{sealed}.keys"), &sealed], b"").done();
        assert!(run(&["open", "--key", &new, &sealed], b"").done() == plaintext, "{len}");
        let report: Value = serde_json::from_slice(&run(&["inspect", "--json", &sealed], b"").done()).unwrap();
        assert_eq!(report["plaintext_len"], len);
    }
    let listed = String::from_utf8(run(&["ls", "s3://letters/a"], b"").done()).unwrap();
    let lines: Vec<_> = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    let expected = [("0", "a/0"), ("1", "a/1"), ("100000", "a/100000"), ("30000000", "a/30000000")];
    assert_eq!(lines.iter().map(|line| (line[0], line[2])).collect::<Vec<_>>(), expected);

    // A signed message, of which the end is needed to inspect it.
    let signed = run(&["seal", "--key", &old, "--sign"], &data(200_000)).done();
    runtime.block_on(store.inner().put(&"signed".into(), signed.into())).unwrap();
    assert!(run(&["open", "--key", &old, "--binding", "none", "s3://letters/signed"], b"").done() == data(200_000));
    let report: Value =
        serde_json::from_slice(&run(&["inspect", "--json", "s3://letters/signed"], b"").done()).unwrap();
    assert_eq!(report["plaintext_len"], 200_000);

    let said = run(&["seal", "--key", &old, "-o", "s3://no-such-bucket/a"], b"data").failed();
    assert!(said.contains("s3://no-such-bucket/a: the bucket does not exist"), "{said}");
    let said = run(&["open", "--key", &old, "s3://letters/nothing"], b"").failed();
    assert!(said.contains("s3://letters/nothing: the object does not exist"), "{said}");

    // What was uploaded is deleted after a failure and on a signal.
    let broken = run(&["seal", "--key", &old], &data(30_000_000)).done();
    run(&["open", "--key", &old, "-o", "s3://letters/broken"], &broken[..broken.len() - 1]).failed();
    #[cfg(unix)]
    {
        let (mut process, _pipe) = crate::signals::start(
            &mut command(&["seal", "--key", &old, "-o", "s3://letters/broken"]),
            &data(60_000_000),
        );
        let uploads = unsigned(&moto, "GET /letters?uploads");
        assert!(uploads.contains("<Upload>"), "{uploads}");
        crate::signals::send("TERM", &process);
        process.wait().unwrap();
    }
    let uploads = unsigned(&moto, "GET /letters?uploads");
    assert!(uploads.contains("ListMultipartUploadsResult") && !uploads.contains("<Upload>"), "{uploads}");
    let said = run(&["ls", "s3://letters/broken"], b"").failed();
    assert!(said.contains("there are no objects"), "{said}");
}
