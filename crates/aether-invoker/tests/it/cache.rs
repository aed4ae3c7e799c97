//! Starts while the control plane is away.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aether_invoker::{Config, Invoker, PickError, SessionKind, SliceHandle};
use tokio::net::{TcpListener, TcpStream};

use crate::support::control::Control;
use crate::support::{LIMIT, dead_address, set, table, until};

const A: &str = "org.example:a";
const LEASE: Duration = Duration::from_secs(3);
/// For who is not to get tables.
const SHORT: Duration = Duration::from_millis(300);

fn config(node: SocketAddr, file: &Path, age_max: Duration) -> Config {
    let mut config = Config::new("test", SessionKind::Invoker, vec![node]);
    (config.cache_file, config.cache_age_max) = (Some(file.to_owned()), age_max);
    config
}

fn handle(invoker: &Invoker) -> SliceHandle {
    invoker.slice(&A.parse().unwrap())
}

/// Leaves the tables of a session in a file that is written by this.
async fn leave_tables(control: &Control, file: &Path, age_max: Duration) {
    let _ = std::fs::remove_file(file);
    let invoker = Invoker::connect(config(control.address, file, age_max)).unwrap();
    invoker.ready(LIMIT).await.unwrap();
    until("the file", || file.exists()).await;
    invoker.close().await;
}

/// A way to a node that is shut until it is opened.
async fn gate(node: SocketAddr) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, open) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
    let is_open = Arc::clone(&open);
    tokio::spawn(async move {
        loop {
            let (mut here, _) = listener.accept().await.unwrap();
            if is_open.load(Ordering::SeqCst) {
                tokio::spawn(async move {
                    let mut there = TcpStream::connect(node).await.unwrap();
                    // Ends with either side.
                    let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
                });
            }
        }
    });
    (address, open)
}

fn publish(control: &Control, revision: u64, instance: &str) {
    let mut table = table(A, revision, "0:1");
    table.old = set(1, &[(instance, dead_address())]);
    control.publish(revision, &[table]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_without_the_control_plane_calls_by_the_last_tables_until_a_node_answers() {
    const AGE_MAX: Duration = Duration::from_secs(600);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tables");
    let mut control = Control::start(LEASE);
    publish(&control, 9, "a-1");
    leave_tables(&control, &file, AGE_MAX).await;
    control.stop();

    let later = Control::start(LEASE);
    // Has lost what the other knew, and is older: it counts all the same.
    publish(&later, 4, "a-2");
    let mut config = config(dead_address(), &file, AGE_MAX);
    let invoker = Invoker::connect(config.clone()).unwrap();
    invoker.ready(LIMIT).await.unwrap();
    let status = invoker.status();
    assert!(status.is_cached && status.node.is_none(), "{status:?}");
    assert!(status.age.is_some_and(|age| age < LIMIT), "{status:?}");
    assert_eq!(handle(&invoker).pick().unwrap().instance().as_str(), "a-1");

    // A node that answers at last.
    let (gate, open) = gate(later.address).await;
    config.control_plane.push(gate);
    let invoker = Invoker::connect(config).unwrap();
    invoker.ready(LIMIT).await.unwrap();
    assert!(invoker.status().is_cached);
    open.store(true, Ordering::SeqCst);
    until("tables of a node", || !invoker.status().is_cached).await;
    assert_eq!(handle(&invoker).pick().unwrap().instance().as_str(), "a-2");
    // What it had from the file it did not claim to have been told.
    let hellos = later.hellos();
    assert!(hellos.iter().all(|hello| (hello.incarnation, hello.revision) == (0, 0)));
    until("its ack", || later.acked() == 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_are_too_old_are_not_used_and_no_longer_used() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tables");
    let control = Control::start(LEASE);
    publish(&control, 9, "a-1");
    leave_tables(&control, &file, LIMIT).await;
    let at_once = Duration::from_nanos(1);
    let invoker = Invoker::connect(config(dead_address(), &file, at_once)).unwrap();
    assert!(invoker.ready(SHORT).await.is_err());
    assert!(matches!(handle(&invoker).pick(), Err(PickError::NotReady { .. })));

    // On a machine that takes longer than this to start again, it is repeated.
    let age_max = Duration::from_secs(3);
    let mut started = None;
    for _ in 0..20 {
        leave_tables(&control, &file, age_max).await;
        let invoker = Invoker::connect(config(dead_address(), &file, age_max)).unwrap();
        if invoker.ready(age_max).await.is_ok() {
            started = Some(invoker);
            break;
        }
    }
    let invoker = started.expect("one start within the time");
    let handle = handle(&invoker);
    until("the end of their time", || matches!(handle.pick(), Err(PickError::NotReady { .. })))
        .await;
    assert_eq!((invoker.status().applied, invoker.status().age), (None, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_be_used_or_written_harms_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let control = Control::start(LEASE);
    publish(&control, 9, "a-1");
    let broken = dir.path().join("broken");
    std::fs::write(&broken, "no tables").unwrap();
    for file in [&broken, &dir.path().join("absent/tables"), &dir.path().to_owned()] {
        let invoker = Invoker::connect(config(control.address, file, LIMIT)).unwrap();
        invoker.ready(LIMIT).await.unwrap();
        let reports = control.reports().len();
        until("it goes on", || control.reports().len() > reports + 2).await;
        assert_eq!(handle(&invoker).pick().unwrap().instance().as_str(), "a-1");
        invoker.close().await;
    }
    assert_ne!(std::fs::read(&broken).unwrap(), b"no tables");
}
