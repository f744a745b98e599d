//! A file service that stores no plaintext. It seals uploads as they arrive, and returns a whole file or any range
//! without opening the rest.
//!
//! ```text
//! cargo run -p kms-envelope-examples --bin uploads -- FOLDER [ADDRESS]
//! curl -T holiday.jpg http://127.0.0.1:8080/files/holiday.jpg
//! curl -r 0-99 http://127.0.0.1:8080/files/holiday.jpg
//! ```
//!
//! If `KMS_ENVELOPE_KEY` is set, it is the ARN of the KMS key that files are sealed with. Otherwise, the service
//! generates a key when it starts, and the key is lost when it ends.

use std::{env, fs, io, path::PathBuf, sync::Arc};

use anyhow::{Context, anyhow};
use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::TryStreamExt;
use http_range_header::RangeUnsatisfiableError::Unsatisfiable;
use kms_envelope::{AwsKms, EncryptionContext, Envelope, RawAes};
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use tokio_util::io::StreamReader;

struct Store {
    envelope: Envelope,
    folder: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = env::args().nth(1).context("usage: uploads FOLDER [ADDRESS]")?.into();
    let address = env::args().nth(2).unwrap_or("127.0.0.1:8080".into());
    let envelope = match env::var("KMS_ENVELOPE_KEY") {
        Ok(arn) => {
            let config = aws_config::load_defaults(aws_config::BehaviorVersion::latest()).await;
            Envelope::new(AwsKms::new(aws_sdk_kms::Client::new(&config), arn)?)
        }
        Err(_) => Envelope::new(RawAes::generate("uploads", "until the end of the process")?),
    };
    fs::create_dir_all(&folder)?;
    let files = get(download).put(upload);
    let service = Router::new().route("/files/{name}", files).with_state(Arc::new(Store { envelope, folder }));
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, service).await?)
}

async fn upload(State(store): State<Arc<Store>>, Path(name): Path<String>, body: Body) -> Result<StatusCode, Failure> {
    let (path, context) = store.locate(&name)?;
    // A partial upload is never visible: the file gets its name at the end, and is deleted if the upload fails.
    let (file, unfinished) = NamedTempFile::new_in(&store.folder)?.into_parts();
    let mut file = tokio::fs::File::from_std(file);
    let sealed = store.envelope.seal_stream(body.into_data_stream(), &context).await?;
    tokio::io::copy_buf(&mut StreamReader::new(sealed.map_err(io::Error::other)), &mut file).await?;
    file.sync_all().await?;
    unfinished.persist(path)?;
    Ok(StatusCode::CREATED)
}

/// Also handles HEAD: axum drops the body without reading it.
async fn download(
    State(store): State<Arc<Store>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let (path, context) = store.locate(&name)?;
    let file = tokio::fs::File::open(path).await?;
    let sealed_len = file.metadata().await?.len();
    // Fails if the file was renamed, truncated or extended. Only now can the response still have an error status.
    let reader = store.envelope.async_range_reader(file, sealed_len, &context).await?;

    let len = reader.len();
    let asked = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let ranges = asked.map(|range| http_range_header::parse_range_header(range).and_then(|r| r.validate(len)));
    let mut headers = HeaderMap::from_iter([(header::ACCEPT_RANGES, "bytes".try_into()?)]);
    let (status, range) = match ranges.transpose().as_ref().map(Option::as_deref) {
        Ok(Some([range])) => {
            let (first, last) = (*range.start(), *range.end());
            headers.insert(header::CONTENT_RANGE, format!("bytes {first}-{last}/{len}").try_into()?);
            (StatusCode::PARTIAL_CONTENT, first..last + 1)
        }
        Err(Unsatisfiable) => {
            headers.insert(header::CONTENT_RANGE, format!("bytes */{len}").try_into()?);
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, headers).into_response());
        }
        // No range, a malformed one, or several: RFC 9110 (section 14.2) allows a server to send the whole file.
        _ => (StatusCode::OK, 0..len),
    };
    headers.insert(header::CONTENT_LENGTH, (range.end - range.start).into());

    // An error in the stream closes the connection before Content-Length bytes are sent.
    let body = reader.stream(range)?.inspect_err(|error| eprintln!("{error}"));
    Ok((status, headers, Body::from_stream(body)).into_response())
}

impl Store {
    /// Returns the path of a file, and the context that binds its contents to its name.
    fn locate(&self, name: &str) -> Result<(PathBuf, EncryptionContext), Failure> {
        let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !is_plain || name.starts_with('.') {
            return Err(Failure(
                StatusCode::BAD_REQUEST,
                anyhow!("a name may contain only letters, digits, '-', '_' and '.'"),
            ));
        }
        Ok((self.folder.join(name), EncryptionContext::from([("file", name)])))
    }
}

/// An error whose cause is logged. The client receives only the status.
struct Failure(StatusCode, anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let is_missing = error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::NotFound);
        Self(if is_missing { StatusCode::NOT_FOUND } else { StatusCode::INTERNAL_SERVER_ERROR }, error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        eprintln!("{}: {:#}", self.0, self.1);
        self.0.into_response()
    }
}
