//! The arguments.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{
    Args, CommandFactory, Parser, Subcommand, builder::OsStringValueParser, builder::TypedValueParser, error::ErrorKind,
};
use kms_envelope::{EncryptionContext, Limits};

use crate::keys::KeySource;

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
    pub(crate) key: KeyArgument,
    /// Make the local key file if it is not there
    #[arg(long)]
    pub(crate) new_key: bool,
    #[command(flatten)]
    pub(crate) context: ContextArguments,
    /// The plaintext bytes of a frame, 1 to 16777216 [default: 65536]
    #[arg(long, value_name = "BYTES",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(Limits::default().frame_len)))]
    pub(crate) frame_len: Option<u32>,
    #[command(flatten)]
    pub(crate) output: OutputArgument,
    #[command(flatten)]
    pub(crate) input: InputArgument,
}

#[derive(Debug, Args)]
pub(crate) struct OpenArguments {
    #[command(flatten)]
    pub(crate) key: KeyArgument,
    #[command(flatten)]
    pub(crate) context: ContextArguments,
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
    #[command(flatten)]
    pub(crate) input: InputArgument,
}

#[derive(Debug, Args)]
pub(crate) struct KeyArgument {
    /// A local key file, or the ARN of a KMS key or alias
    #[arg(long = "key", value_name = "KEY", env = "KMS_ENVELOPE_KEY", hide_env_values = true,
        value_parser = OsStringValueParser::new().try_map(KeySource::parse))]
    pub(crate) source: KeySource,
}

#[derive(Debug, Args)]
pub(crate) struct ContextArguments {
    /// A pair of the encryption context: sealing stores it in the clear, opening demands it
    #[arg(short = 'c', long = "context", value_name = "NAME=VALUE", value_parser = pair)]
    pairs: Vec<(String, String)>,
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
        for (name, value) in &self.pairs {
            if context.insert(name, value).is_some() {
                usage(format!("the encryption context has {name:?} twice"));
            }
        }
        context
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
    }
}
