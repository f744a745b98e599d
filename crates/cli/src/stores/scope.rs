//! Which objects of a store a command reads.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use clap::{
    Args,
    builder::{OsStringValueParser, TypedValueParser},
};
use futures_util::{StreamExt, TryStreamExt, future, stream::BoxStream};
use kms_envelope_object_store::v0_14::{Inventory, Listed};
use object_store::{ObjectStore, ObjectStoreExt, Result, path::Path};
use serde_json::Value;

use super::{
    Location,
    log::{Log, Outcome, Record},
};
use crate::{
    args::DetachedArgument,
    console::{Console, one_line},
    failure::Failure,
};

/// The arguments for the objects below a URL.
#[derive(Debug, Args)]
pub(crate) struct ScopeArguments {
    #[command(flatten)]
    pub(crate) detached: DetachedArgument,
    /// Only objects that were modified at least this long ago, such as 30days or 12h
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// Only objects that were modified less than this long ago
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    newer_than: Option<Duration>,
    /// Only objects whose complete names in the store come after this one, in the order of bytes. With --up-to, several processes can share
    /// the work
    #[arg(long, value_name = "NAME", value_parser = name)]
    after: Option<Path>,
    /// Only objects whose complete names in the store are this one or come before it
    #[arg(long, value_name = "NAME", value_parser = name)]
    up_to: Option<Path>,
    /// The number of objects that are processed at the same time [default: 64 for `inventory`, 16 for `rewrap`]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: Option<u16>,
    /// A file with a line of JSON for each object. If it exists, the objects in it that did not change since are not
    /// read again: to continue after an interruption, repeat the same command
    #[arg(long, value_name = "FILE", value_parser = OsStringValueParser::new().try_map(log_file))]
    log: Option<PathBuf>,
}

fn name(text: &str) -> Result<Path, String> {
    Path::parse(text).map_err(|error| error.to_string())
}

fn log_file(text: OsString) -> Result<PathBuf, &'static str> {
    if text == "-" { Err("it cannot be a standard stream") } else { Ok(text.into()) }
}

/// The objects that a command reads.
pub(crate) struct Scope {
    inventory: Inventory<dyn ObjectStore>,
    log: Arc<Mutex<Log>>,
    is_wanted: Arc<dyn Fn(&Listed) -> bool + Send + Sync>,
}

impl ScopeArguments {
    /// Returns whether any argument is present, which applies only to the objects below a URL.
    pub(crate) fn are_given(&self) -> bool {
        let Self { detached: _, older_than, newer_than, after, up_to, concurrency, log } = self;
        older_than.is_some()
            || newer_than.is_some()
            || after.is_some()
            || up_to.is_some()
            || concurrency.is_some()
            || log.is_some()
    }

    /// Says which objects below the URL the arguments omit.
    pub(crate) fn limits(&self) -> String {
        let mut limits = Vec::new();
        let age = |age: &Duration| humantime::format_duration(*age).to_string();
        limits.extend(self.older_than.as_ref().map(|limit| format!("modified at least {} ago", age(limit))));
        limits.extend(self.newer_than.as_ref().map(|limit| format!("modified less than {} ago", age(limit))));
        limits.extend(self.after.as_ref().map(|name| format!("after {}", one_line(name.as_ref()))));
        limits.extend(self.up_to.as_ref().map(|name| format!("up to {}", one_line(name.as_ref()))));
        if limits.is_empty() { String::new() } else { format!("only objects {}\n", limits.join(", ")) }
    }

    pub(crate) fn concurrency(&self) -> Option<usize> {
        self.concurrency.map(usize::from)
    }

    /// Opens the log. `command` says what its lines are about. A dry run only reads a log that exists.
    pub(crate) fn scope(
        &self,
        location: &Location,
        command: &Value,
        is_dry: bool,
        console: Console,
    ) -> Result<Scope, Failure> {
        for name in self.after.iter().chain(&self.up_to) {
            if !name.prefix_matches(&location.path) {
                return Err(Failure::usage(format!(
                    "--after and --up-to take complete names, and {} is not below {}",
                    one_line(name.as_ref()),
                    location.url
                )));
            }
        }
        let mut inventory = Inventory::new(location.store.clone());
        if !location.path.as_ref().is_empty() {
            inventory = inventory.prefix(location.path.clone());
        }
        if !self.detached.suffix.is_empty() {
            inventory = inventory.detached_keys(&self.detached.suffix);
        }
        if let Some(after) = &self.after {
            inventory = inventory.after(after.clone());
        }
        if let Some(up_to) = &self.up_to {
            inventory = inventory.up_to(up_to.clone());
        }
        if let Some(concurrency) = self.concurrency() {
            inventory = inventory.concurrency(concurrency);
        }
        let now = SystemTime::now();
        let (older_than, newer_than) = (self.older_than, self.newer_than);
        let is_wanted = move |listed: &Listed| {
            // An object that was modified in the future has no age.
            let age = now.duration_since(listed.meta.last_modified.into()).unwrap_or_default();
            older_than.is_none_or(|limit| age >= limit) && newer_than.is_none_or(|limit| age < limit)
        };
        let log = match &self.log {
            Some(path) if !is_dry || path.exists() => Log::open(path, command)?,
            _ => Log::none(),
        };
        if log.len() > 0 {
            console.note(&format!("{} lines are in {} already", log.len(), log.name()));
        }
        Ok(Scope { inventory, log: Arc::new(Mutex::new(log)), is_wanted: Arc::new(is_wanted) })
    }
}

impl Scope {
    pub(crate) fn inventory(&self) -> &Inventory<dyn ObjectStore> {
        &self.inventory
    }

    /// Lists the objects that have to be read. Those whose record in the log is still true are passed to `known`.
    pub(crate) fn unread(&self, mut known: impl FnMut(Record) + Send + 'static) -> BoxStream<'static, Result<Listed>> {
        let (log, is_wanted) = (self.log.clone(), self.is_wanted.clone());
        let mut unread = move |listed: Listed| {
            let found = lock(&log)
                .find(&listed)
                .map_err(|failure| object_store::Error::Generic { store: "log", source: failure.what().into() })?;
            Ok(match found {
                Some(record) => {
                    known(record);
                    None
                }
                None => Some(listed),
            })
        };
        let listed = self.inventory.list().try_filter(move |listed| future::ready(is_wanted(listed)));
        listed.try_filter_map(move |listed| future::ready(unread(listed))).boxed()
    }

    /// Appends a record to the log.
    pub(crate) fn append(&self, record: &Record) -> Result<(), Failure> {
        lock(&self.log).append(record)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Objects that were listed, but did not exist when they were read.
#[derive(Default)]
pub(crate) struct Missing(BTreeMap<String, Record>);

impl Missing {
    pub(crate) fn add(&mut self, record: Record) {
        self.0.insert(record.path.clone(), record);
    }

    /// Lists the objects again. Those that are still there were not deleted, so their records become failures.
    pub(crate) async fn records(mut self, scope: &Scope) -> Result<impl Iterator<Item = Record>, Failure> {
        if !self.0.is_empty() {
            let mut listed = scope.inventory.list();
            while let Some(Listed { meta, .. }) = listed.try_next().await? {
                if let Some(record) = self.0.get_mut(meta.location.as_ref()) {
                    record.result = Outcome::Failed;
                    record.error = Some(NOT_THERE.into());
                }
            }
        }
        Ok(self.0.into_values())
    }
}

const NOT_THERE: &str = "it is listed, but does not exist: it was written again meanwhile, or its name begins or ends with a \
     slash, which the command does not support";

/// Returns why no objects were found below a URL.
pub(crate) async fn no_objects(location: &Location, advice: &'static str) -> Failure {
    if location.store.head(&location.path).await.is_ok() {
        return Failure::new("this is an object, not a folder").of(&location.url).advise(advice);
    }
    Failure::new("there are no objects, or none that the arguments allow").of(&location.url)
}
