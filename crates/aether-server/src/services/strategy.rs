//! Strategies of updates, as requests have them.

use aether_core::records::{Analysis, BlueGreen, Canary, DeadlineAction, HOLD_MS, Step, Strategy};
use aether_proto::v1;

use crate::status::Fields;

/// The strategy that a start asks for.
///
/// Fields whose values make no sense, alone or with the others, go to `fields`.
pub fn of_start(request: &v1::StartUpdateRequest, fields: &mut Fields) -> Strategy {
    let Some(asked) = &request.strategy else { return Strategy::default() };
    let has_steps = !asked.steps.is_empty() || asked.step_percent.is_some();
    match asked.name.to_ascii_uppercase().as_str() {
        "" if has_steps => canary(asked, fields),
        "" | "MANUAL" => manual(asked, fields),
        "CANARY" => canary(asked, fields),
        "BLUE_GREEN" | "BLUE-GREEN" => blue_green(asked, fields),
        other => {
            let short: String = other.chars().take(40).collect();
            let problem = format!("'{short}' is none of MANUAL, CANARY, BLUE_GREEN");
            fields.refuse("strategy.name", problem);
            Strategy::default()
        }
    }
}

/// Refuses what a strategy has no use for: it would be ignored in silence.
fn refuse(name: &str, of: &str, given: &[(&str, bool)], fields: &mut Fields) {
    for (field, is_given) in given {
        if *is_given {
            let problem = format!("is of {of}, not of {name}");
            fields.refuse(&format!("strategy.{field}"), problem);
        }
    }
}

fn manual(asked: &v1::Strategy, fields: &mut Fields) -> Strategy {
    let bare = v1::Strategy { name: asked.name.clone(), ..Default::default() };
    if *asked != bare {
        let problem = "MANUAL takes no options: people set every ratio; name CANARY or BLUE_GREEN";
        fields.refuse("strategy.name", problem);
    }
    Strategy::default()
}

fn canary(asked: &v1::Strategy, fields: &mut Fields) -> Strategy {
    let given = [("verify_ms", asked.verify_ms.is_some()), ("auto_promote", asked.auto_promote)];
    refuse("CANARY", "BLUE_GREEN", &given, fields);
    let hold_ms = asked.hold_ms.unwrap_or(HOLD_MS);
    let steps = match (asked.steps.as_str(), asked.step_percent) {
        ("", None) => Ok(Step::recommended(hold_ms)),
        ("", Some(percent)) => Step::increments(percent, hold_ms),
        (text, None) => Step::list(text, hold_ms),
        (_, Some(_)) => Err("give either steps or step_percent".to_owned()),
    };
    let field = if asked.step_percent.is_some() { "step_percent" } else { "steps" };
    Strategy::Canary(Canary {
        steps: fields.take(&format!("strategy.{field}"), steps).unwrap_or_default(),
        analysis: analysis(asked, fields),
        scale_with_weight: asked.scale_with_weight,
        one_way_from: asked.one_way_from,
    })
}

fn blue_green(asked: &v1::Strategy, fields: &mut Fields) -> Strategy {
    let given = [
        ("steps", !asked.steps.is_empty()),
        ("step_percent", asked.step_percent.is_some()),
        ("scale_with_weight", asked.scale_with_weight),
    ];
    refuse("BLUE_GREEN", "CANARY", &given, fields);
    let one_way = match asked.one_way_from {
        None | Some(1) => Ok(asked.one_way_from.is_some()),
        Some(step) => Err(format!("{step} is no step of BLUE_GREEN: its switch is step 1")),
    };
    Strategy::BlueGreen(BlueGreen {
        verify_ms: asked.verify_ms.unwrap_or(0),
        auto_promote: asked.auto_promote,
        hold_ms: asked.hold_ms.unwrap_or(HOLD_MS),
        analysis: analysis(asked, fields),
        one_way: fields.take("strategy.one_way_from", one_way).unwrap_or_default(),
    })
}

fn analysis(asked: &v1::Strategy, fields: &mut Fields) -> Analysis {
    let on_failure = match asked.on_failure.to_ascii_uppercase().as_str() {
        "" => Ok(Analysis::default().on_failure),
        "PAUSE" => Ok(DeadlineAction::Pause),
        "ROLLBACK" => Ok(DeadlineAction::Rollback),
        other => {
            let short: String = other.chars().take(40).collect();
            Err(format!("'{short}' is none of PAUSE, ROLLBACK"))
        }
    };
    let default = Analysis::default();
    Analysis {
        on_failure: fields.take("strategy.on_failure", on_failure).unwrap_or(default.on_failure),
        patience_ms: asked.patience_ms.unwrap_or(default.patience_ms),
        warm_up_ms: asked.warm_up_ms.unwrap_or(default.warm_up_ms),
    }
}
