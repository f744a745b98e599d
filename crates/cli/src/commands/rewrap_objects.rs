//! `kms-envelope rewrap URL`: moves the objects of a store to another key.

use std::{
    fmt::{Display, Write as _},
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use indicatif::HumanBytes;
use kms_envelope::{KeyProvider, message::Header};
use kms_envelope_object_store::{
    Content, RewrapOptions, Rewrapped,
    v0_14::{Inspected, Listed},
};
use serde_json::{Value, json};

use super::{builder, existing_keys, runtime};
use crate::{
    args::RewrapArguments,
    console::{Console, one_line},
    failure::Failure,
    interrupt,
    key_source::{KeySource, is_same_key},
    progress::Progress,
    stores::{
        self, Location,
        log::{Outcome, Record},
        scope::{Missing, Scope, lock, no_objects},
    },
};

/// The number of failures that the report lists.
const SHOWN: usize = 10;

/// How many objects fail in a row before the key service or the store counts as unavailable.
const OUTAGE: u64 = 32;

/// The price of 10,000 requests for symmetric keys in most regions, in US dollars (aws.amazon.com/kms/pricing, 2026).
const PRICE: f64 = 0.03;

pub(super) fn rewrap_objects(
    arguments: &RewrapArguments,
    location: &Location,
    console: Console,
) -> Result<(), Failure> {
    let (terms, many) = (&arguments.terms, &arguments.many);
    if terms.keys.is_some() {
        return Err(Failure::usage(
            "--keys applies to one message; objects have theirs beside them: see --detached-keys",
        ));
    }
    let suffix = &many.scope.detached.suffix;
    if suffix.is_empty() && !many.reseal {
        return Err(Failure::usage("--detached-keys is empty, but the new keys need a name"));
    }
    let [to] = &arguments.to[..] else {
        return Err(Failure::usage("name one --to; to add several keys, run the command for each of them"));
    };
    let context = terms.context.to_open()?;
    stores::runtime()?;
    let (sources, keys) = (&arguments.key.sources, existing_keys(&arguments.key, console));
    let old = runtime()?.block_on(keys.provider(sources))?;
    let new = runtime()?.block_on(keys.provider(&arguments.to))?;
    if sources.contains(to)
        || (to.is_kms() && old.to_string().split(", ").any(|old| is_same_key(old, &new.to_string())))
    {
        return Err(Failure::usage(format!("--from and --to are the same key, {new}")));
    }
    let command = json!({
        "log": if many.reseal { "reseal" } else { "rewrap" },
        "url": location.url.as_str(),
        "detached_keys": suffix,
        "from": sources.iter().map(identity).collect::<Vec<_>>(),
        "from_keys": old.to_string(),
        "to": identity(to),
        "to_key": new.to_string(),
    });
    let scope = many.scope.scope(location, &command, many.dry_run, console)?;
    let single = "to rewrap one object, name a file or URL for its detached keys with -o";
    if many.dry_run {
        let plan = runtime()?.block_on(plan(&scope, (&*old, &*new), arguments, console));
        let plan = plan.map_err(|failure| failure.of(&location.url))?;
        if plan.listed == 0 {
            return Err(runtime()?.block_on(no_objects(location, single)));
        }
        super::print(plan.text(arguments, location).as_bytes())?;
        return match plan.failed {
            0 => Ok(()),
            failed => Err(Failure::new(format!("{failed} of {} objects could not be read", plan.listed))
                .advise("`kms-envelope inventory --format json` shows why")),
        };
    }
    let required: Vec<_> = terms.context.required_names().map(str::to_owned).collect();
    let policy = terms.policy.clone();
    let envelope = move |provider: &Arc<dyn KeyProvider>, stored: &dyn Fn(&str) -> bool| {
        // What is stored in an object stays stored.
        let required = required.iter().filter(|name| !stored(name)).cloned();
        builder(&policy, provider.clone()).required_context(required)
    };
    let mut settings = terms.store.settings(location, envelope(&old, &|_| false), context).look_up_sizes();
    if !suffix.is_empty() {
        settings = settings.detached_keys(suffix);
    }
    let store = location.encrypted(settings)?;
    let mut options = RewrapOptions::default().calls_per_second(many.kms_rate.unwrap_or(0));
    if let Some(concurrency) = many.scope.concurrency() {
        options = options.concurrency(concurrency);
    }

    let progress = Some(Progress::of_objects(!console.quiet));
    let report = Arc::new(Mutex::new(Report { progress, ..Report::default() }));
    let known = report.clone();
    let ended = Arc::new(AtomicBool::new(false));
    let (ending, unread) = (ended.clone(), scope.unread(move |record| lock(&known).add(&record, false)));
    let asked = async move {
        interrupt::asked_to_end().await;
        ending.store(true, Relaxed);
        console.note("finishing the objects that have begun; interrupt again to stop at once");
    };
    let objects = scope.inventory().inspect(unread.take_until(Box::pin(asked)).boxed());
    let mut results = if many.reseal {
        let (drops, ours, new) = (many.drop_other_keys, [old.clone(), new.clone()], new.clone());
        let objects = objects.map_ok(move |object| if drops { object } else { check_keys(object, &ours) });
        let new = move |header: &Header| envelope(&new, &|name| header.context().get(name).is_some());
        store.reseal_all(objects.boxed(), new, &options)
    } else {
        let new = envelope(&new, &|_| false).build().map_err(|error| Failure::new(error.to_string()))?;
        store.rewrap_all(objects, &new, &options)
    };
    runtime()?.block_on(async {
        let done = rewrap_all(&mut results, &scope, &report, many.reseal).await;
        drop(results);
        let mut report = std::mem::take(&mut *lock(&report));
        report.progress = None; // Removes it before anything is printed.
        if report.listed == 0 {
            done.map_err(|failure| failure.of(&location.url))?;
            return Err(no_objects(location, single).await);
        }
        super::print(report.text(location, arguments, &old, &new).as_bytes())?;
        done.map_err(|failure| failure.of(&location.url))?;
        if ended.load(Relaxed) {
            return Err(Failure::new("interrupted before all objects were done").advise(AGAIN));
        }
        match report.failed {
            0 => Ok(()),
            failed => {
                Err(Failure::new(format!("{failed} of {} objects failed, and may still need {old}", report.listed))
                    .advise(AGAIN))
            }
        }
    })
}

const AGAIN: &str = "mend the cause, and run the command again: objects that are done are not changed again";

/// Identifies a key in the log. A file that was written again may hold another key of the same name.
fn identity(source: &KeySource) -> Value {
    let Some(path) = source.path() else { return json!("kms") };
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    json!([path.to_string_lossy(), modified.map(|time| humantime::format_rfc3339_micros(time).to_string())])
}

/// Refuses to reseal an object that has encrypted data keys for others, who could not open it any more.
fn check_keys(mut object: Inspected, ours: &[Arc<dyn KeyProvider>; 2]) -> Inspected {
    let other = match &object.content {
        Ok(Content::Message(message)) if message.may_open_with(&ours[0]) => message
            .encrypted_data_keys()
            .find(|key| !ours.iter().any(|it| it.may_decrypt(key)))
            .map(ToString::to_string),
        _ => None,
    };
    if let Some(other) = other {
        let reason =
            format!("{other} opens it too, and would not any more; to reseal it anyway, use --drop-other-keys");
        object.content = Err(object_store::Error::Generic { store: "reseal", source: reason.into() });
    }
    object
}

/// Does the work, until all objects are done or the services fail.
async fn rewrap_all(
    results: &mut BoxStream<'static, object_store::Result<(Listed, object_store::Result<Rewrapped>)>>,
    scope: &Scope,
    report: &Mutex<Report>,
    reseals: bool,
) -> Result<(), Failure> {
    let (mut in_a_row, mut missing) = (0, Missing::default());
    while let Some((listed, result)) = results.try_next().await? {
        let is_outage = result.as_ref().is_err_and(stores::is_retryable);
        in_a_row = if is_outage { in_a_row + 1 } else { 0 };
        let record = record(&listed, result, reseals);
        if record.result == Outcome::Deleted {
            missing.add(record);
            continue;
        }
        scope.append(&record)?;
        lock(report).add(&record, true);
        if in_a_row == OUTAGE {
            let why = record.error.unwrap_or_default();
            return Err(Failure::new(format!("stopped, because {OUTAGE} objects failed in a row: {why}")).advise(AGAIN));
        }
    }
    for record in missing.records(scope).await? {
        scope.append(&record)?;
        lock(report).add(&record, true);
    }
    Ok(())
}

fn record(listed: &Listed, result: object_store::Result<Rewrapped>, reseals: bool) -> Record {
    let new = |outcome| Record::new(listed, outcome);
    match result {
        Ok(Rewrapped::Stored) => new(if reseals { Outcome::Resealed } else { Outcome::Rewrapped }),
        Ok(Rewrapped::Before) => new(Outcome::OpenedBefore),
        Ok(Rewrapped::NoMessage) => new(Outcome::NotAMessage),
        Ok(_) => new(Outcome::OtherKey),
        Err(object_store::Error::NotFound { .. }) => new(Outcome::Deleted),
        Err(error) => Record { error: Some(Failure::from(error).what().to_owned()), ..new(Outcome::Failed) },
    }
}

/// The counts of a run.
#[derive(Default)]
struct Report {
    listed: u64,
    /// Objects that were rewrapped or resealed in this run, and in earlier ones.
    done: u64,
    done_earlier: u64,
    before: u64,
    other_key: u64,
    not_messages: u64,
    deleted: u64,
    failed: u64,
    failures: Vec<String>,
    progress: Option<Progress>,
}

impl Report {
    fn add(&mut self, record: &Record, is_new: bool) {
        if let Some(progress) = &self.progress {
            progress.advance(1);
        }
        self.listed += 1;
        match record.result {
            Outcome::Rewrapped | Outcome::Resealed if is_new => self.done += 1,
            Outcome::Rewrapped | Outcome::Resealed => self.done_earlier += 1,
            Outcome::OpenedBefore => self.before += 1,
            Outcome::OtherKey | Outcome::Message => self.other_key += 1,
            Outcome::NotAMessage => self.not_messages += 1,
            Outcome::Deleted => self.deleted += 1,
            Outcome::Failed => {
                self.failed += 1;
                if self.failures.len() < SHOWN {
                    let error = record.error.as_deref().unwrap_or_default();
                    self.failures.push(one_line(&format!("{}: {error}", record.path)));
                }
            }
        }
    }

    fn text(&self, location: &Location, arguments: &RewrapArguments, old: &dyn Display, new: &dyn Display) -> String {
        let (reseals, limits) = (arguments.many.reseal, arguments.many.scope.limits());
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        let done = if reseals { "resealed" } else { "rewrapped" };
        let open = self.done + self.done_earlier + self.before;
        let (url, listed) = (&location.url, self.listed);
        let (old, new) = (one_line(&old.to_string()), one_line(&new.to_string()));
        let mut out = format!("{url}, {listed} objects, until {now}\nfrom  {old}\nto    {new}\n{limits}\n");
        let mut line = |count: u64, what: &dyn Display| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{count:>12} {what}");
        };
        let details = format_args!(
            "open with the new key: {} {done} now, {} in earlier runs, {} before",
            self.done, self.done_earlier, self.before
        );
        line(open, &details);
        line(self.other_key, &"have other keys only");
        line(self.not_messages, &"are not messages");
        line(self.deleted, &"were deleted meanwhile");
        line(self.failed, &"failed, and may still need the old key");
        for failure in &self.failures {
            let _ = writeln!(out, "             {failure}");
        }
        if self.failed > self.failures.len() as u64 {
            let _ =
                writeln!(out, "             and {} more, which a log has", self.failed - self.failures.len() as u64);
        }
        out.push('\n');
        if open == 0 && self.other_key > 0 {
            out.push_str("No object names the old key: `kms-envelope inventory` shows the keys that there are.\n");
        }
        if self.done + self.done_earlier > 0 {
            out.push_str(if reseals { RESEALED } else { STILL_OPENS });
        }
        out + NOT_COVERED
    }
}

const STILL_OPENS: &str = "Rewrapped objects still open with the old key, too.\n";
const RESEALED: &str = "Resealed objects open only with the new key.\n";
const NOT_COVERED: &str = "This covers the objects that were listed, by their headers. Noncurrent versions, other prefixes, \
     copies and later writes are not covered.\n";

/// The counts of a dry run.
#[derive(Default)]
struct Plan {
    listed: u64,
    /// Objects that would be rewrapped or resealed.
    old: u64,
    old_bytes: u64,
    /// Objects that would only be opened with the new key, to verify that it does.
    new: u64,
    /// Objects that would be resealed, but have keys for others.
    other_readers: u64,
    /// Objects that the log knows, that have other keys only, or that are not messages.
    nothing: u64,
    failed: u64,
}

async fn plan(
    scope: &Scope,
    (old, new): (&dyn KeyProvider, &dyn KeyProvider),
    arguments: &RewrapArguments,
    console: Console,
) -> Result<Plan, Failure> {
    let reseals = arguments.many.reseal;
    let progress = Progress::of_objects(!console.quiet);
    let known = Arc::new(AtomicU64::new(0));
    let counter = known.clone();
    let mut objects = scope.inventory().inspect(scope.unread(move |_| {
        counter.fetch_add(1, Relaxed);
    }));
    let mut plan = Plan::default();
    while let Some(Inspected { listed, content, .. }) = objects.try_next().await? {
        progress.advance(1);
        plan.listed += 1;
        match content {
            Ok(Content::Message(message)) if !reseals && message.may_open_with(new) => plan.new += 1,
            Ok(Content::Message(message)) if message.may_open_with(old) => {
                plan.old += 1;
                plan.old_bytes += listed.meta.size;
                let is_other = |key| ![old, new].iter().any(|it| it.may_decrypt(key));
                plan.other_readers += u64::from(reseals && message.encrypted_data_keys().any(is_other));
            }
            Ok(_) | Err(object_store::Error::NotFound { .. }) => plan.nothing += 1,
            Err(_) => plan.failed += 1,
        }
    }
    let known = known.load(Relaxed);
    plan.listed += known;
    plan.nothing += known;
    Ok(plan)
}

impl Plan {
    /// Returns how many requests AWS KMS would receive, unless some are repeated.
    fn kms_calls(&self, from: &[KeySource], to: &[KeySource], reseals: bool) -> u64 {
        let count = |keys: &[KeySource]| keys.iter().filter(|key| key.is_kms()).count() as u64;
        let verifies = u64::from(count(to) > 0 && !reseals);
        self.old * (u64::from(count(from) > 0) + count(to) + verifies) + self.new * verifies
    }

    fn text(&self, arguments: &RewrapArguments, location: &Location) -> String {
        let reseals = arguments.many.reseal;
        let calls = self.kms_calls(&arguments.key.sources, &arguments.to, reseals);
        let done = if reseals { "resealed" } else { "rewrapped" };
        let (url, listed, limits) = (&location.url, self.listed, arguments.many.scope.limits());
        let mut out = format!("{url}, {listed} objects\n{limits}\n");
        let mut line = |count: u64, what: &dyn Display| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{count:>12} {what}");
        };
        if reseals {
            let bytes = HumanBytes(self.old_bytes);
            line(self.old, &format_args!("would be {done}, with {bytes} to read and to write"));
            let others = if arguments.many.drop_other_keys { "would not open any more" } else { "keep them from it" };
            line(self.other_readers, &format_args!("of these have keys for others, which {others}"));
        } else {
            line(self.old, &format_args!("would be {done}"));
            line(self.new, &"have the new key, and would be opened with it");
        }
        line(self.nothing, &"would be left as they are");
        line(self.failed, &"could not be read");
        let dollars = calls as f64 * PRICE / 10_000.0;
        let _ = writeln!(
            out,
            "\nRequests to AWS KMS: {calls}, about ${dollars:.2} at ${PRICE} for 10,000. Nothing was written."
        );
        out
    }
}
