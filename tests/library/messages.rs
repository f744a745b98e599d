//! Messages of other libraries: the fixtures, written by AWS's SDK for Python, and AWS's published test vectors.

use std::{
    collections::BTreeMap,
    env, fs,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64ct::{Base64, Encoding};
use kms_envelope::{
    AlgorithmSuite, Backend, CommitmentPolicy, EncryptionContext, Envelope, KeyProvider, RawAes,
    message::ContentType,
    provider::{MultiProvider, SecretKey},
};
use pollster::block_on;
use serde_json::Value;
use test_support::{fixtures, geometry, header};

fn json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn pairs(value: &Value) -> EncryptionContext {
    value.as_object().unwrap().iter().map(|(name, value)| (name.clone(), text(value))).collect()
}

fn local_key(namespace: &str, name: &str, base64: &str) -> RawAes {
    let key = SecretKey::try_from(Base64::decode_vec(base64).unwrap()).unwrap();
    RawAes::new(namespace, name, key).unwrap()
}

fn suite(hex: &str) -> AlgorithmSuite {
    AlgorithmSuite::from_id(u16::from_str_radix(hex, 16).unwrap()).unwrap()
}

/// Opens with each backend, as whole buffer and as stream, and compares the results.
fn assert_opens<P: KeyProvider + 'static>(
    message: &[u8],
    key: impl Fn() -> P,
    context: &EncryptionContext,
    required: &[String],
    plaintext: &[u8],
) {
    for backend in Backend::ALL.iter().copied() {
        let builder = Envelope::builder(key()).backend(backend).required_context(required);
        let envelope = builder.commitment_policy(CommitmentPolicy::RequireEncryptAllowDecrypt).build().unwrap();
        let opened = block_on(envelope.open(message, context)).unwrap();
        assert!(opened.plaintext == plaintext);
        for (name, value) in context {
            assert_eq!(opened.info.context().get(name), Some(value));
        }
        let mut streamed = Vec::new();
        block_on(envelope.open_reader(message, context)).unwrap().read_to_end(&mut streamed).unwrap();
        assert!(streamed == plaintext);
    }
}

#[test]
fn messages_of_the_python_sdk_open_with_the_documented_properties() {
    let folder = fixtures::path("");
    let manifest = json(&folder.join("manifest.json"));
    let mut opened = 0;
    for entry in manifest["messages"].as_array().unwrap() {
        let message = fs::read(folder.join(text(&entry["file"]))).unwrap();
        let (stored, required) = (pairs(&entry["context"]), pairs(&entry["required_context"]));
        let header = header(&message);
        assert_eq!(header.suite(), suite(text(&entry["suite"])));
        for (name, value) in &stored {
            assert_eq!(header.context().get(name), Some(value));
        }
        let plaintext_len = entry["plaintext_len"].as_u64().unwrap();
        match header.content_type() {
            ContentType::Framed { frame_len } => {
                assert_eq!(u64::from(frame_len.get()), entry["frame_len"].as_u64().unwrap());
                assert_eq!(geometry(&header, &message).plaintext_len(), plaintext_len);
            }
            other => assert_eq!((other, text(&entry["content_type"])), (ContentType::NonFramed, "non-framed")),
        }
        let plaintext: Vec<_> = (0..plaintext_len).map(|i| (7 * i % 256) as u8).collect();
        let mut context = stored.clone();
        context.extend(&required);
        let names: Vec<_> = required.iter().map(|(name, _)| name.to_owned()).collect();
        for key in entry["keys"].as_array().unwrap() {
            let file = json(&folder.join(text(key)));
            let key = || local_key(text(&file["namespace"]), text(&file["name"]), text(&file["key"]));
            assert_opens(&message, key, &context, &names, &plaintext);
        }
        opened += 1;
    }
    assert_eq!(opened, 110);
}

/// Opens AWS's test vectors, or any other folder with an `awses-decrypt` manifest.
#[test]
#[ignore = "needs AWS's published test vectors; run with KMS_ENVELOPE_VECTORS=$PWD/FOLDER cargo test --test library published -- --ignored"]
fn published_messages_open() {
    let folder = PathBuf::from(env::var("KMS_ENVELOPE_VECTORS").expect("KMS_ENVELOPE_VECTORS: the vectors' folder"));
    let manifest = json(&folder.join("decrypt-manifest.json"));
    assert_eq!(manifest["manifest"]["type"], "awses-decrypt");
    let file = |uri: &Value| fs::read(folder.join(text(uri).strip_prefix("file://").unwrap())).unwrap();
    let keys = serde_json::from_slice::<Value>(&file(&manifest["keys"])).unwrap();

    let (mut headers, mut opened, mut refused) = (0, 0, 0);
    let mut left = BTreeMap::<String, usize>::new();
    let tests = manifest["tests"].as_object().unwrap();
    for (name, test) in tests {
        let scenario = &test["decryption-scenario"];
        let message = file(&scenario["ciphertext"]);
        let header = header(&message);
        assert_eq!(header.suite(), suite(text(&scenario["algorithmSuiteId"])), "{name}");
        // Version 5 names the plaintext. Version 4 specifies the result: a plaintext or an error.
        let result = &scenario["result"];
        let fails = result.get("error").is_some();
        let plaintext = match result.pointer("/output/plaintext") {
            _ if fails => Vec::new(),
            Some(plaintext) => file(plaintext),
            None => file(result),
        };
        if header.content_type() != ContentType::NonFramed && !fails {
            assert_eq!(geometry(&header, &message).plaintext_len(), plaintext.len() as u64, "{name}");
        }
        headers += 1;

        let description = &scenario["decryptKeyDescription"];
        let Some(provider) = provider(description, &keys["keys"]) else {
            *left.entry(text(&description["type"]).to_owned()).or_default() += 1;
            continue;
        };
        let required: Vec<_> = description["requiredEncryptionContextKeys"]
            .as_array()
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .map(|name| text(name).to_owned())
            .collect();
        let context = pairs(&scenario["reproduced-encryption-context"]);
        if fails {
            let builder = Envelope::builder(provider).required_context(&required);
            let envelope = builder.commitment_policy(CommitmentPolicy::RequireEncryptAllowDecrypt).build().unwrap();
            assert!(block_on(envelope.open(&message, &context)).is_err(), "{name}");
            refused += 1;
        } else {
            assert_opens(&message, || provider.clone(), &context, &required, &plaintext);
            opened += 1;
        }
    }
    println!("published messages: opened {opened} of {}, read the headers of {headers}", tests.len());
    if refused > 0 {
        println!("  refused, as they must be: {refused}");
    }
    for (why, count) in &left {
        println!("  not opened: {count:3} ({why}, which needs KMS)");
    }
    let left: usize = left.into_values().sum();
    assert_eq!((headers, opened + refused + left), (tests.len(), tests.len()));
    assert!(opened > 0);
}

/// Returns the key provider that a test describes, if it needs no service.
fn provider(description: &Value, keys: &Value) -> Option<Arc<dyn KeyProvider>> {
    let key = |field: &str| &keys[text(&description[field])];
    Some(match text(&description["type"]) {
        "raw" if description["encryption-algorithm"] == "aes" => {
            let key = key("key");
            Arc::new(local_key(text(&description["provider-id"]), text(&key["key-id"]), text(&key["material"])))
        }
        "required-encryption-context-cmm" => provider(&description["underlying"], keys)?,
        "multi-keyring" => {
            let children = description["childKeyrings"].as_array()?;
            let generator = MultiProvider::new(provider(&description["generator"], keys)?);
            let with = |multi: MultiProvider, child| Some(multi.with(provider(child, keys)?));
            Arc::new(children.iter().try_fold(generator, with)?)
        }
        #[cfg(feature = "rsa")]
        "raw" if description["encryption-algorithm"] == "rsa" => {
            use kms_envelope::provider::{RawRsa, RsaPadding};
            let padding = match (text(&description["padding-algorithm"]), text(&description["padding-hash"])) {
                ("pkcs1", _) => RsaPadding::Pkcs1v15,
                (_, "sha1") => RsaPadding::OaepSha1,
                (_, "sha256") => RsaPadding::OaepSha256,
                (_, "sha384") => RsaPadding::OaepSha384,
                (_, "sha512") => RsaPadding::OaepSha512,
                other => panic!("{other:?}"),
            };
            let (namespace, key) = (text(&description["provider-id"]), key("key"));
            let rsa = RawRsa::new(namespace, text(&key["key-id"]), padding).unwrap();
            Arc::new(rsa.with_private_key_pem(text(&key["material"])).unwrap())
        }
        #[cfg(feature = "ecdh")]
        "raw-ecdh" => {
            use kms_envelope::provider::{EcdhPrivateKey, EcdhPublicKey, RawEcdh};
            let recipient = key("recipient");
            if description["schema"] == "discovery" {
                let pem = text(&recipient["recipient-material"]);
                Arc::new(RawEcdh::discovery(EcdhPrivateKey::from_pem(pem).unwrap()))
            } else {
                let public = |key: &Value| {
                    let base64 = text(key);
                    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", wrap(base64));
                    EcdhPublicKey::from_pem(&pem).unwrap()
                };
                let own = EcdhPrivateKey::from_pem(text(&key("sender")["sender-material"])).unwrap();
                assert_eq!(own.public_key(), public(&key("sender")["sender-material-public-key"]));
                Arc::new(RawEcdh::static_keys(own, public(&recipient["recipient-material-public-key"])).unwrap())
            }
        }
        #[cfg(feature = "branch-key")]
        "aws-kms-hierarchy" => {
            use kms_envelope::provider::StaticBranchKey;
            let key = key("key");
            let hex = text(&key["branchKeyVersion"]).replace('-', "");
            let version = u128::from_str_radix(&hex, 16).unwrap().to_be_bytes();
            let branch_key = SecretKey::try_from(Base64::decode_vec(text(&key["branchKey"])).unwrap()).unwrap();
            Arc::new(StaticBranchKey::new(text(&key["key-id"]), version, branch_key).unwrap())
        }
        _ => return None,
    })
}

/// Returns base64 in lines of 64 characters, as in PEM.
#[cfg(feature = "ecdh")]
fn wrap(base64: &str) -> String {
    let lines = base64.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap());
    lines.collect::<Vec<_>>().join("\n")
}
