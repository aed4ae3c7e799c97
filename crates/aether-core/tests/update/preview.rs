//! What `plan` says comes true: it is the update itself, on a copy.

use std::sync::Arc;

use aether_core::command::{Command, Refusal, Request};
use aether_core::coordinates::SliceName;
use aether_core::diff::{self, Change, Whole};
use aether_core::manifest::Manifest;
use aether_core::preview::{Preview, preview};
use aether_core::records::{
    Analysis, BlueGreen, Canary, CleanupPolicy, Colour, NodeSchedule, Recreate, RevisionRecord,
    Strategy, UpdateOptions, UpdateState as S,
};

use crate::world::{
    SLICE, World, canary, complete, in_batches, register, routing, start, start_with,
};

fn plan(world: &World, command: Command) -> Preview {
    let request = Request { request_id: None, actor: "alice".to_owned(), command };
    let before = world.state.rows();
    let preview = preview(&world.state, &request, world.now_ms).unwrap();
    assert_eq!(world.state.rows(), before, "looking changes nothing");
    preview
}

fn schedule(preview: &Preview) -> String {
    let step = |s: &aether_core::preview::Step| {
        let who = if s.by_person { "you" } else { "cluster" };
        format!("+{} {} {} {who} {} | {}\n", s.after_ms, s.state, s.weights, s.instances, s.event)
    };
    preview.steps.iter().map(step).collect()
}

#[test]
fn the_schedule_of_the_guide_s_walk() {
    let world = World::deployed(3);
    let preview = plan(&world, start("2.0.0", None, UpdateOptions::default()));
    assert_eq!(preview.refusal, None);
    assert_eq!(
        schedule(&preview),
        "+0 PENDING 0:1 you 3 | started: org.example:my-slice from 1.0.0 to 2.0.0, 3 instances\n\
         +0 DEPLOYING 0:1 cluster 6 | deploying 3 instances\n\
         +1000 DEPLOYED 0:1 cluster 6 | 3 instances are ready\n\
         +1000 ROUTING 1:9 you 6 | routing 0:1 -> 1:9\n\
         +1000 ROUTING 1:3 you 6 | routing 1:9 -> 1:3\n\
         +1000 ROUTING 1:1 you 6 | routing 1:3 -> 1:1\n\
         +1000 ROUTING 3:1 you 6 | routing 1:1 -> 3:1\n\
         +1000 ROUTING 1:0 you 6 | routing 3:1 -> 1:0\n\
         +1000 COMPLETING 1:0 you 6 | completing\n\
         +1000 COMPLETING 1:0 cluster 6 | removing the instances of 1.0.0\n\
         +1000 COMPLETED 1:0 cluster 3 | 2.0.0 is the current version\n"
    );
    let counts = (preview.instances_before, preview.instances_peak, preview.instances_after);
    assert_eq!(counts, (3, 6, 3));
    let loads: Vec<_> = preview.nodes.iter().map(|n| (n.before, n.peak, n.after)).collect();
    assert_eq!(loads, [(1, 2, 1); 3]);
    assert_eq!((preview.least_ms, preview.stuck), (1_000, None));
}

#[test]
fn the_schedule_of_each_strategy() {
    let world = World::deployed(4);
    let planned = |strategy| {
        let preview = plan(&world, start_with("2.0.0", UpdateOptions::default(), strategy));
        assert_eq!((&preview.refusal, &preview.stuck), (&None, &None));
        let counts = (preview.instances_before, preview.instances_peak, preview.instances_after);
        (schedule(&preview), counts, preview.least_ms)
    };
    // A step by evidence may be over at once; the others hold for their time.
    let steps = "1:9, 1:3 evidence, 1:1 pause, 1:0 30s";
    let (steps, counts, least_ms) = planned(Strategy::Canary(canary(steps)));
    assert_eq!((counts, least_ms), ((4, 8, 4), 91_000));
    for step in [
        "+1000 ROUTING 1:9 cluster 8 | step 1 of 4: routing 0:1 -> 1:9",
        "+61000 ROUTING 1:3 cluster 8 | step 2 of 4: routing 1:9 -> 1:3",
        "+61000 ROUTING 1:1 cluster 8 | step 3 of 4: routing 1:3 -> 1:1",
        "+61000 ROUTING 1:0 you 8 | promoted to step 4 of 4: routing 1:1 -> 1:0",
        "+91000 COMPLETED 1:0 cluster 4 | 2.0.0 is the current version",
    ] {
        assert!(steps.contains(step), "{step} in\n{steps}");
    }
    let grows = Canary { scale_with_weight: true, ..canary("1:3 0s, 1:0 0s") };
    let (steps, counts, _) = planned(Strategy::Canary(grows));
    assert_eq!(counts, (4, 8, 4), "{steps}");
    assert!(steps.contains("2.0.0 grows to 4 instances"), "{steps}");
    let switch = BlueGreen {
        barrier: true,
        verify_ms: 30_000,
        auto_promote: true,
        hold_ms: 60_000,
        analysis: Analysis::default(),
        one_way: false,
    };
    let (steps, counts, least_ms) = planned(Strategy::BlueGreen(switch));
    assert_eq!((counts, least_ms), ((4, 8, 4), 91_000), "{steps}");
    for step in [
        "+31000 DEPLOYED 0:1 cluster 8 | every session is to hold new calls for the switch",
        "+31000 ROUTING 1:0 cluster 8 | every session holds its calls: step 1 of 1: routing 0:1 -> 1:0",
    ] {
        assert!(steps.contains(step), "{step} in\n{steps}");
    }
    let (steps, counts, _) = planned(Strategy::Rolling(in_batches("2", "2", "0")));
    assert_eq!(counts, (4, 4, 4), "no more than there were\n{steps}");
    let (steps, counts, _) = planned(Strategy::Rolling(in_batches("1", "0", "1")));
    assert_eq!(counts, (4, 5, 4), "{steps}");
    let recreate = Recreate { analysis: Analysis::default() };
    let (steps, counts, _) = planned(Strategy::Recreate(recreate));
    assert_eq!(counts, (4, 4, 4), "{steps}");
    assert!(steps.contains(" 0 | "), "for a while there is none\n{steps}");
}

#[test]
fn what_was_planned_is_what_happens() {
    let mut world = World::deployed(3);
    let planned = plan(&world, start("2.0.0", None, UpdateOptions::default()));
    let id = world.start("2.0.0", UpdateOptions::default());
    world.settle();
    for ratio in ["1:9", "1:3", "1:1", "3:1", "1:0"] {
        world.ok(routing(&id, ratio));
    }
    world.ok(complete(&id));
    world.settle();
    let happened: Vec<_> = world
        .update(&id)
        .history
        .iter()
        .map(|entry| (entry.state, entry.weights, entry.event.clone()))
        .collect();
    let planned: Vec<_> =
        planned.steps.into_iter().map(|step| (step.state, step.weights, step.event)).collect();
    assert_eq!(planned, happened);
}

#[test]
fn a_kept_set_is_named_and_counted_and_a_small_new_side_is_told_its_ratios() {
    let mut world = World::deployed(3);
    let options = UpdateOptions { cleanup: CleanupPolicy::Manual, ..UpdateOptions::default() };
    let id = world.start("2.0.0", options);
    world.settle();
    world.ok(routing(&id, "1:0"));
    world.ok(complete(&id));
    world.settle();
    let preview = plan(&world, start("3.0.0", Some(1), UpdateOptions::default()));
    assert_eq!(preview.retires.as_ref().unwrap().version.as_str(), "1.0.0");
    assert_eq!((preview.instances_before, preview.instances_after), (6, 1));
    let refused: Vec<_> =
        preview.refused_ratios.iter().map(|r| (r.weights.to_string(), r.needed, r.ready)).collect();
    let row = |ratio: &str, needed| (ratio.to_owned(), needed, 1);
    assert_eq!(refused, [row("1:1", 2), row("3:1", 3), row("1:0", 3)]);
    assert_eq!(preview.steps.last().unwrap().state, S::Completed);
    let refused = plan(&world, start("2.0.0", None, UpdateOptions::default()));
    assert!(refused.refusal.is_some());
    assert_eq!(refused.retires, None, "nothing starts, so nothing is removed");
}

#[test]
fn a_plan_that_would_be_refused_says_why_and_one_that_cannot_go_on_where_it_stops() {
    let mut world = World::deployed(3);
    let same = plan(&world, start("1.0.0", None, UpdateOptions::default()));
    assert!(matches!(same.refusal, Some(Refusal::SameRevision { .. })), "{same:?}");
    assert!(same.changes.is_empty());
    let unknown = plan(&world, start("9.0.0", None, UpdateOptions::default()));
    assert!(matches!(unknown.refusal, Some(Refusal::UnknownArtifact { .. })), "{unknown:?}");
    world.silent_nodes.insert("n3".parse().unwrap());
    world.settle();
    let preview = plan(&world, start("2.0.0", None, UpdateOptions::default()));
    // What is on the silent node is waited for in the end.
    assert!(preview.stuck.as_ref().unwrap().contains("to end"), "{preview:?}");
    assert_eq!(preview.steps.last().unwrap().state, S::Completing);
    for node in ["n1", "n2", "n3"] {
        let node = node.parse().unwrap();
        world.ok(Command::SetNodeSchedule { node, schedule: NodeSchedule::Cordoned });
    }
    let full = plan(&world, start("2.0.0", None, UpdateOptions::default()));
    assert!(matches!(full.refusal, Some(Refusal::NoCapacity { .. })), "{full:?}");
}

#[test]
fn a_first_deployment_has_one_switch_and_no_old_side() {
    let world = World::empty();
    let preview = plan(&world, start("1.0.0", Some(2), UpdateOptions::default()));
    let routed: Vec<_> = preview
        .steps
        .iter()
        .filter(|step| step.state == S::Routing)
        .map(|step| step.weights.to_string())
        .collect();
    assert_eq!(routed, ["1:0"]);
    assert_eq!((preview.old, preview.instances_after), (None, 2));
}

#[test]
fn a_diff_names_the_fields_of_the_manifest_and_nothing_else() {
    let revision = |version: &str, more: &str| RevisionRecord {
        slice: SLICE.parse::<SliceName>().unwrap(),
        no: aether_core::ids::RevisionNo(version.as_bytes()[0].into()),
        version: version.parse().unwrap(),
        digest: "d".to_owned(),
        manifest: Arc::new(
            Manifest::parse(&format!(
                "artifact = '{SLICE}:{version}'\n[run]\ncommand = ['./server']\n{more}"
            ))
            .unwrap(),
        ),
        created: version.as_bytes()[0].into(),
        colour: Colour::Blue,
        config: None,
        restarts: 0,
    };
    let old = revision("1.0.0", "grace = '5s'\n[run.env]\nMODE = 'a'\n");
    let new = revision("2.0.0", "[run.env]\nMODE = 'b'\nMORE = '1'\n");
    let changed = |path: &str, before: Option<&str>, after: Option<&str>| Change {
        path: path.to_owned(),
        before: before.map(str::to_owned),
        after: after.map(str::to_owned),
    };
    let whole = |revision| Whole { revision, config: None };
    let changes = diff::revisions(Some(whole(&old)), whole(&new));
    assert_eq!(
        changes,
        [
            changed("manifest.run.env.MODE", Some("\"a\""), Some("\"b\"")),
            changed("manifest.run.env.MORE", None, Some("\"1\"")),
            changed("manifest.run.grace", Some("\"5s\""), Some("\"10s\"")),
            changed("version", Some("\"1.0.0\""), Some("\"2.0.0\"")),
        ]
    );
    assert!(diff::revisions(Some(whole(&old)), whole(&old)).is_empty());
    assert!(diff::revisions(None, whole(&old)).iter().all(|change| change.before.is_none()));
}

#[test]
fn placement_is_kept_and_spread_over_domains() {
    let mut world = World::empty();
    for (node, zone, disk) in
        [(1, "a", "ssd"), (2, "a", "ssd"), (3, "a", "ssd"), (4, "b", "ssd"), (5, "b", "hdd")]
    {
        let labels = [("zone", zone), ("disk", disk)];
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        world.ok(Command::RegisterNode {
            node: format!("n{node}").parse().unwrap(),
            address: format!("127.0.0.1:{}", 9000 + node).parse().unwrap(),
            labels,
            instances_max: 2,
        });
    }
    let text = format!(
        "artifact = '{SLICE}:4.0.0'\n[run]\ncommand = ['./server']\n[placement]\nspread = 'zone'\n\
         [placement.require]\ndisk = 'ssd'\n"
    );
    let Command::RegisterArtifact { digest, size_bytes, holder, .. } = register("4.0.0") else {
        unreachable!("it is one");
    };
    world.ok(Command::RegisterArtifact {
        artifact: format!("{SLICE}:4.0.0").parse().unwrap(),
        digest,
        size_bytes,
        manifest: Arc::new(Manifest::parse(&text).unwrap()),
        holder,
        others: Default::default(),
    });
    let refused = world.propose(start("4.0.0", Some(9), UpdateOptions::default())).unwrap_err();
    assert!(refused.to_string().contains("and have disk=ssd have room for 8 more"), "{refused}");
    world.ok(start("4.0.0", Some(4), UpdateOptions::default()));
    world.settle();
    let mut on: Vec<&str> = world.state.instances.values().map(|i| i.node.as_str()).collect();
    on.sort_unstable();
    assert_eq!(on, ["n1", "n2", "n4", "n4"]);
}
