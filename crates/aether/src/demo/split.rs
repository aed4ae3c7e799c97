//! What each invoker really did at each ratio: its own exact count of first
//! attempts by route, read from the embedded one directly and from the
//! ingresses by their metrics.

use std::collections::BTreeMap;
use std::time::Instant;

use aether_cluster::artifacts::EXAMPLE;
use aether_cluster::{PATIENCE, Stage};
use aether_invoker::Invoker;
use anyhow::{Context, Result, bail};

use super::LOOK_EVERY;

/// Calls of one invoker under one route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Split {
    /// To the new side.
    pub new: u64,
    /// To the old side.
    pub old: u64,
}

impl Split {
    /// How far the count is from the exact ratio, in calls. Below 1 it is as
    /// exact as whole calls can be.
    pub fn deviation(self, new: u64, old: u64) -> f64 {
        let exact = (self.new + self.old) as f64 * new as f64 / (new + old) as f64;
        (self.new as f64 - exact).abs()
    }
}

/// Splits by ratio and invoker.
#[derive(Debug, Default)]
pub struct Splits {
    /// Route revision of each ratio.
    routes: BTreeMap<String, u64>,
    /// What each invoker counted, by ratio.
    pub counted: BTreeMap<String, BTreeMap<String, Split>>,
}

impl Splits {
    /// Waits until every invoker has applied the route of a ratio.
    pub async fn until_applied(
        &mut self,
        stage: &Stage,
        invoker: &Invoker,
        ratio: &str,
    ) -> Result<()> {
        let route = stage.cli(&["kv", "get", &format!("version-routing/{EXAMPLE}")]).await?;
        // The verb shows the record alone, or with its key around it.
        let record = route.get("value").unwrap_or(&route);
        let revision = record["routeRevision"].as_u64().context("no routeRevision")?;
        self.routes.insert(ratio.to_owned(), revision);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = applied(stage, invoker).await?;
            if seen.values().all(|applied| *applied >= revision) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "waited {PATIENCE:?} for every invoker to apply route {revision}; last seen: {seen:?}"
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Reads what every invoker counted under every ratio.
    pub async fn read(&mut self, stage: &Stage, invoker: &Invoker) -> Result<()> {
        let mut by_invoker = vec![("embedded".to_owned(), embedded(invoker))];
        for (k, node) in stage.cluster.nodes.iter().enumerate().filter(|(_, n)| n.roles.ingress) {
            let text = stage.metrics(k).await?;
            by_invoker.push((format!("ingress {}", node.name), of_metrics(&text)));
        }
        for (ratio, route) in &self.routes {
            let counted = self.counted.entry(ratio.clone()).or_default();
            for (name, splits) in &by_invoker {
                counted.insert(name.clone(), splits.get(route).copied().unwrap_or_default());
            }
        }
        Ok(())
    }
}

/// The table revision that each invoker has applied.
async fn applied(stage: &Stage, invoker: &Invoker) -> Result<BTreeMap<String, u64>> {
    let mut seen = BTreeMap::new();
    let own = invoker.status().applied.map_or(0, |(_, revision)| revision);
    seen.insert("embedded".to_owned(), own);
    for (k, node) in stage.cluster.nodes.iter().enumerate().filter(|(_, n)| n.roles.ingress) {
        let text = stage.metrics(k).await?;
        let line = text.lines().find_map(|line| line.strip_prefix("aether_tables_applied "));
        seen.insert(node.name.clone(), line.and_then(|n| n.parse().ok()).unwrap_or(0));
    }
    Ok(seen)
}

fn embedded(invoker: &Invoker) -> BTreeMap<u64, Split> {
    let mut splits: BTreeMap<u64, Split> = BTreeMap::new();
    for tally in invoker.route_tallies(&EXAMPLE.parse().expect("a valid slice name")) {
        let split = splits.entry(tally.route_revision).or_default();
        split.new += tally.new;
        split.old += tally.old;
    }
    splits
}

/// Reads `aether_route_calls_total{…,route="7",…,side="new"} 12`.
fn of_metrics(text: &str) -> BTreeMap<u64, Split> {
    let mut splits: BTreeMap<u64, Split> = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("aether_route_calls_total{")) {
        let label = |name: &str| line.split(&format!("{name}=\"")).nth(1)?.split('"').next();
        let count = line.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok());
        let route = label("route").and_then(|route| route.parse::<u64>().ok());
        let (Some(route), Some(side), Some(count)) = (route, label("side"), count) else {
            continue;
        };
        let split = splits.entry(route).or_default();
        match side {
            "new" => split.new += count,
            _ => split.old += count,
        }
    }
    splits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read_by_route_and_side() {
        let text = "# TYPE aether_route_calls_total counter\n\
            aether_route_calls_total{slice=\"a.b:c\",route=\"7\",weights=\"1:3\",side=\"new\"} 5\n\
            aether_route_calls_total{slice=\"a.b:c\",route=\"7\",weights=\"1:3\",side=\"old\"} 15\n";
        assert_eq!(of_metrics(text), BTreeMap::from([(7, Split { new: 5, old: 15 })]));
    }

    #[test]
    fn deviation_is_in_calls() {
        assert_eq!(Split { new: 5, old: 15 }.deviation(1, 3), 0.0);
        assert_eq!(Split { new: 7, old: 13 }.deviation(1, 3), 2.0);
    }
}
