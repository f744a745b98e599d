//! Compares kms-envelope with other libraries, on the same data in one run: `cargo run --release -- --help`.

mod peers;

use std::{path::PathBuf, process::Command, time::Instant};

use clap::Parser;

use crate::peers::{Age, AwsEsdk, AwsLc, Envelopers, KmsEnvelope, Memcpy, Peer, Result, RustCrypto, Tink};

/// Seals and opens the same data with kms-envelope and with other libraries in turn, and prints the medians
#[derive(Parser)]
struct Args {
    /// The amount of data, in MiB
    #[arg(long, default_value_t = 64)]
    mib: usize,
    /// How many times each library seals and opens the data
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// A Python with the packages of tests/python/requirements.txt; also measures AWS's SDK for Python
    #[arg(long)]
    python: Option<PathBuf>,
}

const SMALL: usize = 1024;
/// The number of small messages that are timed together.
const SMALL_BATCH: u32 = 200;

struct Row {
    name: &'static str,
    peer: Result<Box<dyn Peer>>,
    overhead: usize,
    /// Seconds for sealing, opening, sealing a small message, opening a small message.
    times: [Vec<f64>; 4],
    failed: Option<String>,
}

fn rows() -> Vec<Row> {
    fn boxed<P: Peer + 'static>(peer: Result<P>) -> Result<Box<dyn Peer>> {
        peer.map(|peer| Box::new(peer) as _)
    }
    let rows = [
        ("memcpy", boxed(Ok(Memcpy))),
        ("bare aws-lc-rs, 4 KiB frames", boxed(AwsLc::new(4096))),
        ("bare aws-lc-rs, 64 KiB frames", boxed(AwsLc::new(65_536))),
        ("bare aes-gcm, 64 KiB frames", boxed(Ok(RustCrypto::new(65_536)))),
        ("**kms-envelope**, 4 KiB frames", boxed(KmsEnvelope::new(4096, 1))),
        ("**kms-envelope**, 64 KiB frames", boxed(KmsEnvelope::new(65_536, 1))),
        ("**kms-envelope**, 64 KiB frames, 2 threads", boxed(KmsEnvelope::new(65_536, 2))),
        ("aws-esdk, 4 KiB frames", boxed(AwsEsdk::new(4096))),
        ("aws-esdk, 64 KiB frames", boxed(AwsEsdk::new(65_536))),
        ("age", boxed(Ok(Age::new()))),
        ("tink-streaming-aead, 4 KiB", boxed(Tink::new(&tink_streaming_aead::aes256_gcm_hkdf_4kb_key_template()))),
        ("tink-streaming-aead, 1 MiB", boxed(Tink::new(&tink_streaming_aead::aes256_gcm_hkdf_1mb_key_template()))),
        ("envelopers", boxed(Ok(Envelopers::new()))),
    ];
    rows.into_iter()
        .map(|(name, peer)| Row { name, peer, overhead: 0, times: Default::default(), failed: None })
        .collect()
}

impl Row {
    fn round(&mut self, data: &[u8], [sealed, opened]: &mut [Vec<u8>; 2]) -> Result<()> {
        let peer = self.peer.as_ref().map_err(|error| error.to_string())?;
        let timed = |times: &mut Vec<f64>, repeat: u32, work: &mut dyn FnMut() -> Result<()>| {
            let start = Instant::now();
            for _ in 0..repeat {
                work()?;
            }
            times.push(start.elapsed().as_secs_f64() / f64::from(repeat));
            Result::Ok(())
        };
        let [seal, open, seal_small, open_small] = &mut self.times;
        timed(seal, 1, &mut || peer.seal(data, sealed))?;
        timed(open, 1, &mut || peer.open(sealed, opened))?;
        if opened != data {
            return Err("it opened to something else".into());
        }
        let (small, mut sealed, mut opened) = (&data[..SMALL], Vec::new(), Vec::new());
        timed(seal_small, SMALL_BATCH, &mut || peer.seal(small, &mut sealed))?;
        timed(open_small, SMALL_BATCH, &mut || peer.open(&sealed, &mut opened))?;
        if opened != small {
            return Err("it opened to something else".into());
        }
        self.overhead = sealed.len() - SMALL;
        Ok(())
    }

    fn print(&self, len: usize) {
        if let Some(failed) = &self.failed {
            println!("| {} | failed: {failed} | | | | |", self.name);
            return;
        }
        let median = |times: &[f64]| {
            let mut times = times.to_vec();
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        };
        let [seal, open, seal_small, open_small] = self.times.each_ref().map(|times| median(times));
        let rate = |seconds: f64| len as f64 / seconds / 1e6;
        let (seal_small, open_small) = (seal_small * 1e6, open_small * 1e6);
        let (name, overhead) = (self.name, self.overhead);
        println!("| {name} | {:.0} | {:.0} | {seal_small:.1} | {open_small:.1} | {overhead} |", rate(seal), rate(open));
    }
}

fn main() -> Result<()> {
    // aws-esdk's use of the stack grows with the number of frames.
    std::thread::Builder::new().stack_size(4 << 30).spawn(|| measure(&Args::parse()))?.join().expect("no panic");
    Ok(())
}

fn measure(args: &Args) {
    let len = args.mib << 20;
    let mut data = vec![0; len];
    rand::Rng::fill_bytes(&mut rand::rng(), &mut data);
    // Written to once and never shortened, so that no library pays for page faults in memory that it reuses.
    let fresh = || [vec![1; len + len / 64 + 4096], vec![1; len]];
    let mut buffers = fresh();
    let mut rows = rows();
    for round in 1..=args.rounds {
        for row in &mut rows {
            eprint!("\rround {round} of {}: {:50}", args.rounds, row.name);
            if row.failed.is_none() {
                row.failed = row.round(&data, &mut buffers).err().map(|error| error.to_string());
            }
            // Some libraries have replaced the buffer with their own.
            buffers = fresh();
        }
    }
    eprintln!();
    println!("{} MiB and {SMALL} bytes of random data; medians of {} rounds.\n", args.mib, args.rounds);
    println!("| | sealing, MB/s | opening, MB/s | sealing {SMALL} B, µs | opening {SMALL} B, µs | added bytes |");
    println!("|---|---|---|---|---|---|");
    rows.iter().for_each(|row| row.print(len));
    if let Some(python) = &args.python {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python_sdk.py");
        let arguments = [script.into(), args.mib.to_string(), args.rounds.to_string()];
        match Command::new(python).args(arguments).status() {
            Ok(status) if status.success() => {}
            failed => println!("| AWS's SDK for Python | failed: {failed:?} | | | | |"),
        }
    }
}
