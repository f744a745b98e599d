//! `kms-envelope completions` and `kms-envelope man`: made from the definition of the arguments.

use clap::CommandFactory;
use clap_mangen::Man;

use super::print;
use crate::{
    args::{Arguments, CompletionsArguments, ManArguments},
    failure::Failure,
};

pub(super) fn completions(arguments: &CompletionsArguments) -> Result<(), Failure> {
    let mut out = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "kms-envelope", &mut out);
    print(&out)
}

pub(super) fn man(arguments: &ManArguments) -> Result<(), Failure> {
    let mut command = Arguments::command();
    // Gives the commands their full names.
    command.build();
    if let Some(name) = &arguments.command {
        let Some(found) = command.find_subcommand(name) else {
            return Err(Failure::usage(format!("there is no command {name:?}")));
        };
        command = found.clone();
    }
    let mut out = Vec::new();
    let source = concat!("kms-envelope ", env!("CARGO_PKG_VERSION"));
    Man::new(command)
        .source(source)
        .render(&mut out)
        .map_err(|error| Failure::new(format!("no manual page: {error}")))?;
    print(&out)
}
