//! What the planner saw is written down before what it decided.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Tx;
use super::strategy::stale;
use crate::command::{Answer, Command, Outcome, Refusal};
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
        let is_nested = decided.iter().any(|c| matches!(c, Command::RecordInput { .. }));
        if update.state.is_terminal() || is_nested || decided.len() > DECIDED_MAX {
            return Err(stale(&update));
        }
        if !replay::takes_inputs(self.state, id) {
            return Ok(Answer::default());
        }
        let (mut before, mut bytes, mut n) = (BTreeMap::new(), 0, 0);
        for input in self.state.inputs_of(id) {
            replay::fold(&mut before, input);
            bytes += input.bytes();
            n = input.n + 1;
        }
        let (update, index) = (id.clone(), self.index());
        let nothing = InputRecord {
            update,
            n,
            index,
            seen: None,
            rows: BTreeMap::new(),
            decided: Vec::new(),
        };
        let record = match self.rows_that_changed(id, rows_hash, &before)? {
            None => nothing,
            Some(rows) => {
                let (seen, decided) = (Some(seen.clone()), decided.to_vec());
                let record = InputRecord { seen, rows, decided, ..nothing.clone() };
                if bytes + record.bytes() > INPUTS_BYTES_MAX { nothing } else { record }
            }
        };
        self.state.inputs.insert((id.clone(), n), Arc::new(record));
        if n == 0 {
            self.forget_inputs();
        }
        Ok(Answer::default())
    }

    /// What is other than it was; none where that is too much to be written down.
    fn rows_that_changed(
        &self,
        id: &UpdateId,
        rows_hash: &str,
        before: &BTreeMap<String, String>,
    ) -> Result<Option<BTreeMap<String, Option<String>>>, Refusal> {
        let update = self.update(id)?;
        if replay::is_too_large(self.state, &update) {
            return Ok(None);
        }
        let rows = replay::rows_of(self.state, &update);
        if replay::hash_of(&rows) != rows_hash {
            return Err(stale(&update));
        }
        let gone = before.keys().filter(|key| !rows.contains_key(*key));
        let gone: Vec<_> = gone.map(|key| (key.clone(), None)).collect();
        let changed = rows.into_iter().filter(|(key, row)| before.get(key) != Some(row));
        Ok(Some(changed.map(|(key, row)| (key, Some(row))).chain(gone).collect()))
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
