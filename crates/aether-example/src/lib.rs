//! A slice to try things with: a real HTTP/1.1 server that says which version
//! and instance answered, drains properly, and misbehaves on demand.
//!
//! It needs nothing of Aether: the environment tells it its port and name, as
//! it does any slice. Lean, because load tests send thousands of requests a
//! second through several of them on two cores: one thread, and per call one
//! small allocation for the answer.

mod cut;
mod harm;
mod onset;
mod options;
mod server;

use std::ffi::OsString;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use onset::Onset;
pub use options::{Options, OptionsError, usage};
use server::{Slice, serve};

/// Runs the slice until it is asked to stop. `args` are the switches, without
/// the program's name. Exits 0 after SIGTERM or SIGINT, 1 when it cannot
/// listen, 2 on unknown switches, or with the status that a switch asks for.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    if harm::is_child() {
        return harm::live_as_child().unwrap_or_else(failed);
    }
    let args: Vec<OsString> = args.into_iter().collect();
    if args.iter().any(|arg| arg == "--help") {
        println!("{}", usage());
        return ExitCode::SUCCESS;
    }
    let options = match Options::read(args, |name| std::env::var(name).ok()) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}\n\n{}", usage());
            return ExitCode::from(2);
        }
    };
    let onset = Onset::new(options.once.as_deref());
    if let (Some(status), Some(_)) = (options.exit_on_start, onset.since()) {
        eprintln!("ending at once with status {status}, as --exit-on-start asks");
        return ExitCode::from(status);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.and_then(|runtime| runtime.block_on(live(options, onset)));
    result.unwrap_or_else(failed)
}

fn failed(error: std::io::Error) -> ExitCode {
    eprintln!("{error}");
    ExitCode::FAILURE
}

async fn live(options: Options, onset: Onset) -> std::io::Result<ExitCode> {
    let slice = Arc::new(Slice::new(&options, onset.clone()));
    let stop = until_asked_to_stop(options.ignore_sigterm, onset.clone())?;
    let reload = reload(&options, Arc::clone(&slice))?;
    slice.read_version_file();
    let look = async {
        if let Some(file) = &options.once {
            onset.look_for(file).await;
        }
        harm::begin(&options, &onset).await?;
        std::future::pending::<std::io::Result<ExitCode>>().await
    };
    tokio::select! {
        result = work(&options, &onset, Arc::clone(&slice), stop) => {
            result.map(|()| ExitCode::SUCCESS)
        }
        result = look => result,
        status = reload => Ok(status),
        status = harm::end(&options, &onset) => Ok(status),
        () = slice.crashed() => {
            eprintln!("crashing, as --crash-at-call asks");
            Ok(ExitCode::from(101))
        }
    }
}

/// Listens where it was told to, or not, and serves.
async fn work(
    options: &Options,
    onset: &Onset,
    slice: Arc<Slice>,
    stop: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let misbehaves = onset.since().is_some();
    if misbehaves && options.no_listen {
        println!("listening nowhere, as --no-listen asks");
        stop.await;
        return Ok(());
    }
    let mut stop = pin!(stop);
    if misbehaves && !options.listen_after.is_zero() {
        println!("listening in {:?}, as --listen-after asks", options.listen_after);
        tokio::select! {
            () = &mut stop => return Ok(()),
            () = tokio::time::sleep(options.listen_after) => {}
        }
    }
    let elsewhere = misbehaves && options.listen_elsewhere;
    let address = SocketAddr::new(options.ip, if elsewhere { 0 } else { options.port });
    let listener = TcpListener::bind(address).await.map_err(|error| {
        std::io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })?;
    let address = listener.local_addr()?;
    println!("{} {} listening on {address}", options.version, options.instance);
    serve(listener, slice, stop).await;
    println!("stopped");
    Ok(())
}

/// Reads its version again at each SIGHUP; without a file for it that ends the process.
fn reload(options: &Options, slice: Arc<Slice>) -> std::io::Result<impl Future<Output = ExitCode>> {
    let has_file = options.version_file.is_some();
    let mut hangup = has_file.then(|| signal(SignalKind::hangup())).transpose()?;
    Ok(async move {
        while let Some(hangup) = &mut hangup
            && hangup.recv().await.is_some()
        {
            slice.read_version_file();
        }
        std::future::pending().await
    })
}

fn until_asked_to_stop(ignore: bool, onset: Onset) -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if !ignore || onset.since().is_none() {
                return;
            }
            eprintln!("asked to stop, and ignoring it");
        }
    })
}
