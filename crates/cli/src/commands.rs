//! The commands. Each reads its arguments and connects input, keys and output.

#[cfg(feature = "aws-kms")]
mod branch_key;
mod generated;
mod inspect;
#[cfg(feature = "stores")]
pub(crate) mod inventory;
#[cfg(feature = "stores")]
mod ls;
mod open;
mod rewrap;
#[cfg(feature = "stores")]
mod rewrap_objects;
mod seal;

use std::{
    fmt::{self, Write as _},
    io::{self, Read, Write},
    sync::Arc,
};

#[cfg(feature = "stores")]
use kms_envelope::error::ContextError;
use kms_envelope::{
    EncryptionContext, Envelope, EnvelopeBuilder, KeyProvider, Limits, OpenError,
    message::{DetachedKeys, Header},
};
use serde::Serialize;

#[cfg(feature = "stores")]
use crate::stores::{Location, StoreArguments};
use crate::{
    args::{Arguments, Command, KeyArguments, KeygenArguments, OpeningArguments, PolicyArgument},
    console::Console,
    failure::Failure,
    input::{Input, parse_detached},
    keys::{self, Keys},
    place::Place,
    runtime::runtime,
    standard,
};

/// A key must not be overwritten: messages sealed with it could no longer be opened.
const A_KEY: &str = "one of the given keys, which must not be overwritten";

/// Runs the command.
pub(crate) fn run(Arguments { command, quiet }: Arguments) -> Result<(), Failure> {
    let console = Console { quiet };
    match command {
        Command::Keygen(arguments) => keygen(&arguments, console),
        Command::Seal(arguments) => seal::seal(&arguments, console),
        Command::Open(arguments) => open::open(&arguments, console),
        Command::Rewrap(arguments) => rewrap::rewrap(&arguments, console),
        Command::Inspect(arguments) => inspect::inspect(&arguments, console),
        #[cfg(feature = "stores")]
        Command::Ls(arguments) => ls::ls(&arguments),
        #[cfg(feature = "stores")]
        Command::Inventory(arguments) => inventory::inventory(&arguments, console),
        #[cfg(not(feature = "stores"))]
        Command::Ls(_) => Err(Failure::usage("`ls` lists the objects of stores, which need the feature `stores`")),
        #[cfg(feature = "aws-kms")]
        Command::BranchKey(command) => branch_key::run(&command, console),
        #[cfg(not(feature = "aws-kms"))]
        Command::BranchKey(_) => Err(Failure::new(
            "branch keys need AWS KMS, which this build of kms-envelope does not support; build it with its default features",
        )),
        Command::Completions(arguments) => generated::completions(&arguments),
        Command::Man(arguments) => generated::man(&arguments),
    }
}

fn keygen(arguments: &KeygenArguments, console: Console) -> Result<(), Failure> {
    keys::generate(&arguments.path, &arguments.namespace, arguments.name.as_deref(), console).map(drop)
}

/// Returns a factory of providers for keys that must exist.
fn existing_keys(arguments: &KeyArguments, console: Console) -> Keys {
    Keys { rsa: arguments.rsa.options(), branch: arguments.branch.options(), new_key: false, console }
}

/// Returns the builder of an envelope with this key and policy.
fn builder(policy: &PolicyArgument, provider: Arc<dyn KeyProvider>) -> EnvelopeBuilder {
    let builder = Envelope::builder(provider).commitment_policy(policy.policy.into());
    if policy.require_fips { builder.require_fips() } else { builder }
}

/// Returns an envelope for opening with this key.
fn opening_envelope(
    terms: &OpeningArguments,
    provider: Arc<dyn KeyProvider>,
    console: Console,
) -> Result<Envelope, Failure> {
    let envelope = builder(&terms.policy, provider)
        .required_context(terms.context.required_names())
        .build()
        .map_err(|error| Failure::new(error.to_string()))?;
    match &terms.keys {
        None => Ok(envelope),
        Some(place) => Ok(envelope.with_detached_keys(read_detached(place, console)?)),
    }
}

/// Reads detached keys that `rewrap` wrote.
fn read_detached(place: &Place, console: Console) -> Result<DetachedKeys, Failure> {
    let mut bytes = Vec::new();
    Input::open(Some(place), console)?
        .take(Limits::default().header_len as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::reading(place, &error))?;
    parse_detached(&bytes).map_err(|failure| failure.of(place))
}

/// Returns the encryption context that a message must have: the given pairs, and what an object must be bound to.
#[cfg_attr(not(feature = "stores"), expect(unused_variables, reason = "there are no objects"))]
fn expected_context(
    terms: &OpeningArguments,
    place: Option<&Place>,
    provider: &Arc<dyn KeyProvider>,
    header: &Header,
) -> Result<EncryptionContext, Failure> {
    let pairs = terms.context.to_open()?;
    #[cfg(feature = "stores")]
    if let Some(url) = place.and_then(Place::url) {
        let location = Location::parse_object(url)?;
        let settings = terms.store.settings(&location, builder(&terms.policy, provider.clone()), pairs);
        return Ok(location.encrypted(settings)?.expected_context(&location.path, header));
    }
    Ok(pairs)
}

/// Returns why a message cannot be opened, with advice if it is an object that is bound to something else.
#[cfg_attr(not(feature = "stores"), expect(unused_variables, reason = "there are no objects"))]
fn opening_failure(error: OpenError, place: Option<&Place>) -> Failure {
    #[cfg(feature = "stores")]
    if place.and_then(Place::url).is_some()
        && let OpenError::Context(ContextError::PairMissing { name } | ContextError::ValueDiffers { name }) = &error
        && name.starts_with("path")
    {
        return Failure::from(error).advise(BOUND);
    }
    error.into()
}

#[cfg(feature = "stores")]
const BOUND: &str = "an object opens only under the URL that it was sealed to: check the URL and `--base`; `kms-envelope \
     inspect` shows what it is bound to; to open it anyway, use `--binding none`";

/// Returns the store that a URL names, for the objects below it.
#[cfg(feature = "stores")]
fn folder(place: &Place) -> Result<Location, Failure> {
    match place.url() {
        Some(url) => Location::parse(url),
        None => Err(Failure::usage(format!("{place} is a path; for a local folder, write file:///PATH"))),
    }
}

/// Fails if arguments for URLs are given for files.
#[cfg(feature = "stores")]
fn check_place(arguments: &StoreArguments, place: Option<&Place>) -> Result<(), Failure> {
    if arguments.are_given() && place.and_then(Place::url).is_none() {
        return Err(Failure::usage("--binding and --base apply only to objects, which are named by URLs"));
    }
    Ok(())
}

/// Writes a text to standard output.
fn print(text: &[u8]) -> Result<(), Failure> {
    let written: io::Result<()> = standard::output()?.write_all(text);
    written.map_err(|error| Failure::writing("standard output", &error))
}

/// Adds a line to a report.
fn add_line(out: &mut String, name: &str, value: &dyn fmt::Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{name:<20} {value}");
}

fn to_json(report: &impl Serialize) -> Result<String, Failure> {
    let json = serde_json::to_string_pretty(report).map_err(|error| Failure::new(error.to_string()))?;
    Ok(ascii(&json) + "\n")
}

/// Returns the same JSON in printable ASCII, because it may go to a terminal. Other characters occur in strings only.
pub(crate) fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\n' || c == ' ' || c.is_ascii_graphic() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}
