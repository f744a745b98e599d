//! Errors of the AWS SDK as errors of key providers.

use std::{error::Error, time::Duration};

use aws_sdk_dynamodb::{
    error::{ProvideErrorMetadata, SdkError},
    operation::transact_write_items::TransactWriteItemsError,
    types::CancellationReason,
};
use kms_envelope::{ProviderError, provider::ProviderErrorKind as Kind};

/// Converts an error of the SDK, according to the error codes in the DynamoDB API reference. Its source has no response.
pub(crate) fn provider_error<E>(operation: &'static str, key_id: &str, error: SdkError<E>) -> ProviderError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code).map(str::to_owned);
    let is_server_error = error.raw_response().is_some_and(|response| response.status().is_server_error());
    let retry_after = error.raw_response().and_then(|response| response.headers().get("retry-after")?.parse().ok());
    let kind = match code.as_deref() {
        Some("AccessDeniedException") => Kind::AccessDenied,
        Some("ResourceNotFoundException") => Kind::NotFound,
        Some(
            "ThrottlingException"
            | "ProvisionedThroughputExceededException"
            | "RequestLimitExceeded"
            | "LimitExceededException",
        ) => Kind::Throttled,
        Some("InternalServerError" | "TransactionConflictException" | "TransactionInProgressException") => {
            Kind::Unavailable
        }
        Some(_) if is_server_error => Kind::Unavailable,
        None if matches!(error, SdkError::TimeoutError(_)) => Kind::TimedOut,
        // No response, or one that cannot be parsed: a problem with the network or a proxy.
        None if !matches!(error, SdkError::ConstructionFailure(_)) => Kind::Unavailable,
        _ => Kind::Other,
    };
    let mut made = ProviderError::new(kind, operation, key_id).with_retry_after(retry_after.map(Duration::from_secs));
    if kind == Kind::NotFound {
        made = made.with_detail("the table does not exist");
    }
    match error.into_source() {
        Ok(source) => made.with_source(source),
        Err(error) => made.with_source(error.to_string()),
    }
}

/// Converts the error of a transaction. `conflicts` describes the conflict of each of its writes.
pub(crate) fn transaction_error(
    operation: &'static str,
    key_id: &str,
    error: SdkError<TransactWriteItemsError>,
    conflicts: impl Iterator<Item = String>,
) -> ProviderError {
    let Some(TransactWriteItemsError::TransactionCanceledException(canceled)) = error.as_service_error() else {
        return provider_error(operation, key_id, error);
    };
    let reasons = canceled.cancellation_reasons();
    let has = |codes: &[&str]| reasons.iter().filter_map(CancellationReason::code).any(|code| codes.contains(&code));
    let of = |kind| ProviderError::new(kind, operation, key_id);
    if has(&["ConditionalCheckFailed"]) {
        let failed = reasons.iter().zip(conflicts);
        let failed = failed.filter(|(reason, _)| reason.code() == Some("ConditionalCheckFailed"));
        let what: Vec<_> = failed.map(|(_, conflict)| conflict).collect();
        return of(Kind::Conflict).with_detail(what.join("; "));
    }
    let kind = if has(&["ThrottlingError", "ProvisionedThroughputExceeded"]) {
        Kind::Throttled
    } else if has(&["TransactionConflict"]) {
        Kind::Unavailable
    } else {
        Kind::Other
    };
    let codes: Vec<_> = reasons.iter().filter_map(CancellationReason::code).filter(|code| *code != "None").collect();
    of(kind).with_detail(format!("the transaction was canceled: {}", codes.join(", ")))
}
