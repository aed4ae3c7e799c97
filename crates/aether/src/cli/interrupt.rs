//! Ctrl-C, and readers that go away: a verb ends at once, between two outputs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;
use tokio::signal::unix::{SignalKind, signal};

use super::exit::{Exit, Failure};

/// Whether a change was asked for and its answer is not there yet.
static WRITE_UNDER_WAY: AtomicBool = AtomicBool::new(false);

/// Notes that a write is under way, or is not any more.
pub fn writing(under_way: bool) {
    WRITE_UNDER_WAY.store(under_way, Ordering::Relaxed);
}

/// Carries a verb out until its end or Ctrl-C. All output is written between
/// two waits, so nothing is cut in two.
pub async fn or_interrupted(
    verb: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt())
        .map_err(|error| Failure::failed(format!("cannot listen for Ctrl-C: {error}")))?;
    tokio::select! {
        biased;
        ended = verb => ended,
        _ = interrupt.recv() => Err(interrupted()),
    }
}

fn interrupted() -> Failure {
    let message = match WRITE_UNDER_WAY.load(Ordering::Relaxed) {
        true => {
            "interrupted; it is not known whether this was carried out: look before you repeat it"
        }
        false => "",
    };
    Failure::new(Exit::Interrupted, message)
}

/// Carries out something that only prints, until its end or until nobody reads
/// any more, as after `| head -1`. Not for what changes something.
pub async fn while_read<T>(
    printing: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let stdout = io::stdout();
    tokio::select! {
        biased;
        ended = printing => ended,
        () = reader_gone(stdout.as_fd()) => {
            Err(io::Error::from(io::ErrorKind::BrokenPipe).into())
        }
    }
}

/// Comes when the other end of a pipe is closed; never for what has no other
/// end, such as a file.
async fn reader_gone(fd: BorrowedFd<'_>) {
    // Only looked at: nothing is written to it here, and it stays blocking for
    // those who print.
    let looking = fd.try_clone_to_owned().and_then(Sender::from_owned_fd_unchecked);
    let Ok(pipe) = looking else { return std::future::pending().await };
    if pipe.ready(Interest::ERROR).await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_reader_that_goes_away_is_noticed() {
        let (reader, writer) = io::pipe().unwrap();
        let looking = reader_gone(writer.as_fd());
        tokio::pin!(looking);
        let early = timeout(Duration::from_millis(50), &mut looking).await;
        assert!(early.is_err(), "somebody could still read");
        drop(reader);
        timeout(Duration::from_secs(60), looking).await.expect("nobody can read any more");
        let file = tempfile::tempfile().unwrap();
        let never = timeout(Duration::from_millis(50), reader_gone(file.as_fd())).await;
        assert!(never.is_err(), "a file has no reader");
    }
}
