//! Any input is parsed or refused, without a panic, as a key file, detached keys, a key ARN and PEM.

#![no_main]

use std::sync::LazyLock;

use aws_sdk_kms::{Client, Config, config::BehaviorVersion};
use kms_envelope::{AwsKms, Limits, RawAes, message::DetachedKeys, provider::{EcdhPrivateKey, EcdhPublicKey, RawRsa, RsaPadding}};
use libfuzzer_sys::fuzz_target;

static CLIENT: LazyLock<Client> =
    LazyLock::new(|| Client::from_conf(Config::builder().behavior_version(BehaviorVersion::latest()).build()));

fuzz_target!(|data: &[u8]| {
    if let Ok(key) = RawAes::from_json(data) {
        assert!(matches!(key.key().len(), 16 | 24 | 32));
    }
    if let Ok(keys) = DetachedKeys::parse(data, &Limits::default()) {
        assert_eq!(keys.to_bytes(), data);
    }
    let Ok(text) = str::from_utf8(data) else { return };
    if AwsKms::new(CLIENT.clone(), text).is_ok() {
        let parts: Vec<_> = text.split(':').collect();
        assert_eq!((parts.len(), parts[0], parts[2]), (6, "arn", "kms"));
        assert!(parts[5].starts_with("key/"));
    }
    let _ = EcdhPublicKey::from_pem(text);
    let _ = EcdhPrivateKey::from_pem(text);
    let rsa = || RawRsa::new("fuzz", "key", RsaPadding::OaepSha256).unwrap();
    let _ = rsa().with_public_key_pem(text);
    let _ = rsa().with_private_key_pem(text);
});
