//! A small world around the pure core: a log, agents, sessions, and time, all
//! driven by the test. After every entry the structural invariants are checked
//! and the guards that no command may break.

#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aether_core::apply::Position;
use aether_core::command::{Answer, Command, Observation, Outcome, Refusal, Request};
use aether_core::evidence::{Side, Tallies};
use aether_core::health::Verdict;
use aether_core::ids::{InstanceId, NodeName, SessionId, UpdateId};
use aether_core::level::{FEATURE_LEVEL_FIRST, FEATURE_LEVEL_MAX};
use aether_core::lint::lint;
use aether_core::manifest::Manifest;
use aether_core::planner::{self, Holding, NodeView, Plan, SessionView, View};
use aether_core::records::{
    Analysis, Canary, Counts, Desired, InstanceRecord, Observed, Reason, Remake, Rolling,
    SessionKind, Share, Step, Strategy, Sums, UpdateOptions, UpdateRecord, UpdateState,
};
use aether_core::state::{RevisionKey, State};

pub struct World {
    pub state: State,
    pub now_ms: u64,
    pub term: u64,
    pub sessions: BTreeMap<SessionId, SessionView>,
    pub silent_nodes: BTreeSet<NodeName>,
    /// Nodes that this leader has not heard of yet.
    pub awaited_nodes: BTreeSet<NodeName>,
    /// Log time from which silence counts under this leader.
    pub heard_since_ms: u64,
    pub verdicts: BTreeMap<UpdateId, Verdict>,
    /// By version or instance, what its agent reports instead of READY.
    pub broken: BTreeMap<String, (Observed, u32, Reason)>,
    /// Calls in flight that a session will not let go of.
    pub stuck_calls: BTreeSet<InstanceId>,
    /// Log index that made each revision, also of those that are forgotten.
    pub revisions: BTreeMap<RevisionKey, u64>,
    /// How often each instance was started, ever.
    pub started: BTreeMap<InstanceId, u32>,
    pub agents_work: bool,
    /// Instances whose processes do not read their files again when they are told to.
    pub deaf: BTreeSet<InstanceId>,
    pub sessions_work: bool,
    /// Every entry, in order.
    pub log: Vec<(Position, Request)>,
}

/// How long a node is unreachable before it is lost.
pub const NODE_LOST_MS: u64 = 30_000;

pub const SLICE: &str = "org.example:my-slice";

impl World {
    /// Three nodes, two sessions, three versions pushed, 1.0.0 deployed on
    /// `instances` instances and ready.
    pub fn deployed(instances: u32) -> Self {
        Self::deployed_at(FEATURE_LEVEL_MAX, instances)
    }

    /// Likewise at a feature level.
    pub fn deployed_at(level: u32, instances: u32) -> Self {
        let mut world = Self::empty_at(level);
        let deploy = Command::Deploy {
            slice: SLICE.parse().unwrap(),
            version: "1.0.0".parse().unwrap(),
            instances,
        };
        world.ok(deploy);
        world.settle();
        world
    }

    pub fn empty() -> Self {
        Self::empty_at(FEATURE_LEVEL_MAX)
    }

    fn empty_at(level: u32) -> Self {
        let mut world = Self {
            state: State::default(),
            now_ms: 1_000,
            term: 1,
            sessions: BTreeMap::new(),
            silent_nodes: BTreeSet::new(),
            awaited_nodes: BTreeSet::new(),
            heard_since_ms: 0,
            verdicts: BTreeMap::new(),
            broken: BTreeMap::new(),
            stuck_calls: BTreeSet::new(),
            revisions: BTreeMap::new(),
            started: BTreeMap::new(),
            agents_work: true,
            deaf: BTreeSet::new(),
            sessions_work: true,
            log: Vec::new(),
        };
        if level > FEATURE_LEVEL_FIRST {
            world.ok(Command::RaiseFeatureLevel { to: level });
        }
        (1..=3).for_each(|node| world.set_room(node, 100));
        for name in ["s1", "s2"] {
            let session: SessionId = name.parse().unwrap();
            world.ok(Command::OpenSession {
                session: session.clone(),
                kind: SessionKind::Invoker,
                name: format!("caller {name}"),
                fresh: true,
                follows: 0,
            });
            world.sessions.insert(session, SessionView::Awaited);
        }
        for version in ["1.0.0", "2.0.0", "3.0.0"] {
            world.ok(register(version));
        }
        world
    }

    pub fn propose(&mut self, command: Command) -> Outcome {
        let before = self.state.clone();
        let at = Position {
            term: self.term,
            index: self.state.meta.index + 1,
            log_time_ms: self.now_ms,
            wall_ms: self.now_ms,
        };
        let actor = "test".to_owned();
        let request = Request { request_id: None, actor, command: command.clone() };
        let outcome = self.state.apply(at, &request);
        self.log.push((at, request));
        let findings = lint(&self.state);
        assert!(findings.is_empty(), "after {command:?}: {findings:#?}");
        match &outcome {
            Err(_) => {
                let changed = State::diff(&before, &self.state);
                assert_eq!(changed, [], "a refused {command:?} changed something");
                assert!(self.state.meta.differs_in_position_only(&before.meta));
            }
            Ok(_) => self.check_guards(&before, &command),
        }
        self.check_revisions();
        outcome
    }

    /// No revision number ever means two things.
    fn check_revisions(&mut self) {
        for (key, revision) in &self.state.revisions {
            let made = self.revisions.entry(key.clone()).or_insert(revision.created);
            assert_eq!(*made, revision.created, "{} {} was used before", key.0, key.1);
        }
    }

    /// Guards that no command may break.
    fn check_guards(&self, before: &State, command: &Command) {
        for (id, instance) in &self.state.instances {
            let was = before.instances.get(id);
            let stopped_now = instance.desired == Desired::Stop
                && was.is_some_and(|was| was.desired != Desired::Stop);
            if stopped_now {
                assert!(!was.unwrap().is_routable(), "{command:?} stops {id}, which takes calls");
            }
        }
        if let Command::RemoveArtifact { artifact } = command {
            self.check_removed(&artifact.version.to_string());
        }
        let slice = SLICE.parse().unwrap();
        let way = self.state.live_update(&slice).and_then(|update| update.way()?.in_place);
        if way.is_some_and(|bounds| bounds.floor == 0) {
            // That nothing serves for a while is what was asked for.
            return;
        }
        let (old, new) = (before.slice_table(&slice), self.state.slice_table(&slice));
        if let (Some(old), Some(new)) = (old, new)
            && old.effective_weights().is_some()
            // Instances die by themselves, and some of it is a person's own decision.
            && !matches!(
                command,
                Command::Observe { .. }
                    | Command::Rollback { now: true, .. }
                    | Command::SetWeights { force: true, .. }
                    | Command::Approve { .. }
                    | Command::Undeploy { .. }
                    | Command::SetNodeLifecycle { .. }
                    | Command::ForgetNode { .. }
            )
        {
            let update = self.state.live_update(&slice);
            assert!(
                new.effective_weights().is_some(),
                "{command:?} left calls nowhere to go: {update:#?}"
            );
        }
    }

    /// Nothing that runs, should run or may be gone back to was removed.
    fn check_removed(&self, version: &str) {
        let no = |key: RevisionKey| self.state.revisions[&key].version.to_string();
        let running = self.state.instances.values().map(|i| no((i.slice.clone(), i.revision)));
        let wanted = self.state.targets.values().map(|t| no((t.slice.clone(), t.revision)));
        let live = self.state.updates.values().filter(|update| !update.state.is_terminal());
        let sides = live.flat_map(|u| [Some(&u.new), u.old.as_ref()]).flatten();
        let sides = sides.map(|side| side.version.to_string());
        let used: BTreeSet<String> = running.chain(wanted).chain(sides).collect();
        assert!(!used.contains(version), "{version} was removed, but is used");
    }

    pub fn ok(&mut self, command: Command) -> Answer {
        let text = format!("{command:?}");
        self.propose(command).unwrap_or_else(|refusal| panic!("{text} was refused: {refusal}"))
    }

    pub fn plan(&self) -> Plan {
        let nodes: BTreeMap<NodeName, NodeView> = self
            .state
            .nodes
            .keys()
            .filter(|node| !self.awaited_nodes.contains(*node))
            .map(|node| match self.silent_nodes.contains(node) {
                true => (node.clone(), NodeView::Silent { since_ms: self.heard_since_ms }),
                false => (node.clone(), NodeView::Reporting),
            })
            .collect();
        planner::plan(&View {
            state: &self.state,
            now_ms: self.now_ms,
            sessions: &self.sessions,
            nodes: &nodes,
            verdicts: &self.verdicts,
            table_age_max_ms: 600_000,
            node_lost_ms: NODE_LOST_MS,
        })
    }

    /// One round: plan, carry out, agents act, sessions ack. Whether anything
    /// happened.
    pub fn round(&mut self) -> bool {
        let index = self.state.meta.index;
        let sessions = self.sessions.clone();
        let plan = self.plan();
        for input in plan.inputs {
            self.ok(input);
        }
        for command in plan.commands {
            // A stale decision is refused and planned anew; nothing else may be.
            if let Err(refusal) = self.propose(command.clone()) {
                assert!(matches!(refusal, Refusal::Stale { .. }), "{command:?}: {refusal}");
            }
        }
        if self.agents_work {
            self.agents_act();
        }
        if self.sessions_work {
            self.sessions_ack();
        }
        index != self.state.meta.index || sessions != self.sessions
    }

    pub fn rounds(&mut self, count: u32) {
        for _ in 0..count {
            self.round();
        }
    }

    /// Whoever decides now decides all that there is to be decided, and nobody acts on it.
    pub fn decide(&mut self) {
        for command in self.plan().commands {
            drop(self.propose(command));
        }
    }

    pub fn settle(&mut self) {
        for _ in 0..1_000 {
            self.now_ms += 100;
            let wakes_soon = self.plan().wake_at_ms.is_some_and(|at| at < self.now_ms + 10_000);
            if !self.round() && !wakes_soon {
                return;
            }
        }
        panic!("does not settle: {:#?}", self.plan());
    }

    pub fn agents_act(&mut self) {
        for command in self.agents_report() {
            self.ok(command);
        }
    }

    /// What the agents have to say, as they act.
    pub fn agents_report(&mut self) -> Vec<Command> {
        let mut reports: BTreeMap<NodeName, Vec<Observation>> = BTreeMap::new();
        for (k, instance) in self.state.instances.values().enumerate() {
            // An agent never starts again what it has stopped, unless its node returns.
            let over = instance.has_ended() && instance.desired != Desired::Stop;
            if over || self.silent_nodes.contains(&instance.node) {
                continue;
            }
            let version = self.state.revisions[&(instance.slice.clone(), instance.revision)]
                .version
                .to_string();
            let mut seen = Observation {
                instance: instance.id.clone(),
                observed: Observed::Ready,
                endpoint: instance
                    .endpoint
                    .or_else(|| Some(format!("127.0.0.1:{}", 10_000 + k).parse().unwrap())),
                restarts: 0,
                reason: None,
                reloaded: None,
            };
            if instance.desired == Desired::Stop {
                seen.observed = Observed::Stopped;
            } else if let Some((observed, restarts, reason)) =
                self.broken.get(instance.id.as_str()).or_else(|| self.broken.get(&version))
            {
                seen.observed = *observed;
                seen.restarts = *restarts;
                seen.reason = Some(reason.clone());
            }
            let reload = instance.reload.as_ref().filter(|reload| !reload.done);
            if seen.observed == Observed::Ready && !self.deaf.contains(&instance.id) {
                seen.reloaded = reload.map(|reload| reload.at);
            }
            if instance.observed == Observed::Assigned {
                *self.started.entry(instance.id.clone()).or_default() += 1;
            }
            let ended = seen.observed == Observed::Stopped && instance.desired == Desired::Stop;
            let reloads = seen.reloaded.is_some();
            if ended
                || reloads
                || seen.observed != instance.observed
                || seen.restarts != instance.restarts
            {
                reports.entry(instance.node.clone()).or_default().push(seen);
            }
        }
        let reports = reports.into_iter();
        reports.map(|(node, observations)| Command::Observe { node, observations }).collect()
    }

    pub fn sessions_ack(&mut self) {
        let applied = self.state.meta.index;
        let in_table: BTreeSet<InstanceId> = self
            .state
            .slice_table(&SLICE.parse().unwrap())
            .iter()
            .flat_map(|t| t.new.iter().chain(&t.old))
            .flat_map(|set| set.endpoints.iter().map(|e| e.instance.clone()))
            .collect();
        for view in self.sessions.values_mut() {
            if !matches!(view, SessionView::Unreachable { .. }) {
                let busy = self.stuck_calls.difference(&in_table).cloned().collect();
                // The tables have not changed since what was acked: nothing to say.
                let known = matches!(view, SessionView::Connected { applied: a, busy: b, .. }
                    if tables_since(&self.state, *a) == 0 && *b == busy);
                if !known {
                    let holding = match view {
                        SessionView::Connected { holding, .. } => std::mem::take(holding),
                        _ => Holding::able(),
                    };
                    *view = SessionView::Connected { applied, busy, holding };
                }
            }
        }
    }

    /// Node `n{node}` says how many instances it takes.
    pub fn set_room(&mut self, node: u8, instances_max: u32) {
        self.ok(Command::RegisterNode {
            node: format!("n{node}").parse().unwrap(),
            address: format!("127.0.0.1:{}", 9000 + u16::from(node)).parse().unwrap(),
            labels: BTreeMap::new(),
            instances_max,
        });
    }

    /// An instance ends unasked, and its agent says so.
    pub fn end_unasked(&mut self, id: &InstanceId) {
        let record = self.state.instances[id].clone();
        let observation = Observation {
            instance: record.id.clone(),
            observed: Observed::Stopped,
            endpoint: record.endpoint,
            restarts: record.restarts,
            reason: None,
            reloaded: None,
        };
        self.ok(Command::Observe { node: record.node.clone(), observations: vec![observation] });
    }

    /// The leader dies: what was volatile is gone.
    pub fn fail_over(&mut self) {
        self.term += 1;
        self.verdicts.clear();
        for view in self.sessions.values_mut() {
            *view = SessionView::Awaited;
        }
        let rows = self.state.rows();
        let rebuilt = State::from_rows(rows.clone().into_iter()).unwrap();
        assert_eq!(rebuilt.rows(), rows, "snapshot + replay equals replay");
        self.state = rebuilt;
    }

    /// Calls of an update that session s1 has counted, since it began: how many
    /// reached the new version, how many of them failed, and how many took too long.
    pub fn count(&mut self, id: &UpdateId, requests: u64, errors: u64, late: u64) {
        let new = Side { requests, errors, timed: 0, slow: 0 };
        let tallies = Tallies { new, old: Side::default() };
        self.told(id, tallies, late);
    }

    /// What session s1 has counted of both versions, since it began.
    pub fn told(&mut self, id: &UpdateId, tallies: Tallies, late: u64) {
        let session: SessionId = "s1".parse().unwrap();
        let life = self.state.sessions[&session].opened;
        let record = self.state.evidence[id].clone();
        let nothing = Sums { life, ..Sums::default() };
        let is_first = record.measure.p99_ms == UpdateOptions::default().thresholds.p99_ms;
        // It told the same a moment ago: what is new was counted since then.
        let before = record.marks.get(&session).map(|mark| mark.sums);
        let before = before.or(is_first.then_some(nothing));
        for sums in before.into_iter().chain([Sums { life, tallies, late }]) {
            self.ok(Command::RecordEvidence {
                update: id.clone(),
                measure: record.measure,
                sums: [(session.clone(), sums)].into(),
                instances: BTreeMap::new(),
            });
        }
    }

    /// One more second of calls to the new version that session s1 counts: how many
    /// reached each instance of it in the order of their names, and how many of these
    /// failed. The old version has ten times as many, of which none fails.
    pub fn count_by_instance(&mut self, id: &UpdateId, calls: &[(u64, u64)]) {
        let session: SessionId = "s1".parse().unwrap();
        let life = self.state.sessions[&session].opened;
        let record = self.state.evidence[id].clone();
        let known = record.marks.get(&session).map(|mark| mark.sums);
        let mut sums = known.unwrap_or(Sums { life, ..Sums::default() });
        let mut instances = BTreeMap::new();
        let of_new = self.instances(self.update(id).new.version.as_str());
        for (instance, (requests, errors)) in of_new.into_iter().zip(calls) {
            let side = Side { requests: *requests, errors: *errors, timed: 0, slow: 0 };
            sums.tallies.new.fold(side);
            sums.tallies.old.requests += requests * 10;
            instances.insert(instance, Counts { side, late: 0 });
        }
        self.ok(Command::RecordEvidence {
            update: id.clone(),
            measure: record.measure,
            sums: [(session, sums)].into(),
            instances,
        });
    }

    /// Time passes, and what follows from it happens.
    pub fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.rounds(5);
    }

    /// Codes of what is waited for.
    pub fn waits(&self) -> Vec<&'static str> {
        self.plan().waits.values().flatten().map(|wait| wait.code).collect()
    }

    pub fn start(&mut self, version: &str, options: UpdateOptions) -> UpdateId {
        self.ok(start(version, None, options)).update.unwrap()
    }

    pub fn update(&self, id: &UpdateId) -> &UpdateRecord {
        &self.state.updates[id]
    }

    pub fn state_of(&self, id: &UpdateId) -> UpdateState {
        self.update(id).state
    }

    /// Instances of a version, whatever they do.
    pub fn instances(&self, version: &str) -> Vec<InstanceId> {
        let of_version = |i: &&Arc<InstanceRecord>| {
            let revision = &self.state.revisions[&(i.slice.clone(), i.revision)];
            revision.version.as_str() == version
        };
        self.state.instances.values().filter(of_version).map(|i| i.id.clone()).collect()
    }

    /// Ready instances of a version that calls may reach.
    pub fn ready(&self, version: &str) -> usize {
        let all = self.instances(version);
        all.iter().filter(|id| self.state.instances[*id].is_routable()).count()
    }
}

pub fn register(version: &str) -> Command {
    registered(version, "")
}

/// Likewise with more in `[run]`.
pub fn registered(version: &str, run: &str) -> Command {
    let text = format!("artifact = '{SLICE}:{version}'\n[run]\ncommand = ['./server']\n{run}");
    Command::RegisterArtifact {
        artifact: format!("{SLICE}:{version}").parse().unwrap(),
        digest: format!("{:064x}", version.as_bytes()[0]),
        size_bytes: 10,
        manifest: Arc::new(Manifest::parse(&text).unwrap()),
        holder: "n1".parse().unwrap(),
        others: BTreeSet::new(),
    }
}

pub fn start(version: &str, instances: Option<u32>, options: UpdateOptions) -> Command {
    Command::StartUpdate {
        slice: SLICE.parse().unwrap(),
        version: version.parse().unwrap(),
        instances,
        options,
    }
}

/// An update that goes by a strategy.
pub fn start_with(version: &str, options: UpdateOptions, strategy: Strategy) -> Command {
    Command::StartWith {
        slice: SLICE.parse().unwrap(),
        version: version.parse().unwrap(),
        instances: None,
        options,
        strategy,
        supersede: false,
        remake: Remake::default(),
    }
}

/// A canary of these steps, each held for a minute unless it says otherwise.
pub fn canary(steps: &str) -> Canary {
    Canary {
        steps: Step::list(steps, 60_000).unwrap(),
        analysis: Analysis { warm_up_ms: 0, ..Analysis::default() },
        scale_with_weight: false,
        one_way_from: None,
    }
}

/// Batches of these sizes, with bounds.
pub fn in_batches(batches: &str, max_unavailable: &str, max_surge: &str) -> Rolling {
    Rolling {
        max_unavailable: max_unavailable.parse().unwrap(),
        max_surge: max_surge.parse().unwrap(),
        batches: Share::list(batches).unwrap(),
        stagger_ms: 0,
        hold_ms: 0,
        analysis: Analysis { warm_up_ms: 0, ..Analysis::default() },
        one_way_from: None,
        max_failures: 0,
        reload: false,
    }
}

pub fn promote(id: &UpdateId, full: bool, force: bool) -> Command {
    Command::Promote { update: id.clone(), full, force, if_modified: None }
}

pub fn routing(id: &UpdateId, ratio: &str) -> Command {
    Command::SetWeights {
        update: id.clone(),
        weights: ratio.parse().unwrap(),
        force: false,
        if_modified: None,
    }
}

pub fn rollback(id: &UpdateId) -> Command {
    rollback_by(id, false, false)
}

pub fn rollback_by(id: &UpdateId, now: bool, force: bool) -> Command {
    Command::Rollback { update: id.clone(), now, reason: None, force, if_modified: None }
}

pub fn complete(id: &UpdateId) -> Command {
    Command::Complete { update: id.clone(), force: false, if_modified: None }
}

fn tables_since(state: &State, index: u64) -> usize {
    let changed = state.routes.values().filter(|route| route.table_revision > index);
    let left = state.instances.values().filter(|i| i.left_table > index);
    changed.count() + left.count()
}

/// Completion that waits for nobody who does not answer.
pub fn complete_forced(id: &UpdateId) -> Command {
    Command::Complete { update: id.clone(), force: true, if_modified: None }
}

pub fn approve(id: &UpdateId) -> Command {
    Command::Approve { update: id.clone(), weights: None, if_modified: None }
}

pub fn resume(id: &UpdateId) -> Command {
    Command::Resume { update: id.clone(), if_modified: None }
}
