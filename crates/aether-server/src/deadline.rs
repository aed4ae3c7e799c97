//! Until when an answer is of use to whoever asked.
//!
//! A caller that gives up learns nothing: not even that its write provably was
//! not done. So nothing here waits longer than its caller does. Nor does it wait
//! longer than the longest wait of each kind, whatever the caller says: 10 s for
//! a write, 1.5 s for the leader's word to a read (`control.rs`).

use std::time::Duration;

use tokio::time::Instant;
use tonic::Request;

/// Where gRPC says how long the caller waits: digits, and a unit.
const TIMEOUT_KEY: &str = "grpc-timeout";

/// What an answer may need on its way to the caller: this part of the whole
/// time, which on a busy machine is still enough for short ones, …
const RETURN_PART: u32 = 5;
/// … and no more than this.
const RETURN_MAX: Duration = Duration::from_millis(250);

/// By when an answer has to leave; any time, if the caller did not say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// Of a request that has just arrived, beside its message.
    pub fn split<M>(request: Request<M>) -> (Self, M) {
        let said = request.metadata().get(TIMEOUT_KEY).and_then(|value| value.to_str().ok());
        // The transport does not enforce what it cannot read, either.
        (Self::after(said.and_then(parse)), request.into_inner())
    }

    fn after(timeout: Option<Duration>) -> Self {
        Self(timeout.and_then(|timeout| Instant::now().checked_add(without_return(timeout))))
    }

    /// How long may be waited from now on, at most `longest`.
    pub fn within(self, longest: Duration) -> Duration {
        self.0.map_or(longest, |at| at.saturating_duration_since(Instant::now()).min(longest))
    }
}

/// What is left of a caller's time when the answer's way back is set aside.
fn without_return(timeout: Duration) -> Duration {
    timeout - (timeout / RETURN_PART).min(RETURN_MAX)
}

/// What a caller says in `grpc-timeout`; `None` if it is not of that form.
pub fn parse(text: &str) -> Option<Duration> {
    const DIGITS_MAX: usize = 8;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > DIGITS_MAX || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(10);

    #[test]
    fn an_answer_leaves_in_time_for_the_caller() {
        for (text, ms) in [
            ("1H", 3_599_750),
            ("1M", 59_750),
            ("10S", 9_750),
            ("2000m", 1_750),
            ("500m", 400),
            ("100000u", 80),
            ("10000000n", 8),
            ("0S", 0),
        ] {
            let left = parse(text).map(without_return);
            assert_eq!(left, Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "S", "10", "10s", "-1S", "+1S", "1.5S", "123456789S", "1 S", "1\u{b5}"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn nothing_waits_longer_than_the_caller_or_than_the_longest_wait() {
        let within = |timeout: Option<Duration>| {
            let mut request = Request::new(());
            timeout.into_iter().for_each(|timeout| request.set_timeout(timeout));
            Deadline::split(request).0.within(LONGEST)
        };
        assert_eq!(within(None), LONGEST);
        assert_eq!(within(Some(Duration::from_secs(60))), LONGEST);
        assert_eq!(within(Some(Duration::ZERO)), Duration::ZERO);
        let shorter = within(Some(Duration::from_secs(5)));
        assert!(shorter <= Duration::from_millis(4_750), "{shorter:?}");
        assert_eq!(Deadline::default().within(LONGEST), LONGEST);
    }
}
