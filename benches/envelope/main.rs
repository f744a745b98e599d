//! The cost of sealing and opening, each with an upper bound from the same run: the bare AEAD on the same frames, a copy
//! in memory, or a plain loop over files.
//!
//! Run `cargo bench -p kms-envelope-benches`, then `python3 benches/report.py` for the tables and the
//! chart of docs/performance.md.

mod bare;
mod branch_keys;
mod cached;
mod events;
mod headers;
mod many;
mod ranges;
mod signed;
mod small;
mod streams;
mod whole;

use std::time::Duration;

use criterion::{Criterion, criterion_group};
use kms_envelope::{Backend, EncryptionContext, Envelope, EnvelopeBuilder, RawAes};

const MIB: usize = 1 << 20;

const BACKENDS: &[Backend] = Backend::ALL;

fn builder(frame_len: usize) -> EnvelopeBuilder {
    let key = RawAes::generate("bench", "key").unwrap();
    Envelope::builder(key).frame_len(u32::try_from(frame_len).unwrap())
}

fn context() -> EncryptionContext {
    EncryptionContext::from([("tenant", "acme")])
}

/// Returns memory that has been written to, so that the benchmark does not measure page faults.
fn buffer(len: usize) -> Vec<u8> {
    vec![1; len]
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = whole::benches, small::benches, cached::benches, branch_keys::benches, many::benches, signed::benches, streams::benches, ranges::benches, headers::benches
}

fn main() {
    events::print();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
