//! When a stream that is followed breaks: whether and where to go on.

use std::time::Duration;

use tokio::time::Instant;

use super::client::Client;
use super::exit::{Exit, Failure};
use super::output::say;

/// How long nobody may answer before following is given up. An election takes
/// less than a second, the restart of a node a few.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Pause before another address is asked after a stream broke.
const PAUSE: Duration = Duration::from_millis(300);

/// What is known of those who are asked.
pub struct Reconnect<'a> {
    client: &'a Client,
    answered: bool,
    /// None while a stream tells something. What is quiet and open lives: its
    /// connection is probed.
    silent_since: Option<Instant>,
}

impl<'a> Reconnect<'a> {
    /// Nobody was asked yet.
    pub fn new(client: &'a Client) -> Self {
        Self { client, answered: false, silent_since: None }
    }

    /// A node opened a stream, on which it has not told anything yet.
    pub fn answered(&mut self) {
        self.answered = true;
    }

    /// A node told something.
    pub fn heard(&mut self) {
        (self.answered, self.silent_since) = (true, None);
    }

    /// After a failure to open a stream, or of an open one: returns when it is
    /// time to ask again, which then begins with another node.
    ///
    /// # Errors
    /// The failure, where asking again makes no sense. Only silence is worth
    /// another try, and only where somebody has answered: the first connection
    /// has had its tries already.
    pub async fn after(&mut self, failure: Failure) -> Result<(), Failure> {
        let is_first = self.silent_since.is_none();
        if !self.goes_on(&failure, Instant::now()) {
            return Err(failure);
        }
        if is_first {
            say("the connection was lost; asking another node");
        }
        self.client.turn();
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }

    fn goes_on(&mut self, failure: &Failure, now: Instant) -> bool {
        let silent = now - *self.silent_since.get_or_insert(now);
        self.answered && failure.exit() == Exit::Unreachable && silent < SILENCE_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::client::tests::over;

    #[test]
    fn silence_counts_from_its_beginning_and_is_given_up_on() {
        let client = over(&["127.0.0.1:1".to_owned()]);
        let silence = Failure::new(Exit::Unreachable, "no answer");
        let mut reconnect = Reconnect::new(&client);
        let start = Instant::now();
        assert!(!reconnect.goes_on(&silence, start), "nobody has answered yet");
        reconnect.heard();
        let broken = start + SILENCE_MAX * 10;
        assert!(reconnect.goes_on(&silence, broken), "a quiet stream was no silence");
        let refusal = Failure::new(Exit::NotFound, "no such update");
        assert!(!reconnect.goes_on(&refusal, broken), "every node would say so");
        assert!(reconnect.goes_on(&silence, broken + SILENCE_MAX / 2));
        assert!(!reconnect.goes_on(&silence, broken + SILENCE_MAX));
    }
}
