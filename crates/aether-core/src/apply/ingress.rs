//! Which slice has which ingress rule: the one that asked for it first.

use std::sync::Arc;

use super::Tx;
use crate::coordinates::SliceName;
use crate::manifest::IngressRule;
use crate::records::RouteRecord;
use crate::table::IngressClaim;

impl Tx<'_> {
    /// The rules of a route: what the slice had asked for before, it keeps.
    pub(super) fn claims(&self, route: &RouteRecord) -> Vec<IngressClaim> {
        let before = self.state.routes.get(&route.slice);
        let revision = route
            .serving()
            .and_then(|side| self.state.revisions.get(&(route.slice.clone(), side.revision)));
        let rules = revision.iter().flat_map(|revision| &revision.manifest.ingress);
        rules
            .map(|rule| {
                let known = before.and_then(|route| claimed_since(route, rule));
                IngressClaim { rule: rule.clone(), since: known.unwrap_or(self.index()) }
            })
            .collect()
    }

    /// Says which of these rules stay with another slice, which asked for them
    /// first; `None` if there are none.
    pub(super) fn rules_of_others(
        &self,
        slice: &SliceName,
        rules: &[IngressRule],
    ) -> Option<String> {
        let stays = |rule: &IngressRule| {
            let claims = self.state.routes.iter().filter_map(|(name, route)| {
                let since = claimed_since(route, rule)?;
                Some((since, name))
            });
            let (_, owner) = claims.min()?;
            (owner != slice).then(|| format!("'{rule}' stays with {owner}"))
        };
        let rules: Vec<String> = rules.iter().filter_map(stays).collect();
        (!rules.is_empty()).then(|| {
            format!("at the ingress {}: it asked first, and keeps its requests", rules.join(", "))
        })
    }
}

fn claimed_since(route: &Arc<RouteRecord>, rule: &IngressRule) -> Option<u64> {
    route.ingress.iter().find(|claim| claim.rule == *rule).map(|claim| claim.since)
}
