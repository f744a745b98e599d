//! A shell for encrypted tables.

use std::{pin::pin, sync::Arc, time::Duration};

use datafusion::{
    arrow::util::pretty::pretty_format_batches,
    datasource::listing::ListingTableUrl,
    prelude::{CsvReadOptions, JsonReadOptions, ParquetReadOptions, SessionContext},
};
use futures_util::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use object_store::{local::LocalFileSystem, path::Path};
use url::Url;

use crate::{Result, delta, keys::Keys, store::EncryptedStores};

/// Runs a query on encrypted tables, and prints the answer.
///
/// Tables are files or folders: Delta if a folder has a `_delta_log`, CSV if the name ends in .csv, lines of JSON if it
/// ends in .json, otherwise Parquet. `COPY … TO 'FILE'` encrypts what it writes. A file is bound to its URL, and does not open elsewhere.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) keys: Keys,
    /// Encrypted table: its name in the query, and its path or file URL
    #[arg(long = "table", value_name = "NAME=URL", value_parser = named)]
    pub(crate) tables: Vec<(String, String)>,
    /// Table that is not encrypted, to copy from
    #[arg(long = "plain", value_name = "NAME=URL", value_parser = named)]
    pub(crate) plain_tables: Vec<(String, String)>,
    /// Query, in the SQL of DataFusion
    pub(crate) query: String,
}

fn named(argument: &str) -> std::result::Result<(String, String), &'static str> {
    let (name, url) = argument.split_once('=').ok_or("must be NAME=URL")?;
    Ok((name.into(), url.into()))
}

/// Returns the answer as a table of text.
pub(crate) async fn run(arguments: Arguments) -> Result<String> {
    let stores = Arc::new(EncryptedStores::new(arguments.keys.provider().await?));
    let session = stores.clone().session()?;
    session.register_object_store(&Url::parse("plain://")?, Arc::new(LocalFileSystem::new()));
    for (name, url) in &arguments.tables {
        register(&session, name, ListingTableUrl::parse(url)?.as_str()).await?;
    }
    for (name, url) in &arguments.plain_tables {
        register(&session, name, &ListingTableUrl::parse(url)?.as_str().replacen("file", "plain", 1)).await?;
    }

    let style = ProgressStyle::with_template("{spinner} {elapsed}, {bytes} read, {bytes_per_sec}")?;
    let bar = ProgressBar::new_spinner().with_style(style);
    let mut answer = pin!(async { session.sql(&arguments.query).await?.collect().await });
    let batches = loop {
        tokio::select! {
            batches = &mut answer => break batches?,
            () = tokio::time::sleep(Duration::from_millis(200)) => bar.set_position(stores.bytes_read()),
        }
    };
    bar.finish_and_clear();
    Ok(pretty_format_batches(&batches)?.to_string())
}

async fn register(session: &SessionContext, name: &str, url: &str) -> Result<()> {
    let location = Url::parse(url)?;
    let store = session.runtime_env().object_store_registry.get_store(&location)?;
    let log = Path::from_url_path(location.path())?.join("_delta_log");
    if let Some(Ok(_)) = store.list(Some(&log)).next().await {
        let mut table = delta::table(store, &location)?;
        table.load().await?;
        session.register_table(name, table.table_provider().await?)?;
        return Ok(());
    }
    match url.rsplit_once('.') {
        Some((_, "csv")) => session.register_csv(name, url, CsvReadOptions::new()).await?,
        Some((_, "json")) => session.register_json(name, url, JsonReadOptions::default()).await?,
        _ => session.register_parquet(name, url, ParquetReadOptions::default()).await?,
    }
    Ok(())
}
