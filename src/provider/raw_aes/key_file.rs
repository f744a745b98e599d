//! Key files: local keys as JSON, with the fields that AWS's SDKs need to configure a raw AES keyring.
//!
//! `serde_json` must not decode the key. It copies strings that contain escapes into memory that is not zeroized, and
//! its errors can quote the input. It therefore passes on the key's JSON text undecoded, and only the line and column
//! of its errors are reported.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use base64ct::{Base64, Encoding};
use serde::{Deserialize, Serialize};
use serde_json::{error::Category, value::RawValue};
use zeroize::Zeroizing;

use super::RawAes;
use crate::{
    crypto::{Randomness, SecretKey},
    error::ConfigError,
    provider::files::{sync_parent, write_whole},
};

/// The maximum length of a key file. The longest possible names are shorter, even with all characters escaped.
const MAX_LEN: usize = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    namespace: String,
    name: String,
    /// The string as written in the file, with quotes and escapes.
    #[serde(borrow)]
    key: &'a RawValue,
}

#[derive(Serialize)]
struct FieldsOut<'a> {
    namespace: &'a str,
    name: &'a str,
    key: &'a str,
}

/// Key files (feature `key-file`).
impl RawAes {
    /// Reads a key file. [`from_json`](Self::from_json) describes the format.
    ///
    /// ```
    /// use kms_envelope::RawAes;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("backup.key");
    /// RawAes::generate("my-service", "backup-2026")?.write_key_file(&path)?;
    /// assert_eq!(RawAes::read_key_file(&path)?.name(), "backup-2026");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Returns [`ConfigError::KeyFileIo`] if the file cannot be read, and the errors of [`from_json`](Self::from_json).
    pub fn read_key_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let mut json = Zeroizing::new(vec![0; MAX_LEN + 1]);
        let len = File::open(path)
            .and_then(|file| read_to_fill(file, &mut json))
            .map_err(|source| io_error(path, "read", source))?;
        if len > MAX_LEN {
            return Err(no_key(format!("it is longer than {MAX_LEN} bytes")));
        }
        Self::from_json(&json[..len])
    }

    /// Parses the JSON of a key file.
    ///
    /// It must be an object with the string fields `namespace`, `name` and `key`, and no others. `key` is the key of
    /// 16, 24 or 32 bytes, encoded in standard base64 with padding. The caller is responsible for zeroizing `json`.
    ///
    /// ```
    /// use kms_envelope::RawAes;
    ///
    /// let json = r#"{"namespace": "my-service", "name": "2026", "key": "AAECAwQFBgcICQoLDA0ODw=="}"#;
    /// let key = RawAes::from_json(json)?;
    /// assert_eq!((key.namespace(), key.name(), key.key().len()), ("my-service", "2026", 16));
    /// # Ok::<(), kms_envelope::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// Returns [`ConfigError::KeyFile`] if the JSON is not a valid key file. The error never quotes the JSON.
    pub fn from_json(json: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        let json = json.as_ref();
        // serde would also accept an array of the three values.
        if !json.trim_ascii_start().starts_with(b"{") {
            return Err(no_key("it is not a JSON object"));
        }
        let fields: Fields<'_> = serde_json::from_slice(json).map_err(|error| {
            let what = match error.classify() {
                Category::Data => {
                    "expected an object with \"namespace\", \"name\" and \"key\", each once, and no other fields"
                }
                Category::Eof => "the JSON is truncated",
                Category::Syntax | Category::Io => "invalid JSON",
            };
            no_key(format!("line {}, column {}: {what}", error.line(), error.column()))
        })?;
        Self::new(fields.namespace, fields.name, decode_key(fields.key.get())?)
            .map_err(|error| no_key(error.to_string()))
    }

    /// Writes the key to a new key file, for [`read_key_file`](Self::read_key_file). Never overwrites an existing file.
    ///
    /// On success, the file has been synced to disk. On Unix, only the owner of the file can read it.
    ///
    /// # Errors
    /// Returns [`ConfigError::KeyFileIo`] if the file exists or cannot be written. A partially written file is removed.
    pub fn write_key_file(&self, path: impl AsRef<Path>) -> Result<(), ConfigError> {
        let path = path.as_ref();
        self.write_new(path).map_err(|source| io_error(path, "written", source))
    }

    fn write_new(&self, path: &Path) -> io::Result<()> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let json = self.to_json()?;
        // A hard link gives the complete file its name and never replaces an existing file. If the process is killed
        // before that, no partial file has the name.
        let temporary = temporary_beside(path)?;
        write_whole(&temporary, &json)?;
        let linked = fs::hard_link(&temporary, path);
        let _ = fs::remove_file(&temporary);
        match linked {
            // The file system does not support hard links.
            Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) => {
                write_whole(path, &json)?;
            }
            linked => linked?,
        }
        sync_parent(path);
        Ok(())
    }

    fn to_json(&self) -> io::Result<Zeroizing<Vec<u8>>> {
        let key = self.key().expose();
        let mut base64 = Zeroizing::new(vec![0; Base64::encoded_len(key)]);
        let key = Base64::encode(key, &mut base64).map_err(io::Error::other)?;
        let fields = FieldsOut { namespace: self.namespace(), name: self.name(), key };
        // Enough for names whose characters are all escaped like \u0000: a buffer that grows leaves a copy of the key
        // in freed memory.
        let capacity = 128 + 6 * (fields.namespace.len() + fields.name.len()) + key.len();
        let mut json = Zeroizing::new(Vec::with_capacity(capacity));
        serde_json::to_writer_pretty(&mut *json, &fields)?;
        json.push(b'\n');
        Ok(json)
    }
}

/// Returns the path of a new temporary file in the directory of `path`.
fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    let mut random = [0; 8];
    Randomness::default().fill(&mut random).map_err(io::Error::other)?;
    Ok(path.with_file_name(format!(".kms-envelope-{:016x}.tmp", u64::from_be_bytes(random))))
}

fn io_error(path: &Path, action: &'static str, source: io::Error) -> ConfigError {
    ConfigError::KeyFileIo { path: path.to_owned(), action, source }
}

fn no_key(why: impl Into<String>) -> ConfigError {
    ConfigError::KeyFile(why.into())
}

/// Reads until the end or until `out` is full. Unlike `read_to_end`, it does not leave copies in freed memory.
fn read_to_fill(mut file: File, out: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < out.len() {
        match file.read(&mut out[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// Decodes the key from a JSON string, including its quotes.
fn decode_key(json: &str) -> Result<SecretKey, ConfigError> {
    let not_base64 = || no_key("\"key\" is not a string in standard base64 with padding");
    let quoted = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or_else(not_base64)?;
    let base64 = unescape(quoted).ok_or_else(not_base64)?;
    let mut bytes = Zeroizing::new(vec![0; base64.len()]);
    let key = Base64::decode(&*base64, &mut bytes).map_err(|_| not_base64())?;
    SecretKey::try_from(key).map_err(|error| no_key(error.to_string()))
}

/// Decodes the JSON escapes that can occur in base64: some JSON writers escape `/`, `+` or `=`.
fn unescape(escaped: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut rest = escaped.as_bytes();
    let mut text = Zeroizing::new(Vec::with_capacity(rest.len()));
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match (first, rest) {
            (b'\\', [b'/', after @ ..]) => {
                text.push(b'/');
                rest = after;
            }
            (b'\\', [b'u', b'0', b'0', high, low, after @ ..]) => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                text.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?);
                rest = after;
            }
            (b'\\', _) => return None,
            (byte, _) => text.push(byte),
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODw==";

    fn message(json: &str) -> String {
        RawAes::from_json(json).unwrap_err().to_string()
    }

    #[test]
    fn a_key_file_round_trips_any_names_and_key_lengths() {
        let folder = tempfile::tempdir().unwrap();
        for (index, len) in [16, 24, 32].into_iter().enumerate() {
            let path = folder.path().join(index.to_string());
            let bytes: Vec<u8> = (0..len).map(|n| 255 - n).collect();
            let key = RawAes::new("näme \"space\"", "\u{1}/\n", SecretKey::try_from(bytes).unwrap()).unwrap();
            key.write_key_file(&path).unwrap();
            let read = RawAes::read_key_file(&path).unwrap();
            assert_eq!((read.namespace(), read.name()), (key.namespace(), key.name()));
            assert_eq!(read.key().expose(), key.key().expose());
        }
    }

    #[test]
    fn the_longest_escaped_names_fit_the_buffer() {
        let key = RawAes::generate("\u{1}".repeat(65_535), "\u{1}".repeat(65_515)).unwrap();
        let json = key.to_json().unwrap();
        assert!(json.capacity() >= 6 * (65_535 + 65_515) && json.capacity() < 6 * (65_535 + 65_515) + 200);
        assert_eq!(RawAes::from_json(&*json).unwrap().name(), key.name());
    }

    #[test]
    fn writing_a_key_file_leaves_no_other_files() {
        let folder = tempfile::tempdir().unwrap();
        let names = || fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        let key = RawAes::generate("namespace", "name").unwrap();
        key.write_key_file(folder.path().join("key")).unwrap();
        assert_eq!(names(), ["key"]);
        key.write_key_file(folder.path().join("key")).unwrap_err();
        key.write_key_file(folder.path().join("n".repeat(300))).unwrap_err();
        key.write_key_file(folder.path().join("missing/key")).unwrap_err();
        assert_eq!(names(), ["key"]);
    }

    #[test]
    fn an_existing_file_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, "other").unwrap();
        let error = RawAes::generate("a", "b").unwrap().write_key_file(&path).unwrap_err();
        assert!(matches!(error, ConfigError::KeyFileIo { action: "written", .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"other");
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_may_read_a_new_key_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        RawAes::generate("a", "b").unwrap().write_key_file(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn base64_may_be_escaped_as_json_allows() {
        let json = r#"{"namespace": "n", "name": "k", "key": "\/\u002F\u002b+AAAAAAAAAAAAAAAAAA\u003d="}"#;
        let key = RawAes::from_json(json).unwrap();
        assert_eq!(key.key().expose()[..4], [0xff, 0xff, 0xbe, 0]);
    }

    #[test]
    fn invalid_key_files_are_refused() {
        let long = "A".repeat(44);
        for json in [
            "".to_owned(),
            "[]".to_owned(),
            format!(r#"["n", "k", "{KEY}"]"#),
            format!(r#"{{"namespace": "n", "name": "k", "key": "{KEY}""#),
            format!(r#"{{"namespace": "n", "name": "k", "key": "{KEY}"}} x"#),
            format!(r#"{{"namespace": "n", "name": "k", "key": "{KEY}", "more": 1}}"#),
            format!(r#"{{"namespace": "n", "name": "k", "name": "k", "key": "{KEY}"}}"#),
            format!(r#"{{"namespace": "n", "key": "{KEY}"}}"#),
            format!(r#"{{"namespace": "n", "name": 1, "key": "{KEY}"}}"#),
            format!(r#"{{"namespace": "aws-kms", "name": "k", "key": "{KEY}"}}"#),
            r#"{"namespace": "n", "name": "k"}"#.to_owned(),
            r#"{"namespace": "n", "name": "k", "key": 1}"#.to_owned(),
            r#"{"namespace": "n", "name": "k", "key": ["AAECAwQFBgcICQoLDA0ODw=="]}"#.to_owned(),
            r#"{"namespace": "n", "name": "k", "key": ""}"#.to_owned(),
            r#"{"namespace": "n", "name": "k", "key": "AAECAwQFBgcICQoLDA0ODw"}"#.to_owned(),
            r#"{"namespace": "n", "name": "k", "key": "AAECAwQFBgcICQoLDA0OD_=="}"#.to_owned(),
            r#"{"namespace": "n", "name": "k", "key": "AAECAwQFBgcICQoLDA0ODw==\n"}"#.to_owned(),
            format!(r#"{{"namespace": "n", "name": "k", "key": "{long}"}}"#),
        ] {
            assert!(matches!(RawAes::from_json(&json), Err(ConfigError::KeyFile(_))), "{json}");
        }
    }

    #[test]
    fn an_error_reports_the_position_and_never_quotes_the_key() {
        let secret = "U0VDUkVUU0VDUkVUU0VDUg";
        for json in [
            format!(r#"{{"namespace": "n", "name": "k", "{secret}": "x"}}"#),
            format!(r#"{{"namespace": "n", "name": "k", "key": "{secret}"}}"#),
            format!(r#"{{"namespace": "n", "name": "k", "key": {secret}}}"#),
            secret.to_owned(),
        ] {
            assert!(!message(&json).contains("U0VD"), "{}", message(&json));
        }
        let text = message("{\"namespace\": \"n\",\n \"key\": x}");
        assert_eq!(text, "invalid key file: line 2, column 9: invalid JSON");
    }

    #[test]
    fn a_missing_or_too_long_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert!(matches!(RawAes::read_key_file(&path), Err(ConfigError::KeyFileIo { action: "read", .. })));
        fs::write(&path, " ".repeat(MAX_LEN + 1)).unwrap();
        assert!(RawAes::read_key_file(&path).unwrap_err().to_string().contains("longer than"));
        assert!(matches!(RawAes::read_key_file(folder.path()), Err(ConfigError::KeyFileIo { .. })));
    }
}
