//! The invoker against a scripted control plane and real HTTP servers.

mod cache;
mod callers;
mod calls;
mod service;
mod support;
mod tables;

use std::net::SocketAddr;

use aether_invoker::{Config, Invoker, SessionKind, SliceHandle};

use support::control::Control;
use support::{LIMIT, set, table, until};

/// The slice of most tests.
const A: &str = "org.example:a";

/// A handle to it, over a session with this node.
async fn connect(control: &Control) -> SliceHandle {
    let config = Config::new("test", SessionKind::Invoker, vec![control.address]);
    let invoker = Invoker::connect(config).unwrap();
    invoker.ready(LIMIT).await.unwrap();
    invoker.slice(&A.parse().unwrap())
}

/// Gives it one instance, as revision 5, and waits until that is known.
async fn publish_one(control: &Control, instance: (&str, SocketAddr)) {
    let mut table = table(A, 5, "0:1");
    table.old = set(1, &[instance]);
    control.publish(5, &[table]);
    until("ack of 5", || control.acked() == 5).await;
}
