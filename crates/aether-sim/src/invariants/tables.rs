//! Whatever changes a routing table moves its revision, an instance that leaves
//! it knows when it did, and what callers hold is what the log said. (Design,
//! section 2, "table revision": "the highest log index that touched a slice's
//! route or endpoints".) The removal fence is built on these numbers.

use std::collections::{BTreeMap, BTreeSet};

use aether_core::coordinates::SliceName;
use aether_core::ids::InstanceId;
use aether_core::state::State;
use aether_core::table::SliceTable;

use super::Step;
use crate::invoker::Invoker;

/// Every table there was, by slice and by the log index from which on it held.
#[derive(Debug, Default)]
pub struct Tables(BTreeMap<SliceName, Vec<(u64, Option<SliceTable>)>>);

fn instances(table: Option<&SliceTable>) -> BTreeSet<&InstanceId> {
    let sides = table.into_iter().flat_map(|table| [&table.new, &table.old]).flatten();
    sides.flat_map(|set| set.endpoints.iter().map(|e| &e.instance)).collect()
}

impl Tables {
    pub(super) fn check(&mut self, step: &Step<'_>) -> Result<(), String> {
        let (before, after) = (step.before, step.after);
        if before.routes.ptr_eq(&after.routes) && before.instances.ptr_eq(&after.instances) {
            return Ok(());
        }
        let names: BTreeSet<&SliceName> = before.routes.keys().chain(after.routes.keys()).collect();
        for name in names {
            let was = before.slice_table(name);
            let is = after.slice_table(name);
            if was == is {
                continue;
            }
            moved(after, was.as_ref(), is.as_ref())?;
            self.0.entry(name.clone()).or_default().push((after.meta.index, is));
        }
        Ok(())
    }

    /// Looks whether what a caller holds is what the log had at the index up to
    /// which it says that it has applied.
    ///
    /// # Errors
    /// The first slice of which it holds something else.
    pub fn held_by(&self, caller: &Invoker) -> Result<(), String> {
        let Some(applied) = caller.applied else { return Ok(()) };
        for (name, all) in &self.0 {
            let held = caller.held.get(name).map(|held| &*held.table);
            let at = all.partition_point(|(index, _)| *index <= applied);
            let said = at.checked_sub(1).and_then(|at| all[at].1.as_ref());
            if held != said {
                let session = &caller.session;
                return Err(format!("{session} at {applied} has another table of {name}"));
            }
        }
        Ok(())
    }
}

fn moved(after: &State, was: Option<&SliceTable>, is: Option<&SliceTable>) -> Result<(), String> {
    let index = after.meta.index;
    for id in instances(was).difference(&instances(is)) {
        if let Some(record) = after.instances.get(*id)
            && record.left_table != index
        {
            return Err(format!("{id} left the tables at {index} and does not know it"));
        }
    }
    match is {
        Some(table) if table.table_revision != index => {
            let (slice, at) = (&table.slice, table.table_revision);
            Err(format!("the table of {slice} changed at {index} and says {at}"))
        }
        _ => Ok(()),
    }
}
