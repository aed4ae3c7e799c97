//! A control plane, a data directory and an agent, and how tests look at them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aether_agent::artifact::pack_to_file;
use aether_agent::{Agent, Config, RestartPolicy};
use aether_core::manifest::Manifest;
use aether_proto::v1;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::plane::{LIMIT, Plane};

pub const FIXTURE: &str = env!("CARGO_BIN_EXE_aether-agent-fixture");

pub struct World {
    pub plane: Plane,
    pub dir: tempfile::TempDir,
    pub agent: Option<Agent>,
}

/// A packed artifact as it is assigned.
#[derive(Clone)]
pub struct Slice {
    pub digest: String,
    pub archive: Vec<u8>,
    manifest: Manifest,
}

impl World {
    pub async fn new() -> Self {
        let mut world = Self::without_agent().await;
        world.agent = Some(world.start_agent(|_| {}).await);
        world
    }

    pub async fn without_agent() -> Self {
        let plane = Plane::start(None).await;
        Self { plane, dir: tempfile::tempdir().unwrap(), agent: None }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub async fn start_agent(&self, set: impl FnOnce(&mut Config)) -> Agent {
        let advertise: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let shim = vec![FIXTURE.into(), "shim".into()];
        let mut config = Config::new(
            "node-1".parse().unwrap(),
            self.data_dir(),
            vec![self.plane.address],
            advertise,
            shim,
        );
        let first = Duration::from_millis(20);
        config.restart = RestartPolicy { first, ..RestartPolicy::default() };
        set(&mut config);
        Agent::start(config).await.unwrap()
    }

    pub async fn stop_agent(&mut self) {
        self.agent.take().unwrap().shutdown().await;
    }

    /// Packs and publishes a slice that runs the fixture with switches, or any
    /// other program. `more` is added to its manifest.
    pub fn slice(&self, command: &[&str], more: &str) -> Slice {
        let source = tempfile::tempdir_in(self.dir.path()).unwrap();
        let text = format!("artifact='org.example:a:1.0.0'\n[run]\ncommand={command:?}\n{more}");
        fs::write(source.path().join("slice.toml"), &text).unwrap();
        let file = source.path().with_extension("tar.gz");
        let packed = pack_to_file(source.path(), &file).unwrap();
        let (digest, archive) = (packed.digest.to_string(), fs::read(file).unwrap());
        self.plane.publish(&digest, archive.clone());
        Slice { digest, archive, manifest: packed.manifest }
    }

    pub fn fixture(&self, switches: &[&str], more: &str) -> Slice {
        self.slice(&[&[FIXTURE, "slice"], switches].concat(), more)
    }

    pub fn instance_dir(&self, instance: &str) -> PathBuf {
        self.data_dir().join("instances").join(instance)
    }

    pub fn log(&self, instance: &str, stream: &str) -> String {
        let path = self.instance_dir(instance).join(format!("logs/{stream}.log"));
        fs::read_to_string(path).unwrap_or_default()
    }

    /// Process ids of the shim and of the slice.
    pub fn pids(&self, instance: &str) -> (i32, i32) {
        pids(&self.instance_dir(instance)).expect("it runs")
    }
}

fn pids(instance_dir: &Path) -> Option<(i32, i32)> {
    let state = fs::read(instance_dir.join("state.json")).ok()?;
    let state: serde_json::Value = serde_json::from_slice(&state).ok()?;
    let pid = |of: &str| state[of]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    Some((pid("shim")?, pid("child").unwrap_or(0)))
}

impl Drop for World {
    fn drop(&mut self) {
        // The instances are meant to outlive their agent; not their test.
        for entry in fs::read_dir(self.data_dir().join("instances")).into_iter().flatten().flatten()
        {
            for pid in pids(&entry.path()).map_or(vec![], |(shim, child)| vec![shim, child]) {
                if pid > 1 && is_alive(pid) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
            // And what its slice started: with the shim nobody is left to do it.
            kill_session(pids(&entry.path()).map_or(0, |(shim, _)| shim));
        }
    }
}

impl Slice {
    pub fn assign(&self, instance: &str, desired: &str, holder: SocketAddr) -> v1::Assignment {
        v1::Assignment {
            instance_id: instance.to_owned(),
            slice: "org.example:a".to_owned(),
            revision: 1,
            artifact: "org.example:a:1.0.0".to_owned(),
            sha256: self.digest.clone(),
            size_bytes: self.archive.len() as u64,
            manifest_json: serde_json::to_string(&self.manifest).unwrap(),
            desired: desired.to_owned(),
            holders: vec![holder.to_string()],
            config_sha256: String::new(),
            reload: 0,
        }
    }
}

/// Whether the process runs; one that ended and was not waited for does not.
pub fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
    })
}

/// Kills what is left of a session, which a shim's number names.
pub fn kill_session(leader: i32) {
    for pid in in_session(leader) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// The processes of a session.
fn in_session(leader: i32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let session = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // proc(5): state, parent and group come before it.
        stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(3)?.parse::<i32>().ok()
    };
    pids.filter(|pid| leader > 1 && session(pid) == Some(leader)).collect()
}

/// Polls until it holds.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let polled = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, polled).await.is_ok(), "never: {what}");
}
