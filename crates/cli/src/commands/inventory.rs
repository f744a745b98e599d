//! `kms-envelope inventory`: shows which keys protect the objects of a store.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{Display, Write as _},
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use clap::ValueEnum;
use futures_util::TryStreamExt;
use indicatif::HumanBytes;
use kms_envelope::message::EncryptedDataKey;
use kms_envelope_object_store::{Content, v0_14::Inspected};
use serde_json::{Value, json};

use super::folder;
use crate::{
    args::InventoryArguments,
    console::{Console, one_line},
    failure::Failure,
    key_source::is_same_key,
    progress::Progress,
    standard,
    stores::{
        self, Location,
        log::{Outcome, Record},
        scope::{Missing, Scope, lock, no_objects},
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A summary
    Table,
    /// A line of JSON for each object
    Json,
    /// A line of comma-separated values for each object
    Csv,
}

pub(super) fn inventory(arguments: &InventoryArguments, console: Console) -> Result<(), Failure> {
    let location = folder(&arguments.place)?;
    if let Some(name) = arguments.keys.iter().find(|name| !may_be_in_a_header(name)) {
        return Err(Failure::usage(format!(
            "--key {}: headers name keys by their ARNs and names; pass one that the inventory shows",
            one_line(name)
        )));
    }
    let command = json!({
        "log": "inventory",
        "url": location.url.as_str(),
        "detached_keys": arguments.scope.detached.suffix,
    });
    let scope = arguments.scope.scope(&location, &command, false, console)?;
    let report = Report::new(arguments, console)?;
    stores::runtime()?.block_on(async {
        let summary = read(&scope, report).await.map_err(|failure| failure.of(&location.url))?;
        if summary.listed == 0 {
            return Err(no_objects(&location, "`kms-envelope inspect` shows one object").await);
        }
        if arguments.format == Format::Table {
            super::print(summary.table(&location, arguments).as_bytes())?;
        }
        match summary.failed {
            0 if summary.messages.objects == 0 && !arguments.keys.is_empty() => {
                Err(Failure::new("no object names the key")
                    .advise("the inventory without --key shows the keys that there are"))
            }
            0 => Ok(()),
            failed => Err(Failure::new(format!("{failed} of {} objects could not be read", summary.listed))
                .advise("`--format json` shows why; with `--log FILE`, the next run reads only these")),
        }
    })
}

async fn read(scope: &Scope, report: Report) -> Result<Summary, Failure> {
    let report = Arc::new(Mutex::new(report));
    let known = report.clone();
    let unread = scope.unread(move |record| lock(&known).add(&record));
    let (mut objects, mut missing) = (scope.inventory().inspect(unread), Missing::default());
    while let Some(object) = objects.try_next().await? {
        let record = record(object);
        if record.result == Outcome::Deleted {
            missing.add(record);
            continue;
        }
        scope.append(&record)?;
        let mut report = lock(&report);
        report.add(&record);
        if report.failure.is_some() {
            break;
        }
    }
    drop(objects);
    for record in missing.records(scope).await? {
        scope.append(&record)?;
        lock(&report).add(&record);
    }
    let mut report = lock(&report);
    report.lines.flush()?;
    if let Some(failure) = report.failure.take() {
        return Err(failure);
    }
    Ok(std::mem::take(&mut report.summary))
}

/// Returns what the header of an object says.
fn record(Inspected { listed, content, .. }: Inspected) -> Record {
    let new = |result| Record::new(&listed, result);
    match content {
        Ok(Content::Message(message)) => Record {
            plaintext_len: message.plaintext_len(),
            suite: Some(message.header().suite().to_string()),
            keys: names(message.header().encrypted_data_keys()),
            detached_keys: message.detached_keys().map_or_else(Vec::new, |keys| names(keys.encrypted_data_keys())),
            ..new(Outcome::Message)
        },
        Ok(Content::Other(error)) => Record { error: Some(error.to_string()), ..new(Outcome::NotAMessage) },
        Ok(Content::DetachedKeys(keys)) => Record {
            detached_keys: names(keys.encrypted_data_keys()),
            error: Some("detached keys without an object".into()),
            ..new(Outcome::NotAMessage)
        },
        Ok(_) => new(Outcome::NotAMessage),
        Err(object_store::Error::NotFound { .. }) => new(Outcome::Deleted),
        Err(error) => Record { error: Some(Failure::from(error).what().to_owned()), ..new(Outcome::Failed) },
    }
}

fn names(keys: &[EncryptedDataKey]) -> Vec<String> {
    keys.iter().filter(|key| key.padding_len().is_none()).map(|key| cut(key.to_string())).collect()
}

/// Shortens the name of a key, which may have 64 KiB in a hostile header.
fn cut(name: String) -> String {
    const MAX: usize = 300;
    if name.len() <= MAX { name } else { name.chars().take(MAX).chain(['…']).collect() }
}

/// Adds up records, and prints them as they come unless there is only a table at the end.
struct Report {
    lines: Lines,
    /// The names of keys. If there are any, only objects with one of them count.
    keys: Vec<String>,
    summary: Summary,
    progress: Progress,
    /// The first failure to print.
    failure: Option<Failure>,
}

enum Lines {
    None,
    Json(BufWriter<File>),
    Csv(Box<csv::Writer<File>>),
}

impl Lines {
    fn print(&mut self, record: &Record) -> Result<(), Failure> {
        match self {
            Self::None => Ok(()),
            Self::Json(out) => out.write_all(record.line()?.as_bytes()).map_err(failure),
            Self::Csv(out) => out.write_record(columns(record)).map_err(|error| failure(error.into())),
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        match self {
            Self::None => Ok(()),
            Self::Json(out) => out.flush().map_err(failure),
            Self::Csv(out) => out.flush().map_err(failure),
        }
    }
}

fn failure(error: io::Error) -> Failure {
    Failure::writing("standard output", &error)
}

const COLUMNS: [&str; 9] =
    ["path", "result", "sealed_len", "plaintext_len", "last_modified", "suite", "keys", "detached_keys", "error"];

/// Several keys are separated by spaces.
fn columns(record: &Record) -> [String; COLUMNS.len()] {
    let result = serde_json::to_value(record.result).ok();
    [
        one_line(&record.path),
        result.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned(),
        record.sealed_len.to_string(),
        record.plaintext_len.map_or_else(String::new, |len| len.to_string()),
        record.last_modified.clone(),
        record.suite.clone().unwrap_or_default(),
        one_line(&record.keys.join(" ")),
        one_line(&record.detached_keys.join(" ")),
        one_line(record.error.as_deref().unwrap_or_default()),
    ]
}

impl Report {
    fn new(arguments: &InventoryArguments, console: Console) -> Result<Self, Failure> {
        let mut lines = match arguments.format {
            Format::Table => Lines::None,
            Format::Json => Lines::Json(BufWriter::new(standard::output()?)),
            Format::Csv => Lines::Csv(Box::new(csv::Writer::from_writer(standard::output()?))),
        };
        if let Lines::Csv(out) = &mut lines {
            out.write_record(COLUMNS).map_err(|error| failure(error.into()))?;
        }
        let (keys, summary) = (arguments.keys.clone(), Summary::default());
        Ok(Self { lines, keys, summary, progress: Progress::of_objects(!console.quiet), failure: None })
    }

    fn add(&mut self, record: &Record) {
        self.progress.advance(1);
        self.summary.listed += 1;
        let all_keys = || record.keys.iter().chain(&record.detached_keys);
        let is_wanted = self.keys.is_empty() || all_keys().any(|key| self.keys.iter().any(|name| is_key(key, name)));
        if is_wanted || record.result != Outcome::Message {
            self.summary.add(record);
            if let Err(failure) = self.lines.print(record) {
                self.failure.get_or_insert(failure);
            }
        }
    }
}

/// Returns whether `name` is `key` as the inventory shows it, or without the provider id that precedes it. The replicas of a
/// multi-region key are the same key.
fn is_key(key: &str, name: &str) -> bool {
    is_same_key(key, name) || key.split_once('/').is_some_and(|(_, key)| key == name)
}

/// Returns whether a header may name a key like this: not by an alias, an id or a file, as the other commands do.
fn may_be_in_a_header(name: &str) -> bool {
    let is_kms = name.starts_with("arn:") && name.contains(":key/");
    is_kms || (name.contains('/') && !name.contains("alias/") && !Path::new(name).exists())
}

/// A number of objects, and of their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    objects: u64,
    bytes: u64,
}

impl Count {
    fn add(&mut self, record: &Record) {
        self.objects += 1;
        self.bytes += record.sealed_len;
    }
}

/// The number of keys that the table has.
const MAX_KEYS: usize = 10_000;
const FURTHER_KEYS: &str = "further keys, which --format csv shows";

#[derive(Debug, Default)]
struct Summary {
    listed: u64,
    messages: Count,
    /// The objects of each key, and how many of them no other key opens.
    keys: BTreeMap<String, (Count, u64)>,
    suites: BTreeMap<String, Count>,
    others: Count,
    deleted: u64,
    failed: u64,
}

impl Summary {
    fn add(&mut self, record: &Record) {
        match record.result {
            Outcome::NotAMessage => self.others.add(record),
            Outcome::Deleted => self.deleted += 1,
            Outcome::Failed => self.failed += 1,
            _ => {
                self.messages.add(record);
                let keys: BTreeSet<_> = record.keys.iter().chain(&record.detached_keys).collect();
                for key in &keys {
                    // A hostile bucket may name any number of keys.
                    let is_new = !self.keys.contains_key(*key);
                    let key = if is_new && self.keys.len() >= MAX_KEYS { FURTHER_KEYS } else { key.as_str() };
                    let (count, only) = self.keys.entry(key.to_owned()).or_default();
                    count.add(record);
                    *only += u64::from(keys.len() == 1);
                }
                if let Some(suite) = &record.suite {
                    self.suites.entry(suite.clone()).or_default().add(record);
                }
            }
        }
    }

    /// Returns the summary as a table.
    fn table(&self, location: &Location, arguments: &InventoryArguments) -> String {
        let mut out = String::new();
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        let width = self.keys.keys().map(|key| one_line(key).len()).max().unwrap_or(0).clamp(20, 100);
        let mut line = |name: &str, objects: &dyn Display, bytes: &dyn Display, only: &dyn Display| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name:<width$} {objects:>12} {bytes:>12} {only:>12}").map(drop);
        };
        let size = |count: &Count| HumanBytes(count.bytes).to_string();
        line("key", &"objects", &"bytes", &"only key");
        for (key, (count, only)) in &self.keys {
            line(&one_line(key), &count.objects, &size(count), only);
        }
        line("", &"", &"", &"");
        for (suite, count) in &self.suites {
            line(&format!("suite {suite}"), &count.objects, &size(count), &"");
        }
        line("messages", &self.messages.objects, &size(&self.messages), &"");
        line("not messages", &self.others.objects, &size(&self.others), &"");
        line("deleted meanwhile", &self.deleted, &"", &"");
        line("could not be read", &self.failed, &"", &"");
        let text: String = out.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
        let mut limits = arguments.scope.limits();
        if !arguments.keys.is_empty() {
            let _ = writeln!(limits, "only objects of the key {}", one_line(&arguments.keys.join(" or ")));
        }
        let (url, listed) = (&location.url, self.listed);
        format!("{url}, {listed} objects, until {now}\n{limits}\n{text}\n{NOT_COVERED}\n")
    }
}

const NOT_COVERED: &str = "\
None of this is authenticated. An object counts for each of its keys; `only key` is the number of objects that no other
key opens. Noncurrent versions, other prefixes and later writes are not covered.";
