//! Ends an instance whose agent is going for good.

use std::fs;
use std::time::Duration;

use aether_core::ids::InstanceId;
use nix::sys::signal::Signal;
use tokio::time::{Instant, timeout};

use super::found::{Found, Past, clean_up, look};
use super::link::Link;
use crate::shim::spec::{Layout, ShimState};

/// How long a shim that was just started may take to open its socket.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Time between two attempts to connect.
const CONNECT_INTERVAL: Duration = Duration::from_millis(10);

/// How long killed processes are waited for; after that they hang in the
/// kernel, and nothing can be done about them.
const KILL_MAX: Duration = Duration::from_secs(5);

/// How an instance ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The next agent starts it anew.
    UntilNextAgent,
    /// It had been stopped before.
    ForGood,
    /// It could not be reached.
    Not,
}

/// Asks the shim of an instance to stop its slice and waits until both are
/// gone. Then the traces of this life are removed, so that the next agent
/// starts the instance anew instead of reporting it as stopped.
pub(crate) async fn end(id: &InstanceId, layout: &Layout) -> Ended {
    let until = Instant::now() + CONNECT_MAX;
    let mut asked = false;
    loop {
        match look(layout).await {
            Found::Alive => match Link::connect(layout.dir()).await {
                Ok(mut link) => {
                    asked = link.stop().await.is_ok();
                    link.ended().await;
                }
                Err(error) if Instant::now() >= until => {
                    tracing::warn!(instance = %id, %error, "left running");
                    return Ended::Not;
                }
                Err(_) => {}
            },
            Found::Stopped(_) if !asked => return Ended::ForGood,
            Found::Stopped(_) => break,
            Found::Gone(past) => {
                clear(id, &past).await;
                break;
            }
        }
        tokio::time::sleep(CONNECT_INTERVAL).await;
    }
    if asked {
        for trace in [layout.spec(), layout.state(), layout.readiness()] {
            let _ = fs::remove_file(trace); // What stays makes the next report STOPPED.
        }
    }
    Ended::UntilNextAgent
}

/// Kills an instance: its shim, its slice and whatever that started. To the
/// next agent it is one that has crashed.
pub(crate) async fn kill(id: &InstanceId, layout: &Layout) {
    let until = Instant::now() + KILL_MAX;
    loop {
        match look(layout).await {
            Found::Alive if Instant::now() < until => {
                let state = fs::read(layout.state()).ok();
                let state = state.and_then(|it| serde_json::from_slice::<ShimState>(&it).ok());
                if let Some(state) = state {
                    state.shim.signal(Signal::SIGKILL);
                }
            }
            Found::Gone(past) => return clear(id, &past).await,
            Found::Alive | Found::Stopped(_) => return,
        }
        tokio::time::sleep(CONNECT_INTERVAL).await;
    }
}

async fn clear(id: &InstanceId, past: &Past) {
    if timeout(KILL_MAX, clean_up(id, past)).await.is_err() {
        tracing::warn!(instance = %id, "killed processes of it do not end");
    }
}
