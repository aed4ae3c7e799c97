//! Memory of a process for each of many connections that idle after an answer. What the kernel
//! keeps for their sockets is the same for all, and not in it.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::Options;
use super::client::{Answer, Connection};
use super::h2load::Protocol;
use super::process::memory;
use super::targets::{Kind, Targets};
use crate::median;

/// How many are opened at a time.
const BATCH: usize = 50;
/// Every so many-th is asked again at the end: it was there all the time.
const PROBED: usize = 100;
/// Files that a process with one end of each connection needs beside those.
const FILES_MORE: u64 = 2_000;

/// Lets this process, and those that it starts, have both ends of so many connections.
///
/// # Errors
/// The system refuses.
pub fn raise_files(connections: usize) -> Result<()> {
    let wanted = connections as u64 + FILES_MORE;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < wanted.max(hard) {
        setrlimit(Resource::RLIMIT_NOFILE, wanted.max(hard), wanted.max(hard)).with_context(
            || format!("{wanted} open files are needed and {hard} allowed; see 'ulimit -n'"),
        )?;
    }
    Ok(())
}

/// Measures all in turn, each freshly started, and prints the table.
///
/// # Errors
/// Connections cannot be had, or are not kept.
pub async fn measure(targets: &mut Targets, options: &Options) -> Result<()> {
    let mut bytes: [Vec<f64>; Kind::PROXIES.len()] = Default::default();
    let mut before = bytes.clone();
    for round in 0..options.rounds {
        for turn in 0..Kind::PROXIES.len() {
            let which = (round + turn) % Kind::PROXIES.len();
            let kind = Kind::PROXIES[which];
            targets.restart(kind).await?;
            let one = one(targets, kind, options.idle).await;
            let (idle, each) = one.with_context(|| kind.name())?;
            eprintln!("{:>7}: {idle:.1} MiB, and {each:.0} B a connection", kind.name());
            before[which].push(idle);
            bytes[which].push(each);
        }
    }
    println!("\n| {} idle connections | at the start, MiB | bytes each |", options.idle);
    println!("|---|---|---|");
    for (which, kind) in Kind::PROXIES.into_iter().enumerate() {
        let [before, bytes] = [&before, &bytes].map(|of| median(of[which].clone()));
        println!("| {} | {before:.1} | {bytes:.0} |", kind.name());
    }
    Ok(())
}

/// MiB before there are connections, and bytes that each takes.
async fn one(targets: &Targets, kind: Kind, connections: usize) -> Result<(f64, f64)> {
    let address = targets.address(kind, Protocol::Http1).context("an address for HTTP/1.1")?;
    // What a process needs once, and connections to instances.
    drop(open(address, BATCH).await?);
    let before = memory(&targets.pids(kind))?;
    let mut open = open(address, connections).await?;
    let after = memory(&targets.pids(kind))?;
    for connection in open.iter_mut().step_by(PROBED) {
        let answer = connection.get("/1k").await?;
        ensure!(answer != Answer::Closed, "an idle connection was closed");
    }
    let each = (after as f64 - before as f64) / connections as f64;
    Ok((before as f64 / f64::from(1 << 20), each))
}

/// So many connections over which one request was answered.
async fn open(address: SocketAddr, connections: usize) -> Result<Vec<Connection>> {
    let mut all = Vec::with_capacity(connections);
    while all.len() < connections {
        let batch = BATCH.min(connections - all.len());
        let opened = (0..batch).map(|_| {
            tokio::spawn(async move {
                let mut connection = Connection::open(address).await?;
                connection.get("/1k").await?;
                anyhow::Ok(connection)
            })
        });
        for opened in opened.collect::<Vec<_>>() {
            all.push(opened.await??);
        }
    }
    Ok(all)
}
