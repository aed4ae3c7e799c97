//! Under load while the world changes: no client sees a failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aether_ingress::Config;
use http::StatusCode;

use crate::client::Client;
use crate::support::backend::Backend;
use crate::support::{dead_address, rule, set, table, until};
use crate::{Setup, start};

/// Sends GETs over eight kept connections while `meanwhile` runs.
async fn under_load(setup: &Setup, meanwhile: impl Future<Output = ()>) -> u64 {
    let (over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let address = setup.ingress.address();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (over, sent) = (Arc::clone(&over), Arc::clone(&sent));
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                while !over.load(Ordering::Relaxed) {
                    let answer = client.get("h", "/hello").await;
                    assert_eq!(answer.status(), StatusCode::OK, "{answer:?}");
                    assert_eq!(answer.body(), "hello");
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let began = Instant::now();
    meanwhile.await;
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let sent = sent.load(Ordering::Relaxed);
    println!("{sent} requests, {:.0} per second", sent as f64 / began.elapsed().as_secs_f64());
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_update_fails_no_request_and_each_step_is_exact() {
    let old = [Backend::start("a-1").await, Backend::start("a-2").await];
    let new = [Backend::start("b-1").await, Backend::start("b-2").await];
    let (old_rows, new_rows) = ([old[0].row(), old[1].row()], [new[0].row(), new[1].row()]);
    let mut route = table("org.example:a", 2, "0:1");
    route.old = set(1, &old_rows);
    route.ingress = vec![rule("", "/")];
    let setup = start(Config::default(), &[route.clone()]).await;
    let name = "org.example:a".parse().unwrap();
    let update = async {
        for (revision, ratio) in (3..).zip(["0:1", "1:9", "1:3", "1:1", "3:1", "1:0"]) {
            route.weights = ratio.parse().unwrap();
            route.new = set(2, &new_rows);
            (route.table_revision, route.route_revision) = (revision, revision);
            setup.control.publish(revision, &[route.clone()]);
            let calls = || {
                let tallies = setup.invoker.route_tallies(&name);
                let tally = tallies.last().filter(|tally| tally.route_revision == revision);
                tally.map_or(0, |tally| tally.new + tally.old)
            };
            until("two hundred calls", || calls() > 200).await;
        }
        // Old instances leave one after the other; each is idle before it goes.
        for (revision, rows) in [(9, &old_rows[1..]), (10, &[])] {
            route.table_revision = revision;
            route.old = set(1, rows);
            setup.control.publish(revision, &[route.clone()]);
            until("acked and idle", || {
                setup.control.acked() == revision && setup.control.busy().is_empty()
            })
            .await;
        }
    };
    let sent = under_load(&setup, update).await;
    assert!(sent > 1_000, "{sent}");
    for tally in setup.invoker.route_tallies(&name) {
        let (weights, calls) = (tally.weights, i128::from(tally.new + tally.old));
        let share = calls * i128::from(weights.new_side());
        let deviation = i128::from(tally.new) * i128::from(weights.total()) - share;
        assert!(deviation.abs() < i128::from(weights.total()), "{tally:?}");
    }
    let hits = old.iter().chain(&new).map(Backend::hits).sum::<u64>();
    assert_eq!(hits, sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_close_idle_connections_fail_no_request() {
    let lifetime = Duration::from_millis(20);
    let one = Backend::start_closing("a-1", lifetime).await;
    let two = Backend::start_closing("a-2", lifetime).await;
    let mut route = table("org.example:a", 2, "0:1");
    route.old = set(1, &[one.row(), two.row()]);
    route.ingress = vec![rule("", "/")];
    let setup = start(Config::default(), &[route]).await;
    let closings = || one.counters.connections.load(Ordering::SeqCst);
    under_load(&setup, until("many closings", || closings() > 300)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_refuses_connections_fails_no_request() {
    let (one, two) = (Backend::start("a-1").await, Backend::start("a-2").await);
    let mut route = table("org.example:a", 2, "0:1");
    route.old = set(1, &[one.row(), two.row()]);
    route.ingress = vec![rule("", "/")];
    let setup = start(Config::default(), &[route.clone()]).await;
    let die = async {
        until("some calls", || one.hits() > 100).await;
        // As the table of an instance that has just died. One that stops to listen would
        // also reset connections that it has not accepted yet, and that is no refusal.
        route.table_revision = 3;
        route.old = set(1, &[("a-3", dead_address()), two.row()]);
        setup.control.publish(3, &[route]);
        until("the change", || setup.control.acked() == 3).await;
        let hits = two.hits();
        until("the other goes on", || two.hits() > hits + 500).await;
    };
    under_load(&setup, die).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_crashes_fails_no_safe_request_where_those_are_retried() {
    let mut one = Backend::start("a-1").await;
    let two = Backend::start("a-2").await;
    let mut route = table("org.example:a", 2, "0:1");
    route.old = set(1, &[one.row(), two.row()]);
    route.ingress = vec![rule("", "/")];
    let setup = start(Config { retry_safe: true, ..Config::default() }, &[route]).await;
    let crash = async {
        until("some calls", || one.hits() > 100).await;
        one.crash().await;
        let hits = two.hits();
        until("the other goes on", || two.hits() > hits + 500).await;
    };
    under_load(&setup, crash).await;
}
