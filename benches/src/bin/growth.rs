//! Whether three voters stay as large as they are: as many writes as come in 24
//! hours at 100 a second, as fast as they are taken, with disk and memory looked
//! at all along.
//!
//! Nine of ten writes put values of 100 to 1,000 B under 20,000 keys, some with a
//! request id, and a tenth of those delete; the rest open and close a node, which
//! leaves audit records. Beside that, updates of a slice with a real instance
//! begin and are rolled back, one after the other.
//!
//! `cargo xtask bench growth [--writes N]` builds and runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aether_cluster::{Cluster, Stage, Topology};
use aether_proto::v1::cluster_client::ClusterClient;
use aether_proto::v1::{KvDeleteRequest, KvPutRequest, SetNodeScheduleRequest};
use anyhow::{Context, Result, bail, ensure};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// 24 hours at 100 a second.
const WRITES: u64 = 24 * 3_600 * 100;
const VOTERS: usize = 3;
const CLIENTS: usize = 192;
const KEYS: u64 = 20_000;
const VALUE_BYTES: [u64; 2] = [100, 1_000];
const CALL_MAX: Duration = Duration::from_secs(60);
/// Looks at the whole, of which the first quarter is warm-up.
const LOOKS: u64 = 80;
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Of `Config::snapshot_every_entries`, which the node does not change.
const SNAPSHOT_EVERY: u64 = 50_000;
/// Entries that a log holds: those since the last snapshot, as many before it,
/// what comes while the next is made, and a quarter until it is purged.
const LOG_ENTRIES: u64 = 3 * SNAPSHOT_EVERY + SNAPSHOT_EVERY / 4;
/// What an entry takes beside its value: JSON around it, log id, checksums.
const ENTRY_BYTES: u64 = 400;
/// A log goes by files of 8 MiB: the one that is written, and the one in which
/// the first entry is.
const LOG_FILES: u64 = 2 * 8 * MIB;
/// Two snapshots that are kept, and one that is being written.
const SNAPSHOTS: u64 = 3;
/// The image is written anew when it takes twice what it took when it was new,
/// which is up to four times the rows.
const IMAGE_TIMES: u64 = 2 * 4;
/// And yet not below this; half as much again may come until that is noticed.
const IMAGE_MIN: u64 = 64 * MIB;
const MIB: u64 = 1024 * 1024;

const USAGE: &str = "usage: growth [--writes N]

  --writes N   writes in all (8,640,000: 24 hours at 100 a second)";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let mut writes = WRITES;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--writes" => writes = arguments.next().context(USAGE)?.parse().context(USAGE)?,
            _ => bail!("{USAGE}"),
        }
    }
    let programs = std::env::current_exe()?;
    let binary = programs.parent().context("a program lies in a folder")?.join("aether");
    // One of the workers is opened and closed all the time.
    let topology = Topology::split(VOTERS, 2);
    let stage = Stage::set(&binary, &topology, &[("1.0.0", &[]), ("2.0.0", &[])]).await?;
    let ran = run(&stage, writes).await;
    if ran.is_err() {
        eprintln!("the nodes' output is in {}", stage.keep().display());
        return ran;
    }
    stage.end().await;
    Ok(())
}

/// What the clients do and have done.
#[derive(Default)]
struct Work {
    next: AtomicU64,
    done: AtomicU64,
    updates: AtomicU64,
    ends: AtomicBool,
}

async fn run(stage: &Stage, writes: u64) -> Result<()> {
    stage.deploy("1.0.0", 1).await?;
    let work = Arc::new(Work::default());
    let mut clients = tokio::task::JoinSet::new();
    let channels: Vec<Channel> =
        (0..CLIENTS / 16).map(|k| stage.cluster.channel(k % VOTERS)).collect();
    for client in 0..CLIENTS {
        let (work, channel) = (Arc::clone(&work), channels[client % channels.len()].clone());
        clients.spawn(async move { write(&work, channel, writes).await });
    }
    let (looked, updated) = tokio::join!(look(stage, &work, writes, &mut clients), async {
        let updated = update(stage, &work).await;
        if updated.is_err() {
            work.ends.store(true, Ordering::Relaxed);
        }
        updated
    });
    updated?;
    looked?.judge(writes)
}

/// Writes until all are written.
async fn write(work: &Work, channel: Channel, writes: u64) -> Result<()> {
    let mut client = ClusterClient::new(channel);
    let text = "0123456789abcdef".repeat(VALUE_BYTES[1] as usize / 16 + 1);
    loop {
        let n = work.next.fetch_add(1, Ordering::Relaxed);
        if n >= writes || work.ends.load(Ordering::Relaxed) {
            return Ok(());
        }
        // Like chance, and the same in every run.
        let chance = n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31);
        // All keys are there before the first look that counts.
        let key = format!("config/growth/k{:05}", if n < KEYS { n } else { chance % KEYS });
        let answered: Result<(), Status> = match n % 100 {
            0..10 if n >= KEYS => {
                let request = SetNodeScheduleRequest {
                    node: "w0".to_owned(),
                    schedule: if n.is_multiple_of(2) { "CORDONED" } else { "OPEN" }.to_owned(),
                    request_id: format!("growth-{n}"),
                    actor: "growth".to_owned(),
                };
                client.set_node_schedule(timed(request)).await.map(drop)
            }
            10..19 if n >= KEYS => {
                let request = KvDeleteRequest { key, ..Default::default() };
                match client.kv_delete(timed(request)).await {
                    Err(status) if status.code() == Code::NotFound => Ok(()),
                    other => other.map(drop),
                }
            }
            kind => {
                let bytes = VALUE_BYTES[0] + chance / 7 % (VALUE_BYTES[1] - VALUE_BYTES[0]);
                let request = KvPutRequest {
                    key,
                    value: text[..bytes as usize].to_owned(),
                    request_id: if kind < 40 { format!("growth-{n}") } else { String::new() },
                    ..Default::default()
                };
                client.kv_put(timed(request)).await.map(drop)
            }
        };
        answered.with_context(|| format!("write {n}"))?;
        work.done.fetch_add(1, Ordering::Relaxed);
    }
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_MAX);
    request
}

/// Begins updates and takes them back, until the writes are over.
async fn update(stage: &Stage, work: &Work) -> Result<()> {
    while !work.ends.load(Ordering::Relaxed) {
        let id = stage.start("2.0.0", &[]).await?;
        stage.cli(&["update", "rollback", &id, "--now", "--yes"]).await?;
        stage.until_state(&id, "ROLLED_BACK").await?;
        work.updates.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// How large one voter is, in bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    log: u64,
    snapshots: u64,
    image: u64,
    memory: u64,
    /// The newest snapshot, which holds every row once.
    rows: u64,
}

impl Size {
    fn of(cluster: &Cluster, voter: usize) -> Result<Self> {
        let node = &cluster.nodes[voter];
        let replica = node.data_dir().join("replica");
        let pid = node.pid().with_context(|| format!("{} runs", node.name))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let memory = memory.and_then(|line| line.split_whitespace().next());
        let snapshots = files(&replica.join("snapshots"));
        let rows =
            snapshots.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "snap"));
        Ok(Self {
            log: sum(&files(&replica.join("wal"))),
            rows: rows.map(|(_, bytes)| *bytes).max().unwrap_or(0),
            snapshots: sum(&snapshots),
            image: sum(&files(&replica.join("image"))),
            memory: memory.context("a figure of memory")?.parse::<u64>()? * 1_024,
        })
    }

    /// The larger of each.
    fn max(self, other: Self) -> Self {
        Self {
            log: self.log.max(other.log),
            snapshots: self.snapshots.max(other.snapshots),
            image: self.image.max(other.image),
            memory: self.memory.max(other.memory),
            rows: self.rows.max(other.rows),
        }
    }
}

/// Files below a folder, and what they take on the disk. One that is just being
/// removed is none.
fn files(dir: &Path) -> Vec<(PathBuf, u64)> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(data) if data.is_dir() => found.extend(files(&entry.path())),
            Ok(data) => found.push((entry.path(), data.blocks() * 512)),
            Err(_) => {}
        }
    }
    found
}

fn sum(files: &[(PathBuf, u64)]) -> u64 {
    files.iter().map(|(_, bytes)| bytes).sum()
}

/// What was seen.
struct Looks {
    /// The largest of the voters, by parts of the run.
    sizes: Vec<Size>,
    took: Duration,
    updates: u64,
}

/// Looks at the voters until the clients have ended.
async fn look(
    stage: &Stage,
    work: &Work,
    writes: u64,
    clients: &mut tokio::task::JoinSet<Result<()>>,
) -> Result<Looks> {
    println!("| writes | log | snapshots | image | rows | memory | writes/s |");
    println!("|---|---|---|---|---|---|---|");
    let begun = Instant::now();
    let mut sizes = Vec::new();
    let (mut largest, mut since) = (Size::default(), (begun, 0));
    let mut ended = Ok(());
    loop {
        let done = work.done.load(Ordering::Relaxed);
        for voter in 0..VOTERS {
            largest = largest.max(Size::of(&stage.cluster, voter)?);
        }
        if done * LOOKS >= (sizes.len() as u64 + 1) * writes {
            sizes.push(largest);
            if sizes.len() % 4 == 0 {
                let rate = (done - since.1) as f64 / since.0.elapsed().as_secs_f64();
                let mib = |bytes: u64| format!("{} MiB", bytes / MIB);
                println!(
                    "| {done} | {} | {} | {} | {} | {} | {rate:.0} |",
                    mib(largest.log),
                    mib(largest.snapshots),
                    mib(largest.image),
                    mib(largest.rows),
                    mib(largest.memory)
                );
                since = (Instant::now(), done);
            }
            largest = Size::default();
        }
        match tokio::time::timeout(LOOK_EVERY, clients.join_next()).await {
            Err(_) => {}
            Ok(Some(client)) => {
                let client = client?;
                if client.is_err() {
                    work.ends.store(true, Ordering::Relaxed);
                    ended = ended.and(client);
                }
            }
            Ok(None) => break,
        }
    }
    work.ends.store(true, Ordering::Relaxed);
    ended?;
    let updates = work.updates.load(Ordering::Relaxed);
    Ok(Looks { sizes, took: begun.elapsed(), updates })
}

impl Looks {
    /// Nothing may exceed what the settings allow, nor grow.
    fn judge(&self, writes: u64) -> Result<()> {
        let seconds = self.took.as_secs();
        println!("\n{writes} writes and {} updates in {seconds} s", self.updates);
        ensure!(self.updates > 0, "no update ended");
        let quarter = self.sizes.len() / 4;
        ensure!(quarter >= 2, "{} looks are too few", self.sizes.len());
        let largest = |sizes: &[Size]| sizes.iter().copied().fold(Size::default(), Size::max);
        let warm = &self.sizes[quarter..];
        let (early, late) = (largest(&warm[..quarter]), largest(&warm[warm.len() - quarter..]));
        let all = largest(warm);
        let bounds = Size {
            log: LOG_ENTRIES * (VALUE_BYTES.iter().sum::<u64>() / 2 + ENTRY_BYTES) + LOG_FILES,
            snapshots: SNAPSHOTS * (all.rows + MIB),
            image: (IMAGE_TIMES * all.rows).max(IMAGE_MIN * 3 / 2),
            ..Size::default()
        };
        let mut wrong = Vec::new();
        println!("| | second quarter | last quarter | bound |\n|---|---|---|---|");
        for (name, of) in [
            ("log", (|size: &Size| size.log) as fn(&Size) -> u64),
            ("snapshots", |size| size.snapshots),
            ("image", |size| size.image),
            ("memory", |size| size.memory),
        ] {
            let (bound, early, late) = (of(&bounds), of(&early), of(&late));
            // An allocator never gives all back, and looks differ by chance.
            let bound = if bound == 0 { early + early / 4 + 32 * MIB } else { bound };
            let mib = |bytes: u64| bytes / MIB;
            let figures = format!("{} MiB | {} MiB | {} MiB", mib(early), mib(late), mib(bound));
            println!("| {name} | {figures} |");
            if of(&all) > bound {
                wrong.push(format!("{name}: {} of {} MiB", mib(of(&all)), mib(bound)));
            }
            if late > early + early / 4 + 32 * MIB {
                wrong.push(format!("{name} grows: {figures}"));
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("; "));
        Ok(())
    }
}
