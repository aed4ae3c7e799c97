//! Calls are split exactly: over any number of changes of the ratio, the calls
//! of a side deviate by less than one from the sum of its shares. (Design,
//! section 6, "exact split" and "continuity".)

use std::collections::BTreeMap;

use aether_core::coordinates::SliceName;
use aether_core::schedule::Side;

use crate::invoker::Picked;

/// Bits of a part of a call. Every call and change rounds by less than one unit,
/// and a run has far fewer of them than the slack below.
const BITS: u32 = 40;
const SLACK: u64 = 1 << 20;

#[derive(Debug, Default)]
struct Split {
    process: u64,
    calls: u64,
    share: u64,
}

/// How the calls of each caller were split.
#[derive(Debug, Default)]
pub struct Splits(BTreeMap<(usize, SliceName), Split>);

impl Splits {
    /// Counts a pick.
    ///
    /// # Errors
    /// That the split is off by a whole call.
    pub fn picked(
        &mut self,
        caller: usize,
        process: u64,
        slice: &SliceName,
        picked: &Picked,
    ) -> Result<(), String> {
        let split = self.0.entry((caller, slice.clone())).or_default();
        if split.process != process {
            *split = Split { process, ..Split::default() };
        }
        let weights = picked.table.effective_weights().ok_or("a pick without an endpoint")?;
        split.calls += u64::from(picked.side == Side::New);
        split.share += (u64::from(weights.new_side()) << BITS) / u64::from(weights.total());
        let off = (split.calls << BITS).abs_diff(split.share);
        match off < (1 << BITS) + SLACK {
            true => Ok(()),
            false => Err(format!(
                "caller {} made {} calls to the new side of {slice} instead of {}",
                caller + 1,
                split.calls,
                split.share >> BITS
            )),
        }
    }

    /// A caller has no table of a slice any more: the next one begins anew.
    pub fn forget(&mut self, caller: usize, held: impl Fn(&SliceName) -> bool) {
        self.0.retain(|(of, slice), _| *of != caller || held(slice));
    }
}
