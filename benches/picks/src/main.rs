//! What it costs to pick the instance of the next call, and how exactly picks follow a ratio:
//! Aether's invoker beside what others do.
//!
//! `cargo xtask bench peers picks` builds and runs it.

mod aether;
mod calls;
mod exactness;
mod fleet;
mod node;
mod peers;
mod speed;

use anyhow::{Context, Result, bail};

use fleet::Fleet;

const USAGE: &str = "usage: picks [speed|exact|calls] [--rounds N] [--millis N]

  --rounds N   rounds in which all are measured in turn (9)
  --millis N   length of one measurement (100)";

/// Endpoints of each of the two versions.
const SIZES: [u16; 4] = [2, 16, 256, 1_000];
/// New to old, at which speed is measured.
const RATIO: (u32, u32) = (3, 17);
/// Those at which exactness is.
const RATIOS: [(u32, u32); 4] = [(1, 9), (3, 17), (37, 63), (1, 999)];

struct Options {
    speed: bool,
    exact: bool,
    calls: bool,
    rounds: usize,
    millis: u64,
}

fn options() -> Result<Options> {
    let mut options = Options { speed: false, exact: false, calls: false, rounds: 9, millis: 100 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u32> {
            let text = arguments.next().with_context(|| format!("{argument} needs a number"))?;
            Ok(text.parse::<std::num::NonZeroU32>().with_context(|| text.clone())?.get())
        };
        match argument.as_str() {
            "speed" => options.speed = true,
            "exact" => options.exact = true,
            "calls" => options.calls = true,
            "--rounds" => options.rounds = number()? as usize,
            "--millis" => options.millis = number()?.into(),
            "--help" => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            other => bail!("'{other}' is none of it\n{USAGE}"),
        }
    }
    if !options.speed && !options.exact && !options.calls {
        (options.speed, options.exact, options.calls) = (true, true, true);
    }
    Ok(options)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, rest @ ..] = &arguments[..]
        && first == "calls"
        && rest.first().is_some_and(|part| !part.starts_with("--"))
    {
        return calls::part(rest);
    }
    let options = options()?;
    let node = node::Node::start()?;
    if options.speed {
        for endpoints in SIZES {
            let fleet = Fleet { endpoints, new: RATIO.0, old: RATIO.1 };
            let mut all = peers::picking(&node, fleet)?;
            all.extend(peers::accounting(&node, fleet)?);
            for threads in [1, 2] {
                println!("\n{fleet}, {threads} threads, {} rounds", options.rounds);
                speed::measure(&all, threads, options.rounds, options.millis).print();
            }
        }
    }
    if options.exact {
        for (new, old) in RATIOS {
            let fleet = Fleet { endpoints: 16, new, old };
            let all = peers::picking(&node, fleet)?;
            println!("\n{fleet}: largest deviation from the ratio, in calls");
            exactness::print(fleet, &all);
        }
    }
    if options.calls {
        calls::run(options.rounds, options.millis * 10)?;
    }
    Ok(())
}
