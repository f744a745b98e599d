//! Uploads files to S3 and downloads them. Files are sealed and opened as streams, never completely in memory.
//!
//! ```text
//! cargo run -p kms-envelope-examples --bin s3 -- put FILE s3://BUCKET/KEY
//! cargo run -p kms-envelope-examples --bin s3 -- get s3://BUCKET/KEY FILE
//! ```
//!
//! `KMS_ENVELOPE_KEY` is the path of a key file (`kms-envelope keygen FILE` creates one) or the ARN of a KMS key.
//! Region, credentials and `AWS_ENDPOINT_URL` come from the environment, as for every AWS tool.

use std::{env, path::Path};

use anyhow::{Context, bail};
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_s3::{
    Client,
    config::RequestChecksumCalculation,
    primitives::{ByteStream, SdkBody},
};
use futures_util::TryStreamExt;
use http_body_util::StreamBody;
use kms_envelope::{AwsKms, EncryptionContext, Envelope, RawAes};
use tempfile::NamedTempFile;
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncWriteExt},
};
use tokio_util::io::ReaderStream;

/// The maximum number of bytes for one read.
const PIECE: usize = 1 << 16;

const USAGE: &str = "usage: s3 put FILE s3://BUCKET/KEY, or s3 get s3://BUCKET/KEY FILE";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let service = Service { s3: s3_client(&config), envelope: envelope(&config)? };
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["put", file, url] => service.put(file, url).await,
        ["get", url, file] => service.get(url, file).await,
        _ => bail!(USAGE),
    }
}

fn s3_client(config: &SdkConfig) -> Client {
    // To send its own checksum, the SDK would encode the body in chunks, whose signature and length would have to match
    // the stream. No checksum is needed, because the message is authenticated.
    let config = aws_sdk_s3::config::Builder::from(config)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        // Servers other than AWS's rarely have a host name for each bucket.
        .force_path_style(config.endpoint_url().is_some())
        .build();
    Client::from_conf(config)
}

fn envelope(config: &SdkConfig) -> anyhow::Result<Envelope> {
    let key = env::var("KMS_ENVELOPE_KEY").context("set KMS_ENVELOPE_KEY to a key file or to the ARN of a KMS key")?;
    Ok(match key.starts_with("arn:") {
        true => Envelope::new(AwsKms::new(aws_sdk_kms::Client::new(config), key)?),
        false => Envelope::new(RawAes::read_key_file(key)?),
    })
}

struct Service {
    s3: Client,
    envelope: Envelope,
}

impl Service {
    async fn put(&self, file: &str, url: &str) -> anyhow::Result<()> {
        let (bucket, key, context) = locate(url)?;
        let file = File::open(file).await?;
        let len = file.metadata().await?.len();
        // The request states the length in advance. If the file grows meanwhile, only this many bytes are sent.
        let plaintext = ReaderStream::with_capacity(file.take(len), PIECE);
        let sealed = self.envelope.seal_stream(plaintext, &context).await?;
        // The limit of PutObject is 5 GB. Larger objects need a multipart upload.
        let sealed_len = sealed.sealed_len(len)?;
        let body = StreamBody::new(sealed.map_ok(http_body::Frame::data));
        let put = self.s3.put_object().bucket(bucket).key(key).content_length(sealed_len.try_into()?);
        put.body(ByteStream::new(SdkBody::from_body_1_x(body))).send().await?;
        println!("{url}: {len} bytes, sealed {sealed_len}");
        Ok(())
    }

    async fn get(&self, url: &str, file: &str) -> anyhow::Result<()> {
        let (bucket, key, context) = locate(url)?;
        let object = self.s3.get_object().bucket(bucket).key(key).send().await?;
        let sealed = ReaderStream::with_capacity(object.body.into_async_read(), PIECE);
        let mut opened = self.envelope.open_stream(sealed, &context).await?;
        // Every piece is authentic, but only the end of the stream shows that none is missing. The file gets its name
        // then.
        let folder = Path::new(file).parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        let (unfinished, path) = NamedTempFile::new_in(folder)?.into_parts();
        let mut unfinished = File::from_std(unfinished);
        let mut len = 0;
        while let Some(piece) = opened.try_next().await? {
            unfinished.write_all(&piece).await?;
            len += piece.len();
        }
        unfinished.flush().await?;
        path.persist(file)?;
        println!("{file}: {len} bytes, key {}", opened.info().encrypted_data_key());
        Ok(())
    }
}

/// Returns the bucket and key of a URL, and the context that binds an object to them, so that it does not open under
/// another name.
fn locate(url: &str) -> anyhow::Result<(&str, &str, EncryptionContext)> {
    let (bucket, key) = url.strip_prefix("s3://").and_then(|url| url.split_once('/')).context(USAGE)?;
    Ok((bucket, key, EncryptionContext::from([("bucket", bucket), ("key", key)])))
}
