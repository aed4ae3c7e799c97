//! A decision in words. Made when somebody asks, because a judge looks every
//! second and nobody reads as fast.

use super::comparison::Comparison;
use super::instances::Outlier;
use super::judge::{Decision, Verdict};
use super::tallies::Counted;

impl Decision {
    /// A sentence that says why, with the figures behind it, such as
    /// `the new version is worse: errors 5.00 % of 2000 requests, beside 1.00 % of
    /// the old version's 18000: over a million to 1`.
    pub fn reason(&self) -> String {
        let both = [&self.errors, &self.slow];
        match (&self.verdict, &self.outlier) {
            (Verdict::InstanceOutlier { .. }, Some(outlier)) => blame(outlier),
            (Verdict::RollBack, _) => {
                let found = both.into_iter().filter(|compared| compared.regression.is_reached());
                let told = found.map(|c| format!("{}: {}", figures(c), odds(c.regression.value())));
                format!("the new version is worse: {}", joined(told))
            }
            (Verdict::Promote, _) => {
                format!("the new version is not harmful: {}", joined(both.into_iter().map(figures)))
            }
            _ => self.waits(),
        }
    }

    /// What a promotion still waits for.
    fn waits(&self) -> String {
        let (counted, needed) = (self.epoch_requests, self.epoch_requests_min);
        if counted < needed {
            return format!(
                "insufficient: {counted} of {needed} requests under the present weights"
            );
        }
        let both = [&self.errors, &self.slow];
        let told = both.into_iter().filter(|compared| compared.is_suspicious()).map(|c| {
            let (value, needed) = (c.regression.value(), c.regression.needed());
            format!("{}: {}, {needed:.0} to 1 rolls back", figures(c), odds(value))
        });
        let suspicions = joined(told);
        if !suspicions.is_empty() {
            return format!("suspicion: {suspicions}");
        }
        let open = both.into_iter().filter(|compared| !compared.clearance.is_reached());
        let told = open.map(|c| {
            let (value, needed) = (c.clearance.value(), c.clearance.needed());
            let figures = figures(c);
            format!("{figures}: {} that it is not harmful, {needed:.0} to 1 needed", odds(value))
        });
        format!("insufficient: {}", joined(told))
    }
}

fn joined(told: impl Iterator<Item = String>) -> String {
    told.collect::<Vec<_>>().join("; ")
}

fn blame(outlier: &Outlier) -> String {
    let Outlier { instance, event, own, peers, evidence } = outlier;
    format!(
        "instance {instance} has {} {} among {} requests, its peers together {} among {}: {} that \
         it is to blame and not the version",
        own.events,
        event.as_str(),
        own.requests,
        peers.events,
        peers.requests,
        odds(evidence.value()),
    )
}

/// "errors 1.20 % of 500 requests, beside 0.40 % of the old version's 9500".
fn figures(compared: &Comparison) -> String {
    let percent = |counted: Counted| match counted.requests {
        0 => "none".to_owned(),
        requests => format!("{:.2} %", counted.events as f64 * 100.0 / requests as f64),
    };
    format!(
        "{} {} of {} requests, beside {} of the old version's {}",
        compared.event.as_str(),
        percent(compared.new),
        compared.new.requests,
        percent(compared.old),
        compared.old.requests,
    )
}

/// Evidence as odds, with no more digits than anybody reads.
fn odds(value: f64) -> String {
    if value >= 1e6 {
        return "over a million to 1".to_owned();
    }
    if value >= 10.0 { format!("{value:.0} to 1") } else { format!("{value:.1} to 1") }
}
