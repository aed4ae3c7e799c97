//! What is on disk is enough to go on, and only what is whole is used.

use std::fs;

use aether_replica::{Config, OpenError};

use crate::cluster::{Cluster, eventually, patient};

/// Snapshots every few entries.
fn small(config: &mut Config) {
    patient(config);
    config.snapshot_every_entries = 50;
}

async fn write_many(cluster: &Cluster, through: usize, from: usize, to: usize) {
    for n in from..to {
        cluster.write(through, &format!("k{n}"), &n.to_string()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_cluster_restarts_from_disk() {
    let mut cluster = Cluster::start(&["a", "b", "c"], small).await;
    write_many(&cluster, 0, 0, 120).await;
    cluster.agree().await;
    for i in 0..3 {
        cluster.stop_member(i).await;
    }
    for i in 0..3 {
        cluster.start_member(i).await.unwrap();
    }
    cluster.leader().await;
    cluster.write(1, "after", "1").await;
    cluster.agree().await;
    assert_eq!(cluster.member(2).view.lock().unwrap().rows.len(), 121);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_behind_the_purged_log_gets_a_snapshot() {
    let mut cluster = Cluster::start(&["a", "b", "c"], small).await;
    write_many(&cluster, 0, 0, 10).await;
    let lagging = cluster.follower().await;
    cluster.stop_member(lagging).await;
    let leader = cluster.leader().await;
    write_many(&cluster, leader, 10, 400).await;
    let purged = eventually("a purged log", || async {
        cluster.handle(leader).status().purged.filter(|purged| *purged > 100)
    })
    .await;
    cluster.start_member(lagging).await.unwrap();
    cluster.agree().await;
    let status = cluster.handle(lagging).status();
    assert!(status.snapshot >= Some(purged), "{status:?}");
    // And it can go on from there by itself.
    cluster.stop_member(lagging).await;
    cluster.start_member(lagging).await.unwrap();
    cluster.agree().await;
    assert_eq!(cluster.member(lagging).view.lock().unwrap().rows.len(), 400);
}

/// What happens to a stopped node's files, and whether its image is used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_image_is_used_only_if_it_is_whole_and_fits() {
    let mut cluster = Cluster::start(&["solo"], small).await;
    write_many(&cluster, 0, 0, 120).await;
    cluster.stop_member(0).await;
    let image = cluster.data_dir(0).join("image");
    let saved = cluster.dir.path().join("saved");
    copy_dir(&image, &saved);

    restart(&mut cluster, None).await;
    write_many(&cluster, 0, 120, 400).await;
    eventually("a purged log", || async {
        cluster.handle(0).status().purged.filter(|purged| *purged > 200)
    })
    .await;
    cluster.stop_member(0).await;

    // Stale: behind what the log was purged to.
    fs::remove_dir_all(&image).unwrap();
    copy_dir(&saved, &image);
    restart(&mut cluster, Some("behind the snapshot or the log")).await;
    assert_eq!(cluster.member(0).view.lock().unwrap().rows.len(), 400);
    cluster.stop_member(0).await;

    fs::remove_dir_all(&image).unwrap();
    restart(&mut cluster, Some("there is none")).await;
    assert_eq!(cluster.member(0).view.lock().unwrap().rows.len(), 400);
    cluster.stop_member(0).await;

    for file in fs::read_dir(&image).unwrap() {
        let file = file.unwrap().path();
        if file.is_file() {
            fs::write(&file, b"garbage garbage garbage garbage").unwrap();
        }
    }
    restart(&mut cluster, Some("")).await;
    assert_eq!(cluster.member(0).view.lock().unwrap().rows.len(), 400);
}

/// Starts the only member again and says why its image was rebuilt, if it was.
async fn restart(cluster: &mut Cluster, rebuilt: Option<&str>) {
    cluster.start_member(0).await.unwrap();
    cluster.leader().await;
    let because = cluster.handle(0).status().image.rebuilt_because;
    match (rebuilt, &because) {
        (None, None) => {}
        (Some(part), Some(reason)) if reason.contains(part) => {}
        _ => panic!("expected {rebuilt:?}, found {because:?}"),
    }
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_newest_snapshot_is_replaced_by_the_one_before_and_the_log() {
    let mut cluster = Cluster::start(&["solo"], small).await;
    write_many(&cluster, 0, 0, 400).await;
    cluster.stop_member(0).await;
    fs::remove_dir_all(cluster.data_dir(0).join("image")).unwrap();
    let mut snapshots: Vec<_> = fs::read_dir(cluster.data_dir(0).join("snapshots"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    snapshots.sort();
    assert_eq!(snapshots.len(), 2);
    flip(&snapshots[1]);
    restart(&mut cluster, Some("there is none")).await;
    assert_eq!(cluster.member(0).view.lock().unwrap().rows.len(), 400);
    cluster.stop_member(0).await;

    // With both damaged the purged part of the log is nowhere.
    fs::remove_dir_all(cluster.data_dir(0).join("image")).unwrap();
    for file in fs::read_dir(cluster.data_dir(0).join("snapshots")).unwrap() {
        fs::write(file.unwrap().path(), b"AETHSNAP and nothing that makes sense").unwrap();
    }
    let error = cluster.start_member(0).await.unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("aether node replace"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_the_log_stops_the_start_and_names_file_and_repair() {
    let mut cluster = Cluster::start(&["solo"], patient).await;
    write_many(&cluster, 0, 0, 20).await;
    cluster.stop_member(0).await;
    let wal = cluster.data_dir(0).join("wal");
    let file = fs::read_dir(wal)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "wal"))
        .unwrap();
    flip(&file);
    let error = cluster.start_member(0).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, OpenError::Damaged { .. }), "{text}");
    assert!(
        text.contains(file.to_str().unwrap()) && text.contains("aether node replace"),
        "{text}"
    );
    // The mistake can be undone: nothing was changed.
    flip(&file);
    cluster.start_member(0).await.unwrap();
    cluster.leader().await;
    assert_eq!(cluster.member(0).view.lock().unwrap().rows.len(), 20);
}

fn flip(file: &std::path::Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).unwrap();
}
