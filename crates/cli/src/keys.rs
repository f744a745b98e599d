//! What `--key` names: a local key file, a key of AWS KMS, or an RSA key.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

#[cfg(feature = "aws-kms")]
use aws_config::{BehaviorVersion, Region};
#[cfg(feature = "aws-kms")]
use kms_envelope::AwsKms;
use kms_envelope::{
    ConfigError, KeyProvider, Limits, RawAes,
    message::DetachedKeys,
    provider::{MultiProvider, RawRsa, RsaPadding},
};
use zeroize::Zeroizing;

use crate::{
    args::{KeyArguments, KeygenArguments, Padding, RsaArguments, usage},
    failure::{Failure, note},
};

#[derive(Clone, Debug)]
pub(crate) enum KeySource {
    /// A local key file.
    File(PathBuf),
    /// A KMS key or alias.
    #[cfg_attr(not(feature = "aws-kms"), expect(dead_code, reason = "the region is for the client"))]
    Kms { arn: String, region: String },
    /// A file with an RSA key in PEM.
    Rsa(PathBuf),
}

impl KeyArguments {
    /// The key, or all of them as one, each made now if it may be and is not there.
    pub(crate) async fn provider(&self, new_key: bool) -> Result<Arc<dyn KeyProvider>, Failure> {
        provider(&self.sources, &self.rsa, new_key).await
    }
}

/// The key, or all of them as one, each made now if it may be and is not there.
pub(crate) async fn provider(
    sources: &[KeySource],
    rsa: &RsaArguments,
    new_key: bool,
) -> Result<Arc<dyn KeyProvider>, Failure> {
    let mut providers = Vec::new();
    for source in sources {
        providers.push(source.provider(new_key, rsa).await?);
    }
    let mut providers = providers.into_iter();
    match (providers.next(), providers.len()) {
        (Some(only), 0) => Ok(only),
        (Some(generator), _) => Ok(Arc::new(providers.fold(MultiProvider::new(generator), MultiProvider::with))),
        (None, _) => usage("--key is missing".into()),
    }
}

/// What `rewrap` wrote.
pub(crate) fn read_detached(path: &Path) -> Result<DetachedKeys, Failure> {
    let limits = Limits::default();
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limits.header_len as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| Failure::reading(path.display(), &error))?;
    DetachedKeys::parse(&bytes, &limits).map_err(|error| Failure::from(error).of(path.display()))
}

impl KeySource {
    /// The file that holds the key, if one does.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) | Self::Rsa(path) => Some(path),
            Self::Kms { .. } => None,
        }
    }

    /// Whatever begins with `arn:` is KMS's, with `rsa:` the path of an RSA key, and everything else a path.
    pub(crate) fn parse(text: OsString) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("it is empty");
        }
        if let Some(path) = text.to_str().and_then(|text| text.strip_prefix("rsa:")) {
            return if path.is_empty() { Err("the path is missing") } else { Ok(Self::Rsa(path.into())) };
        }
        let Some(arn) = text.to_str().filter(|text| text.starts_with("arn:")) else {
            return Ok(Self::File(text.into()));
        };
        let parts: Vec<_> = arn.split(':').collect();
        match parts[..] {
            [_, _, "kms", region, _, resource] if !region.is_empty() && !resource.is_empty() => {
                Ok(Self::Kms { arn: arn.to_owned(), region: region.to_owned() })
            }
            _ => Err("a KMS key is arn:aws:kms:REGION:ACCOUNT:key/ID, an alias arn:aws:kms:REGION:ACCOUNT:alias/NAME"),
        }
    }

    /// The key, made now if it may be and is not there.
    async fn provider(&self, new_key: bool, rsa: &RsaArguments) -> Result<Arc<dyn KeyProvider>, Failure> {
        match self {
            Self::Kms { .. } if new_key => usage("--new-key makes local key files, but KEY is a KMS key".into()),
            #[cfg(not(feature = "aws-kms"))]
            Self::Kms { arn, .. } => Err(Failure::new(format!(
                "{arn} is a key of AWS KMS, and this build of kms-envelope has none: build it with its default features"
            ))),
            #[cfg(feature = "aws-kms")]
            Self::Kms { arn, region } => {
                // No other region's KMS could serve it, whatever the environment says.
                let config = aws_config::defaults(BehaviorVersion::latest()).region(Region::new(region.clone()));
                let client = aws_sdk_kms::Client::new(&config.load().await);
                Ok(Arc::new(AwsKms::resolve(client, arn).await?))
            }
            Self::File(path) => Ok(Arc::new(local_key(path, new_key)?)),
            Self::Rsa(path) => Ok(Arc::new(rsa_key(path, rsa)?)),
        }
    }
}

/// `kms-envelope keygen`.
pub(crate) fn keygen(arguments: &KeygenArguments) -> Result<(), Failure> {
    new_local_key(&arguments.path, &arguments.namespace, arguments.name.as_deref()).map(drop)
}

fn local_key(path: &Path, new_key: bool) -> Result<RawAes, Failure> {
    match RawAes::read_key_file(path) {
        Ok(key) => {
            warn_if_exposed(path);
            Ok(key)
        }
        Err(ConfigError::KeyFileIo { source, .. }) if new_key && source.kind() == io::ErrorKind::NotFound => {
            new_local_key(path, "kms-envelope", None)
        }
        Err(error) => Err(Failure::of_key_file(path, &error)),
    }
}

fn new_local_key(path: &Path, namespace: &str, name: Option<&str>) -> Result<RawAes, Failure> {
    let name = match name {
        Some(name) => name.to_owned(),
        // Not from the path: keys that were made under the same one must not pass for each other.
        None => {
            let id = getrandom::u64().map_err(|error| Failure::new(format!("no randomness: {error}")))?;
            format!("{id:016x}")
        }
    };
    let made = RawAes::generate(namespace, name).and_then(|key| key.write_key_file(path).map(|()| key));
    let key = made.map_err(|error| Failure::of_key_file(path, &error))?;
    note(&format!("{}: new key {key}; nothing that it seals opens without this file", path.display()));
    Ok(key)
}

/// Private or public, as the file's label says.
fn rsa_key(path: &Path, arguments: &RsaArguments) -> Result<RawRsa, Failure> {
    let pem = fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|error| Failure::new(format!("{}: the key cannot be read: {error}", path.display())))?;
    let padding = match arguments.padding {
        Padding::OaepSha1 => RsaPadding::OaepSha1,
        Padding::OaepSha256 => RsaPadding::OaepSha256,
        Padding::OaepSha384 => RsaPadding::OaepSha384,
        Padding::OaepSha512 => RsaPadding::OaepSha512,
        Padding::Pkcs1 => RsaPadding::Pkcs1v15,
    };
    let key = RawRsa::new(&arguments.namespace, &arguments.name, padding).and_then(|key| {
        if pem.contains("PUBLIC KEY-----") { key.with_public_key_pem(&pem) } else { key.with_private_key_pem(&pem) }
    });
    key.map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}

fn warn_if_exposed(path: &Path) {
    #[cfg(unix)]
    if let Ok(metadata) = fs::metadata(path)
        && std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o044 != 0
        && metadata.is_file()
    {
        note(&format!("warning: {0}: others can read this key: chmod 600 {0}", path.display()));
    }
    #[cfg(not(unix))]
    let _ = path;
}
