//! `kms-envelope rewrap`: another key for a message that is there already.

use std::io::Write;

use crate::{
    args::RewrapArguments,
    failure::Failure,
    files::{Input, Output},
    keys::{self, KeySource},
    transfer::{A_KEY, runtime},
};

/// `kms-envelope rewrap`. Reads the message's header only.
pub(crate) fn rewrap(arguments: &RewrapArguments) -> Result<(), Failure> {
    let context = arguments.terms.context.to_context();
    let mut input = Input::open(arguments.input.path())?;
    let mut output = Output::create(arguments.output.path(), &input)?;
    let key_files = arguments.key.sources.iter().chain(&arguments.to).filter_map(KeySource::path);
    output.spare(key_files, A_KEY)?;
    output.spare(arguments.input.path(), "the message, which the keys belong beside")?;
    let runtime = runtime()?;
    let old = arguments.terms.envelope(runtime.block_on(arguments.key.provider(false))?)?;
    let new = runtime.block_on(keys::provider(&arguments.to, &arguments.key.rsa, false))?;
    let header = input.read_header()?;
    let keys = runtime
        .block_on(old.rewrap(&header, &context, &new))
        .map_err(|error| Failure::from(error).of(input.name()))?
        .to_bytes()?;
    output.write_all(&keys).map_err(|error| Failure::writing(output.name(), &error))?;
    output.finish()
}
