//! A randomly modified message does not open, neither to a different plaintext nor to the same one. (A message with an
//! equivalent ECDSA signature opens to the same plaintext, but random changes do not find such a signature.)

#![no_main]

use arbitrary::Arbitrary;
use kms_envelope::{AlgorithmSuite, CommitmentPolicy, EncryptionContext, message::Header};
use kms_envelope_fuzz::{LIMITS, builder, open};
use libfuzzer_sys::fuzz_target;
use pollster::block_on;

#[derive(Arbitrary, Debug)]
struct Input {
    suite: u8,
    frame_len: u8,
    pairs: Vec<(String, String)>,
    plaintext: Vec<u8>,
    changes: Vec<Change>,
}

#[derive(Arbitrary, Debug)]
enum Change {
    Set {
        at: u16,
        value: u8,
    },
    Flip {
        at: u16,
        bit: u8,
    },
    Insert {
        at: u16,
        bytes: Vec<u8>,
    },
    Remove {
        at: u16,
        len: u8,
    },
    /// Swaps two frames.
    Swap {
        one: u8,
        other: u8,
    },
    Double {
        frame: u8,
    },
    Truncate {
        len: u16,
    },
}

fn change(message: &mut Vec<u8>, body: usize, frame: usize, change: &Change) {
    let len = message.len();
    let at = |at: u16| usize::from(at) % len.max(1);
    let frame_at = |index: u8| {
        let start = body + usize::from(index) % ((len.saturating_sub(body) / frame).max(1)) * frame;
        (start + frame <= len).then(|| start..start + frame)
    };
    match change {
        _ if len == 0 => {}
        Change::Set { at: place, value } => message[at(*place)] = *value,
        Change::Flip { at: place, bit } => message[at(*place)] ^= 1 << (bit % 8),
        Change::Insert { at: place, bytes } => drop(message.splice(at(*place)..at(*place), bytes.iter().copied())),
        Change::Remove { at: place, len: count } => {
            let end = (at(*place) + usize::from(*count)).min(len);
            drop(message.drain(at(*place)..end));
        }
        Change::Swap { one, other } => {
            if let (Some(one), Some(other)) = (frame_at(*one), frame_at(*other)) {
                for (a, b) in one.zip(other) {
                    message.swap(a, b);
                }
            }
        }
        Change::Double { frame } => {
            if let Some(frame) = frame_at(*frame) {
                let copy = message[frame.clone()].to_vec();
                drop(message.splice(frame.end..frame.end, copy));
            }
        }
        Change::Truncate { len: kept } => message.truncate(at(*kept)),
    }
}

fuzz_target!(|input: Input| {
    let suites: Vec<_> = AlgorithmSuite::all().collect();
    let suite = suites[usize::from(input.suite) % suites.len()];
    let policy = match suite.is_committing() {
        true => CommitmentPolicy::RequireEncryptAllowDecrypt,
        false => CommitmentPolicy::ForbidEncryptAllowDecrypt,
    };
    let frame_len = u32::from(input.frame_len) + 1;
    let envelope = builder().suite(suite).commitment_policy(policy).frame_len(frame_len).build().unwrap();
    let context: EncryptionContext =
        input.pairs.into_iter().filter(|(name, _)| !name.starts_with("aws-crypto-")).collect();
    let Ok(original) = block_on(envelope.seal(&input.plaintext, &context)) else { return };
    assert_eq!(open(&original).unwrap(), input.plaintext);
    let header = Header::parse(&original, &LIMITS).unwrap();
    let mut changed = original.clone();
    for one in input.changes.iter().take(8) {
        change(&mut changed, header.len(), frame_len as usize + 32, one);
    }
    if changed != original {
        assert!(open(&changed).is_err(), "a modified message opens");
    }
});
