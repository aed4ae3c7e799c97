//! What to do with the instances of this node, given what is wanted of it and
//! what it has. Pure: no clock, no files, no processes.

use std::collections::BTreeMap;

use aether_core::ids::InstanceId;
use aether_core::records::Desired;

/// What is known of an instance that exists here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    /// What it was told last.
    pub told: Desired,
    /// It and everything it started is gone.
    pub stopped: bool,
}

/// One step towards the desired set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// An assigned instance that does not exist here yet.
    Create(InstanceId, Desired),
    /// An instance is to do something else.
    Tell(InstanceId, Desired),
    /// A stopped instance that nobody asks for: its files go.
    Forget(InstanceId),
}

/// The steps from what is to what is wanted, in the order of the ids. `wanted`
/// is the last accepted complete set. Without one there is nothing to decide:
/// nobody said that what runs here should not.
///
/// An instance that is not named is an orphan: it is stopped, then forgotten.
/// A stopped instance never runs again: its id stands for one life.
pub(crate) fn decide(
    wanted: &BTreeMap<InstanceId, Desired>,
    known: &BTreeMap<InstanceId, Known>,
) -> Vec<Action> {
    let mut actions = Vec::new();
    for (id, desired) in wanted {
        match known.get(id) {
            None => actions.push(Action::Create(id.clone(), *desired)),
            Some(known) if known.stopped || known.told == *desired => {}
            Some(_) => actions.push(Action::Tell(id.clone(), *desired)),
        }
    }
    for (id, known) in known.iter().filter(|(id, _)| !wanted.contains_key(id)) {
        if known.stopped {
            actions.push(Action::Forget(id.clone()));
        } else if known.told != Desired::Stop {
            actions.push(Action::Tell(id.clone(), Desired::Stop));
        }
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> InstanceId {
        text.parse().unwrap()
    }

    fn known(list: &[(&str, Desired, bool)]) -> BTreeMap<InstanceId, Known> {
        list.iter()
            .map(|(name, told, stopped)| (id(name), Known { told: *told, stopped: *stopped }))
            .collect()
    }

    #[test]
    fn each_difference_gives_one_action_and_none_when_all_is_well() {
        use Desired::{Drain, Run, Stop};
        let cases = [
            (vec![("a", Run)], vec![], vec![Action::Create(id("a"), Run)]),
            (vec![("a", Stop)], vec![], vec![Action::Create(id("a"), Stop)]),
            (vec![("a", Run)], vec![("a", Run, false)], vec![]),
            (vec![("a", Drain)], vec![("a", Run, false)], vec![Action::Tell(id("a"), Drain)]),
            (vec![("a", Run)], vec![("a", Drain, false)], vec![Action::Tell(id("a"), Run)]),
            (vec![("a", Run)], vec![("a", Stop, true)], vec![]),
            (vec![("a", Stop)], vec![("a", Stop, true)], vec![]),
            (vec![], vec![("a", Run, false)], vec![Action::Tell(id("a"), Stop)]),
            (vec![], vec![("a", Stop, false)], vec![]),
            (vec![], vec![("a", Stop, true)], vec![Action::Forget(id("a"))]),
        ];
        for (wanted, has, expected) in cases {
            let wanted = wanted.iter().map(|(name, desired)| (id(name), *desired)).collect();
            assert_eq!(decide(&wanted, &known(&has)), expected, "{wanted:?} {has:?}");
        }
    }
}
