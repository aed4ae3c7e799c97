//! Aether's invoker, through its public interface, with tables from a node.

use std::sync::Arc;
use std::time::Duration;

use aether_invoker::{Caller, Config, Invoker, Outcome, Pick, SessionKind, SliceHandle};
use anyhow::{Context, Result};

use crate::fleet::Fleet;
use crate::node::Node;
use crate::peers::{Peer, Picker};

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

/// Aether's ways to pick. All count calls in flight: there is no pick without.
pub fn picking(node: &Node, fleet: Fleet) -> Result<Vec<Peer>> {
    let handle = handle(node, fleet)?;
    let [for_any, for_one, apart] = [(); 3].map(|()| Arc::clone(&handle));
    Ok(vec![
        Peer::picking("Aether: pick, in-flight, one clock", true, move || {
            let handle = Arc::clone(&for_any);
            Box::new(move || Fleet::is_new(pick(&handle).address()))
        }),
        Peer::picking("Aether: caller, in-flight", true, move || untimed(for_one.caller())),
        Peer::picking("Aether: independent caller, in-flight", true, move || {
            untimed(apart.independent_caller())
        }),
    ])
}

fn untimed(caller: Caller) -> Picker<'static> {
    Box::new(move || {
        let pick = caller.pick_untimed().expect("both versions have instances");
        Fleet::is_new(pick.address())
    })
}

/// With all that a call needs besides.
pub fn accounting(node: &Node, fleet: Fleet) -> Result<Vec<Peer>> {
    let handle = handle(node, fleet)?;
    let [for_any, for_one, apart] = [(); 3].map(|()| Arc::clone(&handle));
    Ok(vec![
        Peer::accounting("Aether: pick, record", move || {
            let handle = Arc::clone(&for_any);
            Box::new(move || {
                let pick = pick(&handle);
                let is_new = Fleet::is_new(pick.address());
                pick.finish(Outcome::Success);
                is_new
            })
        }),
        Peer::accounting("Aether: caller, record", move || timed(for_one.caller())),
        Peer::accounting("Aether: independent caller, record", move || {
            timed(apart.independent_caller())
        }),
    ])
}

fn timed(caller: Caller) -> Picker<'static> {
    Box::new(move || {
        let pick = caller.pick().expect("both versions have instances");
        let is_new = Fleet::is_new(pick.address());
        pick.finish(Outcome::Success);
        is_new
    })
}
