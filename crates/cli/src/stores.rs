//! Objects in stores, named by URLs.

mod download;
mod errors;
pub(crate) mod log;
pub(crate) mod scope;
mod upload;

use std::{
    env, io,
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use futures_util::TryStreamExt;
use kms_envelope::{EncryptionContext, EnvelopeBuilder, Limits};
use kms_envelope_object_store::{Binding, StoreSettings, v0_14::EncryptedStore};
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreScheme, local::LocalFileSystem, path::Path};
use url::Url;

pub(crate) use self::{download::Download, upload::Upload};
use crate::failure::Failure;
pub(crate) use crate::runtime::threaded_runtime as runtime;

/// The store that a URL names, and the path in it.
#[derive(Clone, Debug)]
pub(crate) struct Location {
    /// The store of the sealed objects, with the credentials of the environment.
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The path of an object or a folder. Empty for the whole store.
    pub(crate) path: Path,
    pub(crate) url: Url,
}

impl Location {
    pub(crate) fn parse(url: &Url) -> Result<Self, Failure> {
        let is_s3 = matches!(ObjectStoreScheme::parse(url), Ok((ObjectStoreScheme::AmazonS3, _)));
        check_endpoints()?;
        if is_s3 && !may_have_aws_credentials() {
            return Err(errors::no_credentials().of(url));
        }
        let (mut store, path) =
            object_store::parse_url_opts(url, variables()).map_err(|error| Failure::from(error).of(url))?;
        if url.scheme() == "file" {
            // A file that replaces another one must not be lost with it.
            store = Box::new(LocalFileSystem::new().with_fsync(true));
        }
        Ok(Self { store: store.into(), path, url: url.clone() })
    }

    /// Like [`parse`](Self::parse), for the URL of an object.
    pub(crate) fn parse_object(url: &Url) -> Result<Self, Failure> {
        let this = Self::parse(url)?;
        if this.path.as_ref().is_empty() || url.path().ends_with('/') {
            return Err(Failure::new("this is a bucket or a folder, not an object").of(url));
        }
        Ok(this)
    }

    /// Reads detached keys beside the object, if there are any. Returns them with their name.
    pub(crate) fn read_beside(&self, suffix: &str) -> Result<Option<(Vec<u8>, String)>, Failure> {
        if suffix.is_empty() {
            return Ok(None);
        }
        let name = format!("{}{suffix}", self.url);
        let path = Path::parse(format!("{}{suffix}", self.path))
            .map_err(|error| Failure::usage(format!("--detached-keys {suffix:?}: {error}")))?;
        let range = GetRange::Bounded(0..Limits::default().header_len as u64 + 1);
        let options = GetOptions { range: Some(range), ..GetOptions::default() };
        let request = async {
            read_all(self.store.get_opts(&path, options).await?, Limits::default().header_len as u64 + 1).await
        };
        match runtime()?.block_on(request) {
            Ok(keys) => Ok(Some((keys.into(), name))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(Failure::from(error).of(name)),
        }
    }

    /// Returns the encrypted store around the store.
    pub(crate) fn encrypted(&self, settings: StoreSettings) -> Result<EncryptedStore<Arc<dyn ObjectStore>>, Failure> {
        EncryptedStore::new(self.store.clone(), settings).map_err(|error| Failure::new(error.to_string()))
    }
}

/// Returns whether a request may succeed later.
pub(crate) fn is_retryable(error: &object_store::Error) -> bool {
    match error {
        object_store::Error::Generic { source, .. } => {
            source.downcast_ref().is_some_and(kms_envelope_object_store::Error::is_retryable)
        }
        _ => false,
    }
}

/// Reads an answer that should have at most `len` bytes, or as many as it announces. A store may send more.
pub(crate) async fn read_all(answer: object_store::GetResult, len: u64) -> object_store::Result<bytes::Bytes> {
    let mut bytes = Vec::new();
    let mut body = answer.into_stream();
    while let Some(piece) = body.try_next().await? {
        bytes.extend_from_slice(&piece);
        if bytes.len() as u64 > len {
            let source = "the store returned more bytes than it was asked for".into();
            return Err(object_store::Error::Generic { store: "store", source });
        }
    }
    Ok(bytes.into())
}

/// Waits for a request. A failure is the source of the error.
fn block_on<T>(request: impl Future<Output = object_store::Result<T>>) -> io::Result<T> {
    let runtime = runtime().map_err(io::Error::other)?;
    runtime.block_on(request).map_err(|error| io::Error::other(Failure::from(error)))
}

/// The arguments for what objects are bound to.
#[derive(Debug, Args)]
pub(crate) struct StoreArguments {
    /// The part of its path that an object in a store is bound to: `path`, `prefix:N` for the first N segments, or `none`.
    /// Sealing stores it in the encryption context, and opening requires it [default: path]
    #[arg(long, value_name = "BINDING", value_parser = binding)]
    binding: Option<Binding>,
    /// The text that precedes the path in what an object is bound to [default: the URL before the path, such as
    /// s3://bucket]
    #[arg(long, value_name = "TEXT")]
    base: Option<String>,
}

impl StoreArguments {
    /// Returns whether any argument is present, which applies only to URLs.
    pub(crate) fn are_given(&self) -> bool {
        self.binding.is_some() || self.base.is_some()
    }

    /// Returns the settings for the store of this location. `context` has the pairs that all objects have.
    pub(crate) fn settings(
        &self,
        location: &Location,
        envelope: EnvelopeBuilder,
        context: EncryptionContext,
    ) -> StoreSettings {
        let base = self.base.clone();
        let base = base.unwrap_or_else(|| EncryptedStore::base_of(&location.url, &location.path));
        StoreSettings::new(envelope).base(base).binding(self.binding.unwrap_or_default()).context(context)
    }
}

fn binding(text: &str) -> Result<Binding, &'static str> {
    match (text, text.strip_prefix("prefix:").map(str::parse)) {
        ("path", _) => Ok(Binding::Path),
        ("none", _) => Ok(Binding::None),
        (_, Some(Ok(segments))) => Ok(Binding::Prefix { segments }),
        _ => Err("expected path, prefix:N with a number of segments, or none"),
    }
}

const EXPECTED: &str = "expected s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH, \
     abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH, file:///PATH, or an https:// address of S3, R2 or Azure; to \
     name a file, put ./ in front";

/// Parses the URL of an object or a folder. No text of an error contains the URL.
pub(crate) fn parse_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{error}; {EXPECTED}"))?;
    let has_container = matches!(url.scheme(), "az" | "abfs" | "abfss");
    if url.password().is_some() || (!url.username().is_empty() && !has_container) {
        return Err("a URL cannot have credentials; pass them in environment variables".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("a URL cannot have a query or a fragment; write %3F for ? and %23 for # in a name, and pass \
                    credentials in environment variables"
            .into());
    }
    Path::from_url_path(url.path()).map_err(|error| error.to_string())?;
    match ObjectStoreScheme::parse(&url) {
        Err(_) | Ok((ObjectStoreScheme::Memory | ObjectStoreScheme::Http, _)) => Err(EXPECTED.into()),
        Ok(_) => Ok(url),
    }
}

/// Returns the environment variables with which the stores of object_store are configured. Others may have the same
/// names as its options: `TOKEN` would be sent to S3.
fn variables() -> impl Iterator<Item = (String, String)> {
    let known = |name: &str| ["AWS_", "AZURE_", "GOOGLE_"].iter().any(|prefix| name.starts_with(prefix));
    let variables = env::vars_os().filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()));
    variables.filter(move |(name, value)| known(name) && !value.is_empty())
}

/// Fails if a variable with the URL of a store is not one: object_store's clients panic.
fn check_endpoints() -> Result<(), Failure> {
    let is_endpoint = |name: &str| name.ends_with("ENDPOINT") || name.contains("ENDPOINT_URL");
    let is_url =
        |text: &str| Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    match variables().find(|(name, value)| is_endpoint(name) && !is_url(value)) {
        None => Ok(()),
        Some((name, _)) => {
            let must = "must be a URL that begins with http:// or https://";
            Err(Failure::new(format!("the environment variable {name} {must}")).advise("correct it, or unset it"))
        }
    }
}

/// Returns whether there may be credentials for S3. Without this check, the client would ask the metadata service of EC2
/// for minutes where there is none.
fn may_have_aws_credentials() -> bool {
    const SOURCES: [&str; 6] = [
        "AWS_ACCESS_KEY_ID",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_METADATA_ENDPOINT",
        "AWS_SKIP_SIGNATURE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
    ];
    if SOURCES.iter().any(|name| env::var_os(name).is_some()) {
        return true;
    }
    let metadata_service = SocketAddr::from(([169, 254, 169, 254], 80));
    !env::var("AWS_EC2_METADATA_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"))
        && TcpStream::connect_timeout(&metadata_service, Duration::from_secs(1)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_urls_of_stores_are_accepted_and_no_others() {
        for url in [
            "s3://bucket/a",
            "s3a://bucket",
            "S3://bucket/a",
            "gs://bucket/a%3Fb",
            "az://container/a",
            "abfs://container/a",
            "abfss://container@account.dfs.core.windows.net/a",
            "file:///a/b",
            "https://bucket.s3.eu-west-1.amazonaws.com/a",
            "https://x.r2.cloudflarestorage.com/bucket/a",
            "https://account.blob.core.windows.net/container/a",
        ] {
            assert!(parse_url(url).is_ok(), "{url}");
        }
        for (url, words) in [
            ("http://example.com/a", "expected s3://"),
            ("https://example.com/a", "expected s3://"),
            ("memory:///a", "expected s3://"),
            ("ftp://example.com/a", "expected s3://"),
            ("file://folder/a", "expected s3://"),
            ("s3://", "expected s3://"),
            ("s3://user:SECRET@bucket/a", "credentials"),
            ("s3://SECRET@bucket/a", "credentials"),
            ("az://container:SECRET@account/a", "credentials"),
            ("s3://bucket/a?SECRET", "query"),
            ("s3://bucket/a#SECRET", "query"),
            ("s3://bucket/a//b", "empty"),
        ] {
            let error = parse_url(url).unwrap_err();
            assert!(error.contains(words) && !error.contains("SECRET"), "{url}: {error}");
        }
    }

    #[test]
    fn a_binding_is_the_path_a_prefix_or_nothing() {
        assert_eq!(binding("path"), Ok(Binding::Path));
        assert_eq!(binding("prefix:2"), Ok(Binding::Prefix { segments: 2 }));
        assert_eq!(binding("none"), Ok(Binding::None));
        for text in ["", "prefix", "prefix:", "prefix:-1", "Path"] {
            assert!(binding(text).is_err(), "{text}");
        }
    }
}
