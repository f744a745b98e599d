//! The async runtime of the process.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};

use crate::failure::Failure;

/// One for the whole process: connections of one runtime do not work in another.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// Returns the runtime. If there is none, creates one for the calls to the key service, which happen before the body is
/// processed.
pub(crate) fn runtime() -> Result<&'static Runtime, Failure> {
    get_or_build(Builder::new_current_thread)
}

/// Like [`runtime`], but creates one that also works while nobody waits for it. Call it first.
#[cfg(feature = "stores")]
pub(crate) fn threaded_runtime() -> Result<&'static Runtime, Failure> {
    get_or_build(Builder::new_multi_thread)
}

fn get_or_build(builder: impl Fn() -> Builder) -> Result<&'static Runtime, Failure> {
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let runtime = builder()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start the async runtime: {error}")))?;
    Ok(RUNTIME.get_or_init(|| runtime))
}
