//! What is found of an instance on this machine: a living shim, its traces, or
//! nothing.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use aether_core::ids::InstanceId;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::shim::cgroup;
use crate::shim::spec::{Adopted, Layout, Phase, ShimState};
use crate::{fsio, procfs};

/// Longest part of the shim's own error text that is shown, in bytes.
const SHIM_ERROR_BYTES_MAX: usize = 400;

/// Time between two looks for killed processes that are still there.
const KILL_INTERVAL: Duration = Duration::from_millis(10);

/// What was found.
#[derive(Debug)]
pub(super) enum Found {
    /// Its shim lives.
    Alive,
    /// It was stopped, and nothing is left of it.
    Stopped(Past),
    /// No shim lives; it never did, or it was lost.
    Gone(Past),
}

/// What is left of earlier lives of an instance. All empty: there was none.
#[derive(Debug, Default)]
pub(super) struct Past {
    pub restarts: u32,
    pub ends_in_a_row: u32,
    pub listen: Option<SocketAddr>,
    /// What the lost shim saw last.
    pub state: Option<ShimState>,
    /// That it was killed because it did not stop when asked to, in words.
    pub killed: Option<String>,
    /// What a shim that could not start said.
    pub shim_error: Option<String>,
}

/// Looks for an instance.
pub(super) async fn look(layout: &Layout) -> Found {
    let layout = layout.clone();
    match tokio::task::spawn_blocking(move || look_blocking(&layout)).await {
        Ok(found) => found,
        Err(_) => Found::Alive, // The runtime ends; nothing may be started.
    }
}

fn look_blocking(layout: &Layout) -> Found {
    // Whoever holds its lock lives, with or without a specification.
    if layout.spec().exists() || layout.lock().exists() {
        match fsio::try_lock(&layout.lock()) {
            Ok(Some(_free)) => {}
            Ok(None) => return Found::Alive,
            Err(error) => {
                tracing::warn!(lock = %layout.lock().display(), %error, "cannot look for the shim");
                return Found::Alive;
            }
        }
    }
    if !layout.spec().exists() {
        return Found::Gone(Past::default());
    }
    let spec = Adopted::read(layout).ok();
    let state: Option<ShimState> = read(&layout.state());
    let listen = spec.as_ref().map(|spec| spec.listen);
    match (state, spec) {
        // Whatever became of its specification: it never runs again.
        (Some(ShimState { phase: Phase::Stopped, restarts, killed, .. }), _) => {
            Found::Stopped(Past { restarts, listen, killed, ..Past::default() })
        }
        (Some(state), _) => Found::Gone(Past {
            restarts: state.restarts.saturating_add(1),
            ends_in_a_row: state.ends_in_a_row.saturating_add(1),
            listen,
            state: Some(state),
            ..Past::default()
        }),
        (None, None) => Found::Gone(Past::default()),
        // Launched, but it never came as far as to show a state.
        (None, Some(spec)) => {
            let error = fs::read(layout.shim_errors()).unwrap_or_default();
            let error = &error[..error.len().min(SHIM_ERROR_BYTES_MAX)];
            let error = String::from_utf8_lossy(error);
            Found::Gone(Past {
                restarts: spec.restarts,
                ends_in_a_row: spec.ends_in_a_row.saturating_add(1),
                listen,
                shim_error: Some(format!("the shim could not start: {}", error.trim())),
                ..Past::default()
            })
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &std::path::Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Kills what a killed shim left behind. Returns when all of it is gone.
pub(super) async fn clean_up(id: &InstanceId, past: &Past) {
    let Some(state) = past.state.clone() else {
        return;
    };
    loop {
        let (state, instance) = (state.clone(), id.clone());
        let left = tokio::task::spawn_blocking(move || kill_remains(&state, &instance)).await;
        match left {
            Ok(1..) => {
                tracing::warn!(instance = %id, "killing what its shim left behind");
                tokio::time::sleep(KILL_INTERVAL).await;
            }
            _ => break,
        }
    }
    // Nothing waits for it when the runtime ends.
    let _ = tokio::task::spawn_blocking(move || cgroup::remove(&state.cgroups)).await;
}

/// Kills what a killed shim left of its slice; tells how many processes were
/// still there.
///
/// They are in the shim's session, whose number cannot be given to another
/// process as long as one of them lives. Hence when a younger process has the
/// number, none of them does. The slice's own environment is asked for too, in
/// case the younger process has come and gone.
fn kill_remains(state: &ShimState, instance: &InstanceId) -> usize {
    let other_boot = state.boot_id != fsio::boot_id();
    let reused = procfs::stat(state.shim.pid).is_some_and(|now| now.process != state.shim);
    if other_boot || reused {
        return 0;
    }
    let is_ours = |stat: &procfs::Stat| {
        Some(stat.process) == state.child
            || procfs::has_env(stat.process.pid, "AETHER_INSTANCE", instance.as_str())
    };
    let remains: Vec<_> = procfs::all()
        .into_iter()
        .filter(|stat| stat.session == state.shim.pid && !stat.zombie && is_ours(stat))
        .collect();
    for stat in &remains {
        let _ = kill(Pid::from_raw(stat.process.pid), Signal::SIGKILL);
    }
    remains.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frozen::{kept, said};
    use crate::fsio::soon;

    /// What is found once nobody holds the lock.
    fn look_at_unheld(layout: &Layout) -> Found {
        let found = || Some(look_blocking(layout)).filter(|found| !matches!(found, Found::Alive));
        soon(found).expect("nobody holds its lock")
    }

    #[test]
    fn a_shim_without_a_specification_is_no_less_alive() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().to_owned());
        assert!(matches!(look_at_unheld(&layout), Found::Gone(_)));
        let held = fsio::try_lock(&layout.lock()).unwrap().expect("nobody else has it");
        assert!(matches!(look_blocking(&layout), Found::Alive));
        drop(held);
        assert!(matches!(look_at_unheld(&layout), Found::Gone(_)));
    }

    #[test]
    fn what_was_stopped_never_runs_again_and_what_was_killed_is_cleaned_up_whatever_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().to_owned());
        let states = said("states.txt").text();
        let (first, last) = (states.lines().next().unwrap(), states.lines().last().unwrap());
        for spec in [kept("spec.json").bytes(), b"{".to_vec()] {
            fs::write(layout.spec(), spec).unwrap();
            fs::write(layout.state(), last).unwrap();
            assert!(matches!(look_at_unheld(&layout), Found::Stopped(_)));
            let newer = first.replace(r#"{"status":-2147483648}"#, r#""evicted""#);
            fs::write(layout.state(), newer.replace("running", "frozen")).unwrap();
            let Found::Gone(past) = look_at_unheld(&layout) else { panic!("nobody runs it") };
            let state = past.state.expect("who is to be cleaned up");
            assert_eq!((state.shim.pid, state.cgroups.len()), (i32::MAX, 2));
            assert_eq!(past.restarts, u32::MAX);
        }
    }
}
