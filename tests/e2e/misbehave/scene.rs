//! A cluster that several slices share, and one slice of it under load.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aether_cluster::artifacts::Variant;
use aether_cluster::load::{Load, Phase, Way};
use aether_invoker::{Invoker, SliceHandle};
use aether_proto::v1;
use aether_proto::v1::updates_client::UpdatesClient;
use aether_tests::evidence::remains;
use aether_tests::{PATIENCE, Stage, Topology, stage_with, states};
use serde_json::Value;
use tokio::task::JoinSet;

/// Requests per second to each slice.
const RATE: u32 = 60;
/// Requests that are looked at after a step.
const ENOUGH: u64 = 60;
/// When a request is given up: soon, so that those that hang do not pile up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(3);
/// Instances of each slice.
pub const INSTANCES: usize = 2;
/// Time between two looks at an update, in process: many are looked at at once,
/// and a verb is a process each time.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A version 2.0.0, and what is done to notice it.
#[derive(Debug, Clone, Copy)]
pub struct Version {
    /// The slice's own name, also in its path.
    pub name: &'static str,
    /// How it misbehaves.
    pub flags: &'static [&'static str],
    /// What a shell does first.
    pub before: Option<&'static str>,
    /// How long its calls in flight may take.
    pub drain: &'static str,
}

impl Version {
    pub const fn new(name: &'static str, flags: &'static [&'static str]) -> Self {
        Self { name, flags, before: None, drain: "4s" }
    }

    /// Whether its calls in flight are waited for as long as they take.
    fn is_slow_to_drain(&self) -> bool {
        self.drain == "60s"
    }
}

/// The cluster. One voter: what is done here does not depend on their number.
pub struct House {
    pub stage: Stage,
    invoker: Invoker,
}

/// Runs all of them at once, each on a slice of its own.
pub async fn all_at_once<T, P, F>(cases: &'static [T], play: P)
where
    T: Sync,
    P: Fn(Arc<House>, &'static T) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let stage = stage_with(&Topology::split(1, 2), &[]).await;
    let invoker = stage.invoker("caller").await.unwrap();
    let house = Arc::new(House { stage, invoker });
    let mut plays = JoinSet::new();
    for case in cases {
        plays.spawn(play(Arc::clone(&house), case));
    }
    while let Some(played) = plays.join_next().await {
        if let Err(error) = played {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    let house = Arc::into_inner(house).expect("all of them have ended");
    house.invoker.close().await;
    house.stage.end().await;
}

/// One slice, whose 1.0.0 runs under load.
pub struct Scene {
    pub house: Arc<House>,
    pub version: Version,
    pub name: String,
    pub load: Load,
    old: Vec<String>,
}

impl Scene {
    pub async fn set(house: Arc<House>, version: Version) -> Self {
        let name = format!("org.example:{}", version.name);
        let path = format!("/{}", version.name);
        let once = house.stage.scratch().join(version.name).display().to_string();
        let flags: Vec<String> =
            version.flags.iter().map(|flag| flag.replace("ONCE", &once)).collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        for (number, flags, before) in
            [("1.0.0", &[][..], None), ("2.0.0", &flags[..], version.before)]
        {
            let artifact = format!("{name}:{number}");
            let variant = Variant {
                flags,
                before,
                grace: "1s",
                drain: version.drain,
                ..Variant::new(&artifact, &path)
            };
            let stage = &house.stage;
            let dir = variant.write(stage.scratch(), stage.cluster.binary()).unwrap();
            stage.push_dir(&dir).await.unwrap();
        }
        let (artifact, count) = (format!("{name}:1.0.0"), INSTANCES.to_string());
        house.stage.cli(&["deploy", &artifact, "-n", &count, "--wait"]).await.unwrap();
        let mut ways = house.stage.ways(&house.invoker);
        ways.pop(); // That of another slice.
        let slice = house.invoker.slice(&name.parse().unwrap());
        ways.push(Way::Invoker(slice));
        let load = Load::start_with(ways, &path, RATE, "finding it", GIVE_UP_AFTER);
        // The ingresses follow the tables in their own time.
        let is_found = |phase: &Phase| phase.answers("1.0.0") == phase.requests;
        loop {
            load.until_requests(15).await;
            if load.so_far().last().is_some_and(is_found) {
                break;
            }
            load.phase("finding it");
        }
        load.phase("1.0.0 alone");
        load.until_requests(ENOUGH).await;
        let mut scene = Self { house, version, name, load, old: Vec::new() };
        scene.old = scene.whole().await;
        scene
    }

    /// Calls by the embedded invoker.
    pub fn slice(&self) -> SliceHandle {
        self.house.invoker.slice(&self.name.parse().unwrap())
    }

    pub async fn start(&self, options: &[&str]) -> String {
        let verb = [&["update", "start", &self.name, "2.0.0"], options].concat();
        let update = self.house.stage.cli(&verb).await.unwrap();
        update["updateId"].as_str().unwrap().to_owned()
    }

    /// From now on the new version misbehaves, or one instance of it.
    pub fn provoke(&self, instance: Option<&str>) {
        let suffix = instance.map(|id| format!(".{id}")).unwrap_or_default();
        let file = self.house.stage.scratch().join(self.version.name.to_owned() + &suffix);
        std::fs::write(file, "").unwrap();
    }

    /// Waits until an update is as it should be.
    pub async fn until(
        &self,
        update: &str,
        what: &str,
        condition: impl Fn(&v1::Update) -> bool,
    ) -> v1::Update {
        let mut updates = UpdatesClient::new(self.house.stage.cluster.channel(0));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = v1::GetUpdateRequest { update_id: update.to_owned(), stale: false };
            let seen = updates.get(request).await.unwrap().into_inner();
            if condition(&seen) {
                return seen;
            }
            assert!(Instant::now() < deadline, "{}: waited for {what}: {seen:#?}", self.name);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub async fn until_state(&self, update: &str, state: &str) -> v1::Update {
        self.until(update, state, |seen| seen.state == state).await
    }

    /// `update status` and `slices` give an instance's reason, and `explain`
    /// tells of it. Looked at until they do: an instance that comes and goes
    /// is not always down.
    pub async fn is_named(&self, update: &str, code: &str, text: &str) {
        let in_list = |list: &Value| {
            list.as_array().is_some_and(|list| {
                list.iter().any(|instance| {
                    let reason = &instance["reason"];
                    reason["code"] == code && contains(&reason["message"], text)
                })
            })
        };
        let verb = ["update", "status", update];
        let named = |seen: &Value| in_list(&seen["newInstancesState"]);
        self.house.stage.until_verb(&verb, "a reason in the status", named).await.unwrap();
        let named = |seen: &Value| in_list(&seen["instancesState"]);
        let verb = ["slices", &self.name];
        self.house.stage.until_verb(&verb, "a reason in the slice", named).await.unwrap();
        let explained = |seen: &Value| {
            let waits = seen["waits"].as_array().map(Vec::as_slice).unwrap_or_default();
            waits.iter().any(|wait| {
                ["instances_ready", "healthy_time", "new_capacity"]
                    .map(Value::from)
                    .contains(&wait["code"])
                    && contains(&wait["message"], text)
            })
        };
        let verb = ["update", "explain", update];
        let seen = self.house.stage.until_verb(&verb, "an explanation", explained).await.unwrap();
        println!("{}: {}", self.name, seen["waits"][0]["message"]);
    }

    /// Rolls back and looks at the end.
    pub async fn roll_back(&self, update: &str) {
        let new = self.new_instances(update).await;
        self.load.phase("going back");
        self.house.stage.cli(&["update", "rollback", update]).await.unwrap();
        self.until_state(update, "ROLLED_BACK").await;
        assert!(!new.is_empty());
        self.is_as_before(&new).await;
    }

    pub async fn new_instances(&self, update: &str) -> Vec<String> {
        let seen = self.until(update, "an answer", |_| true).await;
        seen.new_instances_state.iter().map(|i| i.instance_id.clone()).collect()
    }

    /// Nothing is left of those instances, and the old ones are the same ones,
    /// or as many.
    pub async fn is_as_before(&self, new: &[String]) {
        let left = remains(&self.house.stage.cluster, new);
        assert!(left.is_empty(), "{}: left of {new:?}: {left:#?}", self.name);
        self.load.phase("back");
        let now = self.whole().await;
        if !self.version.is_slow_to_drain() {
            assert_eq!(now, self.old, "{}: the old instances are the same ones", self.name);
        }
        self.load.until_requests(ENOUGH).await;
    }

    /// Waits until 1.0.0 is alone and whole, and no instance of it was
    /// restarted; returns their ids.
    async fn whole(&self) -> Vec<String> {
        let is_whole = |slice: &Value| {
            slice["version"] == "1.0.0" && states(&slice["instancesState"]) == ["READY"; INSTANCES]
        };
        let verb = ["slices", &self.name];
        let slice = self.house.stage.until_verb(&verb, "1.0.0 alone", is_whole).await.unwrap();
        let instances = slice["instancesState"].as_array().unwrap();
        for instance in instances {
            assert_eq!(instance["restarts"].as_u64().unwrap_or(0), 0, "{slice:#}");
        }
        instances.iter().map(|i| i["instanceId"].as_str().unwrap().to_owned()).collect()
    }

    /// Ends the load. Only the new version, and only while it misbehaves, has
    /// failed calls, and only if it `may_fail` or `may_hang`.
    pub async fn end(self, may_fail: bool, may_hang: bool) {
        let phases = self.load.stop().await;
        for phase in phases.iter().filter(|phase| phase.name != "finding it") {
            check(&self.name, phase, may_fail, may_hang);
        }
    }
}

fn check(name: &str, phase: &Phase, may_fail: bool, may_hang: bool) {
    let new = phase.versions.get("2.0.0").cloned().unwrap_or_default();
    println!(
        "{name}, {}: {} requests, {} of 2.0.0, its errors {}, broken {}; given up {}",
        phase.name, phase.requests, new.requests, new.errors, new.broken, phase.given_up
    );
    assert_eq!(phase.nobodys_failures(), 0, "{name}, {}: {:?}", phase.name, phase.failures);
    let old = phase.versions.get("1.0.0").cloned().unwrap_or_default();
    assert_eq!((old.errors, old.broken), (0, 0), "{name}, {}: of 1.0.0", phase.name);
    if ["1.0.0 alone", "back"].contains(&phase.name.as_str()) {
        assert_eq!(new.requests + new.broken, 0, "{name}, {}: of 2.0.0", phase.name);
    }
    let is_bad = ["misbehaving", "going back"].contains(&phase.name.as_str());
    if !(is_bad && may_fail) {
        assert_eq!(new.errors + new.broken, 0, "{name}, {}: {:?}", phase.name, phase.failures);
    }
    // Not more of them than the new version got by its weight: a half.
    let most = if is_bad && may_hang { phase.requests.div_ceil(2) + 2 } else { 0 };
    assert!(phase.given_up <= most, "{name}, {}: {} given up", phase.name, phase.given_up);
}

pub fn contains(text: &Value, part: &str) -> bool {
    text.as_str().is_some_and(|text| text.contains(part))
}
