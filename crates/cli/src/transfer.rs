//! `kms-envelope seal` and `kms-envelope open`: from input to output, a piece at a time.

use std::{
    io::{self, Write},
    panic,
    sync::mpsc::{Receiver, SyncSender, channel, sync_channel},
    thread,
};

use kms_envelope::{
    AlgorithmSuite, CommitmentPolicy, Envelope,
    message::FRAME_OVERHEAD,
    stream::{Opener, Sealer},
};
use tokio::runtime::{Builder, Runtime};

use crate::{
    args::{OpenArguments, SealArguments},
    failure::Failure,
    files::{Input, Output, PIECE},
    keys::KeySource,
};

/// What must not be written over: nothing that the key has sealed would open.
pub(crate) const A_KEY: &str = "a key that was given, and not to be replaced";

/// `kms-envelope seal`.
pub(crate) fn seal(arguments: &SealArguments) -> Result<(), Failure> {
    let context = arguments.context.to_context();
    let input = Input::open(arguments.input.path())?;
    let output = Output::create(arguments.output.path(), &input)?;
    let runtime = runtime()?;
    let policy = CommitmentPolicy::from(arguments.policy.policy);
    let provider = runtime.block_on(arguments.key.provider(arguments.new_key))?;
    // Only now is a new key there.
    output.spare(arguments.key.sources.iter().filter_map(KeySource::path), A_KEY)?;
    let mut envelope =
        Envelope::builder(provider).commitment_policy(policy).required_context(arguments.context.required_names());
    if let Some(len) = arguments.frame_len {
        envelope = envelope.frame_len(len);
    }
    let signing = match policy {
        CommitmentPolicy::ForbidEncryptAllowDecrypt => AlgorithmSuite::Aes256GcmHkdfSha384EcdsaP384,
        _ => AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384,
    };
    if let Some(suite) = arguments.suite.or(arguments.sign.then_some(signing)) {
        envelope = envelope.suite(suite);
    }
    let envelope = envelope.build().map_err(|error| Failure::new(error.to_string()))?;
    let sealer = runtime.block_on(envelope.sealer(&context))?;
    transfer(input, output, sealer)
}

/// `kms-envelope open`.
pub(crate) fn open(arguments: &OpenArguments) -> Result<(), Failure> {
    let context = arguments.terms.context.to_context();
    let mut input = Input::open(arguments.input.path())?;
    let output = Output::create(arguments.output.path(), &input)?;
    let runtime = runtime()?;
    let keys = arguments.key.sources.iter().filter_map(KeySource::path).chain(arguments.terms.keys_path());
    output.spare(keys, A_KEY)?;
    let envelope = arguments.terms.envelope(runtime.block_on(arguments.key.provider(false))?)?;
    let header = input.read_header()?;
    let opener =
        runtime.block_on(envelope.opener(&header, &context)).map_err(|error| Failure::from(error).of(input.name()))?;
    transfer(input, output, opener)
}

/// For the requests to the key service, which are made before the body is touched.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("the async runtime does not start: {error}")))
}

/// What happens to a piece between input and output.
trait Stage {
    /// How many bytes to read at once, so that whole frames are.
    fn piece_len(&self) -> usize;

    /// Works on the next piece, into `out`, which may grow. Gives the number of bytes written.
    fn update(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<usize, Failure>;

    /// The same at the end of the input.
    fn finish(self, out: &mut Vec<u8>) -> Result<usize, Failure>;
}

impl Stage for Sealer {
    fn piece_len(&self) -> usize {
        PIECE.min(frames_in_piece(self.frame_len()) * self.frame_len())
    }

    fn update(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<usize, Failure> {
        let len = self.update_len(piece.len())?;
        Ok(Self::update(self, piece, room(out, len))?)
    }

    fn finish(self, out: &mut Vec<u8>) -> Result<usize, Failure> {
        let len = self.finish_len();
        Ok(Self::finish(self, room(out, len))?)
    }
}

impl Stage for Opener {
    fn piece_len(&self) -> usize {
        self.frame_len().map_or(PIECE, |len| PIECE.min(frames_in_piece(len) * (len + FRAME_OVERHEAD)))
    }

    fn update(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<usize, Failure> {
        let len = self.update_len(piece.len());
        Ok(Self::update(self, piece, room(out, len))?)
    }

    fn finish(mut self, _: &mut Vec<u8>) -> Result<usize, Failure> {
        Self::finish(&mut self)?;
        Ok(0)
    }
}

/// As many frames as a piece has, with what encryption adds to them; at least one.
fn frames_in_piece(frame_len: usize) -> usize {
    (PIECE / (frame_len + FRAME_OVERHEAD)).max(1)
}

fn room(out: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if out.len() < len {
        out.resize(len, 0);
    }
    &mut out[..len]
}

/// Works on one piece while the one before is written: to a file in memory, writing takes longer than all the rest.
fn transfer(mut input: Input, mut output: Output, stage: impl Stage) -> Result<(), Failure> {
    input.show_progress(Some(&output));
    let (to_writer, filled) = sync_channel::<(Vec<u8>, usize)>(1);
    let (give_back, buffers) = channel();
    // One is filled, one is written, and one is on its way.
    for _ in 0..3 {
        let _ = give_back.send(Vec::new());
    }
    let (fed, written) = thread::scope(|scope| {
        let output = &mut output;
        let write_all = move || {
            for (buffer, len) in filled {
                output.write_all(&buffer[..len])?;
                // Nobody takes it after the end of the input.
                let _ = give_back.send(buffer);
            }
            Ok(())
        };
        let writer = thread::Builder::new().name("writer".into()).spawn_scoped(scope, write_all)?;
        let fed = feed(&mut input, stage, &buffers, to_writer);
        let written: io::Result<()> = writer.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked));
        Ok((fed, written))
    })
    .map_err(|error: io::Error| Failure::new(format!("no thread can be started: {error}")))?;
    written.map_err(|error| Failure::writing(output.name(), &error))?;
    fed?;
    output.finish()
}

/// Sends everything on, until the end of the input or until the writer, which has failed then, takes no more.
fn feed(
    input: &mut Input,
    mut stage: impl Stage,
    buffers: &Receiver<Vec<u8>>,
    to_writer: SyncSender<(Vec<u8>, usize)>,
) -> Result<(), Failure> {
    let mut piece = vec![0; stage.piece_len()];
    loop {
        let len = input.read_piece(&mut piece)?;
        let Ok(mut buffer) = buffers.recv() else { return Ok(()) };
        if len == 0 {
            let len = stage.finish(&mut buffer).map_err(|failure| failure.of(input.name()))?;
            let _ = to_writer.send((buffer, len));
            return Ok(());
        }
        let len = stage.update(&piece[..len], &mut buffer).map_err(|failure| failure.of(input.name()))?;
        if to_writer.send((buffer, len)).is_err() {
            return Ok(());
        }
    }
}
