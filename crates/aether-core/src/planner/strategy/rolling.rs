//! `rolling`: instances are replaced where they are, batch by batch.
//!
//! A batch is a step: it is entered, which gives its instances calls, once they
//! are ready, and left when it was shown to be healthy, or has served for as long
//! as batches are staggered.

use super::{Plan, View, steps};
use crate::records::UpdateRecord;

pub(super) fn serving(view: &View<'_>, update: &UpdateRecord, plan: &mut Plan) {
    steps::serving(view, update, plan);
}
