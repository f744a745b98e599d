//! Queries encrypted tables with DataFusion, and measures what the encryption costs.

mod ballista;
mod bench;
mod cluster;
mod delta;
mod keys;
mod report;
mod sql;
mod store;
mod tpch;

#[cfg(test)]
mod tests;

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Queries encrypted tables with DataFusion, and measures what the encryption costs.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Sql(sql::Arguments),
    Tpch(tpch::Arguments),
    Delta(delta::Arguments),
    Bench(bench::Arguments),
    Ballista(ballista::Arguments),
    Scheduler(cluster::SchedulerArguments),
    Executor(cluster::ExecutorArguments),
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let done = match Arguments::parse().command {
        Command::Sql(arguments) => sql::run(arguments).await.map(|table| println!("{table}")),
        Command::Tpch(arguments) => tpch::run(arguments).await,
        Command::Delta(arguments) => delta::run(arguments).await.map(|report| print!("{report}")),
        Command::Bench(arguments) => bench::run(arguments).await.map(|report| print!("{report}")),
        Command::Ballista(arguments) => ballista::run(arguments).await.map(|report| print!("{report}")),
        Command::Scheduler(arguments) => cluster::run_scheduler(arguments).await,
        Command::Executor(arguments) => cluster::run_executor(arguments).await,
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// Returns a progress bar, which is hidden unless the standard error is a terminal.
fn progress(steps: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:24} {wide_bar} {pos}/{len}, {elapsed} of {duration}");
    ProgressBar::new(steps).with_style(style.expect("valid template"))
}
