//! HAProxy, whose ratio changes at its admin socket.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::THREADS;
use super::aether::Upstreams;
use super::process::Process;

/// Where Debian's packages put it.
const PROGRAM: &str = "/usr/sbin/haproxy";
/// How long it may take to answer a command.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest weight of a server that it knows.
const WEIGHT_MAX: u32 = 256;

const CONFIG: &str = "\
global
    nbthread THREADS
    maxconn 15000
    no strict-limits
    stats socket unix@admin.sock mode 600 level admin
defaults
    mode http
    option forwardfor
    http-reuse always
    timeout connect 5s
    timeout client 1h
    timeout server 60s
    timeout http-request 1h
    timeout http-keep-alive 1h
frontend in
    bind ADDRESS
    default_backend out
backend out
    balance roundrobin
";

/// The configuration. HTTP/1.1 and HTTP/2 come over the same listener.
pub fn config(address: SocketAddr, upstreams: &Upstreams, (new, old): (u32, u32)) -> String {
    let mut config =
        CONFIG.replace("THREADS", &THREADS.to_string()).replace("ADDRESS", &address.to_string());
    for (side, addresses, weight) in [("new", &upstreams.new, new), ("old", &upstreams.old, old)] {
        for (k, upstream) in addresses.iter().enumerate() {
            config += &format!("    server {side}{k} {upstream} weight {weight}\n");
        }
    }
    config
}

/// Starts it.
///
/// # Errors
/// It cannot be started.
pub fn start(dir: &Path) -> Result<Process> {
    Process::start(PROGRAM, &["-db", "-f", "haproxy.cfg"], dir)
}

/// Has every server take another weight: all in one message.
///
/// # Errors
/// It does not do so.
pub async fn split(dir: &Path, upstreams: &Upstreams, new: u32, old: u32) -> Result<()> {
    ensure!(new.max(old) <= WEIGHT_MAX, "weights of HAProxy end at {WEIGHT_MAX}");
    let of = |side: &str, count: usize, weight: u32| -> Vec<String> {
        (0..count).map(|k| format!("set weight out/{side}{k} {weight}")).collect()
    };
    // First those that get some, so that there is always somebody.
    let mut commands =
        [(new, of("new", upstreams.new.len(), new)), (old, of("old", upstreams.old.len(), old))];
    commands.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    let commands = commands.map(|(_, commands)| commands.join(";")).join(";");
    let ask = async {
        let mut socket = UnixStream::connect(dir.join("admin.sock")).await?;
        socket.write_all(format!("{commands}\n").as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = timeout(PATIENCE, ask).await.context("HAProxy's admin socket is silent")??;
    // It says nothing where it did what it was told.
    if !answer.trim().is_empty() {
        bail!("HAProxy refused '{commands}': {answer}");
    }
    Ok(())
}
