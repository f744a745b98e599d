//! docs/troubleshooting.md quotes the errors that the library returns, each in a section that states its kind.

use std::{
    error::Error,
    fmt,
    io::{Read, Write},
    time::{Duration, Instant},
};

use kms_envelope::{
    AlgorithmSuite, AwsKms, Backend, CommitmentPolicy, ConfigError, EncryptionContext, Envelope, ErrorKind,
    KeyProvider, Limits, OpenError, ProviderError, RawAes, SealError,
    error::{HeaderError, NotFips},
    message::{DetachedKeys, EncryptedDataKey, Header},
    provider::{
        AwsKmsHierarchical, ByContext, DecryptDataKeyRequest, MultiProvider, RawRsa, RsaPadding, SecretKey,
        branch_key::{BranchKeyItem, BranchKeyStore, BranchKeys, FolderStore, KmsConfiguration},
    },
    testing::MemoryBranchKeyStore,
};
use kms_envelope_dynamodb::DynamoDbBranchKeyStore;
use pollster::block_on;
use test_support::{
    FixedDataKey, RepeatingRng, context, dynamodb, fixtures, header,
    kms::{Endpoint, Fault, Rsa, arn},
    open, rng, seal,
};

const PAGE: &str = include_str!("../../docs/troubleshooting.md");

/// The parts of an error that the page quotes.
struct Seen {
    text: String,
    kind: ErrorKind,
    is_retryable: bool,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?}, retryable: {})", self.text, self.kind, self.is_retryable)
    }
}

macro_rules! seen {
    ($($error:ty)*) => {$(
        impl From<$error> for Seen {
            fn from(error: $error) -> Self {
                Self { text: error.to_string(), kind: error.kind(), is_retryable: error.is_retryable() }
            }
        }
    )*};
}

seen! { ConfigError OpenError SealError }

impl From<ProviderError> for Seen {
    fn from(error: ProviderError) -> Self {
        OpenError::from(error).into()
    }
}

impl From<HeaderError> for Seen {
    fn from(error: HeaderError) -> Self {
        OpenError::from(error).into()
    }
}

fn seen<T>(result: Result<T, impl Into<Seen>>) -> Seen {
    match result {
        Ok(_) => panic!("no error"),
        Err(error) => error.into(),
    }
}

/// The quoted texts, each with its section.
fn quoted() -> Vec<(&'static str, &'static str)> {
    let sections = PAGE.split("\n## ").flat_map(|part| part.split("\n### "));
    let lines = |section: &'static str| {
        let blocks = section.split("```text\n").skip(1).map(|rest| rest.split("\n```").next().unwrap());
        blocks.flat_map(str::lines).map(move |line| (line, section))
    };
    sections.flat_map(lines).collect()
}

/// Returns whether the text matches the quoted one, in which `…` stands for anything.
fn matches(quoted: &str, text: &str) -> bool {
    let (first, rest) = quoted.split_once('…').unwrap_or((quoted, ""));
    let Some(mut left) = text.strip_prefix(first) else { return false };
    if !quoted.contains('…') {
        return left.is_empty();
    }
    let mut parts: Vec<_> = rest.split('…').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    left.ends_with(last)
}

// The errors.

fn key(name: &str, byte: u8) -> RawAes {
    RawAes::new("tests", name, [byte; 32]).unwrap()
}

fn envelope() -> Envelope {
    Envelope::builder(key("key", 7)).frame_len(16).build().unwrap()
}

fn signing() -> Envelope {
    let suite = AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384;
    Envelope::builder(key("key", 7)).suite(suite).frame_len(16).build().unwrap()
}

/// The message, with one bit changed.
fn changed(message: &[u8], at: usize) -> Vec<u8> {
    let mut message = message.to_vec();
    message[at] ^= 1;
    message
}

fn of_kms() -> Vec<Seen> {
    const KEY: &str = "1234abcd";
    const REPLICATED: &str = "mrk-5678";
    let (near, far) = ("eu-west-1", "us-east-1");
    // The AWS SDK needs tokio's timers.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    let kms = Endpoint::new([(near, KEY), (near, REPLICATED), (far, REPLICATED)]);
    let single = || AwsKms::new(kms.client(near), arn(near, KEY)).unwrap();
    let sealing = |envelope: &Envelope| seen(block_on(envelope.seal(b"data", &context())));
    let codes = [
        "AccessDeniedException",
        "DisabledException",
        "IncorrectKeyException",
        "InvalidCiphertextException",
        "InvalidGrantTokenException",
        "KMSInternalException",
        "NotFoundException",
        "ThrottlingException",
    ];
    let mut all = Vec::new();
    for code in codes {
        kms.script(move |_| Fault::Refuse(code));
        all.push(sealing(&Envelope::new(single())));
    }
    kms.script(|_| Fault::Throttle);
    let replicated = AwsKms::new(kms.client(near), arn(near, REPLICATED)).unwrap();
    all.push(sealing(&Envelope::new(replicated.with_replica(kms.client(far), far).unwrap())));
    kms.script(|_| Fault::OtherKey);
    all.push(sealing(&Envelope::new(single())));
    kms.script(|_| Fault::Hang);
    all.push(sealing(&Envelope::builder(single()).key_timeout(Duration::from_millis(50)).build().unwrap()));

    kms.script(|_| Fault::Refuse("InvalidCiphertextException"));
    let listed = vec![EncryptedDataKey::new("aws-kms", arn(near, KEY), &b"not from KMS"[..]); 3];
    let context = context();
    let request = DecryptDataKeyRequest::new(AlgorithmSuite::default(), &context, &listed);
    all.push(seen(block_on(single().decrypt_data_key(&request))));
    all.push(seen(AwsKms::new(kms.client(near), "alias/orders")));
    all
}

fn of_branch_keys() -> Vec<Seen> {
    const REGION: &str = "eu-west-1";
    const KEY: &str = "1234abcd";
    // The AWS SDK needs tokio's timers.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    let kms = Endpoint::new([(REGION, KEY)]);
    let store = MemoryBranchKeyStore::new();
    let key = || KmsConfiguration::key(kms.client(REGION), arn(REGION, KEY)).unwrap();
    let named = |name, kms| BranchKeys::new(store.clone(), name, kms).unwrap();
    let keys = named("tenants", key());

    let missing = seen(block_on(keys.active("acme")));
    block_on(keys.create_with_id("acme", &context())).unwrap();
    let mut all = vec![
        missing,
        seen(block_on(keys.create_with_id("acme", &context()))),
        seen(block_on(named("others", key()).active("acme"))),
        seen(block_on(named("tenants", KmsConfiguration::discovery(kms.client(REGION))).create_version("acme"))),
    ];
    let active = store.items().into_iter().find(|item| item.item_type == BranchKeyItem::ACTIVE).unwrap();
    let mut with = |change: fn(&mut BranchKeyItem)| {
        let mut item = active.clone();
        change(&mut item);
        store.put(item);
        all.push(seen(block_on(keys.active("acme"))));
    };
    with(|item| item.hierarchy_version = 2);
    with(|item| drop(item.attributes.remove("create-time")));
    let provider = AwsKmsHierarchical::builder(keys.clone(), Duration::from_secs(300))
        .build_by_context(|_| Err::<String, _>("no tenant"))
        .unwrap();
    all.push(seen(block_on(Envelope::new(provider).seal(b"data", &context()))));
    all
}

fn of_stores_of_branch_keys() -> Vec<Seen> {
    const TABLE: &str = "branch-keys";
    // The AWS SDK needs tokio's timers.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    let (server, folder) = (dynamodb::Endpoint::new([TABLE]), tempfile::tempdir().unwrap());
    let table = |name: &str| DynamoDbBranchKeyStore::new(server.client(), name);
    let deadline = Instant::now() + Duration::from_secs(60);
    let items = [BranchKeyItem::new("acme", BranchKeyItem::ACTIVE, *b"encrypted", 1, Default::default())];
    let get = |store: &dyn BranchKeyStore| seen(block_on(store.get("acme", BranchKeyItem::ACTIVE, deadline)));
    let create = |store: &dyn BranchKeyStore| seen(block_on(store.create(&items, deadline)));

    server.define("other", serde_json::json!({"KeySchema": [], "AttributeDefinitions": []}));
    let mut all = vec![get(&table("missing")), seen(block_on(table("other").check_table()))];
    for reason in ["ValidationError", "TransactionConflict", "ThrottlingError"] {
        server.script(move |_| Fault::Cancel(reason));
        all.push(create(&table(TABLE)));
    }
    let store = FolderStore::new(folder.path());
    std::fs::write(store.path("acme"), "{}").unwrap();
    all.extend([get(&store), create(&store), get(&FolderStore::new(folder.path().join("missing")))]);
    all
}

fn of_contexts() -> Vec<Seen> {
    let sealed = seal(&envelope(), b"data");
    let with = |pairs: &[(&str, &str)]| pairs.iter().copied().collect::<EncryptionContext>();
    let requiring = Envelope::builder(key("key", 7)).required_context(["tenant"]).build().unwrap();
    let by_tenant = ByContext::new(["tenant"], async |[tenant]: [String; 1]| Ok::<_, ConfigError>(key(&tenant, 7)));
    vec![
        seen(block_on(envelope().open(&sealed, &with(&[("tenant", "other")])))),
        seen(block_on(envelope().open(&sealed, &with(&[("region", "north")])))),
        seen(block_on(envelope().seal(b"data", &with(&[("aws-crypto-x", "")])))),
        seen(block_on(envelope().seal(b"data", &with(&[("long", &"x".repeat(1 << 16))])))),
        seen(block_on(requiring.seal(b"data", &with(&[])))),
        seen(block_on(requiring.open(&seal(&requiring, b"data"), &with(&[("tenant", "other")])))),
        seen(block_on(Envelope::new(by_tenant).seal(b"data", &with(&[])))),
    ]
}

fn of_messages() -> Vec<Seen> {
    let sealed = seal(&envelope(), &[1; 50]);
    let len = header(&sealed).len();
    let geometry = header(&sealed).geometry(sealed.len() as u64).unwrap();
    let frame = |number| geometry.frame(number).unwrap().sealed.start as usize;
    let signed = seal(&signing(), &[1; 50]);
    let mut all: Vec<_> = [
        sealed[..sealed.len() - 1].to_vec(),
        [&sealed[..], b"\n"].concat(),
        changed(&sealed, frame(2) + 20),
        [&sealed[..len], &sealed[frame(2)..]].concat(),
        changed(&sealed, frame(4) + 20), // The most significant byte of the final frame's length.
        changed(&sealed, len - 1),
        changed(&sealed, len - 17),
        changed(&signed, signed.len() - 1),
        b"AgR4...".to_vec(),
        b"hello".to_vec(),
        b"\x01\x00".to_vec(),
        b"\x02\xff\xff".to_vec(),
    ]
    .iter()
    .map(|message| seen(open(&envelope(), message)))
    .collect();

    let old = AlgorithmSuite::Aes256GcmHkdfSha256;
    all.push(seen(Envelope::builder(key("key", 7)).suite(old).build()));
    let builder = Envelope::builder(key("key", 7)).suite(old);
    let old = builder.commitment_policy(CommitmentPolicy::ForbidEncryptAllowDecrypt).build().unwrap();
    all.push(seen(open(&envelope(), &seal(&old, b"data"))));

    let twice = Envelope::new(MultiProvider::new(key("key", 7)).with(key("other", 8)));
    let limited = |limits| Envelope::builder(key("key", 7)).limits(limits).frame_len(1).build().unwrap();
    let limits = Limits::default();
    let non_framed = fixtures::message("0478/non-framed-len-129");
    all.extend([
        seen(open(&limited(limits.with_encrypted_data_keys(1)), &seal(&twice, b"data"))),
        seen(open(&limited(limits.with_header_len(50)), &sealed)),
        seen(open(&limited(limits.with_frame_len(15)), &sealed)),
        seen(block_on(
            Envelope::builder(fixtures::key())
                .limits(limits.with_non_framed_len(128))
                .build()
                .unwrap()
                .open(&non_framed, &EncryptionContext::new()),
        )),
    ]);

    let of_len = |len| Envelope::builder(key("key", 7)).header_len(len).build();
    all.extend([seen(of_len(97)), seen(block_on(of_len(len + 27).unwrap().seal(b"data", &context())))]);

    let refusing = Envelope::builder(key("key", 7)).refuse_signed_streams().build().unwrap();
    let ranges = |message: &[u8], len| block_on(envelope().range_reader(message.to_vec(), len as u64, &context()));
    all.extend([
        seen(block_on(refusing.open_reader(&signed[..], &context()))),
        seen(ranges(&signed, signed.len())),
        seen(ranges(&sealed, sealed.len() - 48)),
        seen(ranges(&sealed, len + 1)),
        seen(ranges(&sealed, sealed.len()).unwrap().read(40..60)),
    ]);
    all
}

fn of_keys() -> Vec<Seen> {
    let sealed = seal(&envelope(), b"data");
    let short = || Envelope::new(FixedDataKey::new(|| SecretKey::try_from(vec![7; 16]).unwrap()));
    let keys = block_on(envelope().rewrap(&header(&sealed), &context(), &key("new", 8))).unwrap();
    let other = seal(&envelope(), b"data");
    let mut all = vec![
        seen(open(&Envelope::new(key("key", 8)), &sealed)),
        seen(open(&Envelope::new(key("other", 7)), &sealed)),
        seen(block_on(short().seal(b"data", &context()))),
        seen(open(&envelope().with_detached_keys(keys), &other)),
        seen(DetachedKeys::parse(&sealed, &Limits::default())),
        seen(RawAes::read_key_file("not-there.key")),
        seen(RawAes::from_json("{}")),
    ];
    all.push(seen(SecretKey::try_from(vec![7; 15])));
    let repeating = Envelope::builder(key("key", 7)).rng(RepeatingRng).build().unwrap();
    let mut results = block_on(repeating.seal_many([(&b"data"[..], &context()); 4], &mut Vec::new()));
    all.extend(results.pop().map(seen));
    all
}

fn of_ecdh() -> Vec<Seen> {
    use kms_envelope::provider::{AwsKmsEcdh, EcdhPrivateKey, EcdhPublicKey, RawEcdh, ResolveError};

    // The AWS SDK needs tokio's timers.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    let region = "eu-west-1";
    let kms = Endpoint::with_agreement_keys(region);
    let rsa = Endpoint::with_rsa([(region, "rsa")], Some(Rsa::of_fixtures()));
    let public = |curve| EcdhPublicKey::from_pem(&fixtures::pem(&format!("{curve}-public"))).unwrap();
    let of = |own, other| AwsKmsEcdh::static_keys(kms.client(region), arn(region, "p256"), own, other);
    let discovery = AwsKmsEcdh::discovery(kms.client(region), arn(region, "p256"), public("p256")).unwrap();
    let private = EcdhPrivateKey::from_pem(&fixtures::pem("p256-private")).unwrap();
    let sealing = |envelope: Envelope| seen(block_on(envelope.seal(b"data", &context())));
    let fetched = block_on(AwsKmsEcdh::fetch_public_key(rsa.client(region), arn(region, "rsa")));
    let Err(ResolveError::Provider(of_rsa)) = fetched else { panic!("{fetched:?}") };
    vec![
        seen(EcdhPublicKey::from_pem("not PEM")),
        seen(of(public("p256"), public("p384"))),
        sealing(Envelope::new(discovery)),
        sealing(Envelope::new(RawEcdh::discovery(private))),
        of_rsa.into(),
    ]
}

fn of_fips() -> Vec<Seen> {
    let rsa = |padding| RawRsa::new("tests", "key", padding).unwrap();
    let requiring = |provider: RawAes| Envelope::builder(provider).require_fips();
    fn aes_192() -> RawAes {
        RawAes::new("tests", "key", SecretKey::try_from(vec![7; 24]).unwrap()).unwrap()
    }
    let by_tenant = || ByContext::new(["tenant"], async |_: [String; 1]| Ok::<_, ConfigError>(aes_192()));
    let of = |why| Seen::from(ConfigError::NotFips(why));
    vec![
        // Only a build without the module returns this.
        of(NotFips::Module),
        seen(requiring(key("key", 7)).backend(Backend::RustCrypto).build()),
        seen(requiring(key("key", 7)).rng(rng(1)).build()),
        seen(
            requiring(key("key", 7))
                .suite(AlgorithmSuite::Aes192GcmHkdfSha256)
                .commitment_policy(CommitmentPolicy::ForbidEncryptAllowDecrypt)
                .build(),
        ),
        seen(requiring(aes_192()).build()),
        of(FixedDataKey::new(|| SecretKey::try_from(vec![7; 32]).unwrap()).check_fips().unwrap_err()),
        of(rsa(RsaPadding::Pkcs1v15).check_fips().unwrap_err()),
        // Only a build with the module returns this, for a key with another exponent.
        of(NotFips::provider(
            &rsa(RsaPadding::OaepSha256),
            "AWS-LC considers its private key invalid for FIPS; generate a key with the public exponent 65537",
        )),
        of(by_tenant().check_fips().unwrap_err()),
        seen(block_on(Envelope::new(by_tenant().require_fips()).seal(b"data", &context()))),
    ]
}

fn of_streams() -> Vec<Seen> {
    let sealed = seal(&envelope(), &[1; 50]);
    let sealed = changed(&sealed, sealed.len() - 1);
    let mut reader = block_on(envelope().open_reader(&sealed[..], &context())).unwrap();
    let mut opening = || reader.read_to_end(&mut Vec::new()).unwrap_err();
    opening();
    let opening = opening();

    let damaged = block_on(envelope().open_reader(&sealed[..], &context())).unwrap();
    let mut reader = block_on(envelope().seal_reader(damaged, &context())).unwrap();
    let mut sealing = || reader.read_to_end(&mut Vec::new()).unwrap_err();
    sealing();
    let sealing = sealing();

    let mut writer = block_on(envelope().seal_writer(Vec::new(), &context())).unwrap();
    writer.try_finish().unwrap();
    let finished = writer.write_all(b"more").unwrap_err();
    let seal_error = |error| SealError::from_io(error).cloned().unwrap();
    let opening = OpenError::from_io(&opening).unwrap();
    vec![
        Seen { text: opening.to_string(), kind: opening.kind(), is_retryable: opening.is_retryable() },
        seal_error(&sealing).into(),
        seal_error(&finished).into(),
    ]
}

// The page.

fn all() -> Vec<Seen> {
    let all = [
        of_kms(),
        of_branch_keys(),
        of_stores_of_branch_keys(),
        of_contexts(),
        of_messages(),
        of_keys(),
        of_ecdh(),
        of_fips(),
        of_streams(),
    ];
    all.into_iter().flatten().collect()
}

#[test]
fn each_error_is_quoted_in_a_section_that_states_its_kind_and_whether_to_retry() {
    for error in all() {
        let sections: Vec<_> = quoted().into_iter().filter(|(line, _)| matches(line, &error.text)).collect();
        assert!(!sections.is_empty(), "not on the page: {error}");
        let states = |(_, section): &(&str, &str)| {
            let retryable = section.contains("etryable") && !section.contains("ot retryable");
            section.contains(&format!("`{:?}`", error.kind)) && retryable == error.is_retryable
        };
        assert!(sections.iter().any(states), "not so on the page: {error}");
    }
}

#[test]
fn each_quoted_text_is_one_that_the_library_returns() {
    let all = all();
    for (line, _) in quoted() {
        assert!(all.iter().any(|error| matches(line, &error.text)), "no error has this text: {line}");
    }
}

#[test]
fn the_table_has_parts_of_quoted_texts() {
    let table = PAGE.split("\n\n").find(|part| part.starts_with("| the error contains")).unwrap();
    let parts: Vec<_> = table.lines().filter_map(|line| line.strip_prefix("| `")?.split("` |").next()).collect();
    assert!(parts.len() > 20);
    for part in parts {
        assert!(quoted().iter().any(|(line, _)| line.contains(part)), "in no quoted text: {part}");
    }
}

#[test]
fn frames_beside_a_damaged_one_can_be_saved_as_the_page_shows() -> Result<(), Box<dyn Error>> {
    let sealed = seal(&envelope(), &[1; 50]);
    let geometry = header(&sealed).geometry(sealed.len() as u64)?;
    let damaged = changed(&sealed, geometry.frame(2).unwrap().sealed.start as usize + 20);

    let geometry = Header::parse(&damaged, &Limits::default())?.geometry(damaged.len() as u64)?;
    let reader = block_on(envelope().range_reader(&damaged, damaged.len() as u64, &context()))?;
    let frames = (1..=geometry.frame_count()).filter_map(|number| geometry.frame(number));
    let saved: Vec<_> =
        frames.map(|frame| reader.read(frame.plaintext).ok().map(|plaintext| plaintext.len())).collect();
    assert_eq!(saved, [Some(16), None, Some(16), Some(2)]);
    Ok(())
}
