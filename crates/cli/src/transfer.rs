//! Seals and opens from input to output, piece by piece.

use std::{
    io::{self, Write},
    panic,
    sync::mpsc::{Receiver, SyncSender, channel, sync_channel},
    thread,
};

use kms_envelope::{
    message::FRAME_OVERHEAD,
    stream::{Opener, Sealer},
};

use crate::{
    failure::Failure,
    input::{Input, PIECE},
    output::Output,
};

/// The processing of a piece between input and output.
pub(crate) trait Stage {
    /// Returns how many bytes to read at once, a multiple of the frame length.
    fn piece_len(&self) -> usize;

    /// Processes the next piece into `out`, which may grow. Returns the number of bytes written.
    fn update(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<usize, Failure>;

    /// Processes the end of the input, like [`update`](Self::update).
    fn finish(self, out: &mut Vec<u8>) -> Result<usize, Failure>;
}

impl Stage for Sealer {
    fn piece_len(&self) -> usize {
        PIECE.min(frames_in_piece(self.frame_len()) * self.frame_len())
    }

    fn update(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<usize, Failure> {
        let len = self.update_len(piece.len())?;
        Ok(Self::update(self, piece, grow_to(out, len))?)
    }

    fn finish(self, out: &mut Vec<u8>) -> Result<usize, Failure> {
        let len = self.finish_len();
        Ok(Self::finish(self, grow_to(out, len))?)
    }
}

impl Stage for Opener {
    fn piece_len(&self) -> usize {
        self.frame_len().map_or(PIECE, |len| PIECE.min(frames_in_piece(len) * (len + FRAME_OVERHEAD)))
    }

    fn update(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<usize, Failure> {
        let len = self.update_len(piece.len());
        Ok(Self::update(self, piece, grow_to(out, len))?)
    }

    fn finish(mut self, _: &mut Vec<u8>) -> Result<usize, Failure> {
        Self::finish(&mut self)?;
        Ok(0)
    }
}

/// Passes everything through.
#[cfg(feature = "stores")]
pub(crate) struct Unchanged;

#[cfg(feature = "stores")]
impl Stage for Unchanged {
    fn piece_len(&self) -> usize {
        PIECE
    }

    fn update(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<usize, Failure> {
        grow_to(out, piece.len()).copy_from_slice(piece);
        Ok(piece.len())
    }

    fn finish(self, _: &mut Vec<u8>) -> Result<usize, Failure> {
        Ok(0)
    }
}

/// Returns the number of sealed frames in a piece, at least one.
fn frames_in_piece(frame_len: usize) -> usize {
    (PIECE / (frame_len + FRAME_OVERHEAD)).max(1)
}

fn grow_to(out: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if out.len() < len {
        out.resize(len, 0);
    }
    &mut out[..len]
}

/// Processes one piece while the previous one is written: even to a file in memory, writing takes longest.
pub(crate) fn transfer(mut input: Input, mut output: Output, stage: impl Stage) -> Result<(), Failure> {
    if !output.is_terminal() {
        input.show_progress();
    }
    let (to_writer, filled) = sync_channel::<(Vec<u8>, usize)>(1);
    let (give_back, buffers) = channel();
    // One is being filled, one is being written, and one is in the channel.
    for _ in 0..3 {
        let _ = give_back.send(Vec::new());
    }
    let (fed, written) = thread::scope(|scope| {
        let output = &mut output;
        let write_all = move || {
            for (buffer, len) in filled {
                output.write_all(&buffer[..len])?;
                // The receiver is gone after the end of the input.
                let _ = give_back.send(buffer);
            }
            Ok(())
        };
        let writer = thread::Builder::new().name("writer".into()).spawn_scoped(scope, write_all)?;
        let fed = feed(&mut input, stage, &buffers, to_writer);
        let written: io::Result<()> = writer.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked));
        Ok((fed, written))
    })
    .map_err(|error: io::Error| Failure::new(format!("cannot start a thread: {error}")))?;
    // Removes the progress bar before anything is printed.
    drop(input);
    match written.map_err(|error| Failure::writing(output.name(), &error)).and(fed) {
        Ok(()) => output.finish(),
        Err(failure) => Err(output.abandon(failure)),
    }
}

/// Sends all output to the writer, until the end of the input or until the writer has failed.
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
