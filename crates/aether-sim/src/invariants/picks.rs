//! No call begins by a table that its caller has replaced. (Design, section 6,
//! drain accounting.)

use aether_core::coordinates::SliceName;

use crate::invoker::{Invoker, Picked};

/// Looks at a call that begins.
///
/// # Errors
/// That its table is not the newest that the caller holds.
pub fn picks_by_newest(caller: &Invoker, slice: &SliceName, picked: &Picked) -> Result<(), String> {
    let held = caller.held.get(slice).map(|held| held.table.table_revision);
    let by = picked.table.table_revision;
    match held == Some(by) {
        true => Ok(()),
        false => Err(format!("{} picks by {by} and holds {held:?}", caller.session)),
    }
}
