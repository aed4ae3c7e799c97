//! What goes wrong in a run, as its seed decides: one fault after the other, some
//! of them at once, each over after a while.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::MembershipChange;

use super::cluster::Cluster;
use super::in_world;
use super::net::address;

/// Between two faults.
const CALM_MS: std::ops::Range<u64> = 30..900;
/// How long one lasts.
const LASTS_MS: std::ops::Range<u64> = 40..2_500;
/// How often the replacement of a voter is gone on with.
const REPLACE_EVERY_MS: u64 = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    PowerCut,
    PowerCutOfAll,
    KillOfAll,
    Pause,
    /// The machine sleeps, and its clocks.
    Suspend,
    /// It is started again at once.
    KillForAMoment,
    CutOneWay,
    Isolate,
    HearsNobody,
    IsHeardByNobody,
    SlowLinks,
    LossyLinks,
    BrokenConnections,
    SlowDisk,
    FailingSync,
    FullDisk,
    ClockJump,
    HandOver,
}

const FAULTS: &[Fault] = &[
    Fault::Kill,
    Fault::Kill,
    Fault::PowerCut,
    Fault::PowerCutOfAll,
    Fault::KillOfAll,
    Fault::Pause,
    Fault::Pause,
    Fault::Suspend,
    Fault::KillForAMoment,
    Fault::CutOneWay,
    Fault::Isolate,
    Fault::Isolate,
    Fault::HearsNobody,
    Fault::IsHeardByNobody,
    Fault::SlowLinks,
    Fault::LossyLinks,
    Fault::BrokenConnections,
    Fault::BrokenConnections,
    Fault::SlowDisk,
    Fault::FailingSync,
    Fault::FullDisk,
    Fault::ClockJump,
    Fault::HandOver,
];

/// What ends a fault.
enum End {
    Start(usize),
    Mend,
    Disk(usize),
}

pub(super) struct Nemesis {
    random: StdRng,
    next_ms: u64,
    ends: BTreeMap<(u64, u64), End>,
    faults: u64,
    replacement: Option<Replacement>,
}

impl Nemesis {
    pub fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let next_ms = random.random_range(CALM_MS);
        let replacement = random.random_ratio(1, 3).then(|| Replacement {
            begins_ms: random.random_range(500..4_000),
            stage: Stage::Waits,
        });
        Nemesis { random, next_ms, ends: BTreeMap::new(), faults: 0, replacement }
    }

    /// One that breaks nothing, and may have a voter replaced at once.
    pub fn that_breaks_nothing(seed: u64, replaces: bool) -> Self {
        let replacement = replaces.then_some(Replacement { begins_ms: 0, stage: Stage::Waits });
        Nemesis { next_ms: u64::MAX, replacement, ..Nemesis::new(seed) }
    }

    /// Whether something is still to be gone on with, also when all is healed.
    pub fn is_replacing(&self) -> bool {
        self.replacement.as_ref().is_some_and(|replacement| replacement.stage != Stage::Done)
    }

    /// Whether a voter was replaced.
    pub fn has_replaced(&self) -> bool {
        self.replacement.as_ref().is_some_and(|replacement| replacement.stage == Stage::Done)
    }

    pub fn step(&mut self, cluster: &mut Cluster, now_ms: u64) -> Result<(), String> {
        while let Some(entry) = self.ends.first_entry()
            && entry.key().0 <= now_ms
        {
            match entry.remove() {
                End::Start(node) if cluster.down().contains(&node) => cluster.start(node)?,
                End::Start(_) => {}
                End::Mend => {
                    cluster.note(format_args!("the network is mended"));
                    in_world(|world| world.net.heal(world.now_ms, &mut world.random));
                }
                End::Disk(node) => in_world(|world| world.disks[node].recover()),
            }
        }
        if now_ms >= self.next_ms {
            self.next_ms = now_ms + self.random.random_range(CALM_MS);
            self.inflict(cluster, now_ms);
        }
        // Whoever ended by itself is started again, as by a supervisor.
        for node in cluster.down() {
            let waits = self.ends.values().any(|end| matches!(end, End::Start(at) if *at == node));
            if !waits {
                self.until(now_ms, 200, End::Start(node));
            }
        }
        Ok(())
    }

    fn until(&mut self, now_ms: u64, lasts_ms: u64, end: End) {
        self.faults += 1;
        self.ends.insert((now_ms + lasts_ms, self.faults), end);
    }

    /// Ends all faults.
    pub fn heal(&mut self, cluster: &mut Cluster) -> Result<(), String> {
        cluster.note(format_args!("all is healed"));
        self.ends.clear();
        in_world(|world| {
            world.net.heal(world.now_ms, &mut world.random);
            world.disks.iter_mut().for_each(|disk| disk.recover());
        });
        for node in &mut cluster.nodes {
            node.paused_until_ms = node.paused_until_ms.map(|_| 0);
        }
        cluster.down().into_iter().try_for_each(|node| cluster.start(node))
    }

    fn inflict(&mut self, cluster: &mut Cluster, now_ms: u64) {
        let fault = FAULTS[self.random.random_range(0..FAULTS.len())];
        let lasts_ms = self.random.random_range(LASTS_MS);
        let awake = cluster.awake();
        // The leader more often than others.
        let leader = cluster.leader().filter(|_| self.random.random_ratio(1, 2));
        let Some(victim) = leader.or_else(|| cluster.some(&awake)) else { return };
        let nodes = cluster.nodes.len();
        cluster.note(format_args!("{fault:?} of n{victim} for {lasts_ms} ms"));
        match fault {
            Fault::Kill => {
                cluster.kill(victim);
                self.until(now_ms, lasts_ms, End::Start(victim));
            }
            Fault::KillForAMoment => {
                cluster.kill(victim);
                self.until(now_ms, lasts_ms / 50, End::Start(victim));
            }
            Fault::PowerCut => {
                cluster.cut_power(victim);
                self.until(now_ms, lasts_ms, End::Start(victim));
            }
            Fault::PowerCutOfAll | Fault::KillOfAll => {
                for node in cluster.members() {
                    match fault {
                        Fault::PowerCutOfAll => cluster.cut_power(node),
                        _ => cluster.kill(node),
                    }
                    let later = self.random.random_range(10..400);
                    self.until(now_ms, later, End::Start(node));
                }
            }
            Fault::Pause | Fault::Suspend => {
                let victim = &mut cluster.nodes[victim];
                victim.paused_until_ms = Some(now_ms + lasts_ms);
                victim.suspended = fault == Fault::Suspend;
            }
            Fault::CutOneWay => {
                let to = self.random.random_range(0..nodes);
                self.cut(now_ms, lasts_ms, |a, b| (a, b) == (victim, to));
            }
            Fault::Isolate => self.cut(now_ms, lasts_ms, |a, b| a == victim || b == victim),
            Fault::HearsNobody => self.cut(now_ms, lasts_ms, |_, b| b == victim),
            Fault::IsHeardByNobody => self.cut(now_ms, lasts_ms, |a, _| a == victim),
            Fault::SlowLinks | Fault::LossyLinks => {
                let delay = self.random.random_range(20..250);
                let loss_percent = self.random.random_range(5..40);
                let all = self.random.random_ratio(1, 3);
                self.links(now_ms, lasts_ms, |a, b, link| {
                    let is_meant = all || a == victim || b == victim;
                    match fault {
                        Fault::SlowLinks if is_meant => link.delay_ms = (delay / 2, delay),
                        _ if is_meant => link.loss_percent = loss_percent,
                        _ => {}
                    }
                });
            }
            Fault::BrokenConnections => {
                let other = self.random.random_range(0..nodes);
                let those = move |a, b| (a, b) == (victim, other) || (b, a) == (victim, other);
                let wakers = in_world(|world| world.net.break_those(those));
                wakers.into_iter().for_each(|waker| waker.wake());
            }
            Fault::SlowDisk => {
                let most = self.random.random_range(20..400);
                in_world(|world| world.disks[victim].sync_ms = (most / 3, most));
                self.until(now_ms, lasts_ms, End::Disk(victim));
            }
            Fault::FailingSync => {
                cluster.nodes[victim].may_fail = true;
                in_world(|world| world.disks[victim].fails = true);
            }
            Fault::FullDisk => {
                let all = self.random.random_ratio(1, 3);
                for node in if all { cluster.running() } else { vec![victim] } {
                    in_world(|world| world.disks[node].free_bytes = 1_000);
                    self.until(now_ms, lasts_ms, End::Disk(node));
                }
            }
            Fault::ClockJump => {
                let jump = self.random.random_range(-200_000..200_000);
                in_world(|world| world.wall_ahead_ms[victim] += jump);
            }
            Fault::HandOver => {
                let life = cluster.life(victim).expect("it is awake");
                let handle = life.handle.clone();
                life.spawn(async move {
                    // Refused by who does not lead, or has nobody to hand over to.
                    let _ = handle.transfer_leadership(None).await;
                });
            }
        }
    }

    fn cut(&mut self, now_ms: u64, lasts_ms: u64, those: impl Fn(usize, usize) -> bool) {
        self.links(now_ms, lasts_ms, |a, b, link| link.cut |= those(a, b));
    }

    fn links(
        &mut self,
        now_ms: u64,
        lasts_ms: u64,
        mut change: impl FnMut(usize, usize, &mut super::net::Link),
    ) {
        in_world(|world| {
            for from in 0..super::NODES_MAX {
                for to in (0..super::NODES_MAX).filter(|to| *to != from) {
                    change(from, to, world.net.link(from, to));
                }
            }
        });
        self.until(now_ms, lasts_ms, End::Mend);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waits,
    /// Somebody new is to get the log, and then to vote in the place of the victim.
    Replaces {
        new: usize,
        victim: usize,
    },
    Done,
}

/// A voter makes room for another.
struct Replacement {
    begins_ms: u64,
    stage: Stage,
}

impl Nemesis {
    /// Goes on with the replacement of a voter, if there is to be one: one step
    /// of the leader's at a time, over and over until it is made. Which one, the
    /// leader's membership decides each time anew, as the core's planner does:
    /// what one leader has done and not committed, the next may not have.
    pub fn replace(&mut self, cluster: &mut Cluster, now_ms: u64) -> Result<(), String> {
        let Some(replacement) = &mut self.replacement else { return Ok(()) };
        if now_ms < replacement.begins_ms || !now_ms.is_multiple_of(REPLACE_EVERY_MS) {
            return Ok(());
        }
        let Some(leader) = cluster.leader() else { return Ok(()) };
        let life = cluster.life(leader).expect("it leads");
        let handle = life.handle.clone();
        let Some(membership) = handle.membership() else { return Ok(()) };
        match replacement.stage {
            Stage::Done => return Ok(()),
            Stage::Waits => {
                let victim = cluster.some(&cluster.running()).expect("somebody leads");
                let new = cluster.add();
                cluster.note(format_args!("n{new} comes, for n{victim}"));
                cluster.start(new)?;
                replacement.stage = Stage::Replaces { new, victim };
            }
            Stage::Replaces { new, victim } => {
                let (id, old) = (cluster.raft_id(new), cluster.raft_id(victim));
                let votes = membership.voters.contains(&id);
                let is_made = votes && !membership.voters.contains(&old) && !membership.is_joint;
                if is_made {
                    if handle.node().members_known().1.is_some() {
                        cluster.note(format_args!("n{new} votes, and n{victim} does not"));
                        cluster.kill(victim);
                        cluster.nodes[victim].gone = true;
                        replacement.stage = Stage::Done;
                    }
                } else if !votes && !membership.learners.contains(&id) {
                    if !membership.is_joint {
                        change_by(cluster, leader, joining(cluster, new));
                    }
                } else if votes || membership.caught_up.contains(&id) {
                    cluster.nodes[victim].leaving = true;
                    let mut voters = membership.voters.clone();
                    voters.remove(&old);
                    voters.insert(id);
                    change_by(cluster, leader, MembershipChange::SetVoters(voters));
                }
            }
        }
        Ok(())
    }
}

/// Somebody new is to get the log.
pub(super) fn joining(cluster: &Cluster, new: usize) -> MembershipChange {
    MembershipChange::AddLearner {
        raft_id: cluster.raft_id(new),
        name: format!("n{new}"),
        peer_addr: address(new),
        dir_id: cluster.dir_id(new),
    }
}

/// The leader makes a change, or does not: it is looked at again.
pub(super) fn change_by(cluster: &Cluster, leader: usize, change: MembershipChange) {
    let Some(life) = cluster.life(leader) else { return };
    let handle = life.handle.clone();
    let term = handle.leadership().borrow().term;
    life.spawn(async move {
        let _ = handle.change_membership(term, change).await;
    });
}
