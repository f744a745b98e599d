//! Branch keys in a store, encrypted under keys of a KMS over HTTP.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use aws_sdk_kms::{
    Client,
    operation::{
        generate_data_key_without_plaintext::GenerateDataKeyWithoutPlaintextOutput, re_encrypt::ReEncryptOutput,
    },
    primitives::Blob,
};
use aws_smithy_mocks::{RuleMode, mock, mock_client};
use futures_util::future::join_all;
use kms_envelope::{
    AlgorithmSuite, ConfigError, EncryptionContext, Envelope, ErrorKind, KeyProvider, OpenError, ProviderError,
    SealError,
    message::EncryptedDataKey,
    provider::{
        AwsKmsHierarchical, DecryptDataKeyRequest, EncryptDataKeyRequest, GenerateDataKeyRequest,
        ProviderErrorKind as Kind, SecretKey, StaticBranchKey,
        branch_key::{BranchKeyItem, BranchKeyStore, BranchKeys, KmsConfiguration},
    },
};

use test_support::{
    context,
    kms::{Endpoint, Fault, arn},
};

const REGION: &str = "eu-west-1";
const ID: &str = "1234abcd";
const NAME: &str = "tenants";
const AGE: Duration = Duration::from_secs(300);

type Items = BTreeMap<(String, String), BranchKeyItem>;

/// A store in memory that counts calls.
#[derive(Clone, Default)]
pub(crate) struct Memory {
    items: Arc<Mutex<Items>>,
    gets: Arc<AtomicUsize>,
    /// The error of all calls, if any.
    failure: Arc<Mutex<Option<Kind>>>,
    /// Whether `get` never returns.
    hangs: Arc<AtomicBool>,
    /// The deadline of the last `get`.
    deadline: Arc<Mutex<Option<Instant>>>,
}

impl Memory {
    /// Returns a store with the same items that counts and fails on its own.
    #[cfg(feature = "mock")]
    pub(crate) fn with_own_counts(&self) -> Self {
        Self { items: self.items.clone(), ..Self::default() }
    }

    pub(crate) fn items(&self) -> MutexGuard<'_, Items> {
        self.items.lock().unwrap()
    }

    fn get_item(&self, id: &str, item_type: &str) -> BranchKeyItem {
        self.items()[&(id.to_owned(), item_type.to_owned())].clone()
    }

    /// Replaces an item under the key of the original one.
    fn put_as(&self, id: &str, item_type: &str, item: BranchKeyItem) {
        self.items().insert((id.to_owned(), item_type.to_owned()), item);
    }

    pub(crate) fn gets(&self) -> usize {
        self.gets.load(Ordering::SeqCst)
    }

    fn fail(&self, kind: Option<Kind>) {
        *self.failure.lock().unwrap() = kind;
    }

    fn check(&self, operation: &'static str, id: &str) -> Result<(), ProviderError> {
        self.failure.lock().unwrap().map_or(Ok(()), |kind| Err(ProviderError::new(kind, operation, id)))
    }
}

fn key_of(item: &BranchKeyItem) -> (String, String) {
    (item.branch_key_id.clone(), item.item_type.clone())
}

#[async_trait]
impl BranchKeyStore for Memory {
    async fn get(&self, id: &str, item_type: &str, deadline: Instant) -> Result<Option<BranchKeyItem>, ProviderError> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        *self.deadline.lock().unwrap() = Some(deadline);
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.check("GetItem", id)?;
        Ok(self.items().get(&(id.to_owned(), item_type.to_owned())).cloned())
    }

    async fn create(&self, items: &[BranchKeyItem], _: Instant) -> Result<(), ProviderError> {
        self.check("PutItems", &items[0].branch_key_id)?;
        let mut stored = self.items();
        if items.iter().any(|item| stored.contains_key(&key_of(item))) {
            return Err(ProviderError::new(Kind::Conflict, "PutItems", &items[0].branch_key_id));
        }
        stored.extend(items.iter().map(|item| (key_of(item), item.clone())));
        Ok(())
    }

    async fn replace(
        &self,
        version: &BranchKeyItem,
        active: &BranchKeyItem,
        expected_ciphertext: &[u8],
        _: Instant,
    ) -> Result<(), ProviderError> {
        self.check("PutItems", &active.branch_key_id)?;
        let mut stored = self.items();
        let is_expected = stored.get(&key_of(active)).is_some_and(|item| item.ciphertext == expected_ciphertext);
        if !is_expected || stored.contains_key(&key_of(version)) {
            return Err(ProviderError::new(Kind::Conflict, "PutItems", &active.branch_key_id));
        }
        stored.extend([version, active].map(|item| (key_of(item), item.clone())));
        Ok(())
    }
}

/// A KMS, a store, and the branch keys in it.
struct World {
    kms: Endpoint,
    store: Memory,
    keys: BranchKeys,
}

impl World {
    fn new() -> Self {
        let kms = Endpoint::new([(REGION, ID), (REGION, "other")]);
        let store = Memory::default();
        let keys = branch_keys(&store, KmsConfiguration::key(kms.client(REGION), arn(REGION, ID)).unwrap());
        Self { kms, store, keys }
    }

    /// Returns a world with the branch key `acme`.
    async fn with_acme() -> Self {
        let world = Self::new();
        world.keys.create_with_id("acme", &context()).await.unwrap();
        world
    }

    fn provider(&self) -> AwsKmsHierarchical {
        AwsKmsHierarchical::builder(self.keys.clone(), AGE).build("acme").unwrap()
    }

    /// Returns a provider that uses the branch key whose id is the tenant in the context.
    fn by_tenant(&self) -> AwsKmsHierarchical {
        AwsKmsHierarchical::builder(self.keys.clone(), AGE)
            .build_by_context(|context| context.get("tenant").map(str::to_owned).ok_or("there is no tenant"))
            .unwrap()
    }
}

fn branch_keys(store: &Memory, kms: KmsConfiguration) -> BranchKeys {
    BranchKeys::new(store.clone(), NAME, kms).unwrap()
}

#[tokio::test]
async fn a_new_branch_key_has_three_items_with_the_attributes_of_awss_tables() {
    let world = World::with_acme().await;
    let items = world.store.items().clone();
    let types: Vec<_> = items.keys().map(|(id, item_type)| (&id[..], &item_type[..])).collect();
    let [("acme", BranchKeyItem::BEACON), ("acme", BranchKeyItem::ACTIVE), ("acme", version)] = types[..] else {
        panic!("{types:?}");
    };
    assert_eq!(version.len(), "branch:version:".len() + 36);
    for item in items.values() {
        let is_active = item.item_type == BranchKeyItem::ACTIVE;
        let time = &item.attributes["create-time"];
        assert_eq!((time.len(), &time[10..11], &time[26..]), (27, "T", "Z"), "{time}");
        let mut expected =
            BTreeMap::from([("kms-arn".to_owned(), arn(REGION, ID)), ("create-time".to_owned(), time.clone())]);
        expected.extend(context().iter().map(|(name, value)| (format!("aws-crypto-ec:{name}"), value.to_owned())));
        expected.extend(is_active.then(|| ("version".to_owned(), version.to_owned())));
        assert_eq!((&item.attributes, item.hierarchy_version), (&expected, 1));
    }
    let calls = [("GenerateDataKeyWithoutPlaintext".to_owned(), 2), ("ReEncrypt".to_owned(), 1)];
    assert_eq!(world.kms.calls(), calls.into());
}

#[tokio::test]
async fn a_branch_key_is_read_by_its_active_version_by_any_version_and_as_a_beacon() {
    let world = World::with_acme().await;
    let first = world.keys.active("acme").await.unwrap();
    assert_eq!((first.id(), first.context(), first.key().len()), ("acme", &context(), 32));
    let second_uuid = world.keys.create_version("acme").await.unwrap();
    let second = world.keys.active("acme").await.unwrap();
    assert_eq!(second.version_uuid(), second_uuid);
    assert_ne!(second.key().expose(), first.key().expose());
    for key in [&first, &second] {
        let by_version = world.keys.version("acme", &key.version_uuid()).await.unwrap();
        assert_eq!(by_version.key().expose(), key.key().expose());
        assert_eq!((by_version.version(), by_version.context()), (key.version(), &context()));
    }
    let beacon = world.keys.beacon("acme").await.unwrap();
    assert_eq!((beacon.id(), beacon.context(), beacon.key().len()), ("acme", &context(), 32));
    assert!([&first, &second].iter().all(|key| key.key().expose() != beacon.key().expose()));

    let id = world.keys.create(&EncryptionContext::new()).await.unwrap();
    assert_eq!(id.len(), 36);
    assert!(world.keys.active(&id).await.unwrap().context().is_empty());
}

#[tokio::test]
async fn messages_open_with_the_version_that_sealed_them() {
    let world = World::with_acme().await;
    let (old, new) = (Envelope::new(world.provider()), world.keys.active("acme").await.unwrap());
    let sealed_before = old.seal(b"before", &context()).await.unwrap();
    world.keys.create_version("acme").await.unwrap();
    let rotated = Envelope::new(world.provider());
    let sealed_after = rotated.seal(b"after", &context()).await.unwrap();
    for envelope in [&old, &rotated, &Envelope::new(world.provider())] {
        for (sealed, plaintext) in [(&sealed_before, &b"before"[..]), (&sealed_after, b"after")] {
            let opened = envelope.open(sealed, &context()).await.unwrap();
            assert_eq!((&opened.plaintext[..], opened.info.key_id()), (plaintext, "aws-kms-hierarchy/acme"));
        }
    }
    // One version in memory opens its own messages only.
    let envelope = Envelope::new(StaticBranchKey::from(new));
    assert_eq!(envelope.open(&sealed_before, &context()).await.unwrap().plaintext, b"before");
    assert!(envelope.open(&sealed_after, &context()).await.is_err());
}

#[tokio::test]
async fn the_branch_key_is_chosen_by_the_context() {
    let world = World::new();
    for tenant in ["acme", "umbrella"] {
        world.keys.create_with_id(tenant, &EncryptionContext::from([("tenant", tenant)])).await.unwrap();
    }
    let provider = world.by_tenant();
    let envelope = Envelope::new(provider.clone());
    for tenant in ["acme", "umbrella"] {
        let context = EncryptionContext::from([("tenant", tenant)]);
        let sealed = envelope.seal(b"data", &context).await.unwrap();
        let opened = envelope.open(&sealed, &context).await.unwrap();
        assert_eq!(opened.info.key_id(), format!("aws-kms-hierarchy/{tenant}"));
        assert_eq!(opened.info.encrypted_data_key().provider_info, tenant.as_bytes());
    }
    assert_eq!((world.store.gets(), world.kms.calls_of("Decrypt"), provider.stats().entries), (4, 4, 4));

    for (context, expected) in [
        (EncryptionContext::new(), "GetBranchKeyId with key aws-kms-hierarchy failed: there is no tenant"),
        (
            EncryptionContext::from([("tenant", "")]),
            "GetBranchKeyId with aws-kms-hierarchy is not supported: the branch key id is invalid: it is empty",
        ),
        (
            EncryptionContext::from([("tenant", "unknown")]),
            "GetActiveBranchKey with key unknown: the key does not exist; check the id, the account and the region: \
             the key store has no item of type branch:ACTIVE for it",
        ),
    ] {
        let SealError::Provider(error) = envelope.seal(b"data", &context).await.unwrap_err() else { panic!() };
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        assert_eq!(format!("{error}{}", source.unwrap_or_default()), expected);
    }
}

#[tokio::test]
async fn branch_keys_whose_ids_are_equally_long_are_not_confused() {
    const TENANTS: [&str; 2] = ["acme", "duck"];
    let world = World::new();
    for tenant in TENANTS {
        world.keys.create_with_id(tenant, &EncryptionContext::from([("tenant", tenant)])).await.unwrap();
    }
    let provider = world.by_tenant();
    let envelope = Envelope::new(provider.clone());
    for tenant in TENANTS {
        let context = EncryptionContext::from([("tenant", tenant)]);
        let sealed = envelope.seal(b"data", &context).await.unwrap();
        let opened = envelope.open(&sealed, &context).await.unwrap();
        assert_eq!(opened.info.encrypted_data_key().provider_info, tenant.as_bytes());
        for other in TENANTS {
            let in_memory = Envelope::new(StaticBranchKey::from(world.keys.active(other).await.unwrap()));
            assert_eq!(in_memory.open(&sealed, &context).await.is_ok(), other == tenant);
        }
    }
    // A data key that the cached branch key of one tenant has encrypted, in the name of the other tenant.
    let (suite, context, data_key) =
        (AlgorithmSuite::default(), EncryptionContext::from([("tenant", "duck")]), SecretKey::from([1; 32]));
    let acme = StaticBranchKey::from(world.keys.active("acme").await.unwrap());
    let encrypted = acme.encrypt_data_key(&EncryptDataKeyRequest::new(suite, &context, &data_key)).await.unwrap();
    let forged = [EncryptedDataKey::new("aws-kms-hierarchy", "duck", encrypted[0].ciphertext.clone())];
    let error = provider.decrypt_data_key(&DecryptDataKeyRequest::new(suite, &context, &forged)).await.unwrap_err();
    let [attempt] = error.attempts() else { panic!("{error}") };
    assert_eq!((attempt.kind(), attempt.key_id()), (Kind::NotFound, "duck"));
}

#[tokio::test]
async fn an_error_of_a_key_service_passes_through_the_choice_of_the_branch_key() {
    let world = World::new();
    let provider = AwsKmsHierarchical::builder(world.keys.clone(), AGE)
        .build_by_context(|_| Err::<String, _>(ProviderError::new(Kind::Throttled, "LookUp", "tenants")))
        .unwrap();
    let error = Envelope::new(provider).seal(b"data", &context()).await.unwrap_err();
    assert!(error.is_retryable());
    assert!(error.to_string().starts_with("LookUp with key tenants"), "{error}");
}

#[tokio::test]
async fn a_panic_while_the_branch_key_is_chosen_is_an_error_on_sealing_and_on_opening() {
    let world = World::with_acme().await;
    let choose = |_: &EncryptionContext| -> Result<String, ProviderError> { panic!("on purpose") };
    let provider = AwsKmsHierarchical::builder(world.keys.clone(), AGE).build_by_context(choose).unwrap();
    let (sealed, envelope) =
        (Envelope::new(world.provider()).seal(b"data", &context()).await.unwrap(), Envelope::new(provider));
    let expected = "GetBranchKeyId with key aws-kms-hierarchy failed: the function passed to build_by_context panicked";
    assert_eq!(envelope.seal(b"data", &context()).await.unwrap_err().to_string(), expected);
    assert_eq!(envelope.open(&sealed, &context()).await.unwrap_err().to_string(), expected);
}

#[tokio::test]
async fn the_store_and_kms_get_the_time_that_the_caller_has() {
    let world = World::with_acme().await;
    const HOUR: Duration = Duration::from_secs(3600);
    for timeout in [Duration::from_secs(5), HOUR] {
        let envelope = Envelope::builder(world.provider()).key_timeout(timeout).build().unwrap();
        for is_opened in [false, true] {
            *world.store.deadline.lock().unwrap() = None;
            let before = Instant::now();
            let sealed = envelope.seal(b"data", &context()).await.unwrap();
            if is_opened {
                envelope.open(&sealed, &context()).await.unwrap();
            }
            let deadline = world.store.deadline.lock().unwrap().take().expect("the branch key was not requested");
            // It is 10 seconds by default.
            assert!((before + timeout..=Instant::now() + timeout).contains(&deadline));
        }
    }
    world.kms.script(|_| Fault::Hang);
    // The simulated KMS closes the connection before the hour is over, which is another error.
    let configuration = KmsConfiguration::key(world.kms.client(REGION), arn(REGION, ID)).unwrap();
    let configuration = configuration.with_timeout(Duration::from_millis(200));
    let provider = AwsKmsHierarchical::builder(branch_keys(&world.store, configuration), AGE).build("acme").unwrap();
    let envelope = Envelope::builder(provider).key_timeout(HOUR).build().unwrap();
    let SealError::Provider(error) = envelope.seal(b"data", &context()).await.unwrap_err() else { panic!() };
    assert_eq!((error.kind(), error.operation()), (Kind::TimedOut, "Decrypt"));
}

#[tokio::test]
async fn grant_tokens_go_with_every_request() {
    let world = World::new();
    let configuration = KmsConfiguration::key(world.kms.client(REGION), arn(REGION, ID)).unwrap();
    let keys = branch_keys(&world.store, configuration.with_grant_tokens(["one", "two"]));
    keys.create_with_id("acme", &context()).await.unwrap();
    let version = keys.create_version("acme").await.unwrap();
    keys.active("acme").await.unwrap();
    keys.version("acme", &version).await.unwrap();
    keys.beacon("acme").await.unwrap();
    let calls = [("GenerateDataKeyWithoutPlaintext", 3), ("ReEncrypt", 3), ("Decrypt", 3)];
    assert_eq!(world.kms.calls(), calls.map(|(operation, count)| (operation.to_owned(), count)).into());
    assert_eq!(world.kms.grant_tokens(), vec![serde_json::json!(["one", "two"]); 9]);
}

#[tokio::test]
async fn a_new_version_has_its_own_time_and_all_other_attributes_of_the_last_one() {
    let world = World::with_acme().await;
    let mut old = world.store.get_item("acme", BranchKeyItem::ACTIVE).attributes;
    let version = world.keys.create_version("acme").await.unwrap();
    let version_type = format!("branch:version:{version}");
    let mut active = world.store.get_item("acme", BranchKeyItem::ACTIVE).attributes;
    let of_version = world.store.get_item("acme", &version_type).attributes;
    assert_eq!(active.remove("version"), Some(version_type));
    assert_eq!(active, of_version);
    old.remove("version");
    let times = [&mut old, &mut active].map(|attributes| attributes.remove("create-time").unwrap());
    assert!(times[0] < times[1], "{times:?}");
    assert_eq!(active, old);
}

#[tokio::test]
async fn a_response_to_re_encrypt_that_names_another_key_is_refused() {
    let (key, other) = (|| Some(arn(REGION, ID)), || Some(arn(REGION, "other")));
    let (not_source, not_destination) =
        ("the response does not name this key as the source", "the response does not name this key");
    for (source, destination, expected) in [
        (other(), key(), not_source),
        (None, key(), not_source),
        (key(), other(), not_destination),
        (key(), None, not_destination),
    ] {
        let generate = mock!(Client::generate_data_key_without_plaintext).then_output(move || {
            let answer = GenerateDataKeyWithoutPlaintextOutput::builder().set_key_id(key());
            answer.ciphertext_blob(Blob::new("encrypted")).build()
        });
        let re_encrypt = mock!(Client::re_encrypt).then_output(move || {
            let answer = ReEncryptOutput::builder().set_source_key_id(source.clone()).set_key_id(destination.clone());
            answer.ciphertext_blob(Blob::new("encrypted")).build()
        });
        let client = mock_client!(aws_sdk_kms, RuleMode::MatchAny, &[&generate, &re_encrypt]);
        let store = Memory::default();
        let keys = branch_keys(&store, KmsConfiguration::key(client, arn(REGION, ID)).unwrap());
        let error = keys.create_with_id("acme", &context()).await.unwrap_err();
        assert_eq!((error.kind(), error.operation()), (Kind::UnexpectedResponse, "ReEncrypt"));
        assert!(error.to_string().contains(&format!(": {expected}; needed for")), "{error}");
        assert!(store.items().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_first_messages_share_one_get_and_one_decrypt() {
    let world = World::with_acme().await;
    let provider = world.provider();
    let envelope = Envelope::new(provider.clone());
    let tasks = (0..1000u32).map(|number| {
        let envelope = envelope.clone();
        tokio::spawn(async move { envelope.seal(&number.to_be_bytes(), &context()).await.unwrap() })
    });
    let sealed: Vec<_> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
    assert_eq!((world.store.gets(), world.kms.calls_of("Decrypt")), (1, 1));
    let tasks = sealed.into_iter().map(|message| {
        let envelope = envelope.clone();
        tokio::spawn(async move { envelope.open(&message, &context()).await.unwrap() })
    });
    join_all(tasks).await.into_iter().for_each(|opened| assert_eq!(opened.unwrap().plaintext.len(), 4));
    assert_eq!((world.store.gets(), world.kms.calls_of("Decrypt")), (2, 2));
    let stats = provider.stats();
    assert_eq!((stats.misses, stats.hits + stats.waits, stats.calls, stats.failures), (2, 1998, 2, 0));
}

#[tokio::test]
async fn a_failure_reaches_all_that_wait_and_is_not_cached() {
    let world = World::with_acme().await;
    let envelope = Envelope::new(world.provider());
    for kind in [Kind::Throttled, Kind::Unavailable, Kind::AccessDenied] {
        world.store.fail(Some(kind));
        let SealError::Provider(error) = envelope.seal(b"data", &context()).await.unwrap_err() else { panic!() };
        assert_eq!((error.kind(), error.operation(), error.key_id()), (kind, "GetItem", "acme"));
    }
    world.store.fail(None);
    for (fault, kind) in [
        (Fault::Throttle, Kind::Throttled),
        (Fault::Refuse("AccessDeniedException"), Kind::AccessDenied),
        (Fault::Refuse("DisabledException"), Kind::KeyUnusable),
        (Fault::OtherKey, Kind::UnexpectedResponse),
        (Fault::Cut, Kind::Unavailable),
        (Fault::Close, Kind::Unavailable),
    ] {
        world.kms.script(move |_| fault);
        let SealError::Provider(error) = envelope.seal(b"data", &context()).await.unwrap_err() else { panic!() };
        assert_eq!((error.kind(), error.operation()), (kind, "Decrypt"), "{error}");
        assert!(error.to_string().contains("branch key acme, item of type branch:ACTIVE"), "{error}");
    }
    world.kms.script(|_| Fault::Hang);
    let impatient = Envelope::builder(world.provider()).key_timeout(Duration::from_millis(200)).build().unwrap();
    let SealError::Provider(error) = impatient.seal(b"data", &context()).await.unwrap_err() else { panic!() };
    assert_eq!(error.kind(), Kind::TimedOut);
    world.kms.script(|_| Fault::None);
    envelope.seal(b"data", &context()).await.unwrap();
}

#[tokio::test]
async fn only_the_configured_kms_keys_are_used() {
    let kms = Endpoint::new([(REGION, ID), ("us-east-1", ID), (REGION, "mrk-1"), ("us-east-1", "mrk-1")]);
    let store = Memory::default();
    let client = || kms.client(REGION);
    let key = |id: &str| KmsConfiguration::key(client(), arn(REGION, id)).unwrap();
    branch_keys(&store, key(ID)).create_with_id("single", &context()).await.unwrap();
    let far = KmsConfiguration::multi_region_key(kms.client("us-east-1"), arn("us-east-1", "mrk-1")).unwrap();
    branch_keys(&store, far).create_with_id("multi", &context()).await.unwrap();

    let replica = KmsConfiguration::multi_region_key(client(), arn(REGION, "mrk-1")).unwrap();
    let discovery = KmsConfiguration::discovery(client());
    let far_discovery = KmsConfiguration::discovery(kms.client("us-east-1"));
    let in_region = KmsConfiguration::multi_region_discovery(client(), REGION).unwrap();
    for (configuration, single, multi) in [
        (key(ID), Ok(()), Err(Kind::UnexpectedResponse)),
        (key("mrk-1"), Err(Kind::UnexpectedResponse), Err(Kind::UnexpectedResponse)),
        (replica.clone(), Err(Kind::UnexpectedResponse), Ok(())),
        // A client of another region does not find the key.
        (discovery.clone(), Ok(()), Err(Kind::NotFound)),
        (far_discovery, Err(Kind::NotFound), Ok(())),
        (in_region.clone(), Ok(()), Ok(())),
    ] {
        let keys = branch_keys(&store, configuration);
        for (id, expected) in [("single", single), ("multi", multi)] {
            let before = kms.log().len();
            let Err(error) = keys.active(id).await else {
                assert_eq!(expected, Ok(()), "{keys:?}");
                continue;
            };
            assert_eq!(Err(error.kind()), expected, "{keys:?}");
            // A key that is not configured is refused without a request.
            let is_refused = error.kind() == Kind::UnexpectedResponse;
            assert_eq!(error.to_string().contains(", but the configured key is arn:"), is_refused, "{error}");
            assert_eq!(kms.log().len() - before, usize::from(!is_refused), "{keys:?}");
        }
    }
    // A new version keeps the name of the first key.
    branch_keys(&store, replica).create_version("multi").await.unwrap();
    assert_eq!(store.get_item("multi", BranchKeyItem::ACTIVE).attributes["kms-arn"], arn("us-east-1", "mrk-1"));
    branch_keys(&store, in_region.clone()).active("multi").await.unwrap();

    for configuration in [discovery, in_region] {
        let keys = branch_keys(&store, configuration);
        let before = kms.log().len();
        let errors = [
            keys.create(&context()).await.unwrap_err(),
            keys.create_with_id("new", &context()).await.unwrap_err(),
            keys.create_version("single").await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), Kind::Unsupported);
            assert!(
                error
                    .to_string()
                    .ends_with("a KMS configuration for discovery names no key for it; use KmsConfiguration::key"),
                "{error}"
            );
        }
        assert_eq!(kms.log().len(), before);
    }
}

/// An invalid item: how it is changed, and the end of the error's text.
type Change = (fn(&mut BranchKeyItem), &'static str);

const MODIFIED: &str = "the item was modified, or the logical name of its key store is not \"tenants\"";

const CHANGES: &[Change] = &[
    (|item| item.branch_key_id.push('x'), "the key store returned another item than the one of type TYPE"),
    (|item| item.item_type.push('x'), "the key store returned another item than the one of type TYPE"),
    (|item| item.ciphertext.clear(), "item of type TYPE: its enc is empty"),
    (|item| item.ciphertext[40] ^= 1, MODIFIED),
    (|item| item.ciphertext.truncate(30), MODIFIED),
    (|item| item.hierarchy_version = 2, "item of type TYPE: its hierarchy-version is 2, a draft of AWS's"),
    (|item| item.hierarchy_version = 3, "item of type TYPE: its hierarchy-version is 3, not 1"),
    (|item| drop(item.attributes.remove("kms-arn")), "item of type TYPE: it has no kms-arn"),
    (|item| set(item, "kms-arn", ""), "item of type TYPE: it has no kms-arn"),
    (|item| set(item, "kms-arn", "alias/a"), "use the key ARN, or AwsKms::resolve"),
    (
        |item| set(item, "kms-arn", "arn:aws:kms:eu-west-1:111122223333:key/other"),
        "its kms-arn is arn:aws:kms:eu-west-1:111122223333:key/other, but the configured key is \
         arn:aws:kms:eu-west-1:111122223333:key/1234abcd",
    ),
    (|item| drop(item.attributes.remove("create-time")), "item of type TYPE: it has no create-time"),
    (|item| set(item, "create-time", ""), "item of type TYPE: it has no create-time"),
    (|item| set(item, "create-time", "2026-01-01T00:00:00Z"), MODIFIED),
    (|item| set(item, "aws-crypto-ec:tenant", "umbrella"), MODIFIED),
    (|item| drop(item.attributes.remove("aws-crypto-ec:tenant")), MODIFIED),
    (|item| set(item, "aws-crypto-ec:another", ""), MODIFIED),
    (|item| set(item, "unknown", ""), MODIFIED),
    (|item| set(item, "tablename", "tenants"), "item of type TYPE: it must not have an attribute tablename of its own"),
    (|item| set(item, "enc", "x"), "item of type TYPE: it must not have an attribute enc of its own"),
    // The same values would not change the context for KMS.
    (
        |item| set(item, "branch-key-id", &item.branch_key_id.clone()),
        "item of type TYPE: it must not have an attribute branch-key-id of its own",
    ),
    (
        |item| set(item, "type", &item.item_type.clone()),
        "item of type TYPE: it must not have an attribute type of its own",
    ),
    (
        |item| set(item, "hierarchy-version", "1"),
        "item of type TYPE: it must not have an attribute hierarchy-version of its own",
    ),
];

/// Changes of an item of type `branch:ACTIVE` only.
const CHANGES_OF_ACTIVE: &[Change] = &[
    (|item| drop(item.attributes.remove("version")), "item of type TYPE: it has no version"),
    (
        |item| set(item, "version", "branch:version:"),
        "item of type TYPE: its version \"branch:version:\" is not branch:version:UUID",
    ),
    (
        |item| set(item, "version", "0f8fad5b-d9cb-469f-a165-70867728950e"),
        "item of type TYPE: its version \"0f8fad5b-d9cb-469f-a165-70867728950e\" is not branch:version:UUID",
    ),
    (|item| set(item, "version", "branch:version:0f8fad5b-d9cb-469f-a165-70867728950e"), MODIFIED),
    (
        |item| set(item, "version", "branch:version:0F8FAD5B-D9CB-469F-A165-70867728950E"),
        "item of type TYPE: its version \"branch:version:0F8FAD5B-D9CB-469F-A165-70867728950E\" is not branch:version:UUID",
    ),
    (
        |item| set(item, "version", "branch:version:0f8fad5bd9cb469fa16570867728950e"),
        "item of type TYPE: its version \"branch:version:0f8fad5bd9cb469fa16570867728950e\" is not branch:version:UUID",
    ),
];

/// Changes of the other items.
const CHANGES_OF_OTHERS: &[Change] = &[(
    |item| set(item, "version", "branch:version:0f8fad5b-d9cb-469f-a165-70867728950e"),
    "item of type TYPE: only the active item may have a version",
)];

fn set(item: &mut BranchKeyItem, name: &str, value: &str) {
    item.attributes.insert(name.to_owned(), value.to_owned());
}

#[tokio::test]
async fn an_invalid_item_is_refused_and_named() {
    let world = World::with_acme().await;
    let version = world.keys.active("acme").await.unwrap().version_uuid();
    let version_type = format!("branch:version:{version}");
    for item_type in [BranchKeyItem::ACTIVE, &version_type, BranchKeyItem::BEACON] {
        let is_active = item_type == BranchKeyItem::ACTIVE;
        let of_type = if is_active { CHANGES_OF_ACTIVE } else { CHANGES_OF_OTHERS };
        let original = world.store.get_item("acme", item_type);
        for (change, expected) in CHANGES.iter().chain(of_type) {
            let mut item = original.clone();
            change(&mut item);
            world.store.put_as("acme", item_type, item.clone());
            let error = match item_type {
                BranchKeyItem::ACTIVE => world.keys.active("acme").await.map(|_| ()),
                BranchKeyItem::BEACON => world.keys.beacon("acme").await.map(|_| ()),
                _ => world.keys.version("acme", &version).await.map(|_| ()),
            };
            let error = error.expect_err(expected);
            assert!(error.to_string().ends_with(&expected.replace("TYPE", item_type)), "{item:?}: {error}");
            assert!(error.to_string().contains("with key acme") || error.key_id() == "acme", "{error}");
            assert!(matches!(error.kind(), Kind::UnexpectedResponse | Kind::Unsupported), "{error:?}");
            if is_active {
                let writes = world.kms.calls_of("GenerateDataKeyWithoutPlaintext");
                world.keys.create_version("acme").await.expect_err(expected);
                assert_eq!(world.kms.calls_of("GenerateDataKeyWithoutPlaintext"), writes);
            }
        }
        world.store.put_as("acme", item_type, original);
    }
    world.keys.active("acme").await.unwrap();
}

#[tokio::test]
async fn items_of_other_branch_keys_versions_and_stores_are_refused() {
    let world = World::with_acme().await;
    world.keys.create_with_id("umbrella", &context()).await.unwrap();
    let first = world.keys.active("acme").await.unwrap().version_uuid();
    let second = world.keys.create_version("acme").await.unwrap();
    let [first, second] = [first, second].map(|version| format!("branch:version:{version}"));
    // Each item as it is, and with the id and type of the item that it replaces.
    for (from, to) in [
        (("umbrella", BranchKeyItem::ACTIVE), ("acme", BranchKeyItem::ACTIVE)),
        (("acme", BranchKeyItem::BEACON), ("acme", BranchKeyItem::ACTIVE)),
        (("acme", &first[..]), ("acme", BranchKeyItem::ACTIVE)),
        (("acme", &first), ("acme", &second)),
    ] {
        let (foreign, original) = (world.store.get_item(from.0, from.1), world.store.get_item(to.0, to.1));
        let mut renamed = foreign.clone();
        (renamed.branch_key_id, renamed.item_type) = (to.0.to_owned(), to.1.to_owned());
        let mut with_attributes = original.clone();
        with_attributes.ciphertext = foreign.ciphertext.clone();
        for item in [foreign, renamed, with_attributes] {
            world.store.put_as(to.0, to.1, item);
            let error = match to.1 {
                BranchKeyItem::ACTIVE => world.keys.active(to.0).await.map(|_| ()),
                version => world.keys.version(to.0, &version["branch:version:".len()..]).await.map(|_| ()),
            };
            assert_eq!(error.unwrap_err().kind(), Kind::UnexpectedResponse);
        }
        world.store.put_as(to.0, to.1, original);
    }
    let configuration = KmsConfiguration::key(world.kms.client(REGION), arn(REGION, ID)).unwrap();
    let other = BranchKeys::new(world.store.clone(), "other", configuration).unwrap();
    let error = other.active("acme").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "GetActiveBranchKey with key acme: unexpected response: KMS does not decrypt its item of type branch:ACTIVE; the \
         item was modified, or the logical name of its key store is not \"other\"",
    );
    world.keys.active("acme").await.unwrap();
}

#[tokio::test]
async fn an_item_that_kms_has_encrypted_under_another_key_is_refused() {
    let world = World::with_acme().await;
    world.kms.script(|_| Fault::Refuse("IncorrectKeyException"));
    for error in [
        world.keys.active("acme").await.map(|_| ()).unwrap_err(),
        world.keys.create_version("acme").await.map(|_| ()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::UnexpectedResponse);
        assert!(error.to_string().ends_with(MODIFIED), "{error}");
    }
    assert_eq!(world.kms.calls_of("GenerateDataKeyWithoutPlaintext"), 2, "nothing is created");
}

#[tokio::test]
async fn of_two_versioners_at_once_one_wins_and_nothing_of_the_other_is_visible() {
    let world = World::with_acme().await;
    let results = join_all((0..8).map(|_| world.keys.create_version("acme"))).await;
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert!(!won.is_empty() && !lost.is_empty());
    assert!(lost.iter().all(|result| result.as_ref().unwrap_err().kind() == Kind::Conflict));
    assert_eq!(world.store.items().len(), 3 + won.len());
    let active = world.keys.active("acme").await.unwrap();
    assert!(won.iter().any(|version| *version.as_ref().unwrap() == active.version_uuid()));
    assert_eq!(world.keys.create_with_id("acme", &context()).await.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(world.store.items().len(), 3 + won.len());
}

#[tokio::test]
async fn nothing_is_written_if_a_request_fails_or_the_caller_gives_up() {
    let world = World::with_acme().await;
    let before = world.store.items().clone();
    for failing in 0..3 {
        for fault in [Fault::Throttle, Fault::Cut, Fault::OtherKey] {
            let start = world.kms.log().len();
            world.kms.script(move |request| if request.number == start + failing { fault } else { Fault::None });
            world.keys.create_version("acme").await.unwrap_err();
            let start = world.kms.log().len();
            world.kms.script(move |request| if request.number == start + failing { fault } else { Fault::None });
            world.keys.create_with_id("umbrella", &context()).await.unwrap_err();
        }
        let start = world.kms.log().len();
        world.kms.script(move |request| if request.number == start + failing { Fault::Hang } else { Fault::None });
        let version = tokio::time::timeout(Duration::from_millis(200), world.keys.create_version("acme"));
        version.await.unwrap_err();
    }
    assert_eq!(*world.store.items(), before);
    world.kms.script(|_| Fault::None);
    world.keys.create_version("acme").await.unwrap();
}

#[tokio::test]
async fn a_hostile_message_causes_a_bounded_number_of_requests_and_no_cache_entry() {
    let world = World::with_acme().await;
    let (provider, suite, context) = (world.provider(), AlgorithmSuite::default(), context());
    let generated = provider.generate_data_key(&GenerateDataKeyRequest::new(suite, &context)).await.unwrap();
    let genuine = generated.encrypted_data_keys[0].clone();
    // Versions that do not exist, one that does, with a data key that does not decrypt, and no version at all.
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut ciphertext = genuine.ciphertext.to_vec();
        change(&mut ciphertext);
        EncryptedDataKey::new("aws-kms-hierarchy", "acme", ciphertext)
    };
    let unknown = |number: u8| with(&|ciphertext| ciphertext[28..44].fill(number));
    let damaged = with(&|ciphertext| ciphertext[50] ^= 1);
    let empty = EncryptedDataKey::new("aws-kms-hierarchy", "acme", vec![]);
    let mut hostile: Vec<_> = [empty, damaged].into_iter().chain((0..14).map(unknown)).collect();
    let (gets, decrypts) = (world.store.gets(), world.kms.calls_of("Decrypt"));
    let request = DecryptDataKeyRequest::new(suite, &context, &hostile);
    let error = provider.decrypt_data_key(&request).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NoneDecrypted);
    // The version of the damaged key exists. It and one unknown version are requested.
    assert_eq!((world.store.gets() - gets, world.kms.calls_of("Decrypt") - decrypts), (2, 1));
    assert_eq!(provider.stats().entries, 1);
    let last = error.attempts().last().unwrap();
    assert_eq!(
        last.to_string(),
        "encrypted data keys not tried: 13; the limit for one KMS key is 2 (Limits::tries_per_kms_key)",
    );

    // A version that was requested for one of the encrypted data keys is used for all of them.
    hostile.push(genuine.clone());
    let request = DecryptDataKeyRequest::new(suite, &context, &hostile);
    let opened = provider.decrypt_data_key(&request).await.unwrap();
    assert_eq!((opened.index, opened.plaintext.expose()), (16, generated.plaintext.expose()));
    // A cached version is used although the store is down for others.
    world.store.fail(Some(Kind::Unavailable));
    let keys = [unknown(1), unknown(2), genuine];
    let opened = provider.decrypt_data_key(&DecryptDataKeyRequest::new(suite, &context, &keys)).await.unwrap();
    assert_eq!(opened.index, 2);
    let gets = world.store.gets();
    let error = provider.decrypt_data_key(&DecryptDataKeyRequest::new(suite, &context, &keys[..2])).await.unwrap_err();
    assert_eq!((error.attempts().len(), error.is_retryable(), world.store.gets() - gets), (1, true, 1));
}

#[tokio::test]
async fn invalid_settings_are_refused() {
    let world = World::new();
    let client = || world.kms.client(REGION);
    let builder = |age| AwsKmsHierarchical::builder(world.keys.clone(), age);
    let in_region = |region| KmsConfiguration::multi_region_discovery(client(), region).map(|_| ());
    let refused: [(&str, Result<(), ConfigError>); 12] = [
        ("it is empty", BranchKeys::new(Memory::default(), "", KmsConfiguration::discovery(client())).map(|_| ())),
        ("use the key ARN, or AwsKms::resolve", KmsConfiguration::key(client(), "alias/a").map(|_| ())),
        ("its region is empty", KmsConfiguration::multi_region_key(client(), "arn:aws:kms::1:key/a").map(|_| ())),
        ("\"\" is not a valid region name", in_region("")),
        ("\"eu west/1\" is not a valid region name", in_region("eu west/1")),
        ("\"eu-west-1:1\" is not a valid region name", in_region("eu-west-1:1")),
        ("\"eu-wést-1\" is not a valid region name", in_region("eu-wést-1")),
        ("max_age must be greater than zero", builder(Duration::ZERO).build("acme").map(|_| ())),
        ("capacity must be at least 1", builder(AGE).capacity(0).build("acme").map(|_| ())),
        ("refresh_ahead must be shorter", builder(AGE).refresh_ahead(AGE, drop).build("acme").map(|_| ())),
        ("the branch key id is invalid: it is empty", builder(AGE).build("").map(|_| ())),
        ("it is longer than 65535 bytes", builder(AGE).build("a".repeat(65_536)).map(|_| ())),
    ];
    for (expected, result) in refused {
        let error = result.expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
    for (id, context, expected) in [
        ("", context(), "the branch key id is invalid: it is empty"),
        (&"a".repeat(65_536), context(), "it is longer than 65535 bytes"),
        ("acme", EncryptionContext::new(), "needs an encryption context that is not empty"),
    ] {
        let error = world.keys.create_with_id(id, &context).await.expect_err(expected);
        assert_eq!(error.error_kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(expected), "{error}");
    }
    for version in
        ["", "1", "0f8fad5bd9cb469fa16570867728950e", "0F8FAD5B-D9CB-469F-A165-70867728950E", "branch:version:1"]
    {
        let error = world.keys.version("acme", version).await.unwrap_err().to_string();
        assert!(error.ends_with("the version is not a UUID of 36 characters in lower case"), "{error}");
    }
    assert_eq!((world.kms.log().len(), world.store.gets()), (0, 0));
}

#[tokio::test]
async fn what_sealing_and_opening_say_about_an_unknown_branch_key() {
    let world = World::with_acme().await;
    let sealed = Envelope::new(world.provider()).seal(b"data", &context()).await.unwrap();
    world.store.items().clear();
    let error = Envelope::new(world.provider()).open(&sealed, &context()).await.unwrap_err();
    let OpenError::Provider(error) = error else { panic!("{error}") };
    let [attempt] = error.attempts() else { panic!("{error}") };
    assert_eq!((attempt.kind(), attempt.operation()), (Kind::NotFound, "GetBranchKeyVersion"));
    let other = AwsKmsHierarchical::builder(world.keys.clone(), AGE).build("umbrella").unwrap();
    let OpenError::Provider(error) = Envelope::new(other).open(&sealed, &context()).await.unwrap_err() else {
        panic!()
    };
    assert_eq!(error.kind(), Kind::NoMatchingKey);
}

#[cfg(feature = "mock")]
mod over_time {
    use futures_util::FutureExt;
    use kms_envelope::{cache::Refresh, testing::ManualClock};

    use super::*;

    struct Timed {
        world: World,
        clock: Arc<ManualClock>,
        provider: AwsKmsHierarchical,
        envelope: Envelope,
        renewals: Arc<Mutex<Vec<Refresh>>>,
    }

    impl Timed {
        /// Returns a world whose branch keys are renewed in the last minute before they expire.
        async fn new() -> Self {
            Self::with_renewal_ahead(Duration::from_secs(60)).await
        }

        async fn with_renewal_ahead(ahead: Duration) -> Self {
            let world = World::with_acme().await;
            let clock = Arc::new(ManualClock::new());
            let renewals = Arc::new(Mutex::new(Vec::new()));
            let spawned = renewals.clone();
            let provider = AwsKmsHierarchical::builder(world.keys.clone(), AGE)
                .clock(clock.clone())
                .refresh_ahead(ahead, move |task| spawned.lock().unwrap().push(task))
                .build("acme")
                .unwrap();
            Self { envelope: Envelope::new(provider.clone()), provider, world, clock, renewals }
        }

        fn calls(&self) -> (usize, usize) {
            (self.world.store.gets(), self.world.kms.calls_of("Decrypt"))
        }

        async fn run_renewals(&self) -> usize {
            let renewals = std::mem::take(&mut *self.renewals.lock().unwrap());
            join_all(renewals).await.len()
        }

        fn fail(&self, kind: Option<Kind>) {
            self.world.store.fail(kind);
        }
    }

    #[tokio::test]
    async fn a_branch_key_in_use_is_renewed_before_it_expires_and_nobody_waits() {
        let timed = Timed::new().await;
        let mut sealed = Vec::new();
        for round in 1..=3 {
            sealed.push(timed.envelope.seal(b"data", &context()).await.unwrap());
            timed.envelope.open(&sealed[0], &context()).await.unwrap();
            assert_eq!((timed.calls(), timed.run_renewals().await), ((2 * round, 2 * round), 0));
            timed.clock.advance(AGE - Duration::from_secs(30));
            for _ in 0..3 {
                timed.envelope.seal(b"data", &context()).await.unwrap();
                timed.envelope.open(&sealed[0], &context()).await.unwrap();
            }
            // One for sealing, and one for opening.
            assert_eq!(timed.calls(), (2 * round, 2 * round));
            assert_eq!(timed.run_renewals().await, 2);
        }
        assert_eq!(timed.provider.stats().failures, 0);
    }

    #[tokio::test]
    async fn an_outage_shorter_than_the_time_limit_is_not_noticed_and_a_longer_one_is_an_error() {
        let timed = Timed::new().await;
        let sealed = timed.envelope.seal(b"data", &context()).await.unwrap();
        timed.envelope.open(&sealed, &context()).await.unwrap();
        timed.fail(Some(Kind::Unavailable));
        timed.world.kms.script(|_| Fault::Close);
        for _ in 0..299 {
            timed.clock.advance(Duration::from_secs(1));
            timed.envelope.seal(b"data", &context()).await.unwrap();
            timed.envelope.open(&sealed, &context()).await.unwrap();
            timed.run_renewals().await;
        }
        timed.clock.advance(Duration::from_secs(1));
        let error = timed.envelope.seal(b"data", &context()).await.unwrap_err();
        assert!(error.is_retryable());
        assert_eq!(
            error.to_string(),
            "GetItem with key acme: the key service did not respond, or failed; retry, and check the network",
        );
        assert!(timed.envelope.open(&sealed, &context()).await.unwrap_err().is_retryable());
        timed.fail(None);
        assert!(timed.envelope.seal(b"data", &context()).await.unwrap_err().to_string().contains("branch key acme"));
        timed.world.kms.script(|_| Fault::None);
        timed.envelope.seal(b"data", &context()).await.unwrap();
        timed.envelope.open(&sealed, &context()).await.unwrap();
    }

    #[tokio::test]
    async fn a_new_version_is_used_once_the_cached_one_has_expired_or_was_cleared() {
        let timed = Timed::new().await;
        let version = async || {
            let sealed = timed.envelope.seal(b"data", &context()).await.unwrap();
            let info = timed.envelope.open(&sealed, &context()).await.unwrap().info;
            info.encrypted_data_key().ciphertext[28..44].to_vec()
        };
        let first = version().await;
        let second = timed.world.keys.create_version("acme").await.unwrap();
        assert_eq!(version().await, first);
        timed.clock.advance(AGE);
        timed.provider.remove_expired();
        assert_eq!(timed.provider.stats().entries, 0);
        let of_second = version().await;
        assert_eq!(second.replace('-', ""), of_second.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        timed.world.keys.create_version("acme").await.unwrap();
        assert_eq!(version().await, of_second);
        timed.provider.clear();
        assert_ne!(version().await, of_second);
    }

    #[tokio::test]
    async fn a_renewal_has_its_own_time_limit() {
        let timed = Timed::new().await;
        let envelope =
            Envelope::builder(timed.provider.clone()).key_timeout(Duration::from_millis(500)).build().unwrap();
        envelope.seal(b"data", &context()).await.unwrap();
        timed.clock.advance(AGE - Duration::from_secs(1));
        envelope.seal(b"data", &context()).await.unwrap();
        // As if the runtime started the task late.
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!((timed.run_renewals().await, timed.provider.stats().failures), (1, 0));
        timed.clock.advance(Duration::from_secs(1));
        envelope.seal(b"data", &context()).await.unwrap();
        assert_eq!(timed.calls(), (2, 2));
    }

    #[tokio::test]
    async fn a_cached_version_that_is_due_for_renewal_is_used_although_the_limit_of_requests_has_been_reached() {
        let timed = Timed::new().await;
        let sealed = timed.envelope.seal(b"data", &context()).await.unwrap();
        let genuine = timed.envelope.open(&sealed, &context()).await.unwrap().info.encrypted_data_key().clone();
        let unknown = |number| {
            let mut ciphertext = genuine.ciphertext.to_vec();
            ciphertext[28..44].fill(number);
            EncryptedDataKey::new("aws-kms-hierarchy", "acme", ciphertext)
        };
        let keys = [unknown(1), unknown(2), genuine.clone()];
        timed.clock.advance(AGE - Duration::from_secs(1));
        let context = context();
        let request = DecryptDataKeyRequest::new(AlgorithmSuite::default(), &context, &keys);
        assert_eq!(timed.provider.decrypt_data_key(&request).await.unwrap().index, 2);
    }

    #[tokio::test]
    async fn a_call_that_hangs_is_not_waited_for_after_a_minute() {
        let timed = Timed::with_renewal_ahead(AGE - Duration::from_secs(1)).await;
        let hangs = |hangs| timed.world.store.hangs.store(hangs, Ordering::SeqCst);
        let context = context();
        let seal = || Box::pin(timed.envelope.seal(b"data", &context));
        let almost = Duration::from_secs(59);

        hangs(true);
        let mut first = seal();
        assert!((&mut first).now_or_never().is_none());
        hangs(false);
        timed.clock.advance(almost);
        let mut second = seal();
        assert!((&mut second).now_or_never().is_none());
        assert_eq!(timed.calls(), (1, 0));
        timed.clock.advance(Duration::from_secs(1));
        tokio::time::timeout(Duration::from_secs(30), seal()).await.expect("it waits for the first call").unwrap();
        assert_eq!(timed.calls(), (2, 1));
        drop((first, second));

        // The same for a renewal, although somebody waits for it.
        hangs(true);
        timed.clock.advance(Duration::from_secs(1));
        seal().await.unwrap();
        let hanging: Vec<_> = std::mem::take(&mut *timed.renewals.lock().unwrap());
        let mut hanging = join_all(hanging);
        assert!((&mut hanging).now_or_never().is_none());
        hangs(false);
        timed.clock.advance(almost);
        seal().await.unwrap();
        assert_eq!((timed.run_renewals().await, timed.calls()), (0, (3, 1)));
        timed.clock.advance(Duration::from_secs(1));
        seal().await.unwrap();
        assert_eq!((timed.run_renewals().await, timed.calls()), (1, (4, 2)));
        drop(hanging);
        // The renewed branch key is still cached.
        seal().await.unwrap();
        assert_eq!((timed.calls(), timed.provider.stats().entries), ((4, 2), 1));
    }
}
