//! Messages with routing tables as no node should send them: each is applied
//! whole or not at all, and no call goes where no table says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aether_core::coordinates::SliceName;
use aether_core::table::SliceTable;
use aether_fuzz::proptest::collection::vec;
use aether_fuzz::proptest::prelude::*;
use aether_fuzz::{CASES, Mutation, check, mutations};
use aether_proto::v1;
use prost::Message;

use crate::applier::Applier;
use crate::config::{Config, SessionKind};
use crate::invoker::{Applied, Shared};
use crate::pick::Outcome;

fn table(name: &str, revision: u64, weights: (u32, u32)) -> v1::SliceTable {
    let set = |no, count| v1::VersionSet {
        revision: no,
        version: format!("{no}.0.0"),
        endpoints: (0..count)
            .map(|k| v1::Endpoint {
                instance_id: format!("{name}-{no}-{k}"),
                address: format!("127.0.0.1:{}", 10_000 + no * 10 + k),
            })
            .collect(),
    };
    v1::SliceTable {
        slice: format!("org.example:{name}"),
        table_revision: revision,
        route_revision: revision,
        weight_new: weights.0,
        weight_old: weights.1,
        new: (weights.0 > 0).then(|| set(2, 2)),
        old: Some(set(1, 3)),
        ingress: vec![v1::IngressRule { path: "/".to_owned(), ..Default::default() }],
        hold_ms: 0,
    }
}

/// A message about two slices, of which one may be removed.
fn message() -> impl Strategy<Value = v1::RoutingDown> {
    let weights = prop_oneof![Just((0, 1)), Just((1, 3)), Just((1, 0)), Just((9_999, 10_000))];
    (1u64..3, 0u64..12, any::<bool>(), weights, 0u8..4).prop_map(
        |(incarnation, revision, snapshot, weights, about)| {
            let both = [table("a", revision, weights), table("b", revision, (0, 1))];
            v1::RoutingDown {
                incarnation,
                revision,
                snapshot,
                tables: both.into_iter().take(usize::from(about)).collect(),
                removed: if about == 1 { vec!["org.example:b".to_owned()] } else { Vec::new() },
                lease_ms: 0,
            }
        },
    )
}

fn tables(shared: &Shared) -> BTreeMap<SliceName, Arc<SliceTable>> {
    let states = shared.slice_states();
    states
        .iter()
        .filter_map(|state| Some((SliceName::clone(&state.name), state.plan().table.clone()?)))
        .collect()
}

/// What the tables are after a message that was accepted; the last of two tables
/// of one slice counts.
fn expected(
    mut before: BTreeMap<SliceName, Arc<SliceTable>>,
    message: &v1::RoutingDown,
) -> BTreeMap<SliceName, Arc<SliceTable>> {
    if message.snapshot {
        before.clear();
    }
    for table in &message.tables {
        let table = SliceTable::try_from(table).unwrap();
        before.insert(table.slice.clone(), Arc::new(table));
    }
    if !message.snapshot {
        for name in &message.removed {
            before.remove(&name.parse::<SliceName>().unwrap());
        }
    }
    before
}

/// Every table can be picked by, and gives only what it names.
fn pick_by_all(shared: &Shared) {
    for state in shared.slice_states() {
        let table = state.plan().table.clone();
        let named: BTreeSet<_> = table
            .iter()
            .flat_map(|table| table.new.iter().chain(&table.old))
            .flat_map(|set| &set.endpoints)
            .map(|endpoint| (endpoint.instance.clone(), endpoint.address))
            .collect();
        let splits = table.as_deref().and_then(SliceTable::effective_weights);
        for _ in 0..5 {
            let pick = state.pick();
            // A changed byte may have the table hold its calls.
            let held = table.as_ref().is_some_and(|table| table.hold_ms > 0);
            assert!(held || pick.is_ok() == splits.is_some());
            if let Ok(pick) = pick {
                assert!(named.contains(&(pick.instance().clone(), pick.address())));
                pick.finish(Outcome::Success);
            }
        }
    }
}

#[test]
fn a_message_is_applied_whole_or_not_at_all() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let changes = prop_oneof![1 => Just(Vec::new()), 2 => mutations(3)];
    check(CASES, vec((message(), changes), 1..8), |messages| {
        let node = ([127, 0, 0, 1], 1).into();
        let config = Config::new("test", SessionKind::Invoker, vec![node]);
        let shared = Arc::new(Shared::new(config, "s1".parse().unwrap()));
        let mut applier = Applier::new(Arc::clone(&shared));
        for (message, changes) in messages {
            let mut bytes = message.encode_to_vec();
            changes.iter().for_each(|change: &Mutation| change.apply(&mut bytes));
            let Ok(message) = v1::RoutingDown::decode(&bytes[..]) else { continue };
            let (before, applied) = (tables(&shared), shared.applied());
            let got = Applied { incarnation: message.incarnation, revision: message.revision };
            match runtime.block_on(applier.apply(&message)) {
                Ok(()) if shared.applied() == Some(got) => {
                    assert!(applied.is_none_or(|applied| applied <= got), "never backwards");
                    assert_eq!(tables(&shared), expected(before, &message));
                }
                // Passed over, or refused.
                _ => assert_eq!((tables(&shared), shared.applied()), (before, applied)),
            }
            pick_by_all(&shared);
            assert_eq!(applier.in_flight(), 0);
            assert!(applier.busy().is_empty(), "what left the tables is idle");
            let told = applier.telemetry();
            assert!(told.iter().all(|row| row.errors == 0 && row.requests > 0));
        }
        runtime.block_on(applier.clear());
        assert!(tables(&shared).is_empty());
        pick_by_all(&shared);
    });
}
