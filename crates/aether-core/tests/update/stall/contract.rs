//! What every update owes whoever asks why it does not move, as questions to a
//! state: each answers with what is missing.
//!
//! - The record alone: while an update is not terminal it has an absolute
//!   deadline, not too far off, with an action that can be carried out there.
//! - One pass of the planner: a command that the same state accepts, or waits,
//!   each of which says what for, since when and what would end it.
//! - When the deadline passes and nothing else happens, that changes the update.

use aether_core::apply::Position;
use aether_core::command::{Command, Request};
use aether_core::planner::{self, Plan, View, Wait};
use aether_core::records::{DeadlineAction, UpdateRecord, UpdateState};
use aether_core::state::State;
use aether_core::transition;

/// The longest span of a deadline: a step that holds for the longest time that may
/// be set, and as long once more for its evidence.
const SPAN_MS_MAX: u64 = 2 * 30 * 24 * 3_600_000;
/// Passes within which what is due has happened: what else there is to do for the
/// slice may come first, one command each.
const PASSES_MAX: usize = 8;

/// Looks at the record of an update at log time `now_ms`.
pub fn of_record(update: &UpdateRecord, now_ms: u64) -> Result<(), String> {
    let UpdateRecord { id, state, pause, .. } = update;
    let Some(deadline) = &update.deadline else {
        let problem = format!("{id} is {state} and has no deadline");
        return if state.is_terminal() { Ok(()) } else { Err(problem) };
    };
    if state.is_terminal() {
        return Err(format!("{id} is {state} and has a deadline"));
    }
    let in_ms = deadline.at_ms.saturating_sub(now_ms);
    if deadline.span_ms == 0 || in_ms > SPAN_MS_MAX {
        return Err(format!("{id} is {state}, its deadline is no time: {deadline:?}"));
    }
    if pause.as_ref().is_some_and(|p| p.reason.code.is_empty() && p.reason.message.is_empty()) {
        return Err(format!("{id} is paused and does not say why"));
    }
    let goes_back = transition::is_allowed(*state, UpdateState::RollingBack);
    let can_act = match deadline.action {
        DeadlineAction::Alert => true,
        DeadlineAction::Pause => pause.is_none(),
        DeadlineAction::Rollback | DeadlineAction::Fail => goes_back && !update.is_one_way(),
    };
    match can_act {
        true => Ok(()),
        false => Err(format!(
            "{id} is {state}, paused: {}, one-way: {}; its deadline cannot {}",
            pause.is_some(),
            update.is_one_way(),
            deadline.action
        )),
    }
}

/// Looks at one pass over the slice of a live update.
pub fn of_pass(view: &View<'_>, update: &UpdateRecord, plan: &Plan) -> Result<(), String> {
    let at = format!("{} is {}", update.id, update.state);
    if let Some(command) = plan.commands.first() {
        let mut after = view.state.clone();
        return match carry_out(&mut after, view.now_ms, command.clone()) {
            Ok(()) => Ok(()),
            Err(refusal) => {
                Err(format!("{at}; {command:?} is planned in a state that refuses it: {refusal}"))
            }
        };
    }
    let waits = plan.waits.get(&update.slice).map_or(&[][..], Vec::as_slice);
    if waits.is_empty() {
        return Err(format!("{at}; nothing is done and nothing is waited for"));
    }
    match waits.iter().find(|wait| !says_all(wait, view.now_ms)) {
        None => Ok(()),
        Some(wait) => Err(format!("{at}, and a wait leaves something open: {wait:?}")),
    }
}

fn says_all(wait: &Wait, now_ms: u64) -> bool {
    let texts = [wait.code, &wait.message, &wait.unblock];
    texts.iter().all(|text| !text.trim().is_empty()) && wait.since_ms <= now_ms
}

/// Has time pass up to the deadline of a live update, as this view sees it, and
/// looks whether that changes the update.
pub fn of_deadline(view: &View<'_>, update: &UpdateRecord) -> Result<(), String> {
    let Some(deadline) = &update.deadline else { return Ok(()) };
    let now_ms = deadline.at_ms.max(view.now_ms);
    let mut state = view.state.clone();
    for _ in 0..PASSES_MAX {
        let plan = planner::plan_slice(&View { state: &state, now_ms, ..*view }, &update.slice);
        let Some(command) = plan.commands.into_iter().next() else {
            return Err(format!(
                "{} is {}, {deadline:?} is over and nothing is done: {:?}",
                update.id, update.state, plan.waits
            ));
        };
        let text = format!("{command:?}");
        if let Err(refusal) = carry_out(&mut state, now_ms, command) {
            return Err(format!("{}, due at {}, is refused: {refusal}", text, deadline.at_ms));
        }
        if state.updates.get(&update.id).is_none_or(|after| after.modified != update.modified) {
            return Ok(());
        }
    }
    Err(format!("{} is {}; {PASSES_MAX} passes left {deadline:?}", update.id, update.state))
}

fn carry_out(state: &mut State, now_ms: u64, command: Command) -> Result<(), String> {
    let index = state.meta.index + 1;
    let at = Position { term: 1, index, log_time_ms: now_ms, wall_ms: now_ms };
    let request = Request { request_id: None, actor: "coordinator".to_owned(), command };
    state.apply(at, &request).map(drop).map_err(|refusal| refusal.to_string())
}

mod tests {
    use std::collections::BTreeMap;

    use aether_core::health::Verdict;
    use aether_core::ids::{NodeName, SessionId, UpdateId};
    use aether_core::planner::{NodeView, SessionView};
    use aether_core::records::{Deadline, Pause, Reason, UpdateOptions};

    use super::*;
    use crate::world::{World, in_batches, routing, start_with};

    fn routed() -> (World, UpdateRecord) {
        let mut world = World::deployed(3);
        let id = world.start("2.0.0", UpdateOptions::default());
        world.settle();
        world.ok(routing(&id, "1:1"));
        let update = world.update(&id).clone();
        (world, update)
    }

    fn refused(update: &UpdateRecord) -> String {
        of_record(update, 1_000).unwrap_err()
    }

    #[test]
    fn a_record_without_a_deadline_that_can_act_is_no_good() {
        let (_, good) = routed();
        assert_eq!(of_record(&good, 1_000), Ok(()));
        let with = |deadline| UpdateRecord { deadline, ..good.clone() };
        assert!(refused(&with(None)).contains("has no deadline"));
        let ended = UpdateRecord { state: UpdateState::RolledBack, ..good.clone() };
        assert!(refused(&ended).contains("has a deadline"));
        assert_eq!(of_record(&UpdateRecord { deadline: None, ..ended }, 1_000), Ok(()));
        let at = |at_ms, span_ms, action| with(Some(Deadline { at_ms, span_ms, action }));
        assert!(refused(&at(u64::MAX, 5, DeadlineAction::Alert)).contains("no time"));
        assert!(refused(&at(5_000, 0, DeadlineAction::Alert)).contains("no time"));

        // An action that the state refuses is none.
        let pause = Some(Pause { reason: Reason::new("operator", "ann"), since_ms: 5 });
        let paused = UpdateRecord { pause, ..at(5_000, 5, DeadlineAction::Pause) };
        assert!(refused(&paused).contains("cannot PAUSE"));
        let silent = Some(Pause { reason: Reason::new("", ""), since_ms: 5 });
        let silent = UpdateRecord { pause: silent, ..at(5_000, 5, DeadlineAction::Alert) };
        assert!(refused(&silent).contains("does not say why"));
        let back = at(5_000, 5, DeadlineAction::Fail);
        let back = UpdateRecord { state: UpdateState::RollingBack, ..back };
        assert!(refused(&back).contains("cannot FAIL"));
    }

    #[test]
    fn a_deadline_that_goes_back_where_there_is_no_way_back_is_no_good() {
        let mut world = World::deployed(3);
        let mut rolling = in_batches("1", "1", "0");
        rolling.one_way_from = Some(1);
        let rolling = aether_core::records::Strategy::Rolling(rolling);
        let start = start_with("2.0.0", UpdateOptions::default(), rolling);
        let id = world.ok(start).update.unwrap();
        while world.update(&id).step() == 0 {
            world.round();
            world.now_ms += 100;
        }
        let mut update = world.update(&id).clone();
        assert_eq!(of_record(&update, world.now_ms), Ok(()));
        update.deadline.as_mut().unwrap().action = DeadlineAction::Rollback;
        assert!(refused(&update).contains("cannot ROLLBACK"));
    }

    /// What a leader knows that has heard of nobody.
    #[derive(Default)]
    struct Nobody {
        sessions: BTreeMap<SessionId, SessionView>,
        nodes: BTreeMap<NodeName, NodeView>,
        verdicts: BTreeMap<UpdateId, Verdict>,
    }

    impl Nobody {
        fn heard<'a>(&'a self, world: &'a World) -> View<'a> {
            View {
                state: &world.state,
                now_ms: world.now_ms,
                sessions: &self.sessions,
                nodes: &self.nodes,
                verdicts: &self.verdicts,
                table_age_max_ms: 1,
                node_lost_ms: 1,
            }
        }
    }

    #[test]
    fn a_pass_that_leaves_something_open_is_no_good() {
        let (world, update) = routed();
        let nobody = Nobody::default();
        let view = nobody.heard(&world);
        let good = planner::plan_slice(&view, &update.slice);
        assert_eq!((of_pass(&view, &update, &good), good.commands.len()), (Ok(()), 0));
        let problem = |plan: Plan| of_pass(&view, &update, &plan).unwrap_err();
        assert!(problem(Plan::default()).contains("nothing is waited for"));
        let wait = |change: fn(&mut Wait)| {
            let mut waits = good.waits.clone();
            waits.values_mut().flatten().for_each(change);
            Plan { waits, ..Plan::default() }
        };
        for change in [
            |wait: &mut Wait| wait.unblock.clear(),
            |wait: &mut Wait| wait.message = " ".to_owned(),
            |wait: &mut Wait| wait.since_ms = u64::MAX,
        ] {
            assert!(problem(wait(change)).contains("leaves something open"));
        }
        // A command that its own state refuses would be planned for ever.
        let commands = vec![Command::Finish { update: update.id.clone() }];
        assert!(problem(Plan { commands, ..Plan::default() }).contains("refuses it"));
    }

    #[test]
    fn a_deadline_that_nothing_comes_of_is_found() {
        let (mut world, mut update) = routed();
        // One that pauses what is paused already is refused for ever.
        let (at_ms, span_ms) = (world.now_ms + 5, 5);
        let spent = Deadline { at_ms, span_ms, action: DeadlineAction::Pause };
        update.pause = Some(Pause { reason: Reason::new("operator", "ann"), since_ms: 5 });
        update.deadline = Some(spent);
        world.state.updates.insert(update.id.clone(), update.clone().into());
        let nobody = Nobody::default();
        let view = nobody.heard(&world);
        assert!(of_deadline(&view, &update).unwrap_err().contains("is refused"));
    }
}
