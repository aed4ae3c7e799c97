//! What this node's own invoker did, as Prometheus reads it.

use std::fmt::Write;

use aether_invoker::Invoker;

/// Calls by route and side, exact: first attempts, without retries.
pub fn calls(invoker: Option<&Invoker>) -> String {
    let mut text = String::new();
    let Some(invoker) = invoker else { return text };
    let name = "aether_route_calls_total";
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# HELP {name} First attempts by route and side.");
    let _ = writeln!(text, "# TYPE {name} counter");
    for table in invoker.tables() {
        for tally in invoker.route_tallies(&table.slice) {
            for (side, count) in [("new", tally.new), ("old", tally.old)] {
                let _ = writeln!(
                    text,
                    "{name}{{slice=\"{}\",route=\"{}\",weights=\"{}\",side=\"{side}\"}} {count}",
                    table.slice, tally.route_revision, tally.weights
                );
            }
        }
    }
    if let Some((_, revision)) = invoker.status().applied {
        let name = "aether_tables_applied";
        let _ = writeln!(text, "# HELP {name} Log index of the applied routing tables.");
        let _ = writeln!(text, "# TYPE {name} gauge\n{name} {revision}");
    }
    text
}
