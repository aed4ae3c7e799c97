//! Environments: which set of each slice is active.

use aether_proto::v1;

use super::slice::taking_calls;
use super::{or_dash, span, table};

/// A version and the colour of its set: `BLUE 1.0.0`.
fn coloured(colour: &str, version: &str) -> String {
    match (colour, version) {
        ("", version) => version.to_owned(),
        (colour, version) => format!("{colour} {version}"),
    }
}

/// What a slice is set to, and whether that is still to come.
fn set(slice: &v1::Slice) -> String {
    let Some(version) = &slice.set_version else { return String::new() };
    let by = match slice.set_by.as_str() {
        "" => String::new(),
        actor => format!(" by {actor}"),
    };
    match slice.version.as_ref() == Some(version) {
        true => format!("{version}{by}"),
        false => format!("{version}{by}, not refreshed"),
    }
}

/// The set that is kept warm, and for how long.
fn warm(slice: &v1::Slice) -> String {
    let Some(version) = &slice.retained_version else { return String::new() };
    let left = slice.retained_for_ms.map(|ms| format!(" for {}", span(ms.unsigned_abs())));
    coloured(&slice.retained_colour, version) + &left.unwrap_or_default()
}

/// The live update, and the colour of the set that it brings.
fn coming(slice: &v1::Slice) -> String {
    let Some(id) = &slice.live_update else { return String::new() };
    let routing = if slice.routing.is_empty() { "no route" } else { &slice.routing };
    format!("{} by {id}, {routing}", or_dash(&slice.update_colour))
}

/// Slices, a row each.
pub fn status(slices: &[v1::Slice]) -> String {
    let row = |slice: &v1::Slice| {
        let version = slice.version.clone().unwrap_or_default();
        let of_current = slice.instances_state.iter().filter(|i| i.version == version);
        vec![
            slice.slice.clone(),
            or_dash(&coloured(&slice.colour, &version)),
            taking_calls(of_current, slice.instances),
            or_dash(&set(slice)),
            or_dash(&coming(slice)),
            or_dash(&warm(slice)),
        ]
    };
    let header = ["SLICE", "ACTIVE", "READY", "SET TO", "COMING", "WARM"];
    table(&header, slices.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_active_set_and_the_others_stand_beside_each_other() {
        let slice = v1::Slice {
            slice: "org.example:a@prod".into(),
            version: Some("1.0.0".into()),
            instances: 2,
            colour: "BLUE".into(),
            set_version: Some("2.0.0".into()),
            set_by: "ann".into(),
            live_update: Some("u1f".into()),
            update_colour: "GREEN".into(),
            routing: "0:1".into(),
            ..Default::default()
        };
        let after = v1::Slice {
            slice: "org.example:b@prod".into(),
            version: Some("2.0.0".into()),
            instances: 2,
            colour: "GREEN".into(),
            set_version: Some("2.0.0".into()),
            retained_version: Some("1.0.0".into()),
            retained_colour: "BLUE".into(),
            retained_for_ms: Some(60_000),
            ..Default::default()
        };
        assert_eq!(
            status(&[slice, after]),
            "SLICE               ACTIVE       READY  SET TO                       COMING             \
             WARM\n\
             org.example:a@prod  BLUE 1.0.0   0/2    2.0.0 by ann, not refreshed  GREEN by u1f, 0:1  \
             -\n\
             org.example:b@prod  GREEN 2.0.0  0/2    2.0.0                        -                  \
             BLUE 1.0.0 for 1m"
        );
    }
}
