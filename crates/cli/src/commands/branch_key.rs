//! `kms-envelope branch-key`: creates, rotates and shows branch keys.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use kms_envelope::{
    ProviderError,
    provider::{
        ProviderErrorKind,
        branch_key::{BranchKeyItem, BranchKeyStore},
    },
};
use serde::Serialize;

use super::{add_line, print, runtime, to_json};
use crate::{
    args::{BranchKeyCommand, CreateBranchKeyArguments, ShowArguments, VersionArguments, context_of},
    branch_keys::{branch_keys, table},
    console::Console,
    failure::Failure,
};

/// The time limit of `show`.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn run(command: &BranchKeyCommand, console: Console) -> Result<(), Failure> {
    let runtime = runtime()?;
    match command {
        BranchKeyCommand::CreateTable(arguments) => runtime.block_on(create_table(&arguments.table, console)),
        BranchKeyCommand::Create(arguments) => runtime.block_on(create(arguments)),
        BranchKeyCommand::Version(arguments) => runtime.block_on(version(arguments)),
        BranchKeyCommand::Show(arguments) => runtime.block_on(show(arguments)),
    }
}

async fn create_table(name: &str, console: Console) -> Result<(), Failure> {
    let (store, _) = table(name).await?;
    store.create_table().await?;
    console.note(&format!("{name}: the table is ready for branch keys"));
    Ok(())
}

async fn create(arguments: &CreateBranchKeyArguments) -> Result<(), Failure> {
    let context = context_of(arguments.context.iter())?;
    let (table, id) = &arguments.name;
    if id.is_some() && context.is_empty() {
        return Err(Failure::usage("--context is required for a branch key with an id of your own"));
    }
    let keys = branch_keys(table, &arguments.key.options()).await?;
    let created = match id {
        Some(id) => keys.create_with_id(id, &context).await.map(|()| id.clone()),
        None => keys.create(&context).await,
    };
    let id = created.map_err(|error| {
        or_conflict(error, "to rotate an existing branch key, use `kms-envelope branch-key version`")
    })?;
    print(format!("{id}\n").as_bytes())
}

async fn version(arguments: &VersionArguments) -> Result<(), Failure> {
    let keys = branch_keys(&arguments.name.table, &arguments.key.options()).await?;
    let version = keys.create_version(&arguments.name.id).await.map_err(|error| {
        or_conflict(
            error,
            "another version was created at the same time; create one again only if you need a newer one",
        )
    })?;
    print(format!("{version}\n").as_bytes())
}

/// Converts an error, with advice if it is a conflict.
fn or_conflict(error: ProviderError, advice: &'static str) -> Failure {
    let is_conflict = error.kind() == ProviderErrorKind::Conflict;
    let failure = Failure::from(error);
    if is_conflict { failure.advise(advice) } else { failure }
}

async fn show(arguments: &ShowArguments) -> Result<(), Failure> {
    let (name, deadline) = (&arguments.name, Instant::now() + TIMEOUT);
    let (store, _) = table(&name.table).await?;
    let active = store.get(&name.id, BranchKeyItem::ACTIVE, deadline).await?;
    let beacon = store.get(&name.id, BranchKeyItem::BEACON, deadline).await?;
    let Some(active) = active else {
        return Err(Failure::new(format!("{}/{}: the table has no such branch key", name.table, name.id)));
    };
    let report = Report::new(&name.table, &active, beacon.as_ref());
    print(if arguments.json { to_json(&report)? } else { report.to_string() }.as_bytes())
}

#[derive(Serialize)]
struct Report<'a> {
    kind: &'static str,
    /// Always present, so that programs take note of it.
    authenticated: bool,
    table: &'a str,
    id: &'a str,
    version: Option<&'a str>,
    create_time: Option<&'a str>,
    kms_arn: Option<&'a str>,
    hierarchy_version: u32,
    context: BTreeMap<&'a str, &'a str>,
    other_attributes: BTreeMap<&'a str, &'a str>,
    beacon_create_time: Option<&'a str>,
}

impl<'a> Report<'a> {
    fn new(table: &'a str, active: &'a BranchKeyItem, beacon: Option<&'a BranchKeyItem>) -> Self {
        const CREATE_TIME: &str = "create-time";
        let mut others: BTreeMap<_, _> =
            active.attributes.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        let version = others.remove("version");
        let (create_time, kms_arn) = (others.remove(CREATE_TIME), others.remove("kms-arn"));
        let in_context = |name: &'a str| name.strip_prefix("aws-crypto-ec:");
        let context = others.iter().filter_map(|(name, value)| Some((in_context(name)?, *value))).collect();
        others.retain(|name, _| in_context(name).is_none());
        Self {
            kind: "branch-key",
            authenticated: false,
            table,
            id: &active.branch_key_id,
            version: version.map(|version| version.strip_prefix(BranchKeyItem::VERSION_PREFIX).unwrap_or(version)),
            create_time,
            kms_arn,
            hierarchy_version: active.hierarchy_version,
            context,
            other_attributes: others,
            beacon_create_time: beacon.and_then(|beacon| beacon.attributes.get(CREATE_TIME)).map(|time| &time[..]),
        }
    }
}

/// Escapes the strings from the table, because an attacker may have written them.
impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        let mut line = |name: &str, value: &dyn fmt::Display| add_line(&mut out, name, value);
        let text = |value: Option<&str>| value.unwrap_or("missing").escape_debug().to_string();
        line("branch key", &format_args!("{:?} in table {}", self.id, self.table.escape_debug()));
        line("version", &text(self.version));
        line("created", &text(self.create_time));
        line("KMS key", &text(self.kms_arn));
        line("hierarchy version", &self.hierarchy_version);
        line("beacon key created", &text(self.beacon_create_time));
        for (name, value) in &self.context {
            line("encryption context", &format_args!("{name:?} = {value:?}"));
        }
        if self.context.is_empty() {
            line("encryption context", &"empty");
        }
        for (name, value) in &self.other_attributes {
            line("other attribute", &format_args!("{name:?} = {value:?}"));
        }
        out.push_str("\nNone of this is authenticated: AWS KMS verifies it when the branch key is used.\n");
        f.write_str(&out)
    }
}
