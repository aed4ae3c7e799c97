//! Archives that nothing here uses any more.

use std::time::Duration;

use aether_agent::CacheLimits;

use crate::world::{Slice, World};

fn holds(report: &aether_proto::v1::AgentReport, slice: &Slice) -> bool {
    report.holds_sha256.contains(&slice.digest)
}

#[tokio::test]
async fn unused_archives_go_beyond_the_cache_unless_they_are_needed() {
    let world = World::without_agent().await;
    let keeps_one = CacheLimits { archives_max: 1, bytes_max: 1 << 20, idle_min: Duration::ZERO };
    let agent = world.start_agent(|config| config.cache = Some(keeps_one)).await;
    let slices: Vec<Slice> =
        ["one", "two", "three", "four"].iter().map(|name| world.fixture(&[name], "")).collect();
    let address = world.plane.address;
    let ids = ["a-1-0", "a-2-0", "a-3-0", "a-4-0"];
    // One after the other, so that the order of their use is known.
    let mut running = Vec::new();
    for (index, (slice, id)) in slices.iter().zip(ids).enumerate() {
        running.push(slice.assign(id, "RUN", address));
        world.plane.want(5 + index as u64, running.clone());
        world.plane.observed(id, "READY").await;
    }
    // The first three end in turn and are forgotten; the last one runs on.
    for index in 0..3 {
        running[index].desired = "STOP".to_owned();
        world.plane.want(10 + 2 * index as u64, running[index..].to_vec());
        world.plane.observed(ids[index], "STOPPED").await;
        world.plane.want(11 + 2 * index as u64, running[index + 1..].to_vec());
        let gone = |report: &aether_proto::v1::AgentReport| {
            report.instances.iter().all(|seen| seen.instance_id != ids[index])
        };
        world.plane.report("it forgotten", gone).await;
    }
    let report = world.plane.reports_after_now(2).await;
    assert_eq!(report.holds_sha256.len(), 4, "nothing goes before the control plane said a word");

    world.plane.list_archives(&[&slices[0].digest], &[]);
    let report =
        world.plane.report("one dropped", |report| !report.dropped_sha256.is_empty()).await;
    let held: Vec<bool> = slices.iter().map(|slice| holds(&report, slice)).collect();
    assert_eq!(held, [true, false, true, true], "needed, oldest, in the cache, running");
    assert_eq!(report.dropped_sha256, [slices[1].digest.clone()]);

    world.plane.list_archives(&[], &[&slices[0].digest, &slices[3].digest]);
    let report = world.plane.report("the nameless", |report| !holds(report, &slices[0])).await;
    assert!(holds(&report, &slices[3]), "an instance uses it");
    // What was dropped is fetched anew when it is wanted again.
    running[3].desired = "RUN".to_owned();
    let again = slices[1].assign("a-5-0", "RUN", address);
    world.plane.want(30, vec![running[3].clone(), again]);
    world.plane.observed("a-5-0", "READY").await;
    let report = world.plane.last_report();
    assert!(holds(&report, &slices[1]) && !report.dropped_sha256.contains(&slices[1].digest));
    agent.shutdown().await;
}
