//! Binds objects to their paths by the encryption context.

use std::fmt::Write;

use kms_envelope::EncryptionContext;
use sha2::{Digest, Sha256};

/// How the encryption context of an object depends on the object's path.
///
/// A bound object does not open under another path, so nobody who can write to the store can exchange one object for
/// another.
///
/// | binding | an object opens | data keys with a cache | copy and rename |
/// |---|---|---|---|
/// | [`Path`](Self::Path) | under its own path | one for each object | seal the object again |
/// | [`Prefix`](Self::Prefix) | under any path with the same first segments | shared below a prefix | seal again for another prefix |
/// | [`None`](Self::None) | under any path | shared by all objects | copy the sealed object |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Binding {
    /// To the complete path, as the pair `path`, or `path-sha256` (in hexadecimal) if the path is longer than the header
    /// has room for. The crate `sha2` computes the hash, also under
    /// [`require_fips`](kms_envelope::EnvelopeBuilder::require_fips).
    #[default]
    Path,
    /// To the first segments of the path, as the pair `path-prefix` or `path-prefix-sha256`. The last segment, the name
    /// of the object, is never part of the prefix.
    Prefix {
        /// The maximum number of segments.
        segments: usize,
    },
    /// To nothing. Anyone who can write to the store can exchange one object for another.
    None,
}

impl Binding {
    /// The names of the pairs: for the text itself, and for its hash.
    const fn names(self) -> Option<[&'static str; 2]> {
        match self {
            Self::Path => Some(["path", "path-sha256"]),
            Self::Prefix { .. } => Some(["path-prefix", "path-prefix-sha256"]),
            Self::None => None,
        }
    }

    /// Returns the text that an object at this location is bound to.
    pub(crate) fn text(self, location: &str) -> Option<&str> {
        match self {
            Self::Path => Some(location),
            Self::Prefix { segments } => {
                let ends = location.match_indices('/').map(|(end, _)| end);
                Some(&location[..ends.take(segments).last().unwrap_or(0)])
            }
            Self::None => None,
        }
    }
}

/// The encryption contexts of the objects of a store.
#[derive(Debug)]
pub(crate) struct Contexts {
    pub(crate) binding: Binding,
    /// Precedes every location, without a slash at the end.
    pub(crate) base: String,
    /// The pairs of all objects.
    pub(crate) pairs: EncryptionContext,
}

/// How a context states what its object is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    Hash,
}

impl Contexts {
    /// Returns the name of a pair that both the caller and the binding set.
    pub(crate) fn conflict(&self) -> Option<&'static str> {
        self.binding.names().into_iter().flatten().find(|name| self.pairs.get(name).is_some())
    }

    /// Returns the context of an object at this location.
    pub(crate) fn of(&self, location: &str, form: Form) -> EncryptionContext {
        let mut context = self.pairs.clone();
        if let Some(([name, hash_name], text)) = self.binding.names().zip(self.bound_text(location)) {
            match form {
                Form::Text => context.insert(name, text),
                Form::Hash => context.insert(hash_name, hash(&text)),
            };
        }
        context
    }

    /// Returns the context that an object at this location must have, in the form that its header uses.
    pub(crate) fn expected(&self, location: &str, stored: &EncryptionContext) -> EncryptionContext {
        let is_hashed = self
            .binding
            .names()
            .is_some_and(|[name, hash_name]| stored.get(name).is_none() && stored.get(hash_name).is_some());
        self.of(location, if is_hashed { Form::Hash } else { Form::Text })
    }

    /// Returns whether an object has the same context at both locations, so that it can be copied as it is.
    pub(crate) fn are_equal(&self, one: &str, other: &str) -> bool {
        self.binding.text(one) == self.binding.text(other)
    }

    fn bound_text(&self, location: &str) -> Option<String> {
        let text = self.binding.text(location)?;
        Some(if self.base.is_empty() { text.to_owned() } else { format!("{}/{text}", self.base) })
    }
}

fn hash(text: &str) -> String {
    Sha256::digest(text).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contexts(binding: Binding, base: &str) -> Contexts {
        Contexts { binding, base: base.into(), pairs: [("tenant", "acme")].into() }
    }

    #[test]
    fn a_context_has_the_path_below_the_base_and_the_pairs_of_the_store() {
        let context = contexts(Binding::Path, "s3://bucket/data").of("a/b.parquet", Form::Text);
        assert_eq!(context, [("tenant", "acme"), ("path", "s3://bucket/data/a/b.parquet")].into());
        assert_eq!(contexts(Binding::Path, "").of("a", Form::Text).get("path"), Some("a"));
        assert_eq!(contexts(Binding::None, "x").of("a", Form::Text), [("tenant", "acme")].into());
    }

    #[test]
    fn a_hash_is_sha_256_of_the_path_in_hexadecimal() {
        let context = contexts(Binding::Path, "").of("abc", Form::Hash);
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"; // FIPS 180-4, example 1
        assert_eq!(context, [("tenant", "acme"), ("path-sha256", expected)].into());
    }

    #[test]
    fn a_prefix_has_the_first_segments_and_never_the_name() {
        for (location, segments, expected) in [
            ("t/year=1/a", 0, ""),
            ("t/year=1/a", 1, "t"),
            ("t/year=1/a", 2, "t/year=1"),
            ("t/year=1/a", 3, "t/year=1"),
            ("a", 2, ""),
        ] {
            let binding = Binding::Prefix { segments };
            assert_eq!(binding.text(location), Some(expected), "{location} {segments}");
        }
        let context = contexts(Binding::Prefix { segments: 1 }, "base").of("t/x/a", Form::Text);
        assert_eq!(context.get("path-prefix"), Some("base/t"));
    }

    #[test]
    fn the_expected_form_is_that_of_the_header_and_its_value_is_that_of_the_location() {
        let contexts = contexts(Binding::Path, "");
        for form in [Form::Text, Form::Hash] {
            let stored = contexts.of("moved", form);
            assert_eq!(contexts.expected("moved", &stored), stored);
            assert_ne!(contexts.expected("here", &stored), stored);
        }
        assert_eq!(contexts.expected("a", &EncryptionContext::new()).get("path"), Some("a"));
        // A second pair does not replace the first: both would have to match.
        let mut both = contexts.of("elsewhere", Form::Text);
        both.insert("path-sha256", hash("a"));
        assert_eq!(contexts.expected("a", &both).get("path"), Some("a"));
    }
}
