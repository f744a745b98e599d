//! `kms-envelope seal`.

use kms_envelope::{AlgorithmSuite, CommitmentPolicy};

use super::{A_KEY, builder, existing_keys, runtime};
use crate::{
    args::SealArguments, console::Console, failure::Failure, input::Input, key_source::KeySource, keys::Keys,
    output::Output, transfer::transfer,
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
    let input = Input::open(arguments.input.path(), console)?;
    let output = Output::create(arguments.output.path(), &input, console)?;
    if !arguments.output.is_given() {
        output.refuse_terminal()?;
    }
    let runtime = runtime()?;
    let keys = Keys { new_key: arguments.new_key, ..existing_keys(&arguments.key, console) };
    let provider = runtime.block_on(keys.provider(sources))?;
    // A new key exists only now.
    output.spare(sources.iter().filter_map(KeySource::path), A_KEY)?;
    let mut envelope = builder(&arguments.policy, provider).required_context(arguments.context.required_names());
    if let Some(len) = arguments.frame_len {
        envelope = envelope.frame_len(len);
    }
    if let Some(len) = arguments.header_len {
        envelope = envelope.header_len(len.into());
    }
    let signing = match policy {
        CommitmentPolicy::ForbidEncryptAllowDecrypt => AlgorithmSuite::Aes256GcmHkdfSha384EcdsaP384,
        _ => AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384,
    };
    if let Some(suite) = arguments.suite.or(arguments.sign.then_some(signing)) {
        envelope = envelope.suite(suite);
    }
    let envelope = envelope.build().map_err(|error| Failure::new(error.to_string()))?;
    let sealer = runtime.block_on(envelope.sealer(&context))?;
    transfer(input, output, sealer)
}
