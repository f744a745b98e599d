//! Moves the objects of a store to another key, with several processes that share the work by the names of objects.
//!
//! ```text
//! rekey s3://bucket/folder OLD NEW [PROCESSES]
//! ```
//!
//! `OLD` and `NEW` are ARNs of KMS keys, or key files. The objects are those of an `EncryptedStore` with default settings,
//! whose detached keys have the suffix `.keys`.

use std::{env, process::Stdio, sync::Arc};

use anyhow::{Result, bail};
use aws_config::BehaviorVersion;
use futures_util::{StreamExt, TryStreamExt, future::ready};
use kms_envelope::{AwsKms, Envelope, KeyProvider, RawAes};
use kms_envelope_object_store::{
    RewrapOptions, Rewrapped, StoreSettings,
    v0_14::{EncryptedStore, Inventory, object_store},
};
use object_store::{ObjectStore, path::Path};
use tokio::process::Command;
use url::Url;

/// The suffix of the names of detached keys.
const KEYS: &str = ".keys";

/// Every so many names, a range may end.
const STEP: usize = 100;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["worker", url, old, new, after, up_to] => work(url, old, new, after, up_to).await,
        [url, old, new] => share(url, old, new, 2).await,
        [url, old, new, processes] => share(url, old, new, processes.parse()?).await,
        _ => bail!("usage: rekey URL OLD NEW [PROCESSES]"),
    }
}

/// Starts the processes, each with a range of names, and waits for them.
async fn share(url: &str, old: &str, new: &str, processes: usize) -> Result<()> {
    let (store, prefix) = open(url)?;
    // A list costs one request for 1,000 objects, and only some of the names are kept.
    let inventory = Inventory::new(store).prefix(prefix).detached_keys(KEYS);
    let names = inventory.list().enumerate();
    let names = names.filter_map(|(at, listed)| ready((at % STEP == 0 || listed.is_err()).then_some(listed)));
    let mut names: Vec<_> = names.map_ok(|listed| listed.meta.location.to_string()).try_collect().await?;
    names.sort();
    let bounds: Vec<_> = (1..processes).filter_map(|part| names.get(part * names.len() / processes)).collect();
    let mut workers = Vec::new();
    for part in 0..=bounds.len() {
        let after = part.checked_sub(1).map_or("", |before| bounds[before]);
        let up_to = bounds.get(part).map_or("", |bound| bound);
        let worker = Command::new(env::current_exe()?)
            .args(["worker", url, old, new, after, up_to])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        workers.push(worker);
    }
    let mut failed = 0;
    for mut worker in workers {
        failed += usize::from(!worker.wait().await?.success());
    }
    if failed > 0 {
        bail!("{failed} processes failed; run the same command again: objects that are done are not changed again");
    }
    Ok(())
}

/// Rewraps the objects whose names come after `after`, up to `up_to`. Empty texts are no limits.
async fn work(url: &str, old: &str, new: &str, after: &str, up_to: &str) -> Result<()> {
    let (bucket, prefix) = open(url)?;
    let parsed = Url::parse(url)?;
    let settings = StoreSettings::new(Envelope::builder(key(old).await?))
        .base(EncryptedStore::base_of(&parsed, &prefix))
        .detached_keys(KEYS);
    let store = EncryptedStore::new(bucket.clone(), settings)?;
    let mut inventory = Inventory::new(bucket).prefix(prefix).detached_keys(KEYS);
    if !after.is_empty() {
        inventory = inventory.after(Path::parse(after)?);
    }
    if !up_to.is_empty() {
        inventory = inventory.up_to(Path::parse(up_to)?);
    }
    let (new, options) = (Envelope::new(key(new).await?), RewrapOptions::default().calls_per_second(500));
    let mut results = store.rewrap_all(inventory.stream(), &new, &options);
    let (mut done, mut before, mut others, mut failed) = (0, 0, 0, 0);
    while let Some((object, result)) = results.try_next().await? {
        match result {
            Ok(Rewrapped::Stored) => done += 1,
            Ok(Rewrapped::Before) => before += 1,
            Ok(_) | Err(object_store::Error::NotFound { .. }) => others += 1,
            Err(error) => {
                failed += 1;
                eprintln!("{}: {error}", object.meta.location);
            }
        }
    }
    println!("after {after:?} up to {up_to:?}: {done} rewrapped, {before} before, {others} others, {failed} failed");
    if failed > 0 {
        bail!("{failed} objects failed");
    }
    Ok(())
}

/// Opens the store of a URL with the credentials of the environment.
fn open(url: &str) -> Result<(Arc<dyn ObjectStore>, Path)> {
    let variables = env::vars().filter(|(name, _)| ["AWS_", "AZURE_", "GOOGLE_"].iter().any(|it| name.starts_with(it)));
    let (store, path) = object_store::parse_url_opts(&Url::parse(url)?, variables)?;
    Ok((store.into(), path))
}

/// Returns the key of an ARN, or of a key file.
async fn key(name: &str) -> Result<Arc<dyn KeyProvider>> {
    if !name.starts_with("arn:") {
        return Ok(Arc::new(RawAes::read_key_file(name)?));
    }
    let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
    Ok(Arc::new(AwsKms::new(aws_sdk_kms::Client::new(&config), name)?))
}
