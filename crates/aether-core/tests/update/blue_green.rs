//! Blue-green: verified at 0 %, one switch, one switch back.

use aether_core::ids::UpdateId;
use aether_core::records::{
    Analysis, BlueGreen, CleanupPolicy, Strategy, UpdateOptions, UpdateState,
};

use crate::world::{World, promote, rollback, start_with};

const MINUTE: u64 = 60_000;

fn switch() -> BlueGreen {
    BlueGreen {
        verify_ms: 30_000,
        auto_promote: true,
        hold_ms: MINUTE,
        analysis: Analysis { warm_up_ms: 0, ..Analysis::default() },
        one_way: false,
        barrier: false,
    }
}

fn begin(switch: BlueGreen) -> (World, UpdateId) {
    let mut world = World::deployed(3);
    let options = UpdateOptions { cleanup: CleanupPolicy::GracePeriod, ..UpdateOptions::default() };
    let id = world.ok(start_with("2.0.0", options, Strategy::BlueGreen(switch))).update.unwrap();
    world.pass(100);
    world.pass(2_000);
    assert_eq!(world.state_of(&id), UpdateState::Deployed);
    (world, id)
}

#[test]
fn the_new_set_is_verified_whole_before_the_one_switch() {
    let (mut world, id) = begin(switch());
    assert_eq!(world.waits(), ["verification"]);
    world.pass(29_000);
    assert_eq!((world.state_of(&id), world.ready("2.0.0")), (UpdateState::Deployed, 3));
    // One that was away for a moment begins the time anew.
    let one = world.instances("2.0.0")[0].clone();
    let reason = aether_core::records::Reason::new("probe_failed", "503");
    use aether_core::records::Observed::Unready;
    world.broken.insert("2.0.0".into(), (Unready, 0, reason));
    world.rounds(1);
    assert!(!world.state.instances[&one].is_routable());
    world.broken.clear();
    world.pass(1_500);
    assert_eq!(world.state_of(&id), UpdateState::Deployed);
    world.pass(30_000);
    assert_eq!(world.state_of(&id), UpdateState::Routing);
    assert_eq!(world.update(&id).weights.to_string(), "1:0");
    // Written down once all have acked it.
    assert_eq!(world.update(&id).progress.as_ref().unwrap().mixed_ms, Some(0));
    world.count(&id, 500, 0, 0);
    world.pass(MINUTE);
    world.settle();
    assert_eq!(world.state_of(&id), UpdateState::Completed);
    assert_eq!((world.ready("2.0.0"), world.ready("1.0.0")), (3, 3), "the old set is kept warm");
}

#[test]
fn how_long_both_versions_served_counts_until_the_last_session_has_switched() {
    let (mut world, id) = begin(switch());
    world.sessions_work = false;
    world.pass(30_000);
    assert_eq!(world.update(&id).weights.to_string(), "1:0");
    world.pass(400);
    assert_eq!(world.update(&id).progress.as_ref().unwrap().mixed_ms, None);
    world.sessions_work = true;
    world.sessions_ack();
    world.round();
    assert_eq!(world.update(&id).progress.as_ref().unwrap().mixed_ms, Some(400));
}

#[test]
fn a_switch_that_is_a_person_s_waits_for_them_and_goes_back_at_once() {
    let (mut world, id) = begin(BlueGreen { auto_promote: false, ..switch() });
    world.pass(25_000);
    assert_eq!(world.waits(), ["verification"], "it is verified before anybody is asked");
    world.pass(10 * MINUTE);
    assert_eq!((world.state_of(&id), world.waits()), (UpdateState::Deployed, vec!["promotion"]));
    world.ok(promote(&id, false, false));
    assert_eq!(world.update(&id).weights.to_string(), "1:0");
    world.rounds(2);
    world.ok(rollback(&id));
    assert_eq!(world.update(&id).weights.to_string(), "0:1", "in the entry of the rollback");
    world.settle();
    assert_eq!(world.state_of(&id), UpdateState::RolledBack);
}
