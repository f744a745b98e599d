//! Tests of the store of branch keys in a SQL database, and of its program with a simulated KMS.

#[expect(dead_code, reason = "the program's main")]
#[path = "../src/bin/branch_keys.rs"]
mod branch_keys;

use std::process::Command;

use branch_keys::SqlBranchKeys;
use kms_envelope::testing::StoreConformance;
use sqlx::{SqlitePool, sqlite::SqliteConnectOptions};
use test_support::{kms, peers::aws_environment};

#[tokio::test]
async fn the_store_conforms_to_the_requirements_of_stores() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new().filename(folder.path().join("db")).create_if_missing(true);
    let store = SqlBranchKeys::new(SqlitePool::connect_with(options).await.unwrap()).await.unwrap();
    StoreConformance::new(&store).check().await;
}

#[test]
fn the_program_creates_branch_keys_and_then_versions_and_requests_each_once_to_seal_and_once_to_open() {
    let folder = tempfile::tempdir().unwrap();
    let kms = kms::Endpoint::new([("eu-central-1", "1234abcd")]);
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_branch_keys"));
        command.arg(folder.path().join("db")).arg(kms::arn("eu-central-1", "1234abcd"));
        let output = command.envs(aws_environment(kms.url())).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let used = "1000 messages sealed and opened with 4 requests for branch keys\n";
    assert_eq!(run(), format!("acme: created a branch key\nglobex: created a branch key\n{used}"));
    assert_eq!(kms.calls_of("Decrypt"), 4);
    let output = run();
    assert!(output.starts_with("acme: created version ") && output.contains("\nglobex: created version "), "{output}");
    assert_eq!(kms.calls_of("Decrypt"), 8);
}
