//! Many objects move to another key while they change, the process is killed, and the services reject requests.
//!
//! `KMS_ENVELOPE_OBJECTS` sets the number of objects. `.ci/rekey` measures with many.

use std::{
    collections::{BTreeMap, HashMap},
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use kms_envelope::{AwsKms, Envelope};
use kms_envelope_object_store::{StoreSettings, v0_14::EncryptedStore};
use object_store::{
    ObjectStore, ObjectStoreExt,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path,
};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{Folder, end};
use test_support::peers::{Moto, REGION, aws_environment};

fn number_of_objects(default: usize) -> usize {
    env::var("KMS_ENVELOPE_OBJECTS").map_or(default, |number| number.parse().unwrap())
}

/// Passes requests on to moto, counts them, and lets some of them fail. Each connection has one request.
struct Proxy {
    endpoint: String,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    /// How many of 100 requests fail.
    failing: usize,
    requests: AtomicUsize,
    failed: AtomicUsize,
    /// The requests by operation.
    operations: Mutex<BTreeMap<String, usize>>,
    /// How often an object was stored, by its path.
    stored: Mutex<HashMap<String, usize>>,
}

impl Proxy {
    fn start(moto: &Moto, failing: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let moto = moto.endpoint().strip_prefix("http://").unwrap().to_owned();
        let seen = Arc::new(Seen { failing, ..Seen::default() });
        let state = seen.clone();
        thread::spawn(move || {
            for connection in listener.incoming() {
                let (moto, state) = (moto.clone(), state.clone());
                // The client may be killed at any time.
                thread::spawn(move || drop(state.pass_on(connection.unwrap(), &moto)));
            }
        });
        Self { endpoint, seen }
    }

    /// Returns the requests since the last call, by operation.
    fn operations(&self) -> BTreeMap<String, usize> {
        std::mem::take(&mut *self.seen.operations.lock().unwrap())
    }

    /// Returns how often an object was stored.
    fn stored(&self, path: &str) -> usize {
        self.seen.stored.lock().unwrap().get(path).copied().unwrap_or(0)
    }

    /// Returns how many objects were stored.
    fn all_stored(&self) -> usize {
        self.seen.stored.lock().unwrap().len()
    }
}

/// The fate of a request.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Answered,
    Throttled,
    /// The connection is closed before moto has the request.
    Lost,
    /// The connection is closed before the client has the answer.
    AnswerLost,
}

impl Seen {
    fn pass_on(&self, client: TcpStream, moto: &str) -> io::Result<()> {
        let mut reader = BufReader::new(&client);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let len = field(&head, "content-length").map_or(0, |len| len.parse().unwrap());
        let mut body = vec![0; len];
        reader.read_exact(&mut body)?;

        let operation = operation(&head);
        *self.operations.lock().unwrap().entry(operation.clone()).or_default() += 1;
        let fate = self.fate();
        let answer = match fate {
            Fate::Lost => return Ok(()),
            Fate::Throttled if operation.contains(' ') => {
                refusal("503 Slow Down", "<Error><Code>SlowDown</Code></Error>")
            }
            Fate::Throttled => {
                refusal("400 Bad Request", r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#)
            }
            Fate::Answered | Fate::AnswerLost => send(moto, &head, &body)?,
        };
        if operation.starts_with("PUT") && answer.starts_with(b"HTTP/1.1 200") {
            let path = head.split(' ').nth(1).unwrap().strip_prefix("/bucket/").unwrap();
            *self.stored.lock().unwrap().entry(path.to_owned()).or_default() += 1;
        }
        if fate != Fate::AnswerLost {
            (&client).write_all(&answer)?;
        }
        client.shutdown(Shutdown::Both)
    }

    fn fate(&self) -> Fate {
        // Multiplied by a large number, the failures are spread over the requests.
        let number = self.requests.fetch_add(1, Relaxed) as u32;
        if (number.wrapping_mul(2_654_435_761) >> 16) as usize % 100 >= self.failing {
            return Fate::Answered;
        }
        match self.failed.fetch_add(1, Relaxed) % 4 {
            0 => Fate::Lost,
            1 => Fate::AnswerLost,
            _ => Fate::Throttled,
        }
    }
}

/// Sends a request, and returns the answer.
fn send(moto: &str, head: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut connection = TcpStream::connect(moto)?;
    let (first, fields) = head.split_once("\r\n").unwrap();
    connection.write_all(&[format!("{first}\r\nConnection: close\r\n{fields}").as_bytes(), body].concat())?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    Ok(answer)
}

fn refusal(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).into()
}

/// Returns the value of a field in the head of a request.
fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// Returns what a request does: `Decrypt` for KMS; the method and what it is about, such as `GET keys`, for S3.
fn operation(head: &str) -> String {
    if let Some(target) = field(head, "x-amz-target") {
        return target.rsplit('.').next().unwrap().to_owned();
    }
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let what = match path {
        path if path.contains("list-type=2") => "list",
        path if path.ends_with(".keys") => "keys",
        _ => "object",
    };
    format!("{method} {what}")
}

/// The key of an object.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Old,
    New,
    Other,
    NoMessage,
}

/// A bucket, and what is in it.
struct Scene {
    runtime: Runtime,
    moto: Moto,
    folder: Folder,
    old: String,
    new: String,
    other: String,
    /// The kinds of the objects in `data`, and their plaintext.
    objects: BTreeMap<String, (Kind, String)>,
}

impl Scene {
    fn new() -> Self {
        let (runtime, moto) = (Runtime::new().unwrap(), Moto::start());
        let [old, new, other] = [(); 3].map(|()| runtime.block_on(moto.create_key()));
        let address = moto.endpoint().strip_prefix("http://").unwrap();
        send(address, "PUT /bucket HTTP/1.1\r\nHost: s3\r\nContent-Length: 0\r\n\r\n", b"").unwrap();
        Self { runtime, moto, folder: Folder::new(), old, new, other, objects: BTreeMap::new() }
    }

    /// Returns the bucket, without the proxy.
    fn s3(&self) -> AmazonS3 {
        let s3 = AmazonS3Builder::new().with_endpoint(self.moto.endpoint()).with_allow_http(true);
        s3.with_bucket_name("bucket").with_access_key_id("test").with_secret_access_key("test").build().unwrap()
    }

    fn store(&self, key: &str) -> EncryptedStore<AmazonS3> {
        let envelope = Envelope::builder(AwsKms::new(self.moto.client(), key).unwrap());
        let settings = StoreSettings::new(envelope).base("s3://bucket").detached_keys(".keys");
        EncryptedStore::new(self.s3(), settings).unwrap()
    }

    /// Writes objects.
    fn write(&mut self, objects: Vec<(String, Kind)>) {
        let stores = [&self.old, &self.new, &self.other].map(|key| self.store(key));
        let number = self.objects.len();
        let put = |(index, (path, kind)): (usize, &(String, Kind))| {
            let (location, text) = (Path::from(path.as_str()), format!("{kind:?} {path} {}", number + index));
            let (stores, kind) = (&stores, *kind);
            async move {
                match kind {
                    Kind::Old => stores[0].put(&location, text.clone().into()).await,
                    Kind::New => stores[1].put(&location, text.clone().into()).await,
                    Kind::Other => stores[2].put(&location, text.clone().into()).await,
                    Kind::NoMessage => stores[0].inner().put(&location, text.clone().into()).await,
                }
                .unwrap();
                text
            }
        };
        let texts = stream::iter(objects.iter().enumerate().map(put)).buffered(16).collect::<Vec<_>>();
        let texts = self.runtime.block_on(texts);
        for ((path, kind), text) in objects.into_iter().zip(texts) {
            self.objects.insert(path, (kind, text));
        }
    }

    fn delete(&mut self, path: &str) {
        self.runtime.block_on(self.store(&self.old).delete(&path.into())).unwrap();
        self.objects.remove(path).unwrap();
    }

    /// Returns the content of the bucket.
    fn bucket(&self) -> BTreeMap<String, (Option<String>, Bytes)> {
        let s3 = &self.s3();
        let read = |meta: object_store::ObjectMeta| async move {
            let bytes = s3.get(&meta.location).await?.bytes().await?;
            Ok((meta.location.to_string(), (meta.e_tag, bytes)))
        };
        self.runtime.block_on(s3.list(None).map_ok(read).try_buffer_unordered(16).try_collect()).unwrap()
    }

    /// Returns the e_tags of everything in the bucket.
    fn e_tags(&self) -> BTreeMap<String, Option<String>> {
        let listed = self.s3().list(None).map_ok(|meta| (meta.location.to_string(), meta.e_tag));
        self.runtime.block_on(listed.try_collect()).unwrap()
    }

    fn command(&self, proxy: &Proxy, args: &[&str]) -> Command {
        let mut command = self.folder.command(args);
        command.envs(aws_environment(&proxy.endpoint)).env("AWS_ALLOW_HTTP", "true");
        command
    }

    fn rewrap(&self, proxy: &Proxy, args: &[&str]) -> Command {
        let rewrap = ["rewrap", "s3://bucket/data/", "--from", &self.old, "--to", &self.new, "--kms-rate", "10000"];
        self.command(proxy, &[&rewrap, args].concat())
    }

    fn disable_old_key(&self) {
        let (path, _) = self.objects.iter().find(|(_, (kind, _))| *kind == Kind::Old).unwrap();
        let open = || self.runtime.block_on(self.store(&self.old).get(&path.as_str().into()));
        open().unwrap();
        // moto does not know keys to disable by their ARN.
        let (_, key) = self.old.rsplit_once('/').unwrap();
        self.runtime.block_on(self.moto.client().disable_key().key_id(key).send()).unwrap();
        let error = open().unwrap_err();
        assert!(format!("{error:?}").contains("is disabled"), "{error:?}");
    }

    fn count(&self, kinds: &[Kind]) -> usize {
        self.objects.values().filter(|(kind, _)| kinds.contains(kind)).count()
    }

    /// Checks that all messages of the old and of the new key open with the new one.
    fn check_that_all_open_with_the_new_key(&self) {
        let store = &self.store(&self.new);
        let messages = self.objects.iter().filter(|(_, (kind, _))| matches!(kind, Kind::Old | Kind::New));
        let opened = stream::iter(messages).map(|(path, (_, text))| async move {
            let read = store.get(&path.as_str().into()).await;
            assert_eq!(read.unwrap_or_else(|error| panic!("{path}: {error}")).bytes().await.unwrap(), text);
        });
        self.runtime.block_on(opened.buffer_unordered(16).collect::<()>());
    }
}

/// Returns the numbers of a report, by what follows them.
fn numbers(report: &[u8]) -> BTreeMap<String, usize> {
    let lines = str::from_utf8(report).unwrap().lines();
    lines
        .filter_map(|line| line.trim().split_once(' '))
        .filter_map(|(number, what)| Some((what.to_owned(), number.parse().ok()?)))
        .collect()
}

/// Returns the last record of each object in a log.
fn records(log: &[u8]) -> BTreeMap<String, Value> {
    let lines = str::from_utf8(log).unwrap().lines().skip(1);
    let records = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    records.map(|record| (record["path"].as_str().unwrap().to_owned(), record)).collect()
}

fn path(index: usize) -> String {
    format!("data/{}/{index:06}", index % 7)
}

#[test]
#[ignore = "needs Python with moto: see CONTRIBUTING.md"]
fn objects_move_to_another_key_while_they_change_and_the_command_is_killed() {
    let number = number_of_objects(300);
    let mut scene = Scene::new();
    let kind = |index| match index % 20 {
        7 => Kind::Other,
        13 => Kind::NoMessage,
        17 => Kind::New,
        _ => Kind::Old,
    };
    scene.write((0..number).map(|index| (path(index), kind(index))).collect());
    let inside = scene.objects.clone();
    scene.write((0..5).map(|index| (format!("elsewhere/{index}"), Kind::Old)).collect());
    scene.objects = inside;
    let before = scene.bucket();
    assert_eq!(before.len(), number + 5);

    // One tenth of the objects is replaced, deleted or added.
    let mut changed: Vec<String> = Vec::new();
    let changes = number / 10;
    let change = |scene: &mut Scene, changed: &mut Vec<String>| {
        let index = changed.len();
        let path = match index % 3 {
            2 => format!("{}-added", path(index * 10)),
            _ => path(index * 10),
        };
        if index % 3 == 1 {
            scene.delete(&path);
        } else {
            let kind = [Kind::Old, Kind::New, Kind::NoMessage][index / 3 % 3];
            scene.write(vec![(path.clone(), kind)]);
        }
        changed.push(path);
    };

    let proxy = Proxy::start(&scene.moto, 0);
    for kill_at in [Some(number / 4), Some(number / 2), None] {
        let report = fs::File::create(scene.folder.path("report")).unwrap();
        let mut process = scene.rewrap(&proxy, &["--log", "log"]).stdout(report).spawn().unwrap();
        loop {
            if let Some(status) = process.try_wait().unwrap() {
                assert!(kill_at.is_none() && status.success(), "{kill_at:?}: {status}");
                break;
            }
            if kill_at.is_some_and(|kill_at| proxy.all_stored() >= kill_at) {
                process.kill().unwrap();
                process.wait().unwrap();
                break;
            }
            // A little faster than the command, so that all changes are made while it runs.
            if changed.len() < changes && changed.len() * number < proxy.all_stored() * changes * 4 / 3 {
                change(&mut scene, &mut changed);
            } else {
                thread::sleep(Duration::from_millis(2));
            }
        }
    }
    eprintln!("{number} objects, {} changes while the command ran", changed.len());
    assert!(changed.len() > changes * 9 / 10);
    let (log, e_tags) = (records(&scene.folder.read("log")), scene.e_tags());
    for (path, (kind, _)) in &scene.objects {
        let record = log.get(path).filter(|record| record["e_tag"].as_str() == e_tags[path].as_deref());
        let Some(record) = record else {
            assert!(changed.contains(path), "{path} is not in the log");
            continue;
        };
        let expected: &[&str] = match kind {
            // It may have been killed before it wrote the line.
            Kind::Old => &["rewrapped", "opened-before"],
            Kind::New => &["opened-before"],
            Kind::Other => &["other-key"],
            Kind::NoMessage => &["not-a-message"],
        };
        assert!(expected.contains(&record["result"].as_str().unwrap()), "{kind:?} {record}");
    }

    // Now nothing changes any more.
    while changed.len() < changes {
        change(&mut scene, &mut changed);
    }
    let report = numbers(&end(&mut scene.rewrap(&proxy, &["--log", "log"]), b"").done());
    let with_new = report.iter().find(|(what, _)| what.starts_with("open with the new key")).unwrap();
    assert_eq!(*with_new.1, scene.count(&[Kind::Old, Kind::New]), "{report:?}");
    assert_eq!(report["have other keys only"], scene.count(&[Kind::Other]));
    let after = scene.bucket();
    // Those that were stored just after their object was deleted.
    let alone = after.keys().filter(|path| path.strip_suffix(".keys").is_some_and(|path| !after.contains_key(path)));
    assert_eq!(report["are not messages"], scene.count(&[Kind::NoMessage]) + alone.count());
    assert_eq!(report["were deleted meanwhile"], 0);
    assert_eq!(report["failed, and may still need the old key"], 0);
    let listed = after.keys().filter(|path| path.starts_with("data/") && !path.ends_with(".keys"));
    assert!(listed.eq(scene.objects.keys()));
    let mut unchanged = 0;
    for (path, object) in before {
        let keys = format!("{path}.keys");
        if !changed.contains(&path) {
            assert!(after[&path] == object, "{path}");
            let is_old = scene.objects.get(&path).is_some_and(|(kind, _)| *kind == Kind::Old);
            assert_eq!((proxy.stored(&path), proxy.stored(&keys)), (0, usize::from(is_old)), "{path}");
            assert_eq!(after.contains_key(&keys), is_old, "{path}");
            unchanged += usize::from(is_old);
        }
    }
    assert!(unchanged > number / 2);
    scene.disable_old_key();
    scene.check_that_all_open_with_the_new_key();

    // What the log knows costs no requests.
    let e_tags = scene.e_tags();
    let log = scene.folder.read("log");
    proxy.operations();
    let again = end(&mut scene.rewrap(&proxy, &["--log", "log"]), b"").done();
    assert_eq!(proxy.operations().into_keys().collect::<Vec<_>>(), ["GET list"]);
    assert!(scene.folder.read("log") == log);
    let total = |numbers: BTreeMap<String, usize>| numbers.into_values().collect::<Vec<_>>();
    assert_eq!(total(numbers(&again)), total(report));
    // Without the log, everything is read, and nothing is written.
    end(&mut scene.rewrap(&proxy, &[]), b"").done();
    let operations = proxy.operations();
    assert_eq!(operations["Decrypt"], scene.count(&[Kind::Old, Kind::New]));
    assert!(!operations.contains_key("Encrypt") && !operations.keys().any(|name| name.starts_with("PUT")));
    assert!(scene.e_tags() == e_tags);
}

#[test]
#[ignore = "needs Python with moto: see CONTRIBUTING.md"]
fn throttling_and_lost_connections_lose_no_object() {
    let number = number_of_objects(200);
    let mut scene = Scene::new();
    scene.write((0..number).map(|index| (path(index), Kind::Old)).collect());
    let before = scene.bucket();
    let proxy = Proxy::start(&scene.moto, 20);

    let inventory = end(&mut scene.command(&proxy, &["inventory", "--format", "csv", "s3://bucket/data"]), b"").done();
    let rows: Vec<_> = str::from_utf8(&inventory).unwrap().lines().skip(1).collect();
    assert!(rows.len() == number && rows.iter().all(|row| row.contains(",message,") && row.contains(&scene.old)));

    let report = numbers(&end(&mut scene.rewrap(&proxy, &["--log", "log"]), b"").done());
    assert_eq!(report.values().sum::<usize>(), number, "{report:?}");
    assert!(report.iter().any(|(what, count)| what.starts_with("open with the new key") && *count == number));
    assert!(proxy.seen.failed.load(Relaxed) > number / 2);

    // The log knows all of them, including those whose detached keys were stored by a request without an answer.
    let reliable = Proxy::start(&scene.moto, 0);
    end(&mut scene.rewrap(&reliable, &["--log", "log"]), b"").done();
    assert_eq!(reliable.operations().into_keys().collect::<Vec<_>>(), ["GET list"]);

    let after = scene.bucket();
    for (path, object) in before {
        assert!(after[&path] == object, "{path}");
        assert_eq!(proxy.stored(&format!("{path}.keys")), 1, "{path}");
    }
    scene.disable_old_key();
    scene.check_that_all_open_with_the_new_key();
}

/// Returns how many of these requests moto alone answers in a second, if 16 clients send them.
fn rate(moto: &str, head: &str, body: &str) -> f64 {
    const CLIENTS: usize = 16;
    const REQUESTS: usize = 30;
    let head = format!("{head}\r\nHost: s3\r\nContent-Length: {}\r\n\r\n", body.len());
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..REQUESTS {
                    send(moto, &head, body.as_bytes()).unwrap();
                }
            });
        }
    });
    (CLIENTS * REQUESTS) as f64 / start.elapsed().as_secs_f64()
}

#[test]
#[ignore = "needs Python with moto: see CONTRIBUTING.md"]
fn the_number_of_requests_for_an_object_is_small() {
    let number = number_of_objects(100);
    let mut scene = Scene::new();
    scene.write((0..number).map(|index| (path(index), Kind::Old)).collect());
    let proxy = Proxy::start(&scene.moto, 0);

    // How fast moto is, with the requests of the command.
    let moto = scene.moto.endpoint().strip_prefix("http://").unwrap();
    let object = format!("/bucket/{}", path(0));
    let kms = |operation: &str| {
        format!(
            "POST / HTTP/1.1\r\nX-Amz-Target: TrentService.{operation}\r\nContent-Type: application/x-amz-json-1.1\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/kms/aws4_request, SignedHeaders=host, \
             Signature=0"
        )
    };
    let encrypt = format!(r#"{{"KeyId": "{}", "Plaintext": "{}"}}"#, scene.old, "A".repeat(44));
    let head = format!("{}\r\nHost: kms\r\nContent-Length: {}\r\n\r\n", kms("Encrypt"), encrypt.len());
    let encrypted = send(moto, &head, encrypt.as_bytes()).unwrap();
    let body = encrypted.iter().position(|byte| *byte == b'{').expect("an answer of KMS");
    let encrypted: Value = serde_json::from_slice(&encrypted[body..]).unwrap();
    let decrypt = format!(r#"{{"CiphertextBlob": {}}}"#, encrypted["CiphertextBlob"]);
    let rates: BTreeMap<_, _> = [
        ("GET object", rate(moto, &format!("GET {object} HTTP/1.1\r\nRange: bytes=0-1023"), "")),
        ("HEAD object", rate(moto, &format!("HEAD {object} HTTP/1.1"), "")),
        ("GET keys", rate(moto, &format!("GET {object}.keys HTTP/1.1"), "")),
        ("PUT keys", rate(moto, "PUT /bucket/rate HTTP/1.1", &"A".repeat(400))),
        ("Encrypt", rate(moto, &kms("Encrypt"), &encrypt)),
        ("Decrypt", rate(moto, &kms("Decrypt"), &decrypt)),
    ]
    .into();
    eprintln!("moto alone, requests in a second: {rates:.0?}");

    let measure = |what: &str, mut command: Command, expected: &[(&str, usize)]| {
        proxy.operations();
        let start = Instant::now();
        end(&mut command, b"").done();
        let seconds = start.elapsed().as_secs_f64() * 1000.0 / number as f64;
        let mut operations = proxy.operations();
        let of_moto = |(name, count): (&String, &usize)| rates.get(&**name).map_or(0.0, |rate| *count as f64 / rate);
        let moto = operations.iter().map(of_moto).sum::<f64>() * 1000.0 / number as f64;
        eprintln!("{what}, {number} objects: {seconds:.2} s for 1000, of which moto {moto:.2}; {operations:?}");
        operations.remove("GET list");
        let expected = expected.iter().map(|(name, count)| ((*name).to_owned(), count * number)).collect();
        assert_eq!(operations, expected, "{what}");
    };
    let url = "s3://bucket/data";
    measure("inventory", scene.command(&proxy, &["inventory", url]), &[("GET object", 1)]);
    measure("rewrap --dry-run", scene.rewrap(&proxy, &["--dry-run"]), &[("GET object", 1)]);
    let rewrapped: &[_] =
        &[("Decrypt", 2), ("Encrypt", 1), ("GET keys", 2), ("GET object", 1), ("HEAD object", 1), ("PUT keys", 1)];
    measure("rewrap", scene.rewrap(&proxy, &["--log", "log"]), rewrapped);
    measure("rewrap with the log", scene.rewrap(&proxy, &["--log", "log"]), &[]);
    let opened: &[_] = &[("Decrypt", 1), ("GET keys", 2), ("GET object", 1)];
    measure("rewrap without the log", scene.rewrap(&proxy, &[]), opened);
    measure("inventory after it", scene.command(&proxy, &["inventory", url]), &[("GET keys", 1), ("GET object", 1)]);
}

/// Runs a command, and returns the largest amount of memory that it had, in KiB, and the seconds that it took.
#[cfg(target_os = "linux")]
fn peak_memory(command: &mut Command) -> (u64, f64) {
    let start = Instant::now();
    // Otherwise, the C library keeps freed memory for many threads.
    let mut process = command.env("MALLOC_ARENA_MAX", "1").stdout(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", process.id());
    let mut peak = 0;
    while process.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(&status).unwrap_or_default();
        // Without the program itself, which is read into memory page by page.
        let found = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
        peak = found.map_or(peak, |found| peak.max(found.parse().unwrap()));
        thread::sleep(Duration::from_millis(2));
    }
    assert!(process.wait().unwrap().success());
    (peak, start.elapsed().as_secs_f64())
}

#[cfg(target_os = "linux")]
#[test]
fn the_memory_of_an_inventory_does_not_depend_on_the_number_of_objects() {
    let number = number_of_objects(10_000);
    let folder = Folder::with_key();
    for (name, number) in [("few", 1_000), ("many", number)] {
        fs::create_dir(folder.path(name)).unwrap();
        for index in 0..number {
            let subfolder = folder.path(&format!("{name}/{}", index / 1_000));
            if index % 1_000 == 0 {
                fs::create_dir(&subfolder).unwrap();
                folder
                    .run_with_input(&["seal", "--key", "key", "-o", subfolder.join("0").to_str().unwrap()], b"data")
                    .done();
            } else {
                fs::hard_link(subfolder.join("0"), subfolder.join((index % 1_000).to_string())).unwrap();
            }
        }
    }
    let run = |args: &[&str], name: &str| {
        let url = url::Url::from_file_path(folder.path(name)).unwrap();
        peak_memory(&mut folder.command(&[&["-q", "inventory", "--concurrency", "4"], args, &[url.as_str()]].concat()))
    };
    let (few, _) = run(&[], "few");
    // Where an object is in the log is kept, in 16 bytes, and the table for that is at most half empty.
    for (args, kept) in
        [(&[][..], 0), (&["--format", "json"], 0), (&["--log", "log"], 40), (&["--log", "log", "--format", "csv"], 40)]
    {
        let (many, seconds) = run(args, "many");
        let rate = number as f64 / seconds;
        eprintln!("{args:?}: {few} KiB for 1000 objects, {many} for {number}; {rate:.0} objects in a second");
        assert!(many < few + (2 << 10) + kept * number as u64 / 1024, "{args:?}: {few} {many}");
    }
    let log = folder.read("log");
    assert_eq!(log.iter().filter(|byte| **byte == b'\n').count(), number + 1);
}
