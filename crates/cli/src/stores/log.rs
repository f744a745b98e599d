//! The log of a command: a line of JSON for each object.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions, TryLockError},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    io::{BufRead, BufReader, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use kms_envelope_object_store::v0_14::Listed;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{commands::ascii, failure::Failure};

/// The result for an object. The fields that come from its header are not authenticated.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) path: String,
    pub(crate) result: Outcome,
    pub(crate) sealed_len: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) plaintext_len: Option<u64>,
    pub(crate) last_modified: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) e_tag: Option<String>,
    /// Identifies the version of the detached keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) detached_keys_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) suite: Option<String>,
    /// The keys in the header.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) keys: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) detached_keys: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Message,
    NotAMessage,
    /// It now opens with the new key.
    Rewrapped,
    Resealed,
    /// It opened with the new key before.
    OpenedBefore,
    OtherKey,
    /// It was deleted after it was listed.
    Deleted,
    Failed,
}

impl Record {
    pub(crate) fn new(listed: &Listed, result: Outcome) -> Self {
        let meta = &listed.meta;
        Self {
            path: meta.location.to_string(),
            result,
            sealed_len: meta.size,
            plaintext_len: None,
            last_modified: meta.last_modified.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
            e_tag: meta.e_tag.clone(),
            detached_keys_version: listed.detached_keys.map(|version| format!("{version:016x}")),
            suite: None,
            keys: Vec::new(),
            detached_keys: Vec::new(),
            error: None,
        }
    }

    /// Returns whether this record is still true of an object.
    fn is_of(&self, listed: &Listed) -> bool {
        let now = Self::new(listed, self.result);
        let is_weak = now.e_tag.as_ref().is_none_or(|e_tag| e_tag.starts_with("W/"));
        // Azure's lists omit the quotes.
        let e_tag = |record: &Self| record.e_tag.as_ref().map(|e_tag| e_tag.trim_matches('"').to_owned());
        let is_same = e_tag(self) == e_tag(&now) && (!is_weak || self.last_modified == now.last_modified);
        let is_final = !matches!(self.result, Outcome::Failed | Outcome::Deleted);
        is_final
            && is_same
            && self.path == now.path
            && self.sealed_len == now.sealed_len
            && self.detached_keys_version == now.detached_keys_version
    }

    pub(crate) fn line(&self) -> Result<String, Failure> {
        let json = serde_json::to_string(self).map_err(|error| Failure::new(error.to_string()))?;
        Ok(ascii(&json) + "\n")
    }
}

/// A file of [`Record`]s, to which one process appends. The last record of an object applies.
pub(crate) struct Log {
    path: PathBuf,
    /// Locked, and only written at its end.
    file: Option<File>,
    reader: Option<File>,
    /// The offsets of the last records, by the hash of the object's path.
    offsets: HashMap<u64, u64>,
}

impl Log {
    /// Returns a log that keeps nothing.
    pub(crate) fn none() -> Self {
        Self { path: PathBuf::new(), file: None, reader: None, offsets: HashMap::new() }
    }

    /// Opens or creates a log. Its first line is `command`, which says what the others are about.
    pub(crate) fn open(path: &Path, command: &Value) -> Result<Self, Failure> {
        let failed = |error| Failure::new(format!("{}: the log cannot be opened: {error}", path.display()));
        let mut file = OpenOptions::new().append(true).create(true).open(path).map_err(failed)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::new("another process writes to this log").of(path.display()));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Ok(()) => {}
        }
        let reader = File::open(path).map_err(failed)?;
        let mut lines = BufReader::new(&reader);
        let (mut offsets, mut end, mut number) = (HashMap::new(), 0, 0);
        let mut line = String::new();
        let first = format!("{command}\n");
        loop {
            line.clear();
            let len = lines.read_line(&mut line).map_err(failed)?;
            let is_torn = !line.ends_with('\n');
            number += 1;
            if number == 1 {
                // Nothing of another file may be lost.
                if !(is_torn && first.starts_with(&line)) && line != first {
                    return Err(Failure::usage(format!(
                        "{}: this is not the log of the same command with the same keys; name another file",
                        path.display()
                    )));
                }
            } else if !is_torn {
                let record: Record = serde_json::from_str(&line).map_err(|error| {
                    Failure::new(format!("line {number} is not of a log: {error}"))
                        .of(path.display())
                        .advise("name another file")
                })?;
                offsets.insert(hash(&record.path), end);
            }
            if is_torn {
                break; // The end, or a line that was not written completely.
            }
            end += len as u64;
        }
        file.set_len(end).map_err(failed)?;
        if end == 0 {
            file.write_all(first.as_bytes()).map_err(failed)?;
        }
        Ok(Self { path: path.to_owned(), file: Some(file), reader: Some(reader), offsets })
    }

    pub(crate) fn name(&self) -> impl std::fmt::Display {
        self.path.display()
    }

    /// Returns the number of objects in the log.
    pub(crate) fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Returns the record of an object, if it is still true.
    pub(crate) fn find(&mut self, listed: &Listed) -> Result<Option<Record>, Failure> {
        let Some((file, offset)) = self.reader.as_ref().zip(self.offsets.get(&hash(listed.meta.location.as_ref())))
        else {
            return Ok(None);
        };
        let mut line = String::new();
        let mut reader = BufReader::with_capacity(1024, file);
        reader
            .seek(SeekFrom::Start(*offset))
            .and_then(|_| reader.read_line(&mut line))
            .map_err(|error| Failure::reading(self.name(), &error))?;
        Ok(serde_json::from_str(&line).ok().filter(|record: &Record| record.is_of(listed)))
    }

    pub(crate) fn append(&mut self, record: &Record) -> Result<(), Failure> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let line = record.line()?;
        file.write_all(line.as_bytes()).map_err(|error| Failure::writing(self.path.display(), &error))
    }
}

fn hash(path: &str) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(path)
}
