//! A store of branch keys in the files of a folder.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use base64ct::{Base64, Encoding};
use serde_json::{Map, Value, json};

use super::{BranchKeyItem, BranchKeyStore, store::conflict};
use crate::{
    crypto::{Backend, Digest},
    provider::{
        ProviderError, ProviderErrorKind as Kind,
        files::{sync_parent, write_whole},
    },
    suite::HashAlgorithm,
};

const GET: &str = "GetItem";
const CREATE: &str = "CreateItems";
const REPLACE: &str = "ReplaceItem";

/// The maximum length of a file: the items of several thousand versions.
const MAX_LEN: u64 = 16 << 20;
/// The maximum length of an encoded id in a file name. Longer ones are cut, and end with a digest.
const MAX_NAME_LEN: usize = 160;
/// Writers lock this file. It is empty.
const LOCK: &str = ".branch-keys.lock";
/// The next content of a file. Only the writer that holds the lock uses it.
const TEMPORARY: &str = ".branch-keys.tmp";
/// How often a writer checks whether the lock is free.
const LOCK_INTERVAL: Duration = Duration::from_millis(5);

/// Branch keys in a folder, for local development and tests.
///
/// Each branch key has a file, with its items as `aws dynamodb query` prints them:
///
/// ```json
/// {
///   "Items": [
///     {
///       "aws-crypto-ec:tenant": { "S": "acme" },
///       "branch-key-id": { "S": "tenant-acme" },
///       "create-time": { "S": "2026-11-24T14:54:19.307942Z" },
///       "enc": { "B": "AQICAHg…" },
///       "hierarchy-version": { "N": "1" },
///       "kms-arn": { "S": "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab" },
///       "type": { "S": "branch:ACTIVE" },
///       "version": { "S": "branch:version:0f8fad5b-d9cb-469f-a165-70867728950e" }
///     }
///   ]
/// }
/// ```
///
/// To use a branch key of a table locally, save the output of this command to the [file of the branch key](Self::path):
///
/// ```sh
/// aws dynamodb query --table-name branch-keys --key-condition-expression '#id = :id' \
///     --expression-attribute-names '{"#id": "branch-key-id"}' --expression-attribute-values '{":id": {"S": "tenant-acme"}}'
/// ```
///
/// The files contain KMS ciphertexts and no branch key in plaintext.
///
/// # Writes
/// A write replaces the file by a complete new one, so neither readers nor a killed process leave half of it. Writers
/// exclude each other with a lock on a file in the folder, also between processes. Network file systems may not support
/// such locks.
///
/// # Blocking
/// The methods read and write files in the calling thread, without an await point. A writer that waits for the lock
/// blocks its thread, up to the deadline. Do not use this store in a service that handles many requests.
#[derive(Clone, Debug)]
pub struct FolderStore {
    folder: PathBuf,
}

/// The items of one branch key, by type.
type Items = BTreeMap<String, BranchKeyItem>;

impl FolderStore {
    /// Creates a store in a folder, which must exist. Reads nothing.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Returns the path of a branch key's file.
    ///
    /// Its name is the id, in which all bytes except lower-case letters, digits, `-` and `_` are percent-encoded, so
    /// that it is safe for all ids and file systems. A long id is cut and followed by its SHA-256 digest.
    ///
    /// ```
    /// use std::path::Path;
    /// use kms_envelope::provider::branch_key::FolderStore;
    ///
    /// let store = FolderStore::new("keys");
    /// assert_eq!(store.path("tenant-acme"), Path::new("keys/branch-key-tenant-acme.json"));
    /// assert_eq!(store.path("../Acme"), Path::new("keys/branch-key-%2e%2e%2f%41cme.json"));
    /// ```
    pub fn path(&self, branch_key_id: &str) -> PathBuf {
        let mut name = String::new();
        for byte in branch_key_id.bytes() {
            match byte {
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
                _ => name.push_str(&format!("%{byte:02x}")),
            }
        }
        if name.len() > MAX_NAME_LEN {
            let mut digest = Digest::new(Backend::default(), HashAlgorithm::Sha256);
            digest.update(branch_key_id.as_bytes());
            name.truncate(MAX_NAME_LEN - 65);
            // No encoded id contains this character.
            name.push('~');
            digest.finish().iter().for_each(|byte| name.push_str(&format!("{byte:02x}")));
        }
        // Without the prefix, Windows would take some names for devices.
        self.folder.join(format!("branch-key-{name}.json"))
    }

    /// Reads the items of a branch key. Returns none if it has no file.
    fn read(&self, operation: &'static str, id: &str) -> Result<Items, ProviderError> {
        let path = self.path(id);
        let failed = |error| io_error(operation, id, &path, error);
        // Opening a pipe could wait forever.
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() => {}
            Ok(_) => return Err(invalid(operation, id, &path, "it is not a regular file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.folder.is_dir() => return Ok(Items::new()),
            Err(error) => return Err(failed(error)),
        }
        let mut json = Vec::new();
        File::open(&path).and_then(|file| file.take(MAX_LEN + 1).read_to_end(&mut json)).map_err(failed)?;
        if json.len() as u64 > MAX_LEN {
            return Err(invalid(operation, id, &path, &format!("it is longer than {MAX_LEN} bytes")));
        }
        parse(&json, id).map_err(|what| invalid(operation, id, &path, &what))
    }

    /// Changes the items of a branch key, while no other writer does.
    fn update(
        &self,
        operation: &'static str,
        id: &str,
        deadline: Instant,
        change: impl FnOnce(&mut Items) -> Result<(), ProviderError>,
    ) -> Result<(), ProviderError> {
        // Unlocked when it is closed.
        let _lock = self.lock(operation, id, deadline)?;
        let mut items = self.read(operation, id)?;
        change(&mut items)?;
        let path = self.path(id);
        let json = to_json(&items);
        if json.len() as u64 > MAX_LEN {
            let what = format!("{} would be longer than {MAX_LEN} bytes", path.display());
            return Err(ProviderError::new(Kind::Unsupported, operation, id).with_detail(what));
        }
        let write = || {
            let temporary = self.folder.join(TEMPORARY);
            match fs::remove_file(&temporary) {
                // A killed writer has left it.
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            write_whole(&temporary, &json)?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|error| io_error(operation, id, &path, error))?;
        sync_parent(&path);
        Ok(())
    }

    /// Waits until no other writer holds the lock, in this or another process.
    fn lock(&self, operation: &'static str, id: &str, deadline: Instant) -> Result<File, ProviderError> {
        let path = self.folder.join(LOCK);
        let failed = |error| io_error(operation, id, &path, error);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        loop {
            check_deadline(operation, id, deadline)?;
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    thread::sleep(LOCK_INTERVAL.min(left));
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
    }
}

#[async_trait]
impl BranchKeyStore for FolderStore {
    async fn get(
        &self,
        branch_key_id: &str,
        item_type: &str,
        deadline: Instant,
    ) -> Result<Option<BranchKeyItem>, ProviderError> {
        check_deadline(GET, branch_key_id, deadline)?;
        Ok(self.read(GET, branch_key_id)?.remove(item_type))
    }

    async fn create(&self, items: &[BranchKeyItem], deadline: Instant) -> Result<(), ProviderError> {
        let Some(first) = items.first() else { return Ok(()) };
        let id = &first.branch_key_id[..];
        self.update(CREATE, id, deadline, |all| {
            for item in items {
                check_id(CREATE, id, item)?;
                add(CREATE, all, item)?;
            }
            Ok(())
        })
    }

    async fn replace(
        &self,
        version: &BranchKeyItem,
        active: &BranchKeyItem,
        expected_ciphertext: &[u8],
        deadline: Instant,
    ) -> Result<(), ProviderError> {
        let id = &version.branch_key_id[..];
        self.update(REPLACE, id, deadline, |all| {
            check_id(REPLACE, id, active)?;
            match all.get_mut(&active.item_type) {
                Some(current) if current.ciphertext == expected_ciphertext => current.clone_from(active),
                _ => return Err(conflict(REPLACE, active, "was replaced or does not exist")),
            }
            add(REPLACE, all, version)
        })
    }
}

fn add(operation: &'static str, all: &mut Items, item: &BranchKeyItem) -> Result<(), ProviderError> {
    if all.contains_key(&item.item_type) {
        return Err(conflict(operation, item, "exists already"));
    }
    all.insert(item.item_type.clone(), item.clone());
    Ok(())
}

/// Each file has one branch key, so that a write is one rename.
fn check_id(operation: &'static str, id: &str, item: &BranchKeyItem) -> Result<(), ProviderError> {
    if item.branch_key_id == id {
        return Ok(());
    }
    let why = "all items of a write must be of the same branch key";
    Err(ProviderError::new(Kind::Unsupported, operation, id).with_detail(why))
}

fn check_deadline(operation: &'static str, id: &str, deadline: Instant) -> Result<(), ProviderError> {
    if Instant::now() < deadline {
        return Ok(());
    }
    Err(ProviderError::new(Kind::TimedOut, operation, id).with_source("the time limit was reached"))
}

fn io_error(operation: &'static str, id: &str, path: &Path, error: io::Error) -> ProviderError {
    let detail = format!("{}: {error}", path.display());
    ProviderError::new(Kind::Other, operation, id).with_detail(detail).with_source(error)
}

fn invalid(operation: &'static str, id: &str, path: &Path, what: &str) -> ProviderError {
    ProviderError::new(Kind::UnexpectedResponse, operation, id).with_detail(format!("{}: {what}", path.display()))
}

fn parse(json: &[u8], id: &str) -> Result<Items, String> {
    let document: Value = serde_json::from_slice(json).map_err(|error| format!("it is not JSON: {error}"))?;
    let list = document.get("Items").and_then(Value::as_array).ok_or("it has no list \"Items\"")?;
    let mut items = Items::new();
    for (number, value) in list.iter().enumerate() {
        let item = parse_item(value).map_err(|what| format!("item {number}: {what}"))?;
        if item.branch_key_id != id {
            return Err(format!("item {number}: its branch-key-id is {:?}, not {id:?}", item.branch_key_id));
        }
        let item_type = item.item_type.clone();
        if items.insert(item_type.clone(), item).is_some() {
            return Err(format!("item {number}: another item also has the type {item_type:?}"));
        }
    }
    Ok(items)
}

fn parse_item(value: &Value) -> Result<BranchKeyItem, String> {
    let mut attributes = value.as_object().ok_or("it is not an object")?.clone();
    let id = take(&mut attributes, "branch-key-id", "S")?;
    let item_type = take(&mut attributes, "type", "S")?;
    let ciphertext = take(&mut attributes, "enc", "B")?;
    let ciphertext = Base64::decode_vec(&ciphertext).map_err(|_| "its enc is not base64")?;
    let version = take(&mut attributes, "hierarchy-version", "N")?;
    let version = version.parse().map_err(|_| format!("its hierarchy-version is {version:?}, not a small number"))?;
    let names: Vec<_> = attributes.keys().cloned().collect();
    let others = names.into_iter().map(|name| {
        let value = take(&mut attributes, &name, "S")?;
        Ok((name, value))
    });
    Ok(BranchKeyItem::new(id, item_type, ciphertext, version, others.collect::<Result<_, String>>()?))
}

/// Removes an attribute, which must have this DynamoDB type.
fn take(attributes: &mut Map<String, Value>, name: &str, wanted: &str) -> Result<String, String> {
    let attribute = attributes.remove(name).ok_or_else(|| format!("it has no {name}"))?;
    match attribute.as_object().map(|object| object.iter().collect::<Vec<_>>()).as_deref() {
        Some([(found, Value::String(text))]) if *found == wanted => Ok(text.clone()),
        Some([(found, _)]) if *found != wanted => Err(format!("its {name} has the type {found:?}, not {wanted}")),
        _ => Err(format!("its {name} is not an attribute of type {wanted}")),
    }
}

fn to_json(items: &Items) -> Vec<u8> {
    let items: Vec<Value> = items
        .values()
        .map(|item| {
            let strings = item.attributes.iter().map(|(name, value)| (name.clone(), json!({ "S": value })));
            let mut attributes: Map<_, _> = strings.collect();
            attributes.insert("branch-key-id".to_owned(), json!({ "S": item.branch_key_id }));
            attributes.insert("type".to_owned(), json!({ "S": item.item_type }));
            attributes.insert("enc".to_owned(), json!({ "B": Base64::encode_string(&item.ciphertext) }));
            attributes.insert("hierarchy-version".to_owned(), json!({ "N": item.hierarchy_version.to_string() }));
            Value::Object(attributes)
        })
        .collect();
    format!("{:#}\n", json!({ "Items": items })).into_bytes()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};

    use pollster::block_on;

    use super::*;
    use crate::provider::deadline_after;

    fn soon() -> Instant {
        deadline_after(Duration::from_secs(60))
    }

    fn item(id: &str, item_type: &str, ciphertext: &str) -> BranchKeyItem {
        let attributes = BTreeMap::from([("kms-arn".to_owned(), "arn".to_owned())]);
        BranchKeyItem::new(id, item_type, ciphertext, 1, attributes)
    }

    fn store() -> (tempfile::TempDir, FolderStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::new(folder.path());
        (folder, store)
    }

    fn get(store: &FolderStore, id: &str) -> Result<Option<BranchKeyItem>, ProviderError> {
        block_on(store.get(id, BranchKeyItem::ACTIVE, soon()))
    }

    fn create(store: &FolderStore, id: &str) -> Result<(), ProviderError> {
        block_on(store.create(&[item(id, BranchKeyItem::ACTIVE, "one")], soon()))
    }

    #[test]
    fn file_names_are_short_and_distinct_and_stay_in_the_folder() {
        let store = FolderStore::new("folder");
        let long = "x".repeat(3000);
        let ids =
            ["", ".", "..", "../..", "/etc/passwd", "C:\\", "con", "a", "A", "%41", "ä", "a\u{308}", "a~", "\0", &long];
        let longer = ids.map(|id| format!("{id}{long}"));
        let mut names: Vec<_> = ids
            .iter()
            .copied()
            .chain(longer.iter().map(String::as_str))
            .map(|id| {
                let path = store.path(id);
                assert_eq!(path.parent(), Some(Path::new("folder")));
                path.file_name().unwrap().to_str().unwrap().to_owned()
            })
            .collect();
        for name in &names {
            assert!(name.len() <= 200, "{name}");
            assert_eq!(*name, name.to_lowercase());
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"%-_~.".contains(&byte)), "{name}");
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 2 * ids.len() - 1, "the long id occurs twice");
    }

    #[test]
    fn the_output_of_the_aws_command_is_read_and_attributes_keep_their_text() {
        let (_folder, store) = store();
        let json = r#"{"Items": [{"branch-key-id": {"S": "id"}, "type": {"S": "branch:ACTIVE"}, "enc": {"B": "AQI="},
            "hierarchy-version": {"N": "1"}, "aws-crypto-ec:tenant": {"S": "acme"}, "kms-arn": {"S": "arn"}}],
            "Count": 1, "ScannedCount": 1, "ConsumedCapacity": null}"#;
        fs::write(store.path("id"), json).unwrap();
        let mut expected = item("id", BranchKeyItem::ACTIVE, "\u{1}\u{2}");
        expected.attributes.insert("aws-crypto-ec:tenant".to_owned(), "acme".to_owned());
        assert_eq!(get(&store, "id").unwrap(), Some(expected.clone()));
        block_on(store.create(&[item("id", BranchKeyItem::BEACON, "three")], soon())).unwrap();
        assert_eq!(get(&store, "id").unwrap(), Some(expected));
    }

    #[test]
    fn an_invalid_file_is_refused_with_its_name_and_the_reason_and_is_not_changed() {
        let (folder, store) = store();
        let with = |from: &str, to: &str| {
            let good = r#"{"Items": [{"branch-key-id": {"S": "id"}, "type": {"S": "branch:ACTIVE"}, "enc": {"B": "AQI="},
                "hierarchy-version": {"N": "1"}, "x": {"S": "y"}}]}"#;
            assert!(good.contains(from));
            good.replace(from, to)
        };
        for (json, reason) in [
            ("".to_owned(), "it is not JSON: EOF"),
            ("[]".to_owned(), "it has no list \"Items\""),
            ("{}".to_owned(), "it has no list \"Items\""),
            (r#"{"Items": {}}"#.to_owned(), "it has no list \"Items\""),
            (r#"{"Items": [1]}"#.to_owned(), "item 0: it is not an object"),
            (with("branch-key-id", "branch-key"), "item 0: it has no branch-key-id"),
            (with("\"type\"", "\"typ\""), "item 0: it has no type"),
            (with("enc", "enc2"), "item 0: it has no enc"),
            (with("hierarchy-version", "hierarchy"), "item 0: it has no hierarchy-version"),
            (with(r#"{"S": "id"}"#, r#"{"N": "1"}"#), "item 0: its branch-key-id has the type \"N\", not S"),
            (with(r#"{"B": "AQI="}"#, r#"{"S": "AQI="}"#), "item 0: its enc has the type \"S\", not B"),
            (with(r#"{"N": "1"}"#, r#"{"S": "1"}"#), "item 0: its hierarchy-version has the type \"S\", not N"),
            (with(r#"{"S": "y"}"#, r#"{"BOOL": true}"#), "item 0: its x has the type \"BOOL\", not S"),
            (with(r#"{"S": "y"}"#, r#"{"S": 1}"#), "item 0: its x is not an attribute of type S"),
            (with(r#"{"S": "y"}"#, r#"{"S": "y", "N": "1"}"#), "item 0: its x is not an attribute of type S"),
            (with(r#"{"S": "y"}"#, r#""y""#), "item 0: its x is not an attribute of type S"),
            (with("AQI=", "AQI"), "item 0: its enc is not base64"),
            (with(r#""N": "1""#, r#""N": "-1""#), "item 0: its hierarchy-version is \"-1\", not a small number"),
            (with(r#""id""#, r#""other""#), "item 0: its branch-key-id is \"other\", not \"id\""),
            (with("[{", "[{},{"), "item 0: it has no branch-key-id"),
            (
                with(
                    "}]",
                    r#"}, {"branch-key-id": {"S": "id"}, "type": {"S": "branch:ACTIVE"}, "enc": {"B": ""},
                    "hierarchy-version": {"N": "1"}}]"#,
                ),
                "item 1: another item also has the type \"branch:ACTIVE\"",
            ),
            (" ".repeat(MAX_LEN as usize + 1), "it is longer than 16777216 bytes"),
        ] {
            fs::write(store.path("id"), &json).unwrap();
            let path = store.path("id").display().to_string();
            let expected = format!("GetItem with key id: unexpected response: {path}: {reason}");
            let error = get(&store, "id").unwrap_err();
            assert_eq!(error.kind(), Kind::UnexpectedResponse);
            assert!(error.to_string().starts_with(&expected), "{error}");
            assert_eq!(create(&store, "id").unwrap_err().kind(), Kind::UnexpectedResponse);
            assert_eq!(fs::read_to_string(store.path("id")).unwrap(), json);
        }
        drop(folder);
    }

    #[test]
    fn a_missing_folder_is_an_error_that_names_it() {
        let (folder, _) = store();
        let store = FolderStore::new(folder.path().join("missing"));
        for error in [get(&store, "id").unwrap_err(), create(&store, "id").unwrap_err()] {
            assert_eq!(error.kind(), Kind::Other);
            assert!(error.detail().unwrap().contains("missing"), "{error}");
        }
    }

    #[test]
    fn items_of_different_branch_keys_are_not_written_together() {
        let (_folder, store) = store();
        let [one, other] = ["one", "other"].map(|id| item(id, BranchKeyItem::ACTIVE, "c"));
        let error = block_on(store.create(&[one.clone(), other.clone()], soon())).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        let error = block_on(store.replace(&one, &other, b"c", soon())).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert_eq!((get(&store, "one").unwrap(), get(&store, "other").unwrap()), (None, None));
    }

    #[test]
    fn a_file_that_would_become_too_long_is_not_written() {
        let (_folder, store) = store();
        create(&store, "id").unwrap();
        let mut large = item("id", BranchKeyItem::BEACON, "");
        large.attributes.insert("x".to_owned(), "x".repeat(MAX_LEN as usize));
        assert_eq!(block_on(store.create(&[large], soon())).unwrap_err().kind(), Kind::Unsupported);
        assert!(get(&store, "id").unwrap().is_some());
    }

    #[test]
    fn what_a_killed_writer_leaves_is_ignored_and_removed() {
        let (folder, store) = store();
        fs::write(folder.path().join(TEMPORARY), "{\"Items\": [{\"bra").unwrap();
        assert_eq!(get(&store, "id").unwrap(), None);
        create(&store, "id").unwrap();
        let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [LOCK, "branch-key-id.json"]);
    }

    #[test]
    fn a_writer_waits_for_the_lock_until_its_deadline() {
        let (_folder, store) = store();
        let lock = store.lock(CREATE, "id", soon()).unwrap();
        let deadline = Instant::now() + Duration::from_millis(30);
        let items = [item("id", BranchKeyItem::ACTIVE, "one")];
        let error = block_on(store.create(&items, deadline)).unwrap_err();
        assert_eq!(error.kind(), Kind::TimedOut);
        // Readers do not wait.
        assert_eq!(get(&store, "id").unwrap(), None);
        drop(lock);
        create(&store, "id").unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_place_of_a_file_is_refused_and_not_followed() {
        let (folder, store) = store();
        let target = folder.path().join("target");
        fs::write(&target, "{\"Items\": []}").unwrap();
        std::os::unix::fs::symlink(&target, store.path("id")).unwrap();
        for error in [get(&store, "id").unwrap_err(), create(&store, "id").unwrap_err()] {
            assert!(error.detail().unwrap().ends_with("it is not a regular file"), "{error}");
        }
        // A link with a planted name is replaced, and its target stays as it is.
        std::os::unix::fs::symlink(&target, folder.path().join(TEMPORARY)).unwrap();
        create(&store, "other").unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "{\"Items\": []}");
    }

    #[test]
    fn of_writers_in_several_threads_one_wins_and_readers_see_whole_items() {
        let (_folder, store) = store();
        create(&store, "id").unwrap();
        for round in 0..20 {
            let current = get(&store, "id").unwrap().unwrap().ciphertext;
            let barrier = Arc::new(Barrier::new(5));
            let writers: Vec<_> = (0..4)
                .map(|writer| {
                    let (store, current, barrier) = (store.clone(), current.clone(), barrier.clone());
                    thread::spawn(move || {
                        let version = item("id", &format!("branch:version:{round}-{writer}"), "v");
                        let active = item("id", BranchKeyItem::ACTIVE, &format!("{round}-{writer}"));
                        barrier.wait();
                        block_on(store.replace(&version, &active, &current, soon())).is_ok()
                    })
                })
                .collect();
            barrier.wait();
            while !writers.iter().all(thread::JoinHandle::is_finished) {
                assert!(get(&store, "id").unwrap().is_some());
            }
            let wins: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
            let winner = wins.iter().position(|wins| *wins).unwrap();
            assert_eq!(wins.iter().filter(|wins| **wins).count(), 1);
            assert_eq!(get(&store, "id").unwrap().unwrap().ciphertext, format!("{round}-{winner}").as_bytes());
            let versions = store.read(GET, "id").unwrap().len() - 1;
            assert_eq!(versions, round + 1);
        }
    }
}
