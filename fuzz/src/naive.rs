//! The simplest possible header parser, written from the specification's tables. It parses a complete header and does
//! not report why it refuses one.

use std::collections::BTreeMap;

use crate::LIMITS;

/// The fields of a header.
#[derive(Debug)]
pub struct Fields<'a> {
    pub len: usize,
    pub suite: u16,
    pub message_id: &'a [u8],
    pub context: BTreeMap<String, String>,
    /// The provider id, provider info and ciphertext of each encrypted data key.
    pub keys: Vec<[&'a [u8]; 3]>,
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (field, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(field)
}

fn number(rest: &mut &[u8], len: usize) -> Option<usize> {
    Some(take(rest, len)?.iter().fold(0, |value, byte| value * 256 + usize::from(*byte)))
}

fn prefixed<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = number(rest, 2)?;
    take(rest, len)
}

/// Parses the header at the start of `data`. Returns `None` if there is no valid header.
pub fn header(data: &[u8]) -> Option<Fields<'_>> {
    let mut rest = data;
    let version = number(&mut rest, 1)?;
    if version == 1 && number(&mut rest, 1)? != 0x80 {
        return None;
    }
    let suite = number(&mut rest, 2)? as u16;
    let suites: &[u16] = match version {
        1 => &[0x0014, 0x0046, 0x0078, 0x0114, 0x0146, 0x0178, 0x0214, 0x0346, 0x0378],
        2 => &[0x0478, 0x0578],
        _ => return None,
    };
    if !suites.contains(&suite) {
        return None;
    }
    let message_id = take(&mut rest, if version == 1 { 16 } else { 32 })?;

    let mut pairs = prefixed(&mut rest)?;
    let mut context = BTreeMap::new();
    if !pairs.is_empty() {
        let count = number(&mut pairs, 2)?;
        for _ in 0..count {
            let name = String::from_utf8(prefixed(&mut pairs)?.to_vec()).ok()?;
            let value = String::from_utf8(prefixed(&mut pairs)?.to_vec()).ok()?;
            if context.insert(name, value).is_some() {
                return None;
            }
        }
        if count == 0 || !pairs.is_empty() {
            return None;
        }
    }

    let count = number(&mut rest, 2)?;
    if count == 0 || count > usize::from(LIMITS.encrypted_data_keys) {
        return None;
    }
    let mut keys = Vec::new();
    for _ in 0..count {
        let key = [prefixed(&mut rest)?, prefixed(&mut rest)?, prefixed(&mut rest)?];
        std::str::from_utf8(key[0]).ok()?;
        keys.push(key);
    }

    let content_type = number(&mut rest, 1)?;
    if version == 1 && (number(&mut rest, 4)? != 0 || number(&mut rest, 1)? != 12) {
        return None;
    }
    match (content_type, number(&mut rest, 4)?) {
        (1, 0) => {}
        (2, len) if len > 0 => {}
        _ => return None,
    }
    // The IV and the tag, or the commitment and the tag.
    take(&mut rest, if version == 1 { 12 + 16 } else { 32 + 16 })?;
    let len = data.len() - rest.len();
    (len <= LIMITS.header_len).then_some(Fields { len, suite, message_id, context, keys })
}
