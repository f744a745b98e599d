//! The deadline for the requests that one message needs.

use std::time::{Duration, Instant};

/// The default time limit for all requests for one message together.
pub(crate) const DEFAULT_KEY_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the time `timeout` from now, or a century from now if the clock cannot represent that.
pub(crate) fn deadline_after(timeout: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    let now = Instant::now();
    now.checked_add(timeout).or_else(|| now.checked_add(CENTURY)).unwrap_or(now)
}

/// Returns the deadline of a request, or the default deadline if the caller of the provider has set none.
pub(super) fn deadline_or_default(given: Option<Instant>) -> Instant {
    given.unwrap_or_else(|| deadline_after(DEFAULT_KEY_TIMEOUT))
}

/// Returns the deadline for one of several consecutive attempts: half of the remaining time, or all of it for the last
/// attempt. Time therefore remains for the next attempts if an attempt gets no answer, regardless of their number.
pub(super) fn share(deadline: Instant, is_last: bool) -> Instant {
    let left = deadline.saturating_duration_since(Instant::now());
    if is_last { deadline } else { deadline.checked_sub(left / 2).unwrap_or(deadline) }
}
