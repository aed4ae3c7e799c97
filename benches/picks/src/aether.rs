//! Aether's invoker, through its public interface, with tables from a node.

use std::sync::Arc;
use std::time::Duration;

use aether_invoker::{Config, Invoker, Outcome, SessionKind, SliceHandle};
use anyhow::{Context, Result};

use crate::fleet::Fleet;
use crate::node::Node;
use crate::peers::Peer;

/// Picks alone, and with all that a call needs besides.
pub fn peers(node: &Node, fleet: Fleet) -> Result<[Peer; 2]> {
    let slice = node.publish(fleet)?;
    let handle = node.runtime().block_on(async {
        let invoker =
            Invoker::connect(Config::new("picks", SessionKind::Invoker, vec![node.address()]))?;
        invoker.ready(Duration::from_secs(10)).await.context("the node tells its tables")?;
        anyhow::Ok(invoker.slice(&slice))
    })?;
    let handle: Arc<SliceHandle> = Arc::new(handle);
    let other = Arc::clone(&handle);
    // The version that the table calls new.
    let is_new = |pick: &aether_invoker::Pick| Fleet::is_new(pick.address());
    Ok([
        Peer::named("Aether: pick and in-flight", true, move || {
            let handle = Arc::clone(&handle);
            Box::new(move || is_new(&handle.pick().expect("both versions have instances")))
        }),
        Peer::accounting("Aether: pick, record", move || {
            let handle = Arc::clone(&other);
            Box::new(move || {
                let pick = handle.pick().expect("both versions have instances");
                let is_new = is_new(&pick);
                pick.finish(Outcome::Success);
                is_new
            })
        }),
    ])
}
