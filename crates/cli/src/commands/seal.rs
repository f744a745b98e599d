//! `kms-envelope seal`.

use std::sync::Arc;

#[cfg(feature = "stores")]
use kms_envelope::EncryptionContext;
use kms_envelope::{AlgorithmSuite, CommitmentPolicy, EnvelopeBuilder, KeyProvider};
#[cfg(feature = "stores")]
use url::Url;

#[cfg(feature = "stores")]
use super::check_place;
use super::{A_KEY, builder, existing_keys, runtime};
use crate::{
    args::SealArguments, console::Console, failure::Failure, input::Input, key_source::KeySource, keys::Keys,
    output::Output, transfer::transfer,
};
#[cfg(feature = "stores")]
use crate::{
    place::Place,
    stores::{Location, Upload},
    transfer::Unchanged,
};

pub(super) fn seal(arguments: &SealArguments, console: Console) -> Result<(), Failure> {
    let sources = &arguments.key.sources;
    if arguments.new_key && sources.iter().any(|source| source.path().is_none()) {
        return Err(Failure::usage("--new-key creates local key files, but --key names a KMS key or a branch key"));
    }
    let policy = CommitmentPolicy::from(arguments.policy.policy);
    if let Some(suite) = arguments.suite.filter(|suite| !policy.allows_sealing(*suite)) {
        let allows =
            if suite.is_committing() { "require-encrypt-require-decrypt" } else { "forbid-encrypt-allow-decrypt" };
        return Err(Failure::usage(format!("--suite {suite} requires --commitment-policy {allows}")));
    }
    let context = arguments.context.to_seal()?;
    let signing = match policy {
        CommitmentPolicy::ForbidEncryptAllowDecrypt => AlgorithmSuite::Aes256GcmHkdfSha384EcdsaP384,
        _ => AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384,
    };
    let suite = arguments.suite.or(arguments.sign.then_some(signing));
    #[cfg(feature = "stores")]
    check_place(&arguments.store, arguments.output.place())?;
    #[cfg(feature = "stores")]
    if let Some(url) = arguments.output.place().and_then(Place::url) {
        return seal_object(arguments, url, suite, context, console);
    }
    let input = Input::open(arguments.input.place(), console)?;
    let output = Output::create(arguments.output.place(), &input, console)?;
    if !arguments.output.is_given() {
        output.refuse_terminal()?;
    }
    let runtime = runtime()?;
    let provider = provider(arguments, console)?;
    // A new key exists only now.
    output.spare(sources.iter().filter_map(KeySource::path), A_KEY)?;
    let mut envelope = envelope(arguments, suite, provider);
    if let Some(len) = arguments.frame_len {
        envelope = envelope.frame_len(len);
    }
    if let Some(len) = arguments.header_len {
        envelope = envelope.header_len(len.into());
    }
    let envelope = envelope.build().map_err(|error| Failure::new(error.to_string()))?;
    let sealer = runtime.block_on(envelope.sealer(&context))?;
    transfer(input, output, sealer)
}

fn provider(arguments: &SealArguments, console: Console) -> Result<Arc<dyn KeyProvider>, Failure> {
    let keys = Keys { new_key: arguments.new_key, ..existing_keys(&arguments.key, console) };
    runtime()?.block_on(keys.provider(&arguments.key.sources))
}

/// Returns the builder of the envelope. The lengths of headers and frames are not set.
fn envelope(
    arguments: &SealArguments,
    suite: Option<AlgorithmSuite>,
    provider: Arc<dyn KeyProvider>,
) -> EnvelopeBuilder {
    let envelope = builder(&arguments.policy, provider).required_context(arguments.context.required_names());
    match suite {
        Some(suite) => envelope.suite(suite),
        None => envelope,
    }
}

/// Seals an object, as an encrypted store writes it.
#[cfg(feature = "stores")]
fn seal_object(
    arguments: &SealArguments,
    url: &Url,
    suite: Option<AlgorithmSuite>,
    context: EncryptionContext,
    console: Console,
) -> Result<(), Failure> {
    if let Some(suite) = suite.filter(|suite| suite.signature().is_some()) {
        return Err(Failure::usage(format!(
            "suite {suite} signs the whole message, but objects in a store are also read in ranges, which a signature \
             cannot verify; to store a signed message, seal it to a file, and upload it"
        )));
    }
    let location = Location::parse_object(url)?;
    let input = Input::open(arguments.input.place(), console)?;
    let provider = provider(arguments, console)?;
    let mut upload = Upload::new(&location, input.len());
    let mut settings = arguments.store.settings(&location, envelope(arguments, suite, provider), context);
    settings = settings.part_len(upload.part_len());
    if let Some(len) = arguments.frame_len {
        settings = settings.frame_len(len);
    }
    if let Some(len) = arguments.header_len {
        settings = settings.header_len(len.into());
    }
    upload.encrypt(location.encrypted(settings)?);
    let output = Output::to_object(&location, upload, console)?;
    output.spare(arguments.key.sources.iter().filter_map(KeySource::path), A_KEY)?;
    transfer(input, output, Unchanged)
}
