//! Aether's ingress beside HAProxy, nginx and Envoy: requests a second and how long they take,
//! memory of idle connections, and how long a change of the ratio takes. All split the same
//! ratio over the same instances, with as many threads, without a log of requests, over
//! connections that are kept on both sides, and are measured in turn on the same cores, of
//! which the load and the instances take their share.
//!
//! `cargo xtask bench peers ingress` builds everything and runs all of it.

mod aether;
mod change;
mod client;
mod envoy;
mod h2load;
mod haproxy;
mod idle;
mod nginx;
mod process;
mod speed;
mod targets;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use targets::Targets;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: peers ingress [PART…] [--quick] [--rounds N] [--seconds N] …

parts: speed idle change (all without any)
  --envoy PATH  Envoy's program (envoy)
  --rounds N    runs of each (3)
  --seconds N   length of a run (4)
  --streams N   requests at a time over one connection of HTTP/2 (1)
  --idle N      connections that idle (10000)
  --changes N   changes of the ratio (1000)
  --minutes N   after which it gives up (60)
  --quick       one round of a second, 500 idle connections and 20 changes";

/// Threads, or worker processes, of everybody.
const THREADS: usize = 2;
/// New to old, at which all but changes is measured.
const RATIO: (u32, u32) = (3, 17);
/// What is asked for: names and bytes.
const FILES: [(&str, usize); 2] = [("1k", 1_024), ("64k", 64 * 1_024)];
const PARTS: [&str; 3] = ["speed", "idle", "change"];

/// What can be asked for.
struct Options {
    envoy: String,
    rounds: usize,
    seconds: u64,
    streams: usize,
    idle: usize,
    changes: usize,
    minutes: u64,
    parts: Vec<String>,
}

fn options(arguments: &[String]) -> Result<Options> {
    let mut options = Options {
        envoy: "envoy".to_owned(),
        rounds: 3,
        seconds: 4,
        streams: 1,
        idle: 10_000,
        changes: 1_000,
        minutes: 60,
        parts: Vec::new(),
    };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        let number = |text: &String| -> Result<usize> {
            Ok(text.parse::<std::num::NonZeroUsize>().with_context(|| text.clone())?.get())
        };
        match argument.as_str() {
            "--envoy" => options.envoy = value()?.clone(),
            "--rounds" => options.rounds = number(value()?)?,
            "--seconds" => options.seconds = number(value()?)? as u64,
            "--streams" => options.streams = number(value()?)?,
            "--idle" => options.idle = number(value()?)?,
            "--changes" => options.changes = number(value()?)?,
            "--minutes" => options.minutes = number(value()?)? as u64,
            "--quick" => {
                (options.rounds, options.seconds) = (1, 1);
                (options.idle, options.changes) = (500, 20);
            }
            part if PARTS.contains(&part) => options.parts.push(part.to_owned()),
            other => bail!("'{other}' is none of it\n{USAGE}"),
        }
    }
    Ok(options)
}

/// Measures what the arguments ask for. Everything that it started ends with it, also when it
/// is interrupted or takes too long.
///
/// # Errors
/// A program is missing or does not do what it is asked to.
pub async fn run(binary: &Path, arguments: &[String]) -> Result<()> {
    let options = options(arguments)?;
    idle::raise_files(options.idle)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let limit = Duration::from_secs(60 * options.minutes);
    tokio::select! {
        measured = measure(binary, &options) => measured,
        _ = terminate.recv() => bail!("it was asked to end"),
        _ = interrupt.recv() => bail!("it was interrupted"),
        () = tokio::time::sleep(limit) => bail!("it takes longer than {limit:?}; see --minutes"),
    }
}

async fn measure(binary: &Path, options: &Options) -> Result<()> {
    let wanted = |part: &str| options.parts.is_empty() || options.parts.iter().any(|p| p == part);
    let mut targets = Targets::start(binary, &options.envoy).await?;
    if wanted("speed") {
        speed::measure(&targets, options).await?;
    }
    if wanted("idle") {
        idle::measure(&mut targets, options).await?;
    }
    if wanted("change") {
        change::measure(&mut targets, options).await?;
    }
    targets.end().await;
    Ok(())
}

/// What nginx is told of its workers: those of root's would be a user who may not enter the
/// private directories that they are started in.
fn user() -> &'static str {
    if nix::unistd::geteuid().is_root() { "user root;" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_others_refused() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let read = options(&words("idle --quick --rounds 2 --envoy /x")).unwrap();
        assert_eq!((read.rounds, read.seconds, read.idle), (2, 1, 500));
        assert_eq!((read.envoy, read.parts), ("/x".to_owned(), vec!["idle".to_owned()]));
        for wrong in ["--rounds 0", "--rounds", "--what", "writes"] {
            assert!(options(&words(wrong)).is_err(), "{wrong}");
        }
    }
}
