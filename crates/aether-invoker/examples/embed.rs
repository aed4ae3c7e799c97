//! A service that embeds the invoker: makes calls to a slice and prints how
//! they were split.
//!
//! ```text
//! cargo run -p aether-invoker --example embed -- 127.0.0.1:8090 org.example:hello 1000
//! ```

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use aether_invoker::{Config, Invoker, SessionKind, SliceName};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [node, slice, calls] = arguments.as_slice() else {
        eprintln!("usage: embed <control-plane address> <slice> <number of calls>");
        return ExitCode::from(2);
    };
    match run(node, slice, calls).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embed: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(node: &str, slice: &str, calls: &str) -> Result<(), Box<dyn Error>> {
    let (slice, calls): (SliceName, u64) = (slice.parse()?, calls.parse()?);
    let config = Config::new("embed", SessionKind::Invoker, vec![node.parse()?]);
    let invoker = Invoker::connect(config)?;
    invoker.ready(Duration::from_secs(5)).await?;

    let handle = invoker.slice(&slice);
    let mut failed = 0u64;
    for _ in 0..calls {
        let request = Request::get("/").body(Empty::<Bytes>::new())?;
        match handle.send(request).await {
            Ok(response) => {
                failed += u64::from(response.status().is_server_error());
                response.into_body().collect().await?;
            }
            Err(error) => {
                failed += 1;
                eprintln!("{error}");
            }
        }
    }
    for tally in handle.route_tallies() {
        println!(
            "route {}: {} asked, {} new : {} old",
            tally.route_revision, tally.weights, tally.new, tally.old
        );
    }
    println!("{calls} calls, {failed} failed");
    invoker.close().await;
    match calls > 0 && failed == calls {
        true => Err("no call succeeded".into()),
        false => Ok(()),
    }
}
