//! `kms-envelope inspect`: shows the header and lengths of a message.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    num::NonZeroU32,
};

use base64ct::{Base64, Encoding};
use kms_envelope::{
    AlgorithmSuite, Limits,
    error::FormatError,
    message::{
        DetachedKeys, EncryptedDataKey, FINAL_FRAME_OVERHEAD, Geometry, Header, MAX_FOOTER_LEN, MIN_FOOTER_LEN,
        SignatureAlgorithm, footer_lens,
    },
    stream::MessageInfo,
};
use serde::Serialize;

#[cfg(feature = "stores")]
use super::check_place;
use super::{add_line, expected_context, opening_envelope, opening_failure, print, runtime, to_json};
use crate::{
    args::InspectArguments,
    console::Console,
    failure::Failure,
    input::{Input, Start},
    keys::Keys,
};

pub(super) fn inspect(arguments: &InspectArguments, console: Console) -> Result<(), Failure> {
    if arguments.sources.is_empty() && arguments.terms.are_given() {
        return Err(Failure::usage("--context, --required, --keys and other options for opening require --key"));
    }
    arguments.terms.context.to_open()?;
    #[cfg(feature = "stores")]
    check_place(&arguments.terms.store, arguments.input.place())?;
    let mut input = Input::open(arguments.input.place(), console)?;
    match input.read_start()? {
        Start::Message(header) => {
            let opens = try_key(arguments, console, &header)?;
            inspect_message(arguments.json, input, &header, opens)
        }
        Start::DetachedKeys(_) if !arguments.sources.is_empty() => {
            Err(Failure::new("these are detached keys; to check --key, their message is needed as well")
                .of(input.name())
                .advise("inspect the message, and pass these keys with --keys"))
        }
        Start::DetachedKeys(keys) if arguments.json => print(keys_json(&keys)?.as_bytes()),
        Start::DetachedKeys(keys) => print(keys_text(&keys).as_bytes()),
    }
}

fn inspect_message(
    as_json: bool,
    mut input: Input,
    header: &Header,
    opens: Option<Result<MessageInfo, Failure>>,
) -> Result<(), Failure> {
    let (sealed_len, end) = match input.len() {
        Some(len) => (len, None),
        None => {
            input.show_progress();
            let (body_len, end) = input.count(needed_of_end(header))?;
            (header.len() as u64 + body_len, Some(end))
        }
    };
    let geometry = match (header.content_type().frame_len(), header.suite().signature()) {
        (Some(_), None) => Some(header.geometry(sealed_len)),
        (Some(_), Some(algorithm)) => signed_geometry(header, algorithm, sealed_len, |offset, len| match &end {
            Some(end) => Ok(part_of_end(end, sealed_len, offset, len)),
            None => {
                let mut bytes = vec![0; len];
                input.read_at(offset, &mut bytes).map(|()| Some(bytes))
            }
        })?,
        (None, _) => None,
    };
    let known = geometry.as_ref().and_then(|geometry| geometry.as_ref().ok());
    let text = if as_json {
        json(header, sealed_len, known, opens.as_ref())?
    } else {
        text(header, sealed_len, known, opens.as_ref())
    };
    let name = input.name().to_owned();
    drop(input);
    print(text.as_bytes())?;
    match (geometry, opens) {
        (Some(Err(error)), _) => Err(Failure::from(error).of(name)),
        (_, Some(Err(failure))) => Err(failure.of(name)),
        _ => Ok(()),
    }
}

/// Returns how many of a message's last bytes are needed to find its final frame: none if its length is enough. Does
/// not look for a final frame that exceeds the limit for opening.
fn needed_of_end(header: &Header) -> usize {
    match (header.content_type().frame_len(), header.suite().signature()) {
        (Some(frame_len), Some(_)) => {
            FINAL_FRAME_OVERHEAD + frame_len.get().min(Limits::default().frame_len) as usize + MAX_FOOTER_LEN
        }
        _ => 0,
    }
}

/// Returns the bytes at this offset in the message if they are within `end`, its last bytes.
fn part_of_end(end: &[u8], sealed_len: u64, offset: u64, len: usize) -> Option<Vec<u8>> {
    let start = offset.checked_sub(sealed_len - end.len() as u64)?;
    Some(end.get(usize::try_from(start).ok()?..)?.get(..len)?.to_vec())
}

/// Returns the geometry of a signed message if its final frame is at the position that the footer's length implies, or
/// an error if no message can have this length. `read` returns bytes at an offset in the message, if they are
/// available.
fn signed_geometry(
    header: &Header,
    algorithm: SignatureAlgorithm,
    sealed_len: u64,
    mut read: impl FnMut(u64, usize) -> Result<Option<Vec<u8>>, Failure>,
) -> Result<Option<Result<Geometry, FormatError>>, Failure> {
    let tail_len = sealed_len.saturating_sub(header.len() as u64).min(MAX_FOOTER_LEN as u64);
    let Some(tail) = read(sealed_len - tail_len, tail_len as usize)? else { return Ok(None) };
    for footer_len in footer_lens(algorithm, &tail) {
        let Ok(geometry) = header.signed_geometry(sealed_len, footer_len) else { continue };
        let frame = geometry.final_frame();
        let start = read(frame.sealed.start, FINAL_FRAME_OVERHEAD)?;
        if start.is_some_and(|start| frame.can_begin_with(&start)) {
            return Ok(Some(Ok(geometry)));
        }
    }
    let geometry = |footer_len| header.signed_geometry(sealed_len, footer_len);
    let is_impossible = (MIN_FOOTER_LEN..=MAX_FOOTER_LEN).all(|footer_len| geometry(footer_len).is_err());
    Ok(is_impossible.then(|| geometry(MIN_FOOTER_LEN)))
}

/// Verifies the header with the given key. Returns `None` if no key was given.
fn try_key(
    arguments: &InspectArguments,
    console: Console,
    header: &Header,
) -> Result<Option<Result<MessageInfo, Failure>>, Failure> {
    if arguments.sources.is_empty() {
        return Ok(None);
    }
    let runtime = runtime()?;
    let (rsa, branch) = (arguments.rsa.options(), arguments.branch.options());
    let keys = Keys { rsa, branch, new_key: false, console };
    let provider = runtime.block_on(keys.provider(&arguments.sources))?;
    let envelope = opening_envelope(&arguments.terms, provider.clone(), console)?;
    let context = expected_context(&arguments.terms, arguments.input.place(), &provider, header)?;
    let opener = runtime.block_on(envelope.opener(header, &context));
    Ok(Some(
        opener.map(|opener| opener.info().clone()).map_err(|error| opening_failure(error, arguments.input.place())),
    ))
}

/// Returns the report as text. Strings from the message are escaped, because an attacker may have written them.
fn text(
    header: &Header,
    sealed_len: u64,
    geometry: Option<&Geometry>,
    opens: Option<&Result<MessageInfo, Failure>>,
) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &dyn fmt::Display| add_line(&mut out, name, value);
    line("format", &format_args!("AWS Encryption SDK message, version {}", header.suite().message_version().number()));
    line("algorithm suite", &format_args!("{} ({})", header.suite(), suite_name(header.suite())));
    line("message id", header.message_id());
    line("header", &format_args!("{} bytes", header.len()));
    line("message", &format_args!("{sealed_len} bytes"));
    match header.content_type().frame_len() {
        Some(frame_len) => line("frame length", &format_args!("{frame_len} bytes")),
        None => line("frame length", &"none (non-framed body)"),
    }
    match geometry {
        Some(geometry) => {
            line("frames", &geometry.frame_count());
            line("plaintext", &format_args!("{} bytes", geometry.plaintext_len()));
        }
        None => {
            line("frames", &"unknown");
            line("plaintext", &"unknown");
        }
    }
    for key in header.encrypted_data_keys() {
        match key.padding_len() {
            Some(len) => line("padding", &format_args!("{len} bytes, as one more encrypted data key")),
            None => line("encrypted data key", &format_args!("{key} ({} bytes)", key.ciphertext.len())),
        }
    }
    for (name, value) in header.context() {
        line("encryption context", &format_args!("{name:?} = {value:?}"));
    }
    if header.context().is_empty() {
        line("encryption context", &"empty");
    }
    match opens {
        Some(Ok(info)) => {
            line(
                "opens with",
                &format_args!(
                    "{} (encrypted data key {})",
                    info.key_id().escape_debug(),
                    info.encrypted_data_key_index()
                ),
            );
            out.push_str("\nThe header is authenticated with this key; only `kms-envelope open` verifies the body.\n");
        }
        Some(Err(_)) => {
            line("opens with", &"none of the given keys");
            out.push_str("\nNone of this is authenticated.\n");
        }
        None => out.push_str("\nNone of this is authenticated: only `kms-envelope open` verifies a message.\n"),
    }
    out
}

/// Describes detached keys.
fn keys_text(keys: &DetachedKeys) -> String {
    let mut out = String::new();
    add_line(&mut out, "format", &"detached keys of an AWS Encryption SDK message");
    add_line(&mut out, "message id", keys.message_id());
    for key in keys.encrypted_data_keys() {
        add_line(&mut out, "encrypted data key", &format_args!("{key} ({} bytes)", key.ciphertext.len()));
    }
    out.push_str(
        "\nNone of this is authenticated: only `kms-envelope open --keys` verifies the keys, with their message.\n",
    );
    out
}

#[derive(Serialize)]
struct Report<'a> {
    kind: &'static str,
    /// Whether the header was verified with a given key. Always present, so that programs take note of it.
    authenticated: bool,
    /// Present if a key was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    opens: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encrypted_data_key_index: Option<usize>,
    version: u8,
    suite: String,
    suite_name: String,
    message_id: String,
    context: BTreeMap<&'a str, &'a str>,
    encrypted_data_keys: Vec<KeyReport<'a>>,
    content_type: &'static str,
    frame_len: Option<u32>,
    header_len: usize,
    sealed_len: u64,
    frames: Option<u32>,
    plaintext_len: Option<u64>,
}

/// The report of detached keys.
#[derive(Serialize)]
struct KeysReport<'a> {
    kind: &'static str,
    authenticated: bool,
    message_id: String,
    encrypted_data_keys: Vec<KeyReport<'a>>,
}

#[derive(Serialize)]
pub(super) struct KeyReport<'a> {
    provider_id: &'a str,
    key_name: String,
    provider_info: String,
    ciphertext_len: usize,
    /// Present if this is the padding of a fixed header length, and not a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    padding_len: Option<usize>,
}

fn json(
    header: &Header,
    sealed_len: u64,
    geometry: Option<&Geometry>,
    opens: Option<&Result<MessageInfo, Failure>>,
) -> Result<String, Failure> {
    let info = opens.and_then(|opens| opens.as_ref().ok());
    let frame_len = header.content_type().frame_len().map(NonZeroU32::get);
    let content_type = if frame_len.is_some() { "framed" } else { "non-framed" };
    let report = Report {
        kind: "message",
        authenticated: info.is_some(),
        opens: opens.map(Result::is_ok),
        key_id: info.map(|info| info.key_id()),
        encrypted_data_key_index: info.map(|info| info.encrypted_data_key_index()),
        version: header.suite().message_version().number(),
        suite: header.suite().to_string(),
        suite_name: suite_name(header.suite()),
        message_id: header.message_id().to_string(),
        context: header.context().iter().collect(),
        encrypted_data_keys: key_reports(header.encrypted_data_keys()),
        content_type,
        frame_len,
        header_len: header.len(),
        sealed_len,
        frames: geometry.map(Geometry::frame_count),
        plaintext_len: geometry.map(Geometry::plaintext_len),
    };
    to_json(&report)
}

fn keys_json(keys: &DetachedKeys) -> Result<String, Failure> {
    to_json(&KeysReport {
        kind: "detached-keys",
        authenticated: false,
        message_id: keys.message_id().to_string(),
        encrypted_data_keys: key_reports(keys.encrypted_data_keys()),
    })
}

pub(super) fn key_reports(keys: &[EncryptedDataKey]) -> Vec<KeyReport<'_>> {
    keys.iter()
        .map(|key| KeyReport {
            provider_id: &key.provider_id,
            key_name: key.key_name(),
            provider_info: Base64::encode_string(&key.provider_info),
            ciphertext_len: key.ciphertext.len(),
            padding_len: key.padding_len(),
        })
        .collect()
}

/// Returns a description such as `AES-256-GCM, HKDF-SHA512, key commitment`.
fn suite_name(suite: AlgorithmSuite) -> String {
    let mut name = format!("AES-{}-GCM, {}", suite.data_key_len() * 8, suite.key_derivation());
    if suite.is_committing() {
        name.push_str(", key commitment");
    }
    if let Some(algorithm) = suite.signature() {
        let _ = write!(name, ", {algorithm}");
    }
    name
}
