//! The errors of stores, as the user reads them.

use std::{error::Error as StdError, sync::Arc};

use kms_envelope_object_store::Error as EncryptedError;
use object_store::Error;

use crate::{
    failure::{Failure, chain},
    place::masked,
};

const CREDENTIALS: &str = "S3 needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for a profile: `eval \"$(aws configure \
     export-credentials --format env)\"`; Google Cloud Storage GOOGLE_APPLICATION_CREDENTIALS; Azure \
     AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY";
const PERMISSION: &str = "check the permissions of the credentials: on S3, s3:GetObject, s3:PutObject and s3:ListBucket; \
     without the last one, S3 also denies access to objects that do not exist";
const BUCKET: &str = "check the name, and the region in AWS_REGION; kms-envelope does not create buckets";
const REGION: &str = "set AWS_REGION to the region of the bucket";

/// Codes of S3, Google Cloud Storage and Azure for credentials that are missing or not valid.
const REJECTED: [&str; 9] = [
    "AccessDenied: Anonymous",
    "AuthenticationFailed",
    "AuthorizationFailure",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidAuthenticationInfo",
    "InvalidToken",
    "NoAuthenticationInformation",
    "SignatureDoesNotMatch",
];

pub(crate) fn no_credentials() -> Failure {
    Failure::new("no credentials for the store").advise(CREDENTIALS)
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Generic { source, .. } => match source.downcast::<EncryptedError>() {
                Ok(error) => Self::from(*error),
                Err(source) => of_answer(&describe(&*source)),
            },
            Error::NotFound { source, .. } => {
                let answer = describe(&*source);
                if ["NoSuchBucket", "ContainerNotFound", "bucket does not exist"].iter().any(|it| answer.contains(it)) {
                    Self::new("the bucket does not exist").advise(BUCKET)
                } else {
                    Self::new("the object does not exist")
                }
            }
            Error::PermissionDenied { source, .. } | Error::Unauthenticated { source, .. } => {
                let answer = describe(&*source);
                if REJECTED.iter().any(|code| answer.contains(code)) {
                    Self::new(format!("the store rejects the credentials: {answer}")).advise(CREDENTIALS)
                } else {
                    Self::new(format!("the store denies access: {answer}")).advise(PERMISSION)
                }
            }
            Error::Precondition { .. } => {
                Self::new("the object was replaced while it was read").advise("run the command again")
            }
            error => Self::new(describe(&error)),
        }
    }
}

/// Returns the failure for the text of an error without a kind of its own.
fn of_answer(answer: &str) -> Failure {
    let failure = Failure::new(answer);
    let has = |words: &[&str]| words.iter().any(|words| answer.contains(words));
    if has(&["configured region", "AuthorizationHeaderMalformed", "PermanentRedirect"]) {
        failure.advise(REGION)
    } else if has(&REJECTED)
        || has(&[
            "redential",
            "AccessKey",
            "Access Key",
            "Account must be specified",
            "/computeMetadata/",
            "169.254.169.254",
        ])
    {
        failure.advise(CREDENTIALS)
    } else if has(&["URL scheme is not allowed"]) {
        failure.advise("for an endpoint without TLS, set AWS_ALLOW_HTTP=true")
    } else {
        failure
    }
}

impl From<EncryptedError> for Failure {
    fn from(error: EncryptedError) -> Self {
        let what = error.to_string();
        match error {
            EncryptedError::Open { source, .. } => match Arc::try_unwrap(source) {
                Ok(error) => error.into(),
                Err(shared) => Self::new(chain(&*shared)),
            },
            EncryptedError::Seal { source, .. } => source.into(),
            EncryptedError::HeaderTooShort { header_len, needed, .. } => {
                Self::new(header_too_short(header_len, needed))
            }
            EncryptedError::HeaderLen { .. } => Self::new(what).advise("set the length with `--header-len`"),
            EncryptedError::FrameLen { .. } => Self::new(what).advise("set the length with `--frame-len`"),
            EncryptedError::ReservedName { .. } => Self::new(what),
            error => Self::new(chain(&error)),
        }
    }
}

fn header_too_short(header_len: usize, needed: usize) -> String {
    format!(
        "the header cannot have {header_len} bytes; set `--header-len` to {needed}, or to {} or more, for all objects of \
         this store",
        needed.saturating_add(28)
    )
}

/// Returns the text of an error with its causes, or the code and the message of the store's answer.
fn describe(error: &(dyn StdError + 'static)) -> String {
    let text = error.to_string();
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once("</")?.0)
    };
    match (element("Code"), element("Message")) {
        (Some(code), Some(message)) => format!("{code}: {}", message.lines().next().unwrap_or_default()),
        (Some(code), None) => code.to_owned(),
        _ => masked(&chain(error)),
    }
}
