//! Checks of the environment variables that configure the AWS SDK. The SDK panics on some invalid values, and its
//! errors do not name the variable.

use std::env;

use crate::failure::Failure;

type Check = fn(&str) -> bool;

const CHECKS: [(&str, Check, &str); 9] = [
    ("AWS_ENDPOINT_URL", is_url, URL),
    ("AWS_ENDPOINT_URL_DYNAMODB", is_url, URL),
    ("AWS_ENDPOINT_URL_KMS", is_url, URL),
    ("AWS_ENDPOINT_URL_STS", is_url, URL),
    ("AWS_MAX_ATTEMPTS", |text| text.parse::<u32>().is_ok_and(|attempts| attempts > 0), "a number of 1 or more"),
    (
        "AWS_RETRY_MODE",
        |text| ["standard", "adaptive"].iter().any(|mode| text.eq_ignore_ascii_case(mode)),
        "standard or adaptive",
    ),
    ("AWS_ACCESS_KEY_ID", is_one_line, "one line"),
    ("AWS_SECRET_ACCESS_KEY", is_one_line, "one line"),
    ("AWS_SESSION_TOKEN", is_one_line, "one line"),
];

/// Describes a valid endpoint.
pub(crate) const URL: &str = "a URL that begins with http:// or https://";

/// Fails if a variable has a value that the SDK does not accept. The text does not show values: some are secret.
pub(crate) fn check() -> Result<(), Failure> {
    for (name, is_valid, wanted) in CHECKS {
        if env::var_os(name).is_some_and(|value| !value.to_str().is_some_and(is_valid)) {
            return Err(Failure::new(format!("the environment variable {name} must be {wanted}"))
                .advise("correct it, or unset it"));
        }
    }
    Ok(())
}

pub(crate) fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic()))
}

fn is_one_line(text: &str) -> bool {
    !text.chars().any(char::is_control)
}
