//! Nobody is given up before their time: a new leader counts every session and
//! node as not yet heard, and gives none up before a full lease after its own
//! first entry. (Design, sections 5 and 8: "a new leader … expires none before a
//! full lease after its first own entry"; "loss timers start one lease into a new
//! leadership".)

use aether_core::command::Command;
use aether_core::records::NodeLifecycle;

use super::Step;

pub(super) fn check(step: &Step<'_>) -> Result<(), String> {
    let led_ms = step.now_ms.saturating_sub(step.ready_since_ms);
    let lease_ms = step.waits.lease_ms;
    let (who, least_ms) = match step.done() {
        Some(Command::SetNodeLifecycle { node, lifecycle: NodeLifecycle::Unreachable }) => {
            (node.to_string(), lease_ms)
        }
        Some(Command::SetNodeLifecycle { node, lifecycle: NodeLifecycle::Lost }) => {
            (node.to_string(), lease_ms + step.waits.node_lost_ms)
        }
        Some(Command::CloseSession { session, reason, .. }) if reason.starts_with("silent") => {
            (session.to_string(), lease_ms.max(step.waits.table_age_max_ms))
        }
        _ => return Ok(()),
    };
    if led_ms >= least_ms {
        return Ok(());
    }
    Err(format!("{who} was given up {led_ms} ms into a leadership, before {least_ms} ms"))
}
