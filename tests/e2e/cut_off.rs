//! A client that loses the control plane while an update completes: it goes on
//! by its last table, nothing that this table names is stopped under it, and
//! the update says whom it waits for.

use std::time::{Duration, Instant};

use aether_cluster::load::{Load, Phase, Way};
use aether_core::table::SliceTable;
use aether_invoker::Invoker;
use aether_tests::proxy::Proxy;
use aether_tests::{
    PATIENCE, Stage, Topology, assert_none_failed, ids, phase, stage_with, states, until,
    until_alone,
};
use serde_json::Value;

/// Requests per second of the client that is cut off, and of all others.
const RATE: u32 = 150;
/// Calls that show that a client goes on.
const ENOUGH: u64 = 300;
/// Instances on each side.
const INSTANCES: usize = 3;
/// For tests that need not show the default lease.
const SHORT_LEASE: &str = "\n[timing]\nsession_lease = '1s'\n";
/// The lease, and how long a client that cannot be reached is waited for.
const SHORT_AGE: &str = "\n[timing]\nsession_lease = '1s'\nmax_table_age = '5s'\n";

/// A cluster whose update is at 1:1, and a client behind a proxy.
struct Scene {
    stage: Stage,
    update: String,
    proxy: Proxy,
    invoker: Invoker,
    /// What the client behind the proxy sends.
    own: Load,
    /// What goes through the ingresses.
    others: Load,
    old: Vec<String>,
}

impl Scene {
    async fn set(timing: &str) -> Self {
        let topology = Topology { extra: timing.to_owned(), ..Topology::split(3, 2) };
        let stage = stage_with(&topology, &[("1.0.0", &[]), ("2.0.0", &[])]).await;
        let old = ids(&stage).await;
        let proxy = Proxy::start(stage.cluster.control_plane()).await.unwrap();
        let invoker = stage.invoker_over("lonely", vec![proxy.address()]).await.unwrap();
        let own = Load::start(vec![Way::Invoker(stage.slice(&invoker))], "/", RATE, "connected");
        let ingresses = stage.cluster.ingresses().into_iter().map(Way::Ingress).collect();
        let others = Load::start(ingresses, "/", RATE, "through the ingresses");
        let update = stage.start("2.0.0", &[]).await.unwrap();
        stage.until_state(&update, "DEPLOYED").await.unwrap();
        stage.route("1:1").await.unwrap();
        let scene = Self { stage, update, proxy, invoker, own, others, old };
        let half = |table: &SliceTable| table.weights.new_side() == table.weights.old_side();
        scene.until_table("the client to go by 1:1", half).await;
        scene
    }

    /// Waits until the tables of the client behind the proxy are as they should.
    async fn until_table(&self, what: &str, condition: impl Fn(&SliceTable) -> bool) {
        let slice = self.stage.slice(&self.invoker);
        until(what, || slice.table().is_some_and(|table| condition(&table))).await;
    }

    /// Cuts the client off, whose table says 1:1, and completes the update.
    async fn cut_and_complete(&mut self) {
        self.proxy.cut().await;
        self.own.phase("cut off");
        self.stage.route("1:0").await.unwrap();
        self.stage.cli(&["update", "complete", &self.update]).await.unwrap();
    }

    /// The update waits for the client, says so, and stops nothing.
    async fn is_held(&self) {
        let paused = |seen: &Value| seen["pause"]["code"] == "session_unreachable";
        let seen = self.stage.until(&self.update, paused).await.unwrap();
        assert_eq!(seen["state"], "COMPLETING", "{seen:#}");
        assert_eq!(states(&seen["oldInstancesState"]), ["READY"; INSTANCES], "{seen:#}");
        self.names_the_session().await;
        self.own.phase("held");
        self.own.until_requests(ENOUGH).await;
        let seen = self.stage.cli(&["update", "status", &self.update]).await.unwrap();
        assert_eq!(states(&seen["oldInstancesState"]), ["READY"; INSTANCES], "{seen:#}");
        let so_far = self.own.so_far();
        let (new, old) = {
            let held = phase(&so_far, "held");
            (held.answers("2.0.0"), held.answers("1.0.0"))
        };
        assert!(new.abs_diff(old) <= 2, "still 1:1, by its last table: {new}:{old}");
    }

    async fn names_the_session(&self) {
        let session = self.invoker.session().to_string();
        let names = |text: &Value| {
            text.as_str().is_some_and(|text| text.contains(&session) && text.contains("lonely"))
        };
        let explains = |seen: &Value| {
            let waits = seen["waits"].as_array().map(Vec::as_slice).unwrap_or_default();
            names(&seen["pause"]["message"])
                && waits
                    .iter()
                    .any(|wait| wait["code"] == "session_unreachable" && names(&wait["message"]))
        };
        let verb = ["update", "explain", &self.update];
        let seen = self.stage.until_verb(&verb, "the session's name", explains).await.unwrap();
        println!("explain: {}", seen["pause"]["message"]);
        for wait in seen["waits"].as_array().unwrap() {
            println!("  waits for {}: {}; {}", wait["code"], wait["message"], wait["unblock"]);
        }
        let next = seen["next"].to_string();
        assert!(next.contains("complete") && next.contains("--force"), "{seen:#}");
        let cluster = self.stage.cli(&["status"]).await.unwrap();
        let shown = cluster["sessionStates"].as_array().unwrap().iter();
        let shown: Vec<_> = shown.filter(|s| s["id"] == session.as_str()).collect();
        assert_eq!(shown.len(), 1, "{cluster:#}");
        assert_eq!(shown[0]["state"], "UNREACHABLE", "{cluster:#}");
    }

    /// Waits for COMPLETED: the old instances are gone.
    async fn until_completed(&self) {
        let seen = self.stage.until_state(&self.update, "COMPLETED").await.unwrap();
        assert!(seen["pause"].is_null(), "{seen:#}");
        until_alone(&self.stage, "2.0.0", INSTANCES).await;
        let left = ids(&self.stage).await;
        assert!(left.iter().all(|id| !self.old.contains(id)), "{left:?} {:?}", self.old);
    }

    /// Lets the client reach the control plane again.
    async fn heal(&mut self) {
        self.own.phase("healed");
        self.proxy.heal().await.unwrap();
    }

    /// Looks at what follows, and ends everything. Gives the phases of the
    /// client that was cut off.
    async fn end(self) -> Vec<Phase> {
        // Outside of updates the side that serves is the old one.
        let alone = |table: &SliceTable| {
            let serving = table.old.as_ref().map(|side| side.version.to_string());
            table.new.is_none() && serving.as_deref() == Some("2.0.0")
        };
        self.until_table("the client to know 2.0.0 only", alone).await;
        self.own.phase("2.0.0 alone");
        self.own.until_requests(ENOUGH).await;
        let own = self.own.stop().await;
        assert_eq!(phase(&own, "2.0.0 alone").answers("1.0.0"), 0);
        assert_none_failed(&self.others.stop().await);
        self.invoker.close().await;
        self.stage.end().await;
        own
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_waits_for_a_client_that_is_cut_off_and_completes_when_it_is_back() {
    let mut scene = Scene::set("").await;
    scene.cut_and_complete().await;
    scene.is_held().await;
    scene.heal().await;
    scene.until_completed().await;
    assert_none_failed(&scene.end().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_waits_for_a_client_that_it_never_heard_of() {
    let mut scene = Scene::set(SHORT_LEASE).await;
    let leader = scene.stage.cluster.leader(PATIENCE).await.unwrap();
    scene.stage.cluster.nodes[leader].kill();
    scene.cut_and_complete().await;
    scene.is_held().await;
    scene.stage.cluster.nodes[leader].start().unwrap();
    scene.heal().await;
    scene.until_completed().await;
    assert_none_failed(&scene.end().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn force_ends_the_wait_for_a_client_that_is_cut_off() {
    let mut scene = Scene::set(SHORT_LEASE).await;
    scene.cut_and_complete().await;
    scene.is_held().await;
    scene.own.phase("forced");
    let verb = ["update", "complete", &scene.update, "--force"];
    let seen = scene.stage.cli(&verb).await.unwrap();
    assert!(seen["pause"].is_null(), "{seen:#}");
    scene.until_completed().await;
    scene.heal().await;
    // Half of its calls went to instances that are gone. A connection that is
    // refused is tried on another instance, so these are answered too.
    assert_none_failed(&scene.end().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wait_for_a_client_ends_when_its_table_is_too_old_to_be_used() {
    let mut scene = Scene::set(SHORT_AGE).await;
    let cut = Instant::now();
    scene.cut_and_complete().await;
    let paused = |seen: &Value| seen["pause"]["code"] == "session_unreachable";
    scene.stage.until(&scene.update, paused).await.unwrap();
    scene.until_completed().await;
    // It was heard from at most a third of its lease before the cut.
    let held = cut.elapsed();
    println!("held for {held:.1?} by a table that may be used for 5 s");
    assert!(held >= Duration::from_millis(4_500), "{held:?}");
    let slices = scene.stage.cli(&["status"]).await.unwrap();
    let session = scene.invoker.session().to_string();
    let known = slices["sessionStates"].as_array().unwrap().iter().any(|s| s["id"] == session);
    assert!(!known, "it is forgotten: {slices:#}");
    // And welcome again.
    scene.heal().await;
    assert_none_failed(&scene.end().await);
}
