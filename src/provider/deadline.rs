//! How much time the requests for one message have.

use std::time::{Duration, Instant};

/// How long all requests for a message may take together, unless somebody says otherwise.
pub(crate) const DEFAULT_KEY_TIMEOUT: Duration = Duration::from_secs(10);

/// The point in time that is so far from now. Where the clock does not go so far, it is a century from now.
pub(crate) fn deadline_after(timeout: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    let now = Instant::now();
    now.checked_add(timeout).or_else(|| now.checked_add(CENTURY)).unwrap_or(now)
}

/// The deadline of the requests for a message, which a caller of a provider may not have given.
pub(super) fn deadline_or_default(given: Option<Instant>) -> Instant {
    given.unwrap_or_else(|| deadline_after(DEFAULT_KEY_TIMEOUT))
}

/// The deadline of one of several tries that are made in order: it has half of the time that is left, so that a silent
/// one leaves time for those after it however many they are. The last one has all of it.
pub(super) fn share(deadline: Instant, is_last: bool) -> Instant {
    let left = deadline.saturating_duration_since(Instant::now());
    if is_last { deadline } else { deadline.checked_sub(left / 2).unwrap_or(deadline) }
}
