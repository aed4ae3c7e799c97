//! What each voter says about itself.

use aether_core::duration::Millis;
use aether_proto::v1;

use super::{or_dash, table};

/// Two tables of all voters: their logs, and what they run on. Who says nothing
/// is named below.
pub fn details(voters: &[v1::Voter]) -> String {
    let (mut logs, mut machines, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    for voter in voters {
        let Some(detail) = &voter.detail else { continue };
        if !detail.problem.is_empty() {
            notes.push(format!("{} says nothing: {}", voter.name, detail.problem));
            continue;
        }
        logs.push(log(&voter.name, detail));
        machines.push(machine(&voter.name, detail));
        // That it was made anew at the start, as in a new directory, is history.
        if detail.image_state == "OFF" {
            let problem = &detail.image_problem;
            notes.push(format!("{}: its image is off: {problem}", voter.name));
        }
    }
    let header =
        ["VOTER", "TERM", "APPLIED", "COMMITTED", "LAST", "LAG", "WAL", "SNAPSHOT", "IMAGE"];
    let logs = table(&header, logs);
    let header = [
        "VOTER",
        "SYNCS",
        "P50",
        "P99",
        "MAX",
        "ELECTIONS",
        "IN FLIGHT",
        "DISK FREE",
        "FLOOR",
        "LEVEL",
    ];
    let machines = table(&header, machines);
    let parts = [logs, machines, notes.join("\n")];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n\n")
}

fn log(name: &str, detail: &v1::VoterDetail) -> Vec<String> {
    let index = |index: Option<u64>| or_dash(&index.map(|i| i.to_string()).unwrap_or_default());
    let with_size = |at: Option<u64>, bytes| match at {
        Some(at) => format!("{at}, {}", size(bytes)),
        None => "-".to_owned(),
    };
    let image = match detail.image_state.as_str() {
        "OFF" => "OFF".to_owned(),
        _ => with_size(detail.image, detail.image_bytes),
    };
    vec![
        name.to_owned(),
        detail.term.to_string(),
        index(detail.applied),
        index(detail.committed),
        index(detail.last_log),
        index(detail.lag),
        size(detail.wal_bytes),
        with_size(detail.snapshot, detail.snapshot_bytes),
        image,
    ]
}

fn machine(name: &str, detail: &v1::VoterDetail) -> Vec<String> {
    let took = |us| if detail.syncs == 0 { "-".to_owned() } else { micros(us) };
    let (free, floor) = match detail.disk_path.is_empty() {
        true => ("-".to_owned(), "-".to_owned()),
        false => {
            let low = if detail.disk_low { " LOW" } else { "" };
            (size(detail.disk_free_bytes) + low, size(detail.disk_floor_bytes))
        }
    };
    vec![
        name.to_owned(),
        detail.syncs.to_string(),
        took(detail.sync_p50_us),
        took(detail.sync_p99_us),
        took(detail.sync_max_us),
        detail.elections.to_string(),
        detail.proposals_in_flight.to_string(),
        free,
        floor,
        // A release that does not say supports the first.
        detail.feature_level_max.max(1).to_string(),
    ]
}

/// A time such as `850us`, `1.9ms` or `3s`.
fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us}us"),
        1_000..1_000_000 => format!("{}.{}ms", us / 1_000, us % 1_000 / 100),
        _ => Millis(us / 1_000_000 * 1_000).to_string(),
    }
}

/// A size such as `512 B`, `1.5 KiB` or `40.9 GiB`.
fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let at = bytes.max(1).ilog2() / 10;
    match at {
        0 => format!("{bytes} B"),
        at => {
            let tenths = (u128::from(bytes) * 10) >> (10 * at);
            format!("{}.{} {}", tenths / 10, tenths % 10, units[at as usize - 1])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        let all = [0, 512, 1_536, 64 << 20, u64::MAX].map(size);
        assert_eq!(all, ["0 B", "512 B", "1.5 KiB", "64.0 MiB", "15.9 EiB"]);
        assert_eq!([850, 1_950, 3_400_000].map(micros), ["850us", "1.9ms", "3s"]);
    }
}
