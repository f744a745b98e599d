//! The command-line arguments.

use std::{
    env,
    ffi::OsString,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use clap::{
    ArgMatches, Args, CommandFactory, Parser, Subcommand, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser},
    error::{ContextKind, ContextValue, ErrorKind},
};
use clap_complete::Shell;
use kms_envelope::{AlgorithmSuite, Backend, CommitmentPolicy, EncryptionContext, Limits, provider::RsaPadding};

#[cfg(feature = "stores")]
use crate::{
    commands::inventory::Format,
    stores::{StoreArguments, scope::ScopeArguments},
};
use crate::{
    console::one_line,
    failure::Failure,
    key_source::{BranchKeyName, BranchKeyOptions, KeySource, RsaOptions},
    place::{Place, masked},
};

/// Encrypt files and pipes with AWS KMS or a local key, in the message format of the AWS Encryption SDK
#[derive(Debug, Parser)]
#[command(name = "kms-envelope", version = version(), arg_required_else_help = true, after_help = after_help())]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Print only warnings and errors, and show no progress
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// One example on each line.
pub(crate) const EXAMPLES: &str = "\
kms-envelope keygen backup.key
kms-envelope seal --key backup.key -c table=orders -o orders.msg orders.csv
pg_dump orders | kms-envelope seal --key arn:aws:kms:eu-west-1:111122223333:alias/backup > orders.msg
kms-envelope open --key backup.key -c table=orders -o orders.csv orders.msg
kms-envelope rewrap --key backup.key --to new.key -o orders.keys orders.msg
kms-envelope open --key new.key --keys orders.keys -o orders.csv orders.msg
kms-envelope inspect orders.msg";

pub(crate) const GENERATED: &str =
    "`kms-envelope completions SHELL` prints shell completions, and `kms-envelope man [COMMAND]` a manual page.";

pub(crate) const EXIT_STATUS: &str =
    "0 on success, 1 on failure, 2 if the arguments are invalid, 141 if the reader of the output closed the pipe.";

/// Names the cryptographic module.
fn version() -> &'static str {
    static VERSION: LazyLock<String> =
        LazyLock::new(|| format!("{} ({})", env!("CARGO_PKG_VERSION"), Backend::default()));
    &VERSION
}

fn after_help() -> String {
    let examples = EXAMPLES.replace('\n', "\n  ");
    format!("Examples:\n  {examples}\n\n{GENERATED}\n\nExit status: {EXIT_STATUS}")
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a local key file that only you can read; an existing file is never overwritten
    Keygen(KeygenArguments),
    /// Encrypt a file or standard input
    Seal(SealArguments),
    /// Decrypt a message from `seal` or any AWS Encryption SDK
    Open(OpenArguments),
    /// Encrypt a message's data key under another key, without changing the message
    ///
    /// Reads the header of the message only. Writes the new encrypted data keys to a separate file of detached keys,
    /// which `open --keys` uses instead of the encrypted data keys in the message. The old key can still open the
    /// message.
    #[cfg_attr(feature = "stores", doc = "")]
    #[cfg_attr(
        feature = "stores",
        doc = "If IN is the URL of a bucket or a folder, and there is no OUT, rewraps all objects below it, and stores the"
    )]
    #[cfg_attr(
        feature = "stores",
        doc = "detached keys beside them. Each of them opens its object with the new key before it is stored."
    )]
    #[command(mut_arg("sources", |sources| sources.visible_alias("from")))]
    Rewrap(RewrapArguments),
    /// Show a message's header and lengths; verifies nothing without --key
    Inspect(InspectArguments),
    /// List the objects of a store, with the sizes of their plaintext
    ///
    /// The sizes are computed from those of the sealed objects, and are not authenticated. `?` stands for the size of an
    /// object that no store with these lengths of headers and frames wrote. Detached keys are not listed.
    Ls(LsArguments),
    /// Show which keys protect the objects of a store, from their headers alone
    ///
    /// Reads the first bytes of each object, without any key. None of it is authenticated.
    #[cfg(feature = "stores")]
    Inventory(InventoryArguments),
    /// Create, rotate and show branch keys, which are stored in a DynamoDB table and encrypted by AWS KMS
    ///
    /// Messages sealed with `--key branch:TABLE/ID` open with the hierarchical keyring of AWS's SDKs, which can use the
    /// same tables.
    #[command(subcommand)]
    BranchKey(BranchKeyCommand),
    /// Print shell completions
    #[command(hide = true)]
    Completions(CompletionsArguments),
    /// Print a manual page, for example to view with `man -l -`
    #[command(hide = true)]
    Man(ManArguments),
}

#[derive(Debug, Args)]
pub(crate) struct KeygenArguments {
    /// The key file to create
    #[arg(value_name = "KEYFILE", value_parser = OsStringValueParser::new().try_map(new_key_file))]
    pub(crate) path: PathBuf,
    /// The key's namespace, stored in messages as the provider id
    #[arg(long, value_name = "TEXT", default_value = "kms-envelope")]
    pub(crate) namespace: String,
    /// The key's name, stored in messages [default: 16 random hexadecimal digits]
    #[arg(long, value_name = "TEXT")]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SealArguments {
    #[command(flatten)]
    pub(crate) key: KeyArguments,
    /// Create the local key file if it does not exist
    #[arg(long)]
    pub(crate) new_key: bool,
    #[command(flatten)]
    pub(crate) context: ContextArguments,
    /// The frame length in plaintext bytes, from 1 to 16MiB, optionally with the suffix KiB or MiB
    /// [default: 64KiB]
    #[arg(long, value_name = "BYTES", value_parser = frame_len)]
    pub(crate) frame_len: Option<u32>,
    /// The length of the message's header in bytes, up to 65535, so that the plaintext length of an unsigned message
    /// follows from the message's length. The header is padded with one more encrypted data key, of 28 bytes or more
    /// [default: what the header needs; for an object in a store, 1024]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(98..))]
    pub(crate) header_len: Option<u16>,
    /// The id of the algorithm suite in hexadecimal [default: 0478, or 0178 if the policy forbids commitment]
    #[arg(long, value_name = "ID", value_parser = suite)]
    pub(crate) suite: Option<AlgorithmSuite>,
    /// Sign the message, so that those who can only open messages cannot forge one: uses suite 0578, or 0378 if the
    /// policy forbids commitment
    #[arg(long, conflicts_with = "suite")]
    pub(crate) sign: bool,
    #[command(flatten)]
    pub(crate) policy: PolicyArgument,
    #[cfg(feature = "stores")]
    #[command(flatten)]
    pub(crate) store: StoreArguments,
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
    #[cfg(feature = "stores")]
    #[command(flatten)]
    pub(crate) detached: DetachedArgument,
    #[command(flatten)]
    pub(crate) output: OutputArgument,
    #[command(flatten)]
    pub(crate) input: InputArgument,
}

#[derive(Debug, Args)]
pub(crate) struct RewrapArguments {
    #[command(flatten)]
    pub(crate) key: KeyArguments,
    /// The new key, like --key. If repeated, any one of the keys opens the message
    #[arg(long = "to", value_name = "KEY", required = true,
        value_parser = OsStringValueParser::new().try_map(KeySource::parse))]
    pub(crate) to: Vec<KeySource>,
    #[command(flatten)]
    pub(crate) terms: OpeningArguments,
    #[cfg(feature = "stores")]
    #[command(flatten, next_help_heading = "Options for the objects below a URL")]
    pub(crate) many: RewrapObjectsArguments,
    #[command(flatten)]
    pub(crate) output: OutputArgument,
    #[command(flatten)]
    pub(crate) input: InputArgument,
}

/// The arguments for rewrapping the objects below a URL.
#[cfg(feature = "stores")]
#[derive(Debug, Args)]
pub(crate) struct RewrapObjectsArguments {
    /// Only count the objects, and the requests to AWS KMS
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Write the objects anew, with other data keys, so that only the new key opens them: for a data key or an old key
    /// that may have been compromised. Tags, storage classes and the settings of server-side encryption are not kept
    #[arg(long)]
    pub(crate) reseal: bool,
    /// Also reseal objects that have keys for others, who cannot open them any more
    #[arg(long, requires = "reseal")]
    pub(crate) drop_other_keys: bool,
    /// The maximum number of calls to the keys in a second [default: no limit]
    #[arg(long, value_name = "CALLS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) kms_rate: Option<u32>,
    #[command(flatten)]
    pub(crate) scope: ScopeArguments,
}

#[cfg(feature = "stores")]
impl RewrapObjectsArguments {
    /// Returns whether any argument is present that applies only to the objects below a URL.
    pub(crate) fn are_given(&self) -> bool {
        self.dry_run || self.reseal || self.drop_other_keys || self.kms_rate.is_some() || self.scope.are_given()
    }
}

#[cfg(feature = "stores")]
#[derive(Debug, Args)]
pub(crate) struct InventoryArguments {
    /// Only messages of this key: the ARN of a KMS key, or a name as the inventory shows it. If repeated, of any of the
    /// keys
    #[arg(long = "key", value_name = "NAME")]
    pub(crate) keys: Vec<String>,
    /// The output: a summary, or a line for each object
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) scope: ScopeArguments,
    /// The URL of a bucket or a folder. Everything below it is read
    #[arg(value_name = "URL", value_parser = OsStringValueParser::new().try_map(Place::parse))]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Check whether this key opens the message: calls the key service and verifies the header, but does not read the
    /// body
    #[arg(long = "key", value_name = "KEY",
        value_parser = OsStringValueParser::new().try_map(KeySource::parse))]
    pub(crate) sources: Vec<KeySource>,
    #[command(flatten)]
    pub(crate) branch: BranchKeyArguments,
    #[command(flatten)]
    pub(crate) rsa: RsaArguments,
    #[command(flatten)]
    pub(crate) terms: OpeningArguments,
    #[command(flatten)]
    pub(crate) input: InputArgument,
}

#[derive(Debug, Args)]
pub(crate) struct LsArguments {
    /// Also read the header of each object, with one small request, and show its suite and keys, and its size whatever
    /// the lengths of its header and frames are. The objects are in no particular order
    #[arg(short, long)]
    pub(crate) long: bool,
    /// Print one line of JSON for each object
    #[arg(long)]
    pub(crate) json: bool,
    /// The length of the headers of the objects. Not needed with --long, like the length of the frames
    #[arg(long, value_name = "BYTES", default_value = "1024")]
    pub(crate) header_len: u16,
    /// The plaintext length of the frames of the objects, optionally with the suffix KiB or MiB
    #[arg(long, value_name = "BYTES", default_value = "64KiB", value_parser = nonzero_frame_len)]
    pub(crate) frame_len: NonZeroU32,
    #[command(flatten)]
    pub(crate) detached: DetachedArgument,
    /// The URL of a bucket, a folder or an object. Everything below it is listed
    #[arg(value_name = "URL", value_parser = OsStringValueParser::new().try_map(Place::parse))]
    pub(crate) place: Place,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BranchKeyCommand {
    /// Create the DynamoDB table for branch keys, unless it exists, and wait until it can be used
    CreateTable(CreateTableArguments),
    /// Create a branch key, and print its id
    ///
    /// AWS KMS generates and encrypts the branch key. This command never sees it in plaintext.
    Create(CreateBranchKeyArguments),
    /// Create a new version of a branch key, which seals messages from then on, and print the version
    ///
    /// Messages sealed with older versions still open.
    Version(VersionArguments),
    /// Show what is stored about a branch key, without calling AWS KMS; verifies nothing
    Show(ShowArguments),
}

#[derive(Debug, Args)]
pub(crate) struct CreateTableArguments {
    /// The name of the table
    #[arg(value_name = "TABLE")]
    pub(crate) table: String,
}

#[derive(Debug, Args)]
pub(crate) struct CreateBranchKeyArguments {
    /// The table and the id of the branch key [default id: a random UUID]
    #[arg(value_name = "TABLE[/ID]", value_parser = table_and_id)]
    pub(crate) name: (String, Option<String>),
    #[command(flatten)]
    pub(crate) key: AdministrationArguments,
    /// A pair of the branch key's own encryption context, which AWS KMS receives in each request for it. Required with
    /// an ID
    #[arg(short = 'c', long = "context", value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) context: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct VersionArguments {
    /// The table and the id of the branch key
    #[arg(value_name = "TABLE/ID", value_parser = BranchKeyName::parse)]
    pub(crate) name: BranchKeyName,
    #[command(flatten)]
    pub(crate) key: AdministrationArguments,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The table and the id of the branch key
    #[arg(value_name = "TABLE/ID", value_parser = BranchKeyName::parse)]
    pub(crate) name: BranchKeyName,
}

/// The options for the creation of branch keys.
#[derive(Debug, Args)]
pub(crate) struct AdministrationArguments {
    /// The ARN of the KMS key that encrypts the branch key
    #[arg(long, value_name = "ARN")]
    kms_key: String,
    /// The logical key store name, a part of the encryption context of each request to AWS KMS [default: the table's
    /// name]
    #[arg(long, value_name = "NAME")]
    key_store: Option<String>,
}

#[cfg(feature = "aws-kms")]
impl AdministrationArguments {
    pub(crate) fn options(&self) -> BranchKeyOptions {
        BranchKeyOptions { kms_key: Some(self.kms_key.clone()), key_store: self.key_store.clone() }
    }
}

/// The options for the use of branch keys.
#[derive(Debug, Args)]
pub(crate) struct BranchKeyArguments {
    /// The ARN of the KMS key that encrypts branch keys, or of its replica [default: the key that the table names]
    #[arg(long, value_name = "ARN")]
    kms_key: Option<String>,
    /// The logical key store name of branch keys [default: the table's name]
    #[arg(long, value_name = "NAME")]
    key_store: Option<String>,
}

impl BranchKeyArguments {
    pub(crate) fn options(&self) -> BranchKeyOptions {
        BranchKeyOptions { kms_key: self.kms_key.clone(), key_store: self.key_store.clone() }
    }
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// The command to describe, such as `seal` or `branch-key create` [default: kms-envelope itself]
    #[arg(value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// The arguments for opening a message, besides its key.
#[derive(Debug, Args)]
pub(crate) struct OpeningArguments {
    #[command(flatten)]
    pub(crate) context: ContextArguments,
    #[command(flatten)]
    pub(crate) policy: PolicyArgument,
    /// The file or the URL with the detached keys from `rewrap` for this message, to use instead of the encrypted data
    /// keys in it
    #[arg(long = "keys", value_name = "FILE", value_parser = OsStringValueParser::new().try_map(Place::parse))]
    pub(crate) keys: Option<Place>,
    #[cfg(feature = "stores")]
    #[command(flatten)]
    pub(crate) store: StoreArguments,
}

#[derive(Debug, Args)]
pub(crate) struct DetachedArgument {
    /// The suffix of the names of detached keys in a store: those of the object `a` are in `a.keys`. They are used if no
    /// key in the message itself opens it. An empty suffix stands for none
    #[arg(long = "detached-keys", value_name = "SUFFIX", default_value = ".keys")]
    pub(crate) suffix: String,
}

impl OpeningArguments {
    /// Returns whether any argument is present that applies only to opening.
    pub(crate) fn are_given(&self) -> bool {
        #[cfg(feature = "stores")]
        if self.store.are_given() {
            return true;
        }
        self.keys.is_some() || !self.context.pairs.is_empty() || !self.context.required.is_empty()
    }
}

#[derive(Debug, Args)]
pub(crate) struct KeyArguments {
    /// A local key file, a KMS key, branch:TABLE/ID for a branch key in DynamoDB, or rsa:PATH for an RSA key in PEM. If
    /// repeated when sealing, any one of the keys opens the message
    ///
    /// Name a KMS key by its ARN, by the ARN of an alias, or by alias/NAME or a key id in the AWS region of the
    /// environment. For a file whose name looks like one of these, write ./NAME.
    #[arg(long = "key", value_name = "KEY", env = "KMS_ENVELOPE_KEY", hide_env_values = true, required = true,
        value_parser = OsStringValueParser::new().try_map(KeySource::parse))]
    pub(crate) sources: Vec<KeySource>,
    #[command(flatten)]
    pub(crate) branch: BranchKeyArguments,
    #[command(flatten)]
    pub(crate) rsa: RsaArguments,
}

#[derive(Debug, Args)]
pub(crate) struct RsaArguments {
    /// The namespace of the RSA keys, stored in messages as the provider id
    #[arg(long = "rsa-namespace", value_name = "TEXT", default_value = "kms-envelope")]
    namespace: String,
    /// The name of the RSA keys, stored in messages
    #[arg(long = "rsa-name", value_name = "TEXT", default_value = "rsa")]
    name: String,
    /// The padding of data keys that are encrypted with RSA
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

#[derive(Clone, Debug, Args)]
pub(crate) struct PolicyArgument {
    /// Whether messages must have key commitment. To open older messages that have none, use
    /// require-encrypt-allow-decrypt
    #[arg(long = "commitment-policy", value_name = "POLICY", default_value = "require-encrypt-require-decrypt")]
    pub(crate) policy: Policy,
    /// Fail unless this command contains AWS-LC's FIPS module, and the keys and the suite can be used with it
    #[arg(long)]
    pub(crate) require_fips: bool,
}

/// AWS's names.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[expect(clippy::enum_variant_names, reason = "AWS's names")]
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
    /// A pair of the encryption context. Sealing stores it unencrypted in the message; opening requires it to match
    #[arg(short = 'c', long = "context", value_name = "NAME=VALUE", value_parser = pair)]
    pairs: Vec<(String, String)>,
    /// A pair that is authenticated but not stored in the message; pass it again to open the message
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    required: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct OutputArgument {
    /// The file or the URL to write, or `-` for standard output. A file or an object appears only once it is complete
    /// [default: standard output, unless it is a terminal and the output is binary]
    #[arg(id = "output", short = 'o', long = "output", value_name = "OUT",
        value_parser = OsStringValueParser::new().try_map(Place::parse))]
    output: Option<Place>,
}

#[derive(Debug, Args)]
pub(crate) struct InputArgument {
    /// The file or the URL to read, or `-` for standard input [default: standard input]
    #[arg(id = "input", value_name = "IN", value_parser = OsStringValueParser::new().try_map(Place::parse))]
    input: Option<Place>,
}

/// Names with this prefix are reserved by the format (specification, `framework/structures.md`, "Encryption Context").
/// They are allowed for opening.
const RESERVED_PREFIX: &str = "aws-crypto-";

impl ContextArguments {
    /// Returns the encryption context to seal with.
    pub(crate) fn to_seal(&self) -> Result<EncryptionContext, Failure> {
        let context = self.to_open()?;
        match context.iter().find(|(name, _)| name.starts_with(RESERVED_PREFIX)) {
            Some((name, _)) => Err(Failure::usage(format!(
                "the encryption context has the name {name:?}; names that begin with {RESERVED_PREFIX:?} are reserved"
            ))),
            None => Ok(context),
        }
    }

    /// Returns the encryption context that a message is required to have.
    pub(crate) fn to_open(&self) -> Result<EncryptionContext, Failure> {
        context_of(self.pairs.iter().chain(&self.required))
    }

    /// Returns the names of the pairs that are not stored.
    pub(crate) fn required_names(&self) -> impl Iterator<Item = &str> {
        self.required.iter().map(|(name, _)| &name[..])
    }
}

/// Returns the encryption context with these pairs.
pub(crate) fn context_of<'a>(pairs: impl Iterator<Item = &'a (String, String)>) -> Result<EncryptionContext, Failure> {
    let mut context = EncryptionContext::new();
    for (name, value) in pairs {
        if context.insert(name, value).is_some() {
            return Err(Failure::usage(format!("the encryption context has {name:?} twice")));
        }
    }
    match context.serialize() {
        Ok(_) => Ok(context),
        Err(error) => Err(Failure::usage(error.to_string())),
    }
}

// Names of the standard streams, which may be closed.
const STDIN: [&str; 4] = ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"];
const STDOUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

impl OutputArgument {
    /// Returns the file or the object, if it is not standard output.
    pub(crate) fn place(&self) -> Option<&Place> {
        self.output.as_ref().filter(|place| !is_one_of(place, &STDOUT))
    }

    /// Returns whether the user specified an output.
    pub(crate) fn is_given(&self) -> bool {
        self.output.is_some()
    }
}

impl InputArgument {
    /// Returns the file or the object, if it is not standard input.
    pub(crate) fn place(&self) -> Option<&Place> {
        self.input.as_ref().filter(|place| !is_one_of(place, &STDIN))
    }
}

fn is_one_of(place: &Place, names: &[&str]) -> bool {
    matches!(place, Place::File(path) if names.iter().any(|name| path == Path::new(name)))
}

/// Other tools' names for these commands.
const OTHER_NAMES: [(&str, &str); 2] = [("encrypt", "seal"), ("decrypt", "open")];

/// Parses the arguments of the process. Exits if they are invalid, or after printing help.
pub(crate) fn parse() -> Arguments {
    Arguments::try_parse().unwrap_or_else(|mut error| {
        if let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidSubcommand)
            && let Some((_, ours)) = OTHER_NAMES.iter().find(|(other, _)| other == given)
        {
            let suggested = ContextValue::Strings(vec![(*ours).to_owned()]);
            error.insert(ContextKind::SuggestedSubcommand, suggested);
        }
        // An argument, such as a file name chosen by an attacker, must not control the terminal.
        for kind in [ContextKind::InvalidArg, ContextKind::InvalidSubcommand, ContextKind::InvalidValue] {
            if let Some(ContextValue::String(given)) = error.get(kind) {
                let escaped = one_line(&masked(given));
                error.insert(kind, ContextValue::String(escaped));
            }
        }
        error.exit()
    })
}

/// Reports invalid arguments, and exits with status 2.
pub(crate) fn exit_with_usage(what: &str) -> ! {
    let mut arguments = Arguments::command();
    // Parsed again, to show the usage of the given command.
    let given = arguments.try_get_matches_from_mut(env::args_os()).ok();
    let mut given = given.as_ref().and_then(ArgMatches::subcommand);
    while let Some((name, more)) = given {
        let Some(found) = arguments.find_subcommand(name).cloned() else { break };
        arguments = found;
        given = more.subcommand();
    }
    arguments.error(ErrorKind::ValueValidation, what).exit()
}

fn suite(text: &str) -> Result<AlgorithmSuite, String> {
    let id = u16::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok();
    id.and_then(AlgorithmSuite::from_id).ok_or_else(|| {
        let suites: Vec<_> = AlgorithmSuite::all().map(|suite| suite.to_string()).collect();
        format!("the algorithm suites are {}", suites.join(", "))
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
        return Err("expected a number of bytes, optionally with the suffix KiB or MiB, such as 64KiB".into());
    }
    let len = number.parse::<u32>().ok().and_then(|number| number.checked_mul(unit));
    len.filter(|len| (1..=max).contains(len)).ok_or_else(|| format!("it must be from 1 to {max} bytes"))
}

fn nonzero_frame_len(text: &str) -> Result<NonZeroU32, String> {
    NonZeroU32::new(frame_len(text)?).ok_or_else(|| "it must not be 0".into())
}

fn table_and_id(text: &str) -> Result<(String, Option<String>), &'static str> {
    let is_table = match text.strip_prefix("arn:") {
        Some(rest) => rest.matches('/').count() == 1,
        None => !text.contains('/'),
    };
    if is_table && !text.is_empty() {
        return Ok((text.to_owned(), None));
    }
    BranchKeyName::parse(text).map(|name| (name.table, Some(name.id)))
}

/// The name may be empty: the format allows it.
fn pair(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Rejects a path that `--key` would not read as a local key file.
fn new_key_file(path: OsString) -> Result<PathBuf, &'static str> {
    if path == "-" {
        return Err("a key cannot be written to standard output");
    }
    match KeySource::parse(path)? {
        KeySource::File(path) => Ok(path),
        KeySource::KmsArn { .. } | KeySource::KmsName(_) => {
            Err("--key would read it as a KMS key; to name a file, put ./ in front")
        }
        KeySource::Branch(_) => Err("--key would read it as a branch key; to name a file, put ./ in front"),
        KeySource::Rsa(_) => Err("--key would read it as an RSA key; to name a file, put ./ in front"),
    }
}
