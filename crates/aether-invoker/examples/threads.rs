//! A service with a thread for each processor: each picks by a caller of its own.
//! The calls themselves are left out, so this says what picking alone takes.
//!
//! ```text
//! cargo run --release -p aether-invoker --example threads -- 127.0.0.1:8090 org.example:hello 1000000
//! ```

use std::error::Error;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use aether_invoker::{Config, Invoker, SessionKind, SliceHandle};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [node, slice, calls] = arguments.as_slice() else {
        eprintln!("usage: threads <control-plane address> <slice> <picks of each thread>");
        return ExitCode::from(2);
    };
    match run(node, slice, calls).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("threads: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(node: &str, slice: &str, calls: &str) -> Result<(), Box<dyn Error>> {
    let (slice, calls) = (slice.parse()?, calls.parse()?);
    let config = Config::new("threads", SessionKind::Invoker, vec![node.parse()?]);
    let invoker = Invoker::connect(config)?;
    invoker.ready(Duration::from_secs(5)).await?;
    let handle = invoker.slice(&slice);
    // Fails here rather than in a thread.
    drop(handle.pick()?);

    let threads = thread::available_parallelism()?.get();
    // Blocking, on a thread that the session does not need.
    let worker = handle.clone();
    tokio::task::spawn_blocking(move || pick_on_all(&worker, threads, calls)).await?;
    for (revision, count) in handle.tally() {
        println!("revision {revision}: {count} picks");
    }
    invoker.close().await;
    Ok(())
}

fn pick_on_all(handle: &SliceHandle, threads: usize, calls: u64) {
    let began = Instant::now();
    let one = || {
        let caller = handle.independent_caller();
        // A table that leads nowhere is no reason to stop: the next one may.
        (0..calls).filter(|_| caller.pick().is_ok()).count()
    };
    let picked: usize = thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        all.into_iter().filter_map(|thread| thread.join().ok()).sum()
    });
    let each = began.elapsed().as_nanos() / u128::from(calls.max(1));
    println!("{picked} picks on {threads} threads, {each} ns each on its thread");
}
