//! What a large snapshot costs on the way: 1,000,000 values of 1 KiB, into a file
//! and out of it, into a node that is started with it, and over the network into
//! a node that is new.
//!
//! Nodes are processes of their own, with their data on the disk of the target
//! folder. `cargo xtask bench snapshot` builds and runs it.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use aether_cluster::{Addresses, Cluster, Lease, Topology, free_address};
use aether_core::records::ConfigRecord;
use aether_proto::v1::KvGetRequest;
use aether_proto::v1::cluster_client::ClusterClient;
use aether_replica::{Backup, Config, Machine, Row, Voter};
use aether_server::StateMachine;
use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

const VALUE_BYTES: usize = 1_024;
const VALUES: usize = 1_000_000;
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(5);
const USAGE: &str = "usage: snapshot [--values N]

  --values N   values of 1 KiB (1,000,000)";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let mut values = VALUES;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--values" => values = arguments.next().context(USAGE)?.parse().context(USAGE)?,
            _ => anyhow::bail!("{USAGE}"),
        }
    }
    let programs = std::env::current_exe()?;
    let programs = programs.parent().context("a program lies in a folder")?;
    let dir = tempfile::TempDir::new_in(programs.parent().context("a target folder")?)?;
    let backup = dir.path().join("large.snap");
    let mut leases = Vec::new();
    let topology = Topology::split(1, 0);
    let mut cluster = prepared(&programs.join("aether"), &topology, dir.path(), &mut leases)?;
    enlarged_backup(&mut cluster, &backup, values).await?;
    println!("| {values} values of {VALUE_BYTES} B | seconds | of processor | MB/s |");
    println!("|---|---|---|---|");
    parts(&backup, dir.path()).await?;
    nodes(cluster, &topology, &backup, values).await
}

fn prepared(
    binary: &Path,
    topology: &Topology,
    dir: &Path,
    leases: &mut Vec<Lease>,
) -> Result<Cluster> {
    let mut next = || {
        let (address, lease) = free_address()?;
        leases.push(lease);
        anyhow::Ok(address)
    };
    let addresses = Addresses { grpc: next()?, http: next()?, peer: next()?, ingress: next()? };
    Cluster::prepare(binary, topology, dir, &[addresses])
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path is text")
}

/// A backup of a small cluster, with values put into it in the way that the file
/// format is described.
async fn enlarged_backup(cluster: &mut Cluster, to: &Path, values: usize) -> Result<()> {
    let small = to.with_extension("small");
    cluster.start_all()?;
    cluster.leader(PATIENCE).await?;
    cluster.json(&["snapshot", "save", text(&small)?]).await?;
    cluster.nodes[0].kill();
    fs::remove_dir_all(cluster.nodes[0].data_dir())?;

    let mut rows: Vec<Row> = Vec::new();
    let read = Backup::open(&small)?.rows(|row| {
        rows.push(row);
        Ok(())
    });
    read?;
    let mut head = Vec::new();
    File::open(&small)?.read_to_end(&mut head)?;
    let header = u32::from_be_bytes(head[12..16].try_into()?) as usize;
    head.truncate(16 + header);
    let mut out = Hashing { out: BufWriter::new(File::create(to)?), hasher: Sha256::new() };
    out.write_all(&head)?;
    let mut row = |key: &str, value: &[u8]| -> std::io::Result<()> {
        out.write_all(&(key.len() as u32).to_be_bytes())?;
        out.write_all(&(value.len() as u32).to_be_bytes())?;
        out.write_all(key.as_bytes())?;
        out.write_all(value)
    };
    let (before, after): (Vec<_>, Vec<_>) =
        rows.iter().partition(|(key, _)| key.as_str() < "config/");
    before.iter().try_for_each(|(key, value)| row(key, value))?;
    for k in 0..values {
        let (key, record) = value(k)?;
        row(&key, &record)?;
    }
    after.iter().try_for_each(|(key, value)| row(key, value))?;
    out.write_all(&u32::MAX.to_be_bytes())?;
    out.write_all(&((rows.len() + values) as u64).to_be_bytes())?;
    let checksum = out.hasher.finalize();
    out.out.write_all(&checksum)?;
    out.out.flush()?;
    fs::remove_file(small)?;
    Ok(())
}

/// A writer that sums up what it writes.
struct Hashing<W> {
    out: W,
    hasher: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.hasher.update(bytes);
        self.out.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

fn name(k: usize) -> String {
    format!("k{k:07}")
}

/// A row that differs from all others in its text.
fn value(k: usize) -> Result<(String, Vec<u8>)> {
    let text = format!("value {k} ").repeat(VALUE_BYTES);
    let record = ConfigRecord {
        name: name(k).parse()?,
        value: text[..VALUE_BYTES].into(),
        actor: "bench".to_owned(),
        wall_ms: 1_790_000_000_000,
        created: 1,
        modified: 1,
    };
    Ok((format!("config/{}", name(k)), serde_json::to_vec(&record)?))
}

/// Tells how long some work on so many bytes took.
fn told<T>(what: &str, bytes: u64, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (begun, before) = (Instant::now(), processor_seconds("self")?);
    let done = work()?;
    tell(what, bytes, begun.elapsed(), processor_seconds("self")? - before);
    Ok(done)
}

fn tell(what: &str, bytes: u64, took: Duration, processor: f64) {
    let seconds = took.as_secs_f64();
    let rate = bytes as f64 / 1e6 / seconds;
    println!("| {what} | {seconds:.2} | {processor:.2} | {rate:.0} |");
}

/// Time on a processor that a process has had, of all its threads; its children
/// that ended and were waited for too. On a busy machine it says more than the
/// clock.
fn processor_seconds(pid: &str) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').context("a process has a name")?.1;
    let ticks = fields.split_whitespace().skip(11).take(4).map(str::parse::<f64>);
    let ticks: Vec<f64> = ticks.collect::<Result<_, _>>()?;
    // Hundredths, on every Linux.
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// Most memory that a process ever had in use, in MiB.
fn peak_mib(pid: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("a figure of memory")?.parse::<u64>()? / 1_024)
}

/// The steps by themselves, in this process.
async fn parts(backup: &Path, dir: &Path) -> Result<()> {
    let bytes = fs::metadata(backup)?.len();
    println!("| the file, {:.0} MB | | | |", bytes as f64 / 1e6);
    let opened = told("checksum and rows read", bytes, || Ok(Backup::open(backup)?))?;
    let (mut machine, _states) = StateMachine::new();
    let mut rows = Vec::new();
    let read = opened.rows(|row| {
        rows.push(row);
        Ok(())
    });
    read?;
    told("a state made of its rows", bytes, || {
        let restored = machine.restore(opened.at(), &mut rows.into_iter());
        restored.map_err(anyhow::Error::msg)
    })?;
    let config = Config {
        node_name: "v0".to_owned(),
        data_dir: dir.join("written/replica"),
        voters: vec![Voter { name: "v0".to_owned(), peer_addr: "127.0.0.1:1".to_owned() }],
        ..Config::default()
    };
    fs::create_dir(dir.join("written"))?;
    let (begun, before) = (Instant::now(), processor_seconds("self")?);
    aether_replica::restore(&config, &opened, opened.at(), machine.image()).await?;
    let processor = processor_seconds("self")? - before;
    tell("state written to a file, synced and verified", bytes, begun.elapsed(), processor);
    fs::remove_dir_all(dir.join("written"))?;
    Ok(())
}

/// Waits until a node answers a read from its own state; gives the index.
async fn reads(cluster: &Cluster, node: usize, key: &str, stale: bool) -> Result<u64> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut client = ClusterClient::new(cluster.channel(node));
        let request = KvGetRequest { key: key.to_owned(), stale };
        match client.kv_get(request).await {
            Ok(answer) => {
                let as_of = answer.into_inner().as_of.context("an answer says as of when")?;
                return Ok(as_of.index);
            }
            Err(status) => ensure!(Instant::now() < deadline, "{status}"),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until a node that was just started has written its KV image, which takes
/// a processor for as long as that lasts: a leader that has been running has one.
async fn image_written(cluster: &Cluster, index: u64) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = cluster.json(&["status", "--verbose"]).await?;
        let image = status["voters"][0]["detail"]["image"].as_u64();
        if image >= Some(index) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "no image of index {index}: {status}");
        tokio::time::sleep(100 * LOOK_EVERY).await;
    }
}

fn used(cluster: &Cluster, node: usize) -> Result<f64> {
    processor_seconds(&cluster.nodes[node].pid().context("it runs")?.to_string())
}

/// The whole, on processes.
async fn nodes(
    mut cluster: Cluster,
    topology: &Topology,
    backup: &Path,
    values: usize,
) -> Result<()> {
    let bytes = fs::metadata(backup)?.len();
    let key = format!("config/{}", name(values - 1));
    let config = cluster.nodes[0].config();
    let (begun, before) = (Instant::now(), processor_seconds("self")?);
    cluster.json(&["snapshot", "restore", text(backup)?, "--config", text(&config)?]).await?;
    let processor = processor_seconds("self")? - before;
    tell("`aether snapshot restore`", bytes, begun.elapsed(), processor);
    fs::remove_file(backup)?;

    let begun = Instant::now();
    cluster.nodes[0].start()?;
    reads(&cluster, 0, &key, true).await?;
    let (took, processor) = (begun.elapsed(), used(&cluster, 0)?);
    tell("start of a node with that file, until it serves reads", bytes, took, processor);
    let index = reads(&cluster, 0, &key, false).await?;
    let peak = |cluster: &Cluster, node: usize| -> Result<u64> {
        peak_mib(&cluster.nodes[node].pid().context("it runs")?.to_string())
    };
    println!("| most memory of it | {} MiB | | |", peak(&cluster, 0)?);

    image_written(&cluster, index).await?;
    let joining = cluster.prepare_voter("v1", topology)?;
    let peer = cluster.nodes[joining].addresses.peer.to_string();
    cluster.json(&["node", "add", "v1", "--peer", &peer]).await?;
    let begun = Instant::now();
    cluster.nodes[joining].start()?;
    while reads(&cluster, joining, &key, true).await? < index {}
    let (took, processor) = (begun.elapsed(), used(&cluster, joining)?);
    tell(
        "start of a new node that gets it over the network, until it serves reads",
        bytes,
        took,
        processor,
    );
    reads(&cluster, joining, &key, false).await?;
    println!("| most memory of it | {} MiB | | |", peak(&cluster, joining)?);
    println!("| most memory of the sender | {} MiB | | |", peak(&cluster, 0)?);
    Ok(())
}
