//! The cryptographic module behind a backend.

use std::fmt;

use super::Backend;

impl Backend {
    pub(crate) fn is_aws_lc(self) -> bool {
        match self {
            #[cfg(feature = "aws-lc")]
            Self::AwsLc => true,
            #[cfg(feature = "rust-crypto")]
            Self::RustCrypto => false,
        }
    }

    /// Returns whether the backend is AWS-LC's FIPS module, which the feature `fips` compiles in.
    ///
    /// ```
    /// use kms_envelope::Backend;
    ///
    /// println!("cryptography: {}, FIPS: {}", Backend::default(), Backend::default().is_fips());
    /// ```
    pub fn is_fips(self) -> bool {
        match self {
            #[cfg(feature = "aws-lc")]
            Self::AwsLc => aws_lc_rs::try_fips_mode().is_ok(),
            #[cfg(feature = "rust-crypto")]
            Self::RustCrypto => false,
        }
    }
}

/// Formats as the name, and for AWS-LC the version that is linked: `AWS-LC 5.1.0`, `AWS-LC FIPS 4.2.0` or `RustCrypto`.
impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(feature = "aws-lc")]
            Self::AwsLc => {
                let fips = if self.is_fips() { "FIPS " } else { "" };
                write!(f, "AWS-LC {fips}{}", aws_lc_rs::awslc_version())
            }
            #[cfg(feature = "rust-crypto")]
            Self::RustCrypto => f.write_str("RustCrypto"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_says_which_module_it_is() {
        #[cfg(feature = "rust-crypto")]
        assert_eq!((Backend::RustCrypto.to_string(), Backend::RustCrypto.is_fips()), ("RustCrypto".into(), false));
        #[cfg(feature = "aws-lc")]
        {
            let name = Backend::AwsLc.to_string();
            let version = name.strip_prefix(if cfg!(feature = "fips") { "AWS-LC FIPS " } else { "AWS-LC " });
            assert!(version.is_some_and(|version| version.starts_with(char::is_numeric)), "{name}");
            assert_eq!(Backend::AwsLc.is_fips(), cfg!(feature = "fips"));
        }
    }
}
