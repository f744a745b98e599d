//! The data that a cached data key depends on.

use std::collections::BTreeSet;

use crate::{context::EncryptionContext, entry_cache::Subject, suite::AlgorithmSuite};

/// The data that an entry depends on, in addition to the encrypted data keys.
#[derive(Debug)]
pub(super) struct DataKeySubject<'a> {
    pub(super) partition: u64,
    pub(super) suite: AlgorithmSuite,
    pub(super) contexts: Contexts<'a>,
}

/// The contexts that an entry depends on.
#[derive(Debug)]
pub(super) enum Contexts<'a> {
    Sealing {
        context: &'a EncryptionContext,
        /// The names of the pairs that are not stored.
        required: &'a BTreeSet<String>,
    },
    Opening {
        /// The pairs that the message stores, serialized.
        stored: &'a [u8],
        /// The other pairs.
        not_stored: &'a EncryptionContext,
    },
}

impl Subject for DataKeySubject<'_> {
    /// The numbers and lengths of parts are in front of them.
    fn feed(&self, sink: &mut dyn FnMut(&[u8])) {
        let (kind, pairs, other) = match self.contexts {
            Contexts::Sealing { context, required } => (0, context, required.len()),
            Contexts::Opening { stored, not_stored } => (1, not_stored, stored.len()),
        };
        // In one piece, because each call costs more than the bytes.
        let mut start = [0; 8 + 1 + 2 + 16];
        start[..8].copy_from_slice(&self.partition.to_be_bytes());
        start[8] = kind;
        start[9..11].copy_from_slice(&self.suite.id().to_be_bytes());
        start[11..].copy_from_slice(&two_lens(pairs.len(), other));
        sink(&start);
        for (name, value) in pairs {
            sink(&two_lens(name.len(), value.len()));
            sink(name.as_bytes());
            sink(value.as_bytes());
        }
        match self.contexts {
            Contexts::Sealing { required, .. } => {
                for name in required {
                    sink(&two_lens(name.len(), 0));
                    sink(name.as_bytes());
                }
            }
            Contexts::Opening { stored, .. } => sink(stored),
        }
    }
}

fn two_lens(one: usize, other: usize) -> [u8; 16] {
    let mut lens = [0; 16];
    lens[..8].copy_from_slice(&(one as u64).to_be_bytes());
    lens[8..].copy_from_slice(&(other as u64).to_be_bytes());
    lens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(subject: &DataKeySubject<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        subject.feed(&mut |part| bytes.extend_from_slice(part));
        bytes
    }

    #[test]
    fn different_subjects_have_different_bytes() {
        let context = |pairs: &[(&str, &str)]| pairs.iter().collect::<EncryptionContext>();
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        let contexts = [context(&[]), context(&[("a", "")]), context(&[("", "a")]), context(&[("a", ""), ("b", "")])];
        let required = [names(&[]), names(&["a"]), names(&["a", "b"]), names(&["ab"])];
        let stored = contexts.each_ref().map(|context| context.serialize().unwrap());
        let mut all = Vec::new();
        for context in &contexts {
            all.extend(required.iter().map(|required| Contexts::Sealing { context, required }));
            all.extend(stored.iter().map(|stored| Contexts::Opening { stored, not_stored: context }));
        }
        let suite = AlgorithmSuite::default();
        let subjects: Vec<_> =
            all.into_iter().map(|contexts| DataKeySubject { partition: 0, suite, contexts }).collect();
        for (index, one) in subjects.iter().enumerate() {
            for (other_index, other) in subjects.iter().enumerate() {
                assert_eq!(bytes(other).starts_with(&bytes(one)), index == other_index, "{one:?} {other:?}");
            }
        }
    }
}
