//! The command `kms-envelope`, run as its users run it.

mod arguments;
#[cfg(feature = "aws-kms")]
mod branch_keys;
mod key_sources;
#[cfg(unix)]
mod permissions;
#[cfg(feature = "stores")]
mod rekey;
#[cfg(all(feature = "aws-kms", feature = "stores"))]
mod rekey_at_scale;
#[cfg(unix)]
mod signals;
#[cfg(unix)]
mod standard_streams;
#[cfg(feature = "stores")]
mod stores;

#[cfg(feature = "aws-kms")]
use std::time::{Duration, Instant};
use std::{
    ffi::OsStr,
    fs,
    io::{Read, Write},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use base64ct::{Base64, Encoding};
use serde_json::Value;
use tempfile::TempDir;
use test_support::{fixtures::path as fixture, plaintext as data};

const KEY_ARN: &str = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
#[cfg(feature = "aws-kms")]
const ALIAS_ARN: &str = "arn:aws:kms:eu-west-1:111122223333:alias/backup";

/// The result of a run.
#[derive(Debug)]
struct Ended {
    status: i32,
    stdout: Vec<u8>,
    stderr: String,
}

impl Ended {
    /// Returns the output of a successful run.
    #[track_caller]
    fn done(self) -> Vec<u8> {
        assert_eq!(self.status, 0, "{}", self.stderr);
        self.stdout
    }

    /// Returns the error output of a failed run: one or two lines, which begin with the command's name.
    #[track_caller]
    fn failed(self) -> String {
        assert_eq!(self.status, 1, "{}", self.stderr);
        assert!(self.stderr.starts_with("kms-envelope: "), "{}", self.stderr);
        assert!(self.stderr.lines().count() <= 2, "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self.stderr
    }

    /// Returns the error output of a run with invalid arguments.
    #[track_caller]
    fn usage(self) -> String {
        assert_eq!(self.status, 2, "{}", self.stderr);
        assert!(self.stdout.is_empty());
        self.stderr
    }
}

/// An empty folder to run the command in, without the environment variables of this process that the command reads.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A folder with a key.
    fn with_key() -> Self {
        let this = Self::new();
        this.run(&["keygen", "key"]).done();
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Returns the names of the files, sorted, without the key.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "key")
            .collect();
        names.sort();
        names
    }

    fn command<A: AsRef<OsStr>>(&self, args: &[A]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kms-envelope"));
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("AWS_") || name == "KMS_ENVELOPE_KEY") {
                command.env_remove(name);
            }
        }
        command
            .args(args)
            .current_dir(self.0.path())
            .env("HOME", self.0.path())
            .env("AWS_EC2_METADATA_DISABLED", "true");
        command
    }

    fn run<A: AsRef<OsStr>>(&self, args: &[A]) -> Ended {
        end(&mut self.command(args), b"")
    }

    fn run_with_input(&self, args: &[&str], input: &[u8]) -> Ended {
        end(&mut self.command(args), input)
    }

    /// Seals with the key and the context of [`PAIR`].
    fn seal(&self, plaintext: &[u8]) -> Vec<u8> {
        self.run_with_input(&["seal", "--key", "key", "-c", PAIR, "--frame-len", "100"], plaintext).done()
    }
}

const PAIR: &str = "tenant=acme";

fn end(command: &mut Command, input: &[u8]) -> Ended {
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let output = thread::scope(|scope| {
        // The command may exit without reading everything.
        scope.spawn(move || drop(stdin.write_all(input)));
        process.wait_with_output().unwrap()
    });
    Ended {
        status: output.status.code().unwrap_or(-1),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn seal_and_open_return_a_file_of_any_length() {
    let folder = Folder::with_key();
    for len in [0, 1, 65_536, 65_537, 3_000_000] {
        folder.write("in", &data(len));
        folder.run(&["seal", "--key", "key", "-c", PAIR, "-o", "sealed", "in"]).done();
        folder.run(&["open", "--key", "key", "-c", PAIR, "-o", "out", "sealed"]).done();
        assert!(folder.read("out") == data(len), "{len}");
    }
    assert_eq!(folder.names(), ["in", "out", "sealed"]);
}

#[test]
fn standard_input_and_output_are_the_default_and_can_be_named_with_a_dash() {
    let folder = Folder::with_key();
    let plaintext = data(100_000);
    for dashes in [&[][..], &["-"], &["-o", "-"], &["-o", "-", "-"]] {
        let sealed = folder.run_with_input(&[&["seal", "--key", "key"], dashes].concat(), &plaintext).done();
        let opened = folder.run_with_input(&[&["open", "--key", "key"], dashes].concat(), &sealed).done();
        assert!(opened == plaintext, "{dashes:?}");
    }
    assert!(folder.names().is_empty());
}

#[test]
fn a_pipe_from_seal_to_open_carries_more_than_any_buffer_holds() {
    let folder = Folder::with_key();
    let plaintext = data(20_000_000);
    let mut sealing =
        folder.command(&["seal", "--key", "key"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut opening = folder
        .command(&["open", "--key", "key"])
        .stdin(sealing.stdout.take().unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = sealing.stdin.take().unwrap();
    let mut opened = Vec::new();
    thread::scope(|scope| {
        let plaintext = &plaintext;
        scope.spawn(move || input.write_all(plaintext).unwrap());
        opening.stdout.take().unwrap().read_to_end(&mut opened).unwrap();
    });
    assert!(sealing.wait().unwrap().success() && opening.wait().unwrap().success());
    assert!(opened == plaintext);
}

#[test]
fn keygen_creates_a_different_key_each_time_and_prints_its_name() {
    let folder = Folder::new();
    let mut keys = Vec::new();
    for name in ["a", "b"] {
        let ended = folder.run(&["keygen", name]);
        let key: Value = serde_json::from_slice(&folder.read(name)).unwrap();
        assert_eq!(key["namespace"], "kms-envelope");
        assert!(ended.stderr.contains(key["name"].as_str().unwrap()), "{}", ended.stderr);
        assert!(ended.done().is_empty());
        keys.push(key);
    }
    assert!(keys[0]["name"] != keys[1]["name"] && keys[0]["key"] != keys[1]["key"]);

    folder.run(&["keygen", "c", "--namespace", "mine", "--name", "2026"]).done();
    let key: Value = serde_json::from_slice(&folder.read("c")).unwrap();
    assert_eq!((&key["namespace"], &key["name"]), (&"mine".into(), &"2026".into()));
}

#[test]
fn keygen_never_overwrites() {
    let folder = Folder::with_key();
    let key = folder.read("key");
    assert!(folder.run(&["keygen", "key"]).failed().contains("never overwritten"));
    assert_eq!(folder.read("key"), key);
}

#[test]
fn keygen_refuses_invalid_paths_and_names() {
    let folder = Folder::new();
    folder.run(&["keygen"]).usage();
    folder.run(&["keygen", "-"]).usage();
    folder.run(&["keygen", KEY_ARN]).usage();
    assert!(folder.run(&["keygen", "k", "--namespace", "aws-kms"]).failed().contains("AWS KMS"));
    folder.run(&["keygen", "none/k"]).failed();
    assert!(folder.names().is_empty());
}

#[test]
fn new_key_creates_the_key_file_once() {
    let folder = Folder::new();
    let seal = ["seal", "--key", "key", "--new-key"];
    let first = folder.run_with_input(&seal, b"one");
    assert!(first.stderr.contains("new key"), "{}", first.stderr);
    let key = folder.read("key");
    let second = folder.run_with_input(&seal, b"two");
    assert_eq!((second.stderr.as_str(), folder.read("key")), ("", key));
    for (sealed, plaintext) in [(first, b"one"), (second, b"two")] {
        assert_eq!(folder.run_with_input(&["open", "--key", "key"], &sealed.done()).done(), plaintext);
    }
}

#[test]
fn the_key_can_be_set_in_the_environment() {
    let folder = Folder::with_key();
    let sealed = end(folder.command(&["seal"]).env("KMS_ENVELOPE_KEY", "key"), b"data").done();
    assert_eq!(end(folder.command(&["open"]).env("KMS_ENVELOPE_KEY", "key"), &sealed).done(), b"data");
    assert!(end(folder.command(&["seal"]).env("KMS_ENVELOPE_KEY", ""), b"").usage().contains("empty"));
}

#[test]
fn a_missing_key_file_is_reported_with_a_hint() {
    let folder = Folder::new();
    for command in ["seal", "open"] {
        let said = folder.run(&[command, "--key", "nowhere.key"]).failed();
        assert!(said.contains("nowhere.key") && said.contains("check the path") && said.contains("keygen"), "{said}");
    }
    assert!(folder.names().is_empty());
}

#[test]
fn a_file_without_a_key_is_refused_and_not_quoted() {
    let folder = Folder::new();
    for content in ["", "SECRET", r#"{"namespace": "n", "name": "k", "key": "SECRET"}"#] {
        folder.write("bad", content.as_bytes());
        let said = folder.run(&["seal", "--key", "bad"]).failed();
        assert!(said.contains("bad: invalid key file") && !said.contains("SECRET"), "{said}");
    }
    folder.run(&["seal", "--key", "."]).failed();
}

#[test]
fn opening_with_another_key_fails_and_names_the_right_one() {
    let folder = Folder::with_key();
    let sealed = folder.seal(b"data");
    folder.run(&["keygen", "other"]).done();
    let key: Value = serde_json::from_slice(&folder.read("key")).unwrap();
    let said = folder.run_with_input(&["open", "--key", "other"], &sealed).failed();
    assert!(said.contains(key["name"].as_str().unwrap()) && said.contains("--key"), "{said}");

    // A key with the same name, but other bytes.
    let mut same_name: Value = serde_json::from_slice(&folder.read("other")).unwrap();
    same_name["name"] = key["name"].clone();
    folder.write("other", same_name.to_string().as_bytes());
    let said = folder.run_with_input(&["open", "--key", "other"], &sealed).failed();
    assert!(said.contains("another key"), "{said}");
}

#[test]
fn names_in_an_untrusted_message_do_not_flood_the_terminal() {
    let folder = Folder::with_key();
    folder.run(&["-q", "keygen", "other", "--name", &"x".repeat(60_000)]).done();
    let sealed = folder.run_with_input(&["seal", "--key", "other"], b"data").done();
    let said = folder.run_with_input(&["open", "--key", "key"], &sealed).failed();
    assert!(said.contains("xxx") && said.len() < 5000, "{}", said.len());
}

#[test]
fn open_requires_the_given_context_pairs_in_the_message() {
    let folder = Folder::with_key();
    folder.write("in", b"data");
    folder.run(&["seal", "--key", "key", "-c", "tenant=acme", "-c", "formula=a=b", "-o", "sealed", "in"]).done();
    for pairs in [&[][..], &["-c", "tenant=acme"], &["-c", "formula=a=b", "--context", "tenant=acme"]] {
        assert_eq!(folder.run(&[&["open", "--key", "key", "sealed"], pairs].concat()).done(), b"data");
    }
    for (pair, words) in
        [("tenant=other", "a different value"), ("tenant=", "a different value"), ("user=a", "no \"user\"")]
    {
        let said = folder.run(&["open", "--key", "key", "-c", pair, "-o", "out", "sealed"]).failed();
        assert!(said.contains(words) && said.contains("inspect"), "{said}");
    }
    assert!(!folder.path("out").exists());
    assert_eq!(folder.names(), ["in", "sealed"]);
}

/// Opens `message` to a new file and to an existing one. Asserts that no file is created or modified.
#[track_caller]
fn assert_refused(folder: &Folder, message: &[u8], what: &str) -> String {
    folder.write("message", message);
    folder.write("existing", b"as it was");
    let said = folder.run(&["open", "--key", "key", "-o", "out", "message"]).failed();
    assert_eq!(folder.run(&["open", "--key", "key", "-o", "existing", "message"]).failed(), said, "{what}");
    assert_eq!(folder.names(), ["existing", "message"], "{what}");
    assert_eq!(folder.read("existing"), b"as it was", "{what}");
    said
}

#[test]
fn a_modified_byte_anywhere_is_refused_and_leaves_no_output() {
    let folder = Folder::with_key();
    let sealed = folder.seal(&data(250));
    let header_len = sealed.len() - 2 * 132 - (50 + 40);
    // Every field of the header has bytes among these, and so do both kinds of frames.
    for at in (0..header_len).step_by(5).chain((header_len..sealed.len()).step_by(17)).chain([sealed.len() - 1]) {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert_refused(&folder, &changed, &format!("byte {at}"));
    }
    let mut changed = sealed;
    changed[header_len + 60] ^= 1;
    assert!(assert_refused(&folder, &changed, "frame").contains("frame 1 failed authentication"));
}

#[test]
fn a_truncated_message_is_refused_and_leaves_no_output() {
    let folder = Folder::with_key();
    let sealed = folder.seal(&data(250));
    let header_len = sealed.len() - 2 * 132 - (50 + 40);
    let frames = [header_len, header_len + 132, header_len + 2 * 132];
    for len in (0..sealed.len()).step_by(41).chain(frames).chain([sealed.len() - 1]) {
        let said = assert_refused(&folder, &sealed[..len], &format!("length {len}"));
        assert!(said.contains("truncated"), "{len}: {said}");
    }
}

#[test]
fn a_trailing_byte_is_refused_and_leaves_no_output() {
    let folder = Folder::with_key();
    let sealed = folder.seal(&data(250));
    let said = assert_refused(&folder, &[&sealed[..], b"\n"].concat(), "one more");
    assert!(said.contains("trailing bytes after the end"), "{said}");
    assert_refused(&folder, &[&sealed[..], &sealed].concat(), "two messages");
}

#[test]
fn input_that_is_not_a_message_is_reported() {
    let folder = Folder::with_key();
    let base64 = Base64::encode_string(&folder.seal(b"data"));
    for (bytes, words) in [
        (&b"plain text\n"[..], "not an AWS Encryption SDK message"),
        (b"\x02\x04\x79 and more", "algorithm suite"),
        (b"", "truncated"),
        (base64.as_bytes(), "base64"),
    ] {
        let said = assert_refused(&folder, bytes, words);
        assert!(said.contains(words), "{said}");
        let said = folder.run_with_input(&["inspect"], bytes).failed();
        assert!(said.contains(words) && said.contains("standard input"), "{said}");
    }
}

#[test]
fn an_input_that_cannot_be_read_is_named() {
    let folder = Folder::with_key();
    for command in [&["seal", "--key", "key", "-o", "out"][..], &["open", "--key", "key", "-o", "out"], &["inspect"]] {
        let said = folder.run(&[command, &["nowhere"]].concat()).failed();
        assert!(said.contains("nowhere: cannot be read"), "{said}");
        let said = folder.run(&[command, &["."]].concat()).failed();
        assert!(said.contains("directory"), "{said}");
    }
    assert!(folder.names().is_empty());
}

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let folder = Folder::with_key();
    for (out, words) in [("none/out", "none"), (".", "directory"), ("none/", "directory")] {
        let said = folder.run(&["seal", "--key", "key", "-o", out]).failed();
        assert!(said.contains(&format!("{out}: cannot be written")) && said.contains(words), "{said}");
    }
    assert!(folder.names().is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_a_failure() {
    let folder = Folder::with_key();
    folder.write("in", &data(1_000_000));
    folder.run(&["seal", "--key", "key", "-o", "sealed", "in"]).done();
    for args in [["seal", "--key", "key", "in"], ["open", "--key", "key", "sealed"]] {
        let said = folder.run(&[&args[..], &["-o", "/dev/full"]].concat()).failed();
        assert!(said.contains("/dev/full: cannot be written") && said.contains("No space left"), "{said}");
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = folder.command(&args).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8(output.stderr).unwrap().contains("standard output: cannot be written"));
    }
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_eq!(folder.command(&["inspect", "sealed"]).stdout(full).output().unwrap().status.code(), Some(1));
    assert_eq!(folder.names(), ["in", "sealed"]);
}

#[test]
fn invalid_arguments_have_another_exit_status_than_failures() {
    let folder = Folder::with_key();
    for args in [
        &[][..],
        &["sea"],
        &["seal"],
        &["seal", "--key"],
        &["seal", "--key", "key", "-c", "no-value"],
        &["seal", "--key", "key", "a", "b"],
        &["seal", "--key", "key", "--frame-len", "0"],
        &["seal", "--key", "key", "--frame-len", "16777217"],
        &["seal", "--key", "key", "--frame-len", "many"],
        &["seal", "--key", "key", "--frame-len", "64KB"],
        &["seal", "--key", "key", "--frame-len", "64k"],
        &["seal", "--key", "key", "--frame-len", "64 KiB"],
        &["seal", "--key", "key", "--frame-len", "+64KiB"],
        &["seal", "--key", "key", "--frame-len", "KiB"],
        &["seal", "--key", "key", "--frame-len", "17MiB"],
        &["seal", "--key", "key", "--frame-len", "4194304KiB"],
        &["seal", "--key", "key", "--header-len", "97"],
        &["seal", "--key", "key", "--header-len", "65536"],
        &["seal", "--key", KEY_ARN, "--new-key"],
        &["seal", "--key", "arn:aws:kms:eu-west-1"],
        &["seal", "--key", "arn:aws:s3:::bucket"],
        &["open", "--key", "key", "--new-key"],
        &["inspect", "--keys", "keys"],
    ] {
        folder.run(args).usage();
    }
    assert!(folder.names().is_empty());
}

#[test]
fn help_and_version_succeed() {
    let folder = Folder::new();
    for args in [&["--help"][..], &["seal", "--help"], &["open", "-h"], &["inspect", "-h"], &["keygen", "-h"]] {
        assert!(String::from_utf8(folder.run(args).done()).unwrap().contains("Usage: kms-envelope"));
    }
    let version = String::from_utf8(folder.run(&["--version"]).done()).unwrap();
    let module = if cfg!(feature = "fips") { "AWS-LC FIPS " } else { "AWS-LC " };
    let start = concat!("kms-envelope ", env!("CARGO_PKG_VERSION"), " (").to_owned() + module;
    assert!(version.strip_prefix(&start).is_some_and(|rest| rest.starts_with(char::is_numeric)), "{version}");
}

#[test]
fn require_fips_needs_the_module_to_seal_open_rewrap_and_inspect() {
    let folder = Folder::with_key();
    fs::write(folder.path("message"), folder.seal(&data(250))).unwrap();
    for args in [
        &["seal", "--key", "key", "-o", "-", "message"][..],
        &["open", "--key", "key", "-o", "-", "message"],
        &["rewrap", "--key", "key", "--to", "key", "-o", "-", "message"],
        &["inspect", "--key", "key", "message"],
    ] {
        folder.run(args).done();
        let required = folder.run(&[args, &["--require-fips"]].concat());
        if cfg!(feature = "fips") {
            required.done();
        } else {
            assert!(required.failed().contains("enable its feature `fips`"));
        }
    }
    let refused = folder.run(&[
        "seal",
        "--require-fips",
        "--key",
        "key",
        "--suite",
        "0346",
        "--commitment-policy",
        "forbid-encrypt-allow-decrypt",
        "-o",
        "-",
        "message",
    ]);
    assert!(refused.failed().contains("the algorithm suite 0346 has keys of 192 bits"));
}

#[test]
fn frames_may_have_one_byte_or_sixteen_mebibytes() {
    let folder = Folder::with_key();
    let plaintext = data(100_000);
    for (frame_len, frames) in
        [("1", 100_000), ("99999", 2), ("100000", 1), ("16777216", 1), ("1KiB", 98), ("64KiB", 2), ("16MiB", 1)]
    {
        let sealed = folder.run_with_input(&["seal", "--key", "key", "--frame-len", frame_len], &plaintext).done();
        assert!(folder.run_with_input(&["open", "--key", "key"], &sealed).done() == plaintext, "{frame_len}");
        let shown = inspect_json(&folder, &sealed);
        assert_eq!((&shown["frames"], &shown["plaintext_len"]), (&frames.into(), &100_000.into()));
    }
}

fn inspect_json(folder: &Folder, message: &[u8]) -> Value {
    serde_json::from_slice(&folder.run_with_input(&["inspect", "--json"], message).done()).unwrap()
}

#[test]
fn inspect_shows_the_header_and_that_it_is_not_authenticated() {
    let folder = Folder::with_key();
    let sealed = folder.seal(&data(250));
    let key: Value = serde_json::from_slice(&folder.read("key")).unwrap();
    let name = key["name"].as_str().unwrap();

    let text = String::from_utf8(folder.run_with_input(&["inspect"], &sealed).done()).unwrap();
    for part in
        ["0478 (AES-256-GCM", &format!("kms-envelope/{name}"), "\"tenant\" = \"acme\"", "250 bytes", "100 bytes"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.contains("None of this is authenticated"), "{text}");

    let shown = inspect_json(&folder, &sealed);
    let header_len = sealed.len() - 2 * 132 - (50 + 40);
    let info = Base64::encode_string(&sealed[header_len - 16 - 32 - 5 - 50 - 20 - name.len()..][..name.len() + 20]);
    let id: String = sealed[3..35].iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = serde_json::json!({
        "kind": "message",
        "authenticated": false,
        "version": 2,
        "suite": "0478",
        "suite_name": "AES-256-GCM, HKDF-SHA512, key commitment",
        "message_id": id,
        "context": {"tenant": "acme"},
        "encrypted_data_keys": [
            {"provider_id": "kms-envelope", "key_name": name, "provider_info": info, "ciphertext_len": 48}
        ],
        "content_type": "framed",
        "frame_len": 100,
        "header_len": header_len,
        "sealed_len": sealed.len(),
        "frames": 3,
        "plaintext_len": 250,
    });
    assert_eq!(shown, expected);
}

#[test]
fn inspect_shows_the_padding_of_a_fixed_header_length() {
    let folder = Folder::with_key();
    let needed = inspect_json(&folder, &folder.seal(&data(250)))["header_len"].as_u64().unwrap();
    let seal = |len: u64| {
        folder.run_with_input(&["seal", "--key", "key", "-c", PAIR, "--header-len", &len.to_string()], &data(250))
    };
    let sealed = seal(1024).done();
    assert_eq!(folder.run_with_input(&["open", "--key", "key"], &sealed).done(), data(250));

    let text = String::from_utf8(folder.run_with_input(&["inspect"], &sealed).done()).unwrap();
    let padding = 1024 - needed;
    let line = text.lines().find(|line| line.starts_with("padding")).unwrap();
    assert!(line.ends_with(&format!(" {padding} bytes, as one more encrypted data key")), "{line}");
    assert_eq!(text.lines().filter(|line| line.starts_with("encrypted data key")).count(), 1, "{text}");

    let shown = inspect_json(&folder, &sealed);
    assert_eq!(shown["header_len"], 1024);
    let keys = shown["encrypted_data_keys"].as_array().unwrap();
    assert_eq!((keys.len(), &keys[0]["padding_len"], &keys[1]["padding_len"]), (2, &Value::Null, &padding.into()));

    let said = seal(needed + 1).failed();
    assert!(said.contains(&format!("set `--header-len` to {needed}, or to {} or more", needed + 28)), "{said}");
}

#[test]
fn inspect_prints_the_same_for_a_file_and_a_pipe() {
    let folder = Folder::with_key();
    let sealed = folder.run_with_input(&["seal", "--key", "key"], &data(3_000_000)).done();
    folder.write("sealed", &sealed);
    let from_pipe = folder.run_with_input(&["inspect"], &sealed).done();
    assert_eq!(folder.run(&["inspect", "sealed"]).done(), from_pipe);
    let file = fs::File::open(folder.path("sealed")).unwrap();
    assert_eq!(folder.command(&["inspect", "-"]).stdin(file).output().unwrap().stdout, from_pipe);
}

#[test]
fn inspect_fails_where_no_message_has_this_length_but_shows_the_header() {
    let folder = Folder::with_key();
    let sealed = folder.seal(&data(250));
    let header_len = sealed.len() - 2 * 132 - (50 + 40);
    // Too short for a final frame; then, a final frame that would be longer than a frame.
    for len in [header_len + 39, header_len + 132 + 40 + 101] {
        let ended = folder.run_with_input(&["inspect", "--json"], &sealed[..len]);
        let shown: Value = serde_json::from_slice(&ended.stdout).unwrap();
        assert_eq!((&shown["sealed_len"], &shown["frames"]), (&len.into(), &Value::Null));
        assert!(ended.failed().contains("no message has"));
    }
}

/// The footer of a made-up signature with integers of these lengths.
fn footer(lens: [u8; 2]) -> Vec<u8> {
    let integers: Vec<u8> = lens.iter().flat_map(|len| [&[2, *len][..], &vec![1; (*len).into()]].concat()).collect();
    let len = u8::try_from(integers.len()).unwrap();
    [&[0, len + 2, 0x30, len], &integers[..]].concat()
}

/// The length of the footers that this crate and most SDKs write.
const USUAL_FOOTER_LEN: usize = 105;

#[test]
fn inspect_states_the_exact_length_of_a_signed_message_whatever_the_length_of_its_signature() {
    let folder = Folder::with_key();
    for (frame_len, plaintext_len, frames) in [(1, 0, 1), (1, 1, 1), (1, 3, 3), (100, 99, 1), (100, 250, 3)] {
        let seal = ["seal", "--key", "key", "--sign", "--frame-len", &frame_len.to_string()];
        let sealed = folder.run_with_input(&seal, &data(plaintext_len)).done();
        let unsigned = &sealed[..sealed.len() - USUAL_FOOTER_LEN];
        let others = [[1, 1], [47, 48], [48, 48], [31, 33]].map(|lens| [unsigned, &footer(lens)].concat());
        for message in others.into_iter().chain([sealed.clone()]) {
            folder.write("sealed", &message);
            let json = folder.run(&["inspect", "--json", "sealed"]).done();
            let shown: Value = serde_json::from_slice(&json).unwrap();
            assert_eq!((&shown["frames"], &shown["plaintext_len"]), (&frames.into(), &plaintext_len.into()));
            assert_eq!(inspect_json(&folder, &message), shown);
        }
    }
}

#[test]
fn inspect_does_not_guess_the_length_of_a_signed_message_without_its_end() {
    let folder = Folder::with_key();
    let sealed = folder.run_with_input(&["seal", "--key", "key", "--sign", "--frame-len", "1"], &data(3)).done();
    let body_len = 2 * 33 + 41;
    let header_len = sealed.len() - USUAL_FOOTER_LEN - body_len;
    let mut no_final_frame = sealed.clone();
    no_final_frame[header_len + 2 * 33] = 0;
    for message in [&sealed[..sealed.len() - 1], &sealed[..header_len + body_len], &no_final_frame] {
        folder.write("sealed", message);
        let text = folder.run(&["inspect", "sealed"]).done();
        assert!(String::from_utf8_lossy(&text).contains("plaintext            unknown"));
        assert_eq!(folder.run_with_input(&["inspect"], message).done(), text);
    }
    // Too short for a final frame and any footer.
    let said = folder.run_with_input(&["inspect"], &sealed[..header_len + 49]).failed();
    assert!(said.contains("no message has"), "{said}");
}

#[test]
fn inspect_holds_no_more_of_a_pipe_than_a_frame_may_have() {
    const LEN: u32 = 17 << 20;
    let folder = Folder::with_key();
    let sealed = folder.run_with_input(&["seal", "--key", "key", "--sign"], b"").done();
    let mut message = sealed[..sealed.len() - USUAL_FOOTER_LEN - 40].to_vec();
    let frame_len_at = message.len() - 16 - 32 - 4;
    message[frame_len_at..][..4].copy_from_slice(&u32::MAX.to_be_bytes());
    message.extend([&[0xff; 4][..], &1u32.to_be_bytes(), &[0; 12], &LEN.to_be_bytes()].concat());
    message.resize(message.len() + LEN as usize + 16, 0);
    message.extend(footer([48, 48]));
    folder.write("sealed", &message);
    let json = folder.run(&["inspect", "--json", "sealed"]).done();
    assert_eq!(serde_json::from_slice::<Value>(&json).unwrap()["plaintext_len"], LEN);
    assert_eq!(inspect_json(&folder, &message)["plaintext_len"], Value::Null);
}

#[test]
fn inspect_omits_what_the_header_does_not_contain() {
    let folder = Folder::new();
    for (name, suite, content_type, frames) in [
        ("0378/framed-len-129.msg", "0378", "framed", 2.into()),
        ("0578/framed-len-129.msg", "0578", "framed", 2.into()),
        ("0014/non-framed-len-129.msg", "0014", "non-framed", Value::Null),
        ("0014/framed-len-129.msg", "0014", "framed", 2.into()),
    ] {
        let json = folder.run(&["inspect".as_ref(), "--json".as_ref(), fixture(name).as_os_str()]).done();
        let shown: Value = serde_json::from_slice(&json).unwrap();
        let fields = ["suite", "content_type", "frames"].map(|field| shown[field].clone());
        assert_eq!(fields, [suite.into(), content_type.into(), frames.clone()], "{name}");
        let text = folder.run(&["inspect".as_ref(), fixture(name).as_os_str()]).done();
        assert_eq!(String::from_utf8(text).unwrap().contains("unknown"), frames.is_null(), "{name}");
    }
}

#[test]
fn names_in_an_untrusted_message_do_not_control_the_terminal() {
    let folder = Folder::with_key();
    let evil = "\u{1b}[31m\r\u{7f}\u{9b}2J\u{202e}\u{1f600}\"\\";
    let sealed = folder.run(&["seal", "--key", "key", "-c", &format!("{evil}={evil}")]).done();
    let text = String::from_utf8(folder.run_with_input(&["inspect"], &sealed).done()).unwrap();
    assert!(!text.replace('\n', "").contains(|c: char| c.is_control() || c == '\u{202e}'), "{text:?}");
    let json = String::from_utf8(folder.run_with_input(&["inspect", "--json"], &sealed).done()).unwrap();
    assert!(!json.replace('\n', "").contains(|c: char| c.is_control() || !c.is_ascii()), "{json:?}");
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["context"][evil], evil);

    let said = folder.run(&["open", "--key", "key", "no\u{1b}[31m\nfile"]).failed();
    assert!(!said.replace('\n', "").contains(char::is_control), "{said:?}");
}

/// A folder with the keys `key` and `new`, a message under `key` and the keys that `rewrap` made of it for `new`.
fn rewrapped(plaintext: &[u8]) -> Folder {
    let folder = Folder::with_key();
    folder.run(&["keygen", "new"]).done();
    folder.write("sealed", &folder.seal(plaintext));
    folder.run(&["rewrap", "--key", "key", "--to", "new", "-c", "tenant=acme", "-o", "keys", "sealed"]).done();
    folder
}

#[test]
fn a_rewrapped_message_opens_with_the_new_key_and_still_with_the_old_one() {
    let plaintext = data(3_000_000);
    let folder = rewrapped(&plaintext);
    let sealed = folder.read("sealed");
    assert!(folder.run(&["open", "--key", "new", "--keys", "keys", "sealed"]).done() == plaintext);
    fs::rename(folder.path("new"), folder.path("elsewhere")).unwrap();
    assert!(folder.run(&["open", "--key", "key", "sealed"]).done() == plaintext);
    assert!(folder.read("sealed") == sealed);
    let said = folder.run(&["open", "--key", "key", "--keys", "keys", "-o", "out", "sealed"]).failed();
    assert!(said.contains("none of the message's encrypted data keys is for"), "{said}");
    // A pipe, of which the header is enough.
    let said = folder.run_with_input(&["rewrap", "--key", "key", "--to", "elsewhere", "-o", "again"], &sealed[..500]);
    said.done();
    assert!(folder.run(&["open", "--key", "elsewhere", "--keys", "again", "sealed"]).done() == plaintext);
    assert_eq!(folder.names(), ["again", "elsewhere", "keys", "sealed"]);
}

#[test]
fn detached_keys_of_another_message_and_invalid_ones_are_refused() {
    let folder = rewrapped(b"data");
    folder.write("other", &folder.seal(b"data"));
    let open = |keys: &str, message: &str| {
        folder.run(&["open", "--key", "new", "--keys", keys, "-o", "out", message]).failed()
    };
    assert!(open("keys", "other").contains("the detached keys belong to message"));
    assert!(open("sealed", "sealed").contains("use a file that `kms-envelope rewrap` wrote"));
    assert!(open("none", "sealed").contains("none: cannot be read"));
    folder.write("cut", &folder.read("keys")[..50]);
    assert!(open("cut", "sealed").contains("truncated"));
    assert!(!folder.names().contains(&"out".to_owned()));
}

#[test]
fn rewrap_reports_which_key_failed_and_leaves_no_output() {
    let folder = rewrapped(b"data");
    let said = folder.run(&["rewrap", "--key", "new", "--to", "key", "-o", "out", "sealed"]).failed();
    assert!(said.contains("none of the message's encrypted data keys is for"), "{said}");
    let said =
        folder.run(&["rewrap", "--key", "key", "--to", "key", "-c", "tenant=other", "-o", "out", "sealed"]).failed();
    assert!(said.contains("a different value for \"tenant\""), "{said}");
    #[cfg(feature = "aws-kms")]
    {
        let mut command = folder.command(&["rewrap", "--key", "key", "--to", KEY_ARN, "-o", "out", "sealed"]);
        let said = end(with_credentials(&mut command), b"").failed();
        assert!(said.contains("under the new key") && said.contains("did not respond"), "{said}");
    }
    let mut changed = folder.read("sealed");
    changed[100] ^= 1;
    folder.write("sealed", &changed);
    folder.run(&["rewrap", "--key", "key", "--to", "new", "-o", "out", "sealed"]).failed();
    assert!(!folder.names().contains(&"out".to_owned()));
    folder.run(&["rewrap", "--key", "key", "sealed"]).usage();
}

#[test]
fn keys_and_their_message_are_never_overwritten() {
    let folder = rewrapped(b"data");
    #[cfg(unix)]
    std::os::unix::fs::symlink(folder.path("key"), folder.path("link")).unwrap();
    let before = ["key", "new", "sealed"].map(|name| folder.read(name));
    let key_is_spared = |args: &[&str]| {
        let said = folder.run(args).failed();
        assert!(said.contains("one of the given keys") && said.contains("choose another output file"), "{said}");
    };
    key_is_spared(&["seal", "--key", "key", "-o", "key", "sealed"]);
    key_is_spared(&["seal", "--key", "new", "--key", "./key", "-o", "key", "sealed"]);
    let fresh = folder.run(&["seal", "--key", "fresh", "--new-key", "-o", "fresh", "sealed"]);
    assert!(fresh.status == 1 && fresh.stderr.contains("one of the given keys"), "{}", fresh.stderr);
    folder.run(&["seal", "--key", "fresh", "-o", "out", "sealed"]).done();
    key_is_spared(&["open", "--key", "key", "-o", "key", "sealed"]);
    key_is_spared(&["open", "--key", "new", "--keys", "keys", "-o", "keys", "sealed"]);
    key_is_spared(&["rewrap", "--key", "key", "--to", "new", "-o", "key", "sealed"]);
    key_is_spared(&["rewrap", "--key", "key", "--to", "new", "-o", "new", "sealed"]);
    // Another name of the same file, with a canonical form of its own.
    #[cfg(unix)]
    fs::hard_link(folder.path("key"), folder.path("same")).unwrap();
    #[cfg(unix)]
    key_is_spared(&["open", "--key", "key", "-o", "same", "sealed"]);
    #[cfg(unix)]
    key_is_spared(&["open", "--key", "link", "-o", "key", "sealed"]);
    #[cfg(unix)]
    key_is_spared(&["open", "--key", "key", "-o", "link", "sealed"]);
    let said = folder.run(&["rewrap", "--key", "key", "--to", "new", "-o", "sealed", "sealed"]).failed();
    assert!(said.contains("this is the message"), "{said}");
    assert_eq!(["key", "new", "sealed"].map(|name| folder.read(name)), before);
    // The previous detached keys may be overwritten: the message still has its own keys.
    folder.run(&["rewrap", "--key", "new", "--keys", "keys", "--to", "key", "-o", "keys", "sealed"]).done();
    assert_eq!(folder.run(&["open", "--key", "key", "--keys", "keys", "sealed"]).done(), b"data");
}

#[test]
fn inspect_with_a_key_reports_whether_it_opens_the_message_without_its_body() {
    let folder = rewrapped(&data(3_000));
    let inspect = |more: &[&str]| folder.run(&[&["inspect", "--json"], more, &["sealed"]].concat());
    let shown = |ended: &Ended| serde_json::from_slice::<Value>(&ended.stdout).unwrap();
    let name =
        |file: &str| serde_json::from_slice::<Value>(&folder.read(file)).unwrap()["name"].as_str().unwrap().to_owned();

    let ended = inspect(&["--key", "key"]);
    let json = shown(&ended);
    ended.done();
    assert_eq!(
        (&json["opens"], &json["authenticated"], &json["encrypted_data_key_index"]),
        (&true.into(), &true.into(), &0.into())
    );
    assert_eq!(json["key_id"], format!("kms-envelope/{}", name("key")));

    let ended = inspect(&["--key", "new"]);
    let json = shown(&ended);
    assert!(ended.failed().contains("none of the message's encrypted data keys is for"));
    assert_eq!((&json["opens"], &json["authenticated"]), (&false.into(), &false.into()));

    let ended = inspect(&["--key", "new", "--keys", "keys", "-c", "tenant=acme"]);
    assert_eq!(shown(&ended)["key_id"], format!("kms-envelope/{}", name("new")));
    ended.done();
    inspect(&["--key", "key", "-c", "tenant=other"]).failed();
    inspect(&["-c", "tenant=acme"]).usage();

    let text = String::from_utf8(folder.run(&["inspect", "--key", "key", "sealed"]).done()).unwrap();
    assert!(text.contains("opens with           kms-envelope/") && text.contains("(encrypted data key 0)"), "{text}");
    // A modified header does not open. A modified body is not read.
    let sealed = folder.read("sealed");
    for (at, opens) in [(100, false), (sealed.len() - 1, true)] {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        folder.write("sealed", &changed);
        assert_eq!(shown(&inspect(&["--key", "key"]))["opens"], opens);
    }
}

/// Sets credentials, and an endpoint without a listener.
#[cfg(feature = "aws-kms")]
fn with_credentials(command: &mut Command) -> &mut Command {
    command
        .env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", "example")
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        .env("AWS_MAX_ATTEMPTS", "1")
}

#[cfg(feature = "aws-kms")]
#[test]
fn an_unreachable_kms_is_reported_soon() {
    let folder = Folder::with_key();
    let start = Instant::now();
    for key in [KEY_ARN, ALIAS_ARN] {
        let said = end(with_credentials(&mut folder.command(&["seal", "--key", key, "-o", "out"])), b"data").failed();
        for part in [key, "did not respond", "Connection refused"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    assert!(start.elapsed() < Duration::from_secs(20));
    assert!(folder.names().is_empty());
}

#[cfg(feature = "aws-kms")]
#[test]
fn missing_credentials_are_reported_with_the_variables_to_set() {
    let folder = Folder::new();
    let said = folder.run(&["seal", "--key", KEY_ARN, "-o", "out"]).failed();
    assert!(said.contains("no usable AWS credentials") && said.contains("AWS_PROFILE"), "{said}");
    assert!(folder.names().is_empty());
}

#[cfg(feature = "aws-kms")]
#[test]
fn kms_is_not_called_for_a_message_of_a_local_key() {
    let folder = Folder::with_key();
    let sealed = folder.seal(b"data");
    let said = end(with_credentials(&mut folder.command(&["open", "--key", KEY_ARN])), &sealed).failed();
    assert!(said.contains("they are for: kms-envelope/"), "{said}");
}

#[test]
fn a_file_may_be_replaced_by_its_sealed_form() {
    let folder = Folder::with_key();
    let plaintext = data(3_000_000);
    folder.write("file", &plaintext);
    folder.run(&["seal", "--key", "key", "-o", "file", "file"]).done();
    assert!(folder.read("file") != plaintext);
    folder.run(&["open", "--key", "key", "-o", "file", "file"]).done();
    assert!(folder.read("file") == plaintext);
    assert_eq!(folder.names(), ["file"]);
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_symbolic_link_remains_and_its_target_is_replaced() {
        let folder = Folder::with_key();
        fs::create_dir(folder.path("elsewhere")).unwrap();
        folder.write("elsewhere/file", b"old");
        symlink("elsewhere/file", folder.path("link")).unwrap();
        folder.run_with_input(&["seal", "--key", "key", "-o", "link"], b"data").done();
        assert!(fs::symlink_metadata(folder.path("link")).unwrap().is_symlink());
        assert_eq!(folder.run(&["open", "--key", "key", "elsewhere/file"]).done(), b"data");

        symlink("nowhere", folder.path("dangling")).unwrap();
        let said = folder.run(&["seal", "--key", "key", "-o", "dangling"]).failed();
        assert!(said.contains("symbolic link"), "{said}");
        assert_eq!(folder.names(), ["dangling", "elsewhere", "link"]);
    }

    #[test]
    fn devices_and_standard_output_are_written_to_directly() {
        let folder = Folder::with_key();
        folder.run_with_input(&["seal", "--key", "key", "-o", "/dev/null"], b"data").done();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        let sealed = folder.run_with_input(&["seal", "--key", "key", "-o", "/dev/stdout"], b"data").done();
        assert_eq!(folder.run_with_input(&["open", "--key", "key", "-o", "/dev/stdout"], &sealed).done(), b"data");

        // Standard output may be a file that other processes write to as well.
        let mut file = fs::File::create(folder.path("log")).unwrap();
        file.write_all(b"before ").unwrap();
        let mut child = folder.command(&["open", "--key", "key", "-o", "/dev/stdout"]);
        let mut child = child.stdin(Stdio::piped()).stdout(file.try_clone().unwrap()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&sealed).unwrap();
        assert!(child.wait().unwrap().success());
        file.write_all(b" after").unwrap();
        assert_eq!(folder.read("log"), b"before data after");
    }

    #[test]
    fn a_named_pipe_is_written_to_and_remains() {
        let folder = Folder::with_key();
        assert!(Command::new("mkfifo").arg(folder.path("pipe")).status().unwrap().success());
        let pipe = folder.path("pipe");
        let reader = thread::spawn(move || fs::read(pipe).unwrap());
        folder.run_with_input(&["seal", "--key", "key", "-o", "pipe"], b"data").done();
        assert_eq!(folder.run_with_input(&["open", "--key", "key"], &reader.join().unwrap()).done(), b"data");
        assert_eq!(folder.names(), ["pipe"]);
    }

    #[test]
    fn an_input_that_would_be_overwritten_while_it_is_read_is_refused() {
        let folder = Folder::with_key();
        folder.write("file", b"data");
        let file = fs::OpenOptions::new().append(true).open(folder.path("file")).unwrap();
        let output = folder.command(&["seal", "--key", "key", "file"]).stdout(file).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8(output.stderr).unwrap().contains("also the input"));
        assert_eq!(folder.read("file"), b"data");
    }
}

// Suites, several keys, RSA keys, required encryption context.

const ALLOW_DECRYPT: &[&str] = &["--commitment-policy", "require-encrypt-allow-decrypt"];

#[test]
fn every_suite_is_sealed_and_opened_under_a_policy_that_allows_it() {
    let folder = Folder::with_key();
    for suite in ["0014", "0046", "0078", "0114", "0146", "0178", "0214", "0346", "0378", "0478", "0578"] {
        let commits = suite == "0478" || suite == "0578";
        let policy = if commits { "require-encrypt-require-decrypt" } else { "forbid-encrypt-allow-decrypt" };
        let arguments = ["seal", "--key", "key", "--suite", suite, "--commitment-policy", policy];
        let sealed = folder.run_with_input(&arguments, b"data").done();
        let shown = folder.run_with_input(&["inspect", "--json"], &sealed).done();
        assert_eq!(serde_json::from_slice::<Value>(&shown).unwrap()["suite"], suite);
        let open = [&["open", "--key", "key"], ALLOW_DECRYPT].concat();
        assert_eq!(folder.run_with_input(&open, &sealed).done(), b"data");
        let by_default = folder.run_with_input(&["open", "--key", "key"], &sealed);
        if commits {
            assert_eq!(by_default.done(), b"data");
        } else {
            let said = by_default.failed();
            assert!(said.contains(suite) && said.contains("--commitment-policy"), "{said}");
            // Sealing is refused under the default policy, too.
            let refused = folder.run(&["seal", "--key", "key", "--suite", suite]).usage();
            assert!(refused.contains(suite), "{refused}");
        }
    }
    assert!(folder.run(&["seal", "--key", "key", "--suite", "0479"]).usage().contains("0478"));
}

#[test]
fn sign_chooses_the_suite_that_signs_under_the_policy() {
    let folder = Folder::with_key();
    for (policy, suite) in [("require-encrypt-allow-decrypt", "0578"), ("forbid-encrypt-allow-decrypt", "0378")] {
        let arguments = ["seal", "--key", "key", "--sign", "--commitment-policy", policy];
        let sealed = folder.run_with_input(&arguments, b"data").done();
        let shown = folder.run_with_input(&["inspect", "--json"], &sealed).done();
        assert_eq!(serde_json::from_slice::<Value>(&shown).unwrap()["suite"], suite);
        let open = [&["open", "--key", "key"], ALLOW_DECRYPT].concat();
        assert_eq!(folder.run_with_input(&open, &sealed).done(), b"data");
        // Without the complete signature, no file is created.
        folder.write("cut", &sealed[..sealed.len() - 1]);
        let open = [&open[..], &["-o", "out", "cut"]].concat();
        assert!(folder.run(&open).failed().contains("truncated"));
        assert!(!folder.path("out").exists());
    }
    folder.run(&["seal", "--key", "key", "--sign", "--suite", "0578"]).usage();
}

#[test]
fn a_required_pair_is_not_stored_and_must_be_given() {
    let folder = Folder::with_key();
    let arguments = ["seal", "--key", "key", "-c", "a=1", "--required", "tenant=acme"];
    let sealed = folder.run_with_input(&arguments, b"data").done();
    assert!(!sealed.windows(4).any(|window| window == b"acme"));
    let open = |more: &[&str]| folder.run_with_input(&[&["open", "--key", "key"], more].concat(), &sealed);
    assert_eq!(open(&["--required", "tenant=acme"]).done(), b"data");
    assert_eq!(open(&["--required", "tenant=acme", "-c", "a=1"]).done(), b"data");
    for refused in [&[][..], &["--required", "tenant=other"], &["-c", "tenant=acme"]] {
        let said = open(refused).failed();
        assert!(refused.first() == Some(&"-c") || said.contains("`--required`"), "{said}");
    }
}

#[test]
fn with_several_keys_each_opens_what_was_sealed() {
    let folder = Folder::with_key();
    folder.run(&["keygen", "second"]).done();
    folder.run(&["keygen", "third"]).done();
    let public = format!("rsa:{}", fixture("pem/rsa-public.pem").display());
    let private = format!("rsa:{}", fixture("pem/rsa-private.pem").display());
    let arguments = ["seal", "--key", "key", "--key", &public, "--key", "second"];
    let sealed = folder.run_with_input(&arguments, b"data").done();
    for key in ["key", "second", &private] {
        assert_eq!(folder.run_with_input(&["open", "--key", key], &sealed).done(), b"data");
    }
    assert_eq!(folder.run_with_input(&["open", "--key", "third", "--key", "second"], &sealed).done(), b"data");
    folder.run_with_input(&["open", "--key", "third"], &sealed).failed();
}

#[test]
fn an_rsa_key_is_used_with_its_padding_and_its_name() {
    let folder = Folder::new();
    let public = format!("rsa:{}", fixture("pem/rsa-public.pem").display());
    fs::copy(fixture("pem/rsa-private.pem"), folder.path("private.pem")).unwrap();
    #[cfg(unix)]
    fs::set_permissions(folder.path("private.pem"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let private = "rsa:private.pem";
    for padding in ["oaep-sha256", "oaep-sha384", "oaep-sha512", "oaep-sha1", "pkcs1"] {
        let more = ["--rsa-padding", padding, "--rsa-namespace", "ours", "--rsa-name", "2026"];
        let sealed = folder.run_with_input(&[&["seal", "--key", &public][..], &more].concat(), b"data").done();
        assert_eq!(folder.run_with_input(&[&["open", "--key", private][..], &more].concat(), &sealed).done(), b"data");
        folder.run_with_input(&["open", "--key", private, "--rsa-padding", padding], &sealed).failed();
    }
    assert!(folder.run(&["seal", "--key", "rsa:missing.pem"]).failed().contains("missing.pem"));
    folder.write("key.pem", b"hello");
    assert!(folder.run(&["seal", "--key", "rsa:key.pem"]).failed().contains("key.pem"));
    assert!(folder.run_with_input(&["seal", "--key", private], b"").failed().contains("no public key"));
    folder.run(&["seal", "--key", "rsa:"]).usage();
    folder.run(&["keygen", "rsa:key"]).usage();
}

#[test]
fn a_file_too_long_for_an_rsa_key_is_not_read_completely() {
    let folder = Folder::new();
    // On Unix, the file is endless.
    let endless = if cfg!(unix) { "rsa:/dev/zero" } else { "rsa:long" };
    folder.write("long", &vec![0; (1 << 20) + 1]);
    for key in [endless, "rsa:long"] {
        let said = folder.run(&["seal", "--key", key]).failed();
        assert!(said.contains("the key cannot be read: it is longer than 1048576 bytes"), "{said}");
    }
    folder.write("long", &[0xff; 1 << 20]);
    assert!(folder.run(&["seal", "--key", "rsa:long"]).failed().contains("it is not UTF-8 text"));
}
