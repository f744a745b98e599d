//! Arguments: invalid ones, `--quiet`, completions and manual pages.

use serde_json::Value;

use crate::{Folder, data, rewrapped};

#[test]
fn an_invalid_pair_is_a_usage_error_and_creates_no_key() {
    let folder = Folder::with_key();
    let twice = ["-c", "a=1", "-c", "b=2", "-c", "a=1"];
    let said = folder.run(&[&["seal", "--new-key", "--key", "fresh", "-o", "out"][..], &twice].concat()).usage();
    assert!(said.contains("\"a\" twice") && said.contains("Usage: kms-envelope seal"), "{said}");
    for command in ["open", "inspect"] {
        let said = folder.run_with_input(&[&[command, "--key", "key"][..], &twice].concat(), b"").usage();
        assert!(said.contains("\"a\" twice"), "{said}");
    }
    let too_long = format!("a={}", "x".repeat(65_535));
    for (pair, words) in [("aws-crypto-x=y", "reserved"), ("aws-crypto-public-key=", "reserved"), (&too_long, "65535")]
    {
        for option in ["-c", "--required"] {
            let said = folder.run(&["seal", "--new-key", "--key", "fresh", "-o", "out", option, pair]).usage();
            assert!(said.contains(words), "{said}");
        }
    }
    assert!(folder.names().is_empty());
}

#[test]
fn a_suite_that_the_policy_forbids_is_a_usage_error_that_names_the_option_and_creates_no_key() {
    let folder = Folder::new();
    let forbid = "forbid-encrypt-allow-decrypt";
    for (more, allows) in [
        (&["--suite", "0178"][..], forbid),
        (&["--suite", "0478", "--commitment-policy", forbid], "require-encrypt-require-decrypt"),
    ] {
        let said = folder.run(&[&["seal", "--new-key", "--key", "fresh"], more].concat()).usage();
        assert!(said.contains(&format!("--commitment-policy {allows}")), "{said}");
    }
    assert!(folder.names().is_empty());
}

#[test]
fn a_pair_may_have_an_empty_name() {
    let folder = Folder::with_key();
    let sealed = folder.run_with_input(&["seal", "--key", "key", "-c", "=value"], b"data").done();
    assert_eq!(folder.run_with_input(&["open", "--key", "key", "-c", "=value"], &sealed).done(), b"data");
    folder.run_with_input(&["open", "--key", "key", "-c", "=other"], &sealed).failed();
    let shown = folder.run_with_input(&["inspect", "--json"], &sealed).done();
    assert_eq!(serde_json::from_slice::<Value>(&shown).unwrap()["context"], serde_json::json!({"": "value"}));
}

#[test]
fn the_names_that_other_tools_use_suggest_ours() {
    let folder = Folder::with_key();
    for (other, ours) in [("encrypt", "seal"), ("decrypt", "open")] {
        let said = folder.run(&[other, "--key", "key"]).usage();
        assert!(said.contains(&format!("'{ours}'")), "{said}");
    }
    // A typo still suggests the closest command.
    assert!(folder.run(&["sael"]).usage().contains("'seal'"));
}

#[cfg(unix)]
#[test]
fn an_argument_does_not_control_the_terminal() {
    let folder = Folder::new();
    let evil = "\u{1b}]0;evil\u{7}\u{202e}";
    for args in [&["open", "--key", "key", "in", evil][..], &[evil], &["seal", "--frame-len", evil], &["inspect", evil]]
    {
        let (_, said) = crate::standard_streams::errors_on_terminal(&folder, args);
        assert!(
            said.contains("evil") && !said.contains("\u{1b}]") && !said.contains(['\u{7}', '\u{202e}']),
            "{said:?}"
        );
    }
}

#[test]
fn quiet_silences_everything_except_warnings_and_errors() {
    let folder = Folder::new();
    assert!(folder.run(&["keygen", "a"]).stderr.contains("new key"));
    assert_eq!(folder.run(&["keygen", "--quiet", "b"]).stderr, "");
    assert_eq!(folder.run(&["-q", "seal", "--new-key", "--key", "c"]).stderr, "");
    assert_eq!(folder.names(), ["a", "b", "c"]);
    assert!(folder.run(&["-q", "keygen", "b"]).failed().contains("never overwritten"));
}

#[test]
fn inspect_shows_which_message_detached_keys_belong_to() {
    let folder = rewrapped(&data(1000));
    let message: Value = serde_json::from_slice(&folder.run(&["inspect", "--json", "sealed"]).done()).unwrap();
    let new: Value = serde_json::from_slice(&folder.read("new")).unwrap();

    let text = String::from_utf8(folder.run(&["inspect", "keys"]).done()).unwrap();
    let key = format!("kms-envelope/{}", new["name"].as_str().unwrap());
    for part in ["detached keys", message["message_id"].as_str().unwrap(), &key, "None of this is authenticated"] {
        assert!(text.contains(part), "{part}: {text}");
    }

    let keys = folder.read("keys");
    let json = folder.run_with_input(&["inspect", "--json"], &keys).done();
    let shown: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!((&shown["kind"], &shown["authenticated"]), (&"detached-keys".into(), &false.into()));
    assert_eq!(shown["message_id"], message["message_id"]);
    assert_eq!(shown["encrypted_data_keys"].as_array().unwrap().len(), 1);
    assert_eq!(shown["encrypted_data_keys"][0]["key_name"], new["name"]);

    let said = folder.run(&["inspect", "--key", "new", "keys"]).failed();
    assert!(said.contains("keys: these are detached keys") && said.contains("--keys"), "{said}");
    let said = folder.run(&["open", "--key", "new", "keys"]).failed();
    assert!(said.contains("keys: these are detached keys, not a message") && said.contains("--keys"), "{said}");
    for len in [4, 10, keys.len() - 1] {
        let said = folder.run_with_input(&["inspect"], &keys[..len]).failed();
        assert!(said.contains("truncated"), "{said}");
    }
    let said = folder.run_with_input(&["inspect"], &[&keys[..], &[0; 300_000]].concat()).failed();
    assert!(said.contains("standard input: "), "{said}");
    folder.write("long", &[b"KEDK", &[0; 300_000][..]].concat());
    for args in [&["inspect", "long"][..], &["open", "--key", "key", "--keys", "long", "sealed"]] {
        let said = folder.run(args).failed();
        assert!(said.contains("long: it is longer than 262144 bytes, the limit for detached keys"), "{said}");
    }
}

#[test]
fn completions_are_printed_for_every_shell() {
    let folder = Folder::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = String::from_utf8(folder.run(&["completions", shell]).done()).unwrap();
        for part in ["rewrap", "commitment-policy", "require-encrypt-allow-decrypt"] {
            assert!(script.contains(part), "{shell} {part}");
        }
    }
    folder.run(&["completions", "tcsh"]).usage();
}

#[cfg(target_os = "linux")]
#[test]
fn bash_completes_the_options_of_each_command() {
    let folder = Folder::new();
    folder.write("script", &folder.run(&["completions", "bash"]).done());
    for (command, option) in
        [("keygen", "--namespace"), ("seal", "--sign"), ("open", "--keys"), ("rewrap", "--to"), ("inspect", "--json")]
    {
        let complete = format!(
            ". ./script; COMP_WORDS=(kms-envelope {command} --); COMP_CWORD=2
            _kms__envelope kms-envelope -- {command}; echo \"${{COMPREPLY[@]}}\""
        );
        let mut bash = std::process::Command::new("bash");
        bash.args(["-c", &complete]).current_dir(folder.path("."));
        let offered = String::from_utf8(crate::end(&mut bash, b"").done()).unwrap();
        assert!(offered.split_whitespace().any(|offered| offered == option), "{command}: {offered}");
    }
}

#[test]
fn a_manual_page_is_printed_for_the_command_and_for_each_of_its_commands() {
    let folder = Folder::new();
    let page = |args: &[&str]| String::from_utf8(folder.run(args).done()).unwrap();
    let whole = page(&["man"]);
    assert!(whole.contains(".TH kms-envelope 1") && whole.contains(".SH \"EXIT STATUS\""), "{whole}");
    // The examples are not filled and justified.
    let (_, examples) = whole.split_once(".SH EXAMPLES\n.nf\n").unwrap();
    let (examples, _) = examples.split_once(".fi\n").unwrap();
    assert!(examples.lines().all(|line| line.contains("kms\\-envelope ")), "{examples}");
    let help = page(&["--help"]);
    let (_, help) = help.split_once("Examples:\n").unwrap();
    for example in examples.lines() {
        assert!(help.contains(&format!("  {}\n", example.replace("\\-", "-"))), "{help}");
    }
    for command in ["keygen", "seal", "open", "rewrap", "inspect", "branch-key"] {
        let in_roff = command.replace('-', "\\-");
        assert!(whole.contains(&format!("kms\\-envelope\\-{in_roff}(1)")), "{whole}");
        let page = page(&["man", command]);
        assert!(page.contains(&format!(".TH kms-envelope-{command} 1")) && page.contains(".SH OPTIONS"), "{page}");
    }
    assert!(page(&["man", "branch-key", "create"]).contains(".TH kms-envelope-branch-key-create 1"));
    assert!(folder.run(&["man", "encrypt"]).usage().contains("encrypt"));
}

#[cfg(not(feature = "stores"))]
#[test]
fn a_url_needs_the_feature_stores_and_its_credentials_are_not_printed() {
    let folder = Folder::with_key();
    for args in [
        &["open", "--key", "key", "s3://user:SECRET@bucket/a"][..],
        &["open", "--key", "key", "--keys", "https://server/a?SECRET", "in"],
        &["seal", "--key", "key", "-o", "file:///tmp/a"],
        &["inspect", "gs://bucket/a"],
        &["ls", "s3://bucket"],
    ] {
        let said = folder.run(args).usage();
        assert!(said.contains("--features stores") && !said.contains("SECRET"), "{said}");
    }
    assert!(folder.names().is_empty());
}
