//! Work that waits for the disk or computes for long, off the runtime's threads.

use tokio::task::JoinError;

/// Runs it on a thread where it holds nobody up. An error is its panic.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    #[cfg(test)]
    if crate::sim::is_on() {
        // Another thread would come back at a moment that no seed decides.
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}
