//! The arguments that name a file or an object in a store. Their meaning depends on their text alone.

use std::{
    borrow::Cow,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

#[cfg(feature = "stores")]
use url::Url;

#[cfg(feature = "stores")]
use crate::stores;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Place {
    File(PathBuf),
    /// An object or a folder in a store. It has neither a password nor a query.
    #[cfg(feature = "stores")]
    Object(Url),
}

impl Place {
    /// Parses the argument. Text that does not begin with `SCHEME://` is a path: `./s3://x` names a file.
    pub(crate) fn parse(text: OsString) -> Result<Self, String> {
        let known = text.to_string_lossy();
        if !has_scheme(&known) {
            return Ok(Self::File(text.into()));
        }
        #[cfg(feature = "stores")]
        return stores::parse_url(&known).map(Self::Object);
        #[cfg(not(feature = "stores"))]
        Err("URLs need the feature `stores`, which this build of kms-envelope does not have: `cargo install \
             kms-envelope-cli --features stores`; to name a file, put ./ in front"
            .into())
    }

    /// Returns the path of a file, which may also be given as `file://` URL.
    pub(crate) fn file(&self) -> Option<Cow<'_, Path>> {
        match self {
            Self::File(path) => Some(path.into()),
            #[cfg(feature = "stores")]
            Self::Object(url) if url.scheme() == "file" => url.to_file_path().ok().map(Cow::Owned),
            #[cfg(feature = "stores")]
            Self::Object(_) => None,
        }
    }

    /// Returns the URL, if it is one.
    #[cfg(feature = "stores")]
    pub(crate) fn url(&self) -> Option<&Url> {
        match self {
            Self::File(_) => None,
            Self::Object(url) => Some(url),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            #[cfg(feature = "stores")]
            Self::Object(url) => url.fmt(f),
        }
    }
}

fn has_scheme(text: &str) -> bool {
    let Some((scheme, _)) = text.split_once("://") else { return false };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// Returns a text in which the passwords, queries and fragments of URLs are masked, because they may hold credentials.
pub(crate) fn masked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        let end = after.find(|c: char| c.is_whitespace() || "'\"<>`)".contains(c)).unwrap_or(after.len());
        let (url, next) = after.split_at(end);
        let (path, is_cut) = url.find(['?', '#']).map_or((url, false), |at| (&url[..at], true));
        match path.rsplit_once('@') {
            // A secret may contain slashes. A path of a bucket may contain colons.
            Some((user, host)) if user.split('/').next().is_some_and(|start| start.contains(':')) => {
                out.push_str("…@");
                out.push_str(host);
            }
            _ => out.push_str(path),
        }
        if is_cut {
            out.push_str("?…");
        }
        rest = next;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_with_a_scheme_and_two_slashes_is_a_url() {
        for path in ["a", "./s3://bucket/a", "s3:/bucket/a", "/s3://x", "://x", "1a://x", "a b://x", "-", ""] {
            assert_eq!(Place::parse(path.into()), Ok(Place::File(path.into())), "{path}");
        }
        assert!(has_scheme("s3://bucket/a") && has_scheme("S3://bucket/a") && has_scheme("x+y-z.1://"));
    }

    #[test]
    fn what_may_be_a_credential_in_a_url_is_masked() {
        for (text, expected) in [
            ("no URL: a?b#c", "no URL: a?b#c"),
            ("s3://key:SECRET@bucket/a", "s3://…@bucket/a"),
            ("s3://key:SEC/RET+@bucket/a", "s3://…@bucket/a"),
            (
                "GET https://a.blob.core.windows.net/c/d?sv=1&sig=SECRET in 1s",
                "GET https://a.blob.core.windows.net/c/d?… in 1s",
            ),
            ("'gs://b/a#SECRET' and 'az://x:SECRET@y'", "'gs://b/a?…' and 'az://…@y'"),
            ("abfss://container@account.dfs.core.windows.net/a", "abfss://container@account.dfs.core.windows.net/a"),
            ("s3://bucket/a:b@c", "s3://bucket/a:b@c"),
        ] {
            assert_eq!(masked(text), expected);
        }
    }
}
