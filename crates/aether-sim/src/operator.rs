//! People: what they ask for at random, and what somebody asks for who wants an
//! update to end.
//!
//! An action names no update: it is about whatever is live when its time comes,
//! as people act on what they see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aether_core::command::{Command, Outcome, Refusal};
use aether_core::coordinates::SliceName;
use aether_core::ids::{NodeName, UpdateId};
use aether_core::level::{FEATURE_LEVEL_MAX, level_of};
use aether_core::manifest::Manifest;
use aether_core::planner::SESSION_UNREACHABLE;
use aether_core::records::{
    Analysis, BlueGreen, Canary, CleanupPolicy, ConfigPick, Configuration, DeadlineAction, Gate,
    GateSource, GateWhen, Hold, NodeSchedule, OptionChanges, Recreate, Remake, Rolling, Share,
    Step, Strategy, UpdateOptions, UpdateRecord, UpdateState,
};
use aether_core::state::State;
use aether_core::weights::Weights;

use crate::instance::GRACE_MS;
use crate::rng::Rng;

/// Slices of every simulated cluster.
pub const SLICES: [&str; 2] = ["org.example:shop", "org.example:cart"];
/// Who asks for all that people ask for.
pub const ACTOR: &str = "ann";
/// Versions of each.
pub const VERSIONS: [&str; 4] = ["1.0.0", "2.0.0", "3.0.0", "4.0.0"];
/// The file of a configuration.
const CONFIG: &str = "app.conf";
/// How one begins that ends the process that reads it.
const BAD: &str = "bad";
/// How long calls may take to end before an instance is stopped all the same.
const DRAIN_MS: u64 = 15_000;

/// What a person does. Slices go by their place in [`SLICES`].
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // Each field is what its name says.
pub enum Action {
    /// All members support everything.
    RaiseLevel,
    /// Makes a version known.
    Push { slice: usize, version: &'static str },
    /// Forgets one.
    RemoveArtifact { slice: usize, version: &'static str },
    /// First version of a slice.
    Deploy { slice: usize, version: &'static str, instances: u32 },
    /// Another number of instances.
    Scale { slice: usize, instances: u32 },
    /// Removes a slice, or a version of it.
    Undeploy { slice: usize, version: Option<&'static str> },
    /// Starts an update.
    Start {
        slice: usize,
        version: &'static str,
        instances: Option<u32>,
        options: Box<UpdateOptions>,
        strategy: Box<Strategy>,
        supersede: bool,
    },
    /// The next step of an update that goes by steps.
    Promote { slice: usize, full: bool, force: bool },
    /// Pauses what goes on by itself.
    Suspend { slice: usize },
    /// Changes the ratio.
    Routing { slice: usize, new: u64, old: u64, force: bool },
    /// Commits what waits for approval.
    Approve { slice: usize },
    /// Ends the update.
    Complete { slice: usize, force: bool },
    /// Takes it back.
    Rollback { slice: usize, now: bool, force: bool },
    /// Ends a pause.
    Resume { slice: usize },
    /// Back to what the last update left warm.
    Undo { slice: usize, new: u64, old: u64, force: bool },
    /// Away with it.
    Cleanup { slice: usize },
    /// Changes options of the live update.
    SetOptions { slice: usize, changes: Box<OptionChanges> },
    /// Whether a node takes instances.
    Schedule { node: u64, schedule: NodeSchedule },
    /// A node will not come back.
    ForgetNode { node: u64, force: bool },
    /// The next sensible step of an update, or a new one.
    Onward {
        slice: usize,
        version: &'static str,
        options: Box<UpdateOptions>,
        strategy: Box<Strategy>,
    },
    /// Another configuration, which is pushed first, and then moved to by a reload.
    Reload { slice: usize, is_bad: bool, options: Box<UpdateOptions>, rolling: Box<Rolling> },
    /// A command about an update that is over, or never was.
    Wrong { nth: u64 },
}

/// What a person might do next.
pub fn draw(rng: &mut Rng) -> Action {
    // One slice gets most of the attention, so that walks get far.
    let slice = usize::from(rng.chance(25));
    let version = *rng.pick(&VERSIONS);
    let force = rng.chance(8);
    let few = |rng: &mut Rng| rng.between(1, 5) as u32;
    if rng.chance(8) {
        let (options, rolling) = (Box::new(options(rng)), Box::new(reload(rng)));
        return Action::Reload { slice, is_bad: rng.chance(20), options, rolling };
    }
    if rng.chance(50) {
        let (options, strategy) = (Box::new(options(rng)), Box::new(strategy(rng)));
        return Action::Onward { slice, version, options, strategy };
    }
    match rng.below(100) {
        0..18 => {
            let instances = rng.chance(25).then(|| few(rng));
            let (options, strategy) = (Box::new(options(rng)), Box::new(strategy(rng)));
            let supersede = rng.chance(15);
            Action::Start { slice, version, instances, options, strategy, supersede }
        }
        18..36 => {
            let (new, old) = *rng.pick(&RATIOS);
            Action::Routing { slice, new, old, force }
        }
        36..47 => Action::Routing { slice, new: 1, old: 0, force },
        47..53 => Action::Approve { slice },
        53..66 => Action::Complete { slice, force },
        66..75 => Action::Rollback { slice, now: rng.chance(15), force },
        75..77 => Action::Resume { slice },
        77 => Action::Promote { slice, full: rng.chance(30), force },
        78 => Action::Suspend { slice },
        79..82 => {
            let (new, old) = *rng.pick(&RATIOS);
            Action::Undo { slice, new, old, force }
        }
        82..84 => Action::Cleanup { slice },
        84..87 => Action::SetOptions { slice, changes: Box::new(changes(rng)) },
        87..90 => Action::Scale { slice, instances: few(rng) },
        90..92 => Action::Deploy { slice, version, instances: few(rng) },
        92 => Action::Undeploy { slice, version: rng.chance(70).then_some(version) },
        93 => match rng.chance(50) {
            true => Action::Push { slice, version },
            false => Action::RemoveArtifact { slice, version },
        },
        94..97 => {
            let all = [NodeSchedule::Open, NodeSchedule::Cordoned, NodeSchedule::Draining];
            Action::Schedule { node: rng.draw(), schedule: *rng.pick(&all) }
        }
        97 => Action::ForgetNode { node: rng.draw(), force },
        _ => Action::Wrong { nth: rng.draw() },
    }
}

/// Ratios that people type, right and wrong.
const RATIOS: [(u64, u64); 10] =
    [(0, 1), (1, 9), (1, 3), (1, 1), (3, 1), (1, 0), (10_000, 1), (1, 99), (2, 5), (0, 0)];

fn options(rng: &mut Rng) -> UpdateOptions {
    let actions = [DeadlineAction::Rollback, DeadlineAction::Pause, DeadlineAction::Fail];
    UpdateOptions {
        cleanup: *rng.pick(&[
            CleanupPolicy::Immediate,
            CleanupPolicy::GracePeriod,
            CleanupPolicy::Manual,
        ]),
        grace_ms: rng.between(5_000, 60_000),
        manual_approval: rng.chance(20),
        deploy_timeout_ms: rng.between(8_000, 60_000),
        on_deploy_failure: *rng.pick(&actions),
        healthy_ms: *rng.pick(&[0, 1_000, 3_000]),
        ..few_requests(UpdateOptions::default())
    }
}

/// One or two gates, which are asked every few seconds.
fn gates(rng: &mut Rng) -> Vec<Gate> {
    let names = ["a", "b"];
    let count = 1 + usize::from(rng.chance(40));
    let gate = |name: &&str| {
        let when = *rng.pick(&[GateWhen::Before, GateWhen::After]);
        let url = "http://127.0.0.1/".to_owned();
        Gate {
            step: rng.chance(20).then_some(1),
            interval_ms: rng.between(500, 4_000),
            failures_max: rng.below(2) as u32,
            inconclusive_max: rng.below(4) as u32,
            ..Gate::new(name, when, GateSource::Webhook { url })
        }
    };
    names[..count].iter().map(gate).collect()
}

fn analysis(rng: &mut Rng) -> Analysis {
    Analysis {
        on_failure: *rng.pick(&[DeadlineAction::Pause, DeadlineAction::Rollback]),
        patience_ms: rng.between(5_000, 30_000),
        warm_up_ms: rng.between(0, 2_000),
        gates: if rng.chance(30) { gates(rng) } else { Vec::new() },
    }
}

/// Some updates go by hand, and the rest by steps that hold for seconds.
fn strategy(rng: &mut Rng) -> Strategy {
    let analysis = analysis(rng);
    match rng.below(12) {
        0..3 => Strategy::Manual {},
        3..5 => {
            let ratios = [(1, 9), (1, 3), (1, 1), (3, 1), (1, 0)];
            let skipped = rng.below(4) as usize;
            let steps: Vec<Step> = ratios[skipped..]
                .iter()
                .map(|(new, old)| Step {
                    weights: Weights::new(*new, *old).expect("these are ratios"),
                    hold: match rng.chance(15) {
                        true => Hold::Promotion {},
                        false => Hold::For { ms: rng.between(0, 8_000) },
                    },
                })
                .collect();
            let last = steps.len() as u64;
            Strategy::Canary(Canary {
                one_way_from: rng.chance(15).then(|| rng.between(1, last) as u32),
                steps,
                analysis,
                scale_with_weight: rng.chance(50),
            })
        }
        5..9 => Strategy::Rolling(rolling(analysis, rng)),
        9 => Strategy::Recreate(Recreate { analysis }),
        _ => Strategy::BlueGreen(BlueGreen {
            verify_ms: rng.between(0, 8_000),
            auto_promote: rng.chance(60),
            hold_ms: rng.between(0, 10_000),
            analysis,
            one_way: rng.chance(10),
            barrier: rng.chance(60),
        }),
    }
}

/// Batches and bounds of every shape.
fn rolling(analysis: Analysis, rng: &mut Rng) -> Rolling {
    let share = |rng: &mut Rng, most: u64| match rng.chance(70) {
        true => Share::Count { n: rng.below(most + 1) as u32 },
        false => Share::Percent { n: *rng.pick(&[10, 25, 34, 50, 100]) },
    };
    Rolling {
        max_unavailable: share(rng, 2),
        max_surge: share(rng, 2),
        batches: (0..rng.between(1, 3)).map(|_| share(rng, 3)).collect(),
        stagger_ms: *rng.pick(&[0, 0, 2_000, 6_000]),
        hold_ms: *rng.pick(&[0, 0, 3_000]),
        analysis,
        one_way_from: rng.chance(15).then(|| rng.between(1, 2) as u32),
        max_failures: *rng.pick(&[0, 0, 1, 2]),
        reload: false,
    }
}

/// One by reload; now and then with bounds that are none for it.
fn reload(rng: &mut Rng) -> Rolling {
    let analysis = analysis(rng);
    let surge = if rng.chance(5) { 1 } else { 0 };
    let mut rolling = Rolling {
        max_surge: Share::Count { n: surge },
        one_way_from: None,
        reload: true,
        ..rolling(analysis, rng)
    };
    if rng.chance(90) {
        rolling.max_unavailable = Share::Count { n: rng.between(1, 3) as u32 };
    }
    rolling
}

/// Pushes a configuration of a simulated slice. Processes that read one that begins with
/// `bad` end.
pub fn configuration(slice: SliceName, value: &str) -> Command {
    Command::PushConfig {
        slice,
        files: [(CONFIG.to_owned(), value.into())].into(),
        env: BTreeMap::new(),
        if_latest: None,
    }
}

/// Whether a process ends that reads this.
pub fn is_bad(configuration: &Configuration) -> bool {
    configuration.files.get(CONFIG).is_some_and(|text| text.starts_with(BAD))
}

/// What there is to be done for another configuration: to push it, or to move to it where
/// one waits.
fn next_reload(
    state: &State,
    slice: &SliceName,
    is_bad: bool,
    options: &UpdateOptions,
    rolling: &Rolling,
) -> Option<Command> {
    let current = state.slices.get(slice)?.current?;
    let current = state.revisions.get(&(slice.clone(), current))?;
    let latest = state.latest_config(slice).map(|latest| latest.no);
    if latest.is_none() || latest == current.config || state.live_update(slice).is_some() {
        let kind = if is_bad { BAD } else { "good" };
        return Some(configuration(slice.clone(), &format!("{kind} {}", state.meta.index)));
    }
    let strategy = Strategy::Rolling(rolling.clone());
    let mut command =
        start(slice.clone(), current.version.clone(), None, options.clone(), strategy, false);
    if let Command::StartWith { remake, .. } = &mut command {
        remake.config = Some(ConfigPick::Latest {});
    }
    Some(command)
}

/// Starts an update, by the older command where people set the ratio.
pub fn start(
    slice: SliceName,
    version: aether_core::coordinates::Version,
    instances: Option<u32>,
    mut options: UpdateOptions,
    strategy: Strategy,
    supersede: bool,
) -> Command {
    if strategy.is_in_place() {
        // No old set is left that could be kept.
        options.cleanup = CleanupPolicy::Immediate;
    }
    match strategy.is_manual() && !supersede {
        true => Command::StartUpdate { slice, version, instances, options },
        false => Command::StartWith {
            slice,
            version,
            instances,
            options,
            strategy,
            supersede,
            remake: Remake::default(),
        },
    }
}

/// Callers here make a few calls a second, so a window holds few.
fn few_requests(mut options: UpdateOptions) -> UpdateOptions {
    options.thresholds.requests_min = 5;
    options
}

fn changes(rng: &mut Rng) -> OptionChanges {
    OptionChanges {
        error_rate_ppm: rng.chance(30).then(|| rng.below(1_200_000) as u32),
        cleanup: rng.chance(30).then_some(CleanupPolicy::Manual),
        manual_approval: rng.chance(30).then(|| rng.chance(50)),
        deploy_timeout_ms: rng.chance(30).then(|| rng.between(0, 60_000)),
        ..OptionChanges::default()
    }
}

fn slice_name(slice: usize) -> SliceName {
    SLICES[slice].parse().expect("names of simulated slices are valid")
}

/// Registers a version of a slice. Where the level knows of it, its process can be told to
/// read its configuration again.
pub fn push(slice: &SliceName, version: &str, level: u32) -> Command {
    let [told, plain] = ["reload_signal = 'SIGHUP'\n", ""].map(|reload| {
        let text = format!(
            "artifact = '{}:{version}'\n[run]\ncommand = ['./server']\ngrace = '{GRACE_MS}ms'\n\
             drain = '{DRAIN_MS}ms'\nconfig_files = ['{CONFIG}']\n{reload}",
            slice.base()
        );
        Command::RegisterArtifact {
            artifact: slice.base().at(version.parse().expect("a version")),
            digest: format!("{:064x}", version.as_bytes()[0]),
            size_bytes: 10,
            manifest: Arc::new(Manifest::parse(&text).expect("the simulated manifest is valid")),
            holder: "n1".parse().expect("a node's name"),
            others: BTreeSet::new(),
        }
    });
    if level_of(&told) <= level { told } else { plain }
}

/// What an action asks for in the present state; nothing where it is about an
/// update and none is there.
pub fn command(action: &Action, state: &State) -> Option<Command> {
    let live = |slice: &usize| state.live_update(&slice_name(*slice)).map(|u| u.id.clone());
    let version_of = |version: &str| version.parse().expect("a version");
    Some(match action {
        Action::RaiseLevel => raise_level(),
        Action::Push { slice, version } => {
            push(&slice_name(*slice), version, state.meta.feature_level)
        }
        Action::RemoveArtifact { slice, version } => {
            let artifact = slice_name(*slice).base().at(version_of(version));
            Command::RemoveArtifact { artifact }
        }
        Action::Deploy { slice, version, instances } => Command::Deploy {
            slice: slice_name(*slice),
            version: version_of(version),
            instances: *instances,
        },
        Action::Scale { slice, instances } => {
            Command::Scale { slice: slice_name(*slice), instances: *instances }
        }
        Action::Undeploy { slice, version } => {
            let version = version.map(version_of);
            Command::Undeploy { slice: slice_name(*slice), version }
        }
        Action::Start { slice, version, instances, options, strategy, supersede } => start(
            slice_name(*slice),
            version_of(version),
            *instances,
            (**options).clone(),
            (**strategy).clone(),
            *supersede,
        ),
        Action::Promote { slice, full, force } => {
            Command::Promote { update: live(slice)?, full: *full, force: *force, if_modified: None }
        }
        Action::Suspend { slice } => {
            Command::Suspend { update: live(slice)?, why: None, if_modified: None }
        }
        Action::Routing { slice, new, old, force } => Command::SetWeights {
            update: live(slice)?,
            // `0:0` never gets past the parser.
            weights: Weights::new(*new, *old).ok()?,
            force: *force,
            if_modified: None,
        },
        Action::Approve { slice } => approve(live(slice)?),
        Action::Complete { slice, force } => {
            Command::Complete { update: live(slice)?, force: *force, if_modified: None }
        }
        Action::Rollback { slice, now, force } => rollback(live(slice)?, *now, *force),
        Action::Resume { slice } => resume(live(slice)?),
        Action::Undo { slice, new, old, force } => Command::Undo {
            update: state.retained.get(&slice_name(*slice))?.update.clone(),
            weights: Weights::new(*new, *old).ok()?,
            force: *force,
            cleanup: None,
            grace_ms: None,
            if_modified: None,
        },
        Action::Cleanup { slice } => {
            let update = state.retained.get(&slice_name(*slice))?.update.clone();
            Command::Cleanup { update, if_modified: None }
        }
        Action::SetOptions { slice, changes } => Command::SetOptions {
            update: live(slice)?,
            changes: (**changes).clone(),
            if_modified: None,
        },
        Action::Schedule { node, schedule } => {
            Command::SetNodeSchedule { node: nth_node(state, *node)?, schedule: *schedule }
        }
        Action::ForgetNode { node, force } => {
            Command::ForgetNode { node: nth_node(state, *node)?, force: *force }
        }
        Action::Onward { slice, version, options, strategy } => {
            let slice = slice_name(*slice);
            match state.live_update(&slice) {
                Some(update) => step(state, update, state.meta.log_time_ms, false)?,
                None => {
                    let (options, strategy) = ((**options).clone(), (**strategy).clone());
                    start(slice, version_of(version), None, options, strategy, false)
                }
            }
        }
        Action::Reload { slice, is_bad, options, rolling } => {
            next_reload(state, &slice_name(*slice), *is_bad, options, rolling)?
        }
        Action::Wrong { nth } => wrong(state, *nth),
    })
}

/// All members support everything.
pub fn raise_level() -> Command {
    Command::RaiseFeatureLevel { to: FEATURE_LEVEL_MAX }
}

fn approve(update: UpdateId) -> Command {
    Command::Approve { update, weights: None, if_modified: None }
}

fn resume(update: UpdateId) -> Command {
    Command::Resume { update, if_modified: None }
}

fn rollback(update: UpdateId, now: bool, force: bool) -> Command {
    Command::Rollback { update, now, reason: None, force, if_modified: None }
}

fn nth_node(state: &State, nth: u64) -> Option<NodeName> {
    let count = state.nodes.len() as u64;
    (count > 0).then(|| state.nodes.keys().nth((nth % count) as usize).cloned())?
}

fn wrong(state: &State, nth: u64) -> Command {
    let over: Vec<&UpdateId> = state.updates.keys().collect();
    let unknown = || "unknown".parse().expect("an update's id");
    let update = match over.is_empty() {
        true => unknown(),
        false => over[(nth / 8) as usize % over.len()].clone(),
    };
    let weights = Weights::new(1, 1).expect("1:1 is a ratio");
    match nth % 8 {
        0 => rollback(unknown(), false, false),
        1 => rollback(update, false, false),
        2 => Command::Complete { update, force: false, if_modified: None },
        3 => approve(update),
        4 => resume(update),
        5 => Command::SetWeights { update, weights, force: false, if_modified: Some(1) },
        6 => Command::Scale { slice: slice_name(0), instances: 0 },
        _ => Command::Complete { update, force: true, if_modified: None },
    }
}

/// Versions on which something that serves depends.
pub fn needed_versions(state: &State) -> Vec<String> {
    let current = state.slices.values().filter_map(|s| Some((s.slice.clone(), s.current?)));
    let live = state.slices.values().filter_map(|s| state.live_update(&s.slice));
    let old = live.filter_map(|u| Some((u.slice.clone(), u.old.as_ref()?.revision)));
    let kept = state.retained.values().map(|r| (r.slice.clone(), r.side.revision));
    // What completes cannot always be taken back.
    let goes_on = |update: &UpdateRecord| {
        let one_way = update.way().is_some_and(|way| way.one_way_from.is_some());
        update.state == UpdateState::Completing || (one_way && !update.state.is_terminal())
    };
    let completing = state.updates.values().filter(|update| goes_on(update));
    let completing = completing.map(|u| (u.slice.clone(), u.new.revision));
    let keys = current.chain(old).chain(kept).chain(completing);
    keys.filter_map(|key| Some(state.revisions.get(&key)?.version.to_string())).collect()
}

/// All nodes take instances again.
pub fn open_nodes(state: &State) -> Vec<Command> {
    let closed = state.nodes.values().filter(|node| !node.schedule.is_open());
    let schedule = NodeSchedule::Open;
    closed.map(|node| Command::SetNodeSchedule { node: node.name.clone(), schedule }).collect()
}

/// Somebody who wants updates to end: the next sensible step of each, and the
/// way back where that does not help.
#[derive(Debug, Default)]
pub struct Care {
    /// Steps that were refused, by update.
    refused: BTreeMap<UpdateId, u32>,
    /// Which update a request was about.
    asked: BTreeMap<usize, UpdateId>,
    /// Log time of the last step of an update.
    last_ms: BTreeMap<UpdateId, u64>,
    /// Updates that are taken back in the end, whatever happens.
    back: BTreeMap<UpdateId, bool>,
}

/// Between two steps of one update.
const STEP_MS: u64 = 3_000;
/// Refusals after which a person takes an update back.
const PATIENCE: u32 = 5;
/// How long COMPLETING may last before a person takes an update back.
const COMPLETING_MS: u64 = 120_000;

impl Care {
    /// What came of a request.
    pub fn heard(&mut self, number: usize, outcome: &Outcome) {
        let Some(update) = self.asked.remove(&number) else { return };
        let is_about_time = |refusal: &Refusal| matches!(refusal, Refusal::Stale { .. });
        if outcome.as_ref().is_err_and(|refusal| !is_about_time(refusal)) {
            *self.refused.entry(update).or_default() += 1;
        }
    }

    /// The next step of an update, as request `number`, if it is time for one.
    pub fn next(
        &mut self,
        state: &State,
        update: &UpdateRecord,
        now_ms: u64,
        number: usize,
        rng: &mut Rng,
    ) -> Option<Command> {
        let last_ms = self.last_ms.get(&update.id).copied();
        if last_ms.is_some_and(|last_ms| now_ms < last_ms + STEP_MS) {
            return None;
        }
        let goes_back = *self.back.entry(update.id.clone()).or_insert_with(|| rng.chance(40));
        let gave_up = self.refused.get(&update.id).is_some_and(|n| *n >= PATIENCE);
        let command = step(state, update, now_ms, goes_back || gave_up)?;
        if matches!(command, Command::Resume { .. }) {
            // What pauses again and again is not well.
            *self.refused.entry(update.id.clone()).or_default() += 1;
        }
        self.last_ms.insert(update.id.clone(), now_ms);
        self.asked.insert(number, update.id.clone());
        Some(command)
    }
}

fn step(state: &State, update: &UpdateRecord, now_ms: u64, goes_back: bool) -> Option<Command> {
    let id = update.id.clone();
    let back = || Some(rollback(update.id.clone(), false, false));
    let pause = update.pause.as_ref().map(|pause| pause.reason.code.as_str());
    // In place nobody gives calls to instances that are not there yet: the way on is
    // that of the batches.
    let is_forced = goes_back && update.is_one_way() && update.strategy.is_in_place();
    let goes_back = goes_back && !is_forced;
    match update.state {
        UpdateState::Pending | UpdateState::Deploying => match pause {
            Some(_) => back(),
            // Its deadline says what is to happen.
            None => None,
        },
        UpdateState::Deployed | UpdateState::Routing => match pause {
            // Where there is no way back, the way on is all there is.
            _ if goes_back && update.is_one_way() && update.pending_weights.is_some() => {
                // What is paused is approved by nobody.
                Some(if pause.is_some() { resume(id) } else { approve(id) })
            }
            _ if goes_back && update.is_one_way() && is_behind(update) => {
                let weights = Weights::ALL_NEW;
                Some(Command::SetWeights { update: id, weights, force: true, if_modified: None })
            }
            _ if goes_back && update.is_one_way() => {
                Some(Command::Promote { update: id, full: true, force: true, if_modified: None })
            }
            _ if goes_back => back(),
            Some(_) => Some(resume(id)),
            None if update.pending_weights.is_some() => Some(approve(id)),
            None if update.progress.is_some() => {
                // Past gates that never pass.
                let (full, force, if_modified) = (false, is_forced, None);
                Some(Command::Promote { update: id, full, force, if_modified })
            }
            None if update.weights == Weights::ALL_NEW => {
                Some(Command::Complete { update: id, force: false, if_modified: None })
            }
            None => {
                let weights = raised(update.weights, update.old.is_some());
                Some(Command::SetWeights { update: id, weights, force: false, if_modified: None })
            }
        },
        UpdateState::Completing => {
            let is_late = now_ms > update.state_since_ms + COMPLETING_MS;
            let waits = pause == Some(SESSION_UNREACHABLE);
            let is_stuck = !state.is_new_side_whole(update) && !waits;
            match is_late && is_stuck {
                true if update.is_one_way() => {
                    Some(Command::Complete { update: id, force: true, if_modified: None })
                }
                true => back(),
                false => None,
            }
        }
        UpdateState::RollingBack => None,
        UpdateState::Completed | UpdateState::RolledBack | UpdateState::Failed => None,
    }
}

/// Whether somebody took calls back by hand after the last step.
fn is_behind(update: &UpdateRecord) -> bool {
    let last = update.way().map_or(0, |way| way.last());
    update.step() >= last && update.weights != Weights::ALL_NEW
}

/// The next ratio that gives the new version more.
fn raised(from: Weights, has_old: bool) -> Weights {
    let steps = [(1, 3), (1, 1), (3, 1), (1, 0)];
    let steps = steps.map(|(new, old)| Weights::new(new, old).expect("these are ratios"));
    let more = steps.into_iter().find(|to| has_old && from.is_raised_by(*to));
    more.unwrap_or(Weights::ALL_NEW)
}
