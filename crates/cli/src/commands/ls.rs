//! `kms-envelope ls`: lists the objects of a store.

use std::io::Write;

use futures_util::{Stream, StreamExt, TryStreamExt, future, stream};
use kms_envelope::message::Geometry;
use object_store::{ObjectMeta, ObjectStoreExt};
use serde::Serialize;

use super::{ascii, folder};
use crate::{
    args::LsArguments,
    console::one_line,
    failure::Failure,
    standard,
    stores::{self, Location},
};

/// The number of lines that are written at once.
const LINES: usize = 1000;

pub(super) fn ls(arguments: &LsArguments) -> Result<(), Failure> {
    let location = folder(&arguments.place)?;
    stores::runtime()?.block_on(list(arguments, &location))
}

async fn list(arguments: &LsArguments, location: &Location) -> Result<(), Failure> {
    let mut out = standard::output()?;
    let mut lines = objects(location)
        .map_err(|error| Failure::from(error).of(&location.url))
        .try_filter(|meta| future::ready(!arguments.hides(meta)))
        .and_then(|meta| future::ready(arguments.line(&meta)))
        .ready_chunks(LINES)
        .boxed();
    let mut is_empty = true;
    while let Some(lines) = lines.next().await {
        let mut text = String::new();
        let listed: Result<(), Failure> = lines.into_iter().try_for_each(|line| {
            text.push_str(&line?);
            Ok(())
        });
        is_empty &= text.is_empty();
        out.write_all(text.as_bytes()).map_err(|error| Failure::writing("standard output", &error))?;
        listed?;
    }
    if is_empty && !location.path.as_ref().is_empty() {
        return Err(Failure::new("there are no objects").of(&location.url));
    }
    Ok(())
}

/// Lists the objects below a folder, or returns the one object that the URL names.
fn objects(location: &Location) -> impl Stream<Item = object_store::Result<ObjectMeta>> {
    let path = Some(&location.path).filter(|path| !path.as_ref().is_empty());
    let one = stream::once(async move {
        match path {
            Some(path) if !location.url.path().ends_with('/') => location.store.head(path).await.map(Some),
            _ => Ok(None),
        }
    });
    let one = one.filter_map(|found| {
        future::ready(match found {
            Err(object_store::Error::NotFound { .. }) => None,
            found => found.transpose(),
        })
    });
    one.chain(location.store.list(path))
}

#[derive(Serialize)]
struct Object<'a> {
    path: &'a str,
    sealed_len: u64,
    /// `None` if no object of this layout has this length.
    plaintext_len: Option<u64>,
    last_modified: String,
}

impl LsArguments {
    fn hides(&self, meta: &ObjectMeta) -> bool {
        !self.detached.suffix.is_empty() && meta.location.as_ref().ends_with(&self.detached.suffix)
    }

    /// Computes the length of the plaintext from that of the sealed object.
    fn plaintext_len(&self, meta: &ObjectMeta) -> Option<u64> {
        let geometry = Geometry::of_sealed(self.header_len.into(), self.frame_len, 0, meta.size).ok()?;
        Some(geometry.plaintext_len())
    }

    fn line(&self, meta: &ObjectMeta) -> Result<String, Failure> {
        let plaintext_len = self.plaintext_len(meta);
        let last_modified = meta.last_modified.format("%Y-%m-%dT%H:%M:%SZ").to_string();
        let path = meta.location.as_ref();
        if self.json {
            let object = Object { path, sealed_len: meta.size, plaintext_len, last_modified };
            let json = serde_json::to_string(&object).map_err(|error| Failure::new(error.to_string()))?;
            return Ok(ascii(&json) + "\n");
        }
        let len = plaintext_len.map_or_else(|| "?".into(), |len| len.to_string());
        Ok(format!("{len:>15} {last_modified} {}\n", one_line(path)))
    }
}
