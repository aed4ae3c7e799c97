//! Aether's invoker, through its public interface, with tables from a node.

use std::sync::Arc;
use std::time::Duration;

use aether_invoker::{Config, Invoker, Outcome, Pick, SessionKind, SliceHandle};
use anyhow::{Context, Result};

use crate::fleet::Fleet;
use crate::node::Node;
use crate::peers::Peer;

fn handle(node: &Node, fleet: Fleet) -> Result<Arc<SliceHandle>> {
    let slice = node.publish(fleet)?;
    node.runtime().block_on(async {
        let invoker =
            Invoker::connect(Config::new("picks", SessionKind::Invoker, vec![node.address()]))?;
        invoker.ready(Duration::from_secs(10)).await.context("the node tells its tables")?;
        Ok(Arc::new(invoker.slice(&slice)))
    })
}

fn pick(handle: &SliceHandle) -> Pick {
    handle.pick().expect("both versions have instances")
}

/// Counts calls in flight and reads the clock: there is no pick without.
pub fn picking(node: &Node, fleet: Fleet) -> Result<Peer> {
    let handle = handle(node, fleet)?;
    Ok(Peer::picking("Aether: pick, in-flight, one clock", true, move || {
        let handle = Arc::clone(&handle);
        Box::new(move || Fleet::is_new(pick(&handle).address()))
    }))
}

/// With all that a call needs besides.
pub fn accounting(node: &Node, fleet: Fleet) -> Result<Peer> {
    let handle = handle(node, fleet)?;
    Ok(Peer::accounting("Aether: pick, record", move || {
        let handle = Arc::clone(&handle);
        Box::new(move || {
            let pick = pick(&handle);
            let is_new = Fleet::is_new(pick.address());
            pick.finish(Outcome::Success);
            is_new
        })
    }))
}
