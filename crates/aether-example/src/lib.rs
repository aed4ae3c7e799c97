//! A slice to try things with: a real HTTP/1.1 server that says which version
//! and instance answered, drains properly, and misbehaves on demand.
//!
//! It needs nothing of Aether: the environment tells it its port and name, as
//! it does any slice. Lean, because load tests send thousands of requests a
//! second through several of them on two cores: one thread, and per call one
//! small allocation for the answer.

mod options;
mod server;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

pub use options::{Options, OptionsError, USAGE};
pub use server::{Slice, serve};

/// Runs the slice until it is asked to stop. `args` are the switches, without
/// the program's name. Exits 0 after SIGTERM or SIGINT, 1 when it cannot
/// listen, 2 on unknown switches, or with the status that a switch asks for.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if args.iter().any(|arg| arg == "--help") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let options = match Options::read(args, |name| std::env::var(name).ok()) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let Some(status) = options.exit_on_start {
        eprintln!("ending at once with status {status}, as --exit-on-start asks");
        return ExitCode::from(status);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.and_then(|runtime| runtime.block_on(live(options)));
    match result {
        Ok(status) => status,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn live(options: Options) -> std::io::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let ignore = options.ignore_sigterm;
    let stop = async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if !ignore {
                return;
            }
            eprintln!("asked to stop, and ignoring it");
        }
    };
    let crash_after = options.crash_after;
    let crash = async move {
        match crash_after {
            Some(after) => tokio::time::sleep(after).await,
            None => std::future::pending().await,
        }
    };
    let work = async {
        if options.no_listen {
            println!("listening nowhere, as --no-listen asks");
            stop.await;
            return Ok(());
        }
        let address = SocketAddr::new(options.ip, options.port);
        let listener = TcpListener::bind(address).await.map_err(|error| {
            std::io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
        })?;
        println!("{} {} listening on {address}", options.version, options.instance);
        serve(listener, Arc::new(Slice::new(&options)), stop).await;
        println!("stopped");
        Ok(())
    };
    tokio::select! {
        result = work => result.map(|()| ExitCode::SUCCESS),
        () = crash => {
            eprintln!("crashing, as --crash-after asks");
            Ok(ExitCode::from(101))
        }
    }
}
