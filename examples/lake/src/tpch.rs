//! The tables and queries of TPC-H.

use std::{path::PathBuf, sync::Arc};

use datafusion::{
    arrow::{
        array::RecordBatch, datatypes::SchemaRef, error::ArrowError, record_batch::RecordBatchReader,
        util::pretty::pretty_format_batches,
    },
    execution::object_store::ObjectStoreRegistry as _,
    prelude::{ParquetReadOptions, SessionConfig, SessionContext},
};
use object_store::{ObjectStore, buffered::BufWriter, path::Path};
use parquet::{
    arrow::AsyncArrowWriter,
    basic::Compression,
    file::properties::{WriterProperties, WriterPropertiesBuilder},
};
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow, SupplierArrow,
};
use url::Url;

use crate::{Result, keys::Keys, progress, store::EncryptedStores};

pub(crate) const TABLES: [&str; 8] =
    ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"];

/// The rows in a row group of Parquet, as DataFusion writes them.
pub(crate) const ROW_GROUP_LEN: usize = 1 << 20;

/// Generates a table.
pub(crate) fn generate(table: &str, scale: f64) -> Box<dyn RecordBatchReader + Send> {
    match table {
        "customer" => Box::new(CustomerArrow::new(CustomerGenerator::new(scale, 1, 1))),
        "lineitem" => Box::new(LineItemArrow::new(LineItemGenerator::new(scale, 1, 1))),
        "nation" => Box::new(NationArrow::new(NationGenerator::new(scale, 1, 1))),
        "orders" => Box::new(OrderArrow::new(OrderGenerator::new(scale, 1, 1))),
        "part" => Box::new(PartArrow::new(PartGenerator::new(scale, 1, 1))),
        "partsupp" => Box::new(PartSuppArrow::new(PartSuppGenerator::new(scale, 1, 1))),
        "region" => Box::new(RegionArrow::new(RegionGenerator::new(scale, 1, 1))),
        "supplier" => Box::new(SupplierArrow::new(SupplierGenerator::new(scale, 1, 1))),
        _ => unreachable!("not a table of TPC-H: {table}"),
    }
}

/// Returns the queries, in order.
pub(crate) fn queries(scale: f64) -> Vec<String> {
    let all = include_str!("queries.sql").replace("{fraction}", &format!("{:.10}", 0.0001 / scale));
    all.split_inclusive(";\n").map(Into::into).collect()
}

/// Returns how tables are written: compressed, in row groups of this many rows.
pub(crate) fn properties(row_group_len: usize) -> WriterPropertiesBuilder {
    WriterProperties::builder().set_compression(Compression::SNAPPY).set_max_row_group_row_count(Some(row_group_len))
}

/// Writes a table as Parquet.
pub(crate) async fn write(
    store: Arc<dyn ObjectStore>,
    path: Path,
    schema: SchemaRef,
    batches: impl Iterator<Item = std::result::Result<RecordBatch, ArrowError>>,
    properties: WriterProperties,
) -> Result<()> {
    let mut writer = AsyncArrowWriter::try_new(BufWriter::new(store, path), schema, Some(properties))?;
    for batch in batches {
        writer.write(&batch?).await?;
    }
    writer.close().await?;
    Ok(())
}

/// Writes all tables into the root of a store.
pub(crate) async fn write_all(store: &Arc<dyn ObjectStore>, scale: f64, row_group_len: usize) -> Result<()> {
    for table in TABLES {
        let reader = generate(table, scale);
        write(store.clone(), path(table), reader.schema(), reader, properties(row_group_len).build()).await?;
    }
    Ok(())
}

/// Returns where a table is in its store.
pub(crate) fn path(table: &str) -> Path {
    Path::from(format!("{table}.parquet"))
}

/// Returns a session with the tables in the root of a store.
pub(crate) async fn session(store: Arc<dyn ObjectStore>, config: SessionConfig) -> Result<SessionContext> {
    let session = SessionContext::new_with_config(config);
    session.register_object_store(&Url::parse("lake://tables")?, store);
    register(&session).await?;
    Ok(session)
}

/// Registers the tables in the root of the store of a session.
pub(crate) async fn register(session: &SessionContext) -> Result<()> {
    for table in TABLES {
        let url = format!("lake://tables/{}", path(table));
        session.register_parquet(table, url, ParquetReadOptions::default()).await?;
    }
    Ok(())
}

/// Returns the lines of the answer. Sorted, because rows that are equal in the order of the query have no order.
pub(crate) async fn answer(session: &SessionContext, query: &str) -> Result<Vec<String>> {
    let batches = session.sql(query).await?.collect().await?;
    let mut lines: Vec<_> = pretty_format_batches(&batches)?.to_string().lines().map(String::from).collect();
    lines.sort();
    Ok(lines)
}

/// Writes the tables of TPC-H into a folder, encrypted.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    keys: Keys,
    /// Scale factor: about this many gigabytes of data
    #[arg(long, default_value_t = 0.1)]
    scale: f64,
    /// Folder, which must exist
    folder: PathBuf,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let folder = Url::from_directory_path(arguments.folder.canonicalize()?).map_err(|()| "the folder has no URL")?;
    let store = EncryptedStores::new(arguments.keys.provider().await?).get_store(&folder)?;
    let folder = Path::from_url_path(folder.path())?;
    let bar = progress(TABLES.len() as u64);
    for table in TABLES {
        bar.set_message(table);
        let reader = generate(table, arguments.scale);
        let path = folder.clone().join(format!("{table}.parquet"));
        write(store.clone(), path, reader.schema(), reader, properties(ROW_GROUP_LEN).build()).await?;
        bar.inc(1);
    }
    Ok(())
}
