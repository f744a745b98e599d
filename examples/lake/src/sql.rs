//! A shell for encrypted tables.

use std::{path::PathBuf, pin::pin, sync::Arc, time::Duration};

use datafusion::{
    arrow::util::pretty::pretty_format_batches,
    datasource::listing::ListingTableUrl,
    prelude::{CsvReadOptions, JsonReadOptions, ParquetReadOptions, SessionContext},
};
use indicatif::{ProgressBar, ProgressStyle};
use kms_envelope::{Envelope, KeyProvider, RawAes};
use kms_envelope_object_store::{StoreSettings, v0_13::EncryptedStore};
use object_store::local::LocalFileSystem;
use url::Url;

use crate::Result;

/// Runs a query on encrypted tables in local files, and prints the answer.
///
/// Tables are files, or folders of files: CSV if the name ends in .csv, lines of JSON if it ends in .json, otherwise
/// Parquet. `COPY … TO 'FILE'` encrypts what it writes. A file is bound to its absolute path, and does not open elsewhere.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Key file, as `kms-envelope keygen` writes it
    #[arg(long)]
    pub(crate) key: PathBuf,
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

/// Returns a store of the local files, by their absolute paths, that reads frames of any length.
pub(crate) fn encrypted_files(key: impl KeyProvider + 'static) -> Result<EncryptedStore<LocalFileSystem>> {
    let settings = StoreSettings::new(Envelope::builder(key)).look_up_sizes();
    Ok(EncryptedStore::new(LocalFileSystem::new(), settings)?)
}

/// Returns the answer as a table of text.
pub(crate) async fn run(arguments: Arguments) -> Result<String> {
    let store = encrypted_files(RawAes::read_key_file(&arguments.key)?)?;
    let session = SessionContext::new();
    session.register_object_store(&Url::parse("file://")?, Arc::new(store.clone()));
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
            () = tokio::time::sleep(Duration::from_millis(200)) => bar.set_position(store.stats().bytes_read),
        }
    };
    bar.finish_and_clear();
    Ok(pretty_format_batches(&batches)?.to_string())
}

async fn register(session: &SessionContext, name: &str, url: &str) -> Result<()> {
    match url.rsplit_once('.') {
        Some((_, "csv")) => session.register_csv(name, url, CsvReadOptions::new()).await?,
        Some((_, "json")) => session.register_json(name, url, JsonReadOptions::default()).await?,
        _ => session.register_parquet(name, url, ParquetReadOptions::default()).await?,
    }
    Ok(())
}
