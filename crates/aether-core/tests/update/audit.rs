//! Audit records, and rows as they are listed.

use aether_core::apply::AUDIT_MAX;
use aether_core::audit::{AuditPosition, SubjectFilter};
use aether_core::command::Command;
use aether_core::records::{CleanupPolicy, UpdateOptions};
use aether_core::state::State;

use crate::world::{SLICE, World, start};

#[test]
fn an_entry_with_several_records_keeps_them_all_and_in_order() {
    let mut world = World::deployed(2);
    let instances: Vec<_> = world.state.instances.keys().cloned().collect();
    world.ok(Command::Undeploy { slice: SLICE.parse().unwrap(), version: None });
    let waived = Some("a call is in flight".to_owned());
    world.ok(Command::Stop { instances: instances.clone(), waived });
    let index = world.state.meta.index;
    let of_entry = |index| AuditPosition::new(index, 0)..=AuditPosition::end_of(index);
    let written: Vec<_> = world.state.audit.range(of_entry(index)).map(|(p, r)| (*p, r)).collect();
    assert_eq!(written.len(), 2);
    for (n, ((position, record), id)) in written.iter().zip(&instances).enumerate() {
        assert_eq!(
            (*position, record.position()),
            (AuditPosition::new(index, n as u32), *position)
        );
        let filter: SubjectFilter = format!("instance/{id}").parse().unwrap();
        assert!(filter.takes(&record.subject), "{record:?}");
        assert_eq!(record.event, "stopped although a call is in flight");
    }
    let keys: Vec<_> = world.state.page("audit/", "", 10_000, usize::MAX).rows;
    let last: Vec<_> = keys.iter().rev().take(2).map(|(key, _)| key.as_str()).collect();
    assert_eq!(last, [format!("audit/{index:020}/1"), format!("audit/{index:020}")]);

    let copy = State::from_rows(world.state.rows().into_iter()).unwrap();
    assert!(State::diff(&world.state, &copy).is_empty());
    assert_eq!(copy.audit.len(), world.state.audit.len());
}

#[test]
fn rows_of_earlier_versions_decode_and_stay_as_they_are() {
    let key = "audit/00000000000000000012";
    let value = r#"{"index":12,"logTimeMs":5,"wallMs":6,"actor":"me","subject":"update u1f","event":"started"}"#;
    let rows = [(key.to_owned(), value.as_bytes().to_vec())];
    let state = State::from_rows(rows.into_iter()).unwrap();
    let record = state.audit.get(&AuditPosition::new(12, 0)).unwrap();
    assert!("update/u1f".parse::<SubjectFilter>().unwrap().takes(&record.subject));
    assert_eq!(state.row(key).unwrap(), value.as_bytes(), "the same row, the same hash");
    let meta = String::from_utf8(state.row("meta/cluster").unwrap()).unwrap();
    assert!(!meta.contains("auditForgotten"), "{meta}");
}

#[test]
fn the_oldest_records_go_and_the_last_of_them_is_remembered() {
    let mut world = World::deployed(1);
    let (first, _) = world.state.audit.get_min().unwrap().clone();
    assert_eq!(world.state.meta.audit_forgotten, None);
    let scale = |instances| Command::Scale { slice: SLICE.parse().unwrap(), instances };
    let written = world.state.audit.len();
    for k in written..=AUDIT_MAX {
        world.ok(scale(1 + (k % 2) as u32));
    }
    assert_eq!(world.state.audit.len(), AUDIT_MAX);
    assert_eq!(world.state.meta.audit_forgotten, Some(first), "one more than there is room for");
    let (oldest, _) = world.state.audit.get_min().unwrap();
    assert!(*oldest > first);
}

#[test]
fn an_update_is_found_by_its_subject_from_its_start_to_its_end() {
    let mut world = World::deployed(1);
    let options = UpdateOptions { cleanup: CleanupPolicy::Immediate, ..UpdateOptions::default() };
    let update = world.ok(start("2.0.0", None, options)).update.unwrap();
    world.settle();
    world.ok(crate::world::rollback(&update));
    world.settle();
    let filter: SubjectFilter = format!("update/{update}").parse().unwrap();
    let told: Vec<_> =
        world.state.audit.values().filter(|r| filter.takes(&r.subject)).map(|r| r.index).collect();
    let history: Vec<_> = world.state.updates[&update].history.iter().map(|h| h.index).collect();
    assert_eq!(told, history, "each change of an update is one record");
}

#[test]
fn pages_give_every_row_once_and_in_order_whatever_their_size() {
    let mut world = World::deployed(3);
    world.ok(start("2.0.0", None, UpdateOptions::default()));
    world.settle();
    let rows = world.state.rows();
    for prefix in
        ["", "a", "audit/", "instances/", "nodes/n", "session/s1", "slice", "meta", "none"]
    {
        let wanted: Vec<_> = rows.iter().filter(|(key, _)| key.starts_with(prefix)).collect();
        for (limit, bytes_max) in [(1, usize::MAX), (3, usize::MAX), (1_000, 1), (1_000, 700)] {
            let (mut listed, mut after) = (Vec::new(), String::new());
            loop {
                let page = world.state.page(prefix, &after, limit, bytes_max);
                assert!(page.rows.len() <= limit);
                assert!(page.is_last || !page.rows.is_empty(), "each page goes on");
                listed.extend(page.rows);
                if page.is_last {
                    break;
                }
                after = listed.last().unwrap().0.clone();
            }
            assert!(listed.iter().eq(wanted.iter().copied()), "{prefix} by {limit}, {bytes_max}");
        }
    }
}
