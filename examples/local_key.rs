//! Seals a file as a stream, with a key that exists only in this process, and opens it again.
//!
//! `cargo run --example local_key -- FILE`

use std::{
    env,
    error::Error,
    fs::File,
    io::{self, BufReader},
};

use kms_envelope::{EncryptionContext, Envelope, RawAes};
use pollster::block_on;

fn main() -> Result<(), Box<dyn Error>> {
    let path = env::args().nth(1).ok_or("usage: local_key FILE")?;
    let envelope = Envelope::new(RawAes::generate("examples", "local-key")?);
    let context = EncryptionContext::from([("file", &path)]);

    let mut writer = block_on(envelope.seal_writer(Vec::new(), &context))?;
    let len = io::copy(&mut BufReader::new(File::open(&path)?), &mut writer)?;
    let sealed = writer.finish()?;

    let mut reader = block_on(envelope.open_reader(&sealed[..], &context))?;
    let opened = io::copy(&mut reader, &mut io::sink())?;
    println!(
        "{path}: {len} bytes, sealed {}, opened {opened}; key {}",
        sealed.len(),
        reader.info().encrypted_data_key()
    );
    Ok(())
}
