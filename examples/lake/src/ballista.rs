//! TPC-H on Ballista, with encrypted tables.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use datafusion::prelude::SessionConfig;
use kms_envelope::RawAes;

use crate::{
    Result,
    bench::median,
    cluster::{Cluster, Tables},
    keys::{Keys, Moto},
    progress, tpch,
};

/// Runs TPC-H on Ballista with encrypted tables, and compares the answers with those of DataFusion on plain tables.
///
/// Starts a scheduler and executors as processes on this machine, and ends them. Each process gets the keys itself: from a
/// key file, or from AWS KMS.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Scale factor: about this many gigabytes of data
    #[arg(long, default_value_t = 0.01)]
    scale: f64,
    /// Executors
    #[arg(long, default_value_t = 2)]
    executors: usize,
    /// Tasks at the same time on each executor
    #[arg(long, default_value_t = 1)]
    slots: usize,
    /// Measure plain and encrypted tables, with one executor and with all, and print a report in Markdown
    #[arg(long, conflicts_with = "kill")]
    bench: bool,
    /// Measured rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// File for the results as CSV
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Python with moto, to simulate AWS KMS: the program starts it, and reports how many requests it gets
    #[arg(long, value_name = "PYTHON")]
    moto: Option<PathBuf>,
    /// Give the last executor another key, and show that queries fail
    #[arg(long, conflicts_with_all = ["bench", "kill"])]
    wrong_key: bool,
    /// Kill an executor in the middle of this query, instead of running all
    #[arg(long, value_name = "QUERY", value_parser = clap::value_parser!(u8).range(1..=22))]
    kill: Vec<u8>,
    /// Empty folder for tables and logs, which stay there. By default, they are deleted
    #[arg(long)]
    folder: Option<PathBuf>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<String> {
    let temporary;
    let folder = match &arguments.folder {
        Some(folder) => folder,
        None => {
            temporary = tempfile::tempdir()?;
            temporary.path()
        }
    };
    let moto = match &arguments.moto {
        Some(python) => Some(Moto::start(python, folder.join("moto.log")).await?),
        None => None,
    };
    let moto = moto.as_ref();
    let key = new_key(moto, &folder.join("tables.key")).await?;
    let other_key = new_key(moto, &folder.join("other.key")).await?;
    let requests = || moto.map_or(Ok(0), Moto::requests);
    let before = requests()?;
    let (plain, encrypted) = write_tables(folder, arguments.scale, key).await?;
    let written = requests()?;
    let mut executors = vec![encrypted.clone(); arguments.executors];
    if arguments.wrong_key {
        executors.last_mut().ok_or("no executors")?.keys = Some(other_key);
    }
    let mut report = if arguments.bench {
        bench(&arguments, folder, [plain, encrypted]).await
    } else if arguments.kill.is_empty() {
        compare(&arguments, folder, &plain, &encrypted, &executors).await
    } else {
        kill(&arguments, folder, &plain, &encrypted, &executors).await
    }?;
    if moto.is_some() {
        let (writing, reading) = (written - before, requests()? - written);
        writeln!(report, "requests to KMS: {writing} to write the tables, {reading} to query them")?;
    }
    Ok(report)
}

/// Returns a new key: in KMS, or in this key file.
async fn new_key(moto: Option<&Moto>, file: &Path) -> Result<Keys> {
    if let Some(moto) = moto {
        return moto.create_key().await;
    }
    RawAes::generate("kms-envelope-lake", "ballista")?.write_key_file(file)?;
    Ok(Keys::file(file))
}

/// Writes the tables twice: plain and encrypted.
async fn write_tables(folder: &Path, scale: f64, key: Keys) -> Result<(Tables, Tables)> {
    let plain = Tables { tables: folder.join("plain"), keys: None };
    let encrypted = Tables { tables: folder.join("encrypted"), keys: Some(key) };
    for tables in [&plain, &encrypted] {
        fs::create_dir(&tables.tables)?;
        tpch::write_all(&tables.store().await?, scale, tpch::ROW_GROUP_LEN).await?;
    }
    Ok((plain, encrypted))
}

/// Runs all queries. One that fails is an error, unless an executor has the wrong key.
async fn compare(
    arguments: &Arguments,
    folder: &Path,
    plain: &Tables,
    encrypted: &Tables,
    executors: &[Tables],
) -> Result<String> {
    let expected = tpch::session(plain.store().await?, SessionConfig::new()).await?;
    let cluster = Cluster::start(folder.join("logs"), encrypted, executors, arguments.slots).await?;
    let session = cluster.session().await?;
    let queries = tpch::queries(arguments.scale);
    let bar = progress(queries.len() as u64);
    let mut report = String::new();
    for (number, query) in (1..).zip(queries) {
        bar.set_message(format!("query {number}"));
        let start = Instant::now();
        let found = tpch::answer(&session, &query).await;
        let milliseconds = start.elapsed().as_millis();
        match found {
            Ok(found) if found == tpch::answer(&expected, &query).await? => {
                writeln!(report, "Q{number}: the same {} lines, {milliseconds} ms", found.len())?
            }
            Ok(_) => {
                return Err(format!("Q{number}: the answer differs from that of DataFusion on plain tables").into());
            }
            Err(error) if arguments.wrong_key => {
                writeln!(report, "Q{number}: an error, {}", error.to_string().trim_end())?
            }
            Err(error) => return Err(error),
        }
        bar.inc(1);
    }
    for (number, tasks) in (1..).zip(cluster.tasks()?) {
        writeln!(report, "executor {number}: {tasks} tasks")?;
    }
    Ok(report)
}

/// Kills an executor in the middle of queries. Each has a new cluster.
async fn kill(
    arguments: &Arguments,
    folder: &Path,
    plain: &Tables,
    encrypted: &Tables,
    executors: &[Tables],
) -> Result<String> {
    let expected = tpch::session(plain.store().await?, SessionConfig::new()).await?;
    let mut report = String::new();
    for number in &arguments.kill {
        let query = &tpch::queries(arguments.scale)[usize::from(*number) - 1];
        let expected = tpch::answer(&expected, query).await?;
        let logs = folder.join(format!("logs-Q{number}"));
        let mut cluster = Cluster::start(logs, encrypted, executors, arguments.slots).await?;
        let session = cluster.session().await?;
        for attempt in ["while an executor was killed", "afterward"] {
            let start = Instant::now();
            let (session, query) = (session.clone(), query.clone());
            let mut running = tokio::spawn(async move { tpch::answer(&session, &query).await });
            if attempt != "afterward" {
                while cluster.tasks()?.last() == Some(&0) && !running.is_finished() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                if running.is_finished() {
                    return Err(format!("Q{number}: ended before the last executor had a task").into());
                }
                cluster.kill_executor().await?;
            }
            let found = tokio::time::timeout(Duration::from_secs(120), &mut running).await;
            running.abort();
            let seconds = start.elapsed().as_secs_f64();
            let outcome = match found.map(|joined| joined?) {
                Ok(Ok(found)) if found == expected => "the right answer".into(),
                Ok(Ok(_)) => return Err(format!("Q{number}: a wrong answer {attempt}").into()),
                Ok(Err(error)) => format!("an error ({error})"),
                Err(_) => "no answer".into(),
            };
            writeln!(report, "Q{number}: {outcome} {attempt}, after {seconds:.1} s")?;
        }
    }
    Ok(report)
}

/// Measures each query on plain and encrypted tables, with one executor and with all. The clusters take turns.
async fn bench(arguments: &Arguments, folder: &Path, tables: [Tables; 2]) -> Result<String> {
    let (mut clusters, mut sessions, mut names) = (Vec::new(), Vec::new(), Vec::new());
    for executors in [1, arguments.executors] {
        for (format, tables) in ["plain", "encrypted"].into_iter().zip(&tables) {
            let logs = folder.join(format!("logs-{format}-{executors}"));
            let cluster = Cluster::start(logs, tables, &vec![tables.clone(); executors], arguments.slots).await?;
            sessions.push(cluster.session().await?);
            clusters.push(cluster);
            names.push(format!("{executors},{format}"));
        }
    }
    let queries = tpch::queries(arguments.scale);
    let bar = progress((queries.len() * sessions.len() * (arguments.rounds + 1)) as u64);
    let mut rows = Vec::new();
    for (number, query) in (1..).zip(&queries) {
        bar.set_message(format!("query {number}"));
        let mut times = [const { Vec::new() }; 4];
        for round in 0..=arguments.rounds {
            for (session, times) in sessions.iter().zip(&mut times) {
                let start = Instant::now();
                session.sql(query).await?.collect().await?;
                // The first round fills caches.
                if round > 0 {
                    times.push(start.elapsed());
                }
                bar.inc(1);
            }
        }
        rows.push((format!("Q{number}"), times.map(|times| median(times).as_secs_f64() * 1e3)));
    }
    if let Some(path) = &arguments.csv {
        let lines = rows.iter().flat_map(|(item, times)| {
            names.iter().zip(times).map(move |(name, time)| format!("{name},{item},{time:.3}\n"))
        });
        fs::write(path, format!("executors,format,item,milliseconds\n{}", lines.collect::<String>()))?;
    }
    let sums = std::array::from_fn(|column| rows.iter().map(|(_, times)| times[column]).sum());
    rows.push(("**all queries**".into(), sums));

    let all = arguments.executors;
    let mut report = format!(
        "| time in ms | plain, 1 executor | encrypted | ratio | plain, {all} executors | encrypted | ratio |\n\
        |---|---|---|---|---|---|---|\n"
    );
    for (item, [plain_1, sealed_1, plain_n, sealed_n]) in rows {
        let (ratio_1, ratio_n) = (sealed_1 / plain_1, sealed_n / plain_n);
        writeln!(
            report,
            "| {item} | {plain_1:.1} | {sealed_1:.1} | {ratio_1:.2} | {plain_n:.1} | {sealed_n:.1} | {ratio_n:.2} |"
        )?;
    }
    report.push('\n');
    for (name, cluster) in names.iter().zip(&clusters) {
        writeln!(report, "tasks of each executor ({}): {:?}", name.replace(',', ", "), cluster.tasks()?)?;
    }
    Ok(report)
}
