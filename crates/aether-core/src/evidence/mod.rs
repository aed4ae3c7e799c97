//! What traffic has shown so far of a new version beside the old one, and what
//! follows from it: promote, roll back, go on, or no decision by the deadline.
//!
//! Two halves. What is *committed* is integers: counts of first attempts, of
//! those that failed and of those that were slow, by side and by epoch of the
//! route ([`Evidence`]). They are added, saturating, and nothing else. What is
//! *judged* ([`Judge::decide`]) is computed from them anew at each look, with
//! floats, and is not committed.
//!
//! A look each second must not add up to false alarms, so each test is an
//! e-process: under its null hypothesis the expectation of what it shows is at
//! most 1 at any look, chosen in whatever way, and the chance that it *ever*
//! reaches 1/α is at most α (Ville's inequality). `docs/evidence.md` has the
//! argument, its sources, its limits, and what simulation shows.
//!
//! | module | what it is |
//! |---|---|
//! | `tallies` | counts of one side, of both |
//! | `epochs` | counts by epoch of the route, their bound, the warm-up |
//! | `reference` | from which latency on a request counts as slow |
//! | `ratio` | e-process over ratios of two rates |
//! | `bound` | e-process of one rate against an absolute bound |
//! | `comparison` | both of them over the epochs, and the time they still need |
//! | `instances` | the one bad instance that is not the version's fault |
//! | `judge` | the error levels, and the verdict |
//! | `reason` | the verdict in words |
//! | `news` | what sessions counted and is not committed yet |
//!
//! ```
//! use aether_core::evidence::{Evidence, Judge, Present, Side, Tallies, Verdict};
//!
//! let mut evidence = Evidence::default();
//! // The log entry 41 committed 1:9; above bucket 90 a request is slow.
//! assert!(evidence.open(41, "1:9".parse().unwrap(), 0, Some(90)));
//! let new = Side { requests: 2_000, errors: 100, timed: 2_000, slow: 20 };
//! let old = Side { requests: 18_000, errors: 180, timed: 18_000, slow: 180 };
//! assert!(evidence.fold(41, Tallies { new, old }));
//!
//! let decision = Judge::default().decide(&evidence, &Present::default());
//! assert_eq!(decision.verdict, Verdict::RollBack);
//! assert_eq!(
//!     decision.reason(),
//!     "the new version is worse: errors 5.00 % of 2000 requests, beside 1.00 % of the old \
//!      version's 18000: over a million to 1"
//! );
//! ```
//!
//! It is not a judge of absolute thresholds over a window: that is
//! [`crate::health`]. It does not compare where there is no old side: a first
//! deployment has thresholds and probes, and nothing to be compared with.

mod bound;
mod comparison;
mod epochs;
mod instances;
mod judge;
mod mixture;
mod news;
mod ratio;
mod reason;
mod reference;
mod tallies;

pub use comparison::{Comparison, EValue};
pub use epochs::{EPOCHS_MAX, Epoch, Evidence, WARM_UP_MS, is_warm};
pub use instances::{INSTANCES_MIN, InstanceTallies, Outlier};
pub use judge::{Decision, Judge, Limits, Present, Verdict};
pub use news::{News, Proposed};
pub use reference::{QUANTILE_PPM, REFERENCE_REQUESTS_MIN, reference_bucket};
pub use tallies::{Counted, Event, Side, Tallies};
