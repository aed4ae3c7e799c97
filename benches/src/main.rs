//! Aether's replicated store beside etcd: three members each, on the same disk,
//! durable, over gRPC, called by the same clients. Runs of both alternate, and
//! what is told are medians and their ratio.
//!
//! `cargo xtask bench peers` builds everything and runs all of it. The part `ingress` is a
//! comparison of its own, see there.

mod etcd;
mod failover;
mod fan_out;
mod ingress;
mod load;
mod member;
mod steady;
mod stores;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use etcd::Timeouts;
use load::{Call, Run, quantile};
use member::Store;
use stores::Running;

/// What can be asked for.
struct Options {
    rounds: usize,
    seconds: u64,
    kills: usize,
    watchers: usize,
    puts: usize,
    minutes: usize,
    clients: Vec<usize>,
    per_connection: usize,
    parts: Vec<String>,
}

const USAGE: &str =
    "usage: peers [PART…] [--rounds N] [--seconds N] [--kills N] [--watchers N] [--puts N]
             [--minutes N]

parts: writes reads watch failover (all without any); steady; ingress, with options of its own
  --rounds N    runs of each store and kind of call (3)
  --seconds N   length of a run (5)
  --kills N     kills of the leader of each store (30)
  --watchers N  watchers of one key (1000)
  --puts N      puts that all of them are waited for (30)
  --minutes N   length of the steady load, which has the most clients (60)
  --clients N   only this many clients (1, 64 and 256)
  --per-connection N
                clients that share one HTTP/2 connection (16)";

const CLIENTS: [usize; 3] = [1, 64, 256];
const STORES: [Store; 2] = [Store::Aether, Store::Etcd];
/// Aether's own defaults, so that etcd is also seen with the same: etcd wants an
/// election timeout of at least five heartbeats.
const TUNED: Timeouts = Timeouts { heartbeat_ms: 40, election_ms: 250 };

fn options() -> Result<Options> {
    let mut options = Options {
        rounds: 3,
        seconds: 5,
        kills: 30,
        watchers: 1_000,
        puts: 30,
        minutes: 60,
        clients: CLIENTS.into(),
        per_connection: 16,
        parts: Vec::new(),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<usize> {
            let text = arguments.next().with_context(|| format!("{argument} needs a number"))?;
            Ok(text.parse::<std::num::NonZeroUsize>().with_context(|| text.clone())?.get())
        };
        match argument.as_str() {
            "--rounds" => options.rounds = number()?,
            "--seconds" => options.seconds = number()? as u64,
            "--kills" => options.kills = number()?,
            "--watchers" => options.watchers = number()?,
            "--puts" => options.puts = number()?,
            "--minutes" => options.minutes = number()?,
            "--per-connection" => options.per_connection = number()?,
            "--clients" => options.clients = vec![number()?],
            "writes" | "reads" | "failover" | "watch" | "steady" => options.parts.push(argument),
            _ => anyhow::bail!("{USAGE}"),
        }
    }
    Ok(options)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let programs = std::env::current_exe()?;
    let programs = programs.parent().context("a program lies in a folder")?;
    let binary = programs.join("aether");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("ingress", rest)) = arguments.split_first().map(|(part, rest)| (&**part, rest)) {
        return ingress::run(&binary, rest).await;
    }
    let options = options()?;
    let disk = programs.parent().context("a target folder")?.join("peers");
    std::fs::create_dir_all(&disk)?;
    let bench = Bench { options, binary, disk };
    let wanted = |part: &str| {
        bench.options.parts.is_empty() || bench.options.parts.iter().any(|p| p == part)
    };
    let calls = [(Call::Write, "writes"), (Call::Read, "reads")];
    let calls: Vec<Call> = calls.into_iter().filter(|(_, p)| wanted(p)).map(|(c, _)| c).collect();
    if !calls.is_empty() {
        bench.calls(&calls).await?;
    }
    if wanted("watch") {
        bench.watch().await?;
    }
    if wanted("failover") {
        bench.failover().await?;
    }
    if bench.options.parts.iter().any(|part| part == "steady") {
        let running = bench.start(Store::Aether, None).await?;
        let clients = bench.options.clients.iter().copied().max().unwrap_or_default();
        let clients = (clients, bench.options.per_connection);
        steady::run(&running, clients, bench.options.minutes).await?;
    }
    Ok(())
}

struct Bench {
    options: Options,
    binary: PathBuf,
    disk: PathBuf,
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Bench {
    async fn start(&self, store: Store, tuned: Option<Timeouts>) -> Result<Running> {
        Running::start(store, &self.binary, &self.disk, tuned).await
    }

    /// Writes and reads a second.
    async fn calls(&self, calls: &[Call]) -> Result<()> {
        let time = Duration::from_secs(self.options.seconds);
        let per_connection = self.options.per_connection;
        println!("| calls of 256 B | clients | Aether /s | etcd /s | ratio | p50 ms | p99 ms |");
        println!("|---|---|---|---|---|---|---|");
        // By kind and clients, for each store.
        let mut runs: Vec<(Call, usize, [Vec<Run>; 2])> = Vec::new();
        for call in calls {
            let of = |clients: &usize| (*call, *clients, [Vec::new(), Vec::new()]);
            runs.extend(self.options.clients.iter().map(of));
        }
        for round in 0..self.options.rounds {
            for turn in 0..2 {
                // Whoever is first has the warmer machine: take turns.
                let which = (round + turn) % 2;
                let store = STORES[which];
                let running = self.start(store, None).await?;
                let addresses = running.addresses();
                load::fill(store, addresses[0]).await?;
                for (call, clients, of) in &mut runs {
                    let run = load::run(store, &addresses, (*clients, per_connection), *call, time)
                        .await?;
                    eprintln!(
                        "{store:?} {call:?} {clients:>3} clients: {:.0}/s, p50 {:.2} ms, p99 {:.2} ms",
                        run.per_second,
                        ms(run.p50),
                        ms(run.p99)
                    );
                    of[which].push(run);
                }
            }
        }
        for (call, clients, of) in runs {
            let of = |take: fn(&Run) -> f64| {
                [0, 1].map(|which: usize| median(of[which].iter().map(take).collect()))
            };
            let rate = of(|run| run.per_second);
            let (p50, p99) = (of(|run| ms(run.p50)), of(|run| ms(run.p99)));
            println!(
                "| {call:?} | {clients} | {:.0} | {:.0} | {:.2} | {:.2} / {:.2} | {:.2} / {:.2} |",
                rate[0],
                rate[1],
                rate[0] / rate[1],
                p50[0],
                p50[1],
                p99[0],
                p99[1]
            );
        }
        Ok(())
    }

    /// A write, until all watchers have it.
    async fn watch(&self) -> Result<()> {
        let watchers = self.options.watchers;
        println!("\n| write to {watchers} watchers | p50 ms | p99 ms |\n|---|---|---|");
        for store in STORES {
            let (mut p50, mut p99) = (Vec::new(), Vec::new());
            for _ in 0..self.options.rounds {
                let running = self.start(store, None).await?;
                let times = fan_out::run(store, &running, watchers, self.options.puts).await?;
                p50.push(ms(quantile(&times, 0.5)));
                p99.push(ms(quantile(&times, 0.99)));
            }
            println!("| {store:?} | {:.2} | {:.2} |", median(p50), median(p99));
        }
        Ok(())
    }

    /// The leader dies, again and again.
    async fn failover(&self) -> Result<()> {
        let kills = self.options.kills;
        println!(
            "\n| kill of the leader to the next acknowledged write | p50 ms | p99 ms | worst |"
        );
        println!("|---|---|---|---|");
        for (name, store, tuned) in [
            ("Aether", Store::Aether, None),
            ("etcd", Store::Etcd, None),
            ("etcd, heartbeat 40 ms, election 250 ms", Store::Etcd, Some(TUNED)),
        ] {
            let mut running = self.start(store, tuned).await?;
            let mut times = Vec::new();
            for round in 0..kills {
                times.push(failover::one(store, &mut running, round).await?);
            }
            times.sort_unstable();
            println!(
                "| {name}, {kills} kills | {:.0} | {:.0} | {:.0} |",
                ms(quantile(&times, 0.5)),
                ms(quantile(&times, 0.99)),
                ms(quantile(&times, 1.0))
            );
        }
        Ok(())
    }
}
