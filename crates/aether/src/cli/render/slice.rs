//! Slices and their instances.

use aether_proto::v1;

use super::update::{as_of, reason};
use super::{fields, or_dash, span, table};

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

/// One slice with its instances.
pub fn whole(slice: &v1::Slice) -> String {
    let mut text = fields(&[
        ("slice", slice.slice.clone()),
        ("version", slice.version.clone().unwrap_or_else(|| "(none yet)".to_owned())),
        ("instances", format!("{} of {} ready", slice.ready, slice.instances)),
        ("routing", slice.routing.clone()),
        ("update", slice.live_update.clone().unwrap_or_default()),
        ("retained", slice.retained_version.clone().unwrap_or_default()),
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
            format!("{}/{}", slice.ready, slice.instances),
            or_dash(&slice.routing),
            or_dash(slice.live_update.as_deref().unwrap_or_default()),
            or_dash(slice.retained_version.as_deref().unwrap_or_default()),
        ]
    };
    let header = ["SLICE", "VERSION", "READY", "ROUTING", "UPDATE", "RETAINED"];
    let mut text = table(&header, response.slices.iter().map(row).collect());
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
        let slice = v1::Slice {
            slice: "org.example:a".into(),
            version: Some("1.0.0".into()),
            instances: 3,
            ready: 2,
            routing: "0:1".into(),
            ..Default::default()
        };
        assert_eq!(
            whole(&slice),
            "slice      org.example:a\nversion    1.0.0\ninstances  2 of 3 ready\nrouting    0:1"
        );
        let response = v1::ListSlicesResponse {
            slices: vec![slice],
            as_of: Some(v1::AsOf { index: 3, stale: true, node: "n1".into() }),
        };
        assert_eq!(
            list(&response),
            "SLICE          VERSION  READY  ROUTING  UPDATE  RETAINED\n\
             org.example:a  1.0.0    2/3    0:1      -       -\n\n\
             as of index 3 on node n1, without asking the leader"
        );
    }
}
