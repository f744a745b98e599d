//! `kms-envelope open`.

use super::{A_KEY, existing_keys, opening_envelope, runtime};
use crate::{
    args::OpenArguments, console::Console, failure::Failure, input::Input, key_source::KeySource, output::Output,
    transfer::transfer,
};

pub(super) fn open(arguments: &OpenArguments, console: Console) -> Result<(), Failure> {
    let context = arguments.terms.context.to_open()?;
    let mut input = Input::open(arguments.input.path(), console)?;
    let output = Output::create(arguments.output.path(), &input, console)?;
    let runtime = runtime()?;
    let sources = &arguments.key.sources;
    let needed = sources.iter().filter_map(KeySource::path).chain(arguments.terms.keys.as_deref());
    output.spare(needed, A_KEY)?;
    let provider = runtime.block_on(existing_keys(&arguments.key, console).provider(sources))?;
    let envelope = opening_envelope(&arguments.terms, provider)?;
    let header = input.read_header()?;
    let opener =
        runtime.block_on(envelope.opener(&header, &context)).map_err(|error| Failure::from(error).of(input.name()))?;
    transfer(input, output, opener)
}
