//! `recreate`: all instances are stopped, then all are started.
//!
//! One batch of all of them with a floor of none, so that nothing serves in
//! between. It has to be asked for by name.

use super::{Plan, View, steps};
use crate::records::UpdateRecord;

pub(super) fn serving(view: &View<'_>, update: &UpdateRecord, plan: &mut Plan) {
    steps::serving(view, update, plan);
}
