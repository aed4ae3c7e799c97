//! Scenes that are set up to the last step, for what chance would hardly bring about.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::types::vote;
use crate::{MembershipChange, ReadError, rounds};

use super::nemesis::{Nemesis, change_by, joining};
use super::run::{Scene, Settings};
use super::{NODES_MAX, in_world};

/// Two of the longest elections of silence, four until nobody waits for the leader
/// any more, and some for an election; connections are given up after four seconds.
const DEAF_MS_MAX: u64 = 3_000;
/// After so long without a leader a member has asked, a few times, whether it is one.
const UNHEARD_MS: u64 = 3_000;
/// Until a leader has begun to hand over.
const HAND_OVER_MS: u64 = 20;
/// Lease, timeout, and an election. A leader that is not answered falls silent later.
const FAILOVER_MS_MAX: u64 = 700;
/// Between two reads of a leader that is to be caught.
const READ_EVERY_MS: u64 = 3;
/// How long one of them waits.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// The leader hears nobody and is heard by all: another one has to lead, long before
/// its connections are given up and nobody hears it any more.
pub(super) fn deaf_leader(settings: Settings) -> Result<(), String> {
    let (mut scene, deaf, others) = with_leader(settings, false)?;
    others.iter().for_each(|other| cut(*other, deaf));
    scene.cluster.note(format_args!("n{deaf} hears nobody any more"));
    let probed = scene.probe_all(&others);
    scene.within(DEAF_MS_MAX, "write beside a deaf leader", |_| {
        probed.load(Ordering::Relaxed) == others.len()
    })
}

/// A follower is killed before it has synced an entry, starts again, and answers
/// for it, so that it is acknowledged. Then it loses its power, and is one of the
/// two that go on.
pub(super) fn found_by_the_next_life(settings: Settings) -> Result<(), String> {
    let (mut scene, leader, others) = with_leader(settings, false)?;
    let (killed, away) = (others[0], others[1]);
    part(&[away]);
    in_world(|world| {
        world.disks[killed].sync_ms = (200, 200);
        world.disks[killed].keeps_nothing = true;
    });
    let before = scene.cluster.last_in_log(killed);
    let probed = scene.probe_all(&[leader]);
    scene.until("entry", |scene| scene.cluster.last_in_log(killed) > before)?;
    scene.cluster.kill(killed);
    in_world(|world| world.disks[killed].recover());
    scene.cluster.start(killed)?;
    scene.until("acknowledgement", |_| probed.load(Ordering::Relaxed) == 1)?;

    scene.cluster.cut_power(killed);
    scene.cluster.cut_power(leader);
    mend();
    scene.cluster.start(killed)?;
    scene.until("another leader", |scene| scene.cluster.leader().is_some())?;
    let probed = scene.probe_all(&[killed, away]);
    scene.until("write", |_| probed.load(Ordering::Relaxed) == 2)?;
    scene.cluster.start(leader)?;
    scene.until("equal state", |scene| scene.cluster.agrees())?;
    // Another entry in the place of one that was applied is noticed at once.
    Ok(())
}

/// A leader that is alone gives the log to a newcomer, and loses the leadership
/// before that is committed: the next one has never heard of the newcomer.
pub(super) fn newcomer_of_a_lost_leader(settings: Settings) -> Result<(), String> {
    let (mut scene, alone, _) = with_leader(settings, false)?;
    let new = scene.cluster.nodes.len();
    part(&[alone, new]);
    scene.nemesis = Some(Nemesis::that_breaks_nothing(settings.seed, true));
    scene.until("newcomer that has caught up", |scene| {
        let leader = scene.cluster.life(alone).and_then(|life| life.handle.membership());
        leader.is_some_and(|seen| seen.learners.iter().any(|id| seen.caught_up.contains(id)))
    })?;
    scene.until("another leader", |scene| {
        scene.cluster.leader().is_some_and(|leader| leader != alone)
    })?;
    mend();
    scene.until("end of the replacement", |scene| {
        !scene.nemesis.as_ref().is_some_and(Nemesis::is_replacing)
    })?;
    scene.until("equal state", |scene| scene.cluster.agrees())
}

/// A leader that is alone removes a member, which asks it who the members are, and
/// loses the leadership before that is committed: nobody was removed.
pub(super) fn removal_that_is_lost(settings: Settings) -> Result<(), String> {
    let (mut scene, alone, _) = with_leader(settings, false)?;
    let member = scene.cluster.add();
    scene.cluster.start(member)?;
    change_by(&scene.cluster, alone, joining(&scene.cluster, member));
    scene.until("equal state", |scene| scene.cluster.agrees())?;
    let knows = |scene: &Scene, of: usize| {
        let life = scene.cluster.life(of).expect("nobody ends");
        let id = scene.cluster.raft_id(member);
        life.handle.node().members().iter().any(|(known, _)| *known == id)
    };

    part(&[alone, member]);
    let id = scene.cluster.raft_id(member);
    change_by(&scene.cluster, alone, MembershipChange::RemoveLearner(id));
    scene.until("removal", |scene| !knows(scene, alone))?;
    // It would end when it has heard of no leader for a while, and asked.
    for _ in 0..UNHEARD_MS {
        scene.step(false)?;
    }
    mend();
    scene.until("return of the member", |scene| knows(scene, alone) && scene.cluster.agrees())
}

/// All is healed while a follower waits for a sync that was to fail: it does not,
/// for nobody starts a node again that ends after that.
pub(super) fn sync_under_way_when_all_is_healed(settings: Settings) -> Result<(), String> {
    let (mut scene, leader, others) = with_leader(settings, false)?;
    // Until no earlier sync is under way.
    for _ in 0..20 {
        scene.step(false)?;
    }
    scene.nemesis = Some(Nemesis::that_breaks_nothing(settings.seed, false));
    let slow = others[0];
    scene.cluster.nodes[slow].may_fail = true;
    in_world(|world| {
        world.disks[slow].sync_ms = (200, 200);
        world.disks[slow].fails = true;
    });
    let before = scene.cluster.last_in_log(slow);
    scene.probe_all(&[leader]);
    scene.until("entry", |scene| scene.cluster.last_in_log(slow) > before)?;
    scene.come_to_rest().map(|_| ())
}

/// What the others sent to a leader arrives when they have had another for long, and
/// just then it is asked for what was written last.
pub(super) fn late_answers(settings: Settings) -> Result<(), String> {
    let (mut scene, old, others) = with_leader(settings, false)?;
    others.iter().for_each(|other| cut(*other, old));
    let before: Vec<_> = others.iter().map(|node| scene.cluster.last_in_log(*node)).collect();
    scene.probe_all(&[old]);
    scene.until("entry at the others", |scene| {
        let now = others.iter().map(|node| scene.cluster.last_in_log(*node));
        now.zip(&before).all(|(now, before)| now > *before)
    })?;
    others.iter().for_each(|other| cut(old, *other));
    scene.until("another leader", |scene| scene.cluster.leader().is_some_and(|now| now != old))?;
    let probed = scene.probe_all(&others);
    scene.until("write", |_| probed.load(Ordering::Relaxed) == others.len())?;
    in_world(|world| {
        world.net.mend(world.now_ms, &mut world.random, |_, to| to == old);
    });
    scene.reads_at(old, &others, 1_000).map(drop)
}

/// A voter that asks the leader makes up the majority with it, as long as its last
/// ballot is the leader's; nobody else does.
pub(super) fn voices(settings: Settings) -> Result<(), String> {
    let (mut scene, leader, others) = with_leader(settings, false)?;
    let figures = |scene: &Scene| {
        let status = scene.cluster.life(leader).expect("it leads").handle.status();
        (status.read_rounds, status.read_voices)
    };
    let before = figures(&scene);
    scene.confirm(others[0])?;
    let (rounds, voices) = figures(&scene);
    if (rounds, voices > before.1) != (before.0, true) {
        return Err(format!("{before:?} rounds and voices became {:?}", (rounds, voices)));
    }

    let life = scene.cluster.life(leader).expect("it leads");
    let (handle, me) = (life.handle.clone(), scene.cluster.raft_id(leader));
    let voter = scene.cluster.raft_id(others[0]);
    let term = handle.leadership().borrow().term;
    let cases = [
        ("the leader's ballot", voter, vote(term, me, true), true),
        ("before the leader was heard", voter, vote(term, me, false), false),
        ("a ballot of before", voter, vote(term - 1, me, true), false),
        ("a later one", voter, vote(term + 1, voter, false), false),
        ("no voter", 99, vote(term, me, true), false),
        ("the leader itself", me, vote(term, me, true), false),
    ];
    let wrong = Arc::new(Mutex::new(None));
    let to = wrong.clone();
    life.spawn(async move {
        let mut found = Vec::new();
        for (case, voter, vote, counts) in cases {
            let confirmed = rounds::confirmed_by(handle.node(), voter, vote).await;
            if confirmed.as_ref().map(Option::is_some) != Ok(counts) {
                found.push(format!("{case}: {confirmed:?}"));
            }
        }
        *to.lock().unwrap() = Some(found);
    });
    scene.until("answers", |_| wrong.lock().unwrap().is_some())?;
    let wrong = wrong.lock().unwrap().take().unwrap_or_default();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// A voter is killed and starts again at once, while the leader counts on it, which
/// then hears nobody any more. The third waits for a chance to lead.
pub(super) fn restart_within_a_lease(settings: Settings) -> Result<(), String> {
    let (mut scene, old, others) = with_leader(settings, true)?;
    let (voter, waiting) = (others[0], others[1]);
    apart(old, waiting);
    scene.rest(500)?;
    scene.confirm(old)?;
    apart(old, voter);
    scene.cluster.kill(voter);
    scene.cluster.start(voter)?;
    match scene.reads_at(old, &others, 600)? {
        0 => Err(format!("n{old} answers nobody, though it has a lease")),
        _ => Ok(()),
    }
}

/// A leader hands over and hears no more of it.
pub(super) fn hand_over_within_a_lease(settings: Settings) -> Result<(), String> {
    let (mut scene, old, others) = with_leader(settings, true)?;
    scene.confirm(old)?;
    others.iter().for_each(|other| cut(*other, old));
    let life = scene.cluster.life(old).expect("it leads");
    let handle = life.handle.clone();
    life.spawn(async move {
        // It does not hear of it.
        let _ = handle.transfer_leadership(None).await;
    });
    scene.reads_at(old, &others, 600).map(drop)
}

/// A leader hands over to a voter whose disk hangs, and is asked for reads all the
/// time: the third has to lead.
pub(super) fn hand_over_that_is_lost(settings: Settings) -> Result<(), String> {
    let (mut scene, old, others) = with_leader(settings, false)?;
    let heir = others[0];
    in_world(|world| world.disks[heir].sync_ms = (2_000, 2_000));
    let before = scene.cluster.last_in_log(heir);
    scene.probe_all(&[old]);
    scene.until("entry", |scene| scene.cluster.last_in_log(heir) > before)?;
    let life = scene.cluster.life(old).expect("it leads");
    let handle = life.handle.clone();
    life.spawn(async move {
        // It does not come to that.
        let _ = handle.transfer_leadership(Some(&format!("n{heir}"))).await;
    });
    for _ in 0..HAND_OVER_MS {
        scene.step(false)?;
    }
    scene.within(FAILOVER_MS_MAX, "leader after a hand-over", |scene| {
        scene.read_at(old, 0);
        scene.cluster.leader().is_some_and(|leader| leader != old)
    })
}

/// The leader's machine is suspended for longer than an election takes, and then
/// hears nothing of it.
pub(super) fn suspended_within_a_lease(settings: Settings) -> Result<(), String> {
    let (mut scene, old, others) = with_leader(settings, true)?;
    scene.confirm(old)?;
    others.iter().for_each(|other| cut(*other, old));
    let until_ms = in_world(|world| world.now_ms) + 900;
    let it = &mut scene.cluster.nodes[old];
    (it.paused_until_ms, it.suspended) = (Some(until_ms), true);
    scene.reads_at(old, &others, 1_200).map(drop)
}

/// A cluster of three in the same state, its leader, and the others.
fn with_leader(
    settings: Settings,
    lease_reads: bool,
) -> Result<(Scene, usize, Vec<usize>), String> {
    let mut random = StdRng::seed_from_u64(settings.seed);
    let mut scene = Scene::new(3, lease_reads, settings.seed, &mut random)?;
    scene.until("equal state", |scene| scene.cluster.agrees())?;
    let leader = scene.cluster.leader().ok_or("the leader is gone")?;
    Ok((scene, leader, (0..3).filter(|node| *node != leader).collect()))
}

fn cut(from: usize, to: usize) {
    in_world(|world| world.net.link(from, to).cut = true);
}

fn apart(one: usize, other: usize) {
    cut(one, other);
    cut(other, one);
}

/// Separates `ours` from all others, in both directions.
fn part(ours: &[usize]) {
    in_world(|world| {
        for (a, b) in (0..NODES_MAX).flat_map(|a| (0..NODES_MAX).map(move |b| (a, b))) {
            world.net.link(a, b).cut = ours.contains(&a) != ours.contains(&b);
        }
    });
}

fn mend() {
    in_world(|world| world.net.heal(world.now_ms, &mut world.random));
}

type Seen = Arc<Mutex<Option<Result<u64, ReadError>>>>;

/// A read that is under way, and what was written elsewhere before it.
struct Read {
    written: u64,
    seen: Seen,
}

impl Scene {
    fn rest(&mut self, ms: u64) -> Result<(), String> {
        (0..ms).try_for_each(|_| self.step(false))
    }

    /// Asks a node for a linearizable read.
    fn read_at(&self, node: usize, written: u64) -> Read {
        let seen = Seen::default();
        let life = self.cluster.life(node).expect("nobody killed it");
        let (handle, shown, to) = (life.handle.clone(), life.shown.clone(), Arc::clone(&seen));
        life.spawn(async move {
            let read = handle.read_barrier(PATIENCE).await;
            *to.lock().unwrap() = Some(read.map(|_| shown.at().0));
        });
        Read { written, seen }
    }

    /// A read that is answered: a leader asks the others whether it still is one.
    fn confirm(&mut self, node: usize) -> Result<(), String> {
        let read = self.read_at(node, 0);
        self.until("read", |_| matches!(*read.seen.lock().unwrap(), Some(Ok(_))))
    }

    /// Reads at `old` and writes at the others for a while. No read may show less
    /// than was written before it. Gives how many were answered.
    fn reads_at(&mut self, old: usize, others: &[usize], ms: u64) -> Result<usize, String> {
        let (mut under_way, mut answered, mut writes) = (Vec::new(), 0, 0);
        let mut probed = self.probe_all(others);
        for at_ms in 0..ms {
            let lives = others.iter().filter_map(|node| self.cluster.life(*node));
            let written = lives.map(|life| life.shown.at().0).max().unwrap_or(0);
            if at_ms.is_multiple_of(READ_EVERY_MS) {
                under_way.push(self.read_at(old, written));
            }
            if probed.load(Ordering::Relaxed) == others.len() {
                writes += 1;
                probed = self.probe_all(others);
            }
            self.step(false)?;
            let (ended, waiting) =
                under_way.into_iter().partition(|read: &Read| read.seen.lock().unwrap().is_some());
            under_way = waiting;
            for Read { written, seen } in ended {
                let Some(Ok(seen)) = seen.lock().unwrap().take() else { continue };
                answered += 1;
                if seen < written {
                    return Err(format!(
                        "n{old} shows {seen} to who asked after {written} was written elsewhere"
                    ));
                }
            }
        }
        if writes == 0 {
            return Err(format!("nothing was written at n{others:?}"));
        }
        Ok(answered)
    }
}
