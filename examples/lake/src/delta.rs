//! A Delta table in an encrypted store.

use std::{fmt::Write as _, path::PathBuf, sync::Arc};

use chrono::TimeDelta;
use datafusion::execution::object_store::ObjectStoreRegistry as _;
use deltalake_core::{
    DeltaTable,
    delta_datafusion::DeltaSessionContext,
    logstore::{StorageConfig, default_logstore},
    protocol::SaveMode,
};
use futures_util::future::try_join_all;
use object_store::{ObjectStore, path::Path, prefix::PrefixStore};
use url::Url;

use crate::{Result, keys::Keys, store::EncryptedStores, tpch};

/// Returns the table at a URL, whose log and files are encrypted. `store` has the objects of all URLs of that scheme and
/// host.
pub(crate) fn table(store: Arc<dyn ObjectStore>, url: &Url) -> Result<DeltaTable> {
    let folder = PrefixStore::new(store.clone(), Path::from_url_path(url.path())?);
    Ok(DeltaTable::new(default_logstore(Arc::new(folder), store, url, &StorageConfig::default())))
}

/// Creates an encrypted Delta table in a folder, and shows what its users rely on.
///
/// Creates the table, appends to it, commits from several writers at the same time, deletes rows, reads all versions, and
/// removes the files that the last version does not need.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) keys: Keys,
    /// Folder of the table, which must exist and be empty
    pub(crate) folder: PathBuf,
}

const WRITERS: usize = 4;
const ROWS: usize = 200;

pub(crate) async fn run(arguments: Arguments) -> Result<String> {
    let url = Url::from_directory_path(arguments.folder.canonicalize()?).map_err(|()| "the folder has no URL")?;
    let stores = Arc::new(EncryptedStores::new(arguments.keys.provider().await?));
    let store = stores.get_store(&url)?;
    let customers = tpch::generate("customer", 0.01).next().ok_or("no customers")??;
    let mut batches = (0..).map(|index| customers.slice(index * ROWS, ROWS));
    let mut next = || batches.next().into_iter();
    let mut report = String::new();

    let created = table(store.clone(), &url)?.write(next()).with_save_mode(SaveMode::ErrorIfExists).await?;
    let appended = created.write(next()).await?;
    // All writers start from the same version. Each commit is an object that must not exist yet, so one writer wins each
    // version, and the others try the next one.
    let writers: Vec<_> = (0..WRITERS).map(|_| appended.clone().write(next())).collect();
    try_join_all(writers.into_iter().map(IntoFuture::into_future)).await?;
    let mut table = table(store, &url)?;
    table.load().await?;
    // Without these stores, it would read local files as they are.
    let session = DeltaSessionContext::with_runtime_env(stores.session()?.runtime_env()).into_inner();
    let delete = table.delete().with_predicate(format!("c_custkey <= {}", ROWS / 2));
    let (mut table, _) = delete.with_session_state(Arc::new(session.state())).await?;

    let last = table.version().ok_or("the table has no version")?;
    for version in 0..=last {
        table.load_version(version).await?;
        let rows = session.read_table(table.table_provider().await?)?.count().await?;
        writeln!(report, "version {version}: {rows} rows, {} files", table.get_file_uris()?.count())?;
    }

    // In production, keep the files for as long as queries of old versions may run.
    let vacuum = table.vacuum().with_retention_period(TimeDelta::zero()).with_enforce_retention_duration(false);
    let (_, metrics) = vacuum.await?;
    writeln!(report, "vacuum: {} file deleted", metrics.files_deleted.len())?;
    Ok(report)
}
