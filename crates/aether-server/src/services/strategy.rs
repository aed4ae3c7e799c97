//! Strategies of updates, as requests have them.

use aether_core::records::{
    Analysis, BlueGreen, Canary, DeadlineAction, HOLD_MS, Recreate, Rolling, Share, Step, Strategy,
};
use aether_proto::v1;

use super::gates;
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
        "ROLLING" => rolling(asked, fields),
        "RECREATE" => recreate(asked, fields),
        other => {
            let short: String = other.chars().take(40).collect();
            let problem =
                format!("'{short}' is none of MANUAL, CANARY, BLUE_GREEN, ROLLING, RECREATE");
            fields.refuse("strategy.name", problem);
            Strategy::default()
        }
    }
}

/// Options that only some strategies have a use for, and whether they are given.
fn given(asked: &v1::Strategy) -> [(&'static str, bool); 14] {
    [
        ("steps", !asked.steps.is_empty()),
        ("step_percent", asked.step_percent.is_some()),
        ("hold_ms", asked.hold_ms.is_some()),
        ("scale_with_weight", asked.scale_with_weight),
        ("one_way_from", asked.one_way_from.is_some()),
        ("verify_ms", asked.verify_ms.is_some()),
        ("auto_promote", asked.auto_promote),
        ("barrier", asked.barrier),
        ("max_unavailable", !asked.max_unavailable.is_empty()),
        ("max_surge", !asked.max_surge.is_empty()),
        ("batches", !asked.batches.is_empty()),
        ("stagger_ms", asked.stagger_ms.is_some()),
        ("max_failures", asked.max_failures.is_some()),
        ("reload", asked.reload),
    ]
}

/// Refuses what a strategy has no use for: it would be ignored in silence.
fn refuse_others(name: &str, takes: &[&str], asked: &v1::Strategy, fields: &mut Fields) {
    for (field, is_given) in given(asked) {
        if is_given && !takes.contains(&field) {
            let problem = format!("is no option of {name}, which takes {}", takes.join(", "));
            fields.refuse(&format!("strategy.{field}"), problem);
        }
    }
}

fn manual(asked: &v1::Strategy, fields: &mut Fields) -> Strategy {
    let bare = v1::Strategy { name: asked.name.clone(), ..Default::default() };
    if *asked != bare {
        let problem = "MANUAL takes no options: people set every ratio; name another strategy";
        fields.refuse("strategy.name", problem);
    }
    Strategy::default()
}

fn canary(asked: &v1::Strategy, fields: &mut Fields) -> Strategy {
    let takes = ["steps", "step_percent", "hold_ms", "scale_with_weight", "one_way_from"];
    refuse_others("CANARY", &takes, asked, fields);
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
    let takes = ["verify_ms", "auto_promote", "barrier", "hold_ms", "one_way_from"];
    refuse_others("BLUE_GREEN", &takes, asked, fields);
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
        barrier: asked.barrier,
    })
}

fn rolling(asked: &v1::Strategy, fields: &mut Fields) -> Strategy {
    let takes = [
        "max_unavailable",
        "max_surge",
        "batches",
        "stagger_ms",
        "hold_ms",
        "one_way_from",
        "max_failures",
        "reload",
    ];
    refuse_others("ROLLING", &takes, asked, fields);
    let mut share = |field: &str, text: &str, otherwise: u32| match text {
        "" => Share::Count { n: otherwise },
        text => {
            let share = fields.take(&format!("strategy.{field}"), text.parse());
            share.unwrap_or(Share::Count { n: otherwise })
        }
    };
    // Who allows a surge need not allow that any are missing.
    let missing = u32::from(asked.max_surge.is_empty());
    let max_unavailable = share("max_unavailable", &asked.max_unavailable, missing);
    let max_surge = share("max_surge", &asked.max_surge, 0);
    let batches = match asked.batches.as_str() {
        // As many at once as the bounds allow.
        "" if max_unavailable == (Share::Count { n: 0 }) => vec![max_surge],
        "" => vec![max_unavailable],
        text => fields.take("strategy.batches", Share::list(text)).unwrap_or_default(),
    };
    Strategy::Rolling(Rolling {
        max_unavailable,
        max_surge,
        batches,
        stagger_ms: asked.stagger_ms.unwrap_or(0),
        hold_ms: asked.hold_ms.unwrap_or(0),
        analysis: analysis(asked, fields),
        one_way_from: asked.one_way_from,
        max_failures: asked.max_failures.unwrap_or(0),
        reload: asked.reload,
    })
}

fn recreate(asked: &v1::Strategy, fields: &mut Fields) -> Strategy {
    refuse_others("RECREATE", &["on_failure"], asked, fields);
    Strategy::Recreate(Recreate { analysis: analysis(asked, fields) })
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
        gates: gates::of_start(&asked.gates, fields),
    }
}
