//! Stores for URLs.

use url::Url;

use super::{
    super::object_store::{self, ObjectStore, Result, path::Path},
    EncryptedStore, STORE,
};
use crate::StoreSettings;

impl EncryptedStore<Box<dyn ObjectStore>> {
    /// Creates a store for the bucket, container or file system of a URL, and returns it with the URL's path in it.
    ///
    /// The URL, the features that its scheme needs and the options are those of object_store's `parse_url_opts`.
    /// If the settings have no [base](StoreSettings::base), the base is the part of the URL that precedes the path, such
    /// as `s3://my-bucket`. All programs that share the objects must then spell it in the same way.
    ///
    /// # Errors
    /// Returns the errors of `parse_url_opts`, and `Generic` with a [`SettingsError`](crate::SettingsError) as source if
    /// the settings are not valid.
    pub fn parse_url_opts<I, K, V>(url: &Url, options: I, settings: StoreSettings) -> Result<(Self, Path)>
    where
        I: IntoIterator<Item = (K, V)>,
        K: AsRef<str>,
        V: Into<String>,
    {
        let (inner, path) = object_store::parse_url_opts(url, options)?;
        let settings = settings.default_base(Self::base_of(url, &path));
        let store = Self::new(inner, settings)
            .map_err(|error| object_store::Error::Generic { store: STORE, source: Box::new(error) })?;
        Ok((store, path))
    }

    /// Returns the part of a URL that precedes this path, with a slash at the end: the base that
    /// [`parse_url_opts`](Self::parse_url_opts) sets.
    pub fn base_of(url: &Url, path: &Path) -> String {
        let mut base = url.clone();
        base.set_query(None);
        base.set_fragment(None);
        if let Ok(mut segments) = base.path_segments_mut() {
            segments.pop_if_empty();
            for _ in path.parts() {
                segments.pop();
            }
            segments.push("");
        }
        base.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base_of(url: &str, path: &str) -> String {
        EncryptedStore::base_of(&Url::parse(url).unwrap(), &Path::parse(path).unwrap())
    }

    #[test]
    fn the_base_is_the_part_of_the_url_before_the_path() {
        assert_eq!(base_of("s3://bucket/a/b%20c", "a/b c"), "s3://bucket/");
        assert_eq!(base_of("s3://bucket/a/b/", "a/b"), "s3://bucket/");
        assert_eq!(base_of("s3://bucket", ""), "s3://bucket/");
        assert_eq!(base_of("file:///data/x", "data/x"), "file:///");
        assert_eq!(base_of("memory:///", ""), "memory:///");
        assert_eq!(
            base_of("https://account.blob.core.windows.net/container/a?b#c", "a"),
            "https://account.blob.core.windows.net/container/"
        );
    }
}
