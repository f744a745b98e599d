//! Tests of re-keying by several processes, on a local folder.

use std::process::Command;

use kms_envelope::{Envelope, RawAes};
use kms_envelope_object_store::{StoreSettings, v0_14::EncryptedStore};
use object_store::{ObjectStoreExt, local::LocalFileSystem, path::Path};
use test_support::peers::path;
use url::Url;

const OBJECTS: usize = 500;

fn rekey(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_rekey")).args(arguments).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
}

/// Adds up the numbers before a word in the lines of the processes.
fn total(text: &str, word: &str) -> usize {
    let words: Vec<_> = text.split([' ', ',', '\n']).filter(|word| !word.is_empty()).collect();
    words.windows(2).filter(|pair| pair[1] == word).filter_map(|pair| pair[0].parse::<usize>().ok()).sum()
}

#[tokio::test]
async fn several_processes_rewrap_each_object_once() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let keys = ["old", "new"].map(|name| {
        let file = path(folder.path(), name);
        RawAes::generate("examples", name).unwrap().write_key_file(&file).unwrap();
        file
    });
    let store = |key: &str| {
        let settings = StoreSettings::new(Envelope::builder(RawAes::read_key_file(key).unwrap()));
        EncryptedStore::new(LocalFileSystem::new(), settings.base("file:///").detached_keys(".keys")).unwrap()
    };
    let locations: Vec<_> = (0..OBJECTS)
        .map(|number| Path::from_absolute_path(data.parent().unwrap()).unwrap().join("data").join(format!("{number}")))
        .collect();
    for location in &locations {
        store(&keys[0]).put(location, location.to_string().into()).await.unwrap();
    }
    let url: String = Url::from_file_path(&data).unwrap().into();

    let (succeeded, said) = rekey(&[&url, &keys[0], &keys[1], "3"]);
    assert!(succeeded, "{said}");
    assert_eq!((said.lines().count(), total(&said, "rewrapped"), total(&said, "before")), (3, OBJECTS, 0), "{said}");
    let new = store(&keys[1]);
    for location in &locations {
        assert_eq!(new.get(location).await.unwrap().bytes().await.unwrap(), location.to_string());
    }
    // A second run changes nothing, and an object that fails is reported.
    std::fs::write(data.join("7"), std::fs::read(data.join("8")).unwrap()).unwrap();
    let (succeeded, said) = rekey(&[&url, &keys[0], &keys[1], "3"]);
    assert!(!succeeded && said.contains("data/7: "), "{said}");
    assert_eq!((total(&said, "rewrapped"), total(&said, "before")), (0, OBJECTS - 1), "{said}");
    assert!(!rekey(&[&url]).0 && !rekey(&[&url, &keys[0], "none"]).0);
}
