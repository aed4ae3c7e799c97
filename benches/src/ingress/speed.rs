//! Requests a second, how long they take, and what they cost the proxy.

use std::time::Duration;

use anyhow::{Context, Result};

use super::h2load::{self, Load, Protocol, WARM_UP};
use super::process::processor_time;
use super::targets::{Kind, Targets};
use super::{FILES, Options};
use crate::{median, ms};

const CONNECTIONS: [usize; 2] = [64, 512];

/// One row of the tables, and the runs of each.
struct Row {
    protocol: Protocol,
    file: (&'static str, usize),
    connections: usize,
    runs: [Vec<Measured>; Kind::ALL.len()],
}

#[derive(Clone, Copy)]
struct Measured {
    run: h2load::Run,
    /// Of both cores together, for one answer, in microseconds.
    processor_us: f64,
}

/// Measures all in turn, and prints the tables.
///
/// # Errors
/// A load cannot be run.
pub async fn measure(targets: &Targets, options: &Options) -> Result<()> {
    let mut rows = rows(options);
    for round in 0..options.rounds {
        for row in &mut rows {
            for turn in 0..Kind::ALL.len() {
                // Whoever is first has the warmer machine: take turns.
                let which = (round + turn) % Kind::ALL.len();
                let Some(measured) = one(targets, options, row, Kind::ALL[which]).await? else {
                    continue;
                };
                eprintln!(
                    "{:>7} {}: {:.0}/s, p50 {:.2} ms, p99 {:.2} ms, {:.1} us of processor, {} failed",
                    Kind::ALL[which].name(),
                    row.title(),
                    measured.run.per_second,
                    ms(measured.run.p50),
                    ms(measured.run.p99),
                    measured.processor_us,
                    measured.run.failed
                );
                row.runs[which].push(measured);
            }
        }
    }
    print(&rows);
    Ok(())
}

fn rows(options: &Options) -> Vec<Row> {
    let mut rows = Vec::new();
    for protocol in [Protocol::Http1, Protocol::Http2 { streams: options.streams }] {
        for file in FILES {
            for connections in CONNECTIONS {
                rows.push(Row { protocol, file, connections, runs: Default::default() });
            }
        }
    }
    rows
}

async fn one(
    targets: &Targets,
    options: &Options,
    row: &Row,
    kind: Kind,
) -> Result<Option<Measured>> {
    let Some(address) = targets.address(kind, row.protocol) else { return Ok(None) };
    let path = format!("/{}", row.file.0);
    let time = Duration::from_secs(options.seconds);
    let load = Load { protocol: row.protocol, connections: row.connections, path: &path, time };
    let pids = targets.pids(kind);
    let before = processor_time(&pids)?;
    let run = h2load::run(address, &load, targets.scratch()).await;
    let run = run.with_context(|| format!("{} with {}", kind.name(), row.title()))?;
    let used = processor_time(&pids)? - before;
    // Answers while it warms up are not counted, but cost as much.
    let answers = run.per_second * (time + WARM_UP).as_secs_f64();
    Ok(Some(Measured { run, processor_us: used.as_secs_f64() * 1e6 / answers }))
}

impl Row {
    fn title(&self) -> String {
        let protocol = match self.protocol {
            Protocol::Http1 => "HTTP/1.1",
            Protocol::Http2 { .. } => "HTTP/2",
        };
        format!("{protocol}, {} KiB, {}", self.file.1 / 1_024, self.connections)
    }

    /// The figures of each, by round; none where it was not measured.
    fn figures(&self, take: fn(&Measured) -> f64) -> Vec<Vec<f64>> {
        self.runs.iter().map(|runs| runs.iter().map(take).collect()).collect()
    }
}

/// What a table shows: its title, digits, and where the figure is.
type Shown = (&'static str, usize, fn(&Measured) -> f64);

fn print(rows: &[Row]) {
    let tables: [Shown; 3] = [
        ("requests/s", 0, |measured| measured.run.per_second),
        ("p99, ms", 2, |measured| ms(measured.run.p99)),
        ("processor of the proxy, µs an answer", 1, |measured| measured.processor_us),
    ];
    for (what, digits, take) in tables {
        let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        println!("\n| {what}: connections | {} | to HAProxy | to Envoy |", names.join(" | "));
        println!("|---|{}---|---|", "---|".repeat(names.len()));
        for row in rows {
            let figures = cells(&row.figures(take), digits);
            println!("| {} | {} |", row.title(), figures.join(" | "));
        }
    }
    let failed = |which: usize| -> u64 {
        rows.iter().flat_map(|row| &row.runs[which]).map(|measured| measured.run.failed).sum()
    };
    for (which, kind) in Kind::ALL.into_iter().enumerate().filter(|(which, _)| failed(*which) > 0) {
        println!("\n{} failed {} requests", kind.name(), failed(which));
    }
}

/// The medians in the order of [`Kind::ALL`], then those of Aether's ratios to HAProxy and to
/// Envoy in each round: what else the machine did falls on both sides of such a ratio.
fn cells(figures: &[Vec<f64>], digits: usize) -> Vec<String> {
    let of = |kind: Kind| Kind::ALL.iter().position(|k| *k == kind).map(|k| &figures[k]);
    let shown = |figures: &Vec<f64>| match figures.is_empty() {
        false => format!("{:.digits$}", median(figures.clone())),
        true => "absent".to_owned(),
    };
    let ratio = |peer: Kind| {
        let rounds = of(Kind::Aether).into_iter().flatten().zip(of(peer).into_iter().flatten());
        let ratios: Vec<f64> = rounds.map(|(own, other)| own / other).collect();
        match ratios.is_empty() {
            false => format!("{:.2}", median(ratios)),
            true => "–".to_owned(),
        }
    };
    figures.iter().map(shown).chain([Kind::HaProxy, Kind::Envoy].map(ratio)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_every_figure_and_the_ratios_to_those_that_were_measured() {
        // Slower rounds of all do not change the ratios.
        let times = [1.0, 0.5, 2.0];
        let rounds = |figure: f64| times.map(|time| figure * time).to_vec();
        let all = [100.0, 45.0, 50.0, 40.0, 30.0].map(rounds);
        assert_eq!(cells(&all, 0), ["100", "45", "50", "40", "30", "0.90", "1.50"]);
        let [direct, _, haproxy, nginx, envoy] = all;
        let without = [direct, Vec::new(), haproxy, nginx, envoy];
        assert_eq!(cells(&without, 1)[1], "absent");
        assert_eq!(cells(&without, 1)[5..], ["–", "–"]);
    }
}
