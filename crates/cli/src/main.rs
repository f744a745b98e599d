//! The command `kms-envelope`: seals, opens, rewraps and inspects messages in files and pipes, and creates keys.

mod args;
#[cfg(feature = "aws-kms")]
mod aws_environment;
#[cfg(feature = "aws-kms")]
mod branch_keys;
mod commands;
mod console;
mod failure;
mod input;
mod interrupt;
mod key_source;
mod keys;
mod output;
mod permissions;
mod place;
mod progress;
mod runtime;
mod standard;
#[cfg(feature = "stores")]
mod stores;
mod transfer;

use std::process::ExitCode;

use crate::failure::Kind;

/// The exit status that a shell reports for a process ended by SIGPIPE, like other tools whose reader has closed the
/// pipe. A script with `set -o pipefail` notices that the output was not read completely.
const NO_READER: u8 = 128 + 13;

/// Exits with 0: success, 1: failure, 2: invalid arguments (reported by clap), 141: the reader closed the pipe.
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
