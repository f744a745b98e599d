//! `kms-envelope rewrap`: encrypts a message's data key under another key.

use std::io::Write;

use super::{A_KEY, existing_keys, opening_envelope, runtime};
use crate::{
    args::RewrapArguments, console::Console, failure::Failure, input::Input, key_source::KeySource, output::Output,
};

/// Reads the message's header only.
pub(super) fn rewrap(arguments: &RewrapArguments, console: Console) -> Result<(), Failure> {
    let context = arguments.terms.context.to_open()?;
    let mut input = Input::open(arguments.input.path(), console)?;
    let mut output = Output::create(arguments.output.path(), &input, console)?;
    if !arguments.output.is_given() {
        output.refuse_terminal()?;
    }
    let sources = &arguments.key.sources;
    output.spare(sources.iter().chain(&arguments.to).filter_map(KeySource::path), A_KEY)?;
    output.spare(arguments.input.path(), "the message, which is still needed with its detached keys")?;
    let runtime = runtime()?;
    let keys = existing_keys(&arguments.key, console);
    let old = opening_envelope(&arguments.terms, runtime.block_on(keys.provider(sources))?)?;
    let new = runtime.block_on(keys.provider(&arguments.to))?;
    let header = input.read_header()?;
    let keys = runtime
        .block_on(old.rewrap(&header, &context, &new))
        .map_err(|error| Failure::from(error).of(input.name()))?
        .to_bytes();
    output.write_all(&keys).map_err(|error| Failure::writing(output.name(), &error))?;
    output.finish()
}
