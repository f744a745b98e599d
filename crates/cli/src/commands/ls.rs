//! `kms-envelope ls`: lists the objects of a store.

use std::{cell::Cell, fmt::Write as _, io::Write, num::NonZeroU32, sync::Arc};

use futures_util::{Stream, StreamExt, TryStreamExt, future, stream};
use kms_envelope::message::{DetachedKeys, Geometry};
use kms_envelope_object_store::{
    Content, Message,
    v0_14::{Inspected, Inventory},
};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use serde::Serialize;

use super::{
    ascii, folder,
    inspect::{KeyReport, key_reports},
};
use crate::{
    args::LsArguments,
    console::one_line,
    failure::Failure,
    standard,
    stores::{self, Location},
};

/// The number of objects that are printed at once.
const OBJECTS: usize = 1000;

pub(super) fn ls(arguments: &LsArguments) -> Result<(), Failure> {
    let location = folder(&arguments.place)?;
    let url = &location.url;
    let runtime = stores::runtime()?;
    let is_empty = if arguments.long {
        let unread = Cell::new(0_u64);
        let objects = inspected(arguments, &location).try_filter_map(|object| {
            future::ready(match &object.content {
                // It was deleted after it was listed.
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                _ => Ok(Some(object)),
            })
        });
        let objects = objects.map_err(|error| Failure::from(error).of(url));
        let is_empty = runtime
            .block_on(print(objects.and_then(|object| future::ready(inspected_text(arguments, object, &unread)))))?;
        if unread.get() > 0 {
            return Err(Failure::new(format!("objects that could not be read: {}", unread.get())).of(url));
        }
        is_empty
    } else {
        let objects = listed(arguments, &location).map_err(|error| Failure::from(error).of(url));
        runtime.block_on(print(objects.and_then(|meta| future::ready(listed_text(arguments, &meta)))))?
    };
    if is_empty && !location.path.as_ref().is_empty() {
        return Err(Failure::new("there are no objects").of(url));
    }
    Ok(())
}

/// Prints texts as soon as they are ready. Returns whether there are none.
async fn print(texts: impl Stream<Item = Result<String, Failure>>) -> Result<bool, Failure> {
    let mut out = standard::output()?;
    let mut ready = Box::pin(texts.ready_chunks(OBJECTS));
    let mut is_empty = true;
    while let Some(texts) = ready.next().await {
        let mut all = String::new();
        let listed: Result<(), Failure> = texts.into_iter().try_for_each(|text| {
            all.push_str(&text?);
            Ok(())
        });
        is_empty &= all.is_empty();
        out.write_all(all.as_bytes()).map_err(|error| Failure::writing("standard output", &error))?;
        listed?;
    }
    Ok(is_empty)
}

/// Returns the one object that the URL names, and those below it.
fn listed(arguments: &LsArguments, location: &Location) -> impl Stream<Item = object_store::Result<ObjectMeta>> {
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
    let suffix = &arguments.detached.suffix;
    let is_hidden = move |meta: &ObjectMeta| !suffix.is_empty() && meta.location.as_ref().ends_with(suffix);
    one.chain(location.store.list(path)).try_filter(move |meta| future::ready(!is_hidden(meta)))
}

/// Reads the headers of the objects below the URL.
fn inspected(arguments: &LsArguments, location: &Location) -> impl Stream<Item = object_store::Result<Inspected>> {
    let mut inventory = Inventory::<dyn ObjectStore>::new(Arc::clone(&location.store));
    if !location.path.as_ref().is_empty() {
        inventory = inventory.prefix(location.path.clone());
    }
    let suffix = &arguments.detached.suffix;
    if !suffix.is_empty() {
        inventory = inventory.detached_keys(suffix);
    }
    inventory.stream()
}

#[derive(Serialize)]
struct ObjectReport<'a> {
    path: &'a str,
    sealed_len: u64,
    /// `None` if it is unknown.
    plaintext_len: Option<u64>,
    last_modified: String,
    #[serde(flatten)]
    content: Option<ContentReport<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum ContentReport<'a> {
    Message {
        suite: String,
        message_id: String,
        header_len: usize,
        frame_len: Option<u32>,
        encrypted_data_keys: Vec<KeyReport<'a>>,
        detached_keys: Vec<KeyReport<'a>>,
    },
    Other {
        reason: String,
    },
    Unread {
        reason: String,
    },
}

impl<'a> ContentReport<'a> {
    fn of(message: &'a Message) -> Self {
        let header = message.header();
        Self::Message {
            suite: header.suite().to_string(),
            message_id: header.message_id().to_string(),
            header_len: header.len(),
            frame_len: header.content_type().frame_len().map(NonZeroU32::get),
            encrypted_data_keys: key_reports(header.encrypted_data_keys()),
            detached_keys: key_reports(message.detached_keys().map_or(&[], DetachedKeys::encrypted_data_keys)),
        }
    }
}

/// Describes an object by its metadata.
fn listed_text(arguments: &LsArguments, meta: &ObjectMeta) -> Result<String, Failure> {
    let geometry = Geometry::of_sealed(arguments.header_len.into(), arguments.frame_len, 0, meta.size);
    let plaintext_len = geometry.ok().map(|geometry| geometry.plaintext_len());
    if arguments.json { json(meta, plaintext_len, None) } else { Ok(line(meta, plaintext_len)) }
}

/// Describes an object by its metadata and its header. Counts objects that cannot be read.
fn inspected_text(arguments: &LsArguments, object: Inspected, unread: &Cell<u64>) -> Result<String, Failure> {
    let Inspected { listed, content, .. } = object;
    let meta = listed.meta;
    let content = content.map_err(Failure::from);
    let (plaintext_len, report) = match &content {
        Ok(Content::Message(message)) => (message.plaintext_len(), ContentReport::of(message)),
        Ok(Content::Other(error)) => (None, ContentReport::Other { reason: error.to_string() }),
        Ok(_) => (None, ContentReport::Other { reason: "it is of another kind".into() }),
        Err(failure) => {
            unread.set(unread.get() + 1);
            (None, ContentReport::Unread { reason: failure.to_string() })
        }
    };
    if arguments.json {
        return json(&meta, plaintext_len, Some(report));
    }
    let mut text = line(&meta, plaintext_len);
    let mut add = |detail: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:15} {}", "", one_line(detail));
    };
    match (&content, &report) {
        (Ok(Content::Message(message)), ContentReport::Message { suite, header_len, frame_len, .. }) => {
            let frames = frame_len.map_or_else(|| "no frames".into(), |len| format!("frames of {len} bytes"));
            add(&format!("suite {suite}, header of {header_len} bytes, {frames}"));
            for key in message.encrypted_data_keys() {
                add(&key.to_string());
            }
        }
        (_, ContentReport::Other { reason }) => add(&format!("not a message: {reason}")),
        (_, ContentReport::Unread { reason }) => add(&format!("cannot be read: {reason}")),
        _ => {}
    }
    Ok(text)
}

fn json(meta: &ObjectMeta, plaintext_len: Option<u64>, content: Option<ContentReport<'_>>) -> Result<String, Failure> {
    let (path, sealed_len, last_modified) = (meta.location.as_ref(), meta.size, time(meta));
    let report = ObjectReport { path, sealed_len, plaintext_len, last_modified, content };
    let json = serde_json::to_string(&report).map_err(|error| Failure::new(error.to_string()))?;
    Ok(ascii(&json) + "\n")
}

fn line(meta: &ObjectMeta, plaintext_len: Option<u64>) -> String {
    let len = plaintext_len.map_or_else(|| "?".into(), |len| len.to_string());
    format!("{len:>15} {} {}\n", time(meta), one_line(meta.location.as_ref()))
}

fn time(meta: &ObjectMeta) -> String {
    meta.last_modified.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}
