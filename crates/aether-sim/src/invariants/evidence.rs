//! What an update counts as evidence are calls that were made, each counted once,
//! whoever led meanwhile: never more than callers answered since it began, and
//! never less than was counted before. (Design, section 6: "a failover neither
//! loses nor double-counts".) Of each instance likewise: never more than callers got
//! from it, all of them together no more than the version, and no less than a leader
//! could tell apart.

use std::collections::BTreeMap;

use aether_core::command::Command;
use aether_core::coordinates::SliceName;
use aether_core::evidence::Side;
use aether_core::health::Tally;
use aether_core::ids::{InstanceId, RevisionNo, SessionId, UpdateId};
use aether_core::level::since;
use aether_core::records::{EvidenceRecord, Sums, UpdateRecord};

use super::Step;
use crate::served::Served;

/// Answered calls and errors among them.
type Calls = (u64, u64);

/// By update, what callers had got of its new version when its evidence began.
#[derive(Debug, Default)]
pub struct Evidence {
    begun: BTreeMap<UpdateId, Calls>,
    /// The term that last told of an update, and the new calls of each session by then.
    told: BTreeMap<UpdateId, (u64, BTreeMap<SessionId, Sums>)>,
}

impl Evidence {
    pub(super) fn check(&mut self, step: &Step<'_>) -> Result<(), String> {
        let (before, after) = (&step.before.evidence, &step.after.evidence);
        if before.ptr_eq(after) {
            return Ok(());
        }
        for (id, record) in after {
            let Some(update) = step.after.updates.get(id) else { continue };
            let known = before.get(id);
            if known.is_none() {
                let calls = answered(step, &update.slice, update.new.revision);
                self.begun.insert(id.clone(), calls);
            }
            let was = known.map(|known| (sum(known, |t| t.new), sum(known, |t| t.old)));
            let (new, old) = (sum(record, |t| t.new), sum(record, |t| t.old));
            // Whoever goes on in spite of what was shown has it shown anew.
            let by_person = match step.done() {
                Some(Command::Resume { .. } | Command::Promote { .. }) => true,
                Some(Command::Approve { .. }) => {
                    step.before.updates.get(id).is_some_and(|before| before.pending_forced)
                }
                _ => false,
            };
            if was.is_some_and(|was| new < was.0 || old < was.1) && !by_person {
                return Err(format!("{id} forgot calls that it had counted"));
            }
            if matches!(step.done(), Some(Command::RecordEvidence { update, .. }) if update == id) {
                self.made(step, update, new, old)?;
                of_instances(step, update, record)?;
                self.told_apart(step, update)?;
            }
        }
        Ok(())
    }

    /// Whoever told of a session before knows which instances its calls since then reached.
    fn told_apart(&mut self, step: &Step<'_>, update: &UpdateRecord) -> Result<(), String> {
        let Some(Command::RecordEvidence { sums, instances, .. }) = step.done() else {
            return Ok(());
        };
        let term = step.entry.at.term;
        let (by, known) = self.told.entry(update.id.clone()).or_default();
        if *by != term {
            (*by, *known) = (term, BTreeMap::new());
        }
        let new = |sums: &Sums| sums.tallies.new.requests;
        let since = sums.iter().filter_map(|(id, sums)| {
            let before = known.get(id).filter(|before| before.life == sums.life)?;
            Some(new(sums).saturating_sub(new(before)))
        });
        let least: u64 = since.sum();
        known.extend(sums.iter().map(|(id, sums)| (id.clone(), *sums)));
        let told: u64 = instances.values().map(|counts| counts.side.requests).sum();
        match told >= least || step.before.meta.feature_level < since::EVIDENCE_BY_INSTANCE {
            true => Ok(()),
            false => Err(format!(
                "{} has {least} more calls whose instances are known, and {told} of instances",
                update.id
            )),
        }
    }

    fn made(
        &self,
        step: &Step<'_>,
        update: &UpdateRecord,
        new: Calls,
        old: Calls,
    ) -> Result<(), String> {
        let all = answered(step, &update.slice, update.new.revision);
        let begun = self.begun.get(&update.id).copied().unwrap_or_default();
        let since = (all.0 - begun.0, all.1 - begun.1);
        let of_old = update.old.as_ref().map(|old| answered(step, &update.slice, old.revision));
        let of_old = of_old.unwrap_or_default();
        match new.0 > since.0 || new.1 > since.1 || old.0 > of_old.0 || old.1 > of_old.1 {
            false => Ok(()),
            true => Err(format!(
                "{} counted {new:?} calls and errors of the new version and {old:?} of the old \
                 one; there were {since:?} and {of_old:?}",
                update.id
            )),
        }
    }
}

/// What is put down to instances of the new version.
fn of_instances(
    step: &Step<'_>,
    update: &UpdateRecord,
    record: &EvidenceRecord,
) -> Result<(), String> {
    for (id, counted) in &record.instances {
        let told = counted.epochs.values();
        let told = told.fold((0, 0), |sum, side| (sum.0 + side.requests, sum.1 + side.errors));
        let got = answered_by(step, &update.slice, update.new.revision, id);
        if told.0 > got.0 || told.1 > got.1 {
            return Err(format!(
                "{} puts {told:?} calls and errors down to {id}; callers got {got:?} from it",
                update.id
            ));
        }
    }
    for (index, epoch) in record.evidence.epochs() {
        let of_each = record.instances.values().filter_map(|counted| counted.epochs.get(index));
        let requests: u64 = of_each.map(|side| side.requests).sum();
        if requests > epoch.tallies.new.requests {
            return Err(format!(
                "{} has {requests} calls of instances since {index}, and {} of the version",
                update.id, epoch.tallies.new.requests
            ));
        }
    }
    Ok(())
}

/// All that is counted of a side.
fn sum(record: &EvidenceRecord, side: impl Fn(&aether_core::evidence::Tallies) -> Side) -> Calls {
    let sides = record.evidence.epochs().values().map(|epoch| side(&epoch.tallies));
    sides.fold((0, 0), |sum, side| (sum.0 + side.requests, sum.1 + side.errors))
}

/// All that callers got of a version, in every process that they ever were.
fn answered(step: &Step<'_>, slice: &SliceName, revision: RevisionNo) -> Calls {
    sum_of(all_served(step, slice, revision).map(|served| &served.all))
}

/// The same of one of its instances.
fn answered_by(
    step: &Step<'_>,
    slice: &SliceName,
    revision: RevisionNo,
    instance: &InstanceId,
) -> Calls {
    let all = all_served(step, slice, revision);
    sum_of(all.filter_map(|served| served.instances.get(instance)))
}

fn all_served<'a>(
    step: &Step<'a>,
    slice: &SliceName,
    revision: RevisionNo,
) -> impl Iterator<Item = &'a Served> {
    let version = (slice.clone(), revision);
    let counted = step.callers.iter().map(|caller| &caller.counted).chain([step.counted]);
    counted.filter_map(move |counted| counted.get(&version).map(|served| &**served))
}

fn sum_of<'a>(tallies: impl Iterator<Item = &'a Tally>) -> Calls {
    tallies.fold((0, 0), |sum, tally| (sum.0 + tally.requests, sum.1 + tally.errors))
}
