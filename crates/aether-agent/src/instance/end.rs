//! Ends an instance whose agent is going for good.

use std::fs;
use std::time::Duration;

use tokio::time::Instant;

use super::found::{Found, look};
use super::link::Link;
use crate::shim::spec::Layout;

/// How long a shim that was just started may take to open its socket.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Time between two attempts to connect.
const CONNECT_INTERVAL: Duration = Duration::from_millis(10);

/// Asks the shim of an instance to stop its slice and waits until both are
/// gone. Then the traces of this life are removed, so that the next agent
/// starts the instance anew instead of reporting it as stopped.
pub(crate) async fn end(layout: &Layout) {
    let until = Instant::now() + CONNECT_MAX;
    let mut ended = false;
    while matches!(look(layout).await, Found::Alive) {
        match Link::connect(layout.dir()).await {
            Ok(mut link) => {
                ended = link.stop().await.is_ok();
                while let Ok(Some(_)) = link.next().await {}
            }
            Err(error) if Instant::now() >= until => {
                tracing::warn!(dir = %layout.dir().display(), %error, "instance left running");
                return;
            }
            Err(_) => {}
        }
        tokio::time::sleep(CONNECT_INTERVAL).await;
    }
    if ended {
        for trace in [layout.spec(), layout.state(), layout.readiness()] {
            let _ = fs::remove_file(trace); // What stays makes the next report STOPPED.
        }
    }
}
