//! The arguments of `--key` for AWS KMS, and files with similar names.

use crate::{Folder, KEY_ARN};

const KEY_ID: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";

#[test]
fn a_file_named_like_a_kms_key_needs_a_leading_dot() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("alias")).unwrap();
    for name in ["alias/backup", KEY_ID] {
        let said = folder.run(&["keygen", name]).usage();
        assert!(said.contains("put ./ in front"), "{said}");
        let path = format!("./{name}");
        folder.run(&["keygen", &path]).done();
        let sealed = folder.run_with_input(&["seal", "--key", &path], b"data").done();
        assert_eq!(folder.run_with_input(&["open", "--key", &path], &sealed).done(), b"data");
        // The existing file is not used without `./`.
        let said = folder.run(&["seal", "--key", name]).failed();
        assert!(said.contains(&format!("write {path}")), "{said}");
    }
    folder.run(&["keygen", "alias/"]).usage();
    folder.run(&["seal", "--key", "alias/"]).usage();
}

#[test]
fn new_key_is_refused_for_kms_keys() {
    let folder = Folder::new();
    for key in [KEY_ARN, KEY_ID, "alias/backup"] {
        assert!(folder.run(&["seal", "--key", key, "--new-key"]).usage().contains("--new-key"));
    }
}

#[cfg(unix)]
#[test]
fn an_rsa_key_whose_path_is_not_utf_8_is_not_taken_for_a_local_key_file() {
    use std::os::unix::ffi::OsStringExt;

    let folder = Folder::new();
    let text = |bytes: &[u8]| std::ffi::OsString::from_vec(bytes.to_owned());
    std::fs::copy(crate::fixture("pem/rsa-public.pem"), folder.path(".").join(text(b"\xff.pem"))).unwrap();
    for (key, status) in [(&b"rsa:\xff.pem"[..], 0), (b"rsa:\xff", 1), (b"arn:\xff", 2)] {
        let ended = folder.run(&["seal".into(), "--new-key".into(), "--key".into(), text(key)]);
        assert_eq!(ended.status, status, "{}", ended.stderr);
    }
    assert_eq!(std::fs::read_dir(folder.path(".")).unwrap().count(), 1);
}

#[cfg(not(feature = "aws-kms"))]
#[test]
fn a_build_without_kms_reports_it_for_every_kms_key() {
    let folder = Folder::with_key();
    let sealed = folder.seal(b"data");
    for key in [KEY_ARN, KEY_ID, "alias/backup", "branch:keys/acme"] {
        for said in [
            folder.run(&["seal", "--key", key]).failed(),
            folder.run_with_input(&["open", "--key", key], &sealed).failed(),
            folder.run_with_input(&["inspect", "--key", key], &sealed).failed(),
            folder.run_with_input(&["rewrap", "--key", "key", "--to", key], &sealed).failed(),
        ] {
            assert!(said.contains(key) && said.contains("build it with its default features"), "{said}");
        }
    }
    let said = folder.run(&["branch-key", "show", "keys/acme"]).failed();
    assert!(said.contains("build it with its default features"), "{said}");
}

#[cfg(feature = "aws-kms")]
mod kms {
    use std::{
        io::{BufRead, BufReader, Read, Write},
        net::TcpListener,
        thread,
    };

    use super::*;
    use crate::{end, with_credentials};

    /// Starts a server that responds to one request with this status and JSON. Returns its address, and a handle that
    /// returns the head and body of the request.
    fn answer_once(status: &'static str, json: String) -> (String, thread::JoinHandle<(String, String)>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let served = thread::spawn(move || {
            let mut connection = BufReader::new(listener.accept().unwrap().0);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                connection.read_line(&mut head).unwrap();
            }
            let head = head.to_lowercase();
            let len = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
            let mut body = vec![0; len];
            connection.read_exact(&mut body).unwrap();
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\n\r\n{json}",
                json.len()
            );
            connection.get_mut().write_all(answer.as_bytes()).unwrap();
            (head, String::from_utf8(body).unwrap())
        });
        (address, served)
    }

    #[test]
    fn an_alias_or_a_key_id_is_looked_up_in_the_region_of_the_environment() {
        let folder = Folder::with_key();
        let sealed = folder.seal(b"data");
        for key in ["alias/backup", KEY_ID, "mrk-1234abcd12ab34cd56ef1234567890ab"] {
            let json = format!(r#"{{"KeyMetadata": {{"KeyId": "{KEY_ID}", "Arn": "{KEY_ARN}"}}}}"#);
            let (address, served) = answer_once("200 OK", json);
            let mut command = folder.command(&["open", "--key", key]);
            with_credentials(&mut command).env("AWS_ENDPOINT_URL", address).env("AWS_REGION", "ap-southeast-2");
            // The key is found, but the message is not for it.
            let said = end(&mut command, &sealed).failed();
            assert!(said.contains("they are for: kms-envelope/"), "{said}");
            let (head, body) = served.join().unwrap();
            assert!(head.contains("trentservice.describekey") && head.contains("/ap-southeast-2/kms/"), "{head}");
            assert_eq!(body, format!(r#"{{"KeyId":"{key}"}}"#));
        }
    }

    #[test]
    fn an_unknown_alias_is_reported_with_the_way_to_name_a_file() {
        let folder = Folder::new();
        let json = r#"{"__type": "NotFoundException", "message": "Alias is not found."}"#;
        let (address, served) = answer_once("400 Bad Request", json.into());
        let mut command = folder.command(&["seal", "--key", "alias/backup"]);
        with_credentials(&mut command).env("AWS_ENDPOINT_URL", address).env("AWS_REGION", "eu-west-1");
        let said = end(&mut command, b"data").failed();
        assert!(said.contains("Alias is not found") && said.contains("write ./alias/backup"), "{said}");
        served.join().unwrap();
    }

    #[test]
    fn an_invalid_environment_variable_is_named_and_no_data_key_is_shown() {
        let folder = Folder::with_key();
        folder.write("sealed", &folder.seal(b"data"));
        for (name, value) in [
            ("AWS_ENDPOINT_URL", "foo"),
            ("AWS_ENDPOINT_URL", "localhost:4566"),
            ("AWS_ENDPOINT_URL_KMS", "http://host/a b"),
            ("AWS_ENDPOINT_URL", ""),
            ("AWS_MAX_ATTEMPTS", "abc"),
            ("AWS_RETRY_MODE", "zzz"),
            ("AWS_ACCESS_KEY_ID", "a\nb"),
            ("AWS_SECRET_ACCESS_KEY", "a\r"),
        ] {
            let mut command = folder.command(&["rewrap", "--key", "key", "-c", crate::PAIR, "--to", KEY_ARN, "sealed"]);
            let said = end(with_credentials(&mut command).env(name, value), b"").failed();
            assert!(said.contains(&format!("variable {name} must be")) && !said.contains("Plaintext"), "{said}");
        }
        for region in ["", "eu west"] {
            let mut command = folder.command(&["seal", "--key", "alias/backup"]);
            let said = end(with_credentials(&mut command).env("AWS_REGION", region), b"").failed();
            assert!(said.contains("AWS_REGION"), "{said}");
        }
    }

    #[test]
    fn a_request_that_cannot_be_made_is_not_shown_with_its_data_key() {
        let folder = Folder::with_key();
        folder.write("sealed", &folder.seal(b"data"));
        // Of one service, which is not looked at before.
        let config = "[default]\nservices = ours\n\n[services ours]\nkms =\n  endpoint_url = localhost:4566\n";
        folder.write("config", config.as_bytes());
        let mut command = folder.command(&["rewrap", "--key", "key", "-c", crate::PAIR, "--to", KEY_ARN, "sealed"]);
        with_credentials(&mut command).env_remove("AWS_ENDPOINT_URL").env("AWS_CONFIG_FILE", "config");
        let said = end(&mut command, b"").failed();
        assert!(said.contains(KEY_ARN) && !said.contains("Plaintext") && !said.contains("SdkBody"), "{said}");
    }

    #[test]
    fn an_alias_without_a_region_is_a_failure_that_says_what_to_set() {
        let folder = Folder::new();
        let said = end(with_credentials(&mut folder.command(&["seal", "--key", "alias/backup"])), b"data").failed();
        assert!(said.contains("alias/backup: no AWS region") && said.contains("AWS_REGION"), "{said}");
    }
}
