//! How a writer replaces a table under picks that never wait for it, and then
//! *knows* that an endpoint which left is idle.
//!
//! A pick goes through a door of its table: it enters, counts its call at an
//! endpoint ([`calls`]) and settles. The writer closes the doors of the old
//! table, publishes the new one, and waits until all who had entered have
//! settled. From then on no call can start by the old table, and each that did
//! start is counted at its endpoint: an endpoint of no current table that has no
//! call in flight will never have one again. Without that wait a pick that was
//! interrupted on its way could still call an instance that was stopped
//! meanwhile.
//!
//! There are two kinds of doors: the [`gate`], for picks that share the tickets of
//! one split, and the [`booths`], for threads that split their calls by
//! themselves.
//!
//! `counter.rs`, `gate.rs`, `booths.rs` and `calls.rs` name their atomics through
//! [`sync`], and are compiled a second time in `model.rs`, where a model checker
//! runs them in every order and with every memory effect that the language allows.

pub(crate) mod booths;
pub(crate) mod calls;
pub(crate) mod counter;
pub(crate) mod gate;
pub(crate) mod lane;
#[cfg(test)]
mod model;
pub(crate) mod sync;
#[cfg(test)]
mod tests;
