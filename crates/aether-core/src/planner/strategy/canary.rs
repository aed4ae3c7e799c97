//! `canary`: step by step, each held until it is shown to be healthy.
//!
//! The steps are the user's own, or with `--auto` the guide's recommended
//! ratios. Everything is that of [`steps`]; what is a canary's alone is that it
//! may begin with only the instances that its weight needs.

use super::{Plan, View, steps};
use crate::records::UpdateRecord;

pub(super) fn serving(view: &View<'_>, update: &UpdateRecord, plan: &mut Plan) {
    steps::serving(view, update, plan);
}
