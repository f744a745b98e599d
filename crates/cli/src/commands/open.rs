//! `kms-envelope open`.

#[cfg(feature = "stores")]
use kms_envelope::OpenError;

#[cfg(feature = "stores")]
use super::check_place;
use super::{A_KEY, existing_keys, expected_context, opening_envelope, opening_failure, runtime};
use crate::{
    args::OpenArguments, console::Console, failure::Failure, input::Input, key_source::KeySource, output::Output,
    place::Place, transfer::transfer,
};
#[cfg(feature = "stores")]
use crate::{input::parse_detached, stores::Location};

pub(super) fn open(arguments: &OpenArguments, console: Console) -> Result<(), Failure> {
    let terms = &arguments.terms;
    terms.context.to_open()?;
    let place = arguments.input.place();
    #[cfg(feature = "stores")]
    check_place(&terms.store, place)?;
    let mut input = Input::open(place, console)?;
    let output = Output::create(arguments.output.place(), &input, console)?;
    let runtime = runtime()?;
    let sources = &arguments.key.sources;
    output.spare(sources.iter().filter_map(KeySource::path), A_KEY)?;
    output.spare(terms.keys.as_ref().and_then(Place::file).as_deref(), A_KEY)?;
    let provider = runtime.block_on(existing_keys(&arguments.key, console).provider(sources))?;
    let envelope = opening_envelope(terms, provider.clone(), console)?;
    let header = input.read_header()?;
    let context = expected_context(terms, place, &provider, &header)?;
    let opener = runtime.block_on(envelope.opener(&header, &context));
    #[cfg(feature = "stores")]
    let opener = match (opener, place.and_then(Place::url)) {
        (Err(error @ OpenError::Provider(_)), Some(url)) if terms.keys.is_none() && !error.is_retryable() => {
            let location = Location::parse_object(url)?;
            match location.read_beside(&arguments.detached.suffix)?.map(|(keys, name)| (parse_detached(&keys), name)) {
                Some((Err(failure), name)) => return Err(failure.of(name)),
                // Those of another message do not help, and those for others would hide the error.
                Some((Ok(keys), _))
                    if keys.message_id() == header.message_id()
                        && keys.encrypted_data_keys().iter().any(|key| provider.may_decrypt(key)) =>
                {
                    runtime.block_on(envelope.with_detached_keys(keys).opener(&header, &context))
                }
                _ => Err(error),
            }
        }
        (opener, _) => opener,
    };
    let opener = opener.map_err(|error| opening_failure(error, place).of(input.name()))?;
    transfer(input, output, opener)
}
