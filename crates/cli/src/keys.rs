//! Key providers for the arguments of `--key`.

use std::{
    fmt::Display,
    fs::{self, File, Metadata},
    io::{self, Read},
    path::Path,
    str,
    sync::Arc,
};

#[cfg(feature = "aws-kms")]
use aws_config::{BehaviorVersion, Region, SdkConfig};
#[cfg(feature = "aws-kms")]
use kms_envelope::AwsKms;
use kms_envelope::{
    ConfigError, KeyProvider, RawAes,
    provider::{MultiProvider, RawRsa},
};
use zeroize::Zeroizing;

#[cfg(feature = "aws-kms")]
use crate::{aws_environment, branch_keys};
use crate::{
    console::Console,
    failure::Failure,
    key_source::{BranchKeyName, BranchKeyOptions, KeySource, RsaOptions},
};

/// The maximum length of an RSA key file, the same as for local key files.
const MAX_PEM_LEN: usize = 1 << 20;

/// Creates key providers.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) rsa: RsaOptions,
    pub(crate) branch: BranchKeyOptions,
    /// Whether to create a local key file that does not exist.
    pub(crate) new_key: bool,
    pub(crate) console: Console,
}

impl Keys {
    /// Returns a provider for one key, or for several.
    pub(crate) async fn provider(&self, sources: &[KeySource]) -> Result<Arc<dyn KeyProvider>, Failure> {
        let mut providers = Vec::new();
        for source in sources {
            providers.push(self.one(source).await?);
        }
        let mut providers = providers.into_iter();
        match (providers.next(), providers.len()) {
            (Some(only), 0) => Ok(only),
            (Some(generator), _) => Ok(Arc::new(providers.fold(MultiProvider::new(generator), MultiProvider::with))),
            (None, _) => Err(Failure::usage("--key is missing")),
        }
    }

    async fn one(&self, source: &KeySource) -> Result<Arc<dyn KeyProvider>, Failure> {
        match source {
            KeySource::KmsArn { arn, region } => kms_key(arn, Some(region)).await,
            KeySource::KmsName(name) => {
                let key = kms_key(name, None).await;
                key.map_err(|failure| failure.and(&format!("to name a file, write ./{name}")))
            }
            KeySource::File(path) => Ok(Arc::new(self.local_key(path)?)),
            KeySource::Rsa(path) => Ok(Arc::new(self.rsa_key(path)?)),
            KeySource::Branch(name) => branch_key(name, &self.branch).await,
        }
    }

    fn local_key(&self, path: &Path) -> Result<RawAes, Failure> {
        match RawAes::read_key_file(path) {
            Ok(key) => {
                self.warn_if_exposed(path, true);
                Ok(key)
            }
            Err(ConfigError::KeyFileIo { source, .. }) if self.new_key && source.kind() == io::ErrorKind::NotFound => {
                generate(path, "kms-envelope", None, self.console)
            }
            Err(error) => Err(Failure::of_key_file(path, &error)),
        }
    }

    /// Reads a private or a public key, depending on the PEM label.
    fn rsa_key(&self, path: &Path) -> Result<RawRsa, Failure> {
        let cannot_read =
            |what: &dyn Display| Failure::new(format!("{}: the key cannot be read: {what}", path.display()));
        // Never reallocated, so no copies of the key remain in memory.
        let mut pem = Zeroizing::new(Vec::with_capacity(MAX_PEM_LEN + 1));
        File::open(path)
            .and_then(|file| file.take(MAX_PEM_LEN as u64 + 1).read_to_end(&mut pem))
            .map_err(|error| cannot_read(&error))?;
        if pem.len() > MAX_PEM_LEN {
            return Err(cannot_read(&format_args!("it is longer than {MAX_PEM_LEN} bytes")));
        }
        let pem = str::from_utf8(&pem).map_err(|_| cannot_read(&"it is not UTF-8 text"))?;
        let is_private = !pem.contains("PUBLIC KEY-----");
        let key = RawRsa::new(&self.rsa.namespace, &self.rsa.name, self.rsa.padding)
            .and_then(|key| if is_private { key.with_private_key_pem(pem) } else { key.with_public_key_pem(pem) })
            .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        self.warn_if_exposed(path, is_private);
        Ok(key)
    }

    /// Warns if users other than the owner can read a secret key, or modify any key.
    fn warn_if_exposed(&self, path: &Path, is_secret: bool) {
        let Ok(metadata) = fs::metadata(path) else { return };
        let (name, argument) = (path.display(), shell_word(path));
        match others_can(&metadata) {
            (true, true) if is_secret => {
                self.console.warn(&format!("{name}: other users can read and modify this key: chmod 600 {argument}"));
            }
            (true, false) if is_secret => {
                self.console.warn(&format!("{name}: other users can read this key: chmod 600 {argument}"));
            }
            (_, true) => self.console.warn(&format!("{name}: other users can modify this key: chmod go-w {argument}")),
            (_, false) => {}
        }
    }
}

/// Quotes a path for a shell.
fn shell_word(path: &Path) -> String {
    let path = path.display().to_string();
    let path = if path.starts_with('-') { format!("./{path}") } else { path };
    let is_plain = path.chars().all(|c| c.is_alphanumeric() || "-_./".contains(c));
    if is_plain { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

/// Creates a local key file.
pub(crate) fn generate(path: &Path, namespace: &str, name: Option<&str>, console: Console) -> Result<RawAes, Failure> {
    let name = match name {
        Some(name) => name.to_owned(),
        // Not from the path: two keys created at the same path must have different names.
        None => {
            let id = getrandom::u64()
                .map_err(|error| Failure::new(format!("the random number generator failed: {error}")))?;
            format!("{id:016x}")
        }
    };
    let made = RawAes::generate(namespace, name).and_then(|key| key.write_key_file(path).map(|()| key));
    let key = made.map_err(|error| Failure::of_key_file(path, &error))?;
    console.note(&format!(
        "{}: created the new key {key}; keep this file: messages sealed with it cannot be opened without it",
        path.display()
    ));
    Ok(key)
}

/// Returns a KMS key in this region, or in the region of the environment.
#[cfg(feature = "aws-kms")]
async fn kms_key(id: &str, region: Option<&str>) -> Result<Arc<dyn KeyProvider>, Failure> {
    let config =
        aws_config(region, format_args!("{id}: no AWS region is configured, which is needed to find this KMS key"))
            .await?;
    Ok(Arc::new(AwsKms::resolve(aws_sdk_kms::Client::new(&config), id).await?))
}

#[cfg(feature = "aws-kms")]
async fn branch_key(name: &BranchKeyName, options: &BranchKeyOptions) -> Result<Arc<dyn KeyProvider>, Failure> {
    Ok(Arc::new(branch_keys::provider(name, options).await?))
}

/// Returns the configuration of AWS clients in this region, or in the region of the environment.
#[cfg(feature = "aws-kms")]
pub(crate) async fn aws_config(region: Option<&str>, without_region: impl Display) -> Result<SdkConfig, Failure> {
    aws_environment::check()?;
    let mut config = aws_config::defaults(BehaviorVersion::latest());
    if let Some(region) = region {
        config = config.region(Region::new(region.to_owned()));
    }
    let config = config.load().await;
    if config.endpoint_url().is_some_and(|url| !aws_environment::is_url(url)) {
        return Err(Failure::new(format!("the configured AWS endpoint must be {}", aws_environment::URL)));
    }
    // Region names contain only these characters, but the variable may be empty.
    let is_name = |region: &Region| region.as_ref().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !config.region().is_some_and(|region| !region.as_ref().is_empty() && is_name(region)) {
        return Err(Failure::new(without_region.to_string()).advise("set AWS_REGION, or pass the ARN of the key"));
    }
    Ok(config)
}

#[cfg(not(feature = "aws-kms"))]
async fn branch_key(name: &BranchKeyName, _: &BranchKeyOptions) -> Result<Arc<dyn KeyProvider>, Failure> {
    kms_key(&format!("branch:{}/{}", name.table, name.id), None).await
}

#[cfg(not(feature = "aws-kms"))]
async fn kms_key(id: &str, _: Option<&str>) -> Result<Arc<dyn KeyProvider>, Failure> {
    Err(Failure::new(format!(
        "{id} needs AWS KMS, which this build of kms-envelope does not support; build it with its default features"
    )))
}

/// Returns whether users other than the owner can read the file, and whether they can write to it.
#[cfg(unix)]
fn others_can(metadata: &Metadata) -> (bool, bool) {
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
    let can = |bits| metadata.is_file() && mode & bits != 0;
    (can(0o044), can(0o022))
}

#[cfg(not(unix))]
fn others_can(_: &Metadata) -> (bool, bool) {
    (false, false)
}
