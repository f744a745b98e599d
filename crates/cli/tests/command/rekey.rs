//! Inventories of stores, and moving their objects to another key.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write,
};
#[cfg(unix)]
use std::{thread, time::Duration};

use serde_json::{Value, json};

use crate::{Ended, Folder, end};

impl Folder {
    /// A folder with the keys `key` and `new`, and a store of objects below `data`: of the key, of another key, and one
    /// that is not a message.
    fn with_objects() -> Self {
        let folder = Self::with_key();
        for name in ["new", "third"] {
            folder.run(&["keygen", name]).done();
        }
        fs::create_dir(folder.path("data")).unwrap();
        for (key, name, text) in [("key", "a", "one"), ("key", "sub/b", "two"), ("third", "c", "three")] {
            let url = format!("url:data/{name}");
            folder.run_at(&["seal", "--key", key, "-o", &url], text.as_bytes()).done();
        }
        folder.write("data/plain", b"PAR1");
        folder
    }

    fn open_with(&self, key: &str, name: &str) -> Ended {
        self.run_at(&["open", "--key", key, &format!("url:data/{name}")], b"")
    }

    fn rewrap(&self, more: &[&str]) -> Ended {
        self.run_at(&[&["rewrap", "url:data", "--from", "key", "--to", "new"], more].concat(), b"")
    }

    /// Returns what the inventory says of each object, by its name in `data`.
    fn inventory(&self, more: &[&str]) -> BTreeMap<String, Value> {
        let args = [&["inventory", "--format", "json", "url:data"], more].concat();
        self.records(&String::from_utf8(self.run_at(&args, b"").done()).unwrap())
    }

    fn records(&self, lines: &str) -> BTreeMap<String, Value> {
        let prefix = self.location("data").to_string() + "/";
        let records = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        records
            .filter(|record| record["path"].is_string())
            .map(|record| (record["path"].as_str().unwrap().strip_prefix(&prefix).unwrap().to_owned(), record))
            .collect()
    }

    fn key_name(&self, key: &str) -> String {
        let key: Value = serde_json::from_slice(&self.read(key)).unwrap();
        format!("kms-envelope/{}", key["name"].as_str().unwrap())
    }
}

fn text(ended: Ended) -> String {
    String::from_utf8(ended.done()).unwrap()
}

/// Returns the number before these words in a report.
#[track_caller]
fn number(report: &str, words: &str) -> u64 {
    let line = report.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{words:?} in {report}"));
    line.trim().split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn an_inventory_has_the_keys_of_each_object_and_needs_none() {
    let folder = Folder::with_objects();
    fs::rename(folder.path("key"), folder.path("hidden")).unwrap();
    let found = folder.inventory(&[]);
    let names: Vec<_> = found.keys().collect();
    assert_eq!(names, ["a", "c", "plain", "sub/b"]);
    assert_eq!(found["a"]["keys"], json!([folder.key_name("hidden")]));
    assert_eq!(found["c"]["keys"], json!([folder.key_name("third")]));
    assert_eq!((&found["a"]["plaintext_len"], &found["a"]["suite"]), (&json!(3), &json!("0478")));
    assert_eq!((&found["plain"]["result"], &found["plain"]["sealed_len"]), (&json!("not-a-message"), &json!(4)));
    assert!(found["plain"]["error"].as_str().unwrap().contains("not an AWS Encryption SDK message"));

    let table = text(folder.run_at(&["inventory", "url:data"], b""));
    let row = |start: &str| -> Vec<String> {
        let row = table.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start} in {table}"));
        row[start.len()..].split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(row(&folder.key_name("hidden")), ["2", "2.08", "KiB", "2"]);
    assert_eq!(row(&folder.key_name("third")), ["1", "1.04", "KiB", "1"]);
    assert_eq!(row("suite 0478")[0], "3");
    assert_eq!(row("messages")[0], "3");
    assert_eq!(row("not messages")[0], "1");
    assert!(table.contains("4 objects") && table.contains("None of this is authenticated"), "{table}");

    let csv = text(folder.run_at(&["inventory", "--format", "csv", "url:data"], b""));
    let lines: Vec<_> = csv.lines().collect();
    assert!(lines[0].starts_with("path,result,sealed_len,plaintext_len,"), "{csv}");
    assert_eq!(lines.len(), 5);
    assert!(
        lines.iter().any(|line| line.contains("/data/a,message,1067,3,") && line.contains(&folder.key_name("hidden"))),
        "{csv}"
    );
}

#[test]
fn an_inventory_can_be_limited_to_keys_ages_and_names() {
    let folder = Folder::with_objects();
    let names = |more: &[&str]| folder.inventory(more).into_keys().collect::<Vec<_>>();
    let third = folder.key_name("third");
    assert_eq!(names(&["--key", &third]), ["c", "plain"]);
    assert_eq!(names(&["--key", &third, "--key", &folder.key_name("key")]), ["a", "c", "plain", "sub/b"]);
    assert_eq!(names(&["--newer-than", "1day"]), ["a", "c", "plain", "sub/b"]);
    let data = folder.location("data").to_string();
    assert_eq!(names(&["--after", &format!("{data}/a"), "--up-to", &format!("{data}/plain")]), ["c", "plain"]);
    let table = text(folder.run_at(&["inventory", "--key", &third, "--newer-than", "1day", "url:data"], b""));
    assert!(table.contains("only objects modified less than 1day ago"), "{table}");
    assert!(table.contains(&format!("only objects of the key {third}")), "{table}");
    let none = folder.run_at(&["inventory", "--older-than", "1day", "url:data"], b"").failed();
    assert!(none.contains("none that the arguments allow"), "{none}");
}

#[test]
fn rewrapped_objects_open_with_the_new_key_and_stay_as_they_are() {
    let folder = Folder::with_objects();
    let before = ["a", "sub/b", "c", "plain"].map(|name| folder.read(&format!("data/{name}")));
    let report = text(folder.rewrap(&[]));
    assert_eq!(number(&report, "open with the new key"), 2);
    assert!(report.contains("2 rewrapped now, 0 in earlier runs, 0 before"), "{report}");
    assert_eq!(number(&report, "have other keys only"), 1);
    assert_eq!(number(&report, "are not messages"), 1);
    assert_eq!(number(&report, "failed"), 0);
    assert!(report.contains("still open with the old key") && report.contains("Noncurrent versions"), "{report}");
    assert!(!report.contains("delete") || report.contains("were deleted meanwhile"), "{report}");
    assert_eq!(["a", "sub/b", "c", "plain"].map(|name| folder.read(&format!("data/{name}"))), before);
    for (name, plaintext) in [("a", "one"), ("sub/b", "two")] {
        for key in ["key", "new"] {
            assert_eq!(text(folder.open_with(key, name)), plaintext);
        }
        assert!(folder.path(&format!("data/{name}.keys")).exists());
    }
    assert!(!folder.path("data/c.keys").exists());
    let found = folder.inventory(&[]);
    assert_eq!(found["a"]["detached_keys"], json!([folder.key_name("new")]));
    // Without a log, a second run verifies what the first one did.
    assert!(text(folder.rewrap(&[])).contains("0 rewrapped now, 0 in earlier runs, 2 before"));
    // The next key can be reached from the new one.
    let next = folder.run_at(&["rewrap", "url:data", "--from", "new", "--to", "third"], b"");
    assert_eq!(number(&text(next), "open with the new key"), 3);
    for key in ["key", "new", "third"] {
        assert_eq!(text(folder.open_with(key, "a")), "one");
    }
}

#[test]
fn resealed_objects_open_with_the_new_key_only() {
    let folder = Folder::with_objects();
    let sealed = ["seal", "--key", "key", "-c", "tenant=acme", "--header-len", "700", "--frame-len", "10"];
    folder.run_at(&[&sealed[..], &["-o", "url:data/d"]].concat(), b"another layout and context").done();
    folder.rewrap(&[]).done();
    let report = text(folder.rewrap(&["--reseal", "--log", "log"]));
    assert!(
        report.contains("3 resealed now") && report.contains("Resealed objects open only with the new key"),
        "{report}"
    );
    for (name, plaintext) in [("a", "one"), ("sub/b", "two"), ("d", "another layout and context")] {
        assert_eq!(text(folder.open_with("new", name)), plaintext);
        folder.open_with("key", name).failed();
    }
    let opened = folder.run_at(&["open", "--key", "new", "-c", "tenant=acme", "url:data/d"], b"");
    assert_eq!(text(opened), "another layout and context");
    assert!(text(folder.rewrap(&["--reseal", "--log", "log"])).contains("0 resealed now, 0 in earlier runs, 3 before"));
}

#[test]
fn objects_that_others_open_are_resealed_only_on_request() {
    let folder = Folder::with_objects();
    folder.run_at(&["seal", "--key", "key", "--key", "third", "-o", "url:data/both"], b"shared").done();
    let plan = text(folder.rewrap(&["--reseal", "--dry-run"]));
    assert_eq!(number(&plan, "of these have keys for others, which keep them from it"), 1);
    let ended = folder.rewrap(&["--reseal"]);
    let report = String::from_utf8(ended.stdout.clone()).unwrap();
    assert!(report.contains("data/both: ") && report.contains("--drop-other-keys"), "{report}");
    assert!(ended.failed().contains("1 of 5 objects failed"));
    assert_eq!(text(folder.open_with("third", "both")), "shared");
    text(folder.rewrap(&["--reseal", "--drop-other-keys"]));
    assert_eq!(text(folder.open_with("new", "both")), "shared");
    folder.open_with("third", "both").failed();
}

#[test]
fn names_with_the_suffix_of_detached_keys_are_not_passed_over() {
    let folder = Folder::with_objects();
    let sealed = folder.run_with_input(&["seal", "--key", "key"], b"not a sidecar").done();
    folder.write("data/backup.keys", &sealed);
    let found = folder.inventory(&[]);
    assert_eq!(found["backup.keys"]["keys"], json!([folder.key_name("key")]));
    let ended = folder.rewrap(&[]);
    let report = String::from_utf8(ended.stdout.clone()).unwrap();
    assert!(report.contains("data/backup.keys: ") && report.contains("reserved"), "{report}");
    ended.failed();
    // Another suffix gives it detached keys.
    text(folder.rewrap(&["--detached-keys", ".new", "--binding", "none"]));
    assert!(folder.path("data/backup.keys.new").exists());
}

#[test]
fn what_is_stored_of_the_context_stays_stored() {
    let folder = Folder::with_objects();
    folder.run_at(&["seal", "--key", "key", "-c", "t=1", "-o", "url:data/d/stored"], b"x").done();
    folder.run_at(&["seal", "--key", "key", "--required", "t=1", "-o", "url:data/d/required"], b"x").done();
    let args = ["rewrap", "url:data/d", "--from", "key", "--to", "new", "--reseal", "--required", "t=1"];
    assert!(text(folder.run_at(&args, b"")).contains("2 resealed now"));
    for (name, option) in [("stored", "-c"), ("required", "--required")] {
        folder.run_at(&["open", "--key", "new", option, "t=1", &format!("url:data/d/{name}")], b"").done();
    }
}

#[test]
fn a_message_without_padding_can_be_resealed_for_a_longer_key_name() {
    let folder = Folder::with_objects();
    folder.write("data/short", &folder.run_with_input(&["seal", "--key", "key"], b"short").done());
    folder.run(&["keygen", "longer", "--name", "a name that is longer than the one of the old key"]).done();
    let args = ["rewrap", "url:data", "--from", "key", "--to", "longer", "--reseal", "--binding", "none"];
    assert!(text(folder.run_at(&args, b"")).contains("3 resealed now"));
    let opened = folder.run_at(&["open", "--key", "longer", "--binding", "none", "url:data/short"], b"");
    assert_eq!(text(opened), "short");
}

#[test]
fn a_dry_run_counts_objects_and_requests_and_writes_nothing() {
    let folder = Folder::with_objects();
    folder.run_at(&["rewrap", "url:data/sub", "--from", "key", "--to", "new"], b"").done();
    let names = folder.inventory(&["--detached-keys", ""]).into_keys().collect::<Vec<_>>();
    let report = text(folder.rewrap(&["--dry-run"]));
    let numbers = ["would be rewrapped", "would be opened with it", "would be left", "could not be read"];
    assert_eq!(numbers.map(|words| number(&report, words)), [1, 1, 2, 0]);
    assert!(report.contains("Requests to AWS KMS: 0") && report.contains("Nothing was written"), "{report}");
    let report = text(folder.rewrap(&["--dry-run", "--reseal"]));
    assert_eq!(number(&report, "would be resealed, with 2.08 KiB"), 2);
    assert_eq!(folder.inventory(&["--detached-keys", ""]).into_keys().collect::<Vec<_>>(), names);
}

#[test]
fn an_object_that_fails_stands_in_the_report_and_the_others_are_done() {
    let folder = Folder::with_objects();
    let mut broken = folder.read("data/a");
    broken[1023] ^= 1;
    folder.write("data/a", &broken);
    let ended = folder.rewrap(&["--log", "log"]);
    let report = String::from_utf8(ended.stdout.clone()).unwrap();
    assert_eq!((number(&report, "open with the new key"), number(&report, "failed")), (1, 1));
    assert!(report.contains("data/a: ") && report.contains("header"), "{report}");
    let said = ended.failed();
    assert!(said.contains("1 of 4 objects failed, and may still need kms-envelope/"), "{said}");
    assert!(!folder.path("data/a.keys").exists());
    // It is tried again, and the others are not.
    broken[1023] ^= 1;
    folder.write("data/a", &broken);
    let report = text(folder.rewrap(&["--log", "log"]));
    assert!(report.contains("1 rewrapped now, 1 in earlier runs, 0 before"), "{report}");
}

#[test]
fn a_log_continues_where_a_run_ended_even_in_the_middle_of_a_line() {
    let folder = Folder::with_objects();
    for (command, first) in [("inventory", "message"), ("rewrap", "rewrapped")] {
        let args: &[&str] = match command {
            "inventory" => &["inventory", "url:data", "--log", "inventory.log"],
            _ => &["rewrap", "url:data", "--from", "key", "--to", "new", "--log", "rewrap.log"],
        };
        let log = args[args.len() - 1];
        let whole = text(folder.run_at(args, b""));
        let lines = String::from_utf8(folder.read(log)).unwrap();
        let records = folder.records(&lines);
        assert_eq!((records.len(), &records["a"]["result"]), (4, &json!(first)));
        // Every length of the log after its first line is one at which a run may have ended.
        let start = lines.find('\n').unwrap() + 1;
        for len in [start, start + 1, lines.len() - 1, lines.len() - 40] {
            folder.write(log, &lines.as_bytes()[..len]);
            let ended = folder.run_at(args, b"");
            let again = folder.records(&String::from_utf8(folder.read(log)).unwrap());
            assert_eq!(again.keys().collect::<Vec<_>>(), records.keys().collect::<Vec<_>>());
            let report = text(ended);
            assert!(report.contains(", 4 objects, until"), "{report}\n{whole}");
        }
        // Nothing is read again that did not change.
        folder.write(log, lines.as_bytes());
        let ended = folder.run_at(args, b"");
        assert!(ended.stderr.contains("4 lines are in"), "{}", ended.stderr);
        ended.done();
        assert_eq!(folder.read(log), lines.as_bytes());
    }
    // An object that changed is, and so is one whose detached keys did.
    let lines = folder.read("rewrap.log").len();
    folder.run_at(&["seal", "--key", "key", "-o", "url:data/a"], b"changed").done();
    fs::remove_file(folder.path("data/sub/b.keys")).unwrap();
    let report = text(folder.rewrap(&["--log", "rewrap.log"]));
    assert!(report.contains("2 rewrapped now, 0 in earlier runs"), "{report}");
    assert!(folder.read("rewrap.log").len() > lines);
    assert_eq!(text(folder.open_with("new", "a")), "changed");
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_finishes_the_objects_that_have_begun_and_reports_them() {
    let folder = Folder::with_objects();
    for number in 0..30 {
        folder.run_at(&["seal", "--key", "key", "-o", &format!("url:data/many/{number}")], b"text").done();
    }
    let url = folder.url("data/many");
    let args =
        ["rewrap", &url, "--from", "key", "--to", "new", "--concurrency", "1", "--kms-rate", "30", "--log", "log"];
    let output = |name| fs::File::create(folder.path(name)).unwrap();
    let mut process = folder.command(&args).stdout(output("out")).stderr(output("err")).spawn().unwrap();
    // After the first objects, of 30 in 3 seconds.
    while folder.path("log").metadata().map_or(0, |log| log.len()) < 1000 {
        assert!(process.try_wait().unwrap().is_none());
        thread::sleep(Duration::from_millis(10));
    }
    let pid = rustix::process::Pid::from_child(&process);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(1));
    let (report, said) =
        (String::from_utf8(folder.read("out")).unwrap(), String::from_utf8(folder.read("err")).unwrap());
    assert!(
        said.contains("finishing the objects") && said.contains("interrupted before all objects were done"),
        "{said}"
    );
    let done = number(&report, "open with the new key");
    assert!((1..30).contains(&done), "{report}");
    let stored = fs::read_dir(folder.path("data/many"))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().ends_with(".keys"));
    assert_eq!(stored.count() as u64, done);
    let report = text(folder.run_at(&args, b""));
    assert!(report.contains(&format!("{} rewrapped now, {done} in earlier runs", 30 - done)), "{report}");
}

#[test]
fn an_endpoint_that_is_not_a_url_is_named() {
    let folder = Folder::new();
    for endpoint in ["localhost:9000", "http://bad host"] {
        let mut command = folder.command(&["inventory", "s3://bucket/a"]);
        command.env("AWS_ENDPOINT_URL", endpoint).env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "x");
        let said = end(&mut command, b"").failed();
        assert!(said.contains("AWS_ENDPOINT_URL must be a URL that begins with http:// or https://"), "{said}");
    }
}

#[test]
fn every_refusal_says_what_failed_and_what_to_do() {
    let folder = Folder::with_objects();
    folder.write("precious", b"{\"precious\":\"one line without its end\"}");
    folder.write("alien", b"hello\n");
    folder.write("data/mine", b"");
    fs::create_dir(folder.path("empty")).unwrap();
    folder.write("locked", b"");
    let locked = OpenOptions::new().append(true).open(folder.path("locked")).unwrap();
    locked.lock().unwrap();
    folder.run_at(&["rewrap", "url:data", "--from", "key", "--to", "new", "--log", "other"], b"").done();
    let mut broken = OpenOptions::new().append(true).open(folder.path("other")).unwrap();

    let inventory = &["inventory", "url:data"][..];
    let rewrap = &["rewrap", "url:data", "--from", "key", "--to", "new"][..];
    let (failed, usage) = (1, 2);
    for (args, more, status, words) in [
        (&["inventory"][..], &["data"][..], usage, &["data is a path", "file:///PATH"][..]),
        (&["inventory"], &["url:empty"], failed, &["there are no objects"]),
        (&["inventory"], &["url:data/a"], failed, &["this is an object, not a folder", "kms-envelope inspect"]),
        (&["inventory"], &["url:none"], failed, &["there are no objects"]),
        (&["inventory"], &["ftp://x/y"], usage, &["expected s3://"]),
        (inventory, &["--older-than", "soon"], usage, &["--older-than"]),
        (inventory, &["--after", "a//b"], usage, &["--after"]),
        (inventory, &["--concurrency", "0"], usage, &["--concurrency"]),
        (inventory, &["--format", "xml"], usage, &["table, json, csv"]),
        (inventory, &["--log", "-"], usage, &["cannot be a standard stream"]),
        (inventory, &["--log", "none/log"], failed, &["none/log: the log cannot be opened"]),
        (inventory, &["--log", "alien"], usage, &["not the log of the same command", "name another file"]),
        (inventory, &["--log", "precious"], usage, &["not the log of the same command"]),
        (inventory, &["--key", "alias/old"], usage, &["headers name keys by their ARNs", "that the inventory shows"]),
        (inventory, &["--key", "key"], usage, &["headers name keys by their ARNs"]),
        (inventory, &["--key", "arn:aws:kms:eu-west-1:111122223333:key/1"], failed, &["no object names the key"]),
        (inventory, &["--after", "elsewhere"], usage, &["complete names", "is not below"]),
        (rewrap, &["--to", "third"], usage, &["name one --to", "for each of them"]),
        (rewrap, &["--drop-other-keys"], usage, &["--reseal"]),
        (rewrap, &["--log", "precious", "--dry-run"], usage, &["not the log of the same command"]),
        (&["rewrap", "url:empty", "--from", "key", "--to", "new"], &["--dry-run"], failed, &["there are no objects"]),
        (inventory, &["--log", "other"], usage, &["not the log of the same command"]),
        (inventory, &["--log", "locked"], failed, &["another process writes to this log"]),
        (rewrap, &["--log", "other", "--kms-rate", "0"], usage, &["--kms-rate"]),
        (rewrap, &["--keys", "x"], usage, &["--keys applies to one message", "--detached-keys"]),
        (rewrap, &["--detached-keys", ""], usage, &["--detached-keys is empty"]),
        (rewrap, &["--detached-keys", "/x"], failed, &["suffix of detached keys"]),
        (rewrap, &["-o", "out", "--dry-run"], usage, &["only to the objects below a URL"]),
        (
            &["rewrap", "--from", "key", "--to", "new", "key"],
            &["--reseal"],
            usage,
            &["only to the objects below a URL"],
        ),
        (&["rewrap", "url:data", "--from", "key", "--to", "key"], &[], usage, &["--from and --to are the same key"]),
        (&["rewrap", "url:data", "--from", "none", "--to", "new"], &[], failed, &["none: the key file cannot be read"]),
        (&["rewrap", "url:data", "--from", "key"], &[], usage, &["--to <KEY>"]),
        (&["rewrap", "url:data/a", "--from", "key", "--to", "new"], &[], failed, &["this is an object", "with -o"]),
        (&["rewrap", "url:empty", "--from", "key", "--to", "new"], &[], failed, &["there are no objects"]),
        (rewrap, &["--base", "elsewhere"], failed, &["2 of 5 objects failed, and may still need"]),
        (rewrap, &["-c", "tenant=acme"], failed, &["objects failed"]),
    ] {
        let ended = folder.run_at(&[args, more].concat(), b"");
        let said = if status == usage { ended.usage() } else { ended.failed() };
        for words in words {
            assert!(said.contains(words), "{args:?} {more:?}: {said}");
        }
    }
    assert_eq!(folder.read("precious"), b"{\"precious\":\"one line without its end\"}");
    assert!(!folder.path("dry.log").exists());
    folder.rewrap(&["--dry-run", "--log", "dry.log"]).done();
    assert!(!folder.path("dry.log").exists(), "nothing is written");
    writeln!(broken, "no record").unwrap();
    let said = folder.rewrap(&["--log", "other"]).failed();
    assert!(said.contains("line ") && said.contains("is not of a log") && said.contains("name another file"), "{said}");

    // What is not of this program stays, and is reported.
    folder.write("data/sub/b.keys", b"my notes");
    let ended = folder.rewrap(&[]);
    let report = String::from_utf8(ended.stdout.clone()).unwrap();
    assert!(report.contains("data/sub/b: ") && report.contains("KEDK"), "{report}");
    ended.failed();
    assert_eq!(folder.read("data/sub/b.keys"), b"my notes");
}
