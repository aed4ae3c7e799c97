//! Instances stay where they are, and their processes read the files of another
//! revision: who is told to, and as what each of them is called meanwhile.
//!
//! An instance that is told to reload goes on to take calls with those it was with.
//! Once its agent has said that it is done, the entry that admits its batch moves it to
//! the others, together with the ratio. So nothing is missing at any time by our doing.

use std::collections::BTreeSet;

use super::Tx;
use super::strategy::bad;
use crate::command::{Observation, Refusal};
use crate::coordinates::{SliceName, Version};
use crate::ids::{ConfigNo, InstanceId, RevisionNo};
use crate::level::since;
use crate::records::{
    Configuration, Desired, InstanceRecord, Reason, Reload, Remake, RevisionRecord, Rolling, Share,
    UpdateRecord, UpdateState,
};

/// Names of files or variables that a refusal has; the rest is counted.
const NAMED_MAX: usize = 5;

/// Whether the bounds of a rolling strategy are some for a reload.
pub(super) fn check_bounds(rolling: &Rolling, wanted: u32) -> Result<(), Refusal> {
    if !rolling.reload {
        return Ok(());
    }
    if !matches!(rolling.max_surge, Share::Count { n: 0 } | Share::Percent { n: 0 }) {
        let expected = "0: no instance is started";
        bad("max surge of a reload", rolling.max_surge.to_string(), expected)?;
    }
    if rolling.max_unavailable.down(wanted) == 0 {
        let expected = format!("at least one of {wanted} instances: each may fail to reload");
        bad("max unavailable of a reload", rolling.max_unavailable.to_string(), &expected)?;
    }
    Ok(())
}

fn listed(names: &BTreeSet<&str>) -> String {
    let mut said: Vec<String> =
        names.iter().take(NAMED_MAX).map(|name| name.chars().take(80).collect()).collect();
    if names.len() > NAMED_MAX {
        said.push(format!("{} more", names.len() - NAMED_MAX));
    }
    said.join(", ")
}

/// What keeps a running process from going from one configuration to another, if
/// anything does. Files that the manifest lists are always there, whoever they are of.
fn difference(old: &Configuration, new: &Configuration, listed_files: &[String]) -> Option<String> {
    let differs = |name: &&str| old.env.get(*name) != new.env.get(*name);
    let names = old.env.keys().chain(new.env.keys()).map(String::as_str);
    let env: BTreeSet<&str> = names.filter(differs).collect();
    if !env.is_empty() {
        return Some(format!(
            "the environment of a process stays what it was, and {} would differ",
            listed(&env)
        ));
    }
    let one_sided = |path: &&str| old.files.contains_key(*path) != new.files.contains_key(*path);
    let is_extra = |path: &&str| !listed_files.iter().any(|listed| listed == path);
    let paths = old.files.keys().chain(new.files.keys()).map(String::as_str);
    let files: BTreeSet<&str> = paths.filter(one_sided).filter(is_extra).collect();
    (!files.is_empty()).then(|| {
        format!(
            "it neither adds nor takes away files that run.config_files does not list: {}",
            listed(&files)
        )
    })
}

impl Tx<'_> {
    /// Whether running instances can go to this revision by a reload.
    pub(super) fn check_reload(
        &self,
        slice: &SliceName,
        version: &Version,
        current: Option<&RevisionRecord>,
        config: Option<ConfigNo>,
        remake: Remake,
    ) -> Result<(), Refusal> {
        let problem = match current {
            None => Some("nothing of it is deployed".to_owned()),
            Some(current) if current.version != *version => {
                Some(format!("it keeps the version, and {} runs, not {version}", current.version))
            }
            Some(_) if remake.restart => Some("a restart replaces the instances".to_owned()),
            Some(current) if current.manifest.run.reload_signal.is_none() => {
                Some(format!("the manifest of {version} names no run.reload_signal"))
            }
            Some(current) => {
                let content = |no: Option<ConfigNo>| {
                    let known = self.state.config_revisions.get(&(slice.clone(), no?));
                    known.map(|known| (*known.content).clone())
                };
                let [old, new] = [current.config, config].map(|no| content(no).unwrap_or_default());
                difference(&old, &new, &current.manifest.run.config_files)
            }
        };
        match problem {
            Some(problem) => Err(Refusal::CannotReload { slice: slice.clone(), problem }),
            None => Ok(()),
        }
    }

    /// Has so many instances of one revision go to the other by a reload, those that do
    /// not serve first. Until somebody admits them, they are called as before, or as of
    /// the old version where they go back to it. As many as `kept` stay: where fewer run
    /// than are wanted, those that are missing come up as what they are to be.
    pub(super) fn reload(
        &mut self,
        update: &UpdateRecord,
        from: RevisionNo,
        to: RevisionNo,
        count: u32,
        kept: u32,
    ) {
        let Some(old) = &update.old else { return };
        let runs = |i: &&std::sync::Arc<InstanceRecord>| {
            i.revision == from && i.desired == Desired::Run && !i.has_ended()
        };
        let mut all: Vec<_> = self.state.instances_of(&update.slice).filter(runs).collect();
        all.sort_by_key(|i| (i.is_updated(), self.state.is_draining(&i.node), i.id.clone()));
        let most = all.len().saturating_sub(kept as usize).min(count as usize);
        let chosen: Vec<InstanceRecord> =
            all.into_iter().take(most).map(|i| (**i).clone()).collect();
        for record in chosen {
            let (at, restarts) = (self.index(), record.restarts);
            let (called_as, served) = (old.revision, record.is_routable());
            let reload = Reload { at, called_as, done: false, restarts, served };
            let (revision, fence) = (to, self.fence());
            // That it could not reload before says nothing of this time.
            let failed = |reason: &Reason| reason.code == Reason::RELOAD_FAILED;
            let reason = record.reason.clone().filter(|reason| !failed(reason));
            let reload = Some(reload);
            self.put_instance(InstanceRecord { revision, fence, reload, reason, ..record });
        }
    }

    /// Instances that have reloaded are called as what they are from now on.
    pub(super) fn admit_reloaded(&mut self, update: &UpdateRecord) {
        let of_new = |i: &InstanceRecord| i.revision == update.new.revision && i.has_reloaded();
        self.call_as_they_are(&update.slice, of_new);
    }

    /// An update ends: nobody is called as anything else.
    pub(super) fn end_reloads(&mut self, slice: &SliceName) {
        self.call_as_they_are(slice, |_| true);
    }

    /// An update that completes is not waited for by those who have not reloaded, because
    /// somebody forced it: others are started in their place, which begin with its files.
    pub(super) fn replace_late(&mut self, update: &UpdateRecord) {
        if self.state.meta.feature_level < since::RELOADED_ONLY {
            return;
        }
        let is_late = |i: &InstanceRecord| {
            i.revision == update.new.revision && i.desired == Desired::Run && !i.has_reloaded()
        };
        let late = self.state.instances_of(&update.slice).filter(|i| is_late(i));
        let late: Vec<InstanceId> = late.map(|i| i.id.clone()).collect();
        late.iter().for_each(|id| self.decide(id, Desired::Drain));
    }

    fn call_as_they_are(&mut self, slice: &SliceName, whom: impl Fn(&InstanceRecord) -> bool) {
        let is_other = |i: &InstanceRecord| i.called_as() != i.revision && whom(i);
        let others = self.state.instances_of(slice).filter(|i| is_other(i));
        let others: Vec<InstanceId> = others.map(|i| i.id.clone()).collect();
        for id in others {
            let Some(record) = self.state.instances.get(&id).cloned() else { continue };
            let called_as = record.revision;
            let reload = record.reload.clone().map(|reload| Reload { called_as, ..reload });
            self.put_instance(InstanceRecord { reload, ..(*record).clone() });
        }
    }

    /// What an agent says of the reload that an instance is in: the record of it and,
    /// if it is done now, log time.
    pub(super) fn reloaded(
        &self,
        record: &InstanceRecord,
        seen: &Observation,
    ) -> (Option<Reload>, Option<u64>) {
        if !seen.ends_reload(record) {
            return (record.reload.clone(), None);
        }
        let late = self.is_admitted_late(record);
        let done = |reload: &Reload| Reload {
            done: true,
            called_as: if late { record.revision } else { reload.called_as },
            ..reload.clone()
        };
        (record.reload.as_ref().map(done), Some(self.now_ms()))
    }

    /// Whether the batch of an instance was entered without it, as one of those that
    /// may fail.
    fn is_admitted_late(&self, record: &InstanceRecord) -> bool {
        let Some(update) = self.state.live_update(&record.slice) else { return true };
        let serves = matches!(update.state, UpdateState::Routing | UpdateState::Completing);
        let Some(way) = update.way().filter(|_| serves && update.step() > 0) else {
            return false;
        };
        let goal = way.goal(update.step(), update.base_instances) as usize;
        let is_admitted = |i: &&std::sync::Arc<InstanceRecord>| {
            let new = update.new.revision;
            i.revision == new && i.called_as() == new && i.desired == Desired::Run
        };
        record.revision == update.new.revision
            && self.state.instances_of(&record.slice).filter(is_admitted).count() < goal
    }
}
