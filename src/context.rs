//! The encryption context.

use std::collections::{BTreeMap, HashMap, btree_map};

use bytes::BufMut;

use crate::error::{ContextError, FormatError};

/// Names with this prefix are reserved (specification, `framework/structures.md`, "Encryption Context").
const RESERVED_PREFIX: &str = "aws-crypto-";

/// The name under which a signed message stores its public key.
pub(crate) const PUBLIC_KEY_NAME: &str = "aws-crypto-public-key";

/// The maximum length of a serialized context: its length field has 16 bits.
const MAX_SERIALIZED_LEN: usize = u16::MAX as usize;

/// Name-value pairs that are authenticated with a message but **not secret**.
///
/// Use the context to describe the data and its owner, such as a tenant or a table. A message opens only if its context
/// contains the pairs that you pass to [`open`](crate::Envelope::open). The context is stored unencrypted in the
/// message's header, except for a [required encryption context](crate::EnvelopeBuilder::required_context), and is sent
/// to the key provider with every call. AWS KMS [logs it in CloudTrail and can use it as a condition of
/// access](https://docs.aws.amazon.com/kms/latest/developerguide/encrypt_context.html), so do not put secrets into it.
/// Names that begin with `aws-crypto-` are reserved. The message format allows at most 65,535 bytes for the serialized
/// context.
///
/// ```
/// use kms_envelope::EncryptionContext;
///
/// let context = EncryptionContext::from([("tenant", "acme"), ("purpose", "invoices")]);
/// assert_eq!(context.get("tenant"), Some("acme"));
///
/// // A context can be built from any map or iterator of pairs of strings. If a name is repeated, the last value wins.
/// let labels = std::collections::HashMap::from([("tenant", "acme"), ("purpose", "invoices")]);
/// assert_eq!(EncryptionContext::from(labels.clone()), context);
/// assert_eq!(labels.iter().collect::<EncryptionContext>(), context);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EncryptionContext(BTreeMap<String, String>);

impl EncryptionContext {
    /// Creates an empty context.
    pub fn new() -> Self {
        Self::default()
    }

    /// Inserts a pair. Returns the name's previous value, if it had one.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<String>) -> Option<String> {
        self.0.insert(name.into(), value.into())
    }

    /// Returns the value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Returns the number of pairs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether the context has no pairs.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns an iterator over the pairs, sorted by the UTF-8 bytes of their names.
    pub fn iter(&self) -> Iter<'_> {
        Iter(self.0.iter())
    }

    /// Serializes the context in its canonical form, as the message format stores it: no bytes for an empty context,
    /// otherwise `count || (len || name || len || value)*`, sorted by name. Counts and lengths are 16-bit integers. See
    /// the [specification](https://github.com/awslabs/aws-encryption-sdk-specification/blob/master/framework/structures.md#serialization).
    ///
    /// # Errors
    /// Returns [`ContextError::TooLong`] if the result would have more than 65,535 bytes.
    pub fn serialize(&self) -> Result<Vec<u8>, ContextError> {
        let mut out = Vec::new();
        self.serialize_into(&mut out)?;
        Ok(out)
    }

    /// Appends the canonical form.
    pub(crate) fn serialize_into(&self, out: &mut Vec<u8>) -> Result<(), ContextError> {
        out.reserve(self.serialized_len()?);
        if self.is_empty() {
            return Ok(());
        }
        put_u16_len(out, self.len());
        for text in self.iter().flat_map(|(name, value)| [name, value]) {
            put_u16_len(out, text.len());
            out.put_slice(text.as_bytes());
        }
        Ok(())
    }

    /// Returns the length of the canonical form, or an error if it exceeds the maximum.
    pub(crate) fn serialized_len(&self) -> Result<usize, ContextError> {
        check_serialized_len(if self.is_empty() { 0 } else { 2 + self.pairs_len() })
    }

    /// Returns the serialized length of the pairs, without their number.
    /// Returns the estimated memory of the pairs.
    pub(crate) fn held_bytes(&self) -> usize {
        /// The memory of a pair in addition to its name and value.
        const PAIR_OVERHEAD: usize = 64;
        self.iter().map(|(name, value)| PAIR_OVERHEAD + name.len() + value.len()).sum()
    }

    fn pairs_len(&self) -> usize {
        self.iter().map(|(name, value)| 4 + name.len() + value.len()).sum()
    }

    /// Parses a serialized context. `bytes` contains nothing else. The pairs can be in any order, because some SDKs do
    /// not sort them.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut pairs = BTreeMap::new();
        for pair in SerializedPairs::new(bytes) {
            let (name, value) = texts(pair?)?;
            if pairs.insert(name.to_owned(), value.to_owned()).is_some() {
                return Err(FormatError::Context("a name is repeated"));
            }
        }
        Ok(Self(pairs))
    }

    /// Returns the context without the pairs that have a reserved name.
    pub(crate) fn without_reserved_names(&self) -> Self {
        self.iter().filter(|(name, _)| !name.starts_with(RESERVED_PREFIX)).collect()
    }

    /// Returns an error if the context has a reserved name.
    pub(crate) fn check_no_reserved_names(&self) -> Result<(), ContextError> {
        match self.0.keys().find(|name| name.starts_with(RESERVED_PREFIX)) {
            Some(name) => Err(ContextError::ReservedName { name: name.clone() }),
            None => Ok(()),
        }
    }
}

fn check_serialized_len(len: usize) -> Result<usize, ContextError> {
    if len > MAX_SERIALIZED_LEN { Err(ContextError::TooLong { len }) } else { Ok(len) }
}

fn put_u16_len(out: &mut Vec<u8>, len: usize) {
    // The caller has checked the total, and every part is shorter.
    out.put_u16(u16::try_from(len).expect("checked against MAX_SERIALIZED_LEN"));
}

fn take_u16(bytes: &mut &[u8]) -> Option<u16> {
    let (value, rest) = bytes.split_first_chunk::<2>()?;
    *bytes = rest;
    Some(u16::from_be_bytes(*value))
}

fn take_text<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], FormatError> {
    let truncated = FormatError::Context("a name or value is truncated");
    let Some(len) = take_u16(bytes) else { return Err(truncated) };
    let Some((text, rest)) = bytes.split_at_checked(usize::from(len)) else { return Err(truncated) };
    *bytes = rest;
    Ok(text)
}

fn texts<'a>((name, value): (&'a [u8], &'a [u8])) -> Result<(&'a str, &'a str), FormatError> {
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| FormatError::Context("a name or value is not UTF-8"));
    Ok((text(name)?, text(value)?))
}

/// The pairs of a serialized context, in its order, which may not be UTF-8. The iterator ends after the first error.
struct SerializedPairs<'a> {
    bytes: &'a [u8],
    /// The number of pairs that follow. `None` at the start.
    left: Option<u16>,
}

impl<'a> SerializedPairs<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, left: None }
    }

    fn take(&mut self) -> Result<(&'a [u8], &'a [u8]), FormatError> {
        let malformed = |what| Err(FormatError::Context(what));
        let left = match self.left {
            Some(left) => left,
            None => match take_u16(&mut self.bytes) {
                None => return malformed("the number of pairs is truncated"),
                Some(0) => return malformed("its length is not zero, but it has no pairs"),
                Some(count) => count,
            },
        };
        let Some(left) = left.checked_sub(1) else { return malformed("trailing bytes after the last pair") };
        self.left = Some(left);
        Ok((take_text(&mut self.bytes)?, take_text(&mut self.bytes)?))
    }
}

impl<'a> Iterator for SerializedPairs<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() && self.left.unwrap_or(0) == 0 {
            return None;
        }
        let pair = self.take();
        if pair.is_err() {
            (self.bytes, self.left) = (&[], None);
        }
        Some(pair)
    }
}

/// A valid serialized context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SerializedContext<'a> {
    bytes: &'a [u8],
    is_sorted: bool,
}

impl<'a> SerializedContext<'a> {
    /// Checks a serialized context like [`EncryptionContext::parse`]. A sorted one is not copied.
    pub(crate) fn check(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let mut last = None;
        for pair in SerializedPairs::new(bytes) {
            let name = Some(texts(pair?)?.0);
            if last >= name {
                EncryptionContext::parse(bytes)?;
                return Ok(Self { bytes, is_sorted: false });
            }
            last = name;
        }
        Ok(Self { bytes, is_sorted: true })
    }

    /// Creates a context from the bytes and the result of an earlier check.
    pub(crate) fn new(bytes: &'a [u8], is_sorted: bool) -> Self {
        Self { bytes, is_sorted }
    }

    /// Returns whether the pairs are sorted like those of an [`EncryptionContext`].
    pub(crate) fn is_sorted(self) -> bool {
        self.is_sorted
    }

    pub(crate) fn as_bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// Returns an error if this context would be too long with these pairs.
    pub(crate) fn check_len_with(self, more: &EncryptionContext) -> Result<(), ContextError> {
        check_serialized_len(self.bytes.len().max(2) + more.pairs_len()).map(drop)
    }

    /// Returns the UTF-8 bytes of the pairs, in their order in the context.
    pub(crate) fn pairs(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        SerializedPairs::new(self.bytes).map_while(Result::ok)
    }

    pub(crate) fn parse(self) -> EncryptionContext {
        self.pairs().map_while(|pair| texts(pair).ok()).collect()
    }
}

impl<K: AsRef<str>, V: AsRef<str>, const N: usize> From<[(K, V); N]> for EncryptionContext {
    fn from(pairs: [(K, V); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl<K: AsRef<str>, V: AsRef<str>> From<Vec<(K, V)>> for EncryptionContext {
    fn from(pairs: Vec<(K, V)>) -> Self {
        pairs.into_iter().collect()
    }
}

impl<K: AsRef<str>, V: AsRef<str>> From<BTreeMap<K, V>> for EncryptionContext {
    fn from(pairs: BTreeMap<K, V>) -> Self {
        pairs.into_iter().collect()
    }
}

impl<K: AsRef<str>, V: AsRef<str>, S> From<HashMap<K, V, S>> for EncryptionContext {
    fn from(pairs: HashMap<K, V, S>) -> Self {
        pairs.into_iter().collect()
    }
}

impl<'a, K: AsRef<str> + 'a, V: AsRef<str> + 'a> FromIterator<&'a (K, V)> for EncryptionContext {
    fn from_iter<I: IntoIterator<Item = &'a (K, V)>>(pairs: I) -> Self {
        pairs.into_iter().map(|(name, value)| (name, value)).collect()
    }
}

impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for EncryptionContext {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.as_ref().to_owned(), value.as_ref().to_owned())).collect())
    }
}

impl<K: AsRef<str>, V: AsRef<str>> Extend<(K, V)> for EncryptionContext {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, pairs: I) {
        self.0.extend(pairs.into_iter().map(|(name, value)| (name.as_ref().to_owned(), value.as_ref().to_owned())));
    }
}

impl<'a> IntoIterator for &'a EncryptionContext {
    type Item = (&'a str, &'a str);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// An iterator over the pairs of an [`EncryptionContext`], sorted by the UTF-8 bytes of their names.
#[derive(Clone, Debug)]
pub struct Iter<'a>(btree_map::Iter<'a, String, String>);

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Iter<'_> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_context_takes_no_bytes() {
        assert_eq!(EncryptionContext::new().serialize().unwrap(), b"");
    }

    #[test]
    fn a_context_is_made_from_any_map_or_list_of_pairs() {
        let expected = EncryptionContext::from([("a", "1"), ("b", "2")]);
        let owned = || [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())];
        let (list, hashed, sorted) = (Vec::from(owned()), HashMap::from(owned()), BTreeMap::from(owned()));
        assert_eq!(list.iter().collect::<EncryptionContext>(), expected);
        assert_eq!(hashed.iter().collect::<EncryptionContext>(), expected);
        assert_eq!(sorted.iter().collect::<EncryptionContext>(), expected);
        assert_eq!(EncryptionContext::from(list), expected);
        assert_eq!(EncryptionContext::from(hashed), expected);
        assert_eq!(EncryptionContext::from(sorted), expected);
        assert_eq!([("b", "2"), ("a", "1")].iter().collect::<EncryptionContext>(), expected);
        let mut extended = EncryptionContext::new();
        extended.extend(&expected);
        assert_eq!(extended, expected);
    }

    #[test]
    fn pairs_are_sorted_by_the_utf8_bytes_of_their_names() {
        // In UTF-16, as some languages sort, U+10000 comes before U+FF61.
        let context = EncryptionContext::from([("\u{10000}", ""), ("\u{ff61}", "v")]);
        assert_eq!(context.serialize().unwrap(), b"\0\x02\0\x03\xef\xbd\xa1\0\x01v\0\x04\xf0\x90\x80\x80\0\0");
    }

    #[test]
    fn a_context_of_65535_bytes_fits_and_of_65536_does_not() {
        let fits = EncryptionContext::from([("k", "v".repeat(65_535 - 7))]);
        assert_eq!(fits.serialize().unwrap().len(), 65_535);
        let exceeds = EncryptionContext::from([("k", "v".repeat(65_535 - 6))]);
        assert!(matches!(exceeds.serialize(), Err(ContextError::TooLong { len: 65_536 })));
    }

    #[test]
    fn pairs_out_of_order_are_read() {
        let read = EncryptionContext::parse(b"\0\x02\0\x01b\0\x01B\0\x01a\0\x01A").unwrap();
        assert_eq!(read, EncryptionContext::from([("a", "A"), ("b", "B")]));
        let checked = SerializedContext::check(b"\0\x02\0\x01b\0\x01B\0\x01a\0\x01A").unwrap();
        assert_eq!((checked.is_sorted(), checked.parse()), (false, read));
    }

    #[test]
    fn malformed_contexts_are_refused() {
        for bytes in [
            &b"\0"[..],
            b"\0\0",
            b"\0\x01",
            b"\0\x01\0\x01",
            b"\0\x01\0\x01a",
            b"\0\x01\0\x01a\0\x01",
            b"\0\x01\0\x01a\0\x01A!",
            b"\0\x01\0\x01\xff\0\x01A",
            b"\0\x02\0\x01a\0\x01A\0\x01a\0\x01B",
        ] {
            let refused = EncryptionContext::parse(bytes).unwrap_err();
            assert_eq!(SerializedContext::check(bytes).unwrap_err(), refused, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_serialized_is_read_back(pairs in proptest::collection::btree_map(".{0,9}", ".{0,9}", 0..9)) {
            let context: EncryptionContext = pairs.into_iter().collect();
            prop_assert_eq!(EncryptionContext::parse(&context.serialize().unwrap()).unwrap(), context);
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..99)) {
            match (EncryptionContext::parse(&bytes), SerializedContext::check(&bytes)) {
                (Ok(context), Ok(checked)) => {
                    prop_assert_eq!(context.serialize().unwrap().len(), bytes.len());
                    prop_assert_eq!(checked.is_sorted(), context.serialize().unwrap() == bytes);
                    prop_assert_eq!(checked.parse(), context);
                }
                (parsed, checked) => prop_assert_eq!(parsed.unwrap_err(), checked.unwrap_err()),
            }
        }
    }
}
