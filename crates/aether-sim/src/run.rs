//! Runs a scenario: faults, then healing, then everything has to end.

use crate::invariants::{self, Violation};
use crate::planted::Planted;
use crate::scenario::{ENDS_WITHIN_MS, Incident, Scenario};
use crate::world::World;

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Hash over everything that happened.
    pub trace: u64,
    /// Events that happened.
    pub steps: u64,
    /// Updates that were started.
    pub updates: u64,
    /// Entries of the log.
    pub entries: u64,
    /// Virtual time that passed.
    pub virtual_ms: u64,
    /// The invariant that did not hold, if one did not.
    pub violation: Option<Violation>,
    /// The latest things that happened, if they were kept.
    pub lines: Vec<String>,
}

/// Between two looks whether everything has ended.
const LOOK_MS: u64 = 2_000;

/// Runs the scenario of a seed.
pub fn seed(seed: u64, planted: Option<Planted>) -> Outcome {
    run(&Scenario::of(seed), planted, false)
}

/// Runs a scenario; keeps what happened in words if `is_traced`.
pub fn run(scenario: &Scenario, planted: Option<Planted>, is_traced: bool) -> Outcome {
    let mut world = World::new(scenario.settings.clone(), planted, is_traced);
    for (at_ms, incident) in &scenario.incidents {
        world.schedule(*at_ms, incident.clone());
    }
    world.run_until(scenario.heal_at_ms);
    let ends_at_ms = scenario.heal_at_ms + ENDS_WITHIN_MS;
    let mut ended = Err("it was not looked at".to_owned());
    while world.violation.is_none() && world.now_ms < ends_at_ms {
        world.run_until(world.now_ms + LOOK_MS);
        ended = has_ended(&world);
        if ended.is_ok() {
            break;
        }
    }
    finish(world, ended)
}

fn has_ended(world: &World) -> Result<(), String> {
    if let Some(update) = invariants::unfinished(&world.log.newest).first() {
        let waits = world.log.leader.and_then(|leader| world.coordinators.get(&leader));
        let waits = waits.map(|coordinator| &coordinator.plan.waits);
        return Err(format!("{update}, and waits for {waits:#?}"));
    }
    match world.is_healed {
        true => invariants::serves(&world.log.newest, |version| {
            world.behaviour(version.as_str()).is_bad_start()
        }),
        false => Err("nothing was healed".to_owned()),
    }
}

fn finish(mut world: World, ended: Result<(), String>) -> Outcome {
    let mut violation = world.violation.take();
    if let (None, Err(detail)) = (&violation, ended) {
        let (at_ms, index) = (world.now_ms, world.log.index());
        let invariant = "every_update_ends";
        violation = Some(Violation { invariant, detail, at_ms, index });
    }
    if violation.is_none() {
        violation = world.compare_replicas();
    }
    if let (None, Err(detail)) = (&violation, invariants::replays(&world.log.newest)) {
        let (at_ms, index) = (world.now_ms, world.log.index());
        violation = Some(Violation { invariant: "replays", detail, at_ms, index });
    }
    Outcome {
        trace: world.trace.hash(),
        steps: world.steps,
        updates: world.updates,
        entries: world.log.index(),
        virtual_ms: world.now_ms,
        violation,
        lines: world.trace.lines().to_vec(),
    }
}

/// The same scenario with only some of its incidents. Healing stays.
pub fn with_only(scenario: &Scenario, keep: &[usize]) -> Scenario {
    let all = scenario.incidents.iter().enumerate();
    let kept = all.filter(|(at, (_, incident))| {
        keep.contains(at) || matches!(incident, Incident::Heal { .. })
    });
    Scenario { incidents: kept.map(|(_, incident)| incident.clone()).collect(), ..scenario.clone() }
}
