//! The arguments.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{
    Args, CommandFactory, Parser, Subcommand, ValueEnum, builder::OsStringValueParser, builder::TypedValueParser,
    error::ErrorKind,
};
use kms_envelope::{AlgorithmSuite, CommitmentPolicy, EncryptionContext, Envelope, KeyProvider, Limits};

use crate::{
    failure::Failure,
    keys::{self, KeySource},
};

/// Envelope encryption of files and pipes, with AWS KMS or a local key, in the AWS Encryption SDK's message format
#[derive(Debug, Parser)]
#[command(name = "kms-envelope", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  kms-envelope keygen backup.key
  kms-envelope seal --key backup.key -c table=orders -o orders.msg orders.csv
  pg_dump orders | kms-envelope seal --key arn:aws:kms:eu-west-1:111122223333:alias/backup > orders.msg
  kms-envelope open --key backup.key -c table=orders -o orders.csv orders.msg
  kms-envelope rewrap --key backup.key --to new.key -o orders.keys orders.msg
  kms-envelope open --key new.key --keys orders.keys -o orders.csv orders.msg
  kms-envelope inspect orders.msg

Exit status: 0 done, 1 failed, 2 wrong arguments.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a local key file that only you can read; never overwrites one
    Keygen(KeygenArguments),
    /// Encrypt a file or a pipe
    Seal(SealArguments),
    /// Decrypt what `seal` or any AWS Encryption SDK wrote
    Open(OpenArguments),
    /// Put a message's data key under another key; the message stays as it is
    Rewrap(RewrapArguments),
    /// Show what a message says of itself, without a key and without any check
    Inspect(InspectArguments),
}

#[derive(Debug, Args)]
pub(crate) struct KeygenArguments {
    /// Where the key goes
    #[arg(value_name = "KEYFILE", value_parser = OsStringValueParser::new().try_map(new_key_file))]
    pub(crate) path: PathBuf,
    /// The key's namespace: the "provider id" that messages store
    #[arg(long, value_name = "TEXT", default_value = "kms-envelope")]
    pub(crate) namespace: String,
    /// The key's name, which messages store [default: 16 random hexadecimal digits]
    #[arg(long, value_name = "TEXT")]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SealArguments {
    #[command(flatten)]
    pub(crate) key: KeyArguments,
    /// Make the local key file if it is not there
    #[arg(long)]
    pub(crate) new_key: bool,
    #[command(flatten)]
    pub(crate) context: ContextArguments,
    /// The plaintext bytes of a frame, 1 to 16777216 [default: 65536]
    #[arg(long, value_name = "BYTES",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(Limits::default().frame_len)))]
    pub(crate) frame_len: Option<u32>,
    /// The algorithm suite, as its id in hexadecimal, such as 0478 [default: 0478, or 0178 where the policy forbids
    /// commitment]
    #[arg(long, value_name = "ID", value_parser = suite)]
    pub(crate) suite: Option<AlgorithmSuite>,
    /// Sign the message, so that those who can open it cannot forge it: suite 0578, or 0378 where the policy forbids
    /// commitment
    #[arg(long, conflicts_with = "suite")]
    pub(crate) sign: bool,
    #[command(flatten)]
    pub(crate) policy: PolicyArgument,
    #[command(flatten)]
    pub(crate) output: OutputArgument,
    #[command(flatten)]
    pub(crate) input: InputArgument,
}

#[derive(Debug, Args)]
pub(crate) struct OpenArguments {
    #[command(flatten)]
    pub(crate) key: KeyArguments,
    #[command(flatten)]
    pub(crate) terms: OpeningArguments,
    #[command(flatten)]
    pub(crate) output: OutputArgument,
    #[command(flatten)]
    pub(crate) input: InputArgument,
}

#[derive(Debug, Args)]
pub(crate) struct RewrapArguments {
    #[command(flatten)]
    pub(crate) key: KeyArguments,
    /// The new key. With several, each of them opens the message
    #[arg(long = "to", value_name = "KEY", required = true,
        value_parser = OsStringValueParser::new().try_map(KeySource::parse))]
    pub(crate) to: Vec<KeySource>,
    #[command(flatten)]
    pub(crate) terms: OpeningArguments,
    #[command(flatten)]
    pub(crate) output: OutputArgument,
    #[command(flatten)]
    pub(crate) input: InputArgument,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Say whether this key opens the message, as far as its header tells: makes the request to the key service, and
    /// reads no body
    #[arg(long = "key", value_name = "KEY",
        value_parser = OsStringValueParser::new().try_map(KeySource::parse))]
    pub(crate) sources: Vec<KeySource>,
    #[command(flatten)]
    pub(crate) rsa: RsaArguments,
    #[command(flatten)]
    pub(crate) terms: OpeningArguments,
    #[command(flatten)]
    pub(crate) input: InputArgument,
}

/// What is needed to open a message besides its key.
#[derive(Debug, Args)]
pub(crate) struct OpeningArguments {
    #[command(flatten)]
    pub(crate) context: ContextArguments,
    #[command(flatten)]
    policy: PolicyArgument,
    /// What `rewrap` wrote for this message: used instead of the encrypted data keys in the message
    #[arg(long = "keys", value_name = "FILE")]
    keys: Option<PathBuf>,
}

impl OpeningArguments {
    /// Whether there is anything that only opening has a use for.
    pub(crate) fn are_given(&self) -> bool {
        self.keys.is_some() || !self.context.pairs.is_empty() || !self.context.required.is_empty()
    }

    /// The file with detached keys.
    pub(crate) fn keys_path(&self) -> Option<&Path> {
        self.keys.as_deref()
    }

    /// The envelope that opens with this key.
    pub(crate) fn envelope(&self, provider: Arc<dyn KeyProvider>) -> Result<Envelope, Failure> {
        let envelope = Envelope::builder(provider)
            .commitment_policy(self.policy.policy.into())
            .required_context(self.context.required_names())
            .build()
            .map_err(|error| Failure::new(error.to_string()))?;
        match &self.keys {
            None => Ok(envelope),
            Some(path) => Ok(envelope.with_detached_keys(keys::read_detached(path)?)),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct KeyArguments {
    /// A local key file, the ARN of a KMS key or alias, or rsa:PATH for an RSA key in PEM. With several, each of
    /// them opens what was sealed
    #[arg(long = "key", value_name = "KEY", env = "KMS_ENVELOPE_KEY", hide_env_values = true, required = true,
        value_parser = OsStringValueParser::new().try_map(KeySource::parse))]
    pub(crate) sources: Vec<KeySource>,
    #[command(flatten)]
    pub(crate) rsa: RsaArguments,
}

#[derive(Debug, Args)]
pub(crate) struct RsaArguments {
    /// The namespace of the RSA keys: the "provider id" that messages store
    #[arg(long = "rsa-namespace", value_name = "TEXT", default_value = "kms-envelope")]
    pub(crate) namespace: String,
    /// The name of the RSA keys, which messages store
    #[arg(long = "rsa-name", value_name = "TEXT", default_value = "rsa")]
    pub(crate) name: String,
    /// How RSA pads data keys
    #[arg(long = "rsa-padding", value_name = "PADDING", default_value = "oaep-sha256")]
    pub(crate) padding: Padding,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Padding {
    OaepSha256,
    OaepSha384,
    OaepSha512,
    OaepSha1,
    Pkcs1,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyArgument {
    /// Whether messages must commit to their data key. To open old messages, choose
    /// require-encrypt-allow-decrypt
    #[arg(long = "commitment-policy", value_name = "POLICY", default_value = "require-encrypt-require-decrypt")]
    pub(crate) policy: Policy,
}

/// AWS's names, and lengths.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[expect(clippy::enum_variant_names, reason = "these are their names")]
pub(crate) enum Policy {
    ForbidEncryptAllowDecrypt,
    RequireEncryptAllowDecrypt,
    RequireEncryptRequireDecrypt,
}

impl From<Policy> for CommitmentPolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::ForbidEncryptAllowDecrypt => Self::ForbidEncryptAllowDecrypt,
            Policy::RequireEncryptAllowDecrypt => Self::RequireEncryptAllowDecrypt,
            Policy::RequireEncryptRequireDecrypt => Self::RequireEncryptRequireDecrypt,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ContextArguments {
    /// A pair of the encryption context: sealing stores it in the clear, opening demands it
    #[arg(short = 'c', long = "context", value_name = "NAME=VALUE", value_parser = pair)]
    pairs: Vec<(String, String)>,
    /// A pair that is authenticated but not stored in the message: it must be given to open it
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    required: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct OutputArgument {
    /// Where to write; a file appears only when it is complete [default: standard output]
    #[arg(id = "output", short = 'o', long = "output", value_name = "OUT")]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct InputArgument {
    /// What to read [default: standard input]
    #[arg(id = "input", value_name = "IN")]
    input: Option<PathBuf>,
}

impl ContextArguments {
    /// The encryption context. Ends the process where a name is given twice.
    pub(crate) fn to_context(&self) -> EncryptionContext {
        let mut context = EncryptionContext::new();
        for (name, value) in self.pairs.iter().chain(&self.required) {
            if context.insert(name, value).is_some() {
                usage(format!("the encryption context has {name:?} twice"));
            }
        }
        context
    }

    /// The names of the pairs that are not stored.
    pub(crate) fn required_names(&self) -> impl Iterator<Item = &str> {
        self.required.iter().map(|(name, _)| &name[..])
    }
}

impl OutputArgument {
    /// The file, if it is not standard output.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.output.as_deref().filter(|path| *path != Path::new("-"))
    }
}

impl InputArgument {
    /// The file, if it is not standard input.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.input.as_deref().filter(|path| *path != Path::new("-"))
    }
}

/// Says that the arguments are wrong, and ends the process with status 2.
pub(crate) fn usage(message: String) -> ! {
    Arguments::command().error(ErrorKind::ValueValidation, message).exit()
}

fn suite(text: &str) -> Result<AlgorithmSuite, String> {
    let id = u16::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok();
    id.and_then(AlgorithmSuite::from_id).ok_or_else(|| {
        let suites: Vec<_> = AlgorithmSuite::all().map(|suite| suite.to_string()).collect();
        format!("the suites are {}", suites.join(", "))
    })
}

fn pair(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some(("", _)) => Err("the name is empty"),
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err("it must be NAME=VALUE"),
    }
}

/// Refuses what `--key` could not name.
fn new_key_file(path: OsString) -> Result<PathBuf, &'static str> {
    if path == "-" {
        return Err("a key goes to a file of its own");
    }
    match KeySource::parse(path)? {
        KeySource::File(path) => Ok(path),
        KeySource::Kms { .. } => Err("--key would take it for a KMS key, as it begins with \"arn:\""),
        KeySource::Rsa(_) => Err("--key would take it for an RSA key, as it begins with \"rsa:\""),
    }
}
