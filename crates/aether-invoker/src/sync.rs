//! The atomics of the files that are also compiled for a model checker, which
//! puts its own in their place.

pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
