//! Branch keys in one DynamoDB table, shared with AWS's key store and hierarchical keyring for Python: each operation in
//! both directions. DynamoDB is moto. KMS is moto or a server in this process, which has multi-region keys. Run with
//!
//! ```text
//! python3 -m venv .venv && .venv/bin/pip install -r tests/python/requirements.txt
//! cargo test -p kms-envelope-dynamodb --test interop -- --ignored --nocapture
//! ```
//!
//! To use another Python with the same packages, set `KMS_ENVELOPE_PYTHON`.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use kms_envelope::{
    EncryptionContext, Envelope, ProviderError,
    provider::{
        AwsKmsHierarchical, ProviderErrorKind as Kind,
        branch_key::{BranchKey, BranchKeyItem, BranchKeyStore, BranchKeys, KmsConfiguration},
    },
};
use kms_envelope_dynamodb::DynamoDbBranchKeyStore;
use serde_json::{Value, json};
use test_support::{
    context, header,
    kms::{Endpoint, Fault, arn},
    peers::{Moto, Peer, REGION, digest, object},
};
use tokio::runtime::Runtime;

const TABLE: &str = "branch-keys";
/// Not the name of the table.
const LOGICAL_NAME: &str = "tenants";
/// A branch key.
const ACME: &str = "acme";
const AGE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Python,
    Here,
}

use Side::{Here, Python};

impl Side {
    const ALL: [Self; 2] = [Python, Here];

    fn other(self) -> Self {
        if self == Python { Here } else { Python }
    }
}

/// The table of operations and directions that a test prints.
#[derive(Default)]
struct Passed(Vec<(String, [usize; 2])>);

impl Passed {
    /// Counts a check of something that one side did, by the other side.
    fn by(&mut self, side: Side, operation: &str) {
        let column = usize::from(side == Here);
        match self.0.iter_mut().find(|(row, _)| row == operation) {
            Some((_, counts)) => counts[column] += 1,
            None => {
                let mut counts = [0; 2];
                counts[column] = 1;
                self.0.push((operation.to_owned(), counts));
            }
        }
    }
}

/// Formats as the table. Panics if a cell has no check.
impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<58} by Python, checked here   by this crate, checked in Python", "branch keys")?;
        for (operation, counts) in &self.0 {
            assert!(counts.iter().all(|count| *count > 0), "{operation} {counts:?}");
            let [python, here] = counts.map(|count| format!("pass ({count})"));
            writeln!(f, "{operation:<58} {python:<26} {here}")?;
        }
        Ok(())
    }
}

/// Both sides, each with its own KMS configuration.
struct World {
    peer: Peer,
    /// The key store in Python.
    store: Value,
    keys: BranchKeys,
}

impl World {
    fn new(peer: Peer, moto: &Moto, ours: KmsConfiguration, (region, theirs): (&str, Value)) -> Self {
        let store = json!({
            "table": TABLE, "table_region": REGION, "logical_name": LOGICAL_NAME, "region": region, "kms": theirs,
            "grant_tokens": ["python"],
        });
        let ours = ours.with_grant_tokens(["here"]);
        let keys = BranchKeys::new(DynamoDbBranchKeyStore::new(moto.dynamodb(), TABLE), LOGICAL_NAME, ours).unwrap();
        Self { peer, store, keys }
    }

    fn ask(&mut self, operation: &str, arguments: Value) -> Value {
        self.peer.key_store(&self.store, operation, arguments).unwrap()
    }

    async fn create(&mut self, side: Side, id: Option<&str>, context: &EncryptionContext) -> String {
        match (side, id) {
            (Python, _) => {
                let context = if context.is_empty() { Value::Null } else { object(context) };
                let created = self.ask("create", json!({"branch_key": id, "context": context}));
                created["branch_key"].as_str().unwrap().to_owned()
            }
            (Here, None) => self.keys.create(context).await.unwrap(),
            (Here, Some(id)) => {
                self.keys.create_with_id(id, context).await.unwrap();
                id.to_owned()
            }
        }
    }

    async fn create_version(&mut self, side: Side, id: &str) {
        match side {
            Python => drop(self.ask("create_version", json!({"branch_key": id}))),
            Here => drop(self.keys.create_version(id).await.unwrap()),
        }
    }

    async fn active(&mut self, side: Side, id: &str) -> Value {
        match side {
            Python => self.ask("active", json!({"branch_key": id})),
            Here => described(&self.keys.active(id).await.unwrap()),
        }
    }

    async fn version(&mut self, side: Side, id: &str, version: &Value) -> Value {
        match side {
            Python => self.ask("version", json!({"branch_key": id, "version": version})),
            Here => described(&self.keys.version(id, version.as_str().unwrap()).await.unwrap()),
        }
    }

    async fn beacon(&mut self, side: Side, id: &str) -> Value {
        match side {
            Python => self.ask("beacon", json!({"branch_key": id})),
            Here => {
                let key = self.keys.beacon(id).await.unwrap();
                json!({"id": key.id(), "digest": digest(key.key()), "context": object(key.context())})
            }
        }
    }

    /// Checks that the other side reads the same keys as this one, and returns the active one.
    async fn same_keys(&mut self, passed: &mut Passed, side: Side, id: &str) -> Value {
        let active = self.active(side, id).await;
        assert_eq!(self.active(side.other(), id).await, active);
        passed.by(side, "get the active branch key");
        for reader in Side::ALL {
            assert_eq!(self.version(reader, id, &active["version"]).await, active);
        }
        passed.by(side, "get a version");
        let beacon = self.beacon(side, id).await;
        assert_eq!(self.beacon(side.other(), id).await, beacon);
        assert_ne!(beacon["digest"], active["digest"]);
        passed.by(side, "get the beacon key");
        active
    }

    fn key_file(&self, choice: (&str, &str)) -> String {
        self.peer.key_file("branch-key.json", &json!({"kms": "hierarchical", "store": self.store, choice.0: choice.1}))
    }

    /// Seals under a branch key, without cached branch keys.
    async fn seal(&mut self, side: Side, id: &str, plaintext: &[u8]) -> Vec<u8> {
        match side {
            Python => self.peer.seal(&self.key_file(("branch_key", id)), &context(), 4096, plaintext),
            Here => self.envelope(id).seal(plaintext, &context()).await.unwrap(),
        }
    }

    /// Opens a message under a branch key, without cached branch keys.
    async fn open(&mut self, side: Side, id: &str, sealed: &[u8]) -> Vec<u8> {
        match side {
            Python => self.peer.open(&self.key_file(("branch_key", id)), &context(), sealed).unwrap(),
            Here => self.envelope(id).open(sealed, &context()).await.unwrap().plaintext,
        }
    }

    fn envelope(&self, id: &str) -> Envelope {
        Envelope::new(AwsKmsHierarchical::builder(self.keys.clone(), AGE).build(id).unwrap())
    }
}

fn described(key: &BranchKey) -> Value {
    json!({
        "id": key.id(), "version": key.version_uuid(), "digest": digest(key.key()), "context": object(key.context()),
    })
}

/// Returns the version of the branch key that sealed a message.
fn version_of(sealed: &[u8]) -> String {
    let hex: String =
        header(sealed).encrypted_data_keys()[0].ciphertext[28..44].iter().map(|b| format!("{b:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[tokio::test]
#[ignore = "needs Python with the AWS Encryption SDK and moto: see the top of crates/dynamodb/tests/interop.rs"]
async fn branch_keys_and_their_messages_go_both_ways_between_this_crate_and_python() {
    let moto = Moto::start();
    let kms_arn = moto.create_key().await;
    let mut passed = Passed::default();
    let peer = Peer::start(Some(moto.endpoint()));
    let configuration = KmsConfiguration::key(moto.client(), &kms_arn).unwrap();
    let mut world = World::new(peer, &moto, configuration, (REGION, json!({"key": kms_arn})));

    // Each side creates a table, and the other finds it valid.
    let created = world.ask("create_table", json!({}));
    let ours = DynamoDbBranchKeyStore::new(moto.dynamodb(), TABLE);
    ours.check_table().await.unwrap();
    ours.create_table().await.unwrap();
    passed.by(Python, "create a table");
    DynamoDbBranchKeyStore::new(moto.dynamodb(), "second").create_table().await.unwrap();
    let mut second = world.store.clone();
    second["table"] = "second".into();
    let found = world.peer.key_store(&second, "create_table", json!({})).unwrap();
    let arn = created["table_arn"].as_str().unwrap();
    assert_eq!(found["table_arn"], arn.replace(TABLE, "second"));
    passed.by(Here, "create a table");

    for side in Side::ALL {
        let id = world.create(side, None, &EncryptionContext::new()).await;
        let active = world.same_keys(&mut passed, side, &id).await;
        assert_eq!((&active["id"], &active["context"]), (&json!(id), &json!({})));
        passed.by(side, "create a branch key with a random id");

        let own = EncryptionContext::from([("tenant", "acme"), ("ключ", "значение 🔑")]);
        for versioner in Side::ALL {
            let id = format!("tenant ✓ {side:?} {versioner:?}");
            assert_eq!(world.create(side, Some(&id), &own).await, id);
            let first = world.same_keys(&mut passed, side, &id).await;
            assert_eq!((&first["id"], &first["context"]), (&json!(id), &object(&own)));
            passed.by(side, "create a branch key with an id and a context");

            let mut old = Vec::new();
            for sealer in Side::ALL {
                let sealed = world.seal(sealer, &id, b"old").await;
                assert_eq!(version_of(&sealed), first["version"]);
                assert_eq!(world.open(sealer.other(), &id, &sealed).await, b"old");
                passed.by(sealer, "seal a message");
                old.push((sealer, sealed));
            }

            let beacon = world.beacon(Here, &id).await;
            world.create_version(versioner, &id).await;
            let second = world.same_keys(&mut passed, versioner, &id).await;
            assert_eq!(second["context"], first["context"]);
            assert!(first["version"] != second["version"] && first["digest"] != second["digest"]);
            for reader in Side::ALL {
                assert_eq!(world.version(reader, &id, &first["version"]).await, first);
                assert_eq!(world.beacon(reader, &id).await, beacon);
            }
            let whose = if versioner == side { "its own" } else { "the other side's" };
            passed.by(versioner, &format!("create a version of {whose} branch key"));

            for (sealer, sealed) in old {
                assert_eq!(world.open(sealer.other(), &id, &sealed).await, b"old");
                passed.by(sealer, "seal a message before a new version, open it after");
                let sealed = world.seal(sealer, &id, b"new").await;
                assert_eq!(version_of(&sealed), second["version"]);
                assert_eq!(world.open(sealer.other(), &id, &sealed).await, b"new");
                passed.by(sealer, "seal a message with the new version");
            }
        }
    }

    // The branch key whose id is in the message's encryption context.
    let ids = Side::ALL.map(|side| format!("tenant ✓ {side:?} {side:?}"));
    let provider = AwsKmsHierarchical::builder(world.keys.clone(), AGE);
    let provider = provider.build_by_context(|context| context.get("tenant").map(str::to_owned).ok_or("no tenant"));
    let (envelope, by_context) = (Envelope::new(provider.unwrap()), world.key_file(("by_context", "tenant")));
    for id in ids {
        let context = EncryptionContext::from([("tenant", &id[..]), ("purpose", "test")]);
        let sealed = envelope.seal(b"data", &context).await.unwrap();
        assert_eq!(header(&sealed).encrypted_data_keys()[0].provider_info, id.as_bytes());
        assert_eq!(world.peer.open(&by_context, &context, &sealed).unwrap(), b"data");
        passed.by(Here, "seal a message with the branch key chosen by context");
        let sealed = world.peer.seal(&by_context, &context, 4096, b"data");
        assert_eq!(header(&sealed).encrypted_data_keys()[0].provider_info, id.as_bytes());
        assert_eq!(envelope.open(&sealed, &context).await.unwrap().plaintext, b"data");
        passed.by(Python, "seal a message with the branch key chosen by context");
    }
    print!("{passed}");
}

#[tokio::test]
#[ignore = "needs Python with the AWS Encryption SDK and moto: see the top of crates/dynamodb/tests/interop.rs"]
async fn branch_keys_go_both_ways_with_every_kms_configuration_and_with_grant_tokens() {
    let (near, far) = (REGION, "us-east-1");
    let kms = Endpoint::new([(near, "mrk-1"), (far, "mrk-1"), (near, "single")]);
    let moto = Moto::start();
    DynamoDbBranchKeyStore::new(moto.dynamodb(), TABLE).create_table().await.unwrap();
    let mut passed = Passed::default();
    let client = |region| kms.client(region);
    let key = |region, id| KmsConfiguration::key(client(region), arn(region, id)).unwrap();
    let replica = |region| KmsConfiguration::multi_region_key(client(region), arn(region, "mrk-1")).unwrap();
    let in_region = |region| KmsConfiguration::multi_region_discovery(client(region), region).unwrap();
    let discovery = KmsConfiguration::discovery(client(near));
    // The configurations of the side that creates and of the side that reads, here and in Python, and whether the reader
    // can create a version.
    let rows = [
        (
            "a key",
            (key(near, "single"), (near, json!({"key": arn(near, "single")}))),
            (key(near, "single"), (near, json!({"key": arn(near, "single")}))),
            true,
        ),
        (
            "discovery",
            (key(near, "single"), (near, json!({"key": arn(near, "single")}))),
            (discovery, (near, json!({"discovery": null}))),
            false,
        ),
        (
            "a multi-region key",
            (replica(far), (far, json!({"multi_region_key": arn(far, "mrk-1")}))),
            (replica(near), (near, json!({"multi_region_key": arn(near, "mrk-1")}))),
            true,
        ),
        (
            "multi-region discovery",
            (replica(far), (far, json!({"multi_region_key": arn(far, "mrk-1")}))),
            (in_region(near), (near, json!({"multi_region_discovery": near}))),
            false,
        ),
    ];
    for (name, creating, reading, creates_versions) in rows {
        for creator in Side::ALL {
            let reader = creator.other();
            let [ours, theirs] = if creator == Here { [&creating, &reading] } else { [&reading, &creating] };
            let peer = Peer::start_with_kms(moto.endpoint(), kms.url());
            let mut world = World::new(peer, &moto, ours.0.clone(), theirs.1.clone());
            let before = kms.grant_tokens().len();
            let id = world.create(creator, Some(&format!("{name} {creator:?}")), &context()).await;
            let active = world.same_keys(&mut Passed::default(), creator, &id).await;
            for sealer in Side::ALL {
                let sealed = world.seal(sealer, &id, b"data").await;
                assert_eq!(world.open(sealer.other(), &id, &sealed).await, b"data");
            }
            if creates_versions {
                world.create_version(reader, &id).await;
                assert_ne!(world.same_keys(&mut Passed::default(), reader, &id).await, active);
            } else if reader == Here {
                assert_eq!(world.keys.create_version(&id).await.unwrap_err().kind(), Kind::Unsupported);
            } else {
                let arguments = json!({"branch_key": id});
                world.peer.key_store(&world.store, "create_version", arguments).unwrap_err();
            }
            passed.by(creator, &format!("KMS configuration of the reader: {name}"));

            let tokens: BTreeSet<_> = kms.grant_tokens()[before..].iter().map(Value::to_string).collect();
            assert_eq!(tokens, BTreeSet::from([r#"["here"]"#, r#"["python"]"#].map(str::to_owned)));
            passed.by(creator, "grant tokens in every request");
        }
    }
    print!("{passed}");
}

/// A store that calls a closure before it replaces an item.
struct Interrupted<F> {
    store: DynamoDbBranchKeyStore,
    before_replace: F,
}

#[async_trait]
impl<F: Fn() + Send + Sync> BranchKeyStore for Interrupted<F> {
    async fn get(&self, id: &str, item_type: &str, deadline: Instant) -> Result<Option<BranchKeyItem>, ProviderError> {
        self.store.get(id, item_type, deadline).await
    }

    async fn create(&self, items: &[BranchKeyItem], deadline: Instant) -> Result<(), ProviderError> {
        self.store.create(items, deadline).await
    }

    async fn replace(
        &self,
        version: &BranchKeyItem,
        active: &BranchKeyItem,
        expected_ciphertext: &[u8],
        deadline: Instant,
    ) -> Result<(), ProviderError> {
        (self.before_replace)();
        self.store.replace(version, active, expected_ciphertext, deadline).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Python with the AWS Encryption SDK and moto: see the top of crates/dynamodb/tests/interop.rs"]
async fn when_both_sides_create_a_version_at_once_all_messages_still_open() {
    let moto = Moto::start();
    let store = DynamoDbBranchKeyStore::new(moto.dynamodb(), TABLE);
    store.create_table().await.unwrap();
    // Both have the same key.
    let [our_kms, their_kms] = [(); 2].map(|()| Endpoint::new([(REGION, "key")]));
    let key_arn = arn(REGION, "key");
    let configuration = KmsConfiguration::key(our_kms.client(REGION), &key_arn).unwrap();
    let peer = Peer::start_with_kms(moto.endpoint(), their_kms.url());
    let mut world = World::new(peer, &moto, configuration.clone(), (REGION, json!({"key": key_arn})));
    world.create(Here, Some(ACME), &context()).await;
    let mut messages = vec![world.seal(Here, ACME, b"data").await];

    // Python creates a version between our requests and our write. Ours is not written.
    let World { peer, store: their_store, keys } = world;
    let peer = Arc::new(Mutex::new(peer));
    let before_replace = {
        let (peer, their_store) = (peer.clone(), their_store.clone());
        move || create_version_in_python(&mut peer.lock().unwrap(), &their_store).unwrap()
    };
    let interrupted = Interrupted { store: store.clone(), before_replace };
    let interrupted = BranchKeys::new(interrupted, LOGICAL_NAME, configuration.clone()).unwrap();
    assert_eq!(interrupted.create_version(ACME).await.unwrap_err().kind(), Kind::Conflict);
    drop(interrupted);
    let mut world = World { peer: Arc::into_inner(peer).unwrap().into_inner().unwrap(), store: their_store, keys };
    check_versions(&mut world, &moto, &mut messages, 2).await;

    // We create a version between Python's requests and its write. Python's is active then, because it does not compare
    // the item that it replaces, and ours is still there.
    let ours = Arc::new(OnceLock::new());
    let (created, dynamodb, our_kms) = (ours.clone(), moto.dynamodb(), our_kms.client(REGION));
    their_kms.script(move |request| {
        if request.operation == "GenerateDataKeyWithoutPlaintext" {
            created.get_or_init(|| {
                let configuration = KmsConfiguration::key(our_kms.clone(), arn(REGION, "key")).unwrap();
                let store = DynamoDbBranchKeyStore::new(dynamodb.clone(), TABLE);
                let keys = BranchKeys::new(store, LOGICAL_NAME, configuration).unwrap();
                Runtime::new().unwrap().block_on(async {
                    let version = keys.create_version(ACME).await.unwrap();
                    let provider = AwsKmsHierarchical::builder(keys, AGE).build(ACME).unwrap();
                    let sealed = Envelope::new(provider).seal(b"data", &context()).await.unwrap();
                    assert_eq!(version_of(&sealed), version);
                    sealed
                })
            });
        }
        Fault::None
    });
    world.create_version(Python, ACME).await;
    messages.push(ours.get().unwrap().clone());
    check_versions(&mut world, &moto, &mut messages, 4).await;

    // Without order.
    let mut versions = 4;
    for _ in 0..10 {
        let World { mut peer, store, keys } = world;
        let their_store = store.clone();
        let python = tokio::task::spawn_blocking(move || {
            let created = create_version_in_python(&mut peer, &their_store);
            (peer, created)
        });
        let (created, python) = tokio::join!(keys.create_version(ACME), python);
        let (peer, theirs) = python.unwrap();
        world = World { peer, store, keys };
        if let Err(refused) = &created {
            assert!(matches!(refused.kind(), Kind::Conflict | Kind::Unavailable), "{refused}");
        }
        assert!(created.is_ok() || theirs.is_ok(), "{created:?} {theirs:?}");
        versions += usize::from(created.is_ok()) + usize::from(theirs.is_ok());
        check_versions(&mut world, &moto, &mut messages, versions).await;
    }
    println!("20 attempts to create a version, two at a time: {} versions", versions - 4);
}

fn create_version_in_python(peer: &mut Peer, store: &Value) -> Result<(), String> {
    peer.key_store(store, "create_version", json!({"branch_key": ACME})).map(drop)
}

/// Checks that a branch key has so many versions, that both sides have the same active one, and that all messages open.
async fn check_versions(world: &mut World, moto: &Moto, messages: &mut Vec<Vec<u8>>, versions: usize) {
    let scan = moto.dynamodb().scan().table_name(TABLE).consistent_read(true).send().await.unwrap();
    let is_version = |item: &&HashMap<String, AttributeValue>| {
        item["type"].as_s().unwrap().starts_with(BranchKeyItem::VERSION_PREFIX)
    };
    assert_eq!((scan.items().len(), scan.items().iter().filter(is_version).count()), (versions + 2, versions));
    world.same_keys(&mut Passed::default(), Here, ACME).await;
    for sealer in Side::ALL {
        messages.push(world.seal(sealer, ACME, b"data").await);
    }
    for message in messages {
        for opener in Side::ALL {
            assert_eq!(world.open(opener, ACME, message).await, b"data");
        }
    }
}
