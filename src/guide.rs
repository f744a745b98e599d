//! The manual, page by page.
//!
#![doc = include_str!("guide/links.md")]
#![doc = include_str!("../docs/README.md")]

/// Declares the pages of the guide, each with its file in docs/ and a summary.
///
/// The files link to each other by path, for readers of the repository. In Markdown, the first definition of a link label
/// counts, so the definitions in links.md and images.md replace those at the end of each file. The examples of the pages
/// are compiled if the feature `full` is on.
macro_rules! pages {
    ($($name:ident = $file:literal, $summary:literal;)*) => {$(
        #[doc = $summary]
        #[doc = ""]
        #[doc = include_str!("guide/links.md")]
        #[doc = include_str!("guide/images.md")]
        #[cfg_attr(any(not(doctest), feature = "full"), doc = include_str!(concat!("../docs/", $file)))]
        pub mod $name {}
    )*};
}

pages! {
    getting_started = "getting-started.md", "Encrypt with AWS KMS or a local key, stream a file, and test without KMS.";
    keys = "keys.md", "Choose key providers, cache data keys, rotate and change keys, and separate tenants.";
    branch_keys = "branch-keys.md", "Choose a key hierarchy; set up, permit, rotate and migrate branch keys.";
    object_stores = "object-stores.md", "Encrypt the objects of S3, other stores and folders, for programs that use object_store.";
    data_lakes = "data-lakes.md", "Query encrypted tables with DataFusion: setup, costs, sizing.";
    retiring_keys = "retiring-keys.md", "Find the objects that need a key, move them to another one, and disable the old key.";
    operations = "operations.md", "Permissions, quotas and costs, monitoring, AWS Lambda, local development, planning.";
    troubleshooting = "troubleshooting.md", "Errors: what they mean, and what to do about them.";
    migrating = "migrating.md", "Move to this crate from aws-esdk, from AWS KMS with AES-GCM, or from age.";
    choosing = "choosing.md", "When to use this crate, and when to use something else.";
    security = "security.md", "What is protected against whom, and what is not.";
    fips = "fips.md", "Use AWS-LC's FIPS module, and what it does not cover.";
    interop = "interop.md", "Which software reads and writes the same messages, and how that is tested.";
    performance = "performance.md", "Measured rates, and how to measure them yourself.";
    design = "design.md", "How the crate works, and why.";
}
