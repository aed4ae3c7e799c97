//! The invoker against a scripted control plane and real HTTP servers.

mod cache;
mod callers;
mod calls;
mod service;
mod support;
mod tables;
