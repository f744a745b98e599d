//! Interoperability with AWS's Encryption SDKs for Python and JavaScript, and with KMS over HTTP (moto). Run with
//!
//! ```text
//! python3 -m venv .venv && .venv/bin/pip install -r tests/python/requirements.txt
//! (cd tests/javascript && npm ci)
//! cargo test --features full --test interop -- --ignored
//! ```
//!
//! or set `KMS_ENVELOPE_PYTHON` to another Python with the same packages.

use std::{collections::BTreeSet, fs, path::Path, sync::Arc, time::Duration};

use kms_envelope::{
    AlgorithmSuite, AwsKms, Backend, DataKeyCache, EncryptionContext, Envelope, EnvelopeBuilder, KeyProvider,
    OpenError, ProviderError, RawAes,
    message::ContentType,
    provider::{AwsKmsDiscovery, AwsKmsRsa, ProviderErrorKind as Kind, RawRsa, ResolveError, RsaPadding},
};
use serde_json::json;
use test_support::{
    fixtures::{RSA_PRIVATE, RSA_PUBLIC},
    geometry, header,
    kms::{ACCOUNT, Endpoint, Rsa, arn},
    peers::{Moto, Peer, REGION, path},
    plaintext, policy_for,
};

fn contexts() -> [EncryptionContext; 3] {
    [
        EncryptionContext::new(),
        EncryptionContext::from([("tenant", "acme"), ("ключ", "значение"), ("\u{ff5e}", "🔑"), ("\u{1f511}", "")]),
        (0..300).map(|i| (format!("name-{i}"), "v".repeat(100))).collect(),
    ]
}

/// Returns plaintext lengths around the ends of frames, including an exact multiple.
fn lengths(frame_len: u32) -> [usize; 6] {
    let len = frame_len as usize;
    [0, 1, len - 1, len, len + 1, 3 * len]
}

#[tokio::test]
#[ignore = "needs Python with the AWS Encryption SDK: see the top of tests/interop.rs"]
async fn messages_go_both_ways_between_this_crate_and_python_under_raw_aes_keys() {
    let mut peer = Peer::start(None);
    let mut cells = 0;
    for key_len in [16, 24, 32] {
        let key_file = peer.folder().join(format!("{key_len}.key"));
        let key = || {
            let key = kms_envelope::provider::SecretKey::try_from((0..key_len).collect::<Vec<_>>()).unwrap();
            RawAes::new("interop ✓", "ключ", key).unwrap()
        };
        key().write_key_file(&key_file).unwrap();
        let key_file = key_file.to_str().unwrap();
        for context in contexts() {
            for frame_len in [1, 7, 128, 4096, 65_536] {
                for backend in Backend::ALL.iter().copied() {
                    let envelope = Envelope::builder(key()).frame_len(frame_len).backend(backend).build().unwrap();
                    for len in lengths(frame_len) {
                        let plaintext = plaintext(len);
                        let sealed = envelope.seal(&plaintext, &context).await.unwrap();
                        assert_eq!(peer.open(key_file, &context, &sealed).unwrap(), plaintext, "{frame_len} {len}");
                        cells += 1;
                        if frame_len % 128 == 0 {
                            let sealed = peer.seal(key_file, &context, frame_len, &plaintext);
                            let opened = envelope.open(&sealed, &context).await.unwrap();
                            assert_eq!((opened.plaintext, opened.info.context()), (plaintext, &context));
                            cells += 1;
                        }
                    }
                }
            }
        }
    }
    println!("raw AES, this crate and Python: {cells} messages opened by the other side");
}

#[tokio::test]
#[ignore = "needs Python with the AWS Encryption SDK and moto: see the top of tests/interop.rs"]
async fn messages_go_both_ways_between_this_crate_and_python_under_a_kms_key() {
    let moto = Moto::start();
    let arn = moto.create_key().await;
    let mut peer = Peer::start(Some(moto.endpoint()));
    let mut cells = 0;
    for context in contexts() {
        // Neither KMS nor moto accepts a context this large.
        if context.len() > 100 {
            continue;
        }
        for frame_len in [1, 128, 65_536] {
            let kms = AwsKms::new(moto.client(), &arn).unwrap();
            let envelope = Envelope::builder(kms).frame_len(frame_len).build().unwrap();
            for len in lengths(frame_len) {
                let plaintext = plaintext(len);
                let sealed = envelope.seal(&plaintext, &context).await.unwrap();
                assert_eq!(peer.open(&arn, &context, &sealed).unwrap(), plaintext);
                cells += 1;
                if frame_len % 128 == 0 {
                    let sealed = peer.seal(&arn, &context, frame_len, &plaintext);
                    let opened = envelope.open(&sealed, &context).await.unwrap();
                    assert_eq!(opened.info.encrypted_data_key().key_name(), arn);
                    assert_eq!((opened.plaintext, opened.info.context()), (plaintext, &context));
                    cells += 1;
                }
            }
        }
    }
    println!("KMS, this crate and Python: {cells} messages opened by the other side");
}

fn acme() -> EncryptionContext {
    EncryptionContext::from([("tenant", "acme"), ("ключ", "значение")])
}

#[tokio::test]
#[ignore = "needs Python with the AWS Encryption SDK: see the top of tests/interop.rs"]
async fn messages_go_both_ways_between_this_crate_and_python_under_rsa_keys_of_kms() {
    let endpoint = Endpoint::with_rsa([(REGION, "rsa")], Some(Rsa::of_fixtures()));
    let mut peer = Peer::start(Some(endpoint.url()));
    let mut cells = 0;
    for (padding, algorithm) in
        [(RsaPadding::OaepSha1, "RSAES_OAEP_SHA_1"), (RsaPadding::OaepSha256, "RSAES_OAEP_SHA_256")]
    {
        let key_arn = arn(REGION, "rsa");
        let entry = json!({"kms": "rsa", "key_arn": key_arn, "algorithm": algorithm, "public_key": RSA_PUBLIC});
        let peers_key = peer.key_file("rsa.json", &entry);
        let key = AwsKmsRsa::new(endpoint.client(REGION), key_arn, padding).unwrap();
        let key: Arc<dyn KeyProvider> = Arc::new(key.with_public_key_pem(RSA_PUBLIC).unwrap());
        for suite in AlgorithmSuite::all().filter(|suite| suite.signature().is_none()) {
            let contexts = [EncryptionContext::new(), acme()];
            let cell = both_ways(&mut peer, suite, (&key, &peers_key), &contexts).await;
            cells += cell.ours + cell.theirs;
        }
    }
    println!("RSA keys of KMS, this crate and Python: {cells} messages opened by the other side");
}

#[cfg(feature = "ecdh")]
#[tokio::test]
#[ignore = "needs Python with the AWS Encryption SDK and moto: see the top of tests/interop.rs"]
async fn messages_go_both_ways_between_this_crate_and_python_under_ecdh_keys_of_kms() {
    use aws_sdk_kms::types::KeySpec;
    use base64ct::{Base64, Encoding};
    use kms_envelope::provider::{AwsKmsEcdh, RawEcdh};

    let moto = Moto::start();
    let mut peer = Peer::start(Some(moto.endpoint()));
    println!("ECDH keys of KMS: messages opened by the other side");
    println!("curve            Python: static  Python: discovery  here: static  here: discovery  ephemeral");
    for spec in [KeySpec::EccNistP256, KeySpec::EccNistP384, KeySpec::EccNistP521] {
        let (ours, our_der) = moto.create_agreement_key(spec.clone()).await;
        let (theirs, their_der) = moto.create_agreement_key(spec.clone()).await;
        let our_key = AwsKmsEcdh::fetch_public_key(moto.client(), &ours).await.unwrap();
        let their_key = AwsKmsEcdh::fetch_public_key(moto.client(), &theirs).await.unwrap();
        let entry = |key_arn: &str| json!({"kms": "ecdh", "key_arn": key_arn, "curve": spec.as_str()});
        let with_recipient = |key_arn: &str, der: &[u8]| {
            let mut entry = entry(key_arn);
            entry["recipient"] = Base64::encode_string(der).into();
            entry
        };
        let python_to_us = peer.key_file("to-us.json", &with_recipient(&theirs, &our_der));
        // Each party opens as either one.
        let python_as_us = peer.key_file("as-us.json", &with_recipient(&ours, &their_der));
        let python_discovery = peer.key_file("discovery.json", &entry(&theirs));
        let discovery = || AwsKmsEcdh::discovery(moto.client(), &ours, our_key.clone()).unwrap();
        let to_python = AwsKmsEcdh::static_keys(moto.client(), &ours, our_key.clone(), their_key.clone()).unwrap();
        let as_python = AwsKmsEcdh::static_keys(moto.client(), &theirs, their_key.clone(), our_key.clone()).unwrap();
        let mut cells = [0; 5];
        for suite in [AlgorithmSuite::default(), AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384] {
            for context in [EncryptionContext::new(), acme()] {
                for backend in Backend::ALL.iter().copied() {
                    let envelope = |provider: AwsKmsEcdh| {
                        Envelope::builder(provider).suite(suite).backend(backend).build().unwrap()
                    };
                    let sealed = envelope(to_python.clone()).seal(b"data", &context).await.unwrap();
                    for key in [&python_to_us, &python_as_us] {
                        assert_eq!(peer.open(key, &context, &sealed).unwrap(), b"data");
                        cells[0] += 1;
                    }
                    assert_eq!(peer.open(&python_discovery, &context, &sealed).unwrap(), b"data");
                    cells[1] += 1;

                    let sealed = peer.seal_with(suite, &python_to_us, &context, 4096, b"data");
                    assert_eq!(header(&sealed).encrypted_data_keys()[0].provider_id, "aws-kms-ecdh");
                    for (key, cell) in [(to_python.clone(), 2), (as_python.clone(), 2), (discovery(), 3)] {
                        assert_eq!(envelope(key).open(&sealed, &context).await.unwrap().plaintext, b"data");
                        cells[cell] += 1;
                    }

                    let ephemeral = RawEcdh::ephemeral(their_key.clone());
                    let ephemeral = Envelope::builder(ephemeral).suite(suite).backend(backend).build().unwrap();
                    let sealed = ephemeral.seal(b"data", &context).await.unwrap();
                    assert_eq!(peer.open(&python_discovery, &context, &sealed).unwrap(), b"data");
                    let opening = AwsKmsEcdh::discovery(moto.client(), &theirs, their_key.clone()).unwrap();
                    assert_eq!(envelope(opening).open(&sealed, &context).await.unwrap().plaintext, b"data");
                    cells[4] += 2;
                }
            }
        }
        let [python_static, python_discovery, here_static, here_discovery, ephemeral] = cells;
        println!(
            "{spec:<15} {python_static:>15} {python_discovery:>18} {here_static:>13} {here_discovery:>16} {ephemeral:>10}"
        );
    }
}

#[tokio::test]
#[ignore = "needs Python with the AWS Encryption SDK: see the top of tests/interop.rs"]
async fn replicas_and_discovery_open_what_the_other_side_sealed() {
    let (near, far) = ("eu-west-1", "us-east-1");
    let endpoint = Endpoint::new([(near, "mrk-1"), (far, "mrk-1"), (near, "single"), (far, "other")]);
    let mut peer = Peer::start(Some(endpoint.url()));
    let context = acme();
    let mrk = |region| json!({"kms": "mrk", "key_arn": arn(region, "mrk-1")});
    let discovery = |region| json!({"kms": "discovery", "region": region, "account": ACCOUNT});
    let replica = |region| Envelope::new(AwsKms::new(endpoint.client(region), arn(region, "mrk-1")).unwrap());
    let discover = AwsKmsDiscovery::new(|region| endpoint.client(region), [near, far]).unwrap();
    let discover = Envelope::new(discover.with_filter("aws", [ACCOUNT]));

    for (ours, theirs) in [(near, far), (far, near), (near, near)] {
        let peers_key = peer.key_file("mrk.json", &mrk(theirs));
        let sealed = replica(ours).seal(b"data", &context).await.unwrap();
        assert_eq!(peer.open(&peers_key, &context, &sealed).unwrap(), b"data");
        let sealed = peer.seal(&peers_key, &context, 4096, b"data");
        let opened = replica(ours).open(&sealed, &context).await.unwrap();
        assert_eq!((&opened.plaintext[..], opened.info.key_id()), (&b"data"[..], &*arn(ours, "mrk-1")));
        assert_eq!(discover.open(&sealed, &context).await.unwrap().info.key_id(), &*arn(near, "mrk-1"));
    }

    let keys = [arn(near, "single"), arn(far, "other")];
    let several = Envelope::new(AwsKms::multi(|region| endpoint.client(region), &keys).unwrap());
    let sealed = several.seal(b"data", &context).await.unwrap();
    for key in &keys {
        assert_eq!(peer.open(key, &context, &sealed).unwrap(), b"data");
        let theirs = peer.seal(key, &context, 4096, b"data");
        assert_eq!(several.open(&theirs, &context).await.unwrap().info.key_id(), *key);
        assert_eq!(discover.open(&theirs, &context).await.unwrap().info.key_id(), *key);
    }
    for region in [near, far] {
        let peers_key = peer.key_file("discovery.json", &discovery(region));
        assert_eq!(peer.open(&peers_key, &context, &sealed).unwrap(), b"data");
    }
}

#[tokio::test]
#[ignore = "needs Python with the AWS Encryption SDK: see the top of tests/interop.rs"]
async fn python_opens_messages_that_share_a_data_key_and_rewrapped_messages() {
    let endpoint = Endpoint::new([(REGION, "old"), (REGION, "newer")]);
    let mut peer = Peer::start(Some(endpoint.url()));
    let context = acme();
    let key = |id| AwsKms::new(endpoint.client(REGION), arn(REGION, id)).unwrap();
    for suite in [AlgorithmSuite::default(), AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384] {
        let cache = DataKeyCache::builder(Duration::from_secs(60)).build().unwrap();
        let envelope = Envelope::builder(key("old")).suite(suite).cache(cache.clone()).build().unwrap();
        for number in 0..3 {
            let sealed = envelope.seal(&[number], &context).await.unwrap();
            assert_eq!(peer.open(&arn(REGION, "old"), &context, &sealed).unwrap(), [number]);
        }
        assert_eq!(cache.stats().calls, 1);
    }

    let (old, new) = (Envelope::new(key("old")), Envelope::new(key("newer")));
    let ours = old.seal(b"data", &context).await.unwrap();
    for sealed in [ours, peer.seal(&arn(REGION, "old"), &context, 4096, b"data")] {
        let header = header(&sealed);
        let keys = old.rewrap(&header, &context, &key("newer")).await.unwrap();
        assert_eq!(new.with_detached_keys(keys).open(&sealed, &context).await.unwrap().plaintext, b"data");
        // The message has not changed.
        assert_eq!(peer.open(&arn(REGION, "old"), &context, &sealed).unwrap(), b"data");
        let resealed = old.reseal(&sealed, &context, &new).await.unwrap();
        assert_eq!(peer.open(&arn(REGION, "newer"), &context, &resealed).unwrap(), b"data");
    }
}

const PADDINGS: [(RsaPadding, &str); 5] = [
    (RsaPadding::OaepSha256, "OAEP_SHA256_MGF1"),
    (RsaPadding::OaepSha384, "OAEP_SHA384_MGF1"),
    (RsaPadding::OaepSha512, "OAEP_SHA512_MGF1"),
    (RsaPadding::OaepSha1, "OAEP_SHA1_MGF1"),
    (RsaPadding::Pkcs1v15, "PKCS1"),
];

/// Returns the RSA key of the fixtures, and the path of a key file with it for the Python peer.
fn rsa((padding, name): (RsaPadding, &str), folder: &Path) -> (Arc<dyn KeyProvider>, String) {
    let (public, private) = (RSA_PUBLIC, RSA_PRIVATE);
    let key = RawRsa::new("interop", "rsa", padding).unwrap();
    let key = key.with_public_key_pem(public).unwrap().with_private_key_pem(private).unwrap();
    let file = path(folder, &format!("{name}.json"));
    let entry = json!({
        "namespace": "interop", "name": "rsa", "padding": name, "public_key": public, "private_key": private,
    });
    fs::write(&file, entry.to_string()).unwrap();
    (Arc::new(key), file)
}

/// How many messages the other side opened, of those sealed by this crate and those sealed by Python.
#[derive(Default)]
struct Cell {
    ours: usize,
    theirs: usize,
}

/// Seals and opens in both directions, in one suite with one key.
async fn both_ways(
    peer: &mut Peer,
    suite: AlgorithmSuite,
    (provider, peers_key): (&Arc<dyn KeyProvider>, &str),
    contexts: &[EncryptionContext],
) -> Cell {
    const FRAME_LEN: u32 = 128;
    let mut cell = Cell::default();
    let policy = policy_for(suite);
    for context in contexts {
        for backend in Backend::ALL.iter().copied() {
            let builder = Envelope::builder(provider.clone()).suite(suite).commitment_policy(policy);
            let envelope = builder.frame_len(FRAME_LEN).backend(backend).build().unwrap();
            // Empty, shorter than a frame, an exact multiple, and longer.
            for len in [0, 100, 256, 300] {
                let plaintext = plaintext(len);
                let sealed = envelope.seal(&plaintext, context).await.unwrap();
                assert_eq!(peer.open(peers_key, context, &sealed).unwrap(), plaintext, "{suite} {len}");
                cell.ours += 1;
                // Also without frames.
                for frame_len in [FRAME_LEN, 0] {
                    let sealed = peer.seal_with(suite, peers_key, context, frame_len, &plaintext);
                    let header = header(&sealed);
                    assert_eq!(header.content_type() == ContentType::NonFramed, frame_len == 0);
                    let opened = envelope.open(&sealed, context).await.unwrap();
                    assert_eq!(
                        (opened.plaintext, opened.info.suite()),
                        (plaintext.clone(), suite),
                        "{len} {frame_len}"
                    );
                    for (name, value) in context {
                        assert_eq!(opened.info.context().get(name), Some(value));
                    }
                    cell.theirs += 1;
                }
            }
        }
    }
    cell
}

#[tokio::test]
#[ignore = "needs Python with the AWS Encryption SDK and moto: see the top of tests/interop.rs"]
async fn messages_of_every_suite_go_both_ways_between_this_crate_and_python() {
    let moto = Moto::start();
    let arn = moto.create_key().await;
    let mut peer = Peer::start(Some(moto.endpoint()));
    let folder = tempfile::tempdir().unwrap();
    let aes = RawAes::generate("interop", "aes").unwrap();
    let aes_file = path(folder.path(), "aes.key");
    aes.write_key_file(Path::new(&aes_file)).unwrap();
    let mut keys: Vec<(&str, Arc<dyn KeyProvider>, String)> = vec![("raw AES", Arc::new(aes), aes_file)];
    for padding in PADDINGS {
        let (provider, file) = rsa(padding, folder.path());
        keys.push((padding.1, provider, file));
    }
    keys.push(("KMS", Arc::new(AwsKms::new(moto.client(), &arn).unwrap()), arn));
    println!(
        "messages opened by the other side, sealed by this crate + sealed by Python (half of these without frames)"
    );
    println!("suite  {}", keys.iter().map(|(name, ..)| format!("{name:>18}")).collect::<String>());
    for suite in AlgorithmSuite::all() {
        print!("{suite}   ");
        for (name, provider, peers_key) in &keys {
            let contexts = contexts();
            let contexts = match *name {
                // KMS does not accept a context as large as the last one.
                "KMS" => &contexts[..2],
                "raw AES" | "OAEP_SHA256_MGF1" => &contexts[..],
                // RSA padding does not include the context.
                _ => &contexts[1..2],
            };
            let cell = both_ways(&mut peer, suite, (provider, peers_key), contexts).await;
            print!("{:>18}", format!("{} + {}", cell.ours, cell.theirs));
        }
        println!();
    }
}

#[tokio::test]
#[ignore = "needs Node.js with the AWS Encryption SDK: see the top of tests/interop.rs"]
async fn messages_of_every_suite_go_both_ways_between_this_crate_and_javascript() {
    let mut peer = Peer::start_javascript();
    println!("messages opened by the other side, sealed by this crate + sealed by JavaScript");
    println!("suite     AES-128   AES-192   AES-256");
    let mut footer_lens = BTreeSet::new();
    for suite in AlgorithmSuite::all() {
        print!("{suite}   ");
        for key_len in [16u8, 24, 32] {
            let key = kms_envelope::provider::SecretKey::try_from((0..key_len).collect::<Vec<_>>()).unwrap();
            let key = RawAes::new("interop ✓", "ключ", key).unwrap();
            let key_file = path(peer.folder(), &format!("{key_len}.key"));
            if !Path::new(&key_file).exists() {
                key.write_key_file(Path::new(&key_file)).unwrap();
            }
            let mut cell = Cell::default();
            let policy = policy_for(suite);
            let key: Arc<dyn KeyProvider> = Arc::new(key);
            for context in &contexts()[..2] {
                for frame_len in [1, 7, 128, 4096] {
                    let builder = Envelope::builder(key.clone()).suite(suite).commitment_policy(policy);
                    let envelope = builder.frame_len(frame_len).build().unwrap();
                    for len in lengths(frame_len) {
                        let plaintext = plaintext(len);
                        let sealed = envelope.seal(&plaintext, context).await.unwrap();
                        let opened = peer.open(&key_file, context, &sealed);
                        assert_eq!(opened.unwrap(), plaintext, "{suite} {frame_len} {len}");
                        cell.ours += 1;
                        let sealed = peer.seal_with(suite, &key_file, context, frame_len, &plaintext);
                        let opened = envelope.open(&sealed, context).await.unwrap();
                        assert_eq!(opened.plaintext, plaintext, "{suite} {frame_len} {len}");
                        let header = header(&sealed);
                        let geometry = geometry(&header, &sealed);
                        assert_eq!(geometry.plaintext_len(), len as u64, "{suite} {frame_len}");
                        if suite.signature().is_some() {
                            footer_lens.insert(sealed.len() as u64 - geometry.final_frame().sealed.end);
                        }
                        cell.theirs += 1;
                    }
                }
            }
            print!("{:>10}", format!("{} + {}", cell.ours, cell.theirs));
        }
        println!();
    }
    println!("footers of JavaScript, in bytes: {footer_lens:?}");
    // Signatures of P-256 and P-384, each in several lengths.
    assert!(footer_lens.len() > 2);
}

/// Seals messages with a fixed header length, in all suites, and returns how many the peer opened.
async fn padded(peer: &mut Peer, provider: &Arc<dyn KeyProvider>, peers_key: &str) -> usize {
    let mut cells = 0;
    for suite in AlgorithmSuite::all() {
        for context in &contexts()[..2] {
            let build = |header_len: Option<usize>| {
                let builder = Envelope::builder(provider.clone()).suite(suite).commitment_policy(policy_for(suite));
                header_len.into_iter().fold(builder.frame_len(128), EnvelopeBuilder::header_len).build().unwrap()
            };
            let needed = header(&build(None).seal(b"", context).await.unwrap()).len();
            for header_len in [needed, needed + 28, needed + 29, 1024, 65_535] {
                let plaintext = plaintext(300);
                let sealed = build(Some(header_len)).seal(&plaintext, context).await.unwrap();
                assert_eq!(header(&sealed).len(), header_len);
                let opened = peer.open(peers_key, context, &sealed);
                assert_eq!(opened.unwrap(), plaintext, "{suite} {needed} {header_len}");
                assert_eq!(build(None).open(&sealed, context).await.unwrap().plaintext, plaintext);
                cells += 1;
            }
        }
    }
    cells
}

async fn padded_with_raw_aes(peer: &mut Peer) -> usize {
    let key = RawAes::generate("interop", "aes").unwrap();
    let key_file = path(peer.folder(), "aes.key");
    key.write_key_file(Path::new(&key_file)).unwrap();
    padded(peer, &(Arc::new(key) as Arc<dyn KeyProvider>), &key_file).await
}

#[tokio::test]
#[ignore = "needs Python with the AWS Encryption SDK and moto: see the top of tests/interop.rs"]
async fn python_opens_messages_with_a_fixed_header_length() {
    let moto = Moto::start();
    let arn = moto.create_key().await;
    let mut peer = Peer::start(Some(moto.endpoint()));
    let kms: Arc<dyn KeyProvider> = Arc::new(AwsKms::new(moto.client(), &arn).unwrap());
    let cells = padded(&mut peer, &kms, &arn).await;
    println!("fixed header length, KMS: {cells} messages opened by Python");

    let cells = padded_with_raw_aes(&mut peer).await;
    println!("fixed header length, raw AES: {cells} messages opened by Python");
}

#[tokio::test]
#[ignore = "needs Node.js with the AWS Encryption SDK: see the top of tests/interop.rs"]
async fn javascript_opens_messages_with_a_fixed_header_length() {
    let mut peer = Peer::start_javascript();
    let cells = padded_with_raw_aes(&mut peer).await;
    println!("fixed header length, raw AES: {cells} messages opened by JavaScript");
}

#[tokio::test]
#[ignore = "needs Python with moto: see the top of tests/interop.rs"]
async fn the_real_kms_client_seals_opens_resolves_and_refuses() {
    let moto = Moto::start();
    let (arn, other_arn) = (moto.create_key().await, moto.create_key().await);
    moto.client().create_alias().alias_name("alias/invoices").target_key_id(&arn).send().await.unwrap();
    let context = EncryptionContext::from([("tenant", "acme")]);

    let kms = AwsKms::resolve(moto.client(), "alias/invoices").await.unwrap();
    assert_eq!(kms.key_arn(), arn);
    let bare = AwsKms::resolve(moto.client(), arn.rsplit_once('/').unwrap().1).await.unwrap();
    assert_eq!(bare.key_arn(), arn);
    let envelope = Envelope::new(kms);
    let sealed = envelope.seal(b"data", &context).await.unwrap();
    assert_eq!(Envelope::new(bare).open(&sealed, &context).await.unwrap().plaintext, b"data");

    let other = Envelope::new(AwsKms::new(moto.client(), other_arn).unwrap());
    let refused = other.open(&sealed, &context).await;
    assert!(matches!(&refused, Err(OpenError::Provider(e)) if e.kind() == Kind::NoMatchingKey));

    // A message with a modified stored context: KMS itself refuses it.
    let at = sealed.windows(4).position(|window| window == b"acme").unwrap();
    let mut changed = sealed.clone();
    changed[at] = b'A';
    let Err(OpenError::Provider(refused)) = envelope.open(&changed, &EncryptionContext::new()).await else {
        panic!("opened")
    };
    let kinds: Vec<_> = refused.attempts().iter().map(ProviderError::kind).collect();
    assert_eq!(kinds, [Kind::InvalidCiphertext], "{refused:?}");

    let missing = AwsKms::resolve(moto.client(), "alias/none").await;
    assert!(matches!(&missing, Err(ResolveError::Provider(e)) if e.kind() == Kind::NotFound), "{missing:?}");
    let gone = format!("arn:aws:kms:{REGION}:123456789012:key/00000000-0000-0000-0000-000000000000");
    let refused = Envelope::new(AwsKms::new(moto.client(), gone).unwrap()).seal(b"data", &context).await;
    assert!(refused.unwrap_err().to_string().contains("the key does not exist"));
}

#[tokio::test]
#[ignore = "needs Python with the AWS Encryption SDK: see the top of tests/interop.rs"]
async fn python_refuses_the_messages_that_this_crate_refuses() {
    let mut peer = Peer::start(None);
    let key_file = path(peer.folder(), "local.key");
    let key = RawAes::generate("interop", "key").unwrap();
    key.write_key_file(Path::new(&key_file)).unwrap();
    let context = EncryptionContext::from([("tenant", "acme")]);
    let envelope = Envelope::builder(key).frame_len(128).build().unwrap();
    let sealed = envelope.seal(&plaintext(300), &context).await.unwrap();
    let header = header(&sealed);
    for at in [10, 60, header.len() - 1, header.len() + 5, header.len() + 50, sealed.len() - 1] {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert!(peer.open(&key_file, &context, &changed).is_err(), "byte {at}");
        assert!(envelope.open(&changed, &context).await.is_err(), "byte {at}");
    }
    let other = EncryptionContext::from([("tenant", "other")]);
    assert!(peer.open(&key_file, &other, &sealed).is_err());
    assert!(envelope.open(&sealed, &other).await.is_err());
}
