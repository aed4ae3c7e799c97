//! What the planner saw is written down before what it decided.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Tx;
use super::strategy::stale;
use crate::command::{Answer, Command, Outcome};
use crate::ids::UpdateId;
use crate::records::{INPUTS_BYTES_MAX, INPUTS_UPDATES_MAX, InputRecord, Seen};
use crate::replay;

/// Most commands of one look: a plan for a slice stops at its first, which for
/// removals is one for each node.
const DECIDED_MAX: usize = 256;

impl Tx<'_> {
    /// Refused as stale where the state is not the one that was seen: then nobody
    /// knows from what it was decided.
    pub(super) fn record_input(
        &mut self,
        id: &UpdateId,
        rows_hash: &str,
        seen: &Seen,
        decided: &[Command],
    ) -> Outcome {
        let update = self.update(id)?;
        let rows = replay::rows_of(self.state, &update);
        let is_nested = decided.iter().any(|c| matches!(c, Command::RecordInput { .. }));
        let is_right = replay::hash_of(&rows) == rows_hash && !is_nested;
        if update.state.is_terminal() || !is_right || decided.len() > DECIDED_MAX {
            return Err(stale(&update));
        }
        let (mut before, mut bytes, mut n) = (BTreeMap::new(), 0, 0);
        for input in self.state.inputs_of(id) {
            if input.seen.is_none() {
                return Ok(Answer::default());
            }
            replay::fold(&mut before, input);
            bytes += input.bytes();
            n = input.n + 1;
        }
        let gone = before.keys().filter(|key| !rows.contains_key(*key));
        let gone = gone.map(|key| (key.clone(), None)).collect::<Vec<_>>();
        let changed = rows.into_iter().filter(|(key, row)| before.get(key) != Some(row));
        let record = InputRecord {
            update: id.clone(),
            n,
            index: self.index(),
            seen: Some(seen.clone()),
            rows: changed.map(|(key, row)| (key, Some(row))).chain(gone).collect(),
            decided: decided.to_vec(),
        };
        let record = match bytes + record.bytes() > INPUTS_BYTES_MAX {
            false => record,
            true => {
                InputRecord { seen: None, rows: BTreeMap::new(), decided: Vec::new(), ..record }
            }
        };
        self.state.inputs.insert((id.clone(), n), Arc::new(record));
        if n == 0 {
            self.forget_inputs();
        }
        Ok(Answer::default())
    }

    /// Lets go of the inputs of all but the latest updates.
    fn forget_inputs(&mut self) {
        let first = |n: &u32| *n == 0;
        let with = self.state.inputs.iter().filter(|((_, n), _)| first(n));
        let mut with: Vec<(u64, UpdateId)> =
            with.map(|((id, _), input)| (input.index, id.clone())).collect();
        with.sort_unstable();
        for (_, id) in with.iter().rev().skip(INPUTS_UPDATES_MAX) {
            self.drop_inputs(id);
        }
    }

    /// Lets go of the inputs of an update.
    pub(super) fn drop_inputs(&mut self, id: &UpdateId) {
        let numbers: Vec<u32> = self.state.inputs_of(id).map(|input| input.n).collect();
        for n in numbers {
            self.state.inputs.remove(&(id.clone(), n));
        }
    }
}
