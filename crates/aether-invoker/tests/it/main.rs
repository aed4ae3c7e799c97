//! The invoker against a scripted control plane and real HTTP servers.

mod calls;
mod support;
mod tables;
