//! A call that provably reached no instance fails only when there is nobody left who
//! may get it: each endpoint of its own version comes before any of the other one,
//! none gets it twice, and a side without a weight not at all. (Design, section 6,
//! "Failures".)

use aether_core::ids::InstanceId;
use aether_core::schedule::Side;
use aether_core::table::SliceTable;

use crate::invoker::{ATTEMPTS_MAX, Picked};

/// Looks at what comes after `tried` did not get a call: another attempt, or the end
/// of it. The last attempt was on `side`.
///
/// # Errors
/// That somebody was left out, or asked who must not be.
pub fn retried(
    table: Option<&SliceTable>,
    side: Side,
    tried: &[InstanceId],
    other: Option<&Picked>,
) -> Result<(), String> {
    let left = |side| table.map_or_else(Vec::new, |table| untried(table, side, tried));
    let (own, others) = (left(side), left(side.other()));
    match other {
        Some(picked) if own.contains(&&picked.instance) => Ok(()),
        Some(picked) if own.is_empty() && others.contains(&&picked.instance) => Ok(()),
        Some(picked) => Err(format!(
            "a call that did not reach {tried:?} goes to {}; {own:?} of its version and {others:?} \
             of the other one are left",
            picked.instance
        )),
        None if tried.len() >= ATTEMPTS_MAX || (own.is_empty() && others.is_empty()) => Ok(()),
        None => Err(format!(
            "a call fails that reached none of {tried:?}, though {own:?} of its version and \
             {others:?} of the other one are left"
        )),
    }
}

/// Endpoints of a side that may get a call and have not been asked.
fn untried<'a>(table: &'a SliceTable, side: Side, tried: &[InstanceId]) -> Vec<&'a InstanceId> {
    let weights = table.effective_weights();
    let (weight, set) = match side {
        Side::New => (weights.map(|weights| weights.new_side()), &table.new),
        Side::Old => (weights.map(|weights| weights.old_side()), &table.old),
    };
    let endpoints = set.iter().flat_map(|set| &set.endpoints).map(|endpoint| &endpoint.instance);
    let takes_calls = weight.is_some_and(|weight| weight > 0);
    endpoints.filter(|instance| takes_calls && !tried.contains(*instance)).collect()
}
