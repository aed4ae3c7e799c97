//! What was decided about an update, and what is decided now.

use aether_core::duration::Millis;
use aether_core::words::counted;
use aether_proto::v1;

use super::table;

/// All decisions, and below them what differs.
pub fn whole(replay: &v1::UpdateReplay) -> String {
    let row = |decision: &v1::ReplayedDecision| {
        vec![
            decision.index.to_string(),
            Millis(decision.after_ms).to_string(),
            names(&decision.decided),
            if decision.differs { names(&decision.now) } else { "the same".to_owned() },
        ]
    };
    let header = ["INDEX", "AFTER", "DECIDED", "NOW"];
    let rows = table(&header, replay.decisions.iter().map(row).collect());
    let (id, slice) = (&replay.update_id, &replay.artifact_base);
    let mut text = format!("update {id} of {slice}\n\n{rows}\n\n{}", summary(replay));
    for decision in replay.decisions.iter().filter(|decision| decision.differs) {
        text.push_str(&format!("\n\nat {}", decision.index));
        text.push_str(&lines("decided", &decision.decided));
        text.push_str(&lines("now", &decision.now));
    }
    text
}

fn summary(replay: &v1::UpdateReplay) -> String {
    let all = counted(replay.decisions.len() as u64, "decision");
    let release = &replay.release;
    let mut text = match replay.differ {
        0 => format!("{all}, and release {release} decides the same"),
        some => format!("{all}; release {release} decides {some} otherwise"),
    };
    if replay.cut {
        text.push_str("\nmore was decided than is written down of one update");
    }
    text
}

fn names(commands: &[v1::DecidedCommand]) -> String {
    match commands {
        [] => "nothing".to_owned(),
        some => some.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", "),
    }
}

fn lines(head: &str, commands: &[v1::DecidedCommand]) -> String {
    match commands {
        [] => format!("\n  {head:7}  nothing"),
        some => some.iter().map(|c| format!("\n  {head:7}  {}", c.json)).collect(),
    }
}
