//! Two slices that ask for the same ingress rule.

use std::sync::Arc;

use aether_core::command::{Answer, Command};
use aether_core::manifest::Manifest;

use crate::world::World;

fn push(world: &mut World, artifact: &str, paths: &[&str]) {
    let rules: String = paths.iter().map(|p| format!("[[ingress]]\npath = '{p}'\n")).collect();
    let text = format!("artifact = '{artifact}'\n[run]\ncommand = ['./server']\n{rules}");
    world.ok(Command::RegisterArtifact {
        artifact: artifact.parse().unwrap(),
        digest: format!("{:064x}", world.state.meta.index),
        size_bytes: 10,
        manifest: Arc::new(Manifest::parse(&text).unwrap()),
        holder: "n1".parse().unwrap(),
        others: Default::default(),
    });
}

fn deploy(world: &mut World, slice: &str, version: &str) -> Answer {
    let (slice, version) = (slice.parse().unwrap(), version.parse().unwrap());
    let answer = world.ok(Command::Deploy { slice, version, instances: 1 });
    world.settle();
    answer
}

fn update(world: &mut World, slice: &str, version: &str) -> Answer {
    world.ok(Command::StartUpdate {
        slice: slice.parse().unwrap(),
        version: version.parse().unwrap(),
        instances: None,
        options: Default::default(),
    })
}

/// The slice that the ingress finds by a path.
fn owner(world: &World, path: &str) -> String {
    let routes = world.state.routes.keys();
    let tables = routes.filter_map(|slice| world.state.slice_table(slice));
    let claims = tables.flat_map(|table| {
        let of = |claim: aether_core::table::IngressClaim| (claim, table.slice.to_string());
        table.ingress.clone().into_iter().map(of).collect::<Vec<_>>()
    });
    let asked = claims.filter(|(claim, _)| claim.rule.path == path);
    asked.min_by_key(|(claim, _)| claim.since).unwrap().1
}

#[test]
fn what_is_deployed_later_takes_no_requests_from_what_serves_them() {
    let (first, other) = ("org.example:first", "org.example:another");
    let mut world = World::empty();
    push(&mut world, "org.example:first:1.0.0", &["/first"]);
    push(&mut world, "org.example:first:2.0.0", &["/first", "/more"]);
    push(&mut world, "org.example:another:1.0.0", &["/own"]);
    push(&mut world, "org.example:another:2.0.0", &["/first", "/own"]);
    assert_eq!(deploy(&mut world, other, "1.0.0").note, None);
    assert_eq!(deploy(&mut world, first, "1.0.0").note, None);

    // The other one asks for the path only with its second version.
    let answer = update(&mut world, other, "2.0.0");
    assert!(answer.note.unwrap().contains("'/first' stays with org.example:first"));
    let id = answer.update.unwrap();
    world.settle();
    assert_eq!(owner(&world, "/first"), first);
    world.ok(crate::world::routing(&id, "1:0"));
    world.settle();
    world.ok(Command::Complete { update: id, force: false, if_modified: None });
    world.settle();
    assert_eq!((owner(&world, "/first"), owner(&world, "/own")), (first.into(), other.into()));

    // A new version of the first keeps what the slice has.
    let answer = update(&mut world, first, "2.0.0");
    assert_eq!(answer.note, None);
    let id = answer.update.unwrap();
    world.settle();
    world.ok(crate::world::routing(&id, "1:0"));
    world.settle();
    world.ok(Command::Complete { update: id, force: false, if_modified: None });
    world.settle();
    assert_eq!((owner(&world, "/first"), owner(&world, "/more")), (first.into(), first.into()));

    // Whoever waited gets it when it is free.
    world.ok(Command::Undeploy { slice: first.parse().unwrap(), version: None });
    world.settle();
    assert_eq!(owner(&world, "/first"), other);
    push(&mut world, "org.example:third:1.0.0", &["/first"]);
    let note = deploy(&mut world, "org.example:third", "1.0.0").note.unwrap();
    assert!(note.contains("'/first' stays with org.example:another"), "{note}");
}
