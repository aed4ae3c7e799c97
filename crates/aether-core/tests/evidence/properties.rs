//! What holds of any counts: sums don't depend on order or grouping, looking
//! changes nothing, and no number is too odd for a judge.

use std::collections::BTreeMap;

use aether_core::evidence::{
    Evidence, InstanceTallies, Judge, Limits, Present, Side, Tallies, Verdict,
};
use aether_core::weights::Weights;
use proptest::prelude::*;

fn count() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..2_000u64, 1 => Just(0), 1 => Just(u64::MAX), 1 => any::<u64>()]
}

fn side() -> impl Strategy<Value = Side> {
    (count(), count(), count(), count()).prop_map(|(requests, errors, timed, slow)| Side {
        requests,
        errors,
        timed,
        slow,
    })
}

fn tallies() -> impl Strategy<Value = Tallies> {
    (side(), side()).prop_map(|(new, old)| Tallies { new, old })
}

fn weights() -> impl Strategy<Value = Weights> {
    (0..=20u64, 0..=20u64)
        .prop_filter_map("0:0 is no ratio", |(new, old)| Weights::new(new, old).ok())
}

/// Epochs at 10, 20, …, and what is folded into them.
fn evidence() -> impl Strategy<Value = Evidence> {
    let epoch = (weights(), proptest::option::of(0..500u32), tallies());
    proptest::collection::vec(epoch, 0..40).prop_map(|epochs| {
        let mut evidence = Evidence::default();
        for (index, (weights, reference, tallies)) in (1..).zip(epochs) {
            evidence.open(10 * index, weights, index, reference);
            evidence.fold(10 * index, tallies);
        }
        evidence
    })
}

fn instances() -> impl Strategy<Value = InstanceTallies> {
    let by_epoch = proptest::collection::btree_map((0..6u64).prop_map(|k| 10 * k), side(), 0..4);
    proptest::collection::vec(by_epoch, 0..5).prop_map(|all| {
        let named = all.into_iter().enumerate();
        named.map(|(k, by_epoch)| (format!("shop-{k}").parse().unwrap(), by_epoch)).collect()
    })
}

fn judge() -> impl Strategy<Value = Judge> {
    let figure = || prop_oneof![Just(0), 1..5_000u32, Just(10_000), Just(u32::MAX)];
    let limits = || {
        (figure(), figure(), figure()).prop_map(|(tolerated, harmful, rate_max_ppm)| Limits {
            tolerated_permille: tolerated,
            harmful_permille: harmful,
            rate_max_ppm,
        })
    };
    let levels = (figure(), figure(), figure(), count());
    (limits(), limits(), levels).prop_map(|(errors, slow, levels)| Judge {
        errors,
        slow,
        false_rollback_ppm: levels.0,
        false_promotion_ppm: levels.1,
        false_outlier_ppm: levels.2,
        requests_min: levels.3,
    })
}

fn present() -> impl Strategy<Value = Present> {
    (tallies(), count(), proptest::option::of(count()))
        .prop_map(|(recent, recent_ms, remaining_ms)| Present { recent, recent_ms, remaining_ms })
}

fn three_epochs() -> Evidence {
    let mut evidence = Evidence::default();
    for (index, weights) in [(10, "1:19"), (20, "1:9"), (30, "1:1")] {
        assert!(evidence.open(index, weights.parse().unwrap(), index, Some(90)));
    }
    evidence
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn sums_do_not_depend_on_order_or_grouping(
        parts in proptest::collection::vec((1..=3u64, tallies()), 0..30),
        order in any::<u64>(),
        groups in 1..8usize,
    ) {
        let mut straight = three_epochs();
        for (epoch, tallies) in &parts {
            prop_assert!(straight.fold(10 * epoch, *tallies));
        }
        // Another order, and several of an epoch added up before they are folded.
        let mut shuffled = parts.clone();
        let key = |k: usize| (k as u64 + 1).wrapping_mul(order | 1);
        let mut keyed: Vec<_> = shuffled.drain(..).enumerate().map(|(k, p)| (key(k), p)).collect();
        keyed.sort_by_key(|(key, _)| *key);
        let mut grouped = three_epochs();
        for group in keyed.chunks(groups) {
            let mut sums = BTreeMap::<u64, Tallies>::new();
            for (_, (epoch, tallies)) in group {
                sums.entry(10 * epoch).or_default().fold(*tallies);
            }
            for (epoch, tallies) in sums {
                prop_assert!(grouped.fold(epoch, tallies));
            }
        }
        prop_assert_eq!(straight, grouped);
    }

    #[test]
    fn a_look_changes_nothing_that_is_committed(
        parts in proptest::collection::vec((1..=3u64, tallies()), 1..10),
        judge in judge(),
        present in present(),
    ) {
        let (mut looked, mut unseen) = (three_epochs(), three_epochs());
        for (epoch, tallies) in &parts {
            looked.fold(10 * epoch, *tallies);
            let first = judge.decide(&looked, &present);
            prop_assert_eq!(first, judge.decide(&looked, &present), "the same look, the same verdict");
            unseen.fold(10 * epoch, *tallies);
        }
        let json = |evidence: &Evidence| serde_json::to_string(evidence).unwrap();
        prop_assert_eq!(json(&looked), json(&unseen));
    }

    #[test]
    fn sums_stop_at_the_largest_number(a in tallies(), b in tallies()) {
        let mut sum = a;
        sum.fold(b);
        let wide = u128::from(a.new.requests) + u128::from(b.new.requests);
        prop_assert_eq!(u128::from(sum.new.requests), wide.min(u128::from(u64::MAX)));
        prop_assert!(sum.old.slow >= a.old.slow && sum.old.slow >= b.old.slow);
    }

    #[test]
    fn no_counts_are_too_odd_for_a_judge(
        evidence in evidence(),
        instances in instances(),
        judge in judge(),
        present in present(),
    ) {
        let decision = judge.decide_by_instance(&evidence, &instances, &present);
        for compared in [&decision.errors, &decision.slow] {
            for value in [compared.regression, compared.clearance] {
                prop_assert!(!value.ln.is_nan() && value.value().is_finite(), "{:?}", compared);
                prop_assert!((0.0..=1.0).contains(&value.progress()), "{:?}", compared);
            }
        }
        prop_assert!(!decision.reason().is_empty() && decision.reason().len() < 500);
        if decision.verdict == Verdict::Inconclusive {
            prop_assert_eq!(present.remaining_ms, Some(0));
        }
    }

    #[test]
    fn without_requests_of_the_new_side_nothing_is_promoted(
        parts in proptest::collection::vec(side(), 0..10),
        judge in judge(),
    ) {
        let mut evidence = three_epochs();
        for old in parts {
            evidence.fold(20, Tallies { new: Side::default(), old });
        }
        let decision = judge.decide(&evidence, &Present::default());
        prop_assert_eq!(&decision.verdict, &Verdict::Continue);
        prop_assert!(decision.reason().starts_with("insufficient"), "{}", decision.reason());
    }

    #[test]
    fn evidence_comes_back_from_json(evidence in evidence()) {
        let json = serde_json::to_string(&evidence).unwrap();
        prop_assert_eq!(serde_json::from_str::<Evidence>(&json).unwrap(), evidence);
    }
}
