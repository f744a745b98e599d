//! The keys of encrypted tables: in a key file, or in AWS KMS. moto as KMS.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_config::{BehaviorVersion, Region};
use aws_sdk_kms::{Client, config::Credentials};
use kms_envelope::{AwsKms, KeyProvider, RawAes};
use tokio::process::{Child, Command};

use crate::{
    Result,
    cluster::{free_address, start_process},
};

/// A key that every process gets itself.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Keys {
    /// Key file, as `kms-envelope keygen` writes it
    #[arg(long, value_name = "FILE", conflicts_with = "kms_key")]
    pub(crate) key: Option<PathBuf>,
    /// Key in AWS KMS: its ARN, or an alias. The region and credentials are those of the environment
    #[arg(long, value_name = "ARN")]
    pub(crate) kms_key: Option<String>,
    /// URL of moto, which simulates AWS KMS and needs no credentials
    #[arg(long, value_name = "URL", requires = "kms_key", hide = true)]
    pub(crate) moto: Option<String>,
}

impl Keys {
    pub(crate) fn file(path: impl Into<PathBuf>) -> Self {
        Self { key: Some(path.into()), kms_key: None, moto: None }
    }

    /// Returns the key provider. Call it once for each process.
    pub(crate) async fn provider(&self) -> Result<Arc<dyn KeyProvider>> {
        if let Some(file) = &self.key {
            return Ok(Arc::new(RawAes::read_key_file(file)?));
        }
        let key = self.kms_key.as_deref().ok_or("no key: pass --key or --kms-key")?;
        Ok(Arc::new(AwsKms::resolve(client(self.moto.as_deref()).await, key).await?))
    }

    /// Returns the arguments of a process with the same key.
    pub(crate) fn arguments(&self) -> impl Iterator<Item = OsString> {
        let file = self.key.iter().flat_map(|file| ["--key".into(), file.into()]);
        let kms_key = self.kms_key.iter().flat_map(|key| ["--kms-key".into(), key.into()]);
        let moto = self.moto.iter().flat_map(|url| ["--moto".into(), url.into()]);
        file.chain(kms_key).chain(moto)
    }
}

async fn client(moto: Option<&str>) -> Client {
    let mut config = aws_config::defaults(BehaviorVersion::latest());
    if let Some(url) = moto {
        let credentials = Credentials::new("moto", "moto", None, None, "moto");
        config = config.endpoint_url(url).region(Region::new("eu-central-1")).credentials_provider(credentials);
    }
    Client::new(&config.load().await)
}

/// moto as KMS, as a process that ends when this value is dropped.
pub(crate) struct Moto {
    url: String,
    log: PathBuf,
    _process: Child,
}

impl Moto {
    /// Starts it with a Python that has moto, and waits until it is ready.
    pub(crate) async fn start(python: &Path, log: PathBuf) -> Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(python);
        command.args(["-m", "moto.server", "-H", &address.ip().to_string(), "-p", &address.port().to_string()]);
        let process = start_process(&mut command, "moto", address, &log).await?;
        Ok(Self { url: format!("http://{address}"), log, _process: process })
    }

    /// Creates a key.
    pub(crate) async fn create_key(&self) -> Result<Keys> {
        let created = client(Some(&self.url)).await.create_key().send().await?;
        let kms_key = created.key_metadata.and_then(|key| key.arn);
        Ok(Keys { key: None, kms_key, moto: Some(self.url.clone()) })
    }

    /// Returns the number of requests.
    pub(crate) fn requests(&self) -> Result<usize> {
        Ok(fs::read_to_string(&self.log)?.matches("\"POST / ").count())
    }
}
