//! `aether demo`: the main job from beginning to end, on a cluster of its own.
//!
//! Three voters and two workers run as separate processes. Load goes through
//! both ingresses and through an invoker embedded here, while one update goes
//! to its end although the leading voter is killed in the middle, and a second
//! one is rolled back because its version fails. What the tables at the end
//! say was counted by those who sent the requests, and by each invoker.

mod report;
mod split;
mod stage;

use std::time::{Duration, Instant};

use aether_cluster::Stage;
use aether_cluster::load::{Load, Phase};
use anyhow::Result;

pub use report::Report;
use split::Splits;

/// What the user may choose.
#[derive(Debug, Clone)]
pub struct Options {
    /// Requests per second.
    pub rate: u32,
    /// Requests over all steps of the first update, at least.
    pub requests: u64,
    /// Leave the cluster running.
    pub keep: bool,
}

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Share of requests that the broken version fails, as its flag takes it.
const FAIL_RATE: &str = "0.3";
/// The last start of a call on the new version is looked for this long after a
/// rollback's answer.
const ROLLBACK_LOOK: Duration = Duration::from_secs(2);

/// Runs the demo, telling of it as it goes.
///
/// # Errors
/// When something could not be done at all. Failed requests and wrong splits
/// are in the report.
pub async fn run(options: &Options, tell: &dyn Fn(&str)) -> Result<Report> {
    let mut stage = stage::set(tell).await?;
    let invoker = stage.invoker("demo-client").await?;
    let load = Load::start(stage.ways(&invoker), "/", options.rate, "1.0.0 alone");
    let done = story(&mut stage, &invoker, &load, options, tell).await;
    let phases = load.stop().await;
    let report = done.map(|told| Report::new(told, &phases));
    invoker.close().await;
    match &report {
        Err(_) => tell(&format!("the nodes' output is kept in {}", stage.keep().display())),
        Ok(_) if options.keep => stage::linger(stage, tell).await?,
        Ok(_) => stage.end().await,
    }
    report
}

/// What happened, apart from what the load counted.
pub struct Told {
    splits: Splits,
    failover: Duration,
    threshold: String,
    detection: Duration,
    rolled_back_at: Instant,
    /// Positions of the phases of the first update.
    steps: Vec<(usize, String)>,
}

async fn story(
    stage: &mut Stage,
    invoker: &aether_invoker::Invoker,
    load: &Load,
    options: &Options,
    tell: &dyn Fn(&str),
) -> Result<Told> {
    let share = options.requests / 6;
    let mut splits = Splits::default();
    let mut steps = vec![(0, "0:1".to_owned())];
    load.until_requests(share).await;

    tell("aether update start org.example:hello 2.0.0");
    let first = stage.start("2.0.0", &[]).await?;
    stage.until_state("current", "DEPLOYED").await?;
    load.phase("2.0.0 deployed");
    steps.push((1, "0:1".to_owned()));
    tell("2.0.0 is deployed beside 1.0.0 and gets no traffic");
    load.until_requests(share).await;

    let mut failover = Duration::ZERO;
    for ratio in ["1:3", "1:1", "1:0"] {
        // What starts meanwhile goes by either route.
        load.phase(&format!("to {ratio}"));
        if ratio == "1:1" {
            failover = stage::kill_leader_and_route(stage, ratio, tell).await?;
        } else {
            tell(&format!("aether update routing current -r {ratio}"));
            stage.route(ratio).await?;
        }
        splits.until_applied(stage, invoker, ratio).await?;
        load.phase(&format!("routing {ratio}"));
        steps.push((load.so_far().len() - 1, ratio.to_owned()));
        load.until_requests(share).await;
    }
    tell("aether update complete current");
    stage.cli(&["update", "complete", "current"]).await?;
    stage.until_state(&first, "COMPLETED").await?;
    load.phase("2.0.0 alone");
    steps.push((load.so_far().len() - 1, "completed".to_owned()));
    tell("completed: 1.0.0 is gone");
    load.until_requests(share).await;
    splits.read(stage, invoker).await?;

    tell(&format!(
        "aether update start org.example:hello 3.0.0   (fails {FAIL_RATE} of its requests)"
    ));
    load.phase("3.0.0 fails");
    let (second, detection, threshold) = detect(stage, tell).await?;
    tell("aether update rollback current");
    stage.cli(&["update", "rollback", "current"]).await?;
    let rolled_back_at = Instant::now();
    tokio::time::sleep(ROLLBACK_LOOK).await;
    stage.until_state(&second, "ROLLED_BACK").await?;
    load.phase("rolled back");
    load.until_requests(share.min(1_000)).await;
    Ok(Told { splits, failover, threshold, detection, rolled_back_at, steps })
}

/// Brings the broken version into traffic and waits until that is noticed.
async fn detect(stage: &Stage, tell: &dyn Fn(&str)) -> Result<(String, Duration, String)> {
    let id = stage.start("3.0.0", &[]).await?;
    stage.until_state("current", "DEPLOYED").await?;
    tell("aether update routing current -r 1:3");
    stage.route("1:3").await?;
    let started = Instant::now();
    let paused = stage.until("current", |update| update["pause"].is_object()).await?;
    let detection = started.elapsed();
    let message = paused["pause"]["message"].as_str().unwrap_or_default().to_owned();
    tell(&format!("paused after {:.1} s: {message}", detection.as_secs_f64()));
    let refused = stage.refused(&["update", "routing", "current", "-r", "1:1"]).await?;
    tell(&format!("a higher weight is refused: {}", refused.lines().next().unwrap_or_default()));
    Ok((id, detection, message))
}

/// The phase of a load with a name.
fn phase<'a>(phases: &'a [Phase], name: &str) -> Option<&'a Phase> {
    phases.iter().find(|phase| phase.name == name)
}
