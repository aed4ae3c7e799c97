//! Who votes: what is asked for is reached step by step, whoever leads, and
//! never over a set of voters that could commit nothing.

use std::collections::BTreeSet;

use aether_core::command::{Command, Refusal};
use aether_core::ids::NodeName;
use aether_core::level::FEATURE_LEVEL_MAX;
use aether_core::planner::{Membership, VoterStep, VoterWait, next_voter_step, voter_wait};
use aether_core::records::{RAFT_ID_BASE, VoterWanted};
use proptest::prelude::*;

use crate::world::{World, register};

fn invite(node: &str, replaces: Option<u64>) -> Command {
    let peer_addr = format!("{node}:8091");
    Command::InviteVoter { node: node.parse().unwrap(), peer_addr, replaces }
}

fn admit(node: &str, dir_id: &str) -> Command {
    Command::AdmitVoter {
        node: node.parse().unwrap(),
        dir_id: dir_id.into(),
        feature_level: FEATURE_LEVEL_MAX,
    }
}

fn remove(node: &str, raft_id: u64) -> Command {
    Command::RemoveVoter { node: node.parse().unwrap(), raft_id }
}

/// Consensus, as far as the steps see it.
struct Consensus {
    world: World,
    now: Membership,
}

impl Consensus {
    fn of(voters: u64) -> Self {
        let voters: BTreeSet<u64> = (1..=voters).collect();
        let now = Membership {
            alive: voters.clone(),
            caught_up: voters.clone(),
            names: voters.iter().map(|id| (*id, format!("n{id}").parse().unwrap())).collect(),
            voters,
            leader: 1,
            ..Membership::default()
        };
        // Without artifacts there is nothing to copy.
        let mut world = World::empty();
        world.state.artifacts = Default::default();
        Self { world, now }
    }

    /// Does the next step; whether there was one.
    fn step(&mut self) -> bool {
        let Some(step) = next_voter_step(&self.world.state, &self.now) else { return false };
        match step {
            VoterStep::AddLearner { raft_id, node, .. } => {
                self.now.names.insert(raft_id, node);
                assert!(!self.now.voters.contains(&raft_id), "a voter becomes a learner");
                assert!(self.now.learners.insert(raft_id));
                self.now.alive.insert(raft_id);
            }
            VoterStep::SetVoters { voters } => {
                let alive = voters.intersection(&self.now.alive).count();
                assert!(alive > voters.len() / 2, "{voters:?} of {:?} commit nothing", self.now);
                assert!(voters.contains(&self.now.leader), "the leader goes while it leads");
                self.now.learners.retain(|id| !voters.contains(id));
                self.now.voters = voters;
                self.now.is_joint = false;
            }
            VoterStep::RemoveLearner { raft_id } => assert!(self.now.learners.remove(&raft_id)),
            VoterStep::HandOver => {
                let others = self.now.voters.iter().filter(|id| **id != self.now.leader);
                let alive: Vec<&u64> = others.filter(|id| self.now.alive.contains(id)).collect();
                self.now.leader = **alive.first().expect("somebody to hand over to");
            }
            VoterStep::End { node, modified } => {
                self.world.ok(Command::EndVoterChange { node, modified });
            }
        }
        true
    }

    /// Until nothing is left to do, with the learners catching up.
    fn settle(&mut self) {
        for _ in 0..100 {
            if !self.step() {
                let behind = self.now.learners.difference(&self.now.caught_up);
                let Some(next) = behind.copied().next() else { return };
                self.now.caught_up.insert(next);
            }
        }
        panic!("it never ends: {:?}", self.now);
    }

    fn id_of(&self, node: &str) -> u64 {
        match &self.world.state.voter_changes[&node.parse::<NodeName>().unwrap()].wanted {
            VoterWanted::Join { admitted: Some(admitted), .. } => admitted.raft_id,
            other => panic!("{node} is not admitted: {other:?}"),
        }
    }

    fn wait(&self, node: &str) -> Option<VoterWait> {
        voter_wait(&self.world.state, &self.now, &node.parse().unwrap())
    }
}

#[test]
fn a_node_is_invited_admitted_catches_up_and_votes() {
    let mut it = Consensus::of(3);
    assert_eq!(
        it.world.propose(admit("n4", "d")),
        Err(Refusal::NotInvited { node: "n4".parse().unwrap() })
    );
    it.world.ok(invite("n4", None));
    it.world.ok(invite("n4", None));
    assert!(it.world.propose(invite("n4", Some(1))).is_err(), "another invitation");
    assert!(!it.step());
    assert_eq!(it.wait("n4"), Some(VoterWait::NotCome));

    it.world.ok(admit("n4", "d"));
    let id = it.id_of("n4");
    assert!(id > RAFT_ID_BASE);
    it.world.ok(admit("n4", "d"));
    assert_eq!(it.id_of("n4"), id, "asked twice");
    let other = it.world.propose(admit("n4", "e"));
    assert_eq!(other, Err(Refusal::VoterTaken { node: "n4".parse().unwrap() }));

    assert!(it.step());
    assert!(!it.step());
    assert_eq!(it.wait("n4"), Some(VoterWait::CatchingUp));
    it.settle();
    assert_eq!(it.now.voters, [1, 2, 3, id].into());
    assert!(it.world.state.voter_changes.is_empty());
}

#[test]
fn a_dead_voter_is_replaced_in_one_change_and_its_id_never_comes_back() {
    let mut it = Consensus::of(3);
    it.now.alive.remove(&2);
    it.world.ok(invite("n2", Some(2)));
    it.world.ok(admit("n2", "new"));
    let id = it.id_of("n2");
    it.settle();
    assert_eq!(it.now.voters, [1, 3, id].into());
    it.world.ok(remove("n2", id));
    it.settle();
    it.world.ok(invite("n2", None));
    it.world.ok(admit("n2", "newer"));
    assert!(it.id_of("n2") > id);
}

#[test]
fn the_leader_hands_over_before_it_goes() {
    let mut it = Consensus::of(3);
    it.world.ok(remove("n1", 1));
    it.settle();
    assert_eq!(it.now.voters, [2, 3].into());
    // Of the last two as well; the last one stays.
    it.world.ok(remove("n2", 2));
    it.settle();
    assert_eq!(it.now.voters, [3].into());
    it.world.ok(remove("n3", 3));
    it.settle();
    assert_eq!(it.wait("n3"), Some(VoterWait::NoMajority { voters: 0, alive: 0 }));
}

#[test]
fn a_single_voter_is_replaced_after_the_newcomer_can_lead() {
    let mut it = Consensus::of(1);
    it.world.ok(invite("n2", Some(1)));
    it.world.ok(admit("n2", "d"));
    let id = it.id_of("n2");
    it.settle();
    assert_eq!((it.now.leader, &it.now.voters), (id, &[id].into()));
}

#[test]
fn nobody_goes_who_is_needed_to_commit() {
    let mut it = Consensus::of(3);
    it.now.alive.remove(&3);
    it.world.ok(remove("n2", 2));
    it.settle();
    assert_eq!(it.now.voters.len(), 3);
    assert_eq!(it.wait("n2"), Some(VoterWait::NoMajority { voters: 2, alive: 1 }));
    // The dead one may.
    it.world.ok(remove("n3", 3));
    it.settle();
    assert_eq!(it.now.voters, [1].into(), "both in the end");
}

#[test]
fn an_invitation_is_taken_back_also_from_one_that_has_come() {
    let mut it = Consensus::of(3);
    it.world.ok(invite("n4", None));
    it.world.ok(remove("n4", 0));
    assert!(it.world.state.voter_changes.is_empty());
    it.world.ok(invite("n4", None));
    it.world.ok(admit("n4", "d"));
    assert!(it.step());
    let id = it.id_of("n4");
    it.world.ok(remove("n4", id));
    it.settle();
    assert!(it.now.learners.is_empty() && it.now.voters.len() == 3);
}

#[test]
fn nobody_goes_before_the_others_have_the_archives() {
    let mut it = Consensus::of(3);
    let holders = |it: &mut Consensus, nodes: &[&str]| {
        let Command::RegisterArtifact { artifact, digest, .. } = register("1.0.0") else {
            unreachable!()
        };
        for node in nodes {
            it.world.ok(Command::ArtifactHeld {
                artifact: artifact.clone(),
                digest: digest.clone(),
                holder: node.parse().unwrap(),
            });
        }
    };
    it.world.ok(register("1.0.0"));
    holders(&mut it, &["n1", "n2"]);
    it.world.ok(remove("n2", 2));
    it.settle();
    assert_eq!(it.wait("n2"), Some(VoterWait::Archives { missing: 1 }));
    holders(&mut it, &["n3"]);
    it.settle();
    assert_eq!(it.now.voters, [1, 3].into());
    let held = &it.world.state.artifacts.values().next().unwrap().held_by;
    assert!(!held.contains(&"n2".parse::<NodeName>().unwrap()), "it may be gone: {held:?}");

    // The same name with an empty directory has nothing.
    it.world.ok(invite("n3", Some(3)));
    it.world.ok(admit("n3", "empty"));
    it.settle();
    assert_eq!(it.wait("n3"), Some(VoterWait::Archives { missing: 1 }));
    holders(&mut it, &["n3"]);
    it.settle();
    assert!(!it.now.voters.contains(&3));
}

#[test]
fn a_learner_that_nobody_wants_any_more_is_forgotten() {
    let mut it = Consensus::of(3);
    it.now.learners.insert(1_077);
    it.settle();
    assert!(it.now.learners.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is asked for, in whatever order, with leaders that change in
    /// between: the asserts of `Consensus::step` hold, and it ends.
    #[test]
    fn every_order_of_requests_ends(
        requests in prop::collection::vec((0..5u8, 1..7u64, any::<bool>()), 1..12),
    ) {
        let mut it = Consensus::of(3);
        for (what, of, now) in requests {
            let node = format!("n{of}");
            let command = match what {
                0 => invite(&node, None),
                1 => invite(&node, Some(of)),
                2 => admit(&node, "d"),
                3 => remove(&node, of),
                _ => {
                    let (old, voters) = (it.now.leader, it.now.voters.clone());
                    it.now.leader = voters.into_iter().find(|id| *id > old).unwrap_or(old);
                    it.now.is_joint = now;
                    continue;
                }
            };
            // Refused or not: what is wanted stays in one piece.
            let _ = it.world.propose(command);
            if now {
                it.settle();
            }
        }
        it.settle();
        prop_assert!(!it.now.voters.is_empty());
    }
}
