//! What gates have answered, and who may pass one that has not.

use super::Tx;
use super::strategy::{bad, stale};
use crate::command::{Answer, Outcome, Refusal};
use crate::ids::UpdateId;
use crate::records::{
    Condition, GATE_ARGUMENT_BYTES_MAX, GATE_ARGUMENTS_MAX, GATE_INTERVAL_MS_MAX,
    GATE_INTERVAL_MS_MIN, GATE_MESSAGE_BYTES_MAX, GATE_NAME_BYTES_MAX, GATE_QUERY_BYTES_MAX,
    GATE_TIMEOUT_MS_MAX, GATE_TOLERATED_MAX, GATES_MAX, Gate, GateSource, GateState, GateVerdict,
    GateWhen, HttpUrl, UpdateRecord, UpdateState, Way,
};
use crate::words::counted;

/// Whether gates make sense, whatever the slice.
pub(super) fn check_gates(gates: &[Gate]) -> Result<(), Refusal> {
    if gates.len() > GATES_MAX {
        return bad(
            "the number of gates",
            gates.len().to_string(),
            &format!("at most {GATES_MAX}"),
        );
    }
    for (at, gate) in gates.iter().enumerate() {
        check_name(&gate.name)?;
        if gates[..at].iter().any(|other| other.name == gate.name) {
            return bad("the name of a gate", gate.name.clone(), "unique within the update");
        }
        check_gate(gate)?;
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
    if (1..=GATE_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(());
    }
    let given = format!("'{}'", name.chars().take(GATE_NAME_BYTES_MAX).collect::<String>());
    let expected = format!("1 to {GATE_NAME_BYTES_MAX} of a-z, 0-9, '-' and '_'");
    bad("the name of a gate", given, &expected)
}

fn check_gate(gate: &Gate) -> Result<(), Refusal> {
    let Gate { name, step, source, timeout_ms, interval_ms, .. } = gate;
    let of = |what: &str| format!("{what} of gate '{name}'");
    let ms = |ms: &u64| format!("{ms} ms");
    if *step == Some(0) {
        return bad(&of("the step"), "0".to_owned(), "1 or later");
    }
    if !(1..=GATE_TIMEOUT_MS_MAX).contains(timeout_ms) {
        return bad(&of("the timeout"), ms(timeout_ms), "above zero and at most 5 minutes");
    }
    if !(GATE_INTERVAL_MS_MIN..=GATE_INTERVAL_MS_MAX).contains(interval_ms) {
        return bad(&of("the interval"), ms(interval_ms), "100 ms to 24 hours");
    }
    for tolerated in [gate.failures_max, gate.inconclusive_max] {
        if tolerated > GATE_TOLERATED_MAX {
            let expected = format!("at most {GATE_TOLERATED_MAX}");
            return bad(&of("the tolerated measurements"), tolerated.to_string(), &expected);
        }
    }
    let url = match source {
        GateSource::Prometheus { url, query, condition } => {
            let is_clean = !query.trim().is_empty() && !query.contains('\0');
            if !is_clean || query.len() > GATE_QUERY_BYTES_MAX {
                let expected = format!("1 to {GATE_QUERY_BYTES_MAX} bytes of PromQL");
                return bad(&of("the query"), counted(query.len() as u64, "byte"), &expected);
            }
            if url.contains('?') {
                return bad(&of("the URL"), short(url), "that of the server, without a query");
            }
            if let Err(expected) = condition.parse::<Condition>() {
                return bad(&of("the condition"), short(condition), &expected);
            }
            url
        }
        GateSource::Webhook { url } => url,
        GateSource::Command { program, arguments } => {
            return check_program(gate, program, arguments);
        }
    };
    match HttpUrl::parse(url) {
        Ok(_) => Ok(()),
        Err(expected) => bad(&of("the URL"), short(url), &expected),
    }
}

fn check_program(gate: &Gate, program: &str, arguments: &[String]) -> Result<(), Refusal> {
    let of = |what: &str| format!("{what} of gate '{}'", gate.name);
    if !program.starts_with('/') {
        return bad(&of("the program"), short(program), "an absolute path");
    }
    if arguments.len() > GATE_ARGUMENTS_MAX {
        let expected = format!("at most {GATE_ARGUMENTS_MAX}");
        return bad(&of("the number of arguments"), arguments.len().to_string(), &expected);
    }
    for text in arguments.iter().map(String::as_str).chain([program]) {
        if text.len() > GATE_ARGUMENT_BYTES_MAX || text.contains('\0') {
            let expected = format!("at most {GATE_ARGUMENT_BYTES_MAX} bytes long, without NUL");
            return bad(&of("the command"), counted(text.len() as u64, "byte"), &expected);
        }
    }
    Ok(())
}

/// What was given, for a refusal. A password in it is nobody's to read.
fn short(text: &str) -> String {
    if text.contains('@') {
        return counted(text.len() as u64, "byte");
    }
    format!("'{}'", text.chars().take(80).collect::<String>())
}

/// Whether each gate is for a step that there is.
pub(super) fn check_gate_steps(way: &Way<'_>) -> Result<(), Refusal> {
    let last = way.last();
    let beyond = |gate: &&Gate| gate.step.is_some_and(|step| step > last);
    match way.analysis.gates.iter().find(beyond) {
        None => Ok(()),
        Some(Gate { name, step, .. }) => bad(
            &format!("the step of gate '{name}'"),
            step.unwrap_or(0).to_string(),
            &format!("1 to {last}"),
        ),
    }
}

/// How the history says that a person went past gates; empty where there is none.
pub(super) fn past(update: &UpdateRecord, way: &Way<'_>, to: u32) -> String {
    let mut names: Vec<String> = Vec::new();
    for (gate, _) in update.closed_gates(way, update.step(), to) {
        let name = format!("'{}'", gate.name);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    match names.len() {
        0 => String::new(),
        1 => format!(", past the gate {}", names[0]),
        _ => format!(", past the gates {}", names.join(", ")),
    }
}

/// Whether every gate between where an update is and a step is passed.
///
/// # Errors
/// [`Refusal::GateClosed`] names the first that is not.
pub(super) fn check_open(update: &UpdateRecord, way: &Way<'_>, to: u32) -> Result<(), Refusal> {
    let Some((gate, step)) = update.closed_gates(way, update.step(), to).first().copied() else {
        return Ok(());
    };
    let state = update.progress.as_ref().and_then(|progress| progress.gate(gate, step));
    Err(Refusal::GateClosed {
        update: update.id.clone(),
        gate: gate.name.clone(),
        when: gate.when,
        step,
        said: state.map(|state| format!("{}: {}", state.last, state.message)).unwrap_or_default(),
    })
}

/// Whether gates are asked of an update in its state.
fn asks(update: &UpdateRecord, way: &Way<'_>) -> bool {
    let serves = matches!(update.state, UpdateState::Deployed | UpdateState::Routing);
    // In place, what the first batch needs is made room for before that.
    serves || (update.state == UpdateState::Deploying && way.in_place.is_some())
}

impl Tx<'_> {
    #[allow(clippy::too_many_arguments)] // They are the fields of the command.
    pub(super) fn record_gate(
        &mut self,
        id: &UpdateId,
        gate: &str,
        when: GateWhen,
        step: u32,
        since_ms: u64,
        number: u32,
        verdict: GateVerdict,
        message: &str,
    ) -> Outcome {
        let mut update = self.update(id)?;
        if message.len() > GATE_MESSAGE_BYTES_MAX {
            let expected = format!("at most {GATE_MESSAGE_BYTES_MAX} bytes long");
            bad("the message of a gate", format!("{} bytes", message.len()), &expected)?;
        }
        let waits = update.pause.is_some() || update.pending_weights.is_some();
        let Some(way) = update.way().filter(|way| asks(&update, way) && !waits) else {
            return Err(stale(&update));
        };
        let asked = update.closed_gates(&way, update.step(), update.step() + 1);
        let found =
            asked.into_iter().find(|(g, of)| g.name == gate && g.when == when && *of == step);
        let (Some((found, _)), Some(progress)) = (found, &update.progress) else {
            return Err(stale(&update));
        };
        let known = progress.gate(found, step).cloned();
        let mut state = known.unwrap_or_else(|| GateState::new(found, step));
        if progress.since_ms != since_ms || state.measured + 1 != number {
            return Err(stale(&update));
        }
        state.take(verdict, message, self.now_ms());
        let about = if message.is_empty() { String::new() } else { format!(": {message}") };
        let event = format!("gate '{gate}' {when} step {step}: {verdict}{about}");
        Self::put_gate(&mut update, state);
        self.put_update(update, event);
        Ok(Answer::default())
    }

    fn put_gate(update: &mut UpdateRecord, state: GateState) {
        let Some(progress) = &mut update.progress else { return };
        let is_same = |s: &&mut GateState| {
            s.gate == state.gate && s.when == state.when && s.step == state.step
        };
        match progress.gates.iter_mut().find(is_same) {
            Some(known) => *known = state,
            None => progress.gates.push(state),
        }
    }

    /// Notes for each gate that stands before a step that this person went past it.
    /// Whether there is one.
    pub(super) fn force_gates(&self, update: &mut UpdateRecord, to: u32) -> bool {
        let Some(way) = update.way() else { return false };
        let by = self.actor.to_owned();
        let forced = |(gate, step): (&Gate, u32)| {
            let known = update.progress.as_ref().and_then(|p| p.gate(gate, step)).cloned();
            let state = known.unwrap_or_else(|| GateState::new(gate, step));
            GateState { forced_by: Some(by.clone()), ..state }
        };
        let states: Vec<_> =
            update.closed_gates(&way, update.step(), to).into_iter().map(forced).collect();
        let is_any = !states.is_empty();
        states.into_iter().for_each(|state| Self::put_gate(update, state));
        is_any
    }

    /// In place instances come before the step that gives them calls: a person who
    /// passes its gates lets them come, and the step follows by itself. None where
    /// no gate holds it.
    pub(super) fn pass_gates_in_place(&mut self, update: &UpdateRecord) -> Option<Outcome> {
        let mut update = update.clone();
        let way = update.way().filter(|way| way.in_place.is_some() && asks(&update, way))?;
        let to = update.step() + 1;
        let past = past(&update, &way, to);
        drop(way);
        if !self.force_gates(&mut update, to) {
            return None;
        }
        if update.pause.is_some() {
            self.end_pause(&mut update);
            update.deadline = crate::transition::deadline_of(&update, self.now_ms());
        }
        let id = update.id.clone();
        self.put_update(update, format!("promoted{past}"));
        let note = "the step is entered once its instances are ready".to_owned();
        Some(Ok(Answer { update: Some(id), note: Some(note), ..Answer::default() }))
    }
}
