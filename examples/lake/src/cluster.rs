//! A scheduler and executors of Ballista as processes, each with an encrypted store of its own.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use ballista::prelude::{SessionConfigExt as _, SessionContextExt as _};
use ballista_core::utils::default_session_builder;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::{
    cluster::BallistaCluster,
    config::{SchedulerConfig, TaskDistributionPolicy},
    scheduler_process::start_server,
};
use datafusion::{
    execution::{
        SessionStateBuilder,
        runtime_env::{RuntimeEnv, RuntimeEnvBuilder},
    },
    prelude::{SessionConfig, SessionContext},
};
use kms_envelope::Envelope;
use object_store::{ObjectStore, local::LocalFileSystem};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};
use url::Url;

use crate::{Result, keys::Keys, store::encrypted, tpch};

/// The tables, which every process of a cluster opens itself.
#[derive(clap::Args, Clone)]
pub(crate) struct Tables {
    /// Folder with the tables
    #[arg(long)]
    pub(crate) tables: PathBuf,
    /// None if the tables are not encrypted.
    #[command(flatten)]
    pub(crate) keys: Option<Keys>,
}

impl Tables {
    /// Returns the store of a process. Call it once: a new store has an empty cache.
    pub(crate) async fn store(&self) -> Result<Arc<dyn ObjectStore>> {
        let files = Arc::new(LocalFileSystem::new_with_prefix(&self.tables)?);
        match &self.keys {
            Some(keys) => encrypted(files, Envelope::builder(keys.provider().await?), 65_536),
            None => Ok(files),
        }
    }

    /// Returns the runtime of a process. Queries that need more memory write temporary files, in the clear, into `spill`.
    async fn runtime(&self, spill: &Path) -> Result<Arc<RuntimeEnv>> {
        let runtime = RuntimeEnvBuilder::new().with_temp_file_path(spill).build_arc()?;
        runtime.register_object_store(&Url::parse("lake://tables")?, self.store().await?);
        Ok(runtime)
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut arguments = vec!["--tables".into(), self.tables.clone().into()];
        arguments.extend(self.keys.iter().flat_map(Keys::arguments));
        arguments
    }
}

/// Runs a scheduler of Ballista.
#[derive(clap::Args)]
pub(crate) struct SchedulerArguments {
    #[command(flatten)]
    tables: Tables,
    #[command(flatten)]
    process: ProcessArguments,
}

/// Runs an executor of Ballista.
#[derive(clap::Args)]
pub(crate) struct ExecutorArguments {
    #[command(flatten)]
    tables: Tables,
    #[command(flatten)]
    process: ProcessArguments,
    /// Port for requests of the scheduler
    #[arg(long)]
    grpc_port: u16,
    /// Address of the scheduler
    #[arg(long)]
    scheduler: SocketAddr,
    /// Tasks at the same time
    #[arg(long, default_value_t = 1)]
    slots: usize,
}

#[derive(clap::Args)]
struct ProcessArguments {
    /// Address to listen at
    #[arg(long)]
    listen: SocketAddr,
    /// Folder for what the engine writes to disk, which is not encrypted
    #[arg(long)]
    work: PathBuf,
    /// End at the end of the standard input
    #[arg(long)]
    until_end_of_input: bool,
}

impl ProcessArguments {
    fn start(&self) {
        env_logger::Builder::new().filter_level(log::LevelFilter::Info).init();
        if self.until_end_of_input {
            thread::spawn(|| {
                let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
                std::process::exit(0);
            });
        }
    }
}

pub(crate) async fn run_scheduler(arguments: SchedulerArguments) -> Result<()> {
    let SchedulerArguments { tables, process } = arguments;
    process.start();
    let runtime = tables.runtime(&process.work).await?;
    let config = Arc::new(SchedulerConfig {
        bind_host: process.listen.ip().to_string(),
        external_host: process.listen.ip().to_string(),
        bind_port: process.listen.port(),
        // The scheduler lists files and reads their statistics when it plans a query.
        override_session_builder: Some(Arc::new(move |config| {
            let state = default_session_builder(config)?;
            Ok(SessionStateBuilder::new_from_existing(state).with_runtime_env(runtime.clone()).build())
        })),
        task_distribution: TaskDistributionPolicy::RoundRobin,
        // The defaults need three minutes to notice that an executor is gone.
        executor_timeout_seconds: 10,
        expire_dead_executor_interval_seconds: 1,
        ..SchedulerConfig::default()
    });
    let cluster = BallistaCluster::new_from_config(&config).await?;
    Ok(start_server(cluster, process.listen, config).await?)
}

pub(crate) async fn run_executor(arguments: ExecutorArguments) -> Result<()> {
    let ExecutorArguments { tables, process, grpc_port, scheduler, slots } = arguments;
    process.start();
    let runtime = tables.runtime(&process.work).await?;
    let config = ExecutorProcessConfig {
        bind_host: process.listen.ip().to_string(),
        external_host: Some(process.listen.ip().to_string()),
        port: process.listen.port(),
        grpc_port,
        scheduler_host: scheduler.ip().to_string(),
        scheduler_port: scheduler.port(),
        vcores: slots,
        work_dir: Some(process.work.to_str().ok_or("the name of the work folder is not UTF-8")?.into()),
        // All sessions share the store, and so its cache of data keys.
        override_runtime_producer: Some(Arc::new(move |_| Ok(runtime.clone()))),
        executor_heartbeat_interval_seconds: 1,
        ..ExecutorProcessConfig::default()
    };
    Ok(start_executor_process(Arc::new(config)).await?)
}

/// Processes on this machine, which end when this value is dropped, and when this process ends.
pub(crate) struct Cluster {
    folder: PathBuf,
    tables: Tables,
    slots: usize,
    scheduler: SocketAddr,
    // Field order: executors end before the scheduler.
    executors: Vec<Child>,
    _scheduler_process: Child,
}

impl Cluster {
    /// Starts the processes, and waits until they are ready: an executor for each of `executors`, which has the tables
    /// that it opens. Their logs and work folders are in `folder`.
    pub(crate) async fn start(folder: PathBuf, tables: &Tables, executors: &[Tables], slots: usize) -> Result<Self> {
        let scheduler = free_address()?;
        let process = start(&folder, "scheduler", scheduler, tables.arguments()).await?;
        let mut cluster =
            Self { folder, tables: tables.clone(), slots, scheduler, executors: vec![], _scheduler_process: process };
        for (number, tables) in (1..).zip(executors) {
            let mut arguments = tables.arguments();
            arguments.extend(["--scheduler".into(), scheduler.to_string().into()]);
            arguments.extend(["--grpc-port".into(), free_address()?.port().to_string().into()]);
            arguments.extend(["--slots".into(), slots.to_string().into()]);
            let name = format!("executor-{number}");
            // An executor registers with the scheduler before it listens.
            cluster.executors.push(start(&cluster.folder, &name, free_address()?, arguments).await?);
        }
        Ok(cluster)
    }

    /// Returns a session that runs its queries on the cluster.
    pub(crate) async fn session(&self) -> Result<SessionContext> {
        let config = SessionConfig::new_with_ballista().with_target_partitions(self.executors.len() * self.slots);
        let state = SessionStateBuilder::new()
            .with_default_features()
            .with_config(config)
            .with_runtime_env(self.tables.runtime(&self.folder).await?)
            .build();
        let session = SessionContext::remote_with_state(&format!("df://{}", self.scheduler), state).await?;
        tpch::register(&session).await?;
        Ok(session)
    }

    /// Returns how many tasks each executor has started, from its log.
    pub(crate) fn tasks(&self) -> Result<Vec<usize>> {
        let tasks = |number| -> Result<_> {
            let log = fs::read_to_string(self.folder.join(format!("executor-{number}.log")))?;
            Ok(log.matches("Execute task").count())
        };
        (1..=self.executors.len()).map(tasks).collect()
    }

    /// Kills the last executor.
    pub(crate) async fn kill_executor(&mut self) -> Result<()> {
        Ok(self.executors.last_mut().ok_or("no executors")?.kill().await?)
    }
}

/// Starts a process of this program, and waits until it accepts connections.
async fn start(folder: &Path, name: &str, address: SocketAddr, arguments: Vec<OsString>) -> Result<Child> {
    let work = folder.join(name);
    fs::create_dir_all(&work)?;
    let log = folder.join(format!("{name}.log"));
    let subcommand = name.split('-').next().expect("at least one part");
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg(subcommand)
        .args(arguments)
        .args([OsStr::new("--listen"), address.to_string().as_ref(), "--work".as_ref(), work.as_ref()])
        .arg("--until-end-of-input");
    start_process(&mut command, name, address, &log).await
}

/// Starts a process that is killed on drop, and waits until it accepts connections.
pub(crate) async fn start_process(command: &mut Command, name: &str, address: SocketAddr, log: &Path) -> Result<Child> {
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(File::create(log)?)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{name} does not start: {error}"))?;
    let start = Instant::now();
    while TcpStream::connect(address).await.is_err() {
        if process.try_wait()?.is_some() || start.elapsed() > Duration::from_secs(60) {
            let log = fs::read_to_string(log)?;
            return Err(format!("{name} does not start: {}", log.lines().last().unwrap_or("no log")).into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(process)
}

/// Returns an address with a port that is free now, and that another process is unlikely to take.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
