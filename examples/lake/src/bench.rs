//! Measures what the encryption costs.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use datafusion::{
    arrow::array::RecordBatch,
    prelude::{SessionConfig, SessionContext},
};
use kms_envelope::{Envelope, RawAes, stream::Threads};
use kms_envelope_object_store::{StoreSettings, v0_13::EncryptedStore};
use object_store::{ObjectStore, local::LocalFileSystem, memory::InMemory};
use parquet::file::properties::WriterProperties;

use crate::{
    Result, progress,
    report::{self, Row},
    store::{Counted, Traffic},
    tpch::{self, TABLES},
};

/// Measures TPC-H on plain and encrypted tables, in memory and in a folder, and prints a report in Markdown.
///
/// Each table is written, and each query runs, once to count requests and bytes with empty caches, then several times to
/// measure time. The stores take turns.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Scale factor: about this many gigabytes of data
    #[arg(long, default_value_t = 1.0)]
    pub(crate) scale: f64,
    /// Measured rounds
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// Frame lengths in bytes, or 0 for tables that are not encrypted. The report compares with the first
    #[arg(long, value_delimiter = ',', default_values_t = [0, 65_536, 16_384])]
    pub(crate) frame_lens: Vec<u32>,
    /// Where the tables are
    #[arg(long, value_delimiter = ',', default_values = ["memory", "folder"])]
    pub(crate) places: Vec<Place>,
    #[command(flatten)]
    pub(crate) tuning: Tuning,
    /// Folder for temporary files, about 1 GB for each unit of scale
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    pub(crate) folder: PathBuf,
    /// File for the results as CSV
    #[arg(long)]
    pub(crate) csv: Option<PathBuf>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Memory,
    Folder,
}

/// Settings of the encrypted store, of DataFusion and of Parquet, which are the same for all tables.
#[derive(clap::Args, Clone)]
pub(crate) struct Tuning {
    /// Encrypt and decrypt on a thread for each processor, besides the engine's own
    #[arg(long)]
    threads: bool,
    /// Bytes for the data keys of known objects, or 0 to keep none
    #[arg(long, default_value_t = 64 << 20)]
    cache_capacity: u64,
    /// Parts of an upload that are in flight
    #[arg(long, default_value_t = 4)]
    parts_in_flight: usize,
    /// Partitions of DataFusion. By default, as many as processors
    #[arg(long)]
    partitions: Option<usize>,
    /// Rows in a row group of Parquet
    #[arg(long, default_value_t = tpch::ROW_GROUP_LEN)]
    row_group_len: usize,
    /// Rows in a page of Parquet, which is also limited to 1 MiB
    #[arg(long, default_value_t = parquet::file::properties::DEFAULT_DATA_PAGE_ROW_COUNT_LIMIT)]
    page_len: usize,
}

impl Tuning {
    fn properties(&self) -> WriterProperties {
        tpch::properties(self.row_group_len).set_data_page_row_count_limit(self.page_len).build()
    }

    async fn session(&self, store: Arc<dyn ObjectStore>) -> Result<SessionContext> {
        let config = SessionConfig::new();
        tpch::session(store, self.partitions.into_iter().fold(config, SessionConfig::with_target_partitions)).await
    }
}

/// A store to measure, and what it is called in the report.
pub(crate) struct Contender {
    pub(crate) place: Place,
    /// The length of frames, or 0 if objects are not encrypted.
    pub(crate) frame_len: u32,
    inner: Arc<dyn ObjectStore>,
    key: Arc<RawAes>,
    tuning: Tuning,
}

impl Contender {
    /// Returns a new store with the same objects. The inner store is `over` its own.
    fn store(&self, over: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>) -> Result<Arc<dyn ObjectStore>> {
        let inner = over(self.inner.clone());
        if self.frame_len == 0 {
            return Ok(inner);
        }
        let threads = if self.tuning.threads { Threads::Global } else { Threads::One };
        let settings = StoreSettings::new(Envelope::builder(self.key.clone()).threads(threads))
            .frame_len(self.frame_len)
            .cache_capacity(self.tuning.cache_capacity)
            .parts_in_flight(self.tuning.parts_in_flight);
        Ok(Arc::new(EncryptedStore::new(inner, settings)?))
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<String> {
    let folder = tempfile::tempdir_in(&arguments.folder)?;
    let key = Arc::new(RawAes::generate("kms-envelope-lake", "bench")?);
    let mut contenders = Vec::new();
    for &place in &arguments.places {
        for &frame_len in &arguments.frame_lens {
            let inner: Arc<dyn ObjectStore> = if place == Place::Memory {
                Arc::new(InMemory::new())
            } else {
                let subfolder = folder.path().join(frame_len.to_string());
                fs::create_dir(&subfolder)?;
                Arc::new(LocalFileSystem::new_with_prefix(subfolder)?)
            };
            contenders.push(Contender { place, frame_len, inner, key: key.clone(), tuning: arguments.tuning.clone() });
        }
    }

    let mut rows = measure_writes(&arguments, &contenders).await?;
    rows.extend(measure_queries(&arguments, &contenders).await?);
    if let Some(path) = &arguments.csv {
        fs::write(path, report::csv(&rows))?;
    }
    Ok(report::markdown(&rows))
}

async fn measure_writes(arguments: &Arguments, contenders: &[Contender]) -> Result<Vec<Row>> {
    let bar = progress((TABLES.len() * contenders.len() * (arguments.rounds + 1)) as u64);
    let mut rows = Vec::new();
    for table in TABLES {
        bar.set_message(format!("writes {table}"));
        let reader = tpch::generate(table, arguments.scale);
        let schema = reader.schema();
        let batches: Vec<RecordBatch> = reader.collect::<std::result::Result<_, _>>()?;
        let mut measured = vec![(Traffic::default(), Vec::new()); contenders.len()];
        for round in 0..=arguments.rounds {
            for (contender, (traffic, times)) in contenders.iter().zip(&mut measured) {
                let mut counted = None;
                let store = contender.store(|inner| match round {
                    0 => Arc::new(counted.insert(Counted::new(inner)).clone()),
                    _ => inner,
                })?;
                let batches = batches.iter().cloned().map(Ok);
                let start = Instant::now();
                tpch::write(store, tpch::path(table), schema.clone(), batches, arguments.tuning.properties()).await?;
                match counted {
                    Some(counted) => *traffic = counted.take(),
                    None => times.push(start.elapsed()),
                }
                bar.inc(1);
            }
        }
        rows.extend(contenders.iter().zip(measured).map(|(contender, (traffic, times))| {
            Row::new(contender, format!("write {table}"), median(times), traffic)
        }));
    }
    Ok(rows)
}

async fn measure_queries(arguments: &Arguments, contenders: &[Contender]) -> Result<Vec<Row>> {
    let queries = tpch::queries(arguments.scale);
    let bar = progress((queries.len() * contenders.len() * (arguments.rounds + 1)) as u64);
    let (mut rows, mut sessions) = (Vec::new(), Vec::new());
    for contender in contenders {
        let mut counted = None;
        let store = contender.store(|inner| Arc::new(counted.insert(Counted::new(inner)).clone()))?;
        let counted = counted.expect("every store has an inner one");
        let start = Instant::now();
        let counting = arguments.tuning.session(store).await?;
        rows.push(Row::new(contender, "open tables".into(), start.elapsed(), counted.take()));
        sessions.push((counting, counted, arguments.tuning.session(contender.store(|inner| inner)?).await?));
    }
    for (index, query) in queries.iter().enumerate() {
        bar.set_message(format!("query {}", index + 1));
        let mut measured = vec![(Traffic::default(), Vec::new()); contenders.len()];
        for round in 0..=arguments.rounds {
            for ((counting, counted, timed), (traffic, times)) in sessions.iter().zip(&mut measured) {
                let start = Instant::now();
                let session = if round == 0 { counting } else { timed };
                session.sql(query).await?.collect().await?;
                if round == 0 {
                    *traffic = counted.take();
                } else {
                    times.push(start.elapsed());
                }
                bar.inc(1);
            }
        }
        rows.extend(contenders.iter().zip(measured).map(|(contender, (traffic, times))| {
            Row::new(contender, format!("Q{}", index + 1), median(times), traffic)
        }));
    }
    Ok(rows)
}

pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
