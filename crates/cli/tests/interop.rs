//! Exchanges files in both directions between the command and the AWS Encryption SDK for Python, with moto as KMS. Run
//! with
//!
//! ```text
//! python3 -m venv .venv && .venv/bin/pip install -r tests/python/requirements.txt
//! cargo test -p kms-envelope-cli --test interop -- --ignored
//! ```
//!
//! To use another Python with the same packages, set `KMS_ENVELOPE_PYTHON`.

use std::{fs, path::Path, process::Command};

use kms_envelope::EncryptionContext;
use test_support::{
    peers::{Moto, Peer, aws_environment, path},
    plaintext,
};

/// Runs the command. Returns its error output if it fails.
fn command(endpoint: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(env!("CARGO_BIN_EXE_kms-envelope"))
        .args(args)
        .env_remove("KMS_ENVELOPE_KEY")
        .envs(aws_environment(endpoint))
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    if output.status.success() { Ok(()) } else { Err(stderr) }
}

#[tokio::test]
#[ignore = "needs Python with the AWS Encryption SDK and moto: see the top of crates/cli/tests/interop.rs"]
async fn the_command_and_python_open_each_others_files() {
    let moto = Moto::start();
    let arn = moto.create_key().await;
    let alias = format!("{}:alias/files", arn.rsplit_once(':').unwrap().0);
    moto.client().create_alias().alias_name("alias/files").target_key_id(&arn).send().await.unwrap();
    let mut peer = Peer::start(Some(moto.endpoint()));
    let folder = tempfile::tempdir().unwrap();
    let [plain, sealed, opened, key_file] = ["plain", "sealed", "opened", "local.key"].map(|n| path(folder.path(), n));
    let run = |args: &[&str]| command(moto.endpoint(), args);
    let data = plaintext(1_000_000);
    fs::write(&plain, &data).unwrap();
    run(&["keygen", &key_file]).unwrap();

    let context = EncryptionContext::from([("purpose", "demo"), ("user", "алиса")]);
    let pairs = ["-c", "purpose=demo", "-c", "user=алиса"];
    for (key, peers_key) in [(&key_file, &key_file), (&arn, &arn), (&alias, &arn)] {
        run(&[&["seal", "--key", key, "-o", &sealed, &plain][..], &pairs].concat()).unwrap();
        assert!(peer.open(peers_key, &context, &fs::read(&sealed).unwrap()).unwrap() == data);

        fs::write(&sealed, peer.seal(peers_key, &context, 4096, &data)).unwrap();
        run(&[&["open", "--key", key, "-o", &opened, &sealed][..], &pairs].concat()).unwrap();
        assert!(fs::read(&opened).unwrap() == data);
        fs::remove_file(&opened).unwrap();
    }

    let wrong = run(&["open", "--key", &arn, "-c", "purpose=other", "-o", &opened, &sealed]).unwrap_err();
    assert!(wrong.contains("purpose"), "{wrong}");
    let other = run(&["open", "--key", &key_file, "-o", &opened, &sealed]).unwrap_err();
    assert!(other.contains(&arn), "{other}");
    assert!(!Path::new(&opened).exists());
}
