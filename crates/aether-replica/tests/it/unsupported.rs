//! A machine that is given what only a newer release supports ends its node with
//! the reason, and the newer release goes on from what it left.

use std::fs;
use std::path::Path;

use aether_replica::{Config, OpenError};

use crate::cluster::{Cluster, eventually, patient};

const REASON: &str = "a row is for a newer release: install that";

/// The first ends, and says why, without blaming its disk.
async fn ends(cluster: &Cluster, i: usize) {
    let mut fatal = cluster.handle(i).fatal();
    let reason = fatal.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert_eq!(reason, REASON);
}

/// A restart as it is, which is refused.
async fn is_refused(cluster: &mut Cluster, i: usize) {
    let refused = cluster.start_member(i).await.unwrap_err();
    let OpenError::Unsupported { reason, .. } = &refused else { panic!("{refused}") };
    assert_eq!(reason, REASON);
    assert!(refused.to_string().contains(&cluster.data_dir(i).display().to_string()), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_for_a_newer_release_ends_the_node_before_it_is_applied() {
    let (mut cluster, listeners) = Cluster::prepare(&["a", "b", "c"], patient).await;
    cluster.older.insert(2, "new");
    for (i, listener) in listeners.into_iter().enumerate() {
        cluster.start_member_on(i, listener).await.unwrap();
    }
    cluster.leader().await;
    // Were it the leader, it could not answer.
    cluster.write(0, "old", "1").await;
    let _ = crate::cluster::propose(&cluster.handle(0), "new", "1").await;
    ends(&cluster, 2).await;
    assert_eq!(cluster.local(2, "new"), None);
    cluster.stop_member(2).await;
    cluster.leader().await;
    // Whoever proposed it was told, or it is there all the same.
    eventually("the row", || async { cluster.local(0, "new") }).await;
    cluster.write(0, "later", "1").await;
    is_refused(&mut cluster, 2).await;
    cluster.older.clear();
    cluster.start_member(2).await.unwrap();
    cluster.agree().await;
    assert_eq!(cluster.local(2, "new").as_deref(), Some("1"));
}

fn files(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_for_a_newer_release_is_refused_at_the_start_and_as_a_snapshot() {
    fn small(config: &mut Config) {
        patient(config);
        config.snapshot_every_entries = 50;
    }
    let mut cluster = Cluster::start(&["a", "b", "c"], small).await;
    let lagging = cluster.follower().await;
    cluster.stop_member(lagging).await;
    let leader = cluster.leader().await;
    cluster.write(leader, "new", "1").await;
    for n in 0..400 {
        cluster.write(leader, &format!("k{n}"), "1").await;
    }
    eventually("a purged log", || async {
        cluster.handle(leader).status().purged.filter(|purged| *purged > 100)
    })
    .await;
    // By its peers' snapshot: it was well before.
    cluster.older.insert(lagging, "new");
    cluster.start_member(lagging).await.unwrap();
    ends(&cluster, lagging).await;
    cluster.stop_member(lagging).await;
    is_refused(&mut cluster, lagging).await;
    // By its own image, and by its own snapshot.
    let other = (0..3).find(|i| ![leader, lagging].contains(i)).unwrap();
    cluster.stop_member(other).await;
    cluster.older.insert(other, "new");
    let snapshots = cluster.data_dir(other).join("snapshots");
    let before = files(&snapshots);
    is_refused(&mut cluster, other).await;
    fs::remove_dir_all(cluster.data_dir(other).join("image")).unwrap();
    is_refused(&mut cluster, other).await;
    assert_eq!(files(&snapshots), before);
    cluster.older.clear();
    cluster.start_member(other).await.unwrap();
    cluster.start_member(lagging).await.unwrap();
    cluster.write(other, "after", "1").await;
    cluster.agree().await;
}
