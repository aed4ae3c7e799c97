//! Makes a command of each kind from dice and the state it will meet, so that
//! what it names is there about as often as not.
//!
//! A new command needs one line in [`MAKERS`]; a test says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use aether_core::command::{Command, Observation};
use aether_core::coordinates::{Artifact, SliceName};
use aether_core::evidence::{Side, Tallies};
use aether_core::ids::{
    ConfigName, ConfigNo, InstanceId, NodeName, RevisionNo, SessionId, UpdateId,
};
use aether_core::level::FEATURE_LEVEL_MAX;
use aether_core::manifest::Manifest;
use aether_core::planner::{self, View};
use aether_core::records::{
    Analysis, BlueGreen, CONFIG_FILE_BYTES_MAX, CONFIG_VALUE_BYTES_MAX, Canary, CleanupPolicy,
    ConfigPick, Counts, DeadlineAction, Gate, GateSource, GateVerdict, GateWhen, Measure,
    NodeLifecycle, NodeSchedule, Observed, OptionChanges, Reason, Recreate, Remake, Rolling, Seen,
    SessionKind, Share, Step, Strategy, Sums, Thresholds, UpdateOptions,
};
use aether_core::state::State;
use aether_core::weights::Weights;

use crate::world::SLICE;

mod parts;

/// Numbers at the edges of what the fields hold.
const EDGES: [u64; 6] = [0, 1, 10_000, 10_001, u32::MAX as u64, u64::MAX];

/// Chance, of which a failure shows the numbers.
pub struct Dice<'a> {
    state: &'a State,
    numbers: [u64; 8],
    thrown: usize,
}

impl<'a> Dice<'a> {
    pub fn new(state: &'a State, numbers: [u64; 8]) -> Self {
        Self { state, numbers, thrown: 0 }
    }

    /// The next number; they come round, each time another one.
    fn number(&mut self) -> u64 {
        let round = (self.thrown / self.numbers.len()) as u32;
        let number = self.numbers[self.thrown % self.numbers.len()];
        self.thrown += 1;
        number.rotate_right(7 * round)
    }

    fn below(&mut self, end: u64) -> u64 {
        // The high bits: the low ones of small numbers are all alike.
        self.number() % end
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize].clone()
    }

    /// A small number, now and then one at an edge.
    fn count(&mut self) -> u64 {
        if self.one_in(8) { self.pick(&EDGES) } else { self.below(5) }
    }

    fn count32(&mut self) -> u32 {
        u32::try_from(self.count()).unwrap_or(u32::MAX)
    }

    fn slice(&mut self) -> SliceName {
        let others = [SLICE.to_owned(), format!("{SLICE}@blue"), "org.example:other".to_owned()];
        let name = if self.one_in(4) { self.pick(&others) } else { SLICE.to_owned() };
        name.parse().unwrap()
    }

    fn config(&mut self) -> ConfigName {
        self.pick(&["a", "a/b", "a.b"]).parse().unwrap()
    }

    fn version<T: std::str::FromStr<Err: std::fmt::Debug>>(&mut self) -> T {
        let long = format!("1.0.0-{}", "x".repeat(190));
        let versions = ["1.0.0", "2.0.0", "3.0.0", "4.0.0", &long];
        self.pick(&versions).parse().unwrap()
    }

    /// The live update, any other, or none that exists.
    fn update(&mut self) -> UpdateId {
        let live = self.state.live_update(&SLICE.parse().unwrap()).map(|update| update.id.clone());
        let all: Vec<UpdateId> = self.state.updates.keys().cloned().collect();
        match live {
            Some(live) if !self.one_in(4) => live,
            _ if !all.is_empty() && !self.one_in(3) => self.pick(&all),
            _ => UpdateId::from_index(self.number()),
        }
    }

    /// One that may have left a set warm.
    fn ended_update(&mut self) -> UpdateId {
        let kept = self.state.retained.values().next().map(|kept| kept.update.clone());
        match kept {
            Some(kept) if !self.one_in(3) => kept,
            _ => self.update(),
        }
    }

    fn node(&mut self) -> NodeName {
        format!("n{}", self.below(4) + 1).parse().unwrap()
    }

    fn nodes(&mut self) -> Vec<NodeName> {
        let count = self.below(4);
        (0..count).map(|_| self.node()).collect()
    }

    fn session(&mut self) -> SessionId {
        format!("s{}", self.below(4) + 1).parse().unwrap()
    }

    fn instance(&mut self) -> InstanceId {
        let all: Vec<InstanceId> = self.state.instances.keys().cloned().collect();
        if all.is_empty() || self.one_in(6) {
            return "my-slice-z-9".parse().unwrap();
        }
        self.pick(&all)
    }

    fn instances(&mut self) -> Vec<InstanceId> {
        let count = self.below(4);
        (0..count).map(|_| self.instance()).collect()
    }

    fn revision(&mut self) -> RevisionNo {
        RevisionNo(if self.one_in(8) { u32::MAX } else { self.below(5) as u32 })
    }

    /// When the target of a decision was last changed: mostly rightly.
    fn target_modified(&mut self, slice: &SliceName, revision: RevisionNo) -> u64 {
        let target = self.state.targets.get(&(slice.clone(), revision));
        match target.map(|target| target.modified) {
            Some(modified) if !self.one_in(4) => modified,
            _ => self.count(),
        }
    }

    fn weights(&mut self) -> Weights {
        self.pick(&["1:0", "0:1", "1:1", "1:3", "3:1", "9999:10000"]).parse().unwrap()
    }

    fn flag(&mut self) -> bool {
        self.one_in(3)
    }

    /// One that a node of this build goes on with.
    fn level(&mut self) -> u32 {
        self.below(u64::from(FEATURE_LEVEL_MAX) + 1) as u32
    }

    fn reason(&mut self) -> Reason {
        Reason::new(self.pick(&["operator", "crash_loop", "node_stopped", ""]), "by the dice")
    }

    fn options(&mut self) -> UpdateOptions {
        let mut options = UpdateOptions {
            cleanup: self.pick(&[
                CleanupPolicy::Immediate,
                CleanupPolicy::GracePeriod,
                CleanupPolicy::Manual,
            ]),
            on_deploy_failure: self.pick(&[
                DeadlineAction::Rollback,
                DeadlineAction::Pause,
                DeadlineAction::Fail,
            ]),
            manual_approval: self.flag(),
            ..UpdateOptions::default()
        };
        if self.one_in(6) {
            let (error_rate_ppm, p99_ms) = (self.count32(), self.count32());
            options.thresholds = Thresholds { error_rate_ppm, p99_ms, requests_min: self.count() };
            options.grace_ms = self.count();
            options.deploy_timeout_ms = self.count();
            options.healthy_ms = self.count();
            options.on_deploy_failure = DeadlineAction::Alert;
        }
        options
    }

    fn strategy(&mut self) -> Strategy {
        let hold_ms = self.count();
        let analysis = Analysis {
            on_failure: self.pick(&[DeadlineAction::Pause, DeadlineAction::Rollback]),
            patience_ms: self.count(),
            warm_up_ms: if self.one_in(4) { self.count() } else { 0 },
            gates: if self.one_in(3) { self.gates() } else { Vec::new() },
        };
        let one_way = self.one_in(4).then(|| self.count32());
        if self.one_in(3) {
            return Strategy::BlueGreen(BlueGreen {
                verify_ms: self.count(),
                auto_promote: self.flag(),
                hold_ms,
                analysis,
                one_way: one_way.is_some(),
                barrier: self.one_in(2),
            });
        }
        if self.one_in(4) {
            return Strategy::Recreate(Recreate { analysis });
        }
        if self.one_in(2) {
            let mut share = || match self.one_in(2) {
                true => Share::Count { n: self.count32() },
                false => Share::Percent { n: self.below(110) as u32 },
            };
            let (max_unavailable, max_surge) = (share(), share());
            let batches = vec![share(), share()];
            return Strategy::Rolling(Rolling {
                max_failures: if self.one_in(3) { self.count32() } else { 0 },
                max_unavailable,
                max_surge,
                batches,
                stagger_ms: self.count(),
                hold_ms: if self.flag() { hold_ms } else { 0 },
                analysis,
                one_way_from: one_way,
                reload: self.one_in(3),
            });
        }
        let lists = [
            "1:9, 1:1, 1:0",
            "1:0",
            "1:3 pause, 1:0",
            "1:3 evidence 1s, 1:0",
            "1:1, 1:9",
            "25%, 50%, 100% pause",
        ];
        Strategy::Canary(Canary {
            steps: Step::list(self.pick(&lists), hold_ms).unwrap(),
            analysis,
            scale_with_weight: self.flag(),
            one_way_from: one_way,
        })
    }

    fn side(&mut self) -> Side {
        let (requests, errors) = (self.count().saturating_mul(100), self.count());
        Side { requests, errors, timed: requests, slow: self.count() }
    }

    /// When an update was last changed: mostly rightly.
    fn modified(&mut self, update: &UpdateId) -> u64 {
        match self.state.updates.get(update).map(|update| update.modified) {
            Some(modified) if !self.one_in(4) => modified,
            _ => self.count(),
        }
    }

    fn observation(&mut self) -> Observation {
        let observed = self.pick(&[
            Observed::Assigned,
            Observed::Fetching,
            Observed::Starting,
            Observed::Ready,
            Observed::Ready,
            Observed::Unready,
            Observed::Crashed,
            Observed::Stopping,
            Observed::Stopped,
            Observed::Unknown,
        ]);
        let port = 10_000 + self.below(1_000);
        let instance = self.instance();
        let reload = self.state.instances.get(&instance).and_then(|i| i.reload.as_ref());
        let reload = reload.map(|reload| reload.at);
        Observation {
            reloaded: reload.filter(|_| !self.one_in(3)).or(self.one_in(16).then(|| self.count())),
            instance,
            observed,
            endpoint: (!self.one_in(4)).then(|| format!("127.0.0.1:{port}").parse().unwrap()),
            restarts: self.count32(),
            reason: self.one_in(2).then(|| self.reason()),
        }
    }

    fn register_artifact(&mut self) -> Command {
        let (named, meant) = (self.version::<aether_core::coordinates::Version>(), self.one_in(8));
        let named = if named.as_str().len() > 100 { "4.0.0".to_owned() } else { named.to_string() };
        let rules = self.pick(&["", "[[ingress]]\npath = '/a'\n", "[[ingress]]\nhost = 'h'\n"]);
        let run = self.pick(&["", "reload_signal = 'SIGHUP'\n"]);
        let text = format!("artifact = '{SLICE}:{named}'\n[run]\ncommand = ['./x']\n{run}{rules}");
        let mut manifest = Manifest::parse(&text).unwrap();
        if self.one_in(8) {
            manifest.run.command.clear();
        }
        let digest = self.pick(&["2", "3", "4"]).repeat(64);
        Command::RegisterArtifact {
            artifact: format!("{SLICE}:{}", if meant { "9.9.9" } else { &named }).parse().unwrap(),
            digest: if self.one_in(8) { "../x".to_owned() } else { digest },
            size_bytes: self.count(),
            manifest: Arc::new(manifest),
            holder: self.node(),
            others: self.nodes().into_iter().collect(),
        }
    }

    fn pushed(&mut self) -> Artifact {
        format!("{SLICE}:{}", self.pick(&["1.0.0", "2.0.0", "9.9.9"])).parse().unwrap()
    }
}

/// Makes one command.
type Make = fn(&mut Dice<'_>) -> Command;

/// By name, how often and in what way each command is made.
pub const MAKERS: &[(&str, usize, Make)] = &[
    ("PutConfig", 2, |dice| Command::PutConfig {
        name: dice.config(),
        value: "x"
            .repeat(dice.below(3) as usize * CONFIG_VALUE_BYTES_MAX / 2 + dice.count() as usize % 3)
            .into(),
        if_modified: dice.one_in(2).then(|| dice.count()),
    }),
    ("RemoveConfig", 1, |dice| Command::RemoveConfig {
        name: dice.config(),
        if_modified: dice.one_in(4).then(|| dice.count()),
    }),
    ("RegisterArtifact", 2, |dice| dice.register_artifact()),
    ("ArtifactHeld", 1, |dice| Command::ArtifactHeld {
        artifact: dice.pushed(),
        digest: format!("{:064x}", 0x30 + dice.below(4)),
        holder: dice.node(),
    }),
    ("ArtifactDropped", 1, |dice| Command::ArtifactDropped {
        artifact: dice.pushed(),
        digest: format!("{:064x}", 0x30 + dice.below(4)),
        holder: dice.node(),
    }),
    ("RemoveArtifact", 1, |dice| Command::RemoveArtifact { artifact: dice.pushed() }),
    ("Deploy", 3, |dice| Command::Deploy {
        slice: dice.slice(),
        version: dice.version(),
        instances: dice.count32(),
    }),
    ("RecordInput", 1, |dice| {
        let plan = planner::plan(&View {
            state: dice.state,
            now_ms: dice.state.meta.log_time_ms.saturating_add(dice.count()),
            sessions: &BTreeMap::new(),
            nodes: &BTreeMap::new(),
            verdicts: &BTreeMap::new(),
            table_age_max_ms: dice.count(),
            node_lost_ms: dice.count(),
        });
        let seen = || Seen { now_ms: 7, table_age_max_ms: 5, node_lost_ms: 3, ..Seen::default() };
        let (update, rows) = (dice.update(), "0".repeat(32));
        let otherwise = || Command::RecordInput { update, rows, seen: seen(), decided: vec![] };
        plan.inputs.into_iter().next().unwrap_or_else(otherwise)
    }),
    ("SetCurrent", 1, |dice| Command::SetCurrent { slice: dice.slice(), version: dice.version() }),
    ("Scale", 2, |dice| Command::Scale { slice: dice.slice(), instances: dice.count32() }),
    ("Undeploy", 1, |dice| Command::Undeploy {
        slice: dice.slice(),
        version: dice.flag().then(|| dice.version()),
    }),
    ("StartUpdate", 10, |dice| Command::StartUpdate {
        slice: dice.slice(),
        version: dice.version(),
        instances: dice.flag().then(|| dice.count32()),
        options: dice.options(),
    }),
    ("SetWeights", 10, |dice| Command::SetWeights {
        update: dice.update(),
        weights: dice.weights(),
        force: dice.flag(),
        if_modified: dice.one_in(8).then(|| dice.count()),
    }),
    ("Approve", 3, |dice| Command::Approve {
        update: dice.update(),
        weights: dice.one_in(8).then(|| dice.weights()),
        if_modified: dice.one_in(8).then(|| dice.count()),
    }),
    ("Complete", 5, |dice| Command::Complete {
        update: dice.update(),
        force: dice.flag(),
        if_modified: dice.one_in(8).then(|| dice.count()),
    }),
    ("Rollback", 2, |dice| Command::Rollback {
        update: dice.update(),
        now: dice.flag(),
        reason: dice.flag().then(|| dice.reason()),
        force: dice.flag(),
        if_modified: dice.one_in(8).then(|| dice.count()),
    }),
    ("Resume", 3, |dice| Command::Resume {
        update: dice.update(),
        if_modified: dice.one_in(8).then(|| dice.count()),
    }),
    ("Undo", 3, |dice| Command::Undo {
        update: dice.ended_update(),
        weights: dice.weights(),
        force: dice.flag(),
        cleanup: dice.one_in(4).then_some(CleanupPolicy::Manual),
        grace_ms: dice.one_in(4).then(|| dice.count()),
        if_modified: dice.one_in(8).then(|| dice.count()),
    }),
    ("Cleanup", 1, |dice| Command::Cleanup {
        update: dice.ended_update(),
        if_modified: dice.one_in(8).then(|| dice.count()),
    }),
    ("SetOptions", 2, |dice| Command::SetOptions {
        update: dice.update(),
        changes: OptionChanges {
            error_rate_ppm: dice.flag().then(|| dice.count32()),
            p99_ms: dice.flag().then(|| dice.count32()),
            manual_approval: dice.flag().then(|| dice.flag()),
            deploy_timeout_ms: dice.one_in(6).then(|| dice.count()),
            healthy_ms: dice.one_in(6).then(|| dice.count()),
            ..OptionChanges::default()
        },
        if_modified: dice.one_in(8).then(|| dice.count()),
    }),
    ("StartWith", 4, |dice| Command::StartWith {
        slice: dice.slice(),
        version: dice.version(),
        instances: dice.one_in(4).then(|| dice.count32()),
        options: dice.options(),
        strategy: dice.strategy(),
        supersede: dice.one_in(3),
        remake: dice.remake(),
    }),
    ("PushConfig", 4, |dice| dice.push_config()),
    ("Promote", 3, |dice| Command::Promote {
        update: dice.update(),
        full: dice.one_in(3),
        force: dice.flag(),
        if_modified: dice.one_in(8).then(|| dice.count()),
    }),
    ("Suspend", 2, |dice| Command::Suspend {
        update: dice.update(),
        why: dice.flag().then(|| "x".repeat(dice.count() as usize % 600)),
        if_modified: dice.one_in(8).then(|| dice.count()),
    }),
    ("EnterStep", 1, |dice| {
        let update = dice.update();
        let next = dice.state.updates.get(&update).map_or(0, |update| update.step() + 1);
        let step = if dice.one_in(4) { dice.count32() } else { next };
        let if_modified = dice.modified(&update);
        let last = dice.state.sessions.values().map(|s| s.opened).max();
        let opened_max = match dice.one_in(4) {
            true => Some(dice.count()),
            false => last.filter(|_| dice.flag()),
        };
        Command::EnterStep { if_modified, step, update, opened_max }
    }),
    ("HoldCalls", 3, |dice| {
        let update = dice.update();
        Command::HoldCalls { if_modified: dice.modified(&update), update }
    }),
    ("ScaleNew", 2, |dice| {
        let update = dice.update();
        let if_modified = dice.modified(&update);
        let most = dice.state.updates.get(&update).map_or(0, |update| update.instances);
        let instances = if dice.one_in(3) { dice.count32() } else { most };
        Command::ScaleNew { update, instances, if_modified }
    }),
    ("MoveInPlace", 3, |dice| {
        let update = dice.update();
        let if_modified = dice.modified(&update);
        let (new, old) = match dice.state.updates.get(&update).filter(|_| !dice.one_in(3)) {
            // One step of what an update in place takes.
            Some(known) => {
                let target = |no| {
                    let target = dice.state.targets.get(&(known.slice.clone(), no));
                    target.map_or(0, |target| target.instances)
                };
                let old = known.old.as_ref().map_or(0, |old| target(old.revision));
                let new = target(known.new.revision);
                if dice.flag() { (new + 1, old) } else { (new, old.saturating_sub(1)) }
            }
            None => (dice.count32(), dice.count32()),
        };
        Command::MoveInPlace { update, new, old, if_modified }
    }),
    ("MarkSwitched", 1, |dice| {
        let update = dice.update();
        let if_modified = dice.modified(&update);
        let late_calls = if dice.one_in(3) { dice.count() } else { 0 };
        Command::MarkSwitched { update, mixed_ms: dice.count(), if_modified, late_calls }
    }),
    ("RecordGate", 3, |dice| {
        let update = dice.update();
        let record = dice.state.updates.get(&update);
        let way = record.and_then(|record| record.way());
        let asked = way.as_ref().zip(record).and_then(|(way, record)| {
            let (gate, step) = way.gates_beyond(record.step()).next()?;
            let progress = record.progress.as_ref()?;
            let measured = progress.gate(gate, step).map_or(0, |state| state.measured);
            Some((gate.name.clone(), gate.when, step, progress.since_ms, measured + 1))
        });
        let off = || ("a".to_owned(), GateWhen::After, 1, 0, 1);
        let (gate, when, step, since_ms, number) = asked.unwrap_or_else(off);
        let number = if dice.one_in(6) { dice.count32() } else { number };
        let since_ms = if dice.one_in(6) { dice.count() } else { since_ms };
        let verdict = dice.pick(&[
            GateVerdict::Pass,
            GateVerdict::Pass,
            GateVerdict::Fail,
            GateVerdict::Inconclusive,
        ]);
        let message = "m".repeat(dice.pick(&[0, 3, 500, 501]));
        Command::RecordGate { update, gate, when, step, since_ms, number, verdict, message }
    }),
    ("RecordEvidence", 3, |dice| {
        let update = dice.update();
        let known = dice.state.evidence.get(&update).map(|record| record.measure);
        let known = known.unwrap_or(Measure { p99_ms: 500, reference: None });
        let sums = (0..dice.below(3)).map(|_| {
            let session = dice.session();
            let known = dice.state.sessions.get(&session).map_or(0, |known| known.opened);
            let life = if dice.one_in(4) { dice.count() } else { known };
            let tallies = Tallies { new: dice.side(), old: dice.side() };
            (session, Sums { life, tallies, late: dice.count() })
        });
        let sums = sums.collect();
        let mut measure = known;
        if dice.one_in(4) {
            measure.reference = Some(dice.count32());
        }
        if dice.one_in(8) {
            measure.p99_ms = dice.count32();
        }
        let told = if dice.flag() { dice.below(3) } else { 0 };
        let instances = (0..told).map(|_| {
            let side = Side { requests: dice.below(20), ..dice.side() };
            (dice.instance(), Counts { side, late: dice.below(3) })
        });
        let instances = instances.collect();
        Command::RecordEvidence { update, measure, sums, instances }
    }),
    ("SetNodeSchedule", 2, |dice| Command::SetNodeSchedule {
        node: dice.node(),
        schedule: dice.pick(&[
            NodeSchedule::Open,
            NodeSchedule::Open,
            NodeSchedule::Cordoned,
            NodeSchedule::Draining,
        ]),
    }),
    ("ForgetNode", 1, |dice| Command::ForgetNode { node: dice.node(), force: dice.flag() }),
    ("FreezeReplacement", 1, |dice| Command::FreezeReplacement {
        frozen: dice.flag(),
        silent: dice.count32(),
    }),
    ("Pause", 1, |dice| Command::Pause {
        update: dice.update(),
        reason: dice.reason(),
        if_modified: dice.one_in(8).then(|| dice.count()),
    }),
    ("BeginDeploy", 1, |dice| {
        let update = dice.update();
        let wanted = dice.state.updates.get(&update).map_or(0, |update| update.instances);
        let nodes = dice.nodes();
        let all = (0..wanted.min(8)).map(|_| dice.node()).collect();
        let placements = if dice.one_in(4) { nodes } else { all };
        Command::BeginDeploy { update, placements }
    }),
    ("MarkDeployed", 1, |dice| Command::MarkDeployed { update: dice.update() }),
    ("ShiftBack", 1, |dice| Command::ShiftBack { update: dice.update(), weights: dice.weights() }),
    ("RemoveLosingSide", 1, |dice| {
        let update = dice.update();
        let if_modified = if dice.flag() { dice.modified(&update).into() } else { None };
        Command::RemoveLosingSide { update, if_modified }
    }),
    ("Finish", 1, |dice| Command::Finish { update: dice.update() }),
    ("Fail", 1, |dice| Command::Fail { update: dice.update(), reason: dice.reason() }),
    ("MarkUnplaced", 1, |dice| Command::MarkUnplaced {
        slice: dice.slice(),
        revision: dice.revision(),
        why: dice.flag().then(|| "no room".to_owned()),
    }),
    ("Rearm", 1, |dice| Command::Rearm { update: dice.update() }),
    ("Retire", 1, |dice| Command::Retire { slice: dice.slice() }),
    ("Assign", 1, |dice| {
        let (slice, revision) = (dice.slice(), dice.revision());
        let target_modified = dice.target_modified(&slice, revision);
        Command::Assign { slice, revision, placements: dice.nodes(), target_modified }
    }),
    ("Drain", 1, |dice| {
        let instances = dice.instances();
        let first = instances.first().and_then(|id| dice.state.instances.get(id));
        let of = first.map(|first| (first.slice.clone(), first.revision));
        let (slice, revision) = of.unwrap_or_else(|| (dice.slice(), dice.revision()));
        let target_modified = dice.target_modified(&slice, revision);
        Command::Drain { instances, target_modified }
    }),
    ("Stop", 1, |dice| Command::Stop {
        instances: dice.instances(),
        waived: dice.flag().then(|| "the dice said so".to_owned()),
    }),
    ("Observe", 2, |dice| {
        let observation = dice.observation();
        let at = dice.state.instances.get(&observation.instance).map(|known| known.node.clone());
        let node = at.filter(|_| !dice.one_in(8)).unwrap_or_else(|| dice.node());
        Command::Observe { node, observations: vec![observation] }
    }),
    ("RegisterNode", 1, |dice| Command::RegisterNode {
        node: dice.node(),
        address: "127.0.0.1:9001".parse().unwrap(),
        labels: Default::default(),
        instances_max: dice.count32(),
    }),
    ("SetNodeLifecycle", 1, |dice| Command::SetNodeLifecycle {
        node: dice.node(),
        lifecycle: dice.pick(&[
            NodeLifecycle::Ready,
            NodeLifecycle::Ready,
            NodeLifecycle::Unreachable,
            NodeLifecycle::Lost,
        ]),
    }),
    ("OpenSession", 1, |dice| {
        let session = dice.session();
        let known = dice.state.sessions.get(&session).map_or(0, |known| known.opened);
        Command::OpenSession {
            session,
            kind: dice.pick(&[SessionKind::Invoker, SessionKind::Ingress]),
            name: if dice.one_in(8) { "x".repeat(300) } else { "caller".to_owned() },
            fresh: dice.flag(),
            follows: if dice.one_in(3) { dice.count() } else { known },
        }
    }),
    ("CloseSession", 1, |dice| {
        let session = dice.session();
        let known = dice.state.sessions.get(&session).map_or(0, |known| known.opened);
        let opened = if dice.one_in(3) { dice.count() } else { known };
        Command::CloseSession { session, opened, reason: "by the dice".to_owned() }
    }),
    ("InviteVoter", 1, |dice| Command::InviteVoter {
        node: dice.node(),
        peer_addr: dice.pick(&["127.0.0.1:8091", "host:1", "", ":1", "host:0", "[::1]:9"]).into(),
        replaces: dice.flag().then(|| dice.count()),
    }),
    ("AdmitVoter", 1, |dice| Command::AdmitVoter {
        node: dice.node(),
        dir_id: dice.pick(&["one", "other", ""]).into(),
        feature_level: dice.level(),
    }),
    ("RemoveVoter", 1, |dice| Command::RemoveVoter { node: dice.node(), raft_id: dice.count() }),
    ("EndVoterChange", 1, |dice| {
        let node = dice.node();
        let known = dice.state.voter_changes.get(&node).map_or(0, |change| change.modified);
        Command::EndVoterChange {
            node,
            modified: if dice.one_in(4) { dice.count() } else { known },
        }
    }),
    ("RaiseFeatureLevel", 1, |dice| Command::RaiseFeatureLevel { to: dice.level() }),
    ("Tick", 1, |_| Command::Tick {}),
];
