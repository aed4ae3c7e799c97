//! The invoker against a scripted control plane and real HTTP servers.

mod callers;
mod calls;
mod support;
mod tables;
