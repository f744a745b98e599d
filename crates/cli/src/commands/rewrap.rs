//! `kms-envelope rewrap`: encrypts a message's data key under another key.

use std::io::Write;

use kms_envelope::RewrapError;

use super::{A_KEY, existing_keys, expected_context, opening_envelope, opening_failure, runtime};
#[cfg(feature = "stores")]
use super::{check_place, rewrap_objects};
#[cfg(feature = "stores")]
use crate::stores::Location;
use crate::{
    args::RewrapArguments, console::Console, failure::Failure, input::Input, key_source::KeySource, output::Output,
    place::Place,
};

const THE_MESSAGE: &str = "the message, which is still needed with its detached keys";

/// Reads the message's header only.
pub(super) fn rewrap(arguments: &RewrapArguments, console: Console) -> Result<(), Failure> {
    let terms = &arguments.terms;
    terms.context.to_open()?;
    let place = arguments.input.place();
    #[cfg(feature = "stores")]
    check_place(&terms.store, place)?;
    #[cfg(feature = "stores")]
    match place.and_then(Place::url) {
        Some(url) if !arguments.output.is_given() => {
            return rewrap_objects::rewrap_objects(arguments, &Location::parse(url)?, console);
        }
        _ if arguments.many.are_given() => {
            return Err(Failure::usage("some of the options apply only to the objects below a URL, without --output"));
        }
        _ => {}
    }
    let mut input = Input::open(place, console)?;
    let mut output = Output::create(arguments.output.place(), &input, console)?;
    if !arguments.output.is_given() {
        output.refuse_terminal()?;
    }
    let sources = &arguments.key.sources;
    output.spare(sources.iter().chain(&arguments.to).filter_map(KeySource::path), A_KEY)?;
    output.spare(place.and_then(Place::file).as_deref(), THE_MESSAGE)?;
    #[cfg(feature = "stores")]
    if let Some(url) = place.and_then(Place::url)
        && arguments.output.place().and_then(Place::url) == Some(url)
    {
        return Err(Failure::new(format!("this is {THE_MESSAGE}")).of(url));
    }
    let runtime = runtime()?;
    let keys = existing_keys(&arguments.key, console);
    let provider = runtime.block_on(keys.provider(sources))?;
    let old = opening_envelope(terms, provider.clone(), console)?;
    let new = runtime.block_on(keys.provider(&arguments.to))?;
    let header = input.read_header()?;
    let context = expected_context(terms, place, &provider, &header)?;
    let keys = runtime
        .block_on(old.rewrap(&header, &context, &new))
        .map_err(|error| match error {
            RewrapError::Open(error) => opening_failure(error, place),
            error => error.into(),
        })
        .map_err(|failure| failure.of(input.name()))?
        .to_bytes();
    output.write_all(&keys).map_err(|error| Failure::writing(output.name(), &error))?;
    output.finish()
}
