//! Tests of uploads to S3 and downloads, with moto. Run with
//!
//! ```text
//! python3 -m venv .venv && .venv/bin/pip install -r tests/python/requirements.txt
//! cargo test -p kms-envelope-examples --test s3 -- --ignored
//! ```
//!
//! or set `KMS_ENVELOPE_PYTHON` to another Python with the same packages.

use std::{fs, process::Command};

use aws_sdk_s3::{
    config::{BehaviorVersion, Credentials, Region},
    primitives::ByteStream,
};
use kms_envelope::RawAes;
use test_support::peers::{Moto, REGION, aws_environment, path};

async fn s3(moto: &Moto) -> aws_sdk_s3::Client {
    let config = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .endpoint_url(moto.endpoint())
        .load()
        .await;
    let config = aws_sdk_s3::config::Builder::from(&config).force_path_style(true).build();
    aws_sdk_s3::Client::from_conf(config)
}

/// Runs the program. Returns its output, or its error output if it fails.
fn run(moto: &Moto, key: &str, args: [&str; 3]) -> Result<String, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_s3"))
        .args(args)
        .env("KMS_ENVELOPE_KEY", key)
        .envs(aws_environment(moto.endpoint()))
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[tokio::test]
#[ignore = "needs Python with moto: see CONTRIBUTING.md"]
async fn uploads_are_sealed_and_download_only_complete_and_under_their_own_name() {
    let moto = Moto::start();
    let s3 = s3(&moto).await;
    s3.create_bucket()
        .bucket("letters")
        .create_bucket_configuration(
            aws_sdk_s3::types::CreateBucketConfiguration::builder().location_constraint(REGION.into()).build(),
        )
        .send()
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [plain, opened, key_file] = ["plain", "opened", "local.key"].map(|name| path(folder.path(), name));
    RawAes::generate("examples", "s3").unwrap().write_key_file(&key_file).unwrap();
    let arn = moto.create_key().await;

    for (key, name) in [(&key_file, "examples/s3"), (&arn, &*format!("aws-kms/{arn}"))] {
        for len in [0, 1, 65_536, 3_000_000] {
            let text = b"attack at dawn, ".repeat(len / 16 + 1)[..len].to_vec();
            fs::write(&plain, &text).unwrap();
            let put = run(&moto, key, ["put", &plain, "s3://letters/2026/plan"]).unwrap();
            let object = s3.get_object().bucket("letters").key("2026/plan").send().await.unwrap();
            let sealed = object.body.collect().await.unwrap().into_bytes();
            assert_eq!(put, format!("s3://letters/2026/plan: {len} bytes, sealed {}\n", sealed.len()));
            assert!(sealed.len() > len && !sealed.windows(6).any(|window| window == b"attack"));

            let got = run(&moto, key, ["get", "s3://letters/2026/plan", &opened]).unwrap();
            assert_eq!(got, format!("{opened}: {len} bytes, key {name}\n"));
            assert!(fs::read(&opened).unwrap() == text);
            fs::remove_file(&opened).unwrap();
        }
    }

    let copy = s3.copy_object().copy_source("letters/2026/plan").bucket("letters").key("2026/other");
    copy.send().await.unwrap();
    let error = run(&moto, &arn, ["get", "s3://letters/2026/other", &opened]).unwrap_err();
    assert!(
        error.contains("the message's encryption context has a different value for \"key\" than expected"),
        "{error}"
    );

    let error = run(&moto, &key_file, ["get", "s3://letters/2026/plan", &opened]).unwrap_err();
    assert!(error.contains("none of the message's encrypted data keys is for examples/s3"), "{error}");

    let object = s3.get_object().bucket("letters").key("2026/plan").send().await.unwrap();
    let sealed = object.body.collect().await.unwrap().into_bytes();
    let cut = ByteStream::from(sealed.slice(..sealed.len() - 100));
    s3.put_object().bucket("letters").key("2026/plan").body(cut).send().await.unwrap();
    let error = run(&moto, &arn, ["get", "s3://letters/2026/plan", &opened]).unwrap_err();
    assert!(error.contains("the message is truncated"), "{error}");

    let error = run(&moto, &arn, ["put", &plain, "s3://none/plan"]).unwrap_err();
    assert!(error.contains("NoSuchBucket"), "{error}");
    let left = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 2, "the plaintext and the key file");
}
