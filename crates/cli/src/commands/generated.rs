//! `kms-envelope completions` and `kms-envelope man`, generated from the definition of the arguments.

use clap::{CommandFactory, builder::Resettable};
use clap_mangen::{
    Man,
    roff::{Roff, roman},
};

use super::print;
use crate::{
    args::{Arguments, CompletionsArguments, EXAMPLES, EXIT_STATUS, GENERATED, ManArguments},
    failure::Failure,
};

pub(super) fn completions(arguments: &CompletionsArguments) -> Result<(), Failure> {
    let mut out = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "kms-envelope", &mut out);
    // clap_complete writes a name with a hyphen in two forms into the script for bash, which then completes nothing
    // (clap-rs/clap#6421).
    let script = String::from_utf8_lossy(&out).replace("kms__subcmd__envelope", "kms__envelope");
    print(script.as_bytes())
}

pub(super) fn man(arguments: &ManArguments) -> Result<(), Failure> {
    let mut command = Arguments::command();
    // Sets the full names of the commands.
    command.build();
    for name in &arguments.command {
        let Some(found) = command.find_subcommand(name) else {
            return Err(Failure::usage(format!("unknown command {name:?}")));
        };
        command = found.clone();
    }
    // clap_mangen would fill and justify the text after the help, so that the examples could not be copied.
    let mut more = Roff::new();
    if arguments.command.is_empty() {
        command = command.after_help(Resettable::Reset);
        more.control("SH", ["EXAMPLES"]).control("nf", []);
        for example in EXAMPLES.lines() {
            more.text([roman(example)]);
        }
        more.control("fi", []).control("PP", []).text([roman(GENERATED)]);
        more.control("SH", ["EXIT STATUS"]).text([roman(EXIT_STATUS)]);
    }
    let mut out = Vec::new();
    let source = concat!("kms-envelope ", env!("CARGO_PKG_VERSION"));
    Man::new(command)
        .source(source)
        .render(&mut out)
        .and_then(|()| more.to_writer(&mut out))
        .map_err(|error| Failure::new(format!("cannot create the manual page: {error}")))?;
    print(&out)
}
