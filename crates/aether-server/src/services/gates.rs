//! Gates of updates, as requests have them and as answers show them.

use aether_core::records::{Gate, GateSource, GateWhen, Progress, Way};
use aether_proto::v1;

use crate::status::Fields;

/// The gates that a start asks for.
///
/// Fields whose values make no sense go to `fields`.
pub fn of_start(asked: &[v1::Gate], fields: &mut Fields) -> Vec<Gate> {
    let gates = asked.iter().enumerate();
    gates.filter_map(|(at, gate)| of(at, gate, fields)).collect()
}

fn of(at: usize, asked: &v1::Gate, fields: &mut Fields) -> Option<Gate> {
    let field = |name: &str| format!("strategy.gates[{at}].{name}");
    let when = match asked.when.to_ascii_uppercase().as_str() {
        "BEFORE" => Ok(GateWhen::Before),
        "AFTER" => Ok(GateWhen::After),
        other => {
            let short: String = other.chars().take(40).collect();
            Err(format!("'{short}' is none of BEFORE, AFTER"))
        }
    };
    let when = fields.take(&field("when"), when);
    let source = match (&asked.prometheus, &asked.webhook, &asked.command) {
        (Some(v1::PrometheusGate { url, query, condition }), None, None) => {
            let (url, query, condition) = (url.clone(), query.clone(), condition.clone());
            Ok(GateSource::Prometheus { url, query, condition })
        }
        (None, Some(webhook), None) => Ok(GateSource::Webhook { url: webhook.url.clone() }),
        (None, None, Some(v1::CommandGate { program, arguments })) => {
            Ok(GateSource::Command { program: program.clone(), arguments: arguments.clone() })
        }
        _ => Err("exactly one of prometheus, webhook and command says who is asked"),
    };
    let source = fields.take(&format!("strategy.gates[{at}]"), source)?;
    let name = match asked.name.as_str() {
        "" => format!("{}-{}", source.as_str(), at + 1),
        name => name.to_owned(),
    };
    let gate = Gate::new(&name, when?, source);
    Some(Gate {
        step: asked.step,
        timeout_ms: asked.timeout_ms.unwrap_or(gate.timeout_ms),
        interval_ms: asked.interval_ms.unwrap_or(gate.interval_ms),
        failures_max: asked.failures_max.unwrap_or(gate.failures_max),
        inconclusive_max: asked.inconclusive_max.unwrap_or(gate.inconclusive_max),
        ..gate
    })
}

fn when(when: GateWhen) -> String {
    when.as_str().to_ascii_uppercase()
}

/// A gate of a record.
pub fn told(gate: &Gate) -> v1::Gate {
    let mut told = v1::Gate {
        name: gate.name.clone(),
        when: when(gate.when),
        step: gate.step,
        timeout_ms: Some(gate.timeout_ms),
        interval_ms: Some(gate.interval_ms),
        failures_max: Some(gate.failures_max),
        inconclusive_max: Some(gate.inconclusive_max),
        ..Default::default()
    };
    match gate.source.clone() {
        GateSource::Prometheus { url, query, condition } => {
            told.prometheus = Some(v1::PrometheusGate { url, query, condition });
        }
        GateSource::Webhook { url } => told.webhook = Some(v1::WebhookGate { url }),
        GateSource::Command { program, arguments } => {
            told.command = Some(v1::CommandGate { program, arguments });
        }
    }
    told
}

/// What the gates between the step that holds and the next one have answered.
pub fn states(way: &Way<'_>, progress: &Progress, now_ms: u64) -> Vec<v1::GateState> {
    let state = |(gate, step): (&Gate, u32)| {
        let mut told = v1::GateState {
            name: gate.name.clone(),
            when: when(gate.when),
            step,
            ..Default::default()
        };
        if let Some(state) = progress.gate(gate, step) {
            told.measured = state.measured;
            told.failed = state.failed;
            told.inconclusive = state.inconclusive;
            told.forced_by = state.forced_by.clone().unwrap_or_default();
            if state.measured > 0 {
                told.last = state.last.as_str().to_ascii_uppercase();
                told.message = state.message.clone();
                told.ago_ms = Some(now_ms.saturating_sub(state.at_ms));
            }
        }
        told
    };
    way.gates_beyond(progress.step).map(state).collect()
}
