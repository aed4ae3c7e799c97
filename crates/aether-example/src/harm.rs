//! What a misbehaving slice does beside its calls: it ends, uses up memory,
//! floods its log, and leaves a child behind.

use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::onset::Onset;
use crate::options::Options;

/// Says in the environment of a child that it is one.
const CHILD: &str = "AETHER_EXAMPLE_CHILD";

/// How long a child lives that nobody ends, so that a forgotten one goes.
const CHILD_LIFE: Duration = Duration::from_secs(3_600);

/// Most memory that is leaked: a forgotten leak does not take the machine.
const LEAK_MIB_MAX: usize = 4_096;

/// Leaks and floods go on in steps of this: smooth enough to be watched.
const STEPS_PER_S: u32 = 10;

const MIB: usize = 1 << 20;

/// Bytes of one line of a flood.
const LINE_BYTES: usize = 1_024;

/// Whether this process was started by [`Options::fork`].
pub(crate) fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// What such a child does: it leaves the session of its parent, and lives.
pub(crate) fn live_as_child() -> std::io::Result<ExitCode> {
    // Fails only for the leader of a group, which a fresh child is not.
    nix::unistd::setsid()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut asked = Vec::new();
        for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
            asked.push(signal(kind)?); // Taken and never looked at.
        }
        tokio::time::sleep(CHILD_LIFE).await;
        drop(asked);
        Ok(ExitCode::SUCCESS)
    })
}

/// Ends the slice when a switch says so; never if none does.
pub(crate) async fn end(options: &Options, onset: &Onset) -> ExitCode {
    let began = onset.begun().await;
    let at = |after: Option<Duration>| async move {
        match after {
            Some(after) => tokio::time::sleep_until(began + after).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = at(options.crash_after) => {
            eprintln!("crashing, as --crash-after asks");
            ExitCode::from(101)
        }
        () = at(options.exit_after) => {
            eprintln!("ending with success, as --exit-after asks");
            ExitCode::SUCCESS
        }
    }
}

/// Starts what goes on beside the calls, once it is time.
pub(crate) async fn begin(options: &Options, onset: &Onset) -> std::io::Result<()> {
    onset.begun().await;
    if options.fork {
        fork()?;
    }
    let (leak_mib, flood_mib) = (options.leak_mib as usize, options.flood_mib as usize);
    if leak_mib > 0 {
        thread::Builder::new().name("leak".into()).spawn(move || leak(leak_mib))?;
    }
    if flood_mib > 0 {
        thread::Builder::new().name("flood".into()).spawn(move || flood(flood_mib))?;
    }
    Ok(())
}

/// Starts this program once more as a child. It keeps the pipes to the log and
/// the environment, as the children of careless programs do.
fn fork() -> std::io::Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1)).env(CHILD, "1").stdin(Stdio::null());
    // It lives as long as it likes; nobody waits for it.
    let child = command.spawn()?;
    println!("started a child with pid {}", child.id());
    Ok(())
}

/// Uses memory, and every page of it, so that it counts.
fn leak(mib_per_s: usize) {
    let step = mib_per_s * MIB / STEPS_PER_S as usize;
    let mut held = Vec::new();
    while held.len() * step < LEAK_MIB_MAX * MIB {
        held.push(vec![1_u8; step]);
        thread::sleep(Duration::from_secs(1) / STEPS_PER_S);
    }
    loop {
        thread::park(); // Holds on to it.
    }
}

/// Writes whole lines. Stops when nobody reads any more.
fn flood(mib_per_s: usize) {
    let lines = mib_per_s * MIB / STEPS_PER_S as usize / LINE_BYTES;
    let mut line = vec![b'~'; LINE_BYTES];
    line[LINE_BYTES - 1] = b'\n';
    let mut stdout = std::io::stdout();
    loop {
        for _ in 0..lines {
            if stdout.write_all(&line).is_err() {
                return;
            }
        }
        thread::sleep(Duration::from_secs(1) / STEPS_PER_S);
    }
}
