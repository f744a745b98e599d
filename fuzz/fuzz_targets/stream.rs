//! A stream in pieces of any length returns the same plaintext as the whole buffer, or a part of it and the same error.

#![no_main]

use std::{convert::Infallible, io::Read};

use futures_util::{TryStreamExt, stream};
use kms_envelope::{EncryptionContext, Limits, OpenError, message::Header, stream::StreamError};
use kms_envelope_fuzz::{ENVELOPE, LIMITS, open};
use libfuzzer_sys::fuzz_target;
use pollster::block_on;

fn in_pieces(data: &[u8], lens: &[u8], limits: &Limits) -> Option<Result<Vec<u8>, OpenError>> {
    let Ok(header) = Header::parse(data, limits) else { return None };
    let mut opener = match block_on(ENVELOPE.opener(&header, &EncryptionContext::new())) {
        Ok(opener) => opener,
        Err(error) => return Some(Err(error)),
    };
    let (mut plaintext, mut rest) = (Vec::new(), &data[header.len()..]);
    let mut lens = lens.iter().cycle().map(|len| usize::from(*len) + 1);
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(lens.next().unwrap_or(100).min(rest.len()));
        rest = more;
        let mut out = vec![0; opener.update_len(piece.len())];
        match opener.update(piece, &mut out) {
            Ok(len) => plaintext.extend_from_slice(&out[..len]),
            Err(error) => {
                assert!(out.iter().all(|byte| *byte == 0), "the output is not wiped after an error");
                return Some(Err(error));
            }
        }
    }
    Some(opener.finish().map(|()| plaintext))
}

/// Opens with a `Stream` of pieces, which opens frames in place.
fn streamed(data: &[u8], lens: &[u8]) -> Result<Vec<u8>, OpenError> {
    let (mut pieces, mut rest) = (Vec::new(), data);
    let mut lens = lens.iter().cycle().map(|len| usize::from(*len) + 1);
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(lens.next().unwrap_or(100).min(rest.len()));
        pieces.push(Ok::<_, Infallible>(piece));
        rest = more;
    }
    let opened = block_on(async {
        let stream = ENVELOPE.open_stream(stream::iter(pieces), &EncryptionContext::new()).await?;
        stream.try_collect::<Vec<_>>().await
    });
    match opened {
        Ok(pieces) => Ok(pieces.concat()),
        Err(StreamError::Open(error)) => Err(error),
        Err(error) => panic!("{error}"),
    }
}

fuzz_target!(|input: ([u8; 4], &[u8])| {
    let (lens, data) = input;
    let text = |error: OpenError| error.to_string();
    let whole = open(data).map_err(text);
    if let Some(pieces) = in_pieces(data, &lens, &LIMITS) {
        assert_eq!(whole, pieces.map_err(text));
    }
    assert_eq!(whole, streamed(data, &lens).map_err(text));
    let read = block_on(ENVELOPE.open_reader(data, &EncryptionContext::new())).and_then(|mut reader| {
        let mut plaintext = Vec::new();
        reader.read_to_end(&mut plaintext).map_err(|error| error.downcast::<OpenError>().expect("our error"))?;
        Ok(plaintext)
    });
    assert_eq!(whole, read.map_err(text));
});
