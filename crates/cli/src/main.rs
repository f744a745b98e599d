//! The command `kms-envelope`: seals and opens files and pipes, shows what a message says of itself, makes keys.

mod args;
#[cfg(feature = "aws-kms")]
mod aws_environment;
mod commands;
mod console;
mod failure;
mod input;
mod interrupt;
mod key_source;
mod keys;
mod output;
mod permissions;
mod progress;
mod standard;
mod transfer;

use std::process::ExitCode;

use crate::failure::Kind;

/// What a shell reports of a process that SIGPIPE ended, as it ends other tools whose reader has gone away: a script
/// with `set -o pipefail` learns that not everything was read.
const NO_READER: u8 = 128 + 13;

/// 0: done. 1: failed, and said why. 2: the arguments are wrong; clap says how. 141: the reader has gone away.
fn main() -> ExitCode {
    let Err(failure) = commands::run(args::parse()) else { return ExitCode::SUCCESS };
    match failure.kind() {
        Kind::Failed => {
            failure.report();
            ExitCode::FAILURE
        }
        Kind::Usage => args::exit_with_usage(failure.what()),
        Kind::NoReader => ExitCode::from(NO_READER),
    }
}
