//! The argument of `--key`. Its meaning depends on its text alone, not on which files exist.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use kms_envelope::provider::RsaPadding;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum KeySource {
    /// A local key file.
    File(PathBuf),
    /// A file with an RSA key in PEM.
    Rsa(PathBuf),
    /// The ARN of a KMS key or alias, and its region.
    KmsArn { arn: String, region: String },
    /// A KMS alias or key id, in the region of the environment.
    KmsName(String),
    /// A branch key.
    Branch(BranchKeyName),
}

/// The name of a branch key: `TABLE/ID`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BranchKeyName {
    /// The name or ARN of its table.
    pub(crate) table: String,
    /// Its id, which may contain slashes.
    pub(crate) id: String,
}

impl BranchKeyName {
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        // The ARN of a table contains a slash: arn:aws:dynamodb:REGION:ACCOUNT:table/NAME.
        let arn_len =
            if text.starts_with("arn:") { text.find(":table/").map_or(0, |at| at + ":table/".len()) } else { 0 };
        match text[arn_len..].split_once('/') {
            Some((name, id)) if !name.is_empty() && !id.is_empty() => {
                Ok(Self { table: text[..arn_len + name.len()].to_owned(), id: id.to_owned() })
            }
            _ => Err("expected TABLE/ID: the name of a DynamoDB table, and the id of a branch key"),
        }
    }
}

/// The settings of branch keys that their names do not contain.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "aws-kms"), expect(dead_code, reason = "refused without this feature"))]
pub(crate) struct BranchKeyOptions {
    /// The ARN of the KMS key that encrypts them, if it is given.
    pub(crate) kms_key: Option<String>,
    /// The logical key store name, if it is not the table's name.
    pub(crate) key_store: Option<String>,
}

/// The settings of RSA keys that PEM does not contain.
#[derive(Clone, Debug)]
pub(crate) struct RsaOptions {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) padding: RsaPadding,
}

impl KeySource {
    /// Parses the argument. Text that has none of the other forms is a path: `./alias/x` names a file.
    pub(crate) fn parse(text: OsString) -> Result<Self, &'static str> {
        let Some(known) = text.to_str() else { return Self::parse_path(text) };
        if known.is_empty() {
            return Err("it is empty");
        }
        if let Some(path) = known.strip_prefix("rsa:") {
            return if path.is_empty() { Err("the path is missing") } else { Ok(Self::Rsa(path.into())) };
        }
        if let Some(name) = known.strip_prefix("branch:") {
            return BranchKeyName::parse(name).map(Self::Branch);
        }
        if known.starts_with("arn:") {
            return Self::parse_arn(known);
        }
        match known.strip_prefix("alias/") {
            Some("") => Err("expected alias/NAME for a KMS alias; for a file, write ./alias/"),
            Some(_) => Ok(Self::KmsName(known.to_owned())),
            None if is_key_id(known) => Ok(Self::KmsName(known.to_owned())),
            None => Ok(Self::File(text.into())),
        }
    }

    /// Parses text that is not UTF-8, which can only be the path of a local key file or an RSA key.
    fn parse_path(text: OsString) -> Result<Self, &'static str> {
        #[cfg(unix)]
        if let Some(path) = std::os::unix::ffi::OsStrExt::as_bytes(&*text).strip_prefix(b"rsa:") {
            let path: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(path);
            return Ok(Self::Rsa(path.into()));
        }
        let is_like_another =
            [&b"rsa:"[..], b"branch:", b"arn:", b"alias/"].iter().any(|it| text.as_encoded_bytes().starts_with(it));
        if is_like_another {
            Err("it is not UTF-8; to name a file, put ./ in front")
        } else {
            Ok(Self::File(text.into()))
        }
    }

    fn parse_arn(arn: &str) -> Result<Self, &'static str> {
        let parts: Vec<_> = arn.split(':').collect();
        match parts[..] {
            [_, _, "kms", region, _, resource] if !region.is_empty() && !resource.is_empty() => {
                Ok(Self::KmsArn { arn: arn.to_owned(), region: region.to_owned() })
            }
            _ => Err("expected arn:aws:kms:REGION:ACCOUNT:key/ID or arn:aws:kms:REGION:ACCOUNT:alias/NAME"),
        }
    }

    /// Returns whether this is a KMS key, so that each of its uses is a request.
    #[cfg(feature = "stores")]
    pub(crate) fn is_kms(&self) -> bool {
        matches!(self, Self::KmsArn { .. } | Self::KmsName(_))
    }

    /// Returns the path of the key file, if the key is in a file.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) | Self::Rsa(path) => Some(path),
            Self::KmsArn { .. } | Self::KmsName(_) | Self::Branch(_) => None,
        }
    }
}

/// Returns whether two texts name the same key. The ARNs of the replicas of a multi-region key do.
#[cfg(feature = "stores")]
pub(crate) fn is_same_key(one: &str, other: &str) -> bool {
    let replicated =
        |arn: &str| arn.rsplit_once(":key/").map(|(_, id)| id.to_owned()).filter(|id| id.starts_with("mrk-"));
    one == other || replicated(one).is_some_and(|id| replicated(other) == Some(id))
}

/// Returns whether the text looks like a KMS key id: a UUID, or `mrk-` and 32 hexadecimal digits.
fn is_key_id(text: &str) -> bool {
    let is_hex = |text: &str, len| text.len() == len && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match text.strip_prefix("mrk-") {
        Some(digits) => is_hex(digits, 32),
        None => {
            let parts: Vec<_> = text.split('-').collect();
            parts.len() == 5 && parts.iter().zip([8, 4, 4, 4, 12]).all(|(part, len)| is_hex(part, len))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_alone_decides_whether_a_key_is_a_file_or_a_kms_key() {
        let uuid = "1234abcd-12ab-34cd-56ef-1234567890ab";
        let multi_region = "mrk-1234abcd12ab34cd56ef1234567890ab";
        for name in ["alias/backup", "alias/a/b", uuid, multi_region] {
            assert_eq!(KeySource::parse(name.into()), Ok(KeySource::KmsName(name.into())));
        }
        let beside = format!("./{uuid}");
        let with_suffix = format!("{uuid}.key");
        let no_hex = uuid.replace('a', "x");
        let longer = format!("{multi_region}0");
        for path in
            ["backup.key", "alias", "aliases/x", "./alias/x", "/alias/x", "mrk-1", "---- ", &beside, &with_suffix]
                .into_iter()
                .chain([&no_hex[..], &longer])
        {
            assert_eq!(KeySource::parse(path.into()), Ok(KeySource::File(path.into())));
        }
        assert!(KeySource::parse("alias/".into()).is_err());
    }

    #[test]
    fn the_first_slash_separates_the_table_from_the_id_of_a_branch_key() {
        let arn = "arn:aws:dynamodb:eu-west-1:111122223333:table/keys";
        for (table, id) in
            [("keys", "acme"), ("keys", "a/b"), ("keys", "arn:x:/"), ("keys", "/"), (arn, "acme"), (arn, "a/b:table/c")]
        {
            let name = BranchKeyName { table: table.to_owned(), id: id.to_owned() };
            assert_eq!(KeySource::parse(format!("branch:{table}/{id}").into()), Ok(KeySource::Branch(name)));
        }
        for text in ["branch:", "branch:keys", "branch:keys/", "branch:/acme", &format!("branch:{arn}"), "branch:arn:x"]
        {
            assert!(KeySource::parse(text.into()).is_err(), "{text}");
        }
        assert_eq!(KeySource::parse("./branch:keys/acme".into()), Ok(KeySource::File("./branch:keys/acme".into())));
    }

    #[cfg(unix)]
    #[test]
    fn a_path_need_not_be_utf_8() {
        use std::os::unix::ffi::OsStringExt;

        let text = |bytes: &[u8]| OsString::from_vec(bytes.to_owned());
        let path = |bytes: &[u8]| PathBuf::from(text(bytes));
        assert_eq!(KeySource::parse(text(b"rsa:\xff")), Ok(KeySource::Rsa(path(b"\xff"))));
        for file in [&b"\xff"[..], b"./rsa:\xff", b"./alias/\xff"] {
            assert_eq!(KeySource::parse(text(file)), Ok(KeySource::File(path(file))));
        }
        for other in [&b"arn:\xff"[..], b"alias/\xff", b"branch:table/\xff"] {
            assert!(KeySource::parse(text(other)).is_err());
        }
    }
}
