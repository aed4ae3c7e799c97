//! Versions that misbehave, in every state of an update in which they can: what
//! is wrong is named where people look, what was asked for happens, the way
//! back ends with the old version as it was and nothing of the new one left,
//! and no call fails but by the fault of the version that it was sent to.
//!
//! Several slices share a cluster, each with its own load and its own trouble:
//! what one of them does must not be felt by the others either. Those whose
//! trouble begins late look for a file, which the test makes.
//!
//! `broken.rs` has the versions that cannot run at all.

mod deploying;
mod scene;
mod serving;
