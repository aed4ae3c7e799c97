//! The command line as a whole: the real program against a fake node, what it
//! exits with, prints on stdout, says on stderr, and asks the node.
//!
//! Each test is a scene whose transcript is compared with `snapshots/NAME.snap`.
//! A new verb is a line in the scene of its kind. After a change that is meant:
//!
//! ```console
//! $ INSTA_UPDATE=always cargo nextest run -p aether --test cli
//! $ git diff crates/aether/tests/cli/snapshots
//! ```

mod answers;
mod artifacts;
mod cluster;
mod contexts;
mod failures;
#[path = "../../src/cli/fake.rs"]
mod fake;
mod generated;
mod scene;
mod slices;
mod terminal;
mod updates;
mod usage;
