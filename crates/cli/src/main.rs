//! The command `kms-envelope`: seals and opens files and pipes, shows what a message says of itself, makes keys.

mod args;
mod failure;
mod files;
mod inspect;
mod interrupt;
mod keys;
mod progress;
mod rewrap;
mod transfer;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Arguments, Command};

/// 0: done. 1: failed, and said why. 2: the arguments are wrong; clap says how.
fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Keygen(arguments) => keys::keygen(&arguments),
        Command::Seal(arguments) => transfer::seal(&arguments),
        Command::Open(arguments) => transfer::open(&arguments),
        Command::Rewrap(arguments) => rewrap::rewrap(&arguments),
        Command::Inspect(arguments) => inspect::inspect(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report();
            ExitCode::FAILURE
        }
    }
}
