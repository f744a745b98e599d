//! The arguments.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{
    ArgMatches, Args, CommandFactory, Parser, Subcommand, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser},
    error::{ContextKind, ContextValue, ErrorKind},
};
use clap_complete::Shell;
use kms_envelope::{AlgorithmSuite, CommitmentPolicy, EncryptionContext, Limits, provider::RsaPadding};

use crate::{
    console::one_line,
    failure::Failure,
    key_source::{KeySource, RsaOptions},
};

/// Envelope encryption of files and pipes, with AWS KMS or a local key, in the AWS Encryption SDK's message format
#[derive(Debug, Parser)]
#[command(name = "kms-envelope", version, arg_required_else_help = true, after_help = after_help())]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Show no progress and say nothing but warnings and errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// One a line.
pub(crate) const EXAMPLES: &str = "\
kms-envelope keygen backup.key
kms-envelope seal --key backup.key -c table=orders -o orders.msg orders.csv
pg_dump orders | kms-envelope seal --key arn:aws:kms:eu-west-1:111122223333:alias/backup > orders.msg
kms-envelope open --key backup.key -c table=orders -o orders.csv orders.msg
kms-envelope rewrap --key backup.key --to new.key -o orders.keys orders.msg
kms-envelope open --key new.key --keys orders.keys -o orders.csv orders.msg
kms-envelope inspect orders.msg";

pub(crate) const GENERATED: &str =
    "`kms-envelope completions SHELL` prints completions for a shell, and `kms-envelope man [COMMAND]` a manual page.";

pub(crate) const EXIT_STATUS: &str = "0 done, 1 failed, 2 wrong arguments, 141 the reader of the output has gone away.";

fn after_help() -> String {
    let examples = EXAMPLES.replace('\n', "\n  ");
    format!("Examples:\n  {examples}\n\n{GENERATED}\n\nExit status: {EXIT_STATUS}")
}

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
    /// Print completions for a shell
    #[command(hide = true)]
    Completions(CompletionsArguments),
    /// Print a manual page, such as for `man -l -`
    #[command(hide = true)]
    Man(ManArguments),
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
    /// The plaintext bytes of a frame, 1 to 16MiB: a number of bytes, or of KiB or MiB such as 256KiB
    /// [default: 64KiB]
    #[arg(long, value_name = "BYTES", value_parser = frame_len)]
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

#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// The command that the page is about [default: all of kms-envelope]
    #[arg(value_name = "COMMAND")]
    pub(crate) command: Option<String>,
}

/// What is needed to open a message besides its key.
#[derive(Debug, Args)]
pub(crate) struct OpeningArguments {
    #[command(flatten)]
    pub(crate) context: ContextArguments,
    #[command(flatten)]
    pub(crate) policy: PolicyArgument,
    /// What `rewrap` wrote for this message: used instead of the encrypted data keys in the message
    #[arg(long = "keys", value_name = "FILE")]
    pub(crate) keys: Option<PathBuf>,
}

impl OpeningArguments {
    /// Whether there is anything that only opening has a use for.
    pub(crate) fn are_given(&self) -> bool {
        self.keys.is_some() || !self.context.pairs.is_empty() || !self.context.required.is_empty()
    }
}

#[derive(Debug, Args)]
pub(crate) struct KeyArguments {
    /// A local key file, a KMS key, or rsa:PATH for an RSA key in PEM. With several, each of them opens what was sealed
    ///
    /// A KMS key is named by its ARN or an alias's ARN, or by alias/NAME or its id in the AWS region of the environment.
    /// A file whose name looks like one of these is named ./NAME.
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
    namespace: String,
    /// The name of the RSA keys, which messages store
    #[arg(long = "rsa-name", value_name = "TEXT", default_value = "rsa")]
    name: String,
    /// How RSA pads data keys
    #[arg(long = "rsa-padding", value_name = "PADDING", default_value = "oaep-sha256")]
    padding: Padding,
}

impl RsaArguments {
    pub(crate) fn options(&self) -> RsaOptions {
        let padding = match self.padding {
            Padding::OaepSha1 => RsaPadding::OaepSha1,
            Padding::OaepSha256 => RsaPadding::OaepSha256,
            Padding::OaepSha384 => RsaPadding::OaepSha384,
            Padding::OaepSha512 => RsaPadding::OaepSha512,
            Padding::Pkcs1 => RsaPadding::Pkcs1v15,
        };
        RsaOptions { namespace: self.namespace.clone(), name: self.name.clone(), padding }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Padding {
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
    /// Where to write, `-` for standard output; a file appears only when it is complete [default: standard output, but
    /// nothing encrypted goes to a terminal]
    #[arg(id = "output", short = 'o', long = "output", value_name = "OUT")]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct InputArgument {
    /// What to read [default: standard input]
    #[arg(id = "input", value_name = "IN")]
    input: Option<PathBuf>,
}

/// Names that begin so belong to the format (specification, `framework/structures.md`, "Encryption Context"). Opening
/// may demand them.
const RESERVED_PREFIX: &str = "aws-crypto-";

impl ContextArguments {
    /// Returns the encryption context to seal with.
    pub(crate) fn to_seal(&self) -> Result<EncryptionContext, Failure> {
        let context = self.to_open()?;
        match context.iter().find(|(name, _)| name.starts_with(RESERVED_PREFIX)) {
            Some((name, _)) => Err(Failure::usage(format!(
                "the encryption context has {name:?}, but names that begin with {RESERVED_PREFIX:?} are reserved"
            ))),
            None => Ok(context),
        }
    }

    /// Returns the encryption context that a message must have.
    pub(crate) fn to_open(&self) -> Result<EncryptionContext, Failure> {
        let mut context = EncryptionContext::new();
        for (name, value) in self.pairs.iter().chain(&self.required) {
            if context.insert(name, value).is_some() {
                return Err(Failure::usage(format!("the encryption context has {name:?} twice")));
            }
        }
        match context.serialize() {
            Ok(_) => Ok(context),
            Err(error) => Err(Failure::usage(error.to_string())),
        }
    }

    /// Returns the names of the pairs that are not stored.
    pub(crate) fn required_names(&self) -> impl Iterator<Item = &str> {
        self.required.iter().map(|(name, _)| &name[..])
    }
}

/// Names of the standard streams, which may be closed.
const STDIN: [&str; 4] = ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"];
const STDOUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

impl OutputArgument {
    /// Returns the file, if it is not standard output.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.output.as_deref().filter(|path| !STDOUT.map(Path::new).contains(path))
    }

    /// Whether the user said where to write.
    pub(crate) fn is_given(&self) -> bool {
        self.output.is_some()
    }
}

impl InputArgument {
    /// Returns the file, if it is not standard input.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.input.as_deref().filter(|path| !STDIN.map(Path::new).contains(path))
    }
}

/// What other tools call these commands.
const OTHER_NAMES: [(&str, &str); 2] = [("encrypt", "seal"), ("decrypt", "open")];

/// Parses the process's arguments. Ends the process where they are wrong, or ask for help only.
pub(crate) fn parse() -> Arguments {
    Arguments::try_parse().unwrap_or_else(|mut error| {
        if let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidSubcommand)
            && let Some((_, ours)) = OTHER_NAMES.iter().find(|(other, _)| other == given)
        {
            let suggested = ContextValue::Strings(vec![(*ours).to_owned()]);
            error.insert(ContextKind::SuggestedSubcommand, suggested);
        }
        // What was given, such as the name of a file by a stranger, must not drive the terminal.
        for kind in [ContextKind::InvalidArg, ContextKind::InvalidSubcommand, ContextKind::InvalidValue] {
            if let Some(ContextValue::String(given)) = error.get(kind) {
                let escaped = one_line(given);
                error.insert(kind, ContextValue::String(escaped));
            }
        }
        error.exit()
    })
}

/// Says that the arguments are wrong, and ends the process with status 2.
pub(crate) fn exit_with_usage(what: &str) -> ! {
    let mut arguments = Arguments::command();
    // Parsed again, for the usage of the command that was given.
    let given = arguments.try_get_matches_from_mut(env::args_os()).ok();
    let name = given.as_ref().and_then(ArgMatches::subcommand_name);
    match name.and_then(|name| arguments.find_subcommand_mut(name)) {
        Some(command) => command.error(ErrorKind::ValueValidation, what),
        None => arguments.error(ErrorKind::ValueValidation, what),
    }
    .exit()
}

fn suite(text: &str) -> Result<AlgorithmSuite, String> {
    let id = u16::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok();
    id.and_then(AlgorithmSuite::from_id).ok_or_else(|| {
        let suites: Vec<_> = AlgorithmSuite::all().map(|suite| suite.to_string()).collect();
        format!("the suites are {}", suites.join(", "))
    })
}

fn frame_len(text: &str) -> Result<u32, String> {
    let max = Limits::default().frame_len;
    let (number, unit) = match (text.strip_suffix("KiB"), text.strip_suffix("MiB")) {
        (Some(number), _) => (number, 1 << 10),
        (_, Some(number)) => (number, 1 << 20),
        _ => (text, 1),
    };
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number {
        return Err("it must be a number of bytes, or of KiB or MiB such as 64KiB".into());
    }
    let len = number.parse::<u32>().ok().and_then(|number| number.checked_mul(unit));
    len.filter(|len| (1..=max).contains(len)).ok_or_else(|| format!("it must be from 1 to {max} bytes"))
}

/// The name may be empty, as it may in the format.
fn pair(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("it must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Refuses what `--key` would not take for a file.
fn new_key_file(path: OsString) -> Result<PathBuf, &'static str> {
    if path == "-" {
        return Err("a key goes to a file of its own");
    }
    match KeySource::parse(path)? {
        KeySource::File(path) => Ok(path),
        KeySource::KmsArn { .. } | KeySource::KmsName(_) => {
            Err("--key would take it for a KMS key; put ./ in front of it to name a file")
        }
        KeySource::Rsa(_) => Err("--key would take it for an RSA key; put ./ in front of it to name a file"),
    }
}
