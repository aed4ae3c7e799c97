//! Replacing instances where they are: how many of each version there are to be,
//! within the bounds of the strategy.

use super::strategy::{bad, check_analysis, check_span, stale};
use super::{INSTANCES_MAX, Tx};
use crate::command::{Answer, Outcome, Refusal};
use crate::ids::{RevisionNo, UpdateId};
use crate::records::{
    BATCHES_MAX, Bounds, CleanupPolicy, Desired, GOALS_MAX, Rolling, Share, Side, Strategy,
    UpdateOptions, UpdateRecord, UpdateState,
};
use crate::weights::Weights;
use crate::words::counted;

/// Whether a rolling strategy makes sense, whatever the slice.
pub(super) fn check_rolling(rolling: &Rolling) -> Result<(), Refusal> {
    check_analysis(&rolling.analysis)?;
    check_span("stagger", rolling.stagger_ms)?;
    check_span("hold", rolling.hold_ms)?;
    if !(1..=BATCHES_MAX).contains(&rolling.batches.len()) {
        let given = rolling.batches.len().to_string();
        return bad("the number of batch sizes", given, &format!("1 to {BATCHES_MAX}"));
    }
    let shares = [&rolling.max_unavailable, &rolling.max_surge].into_iter();
    for share in shares.chain(&rolling.batches) {
        if let Share::Percent { n: 101.. } = share {
            return bad("a share", share.to_string(), "at most 100%");
        }
    }
    if rolling.max_failures > INSTANCES_MAX {
        let expected = format!("0 to {INSTANCES_MAX}");
        return bad("the number of failures", rolling.max_failures.to_string(), &expected);
    }
    if rolling.one_way_from == Some(0) {
        return bad("the one-way batch", "0".to_owned(), "1 or later");
    }
    Ok(())
}

/// Instances that a start needs room for, beyond those that are deployed.
///
/// # Errors
/// The strategy cannot replace them where they are.
pub(super) fn check_start(
    strategy: &Strategy,
    options: &UpdateOptions,
    wanted: u32,
    deployed: Option<u32>,
) -> Result<u32, Refusal> {
    if !strategy.is_in_place() {
        return Ok(wanted);
    }
    check_options_in_place(strategy, options, wanted)?;
    if let Strategy::Rolling(rolling) = strategy {
        let batches = rolling.goals(wanted).len();
        if batches > GOALS_MAX {
            let expected = format!("at most {GOALS_MAX}: make them larger, or let them grow");
            bad("the number of batches", batches.to_string(), &expected)?;
        }
        if let Some(from) = rolling.one_way_from.filter(|from| *from as usize > batches) {
            bad("the one-way batch", from.to_string(), &format!("1 to {batches}"))?;
        }
    }
    let Some(deployed) = deployed else { return Ok(wanted) };
    if wanted != deployed {
        let expected = format!("the {deployed} that are deployed: scale before or after it");
        bad("the number of instances in place", wanted.to_string(), &expected)?;
    }
    let Strategy::Rolling(rolling) = strategy else { return Ok(0) };
    super::reload::check_bounds(rolling, wanted)?;
    let Bounds { floor, ceiling, .. } = rolling.bounds(wanted);
    if floor == wanted && ceiling == wanted {
        let given = format!("{} and {}", rolling.max_unavailable, rolling.max_surge);
        let expected = format!("together at least one of {wanted} instances");
        bad("max unavailable and max surge", given, &expected)?;
    }
    Ok(ceiling - wanted)
}

/// Whether options fit a strategy that replaces instances where they are.
pub(super) fn check_options_in_place(
    strategy: &Strategy,
    options: &UpdateOptions,
    wanted: u32,
) -> Result<(), Refusal> {
    let Some(bounds) = strategy.way(wanted, false).and_then(|way| way.in_place) else {
        return Ok(());
    };
    if options.cleanup != CleanupPolicy::Immediate {
        let given = options.cleanup.to_string();
        bad("cleanup of a strategy in place", given, "IMMEDIATE: no old set is left to be kept")?;
    }
    if options.manual_approval && bounds.floor == 0 {
        let expected = "off where nothing serves meanwhile: nobody would, until it is approved";
        bad("manual approval", "on".to_owned(), expected)?;
    }
    Ok(())
}

/// What an update moves from and to, by version, and by revision where the version is
/// the same.
fn named(update: &UpdateRecord) -> (String, String) {
    let new = &update.new;
    let Some(old) = &update.old else { return ("nothing".to_owned(), new.version.to_string()) };
    if old.version != new.version {
        return (old.version.to_string(), new.version.to_string());
    }
    let of = |side: &Side| format!("{} ({})", side.version, side.revision);
    (of(old), of(new))
}

impl Tx<'_> {
    /// Refuses to give calls to more new instances than are ready.
    pub(super) fn check_batch(&self, update: &UpdateRecord, goal: u32) -> Result<(), Refusal> {
        let ready = self.state.ready_count(&update.slice, update.new.revision);
        if self.state.is_batch_whole(update, goal) {
            return Ok(());
        }
        Err(Refusal::CapacityGuard {
            weights: Weights::new(goal.into(), update.base_instances.saturating_sub(goal).into())
                .unwrap_or(Weights::ALL_NEW),
            side: "new".to_owned(),
            version: update.new.version.clone(),
            needed: goal,
            ready,
            way_out: match update.pause {
                None => "they become ready as the ones before them leave; wait for that".to_owned(),
                Some(_) => {
                    let id = &update.id;
                    format!("they become ready, or 'aether update resume {id}' has it go on")
                }
            },
        })
    }

    /// In a rollback: of the old version stays what is there, and what was drained
    /// and not told to stop. The rest comes back as there is room.
    pub(super) fn keep_what_runs(&mut self, update: &UpdateRecord, old: RevisionNo) {
        let new = update.new.revision;
        let kept = self.wanted(update, old).max(self.running(update, old));
        self.want(update, old, kept.min(update.base_instances));
        // Of the new one nothing more is started.
        self.want(update, new, self.wanted(update, new).min(self.running(update, new)));
    }

    /// Instances of a version that are to run, and have not ended.
    fn running(&self, update: &UpdateRecord, revision: RevisionNo) -> u32 {
        let all = self.state.instances_of(&update.slice).filter(|i| i.revision == revision);
        let running = all.filter(|i| i.desired == Desired::Run && !i.has_ended()).count();
        u32::try_from(running).unwrap_or(u32::MAX)
    }

    fn wanted(&self, update: &UpdateRecord, revision: RevisionNo) -> u32 {
        let target = self.state.targets.get(&(update.slice.clone(), revision));
        target.map_or(0, |target| target.instances)
    }

    /// Sets a target; none is left of a version that nothing is left of.
    fn want(&mut self, update: &UpdateRecord, revision: RevisionNo, instances: u32) {
        let is_left = self.state.instances_of(&update.slice).any(|i| i.revision == revision);
        if instances == 0 && !is_left {
            self.state.targets.remove(&(update.slice.clone(), revision));
        } else if instances != self.wanted(update, revision) {
            self.put_target(&update.slice, revision, instances);
        }
    }

    pub(super) fn move_in_place(
        &mut self,
        id: &UpdateId,
        new: u32,
        old: u32,
        if_modified: u64,
    ) -> Outcome {
        use UpdateState::{Deployed, Deploying, RollingBack, Routing};
        let mut update = self.update(id)?;
        let goes_back = update.state == RollingBack;
        let moves = goes_back || matches!(update.state, Deploying | Deployed | Routing);
        let bounds = update.way().and_then(|way| way.in_place);
        let (Some(bounds), true) = (bounds, moves && update.modified == if_modified) else {
            return Err(stale(&update));
        };
        let (new_no, old_no) = (update.new.revision, update.old.as_ref().map(|s| s.revision));
        let (new_now, old_now) =
            (self.wanted(&update, new_no), old_no.map_or(0, |no| self.wanted(&update, no)));
        let forward = new >= new_now && old <= old_now && new <= update.instances;
        let back = new <= new_now && old >= old_now && old <= update.base_instances;
        let changes = (new, old) != (new_now, old_now);
        let fits = u64::from(new) + u64::from(old) <= u64::from(bounds.ceiling)
            || u64::from(new) + u64::from(old) <= u64::from(new_now) + u64::from(old_now);
        let is_open =
            |way| super::gates::check_open(&update, &way, update.step().saturating_add(1)).is_ok();
        let is_right = if goes_back { back } else { forward && update.way().is_some_and(is_open) };
        if !is_right || !changes || !fits || (old > 0 && old_no.is_none()) {
            return Err(stale(&update));
        }
        // What is taken away is first what is not ready.
        let ready =
            |no: RevisionNo, target: u32| self.state.ready_count(&update.slice, no).min(target);
        let ready_of = |new, old| ready(new_no, new) + old_no.map_or(0, |no| ready(no, old));
        let takes_away = new < new_now || old < old_now;
        // Where the world has taken more already, what is not ready may go all the same.
        let floor = bounds.floor.min(ready_of(new_now, old_now));
        if takes_away && ready_of(new, old) < floor {
            return Err(stale(&update));
        }
        let (from, to) = named(&update);
        let reloads = update.strategy.is_reload();
        let how = if reloads { "reloading: " } else { "" };
        let mut event = format!("{how}{} of {to}, {old} of {from}", counted(new, "instance"));
        let admitted = update.way().map_or(0, |way| match update.step() {
            0 => 0,
            step => way.goal(step, update.base_instances),
        });
        // Fewer of one version carry less, in the entry that takes them away.
        let weights = match update.state {
            // With a surge there are more old ones than the ratio counts on.
            Routing if old < old_now && !reloads => Weights::new(admitted.into(), old.into())
                .ok()
                .filter(|weights| update.weights.is_raised_by(*weights)),
            RollingBack if new < new_now => {
                // Those that go back by a reload serve meanwhile.
                let ready = old_no.map_or(0, |no| if reloads { old } else { ready(no, old) });
                Some(Weights::new(new.into(), ready.into()).unwrap_or(Weights::ALL_OLD))
                    .filter(|weights| weights.is_raised_by(update.weights))
            }
            _ => None,
        };
        if let Some(weights) = weights.filter(|weights| *weights != update.weights) {
            event += &format!("; routing {} -> {weights}", update.weights);
            self.reweigh(&mut update, weights);
        }
        if let Some(old_no) = old_no.filter(|_| reloads) {
            // What one side has less, the other one gets as far as it wants it.
            let forward = new.saturating_sub(new_now).min(old_now.saturating_sub(old));
            let back = new_now.saturating_sub(new).min(old.saturating_sub(old_now));
            self.reload(&update, old_no, new_no, forward, old);
            self.reload(&update, new_no, old_no, back, new);
        }
        self.want(&update, new_no, new);
        if let Some(old_no) = old_no {
            self.want(&update, old_no, old);
        }
        self.put_update(update, event);
        Ok(Answer::default())
    }
}
