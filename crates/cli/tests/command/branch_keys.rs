//! `branch-key` and `--key branch:TABLE/ID`, with a simulated KMS and DynamoDB.

use std::process::Command;

use serde_json::{Value, json};
use test_support::{
    dynamodb,
    kms::{self, Fault},
};

use crate::{Ended, Folder, end, with_credentials};

const TABLE: &str = "branch-keys";
const REGION: &str = dynamodb::REGION;

struct Aws {
    kms: kms::Endpoint,
    dynamodb: dynamodb::Endpoint,
    folder: Folder,
}

impl Aws {
    fn new() -> Self {
        let kms = kms::Endpoint::new([(REGION, "1234abcd"), (REGION, "mrk-5678"), ("us-east-1", "mrk-5678")]);
        Self { kms, dynamodb: dynamodb::Endpoint::new([TABLE]), folder: Folder::new() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.folder.command(args);
        with_credentials(&mut command)
            .env_remove("AWS_ENDPOINT_URL")
            .env("AWS_ENDPOINT_URL_KMS", self.kms.url())
            .env("AWS_ENDPOINT_URL_DYNAMODB", self.dynamodb.url())
            .env("AWS_REGION", REGION);
        command
    }

    fn run(&self, args: &[&str]) -> Ended {
        end(&mut self.command(args), b"data")
    }

    /// Returns the one line that a successful run prints.
    #[track_caller]
    fn line(&self, args: &[&str]) -> String {
        let output = String::from_utf8(self.run(args).done()).unwrap();
        output.strip_suffix('\n').filter(|line| !line.contains('\n')).expect("one line").to_owned()
    }

    #[track_caller]
    fn create(&self, name: &str) {
        let arn = &kms::arn(REGION, "1234abcd")[..];
        let created = self.line(&["branch-key", "create", "--kms-key", arn, "-c", "tenant=acme", name]);
        assert!(name.ends_with(&created));
    }

    fn show(&self, name: &str) -> Value {
        serde_json::from_slice(&self.run(&["branch-key", "show", "--json", name]).done()).unwrap()
    }
}

fn arn() -> String {
    kms::arn(REGION, "1234abcd")
}

#[test]
fn a_branch_key_is_created_rotated_shown_and_used() {
    let aws = Aws::new();
    let (name, key) = ("branch-keys/tenant/acme", "branch:branch-keys/tenant/acme");
    aws.create(name);
    let first = aws.show(name);
    let old = aws.run(&["seal", "--key", key]).done();
    let version = aws.line(&["branch-key", "version", "--kms-key", &arn(), name]);
    let second = aws.show(name);
    assert_ne!(first["version"], second["version"]);
    assert_eq!(second["version"], version);
    assert_eq!(
        second,
        json!({
            "kind": "branch-key", "authenticated": false, "table": TABLE, "id": "tenant/acme", "version": version,
            "create_time": second["create_time"], "kms_arn": arn(), "hierarchy_version": 1,
            "context": {"tenant": "acme"}, "other_attributes": {}, "beacon_create_time": first["create_time"],
        })
    );
    let text = String::from_utf8(aws.run(&["branch-key", "show", name]).done()).unwrap();
    for part in [
        &version[..],
        "\"tenant/acme\" in table branch-keys",
        "\"tenant\" = \"acme\"",
        &arn(),
        "None of this is authenticated",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let new = aws.run(&["seal", "--key", key, "--kms-key", &arn()]).done();
    for sealed in [&old, &new] {
        assert_eq!(end(&mut aws.command(&["open", "--key", key]), sealed).done(), b"data");
        let inspected = end(&mut aws.command(&["inspect", "--json", "--key", key]), sealed).done();
        let inspected: Value = serde_json::from_slice(&inspected).unwrap();
        assert_eq!((&inspected["opens"], &inspected["authenticated"]), (&json!(true), &json!(true)));
    }
    // A local key can be replaced by a branch key, and the reverse.
    aws.folder.run(&["keygen", "local"]).done();
    aws.folder.write("sealed", &old);
    aws.run(&["rewrap", "--key", key, "--to", "local", "-o", "keys", "sealed"]).done();
    assert_eq!(aws.folder.run(&["open", "--key", "local", "--keys", "keys", "sealed"]).done(), b"data");
    // `show` calls only DynamoDB, and no plaintext key was requested to create and to rotate.
    assert_eq!(aws.kms.calls_of("GenerateDataKey"), 0);
    assert_eq!(aws.kms.calls_of("GenerateDataKeyWithoutPlaintext"), 3);
    assert_eq!(aws.kms.calls_of("ReEncrypt"), 3);
}

#[test]
fn a_table_is_created_once_and_an_id_is_a_uuid_unless_it_is_given() {
    let aws = Aws::new();
    let ended = aws.run(&["branch-key", "create-table", "new-table"]);
    assert!(ended.stderr.contains("new-table: the table is ready"), "{}", ended.stderr);
    assert!(ended.done().is_empty());
    assert!(aws.run(&["--quiet", "branch-key", "create-table", "new-table"]).stderr.is_empty());
    assert_eq!(aws.dynamodb.calls()["CreateTable"], 1);
    let id = aws.line(&["branch-key", "create", "--kms-key", &arn(), "new-table"]);
    assert_eq!((id.len(), aws.show(&format!("new-table/{id}"))["id"].as_str()), (36, Some(&id[..])));
    assert_eq!(aws.show(&format!("new-table/{id}"))["context"], json!({}));
    let arn_of_table = format!("arn:aws:dynamodb:{REGION}:111122223333:table/other");
    aws.run(&["branch-key", "create-table", &arn_of_table]).done();
    // The region is in the ARN of the table.
    let name = format!("{arn_of_table}/tenant");
    let args = ["branch-key", "create", "--kms-key", &arn(), "-c", "a=b", &name];
    end(aws.command(&args).env_remove("AWS_REGION"), b"").done();
    let key = format!("branch:{name}");
    let sealed = end(aws.command(&["seal", "--key", &key]).env_remove("AWS_REGION"), b"data").done();
    assert_eq!(end(&mut aws.command(&["open", "--key", &key, "--key-store", "other"]), &sealed).done(), b"data");
}

#[test]
fn another_logical_key_store_name_or_kms_key_opens_nothing() {
    let aws = Aws::new();
    let name = "branch-keys/acme";
    let args = ["branch-key", "create", "--kms-key", &arn(), "--key-store", "original", "-c", "a=b", name];
    aws.run(&args).done();
    let key = "branch:branch-keys/acme";
    let said = aws.run(&["seal", "--key", key]).failed();
    assert!(said.contains("the logical name of its key store is not \"branch-keys\""), "{said}");
    let said = aws.run(&["branch-key", "version", "--kms-key", &arn(), name]).failed();
    assert!(said.contains("the logical name of its key store is not \"branch-keys\""), "{said}");
    let sealed = aws.run(&["seal", "--key", key, "--key-store", "original"]).done();
    let other = kms::arn(REGION, "mrk-5678");
    let mut open = aws.command(&["open", "--key", key, "--key-store", "original", "--kms-key", &other]);
    let said = end(&mut open, &sealed).failed();
    assert!(said.contains(&format!("its kms-arn is {}, but the configured key is {other}", arn())), "{said}");
}

#[test]
fn a_replica_of_a_multi_region_key_opens_with_and_without_its_arn() {
    let aws = Aws::new();
    let (near, far) = (kms::arn(REGION, "mrk-5678"), kms::arn("us-east-1", "mrk-5678"));
    aws.run(&["branch-key", "create", "--kms-key", &far, "-c", "a=b", "branch-keys/acme"]).done();
    for more in [&[][..], &["--kms-key", &near], &["--kms-key", &far]] {
        let sealed = aws.run(&[&["seal", "--key", "branch:branch-keys/acme"], more].concat()).done();
        assert!(!sealed.is_empty());
    }
    let regions: Vec<_> = aws.kms.log().into_iter().rev().take(3).map(|(_, region)| region).collect();
    assert_eq!(regions, ["us-east-1", REGION, REGION]);
}

#[test]
fn of_two_processes_that_rotate_one_wins_and_the_other_changes_nothing() {
    let aws = Aws::new();
    aws.create("branch-keys/acme");
    let mut versions = 1;
    for _ in 0..5 {
        let mut args = aws.command(&["branch-key", "version", "--kms-key", &arn(), "branch-keys/acme"]);
        let mut other = aws.command(&["branch-key", "version", "--kms-key", &arn(), "branch-keys/acme"]);
        let other = std::thread::spawn(move || end(&mut other, b""));
        let ended = [end(&mut args, b""), other.join().unwrap()];
        let active = aws.show("branch-keys/acme")["version"].clone();
        let winners: Vec<_> = ended.iter().filter(|ended| ended.status == 0).collect();
        versions += winners.len();
        assert!(winners.iter().any(|winner| String::from_utf8_lossy(&winner.stdout).trim() == active));
        for ended in ended.into_iter().filter(|ended| ended.status != 0) {
            let said = ended.failed();
            assert!(said.contains("was replaced") && said.contains("at the same time"), "{said}");
        }
        let mut stored = 0;
        aws.dynamodb.change(TABLE, |items| {
            stored = items.keys().filter(|[_, kind]| kind.starts_with("branch:version:")).count();
        });
        assert_eq!(stored, versions);
    }
}

#[test]
fn failures_say_what_to_do() {
    let aws = Aws::new();
    aws.create("branch-keys/acme");
    let (id, key) = ("branch-keys/acme", "branch:branch-keys/acme");
    let version = ["branch-key", "version", "--kms-key", &arn(), id];
    let create = ["branch-key", "create", "--kms-key", &arn(), "-c", "tenant=acme", id];
    for (args, words) in [
        (&create[..], &["nothing was written", "exists already", "hint: to rotate an existing branch key"][..]),
        (&["branch-key", "show", "branch-keys/other"], &["branch-keys/other: the table has no such branch key"]),
        (&["branch-key", "show", "missing/acme"], &["missing/acme", "the table does not exist"]),
        (&["branch-key", "version", "--kms-key", &arn(), "branch-keys/other"], &["no item of type branch:ACTIVE"]),
        (&["seal", "--key", "branch:branch-keys/other"], &["no item of type branch:ACTIVE"]),
        (&["seal", "--key", "branch:missing/acme"], &["missing/acme", "the table does not exist"]),
        (&["seal", "--key", key, "--kms-key", "alias/x"], &["alias/x"]),
        (&["branch-key", "create", "--kms-key", "1234", "branch-keys"], &["1234"]),
    ] {
        let said = aws.run(args).failed();
        assert!(words.iter().all(|word| said.contains(word)), "{args:?}: {said}");
    }
    let region = |args: &[&str]| end(aws.command(args).env_remove("AWS_REGION"), b"").failed();
    assert!(region(&["seal", "--key", key]).contains("branch-keys: no AWS region is configured"));
    assert!(region(&["branch-key", "show", id]).contains("set AWS_REGION"));
    let said = end(aws.command(&version).env("AWS_ENDPOINT_URL_DYNAMODB", "localhost"), b"").failed();
    assert!(said.contains("AWS_ENDPOINT_URL_DYNAMODB must be"), "{said}");

    aws.dynamodb.script(|_| Fault::Refuse("AccessDeniedException"));
    let said = aws.run(&version).failed();
    assert!(said.contains("GetItem") && said.contains("AccessDeniedException: said DynamoDB"), "{said}");
    aws.dynamodb.script(|_| Fault::Cancel("TransactionConflict"));
    assert!(aws.run(&create).failed().contains("the transaction was canceled: TransactionConflict"));
    aws.dynamodb.script(|_| Fault::None);
    aws.kms.script(|_| Fault::Refuse("DisabledException"));
    for args in [&create[..], &version, &["seal", "--key", key]] {
        let said = aws.run(args).failed();
        assert!(said.contains("DisabledException"), "{said}");
    }
    // An item whose text would control the terminal is escaped.
    aws.dynamodb.change(TABLE, |items| {
        let active = items.get_mut(&["acme", "branch:ACTIVE"].map(str::to_owned)).unwrap();
        active["kms-arn"] = json!({"S": "\u{1b}[2J"});
        active["more"] = json!({"S": "\u{202e}\n"});
    });
    let shown = [aws.run(&["branch-key", "show", id]), aws.run(&["branch-key", "show", "--json", id])];
    for shown in shown {
        let shown = String::from_utf8(shown.done()).unwrap();
        assert!(shown.contains("more") && !shown.contains(['\u{1b}', '\u{202e}']), "{shown}");
    }
}

#[test]
fn invalid_arguments_are_refused_before_anything_is_sent() {
    let aws = Aws::new();
    let arn = &arn()[..];
    for (args, words) in [
        (&["branch-key"][..], "Usage: kms-envelope branch-key"),
        (&["branch-key", "show", "acme"], "expected TABLE/ID"),
        (&["branch-key", "show", "branch-keys/"], "expected TABLE/ID"),
        (&["branch-key", "version", "--kms-key", arn, "/acme"], "expected TABLE/ID"),
        (&["branch-key", "version", "branch-keys/acme"], "--kms-key <ARN>"),
        (&["branch-key", "create", "branch-keys"], "--kms-key <ARN>"),
        (&["branch-key", "create", "--kms-key", arn, "/"], "expected TABLE/ID"),
        (&["branch-key", "create", "--kms-key", arn, "branch-keys/acme"], "--context is required"),
        (&["branch-key", "create", "--kms-key", arn, "-c", "a=1", "-c", "a=2", "branch-keys"], "\"a\" twice"),
        (&["branch-key", "create", "--kms-key", arn, "-c", "a", "branch-keys"], "expected NAME=VALUE"),
        (&["seal", "--key", "branch:branch-keys"], "expected TABLE/ID"),
        (&["seal", "--key", "branch:a/b", "--new-key"], "--new-key"),
        (&["keygen", "branch:a/b"], "put ./ in front"),
    ] {
        let said = aws.run(args).usage();
        assert!(said.contains(words), "{args:?}: {said}");
    }
    // The usage of the nested command is shown.
    let said = aws.run(&["branch-key", "create", "--kms-key", arn, "branch-keys/acme"]).usage();
    assert!(said.contains("Usage: kms-envelope branch-key create"), "{said}");
    assert!(aws.dynamodb.requests().is_empty() && aws.kms.log().is_empty());
    assert!(aws.folder.names().is_empty());
}
