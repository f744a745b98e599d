#![doc = include_str!("guide/links.md")]
#![doc = include_str!("guide/images.md")]
#![doc = include_str!("../docs/README.md")]

/// Declares a page of the guide: a file of docs/, whose links to other files are replaced by links to items.
///
/// The first definition of a link counts in Markdown, so the definitions in links.md take precedence over those at the
/// end of each file, which are for readers of the repository. The pages' examples are compiled with all features.
macro_rules! pages {
    ($($name:ident = $file:literal)*) => {$(
        #[cfg(any(not(doctest), all(
            feature = "aws-kms", feature = "aws-lc", feature = "branch-key", feature = "ecdh", feature = "key-file", feature = "mock",
            feature = "parallel", feature = "rsa", feature = "stream", feature = "tokio", feature = "tracing",
        )))]
        #[doc = include_str!("guide/links.md")]
        #[doc = include_str!("guide/images.md")]
        #[doc = include_str!(concat!("../docs/", $file))]
        pub mod $name {}
    )*};
}

pages! {
    getting_started = "getting-started.md"
    operations = "operations.md"
    troubleshooting = "troubleshooting.md"
    keys = "keys.md"
    migrating = "migrating.md"
    choosing = "choosing.md"
    security = "security.md"
    performance = "performance.md"
    interop = "interop.md"
    design = "design.md"
}
