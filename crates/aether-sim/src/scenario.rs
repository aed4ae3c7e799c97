//! What a seed stands for: settings, and a list of incidents with their times.
//!
//! The list is made before the run, so that a failing one can be repeated with
//! parts of it left out. What is not in it (latencies, how long a process takes)
//! is drawn during the run from the same seed.

use crate::instance::Behaviour;
use crate::leader::Waits;
use crate::operator::{self, Action};
use crate::rng::Rng;

/// How a world is set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Seed of everything that is drawn during the run.
    pub seed: u64,
    /// Voters.
    pub replicas: usize,
    /// Nodes.
    pub nodes: u16,
    /// Callers.
    pub callers: u16,
    /// Leases and the like.
    pub waits: Waits,
    /// Longest usual time of a message.
    pub latency_ms_max: u64,
    /// Time between two calls of a caller.
    pub call_every_ms: u64,
    /// Whether what the planner saw is written down. That is half of the work of a run,
    /// which a quarter of the runs is enough for.
    pub keeps_inputs: bool,
    /// Nothing is drawn that need not be: for transcripts that people read.
    pub is_quiet: bool,
    /// Whether somebody looks after updates once faults are over.
    pub has_caretaker: bool,
}

/// Something that goes wrong, or that a person does. Times are in virtual
/// milliseconds; nodes, replicas and callers go by their place.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // Each field is what its name says.
pub enum Incident {
    /// A person acts.
    Person(Action),
    /// The nth request, counted around, is sent once more.
    Repeat(u64),
    /// The leader's process ends. So many of its proposals survive.
    LeaderCrashes { down_ms: u64, survive: usize },
    /// Another leader is elected, which the old one does not hear for a while.
    LeaderDeposed { knows_after_ms: u64, survive: usize },
    /// A voter's process ends.
    ReplicaCrashes { replica: usize, down_ms: u64 },
    /// Somebody sets a voter's clock.
    ClockJumps { replica: usize, by_ms: i64 },
    /// An agent's process ends; its instances run on.
    AgentCrashes { agent: usize, down_ms: u64 },
    /// A machine loses power.
    PowerCut { agent: usize, down_ms: u64 },
    /// A node is not heard and hears nothing; calls reach it.
    Silence { agent: usize, for_ms: u64 },
    /// Whatever runs on a node answers many calls with errors.
    Ill { agent: usize, for_ms: u64 },
    /// A directive of before arrives.
    LateDirective { nth: u64 },
    /// A node takes so many instances from now on.
    Room { agent: usize, instances_max: u32 },
    /// The processes of a version behave like this from now on.
    Behave { version: &'static str, behaves: Behaviour },
    /// A caller does not reach the control plane; it goes on calling.
    Partition { caller: usize, for_ms: u64 },
    /// A caller's process is gone, and another one comes after a while.
    CallerVanishes { caller: usize, for_ms: u64 },
    /// The same, but it says goodbye.
    CallerLeaves { caller: usize, for_ms: u64 },
    /// A caller's tables come late.
    Lag { caller: usize, by_ms: u64, for_ms: u64 },
    /// A replica that is behind sends its tables.
    LateTables { caller: usize },
    /// Everything is put right.
    Heal { keeps_bad: bool },
}

/// A run, before it is run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// How the world is set.
    pub settings: Settings,
    /// What happens, by time.
    pub incidents: Vec<(u64, Incident)>,
    /// When faults are over.
    pub heal_at_ms: u64,
}

/// Faults begin here: by then something is deployed.
const FAULTS_FROM_MS: u64 = 8_000;
/// How long everything may take to end after faults are over. A session that is
/// gone counts for at most a minute here, a node that is lost half of that, and a
/// deployment has at most a minute: after the worst of these a second attempt
/// fits in, and its way back.
pub const ENDS_WITHIN_MS: u64 = 15 * 60_000;

impl Scenario {
    /// The scenario of a seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 0);
        let settings = settings(seed, &mut rng);
        let mut incidents = beginning(&mut rng);
        let heal_at_ms = FAULTS_FROM_MS + rng.between(60_000, 400_000);
        // Some runs are calm, so that long walks through an update are seen too.
        let pace_ms = *rng.pick(&[300, 800, 1_500, 4_000]);
        let person_percent = *rng.pick(&[40, 60, 80]);
        let mut at_ms = FAULTS_FROM_MS;
        loop {
            at_ms += rng.between(1, 2 * pace_ms);
            if at_ms >= heal_at_ms {
                break;
            }
            let incident = match rng.chance(person_percent) {
                true if rng.chance(4) => Incident::Repeat(rng.draw()),
                true => Incident::Person(operator::draw(&mut rng)),
                false => fault(&settings, &mut rng),
            };
            incidents.push((at_ms, incident));
        }
        let keeps_bad = rng.chance(50);
        incidents.push((heal_at_ms, Incident::Heal { keeps_bad }));
        Self { settings, incidents, heal_at_ms }
    }
}

fn settings(seed: u64, rng: &mut Rng) -> Settings {
    Settings {
        seed,
        replicas: 3,
        nodes: rng.between(3, 5) as u16,
        callers: rng.between(2, 4) as u16,
        waits: Waits {
            lease_ms: 3_000,
            table_age_max_ms: rng.between(15, 60) * 1_000,
            node_lost_ms: rng.between(5, 30) * 1_000,
        },
        latency_ms_max: *rng.pick(&[5, 20, 80]),
        call_every_ms: *rng.pick(&[300, 700, 1_500]),
        keeps_inputs: rng.chance(25),
        is_quiet: false,
        has_caretaker: true,
    }
}

/// Versions are pushed, and most often something is deployed.
fn beginning(rng: &mut Rng) -> Vec<(u64, Incident)> {
    let mut incidents = Vec::new();
    let mut at_ms = 2_600;
    let mut person = |action| {
        incidents.push((at_ms, Incident::Person(action)));
        at_ms += 50;
    };
    person(Action::RaiseLevel);
    for slice in 0..operator::SLICES.len() {
        operator::VERSIONS.iter().for_each(|version| person(Action::Push { slice, version }));
        if rng.chance(85) {
            let most = if rng.chance(20) { 8 } else { 4 };
            let instances = rng.between(1, most) as u32;
            person(Action::Deploy { slice, version: operator::VERSIONS[0], instances });
        }
    }
    incidents
}

/// Short most often, and now and then longer than every lease.
fn span_ms(rng: &mut Rng) -> u64 {
    match rng.below(10) {
        0..5 => rng.between(200, 4_000),
        5..8 => rng.between(4_000, 20_000),
        _ => rng.between(20_000, 90_000),
    }
}

fn fault(settings: &Settings, rng: &mut Rng) -> Incident {
    let replica = rng.below(settings.replicas as u64) as usize;
    let agent = rng.below(settings.nodes.into()) as usize;
    let caller = rng.below(settings.callers.into()) as usize;
    let survive = rng.below(4) as usize;
    match rng.below(25) {
        0..2 => Incident::LeaderCrashes { down_ms: span_ms(rng), survive },
        2..5 => Incident::LeaderDeposed { knows_after_ms: rng.between(100, 8_000), survive },
        5 => Incident::ReplicaCrashes { replica, down_ms: span_ms(rng) },
        6 => {
            let by_ms = rng.between(0, 7_200_000) as i64 - 3_600_000;
            Incident::ClockJumps { replica, by_ms }
        }
        7..9 => Incident::AgentCrashes { agent, down_ms: span_ms(rng) },
        9 => Incident::PowerCut { agent, down_ms: span_ms(rng) },
        10..12 => Incident::Silence { agent, for_ms: span_ms(rng) },
        12..14 => Incident::Room { agent, instances_max: rng.below(5) as u32 },
        14..17 => {
            let version = *rng.pick(&operator::VERSIONS);
            let behaves = match rng.chance(25) {
                true => Behaviour::Well,
                false => *rng.pick(&Behaviour::FAULTS),
            };
            Incident::Behave { version, behaves }
        }
        17..19 => Incident::Partition { caller, for_ms: span_ms(rng) },
        19 => match rng.chance(50) {
            true => Incident::CallerVanishes { caller, for_ms: span_ms(rng) },
            false => Incident::CallerLeaves { caller, for_ms: span_ms(rng) },
        },
        20 => {
            let by_ms = rng.between(100, 5_000);
            Incident::Lag { caller, by_ms, for_ms: span_ms(rng) }
        }
        21 => Incident::LateTables { caller },
        22 => Incident::Ill { agent, for_ms: span_ms(rng) },
        _ => Incident::LateDirective { nth: rng.draw() },
    }
}
