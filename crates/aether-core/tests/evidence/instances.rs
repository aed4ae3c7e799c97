//! One bad host beside a bad version: which of the two is blamed.

use std::collections::BTreeMap;

use aether_core::evidence::{
    Decision, Event, Evidence, InstanceTallies, Judge, Present, Side, Tallies, Verdict,
};
use aether_core::ids::InstanceId;
use aether_core::weights::Weights;

use crate::sampler::Sampler;

const RUNS: u64 = 1_000;
const SECONDS: u64 = 900;
/// The old version's error rate, and the usual share of slow requests.
const USUAL: f64 = 0.01;

/// The error rate of each instance of the new side, at a weight of 1:9 and
/// `per_second` requests to each of them.
struct Hosts<'a> {
    errors: &'a [f64],
    per_second: u64,
}

fn id(index: usize) -> InstanceId {
    format!("shop-{index}").parse().unwrap()
}

fn draw(sampler: &mut Sampler, requests: u64, errors: f64) -> Side {
    let errors = sampler.binomial(requests, errors);
    Side { requests, errors, timed: requests, slow: sampler.binomial(requests, USUAL) }
}

/// The first decision that is one, and the second in which it was made.
fn first(hosts: &Hosts<'_>, seed: u64) -> Option<(u64, Decision)> {
    let (mut sampler, judge) = (Sampler::new(seed), Judge::default());
    let (mut evidence, mut instances) = (Evidence::default(), InstanceTallies::new());
    evidence.open(1, Weights::new(1, 9).unwrap(), 0, Some(80));
    for second in 1..=SECONDS {
        let mut new = Side::default();
        for (index, errors) in hosts.errors.iter().enumerate() {
            let side = draw(&mut sampler, hosts.per_second, *errors);
            instances.entry(id(index)).or_default().entry(1).or_default().fold(side);
            new.fold(side);
        }
        let old = draw(&mut sampler, 9 * new.requests, USUAL);
        evidence.fold(1, Tallies { new, old });
        let decision = judge.decide_by_instance(&evidence, &instances, &Present::default());
        if decision.verdict != Verdict::Continue {
            return Some((second, decision));
        }
    }
    None
}

/// Shares of runs that were rolled back, in which an instance was blamed, in
/// which it was the first instance; and the median second of a decision.
fn blamed(hosts: &Hosts<'_>) -> (f64, f64, f64, u64) {
    let outcomes: Vec<_> = (0..RUNS).map(|seed| first(hosts, seed)).collect();
    let share = |is: &dyn Fn(&Verdict) -> bool| {
        let verdicts = outcomes.iter().flatten().map(|(_, decision)| &decision.verdict);
        verdicts.filter(|verdict| is(verdict)).count() as f64 / RUNS as f64
    };
    let mut times: Vec<u64> =
        outcomes.iter().map(|o| o.as_ref().map_or(u64::MAX, |(second, _)| *second)).collect();
    times.sort_unstable();
    let first_instance = Verdict::InstanceOutlier { instance: id(0) };
    (
        share(&|v| *v == Verdict::RollBack),
        share(&|v| matches!(v, Verdict::InstanceOutlier { .. })),
        share(&|v| *v == first_instance),
        times[times.len() / 2],
    )
}

#[test]
fn one_bad_host_is_named_and_the_version_is_not_rolled_back() {
    let hosts: [(&str, &[f64]); 3] = [
        ("one of three fails half", &[0.5, USUAL, USUAL]),
        ("one of three fails a tenth", &[0.1, USUAL, USUAL]),
        ("one of eight fails a fifth", &[0.2, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01]),
    ];
    for (what, errors) in hosts {
        let (rolled_back, _, named, median) = blamed(&Hosts { errors, per_second: 5 });
        println!("{what}: named {named}, rolled back {rolled_back}, median {median} s");
        assert!(rolled_back <= 0.01, "{what}: {rolled_back} rolled back");
        assert!(named >= 0.98, "{what}: {named} named");
        assert!(median <= 120, "{what}: {median} s");
    }
}

#[test]
fn a_bad_version_is_not_blamed_on_a_host() {
    for (what, errors) in [("three", &[0.05; 3][..]), ("eight", &[0.05; 8])] {
        let (rolled_back, outliers, _, median) = blamed(&Hosts { errors, per_second: 2 });
        println!("{what}: rolled back {rolled_back}, outliers {outliers}, median {median} s");
        assert!(rolled_back >= 0.98 && outliers <= 0.01, "{what}: {rolled_back}, {outliers}");
        assert!(median <= 300, "{what}: {median} s");
    }
}

#[test]
fn hosts_that_are_alike_are_not_blamed() {
    let (rolled_back, outliers, _, _) = blamed(&Hosts { errors: &[USUAL; 4], per_second: 5 });
    println!("four that are alike: rolled back {rolled_back}, outliers {outliers}");
    assert!(rolled_back <= 0.01 && outliers <= 0.01, "{rolled_back}, {outliers}");
}

fn side(requests: u64, errors: u64) -> Side {
    Side { requests, errors, timed: requests, slow: requests / 100 }
}

fn decide(instances: &[Side], old: Side) -> Decision {
    let mut evidence = Evidence::default();
    evidence.open(1, Weights::new(1, 9).unwrap(), 0, Some(80));
    let mut by_instance = InstanceTallies::new();
    for (index, new) in instances.iter().enumerate() {
        evidence.fold(1, Tallies { new: *new, old: Side::default() });
        by_instance.insert(id(index), BTreeMap::from([(1, *new)]));
    }
    evidence.fold(1, Tallies { new: Side::default(), old });
    Judge::default().decide_by_instance(&evidence, &by_instance, &Present::default())
}

#[test]
fn of_two_instances_nobody_can_say_which_is_the_odd_one() {
    let (bad, good, old) = (side(4_000, 2_000), side(4_000, 40), side(108_000, 1_080));
    let decision = decide(&[bad, good], old);
    assert_eq!((decision.verdict, decision.outlier), (Verdict::RollBack, None));
    let decision = decide(&[bad, good, good], old);
    assert_eq!(decision.verdict, Verdict::InstanceOutlier { instance: id(0) });
    assert!(
        decision.reason().starts_with(
            "instance shop-0 has 2000 errors among 4000 requests, its peers together 80 among 8000"
        ),
        "{}",
        decision.reason()
    );
    assert_eq!(decision.version, Verdict::Promote, "judged without it");
    let outlier = decision.outlier.unwrap();
    assert_eq!(
        (outlier.event, outlier.own.events, outlier.peers.events),
        (Event::Error, 2_000, 80)
    );
    assert_eq!((decision.errors.new.requests, decision.errors.new.events), (8_000, 80));
}

#[test]
fn a_bad_host_does_not_save_a_bad_version() {
    let decision = decide(&[side(500, 400), side(500, 50), side(500, 50)], side(13_500, 135));
    assert!(decision.outlier.is_some());
    assert_eq!((decision.verdict, decision.version), (Verdict::RollBack, Verdict::RollBack));
}

#[test]
fn two_bad_hosts_are_the_versions_matter() {
    let bad = side(1_000, 300);
    let decision = decide(&[bad, bad, side(1_000, 10), side(1_000, 10)], side(36_000, 360));
    assert_eq!(decision.verdict, Verdict::RollBack);
}

#[test]
fn an_instance_may_be_too_slow_as_well_as_wrong() {
    let slow = Side { requests: 1_000, errors: 10, timed: 1_000, slow: 400 };
    let decision = decide(&[side(1_000, 10), slow, side(1_000, 10)], side(27_000, 270));
    assert_eq!(decision.verdict, Verdict::InstanceOutlier { instance: id(1) });
    assert_eq!(decision.outlier.unwrap().event, Event::Slow);
}
