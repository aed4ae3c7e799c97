//! Slices and their instances.

use std::collections::BTreeMap;

use aether_proto::v1;

use super::update::{as_of, reason};
use super::{fields, or_dash, span, table};

/// State of an instance whose node is silent.
const UNREACHABLE: &str = "UNREACHABLE";

/// Header of a table of instances.
pub const INSTANCE_HEADER: [&str; 8] =
    ["INSTANCE", "VERSION", "NODE", "STATE", "SINCE", "RESTARTS", "ENDPOINT", "REASON"];

/// One instance's row.
pub fn instance_row(instance: &v1::Instance) -> Vec<String> {
    vec![
        instance.instance_id.clone(),
        instance.version.clone(),
        instance.node.clone(),
        instance.state.clone(),
        span(instance.since_ms),
        instance.restarts.to_string(),
        or_dash(&instance.endpoint),
        or_dash(&instance.reason.as_ref().map(reason).unwrap_or_default()),
    ]
}

/// How many instances take calls, and what the others do: `2/3 (1 STARTING)`.
///
/// An instance on a node that fell silent stays in the routing table, because
/// only the control plane has lost sight of it: it takes calls and counts, for
/// the capacity guard too, and is named beside that.
pub fn taking_calls<'a>(
    instances: impl Iterator<Item = &'a v1::Instance> + Clone,
    wanted: u32,
) -> String {
    let taking = instances.clone().filter(|instance| instance.takes_calls).count();
    let mut others: BTreeMap<&str, usize> = BTreeMap::new();
    for instance in instances.filter(|i| !i.takes_calls || i.state == UNREACHABLE) {
        *others.entry(&instance.state).or_default() += 1;
    }
    let others: Vec<String> =
        others.iter().map(|(state, count)| format!("{count} {state}")).collect();
    match others.is_empty() {
        true => format!("{taking}/{wanted}"),
        false => format!("{taking}/{wanted} ({})", others.join(", ")),
    }
}

/// The same for the instances of a slice's version.
fn ready(slice: &v1::Slice) -> String {
    let current = |i: &&v1::Instance| {
        let is_of_version = Some(&i.version) == slice.version.as_ref();
        // Of two revisions of one version only one is current.
        is_of_version && slice.revision.is_none_or(|revision| i.revision == revision)
    };
    taking_calls(slice.instances_state.iter().filter(current), slice.instances)
}

/// What is kept warm, and how much of it: `1.0.0 x3`.
fn retained(slice: &v1::Slice) -> String {
    let version = slice.retained_version.clone().unwrap_or_default();
    match slice.retained_instances {
        0 => version,
        instances => format!("{version} x{instances}"),
    }
}

/// Which configuration it has, and whether there is a later one.
fn config(slice: &v1::Slice) -> String {
    let later = slice.latest_config.filter(|latest| slice.config != Some(*latest));
    let has = slice.config.map(|no| format!("c{no}"));
    match (has, later) {
        (None, None) => String::new(),
        (Some(has), None) => has,
        (has, Some(later)) => {
            format!("{}; c{later} was pushed since", has.unwrap_or_else(|| "none".to_owned()))
        }
    }
}

/// One slice with its instances.
pub fn whole(slice: &v1::Slice) -> String {
    let mut text = fields(&[
        ("slice", slice.slice.clone()),
        ("version", slice.version.clone().unwrap_or_else(|| "(none yet)".to_owned())),
        ("config", config(slice)),
        ("ready", ready(slice)),
        ("waits", slice.waits_for.join("\n")),
        ("routing", slice.routing.clone()),
        ("update", slice.live_update.clone().unwrap_or_default()),
        ("retained", retained(slice)),
    ]);
    if !slice.instances_state.is_empty() {
        text.push_str("\n\n");
        let rows = slice.instances_state.iter().map(instance_row).collect();
        text.push_str(&table(&INSTANCE_HEADER, rows));
    }
    text
}

/// All slices, a row each.
pub fn list(response: &v1::ListSlicesResponse) -> String {
    let row = |slice: &v1::Slice| {
        vec![
            slice.slice.clone(),
            or_dash(slice.version.as_deref().unwrap_or_default()),
            ready(slice),
            or_dash(&slice.routing),
            or_dash(slice.live_update.as_deref().unwrap_or_default()),
            or_dash(&retained(slice)),
        ]
    };
    let header = ["SLICE", "VERSION", "READY", "ROUTING", "UPDATE", "RETAINED"];
    let mut text = table(&header, response.slices.iter().map(row).collect());
    let mut waits = response.slices.iter().flat_map(|slice| {
        slice.waits_for.iter().map(move |message| format!("{}: {message}", slice.slice))
    });
    if let Some(first) = waits.next() {
        text.push_str(&format!("\n\nwaits: {first}"));
        waits.for_each(|wait| text.push_str(&format!("\nwaits: {wait}")));
    }
    let fresh = response.as_of.as_ref().map(as_of).unwrap_or_default();
    if !fresh.is_empty() {
        text.push_str(&format!("\n\nas of {fresh}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_listed_and_shown() {
        let instance = |version: &str, state: &str, takes_calls| v1::Instance {
            version: version.into(),
            state: state.into(),
            takes_calls,
            ..Default::default()
        };
        let slice = v1::Slice {
            slice: "org.example:a".into(),
            version: Some("1.0.0".into()),
            instances: 3,
            ready: 2,
            routing: "0:1".into(),
            instances_state: vec![
                instance("1.0.0", "READY", true),
                instance("1.0.0", "STARTING", false),
                instance("1.0.0", "UNREACHABLE", true),
                instance("2.0.0", "READY", true),
            ],
            ..Default::default()
        };
        let text = whole(&slice);
        let fields = text.split("\n\n").next().unwrap();
        assert_eq!(
            fields,
            "slice     org.example:a\nversion   1.0.0\n\
             ready     2/3 (1 STARTING, 1 UNREACHABLE)\nrouting   0:1"
        );
        let of_revision = |revision, instance: v1::Instance| v1::Instance { revision, ..instance };
        let twice = v1::Slice {
            version: Some("1.0.0".into()),
            revision: Some(3),
            instances: 1,
            config: Some(1),
            latest_config: Some(2),
            instances_state: vec![
                of_revision(3, instance("1.0.0", "READY", true)),
                of_revision(4, instance("1.0.0", "READY", true)),
            ],
            ..Default::default()
        };
        let text = whole(&twice);
        assert!(text.contains("ready     1/1\n"), "{text}");
        assert!(text.contains("config    c1; c2 was pushed since"), "{text}");
        let short = v1::Slice {
            slice: "org.example:b".into(),
            waits_for: vec!["2 instances of r1 have no place: no node".into()],
            ..Default::default()
        };
        let text = whole(&short);
        assert!(text.contains("waits     2 instances of r1 have no place: no node"), "{text}");
        let text = list(&v1::ListSlicesResponse { slices: vec![short], ..Default::default() });
        let said = "\n\nwaits: org.example:b: 2 instances of r1 have no place: no node";
        assert!(text.ends_with(said), "{text}");
        let response = v1::ListSlicesResponse {
            slices: vec![slice],
            as_of: Some(v1::AsOf { index: 3, stale: true, node: "n1".into() }),
            ..Default::default()
        };
        assert_eq!(
            list(&response),
            "SLICE          VERSION  READY                            ROUTING  UPDATE  RETAINED\n\
             org.example:a  1.0.0    2/3 (1 STARTING, 1 UNREACHABLE)  0:1      -       -\n\n\
             as of index 3 on node n1, without asking the leader"
        );
    }
}
