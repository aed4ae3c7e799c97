//! What gates have answered.

use aether_proto::v1;

use super::span;

/// A line for each gate between the step that holds and the next one.
pub fn states(states: &[v1::GateState]) -> String {
    states.iter().map(state).collect::<Vec<_>>().join("\n")
}

fn state(state: &v1::GateState) -> String {
    let v1::GateState { name, when, step, measured, failed, inconclusive, .. } = state;
    let which = format!("{name} {} step {step}", when.to_ascii_lowercase());
    let forced = match state.forced_by.as_str() {
        "" => String::new(),
        by => format!("; {by} went past it by force"),
    };
    if *measured == 0 {
        return format!("{which}: not answered yet{forced}");
    }
    let ago = state.ago_ms.map(|ms| format!(" {} ago", span(ms))).unwrap_or_default();
    let said = match state.message.as_str() {
        "" => String::new(),
        message => format!(": {message}"),
    };
    format!(
        "{which}: {}{ago} (asked {measured} times, {failed} failed, {inconclusive} \
         inconclusive){said}{forced}",
        state.last.to_ascii_lowercase()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_says_what_it_answered_and_who_went_past_it() {
        let open = v1::GateState {
            name: "g".into(),
            when: "BEFORE".into(),
            step: 2,
            ..Default::default()
        };
        assert_eq!(states(std::slice::from_ref(&open)), "g before step 2: not answered yet");
        let asked = v1::GateState {
            measured: 3,
            failed: 1,
            inconclusive: 2,
            last: "INCONCLUSIVE".into(),
            message: "no data".into(),
            ago_ms: Some(2_000),
            forced_by: "ann".into(),
            ..open.clone()
        };
        assert_eq!(
            states(&[asked, open]),
            "g before step 2: inconclusive 2s ago (asked 3 times, 1 failed, 2 inconclusive): no \
             data; ann went past it by force\ng before step 2: not answered yet"
        );
    }
}
