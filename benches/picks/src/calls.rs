//! What a whole call costs through the invoker: a client made by tonic, over a channel of
//! tonic's own and over a slice, to the same servers in a process of their own.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aether_invoker::{CallOptions, Config, Invoker, SessionKind, SliceService};
use anyhow::{Context, Result, bail};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::node::Node;

/// Calls at a time, when it is calls per second that count.
const CALLERS: usize = 64;
/// Instances behind the clients that choose among some.
const INSTANCES: usize = 16;
/// Two lengths of a run whose instructions are counted: what differs is that of the calls.
const COUNTED: [u64; 2] = [1_000, 6_000];

/// By what a client reaches its servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Channel,
    Balanced,
    Slice,
}

impl By {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Channel, "channel"), (Self::Balanced, "balanced"), (Self::Slice, "slice")];

    fn named(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|(_, its)| *its == name);
        found.map(|(by, _)| by).with_context(|| format!("'{name}' is none of them"))
    }

    fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(by, _)| *by == self).map_or("", |(_, name)| name)
    }
}

#[derive(Clone)]
enum Client {
    Channel(HealthClient<Channel>),
    Slice(HealthClient<SliceService>),
}

impl Client {
    /// To the first `count` servers.
    async fn connect(by: By, servers: &Servers, count: usize) -> Result<Self> {
        let endpoint = |address: &SocketAddr| {
            Ok(Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true))
        };
        let addresses = &servers.instances[..count];
        Ok(match by {
            By::Channel => {
                Self::Channel(HealthClient::new(endpoint(&addresses[0])?.connect().await?))
            }
            By::Balanced => {
                let all: Vec<Endpoint> = addresses.iter().map(endpoint).collect::<Result<_>>()?;
                Self::Channel(HealthClient::new(Channel::balance_list(all.into_iter())))
            }
            By::Slice => {
                let config = Config::new("calls", SessionKind::Invoker, vec![servers.node]);
                let invoker = Invoker::connect(config)?;
                invoker.ready(Duration::from_secs(10)).await?;
                let slice = invoker.slice(&format!("org.example:of-{count}").parse()?);
                Self::Slice(HealthClient::new(slice.service(CallOptions::default())))
            }
        })
    }

    async fn call(&mut self) -> Result<()> {
        let request = HealthCheckRequest::default();
        match self {
            Self::Channel(client) => client.check(request).await?,
            Self::Slice(client) => client.check(request).await?,
        };
        Ok(())
    }
}

/// The servers' process, and where they are.
struct Servers {
    process: Option<Child>,
    instances: Vec<SocketAddr>,
    node: SocketAddr,
}

impl Servers {
    /// Starts them in a process of their own.
    fn start() -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["calls", "serve"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = BufReader::new(process.stdout.take().context("its output")?);
        let line = said.lines().next().context("the servers say where they are")??;
        let mut servers = Self::read(&line)?;
        servers.process = Some(process);
        Ok(servers)
    }

    fn read(line: &str) -> Result<Self> {
        let mut all: Vec<SocketAddr> =
            line.split(',').map(str::parse).collect::<Result<_, _>>().context(line.to_owned())?;
        let node = all.pop().context("the node's address is the last")?;
        Ok(Self { process: None, instances: all, node })
    }

    fn line(&self) -> String {
        let all = self.instances.iter().chain([&self.node]);
        all.map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // It ends when its input does; being waited for, it leaves nothing behind.
            drop(process.stdin.take());
            let _ = process.wait();
        }
    }
}

/// Serves until the input ends.
fn serve() -> Result<()> {
    let node = Node::start()?;
    let listeners: Vec<std::net::TcpListener> = (0..INSTANCES)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    let mut instances = Vec::new();
    for listener in listeners {
        instances.push(listener.local_addr()?);
        listener.set_nonblocking(true)?;
        let _entered = node.runtime().enter();
        let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener)?);
        let (_, service) = tonic_health::server::health_reporter();
        let server = Server::builder().tcp_nodelay(true).add_service(service);
        node.runtime().spawn(server.serve_with_incoming(incoming));
    }
    for count in [1, INSTANCES] {
        node.publish_at(&format!("org.example:of-{count}"), &instances[..count])?;
    }
    let servers = Servers { process: None, instances, node: node.address() };
    println!("{}", servers.line());
    std::io::stdout().flush()?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

/// Calls per second with so many callers at once.
async fn rate(client: &Client, for_time: Duration) -> Result<f64> {
    let (over, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let began = Instant::now();
    let callers = (0..CALLERS).map(|_| {
        let (mut client, over, count) = (client.clone(), Arc::clone(&over), Arc::clone(&count));
        tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                client.call().await?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        })
    });
    let callers: Vec<_> = callers.collect();
    tokio::time::sleep(for_time).await;
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await??;
    }
    Ok(count.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64())
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// So many calls, one after the other, on one thread.
fn call_in_turn(by: By, servers: &Servers, calls: u64) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = Client::connect(by, servers, 1).await?;
        for _ in 0..calls {
            client.call().await?;
        }
        Ok(())
    })
}

/// Instructions of one call in the client's process, as callgrind counts them.
fn instructions(by: By, servers: &Servers) -> Result<f64> {
    let count = |calls: u64| -> Result<f64> {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(std::env::current_exe()?)
            .args(["calls", "turn", by.name(), &servers.line(), &calls.to_string()])
            .output()
            .context("valgrind is needed to count instructions")?;
        let said = String::from_utf8_lossy(&output.stderr);
        collected(&said).with_context(|| format!("callgrind says what it collected: {said}"))
    };
    let [few, many] = [count(COUNTED[0])?, count(COUNTED[1])?];
    Ok((many - few) / (COUNTED[1] - COUNTED[0]) as f64)
}

/// What callgrind says it has collected.
fn collected(said: &str) -> Option<f64> {
    let line = said.lines().find_map(|line| line.split_once("Collected :"))?.1;
    line.split_whitespace().next()?.parse().ok()
}

/// Prints how many calls per second each makes, and of how many instructions one is.
pub fn run(rounds: usize, millis: u64) -> Result<()> {
    let servers = Servers::start()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let all = [
        ("tonic's channel, 1 instance", By::Channel, 1),
        ("Aether's slice, 1 instance", By::Slice, 1),
        ("tonic's balance_list, 16 instances", By::Balanced, INSTANCES),
        ("Aether's slice, 16 instances", By::Slice, INSTANCES),
    ];
    let rates = runtime.block_on(async {
        let mut clients = Vec::new();
        for (_, by, count) in all {
            clients.push(Client::connect(by, &servers, count).await?);
        }
        let mut rates = [const { Vec::new() }; 4];
        for round in 0..=rounds {
            for (client, rates) in clients.iter().zip(&mut rates) {
                let rate = rate(client, Duration::from_millis(millis)).await?;
                // The first round opens connections.
                if round > 0 {
                    rates.push(rate);
                }
            }
        }
        anyhow::Ok(rates)
    })?;
    println!(
        "\na unary call of gRPC, {CALLERS} at a time   {:>10} {:>12}",
        "per second", "x above"
    );
    for (pair, rates) in all.chunks(2).zip(rates.chunks(2)) {
        let ratio = rates[1].iter().zip(&rates[0]).map(|(ours, its)| ours / its).collect();
        println!("  {:36} {:12.0}", pair[0].0, median(rates[0].clone()));
        println!("  {:36} {:12.0} {:12.3}", pair[1].0, median(rates[1].clone()), median(ratio));
    }
    let [channel, slice] = [By::Channel, By::Slice].map(|by| instructions(by, &servers));
    let (channel, slice) = (channel?, slice?);
    println!("instructions of one call by callgrind, one after the other");
    println!("  {:36} {channel:12.0}", all[0].0);
    println!("  {:36} {slice:12.0} {:12.3}", all[1].0, slice / channel);
    Ok(())
}

/// What its own processes are started for.
pub fn part(arguments: &[String]) -> Result<()> {
    match arguments {
        [what] if what == "serve" => serve(),
        [what, by, servers, calls] if what == "turn" => {
            call_in_turn(By::named(by)?, &Servers::read(servers)?, calls.parse()?)
        }
        other => bail!("{other:?} is no part of it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_callgrind_says_is_read() {
        let said = "==7== Events    : Ir\n==7== Collected : 1234567\n==7== \n";
        assert_eq!(collected(said), Some(1_234_567.0));
        assert_eq!(collected("==7== error"), None);
    }

    #[test]
    fn servers_are_named_in_one_line() {
        let line = "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3";
        let servers = Servers::read(line).unwrap();
        assert_eq!((servers.instances.len(), servers.node.port()), (2, 3));
        assert_eq!(servers.line(), line);
        assert!(Servers::read("nowhere").is_err());
    }
}
