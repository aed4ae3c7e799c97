//! Single decisions: what each verdict takes, and what never makes one.

use aether_core::evidence::{Decision, Evidence, Judge, Present, Side, Tallies, Verdict};

fn side(requests: u64, errors: u64, slow: u64) -> Side {
    Side { requests, errors, timed: requests, slow }
}

/// Epochs at 10, 20, … of given weights and counts.
fn evidence(epochs: &[(&str, Side, Side)]) -> Evidence {
    let mut evidence = Evidence::default();
    for (index, (weights, new, old)) in (1..).zip(epochs) {
        assert!(evidence.open(10 * index, weights.parse().unwrap(), index, Some(80)));
        assert!(evidence.fold(10 * index, Tallies { new: *new, old: *old }));
    }
    evidence
}

fn decide(epochs: &[(&str, Side, Side)]) -> Decision {
    Judge::default().decide(&evidence(epochs), &Present::default())
}

/// A pace of so many requests a second.
fn present(new: u64, old: u64) -> Present {
    let recent = Tallies { new: side(new, 0, 0), old: side(old, 0, 0) };
    Present { recent, recent_ms: 1_000, remaining_ms: None }
}

#[test]
fn nothing_counted_is_insufficient_and_at_the_deadline_inconclusive() {
    let empty = Evidence::default();
    let mut present = Present { remaining_ms: Some(1), ..Present::default() };
    let decision = Judge::default().decide(&empty, &present);
    assert_eq!(decision.verdict, Verdict::Continue);
    assert_eq!(decision.reason(), "insufficient: 0 of 100 requests under the present weights");
    assert_eq!((decision.promote_if_alike_ms, decision.roll_back_if_harmful_ms), (None, None));
    present.remaining_ms = Some(0);
    assert_eq!(Judge::default().decide(&empty, &present).verdict, Verdict::Inconclusive);
}

#[test]
fn a_service_on_which_nothing_fails_is_promoted_by_the_absolute_bound() {
    let decision = decide(&[("1:9", side(1_000, 0, 10), side(9_000, 0, 90))]);
    assert_eq!(decision.verdict, Verdict::Promote);
    assert!(decision.errors.clearance.is_reached());
    assert_eq!(
        decision.reason(),
        "the new version is not harmful: errors 0.00 % of 1000 requests, beside 0.00 % of the old \
         version's 9000; slow requests 1.00 % of 1000 requests, beside 1.00 % of the old version's \
         9000"
    );
    let fewer = decide(&[("1:9", side(200, 0, 2), side(1_800, 0, 18))]);
    assert_eq!(fewer.verdict, Verdict::Continue);
    assert!(
        fewer.reason().contains("that it is not harmful, 100 to 1 needed"),
        "{}",
        fewer.reason()
    );
}

#[test]
fn latency_that_was_not_measured_is_not_fast() {
    let unmeasured = |requests| Side { requests, ..Side::default() };
    let decision = decide(&[("1:9", unmeasured(1_000_000), unmeasured(9_000_000))]);
    assert!(decision.errors.clearance.is_reached());
    assert_eq!(decision.verdict, Verdict::Continue);
    assert!(
        decision.reason().starts_with("insufficient: slow requests none"),
        "{}",
        decision.reason()
    );
}

#[test]
fn a_good_past_does_not_promote_weights_under_which_nothing_was_served() {
    let past = ("1:9", side(100_000, 1_000, 1_000), side(900_000, 9_000, 9_000));
    assert_eq!(decide(&[past]).verdict, Verdict::Promote);
    let decision = decide(&[past, ("1:1", side(99, 1, 1), side(99, 1, 1))]);
    assert_eq!(decision.verdict, Verdict::Continue);
    assert_eq!(decision.reason(), "insufficient: 99 of 100 requests under the present weights");
}

#[test]
fn a_good_past_does_not_save_what_fails_under_a_larger_share() {
    let past = ("1:9", side(100_000, 1_000, 1_000), side(900_000, 9_000, 9_000));
    let decision = decide(&[past, ("1:1", side(2_000, 100, 20), side(2_000, 20, 20))]);
    assert_eq!(decision.verdict, Verdict::RollBack);
    assert!(
        decision.reason().starts_with("the new version is worse: errors"),
        "{}",
        decision.reason()
    );
}

#[test]
fn what_looks_worse_is_not_promoted_for_being_below_a_threshold() {
    let old = side(18_000, 18, 180);
    let decision = decide(&[("1:9", side(2_000, 10, 20), old)]);
    assert_eq!(decision.verdict, Verdict::Continue);
    assert!(decision.errors.is_suspicious(), "{:?}", decision.errors);
    assert!(decision.reason().starts_with("suspicion: errors 0.50 %"), "{}", decision.reason());
    // The same new side is fine beside an old one that fails as often.
    let decision = decide(&[("1:9", side(2_000, 10, 20), side(18_000, 90, 180))]);
    assert!(!decision.errors.is_suspicious());
}

#[test]
fn a_side_that_got_another_share_than_its_weight_is_neither_good_nor_bad() {
    // The new side had a tenth of the requests at weights of a half, or the
    // reverse: its share of the errors is its share of the requests.
    let less = decide(&[("1:1", side(1_000, 10, 10), side(9_000, 90, 90))]);
    assert!(less.errors.regression.ln < 0.0 && !less.errors.clearance.is_reached());
    let more = decide(&[("1:1", side(9_000, 90, 90), side(1_000, 10, 10))]);
    assert!(more.errors.regression.ln < 0.0, "{:?}", more.errors);
    assert_ne!(more.verdict, Verdict::RollBack);
}

#[test]
fn slow_requests_alone_roll_back() {
    let decision = decide(&[("1:9", side(2_000, 20, 180), side(18_000, 180, 180))]);
    assert_eq!(decision.verdict, Verdict::RollBack);
    assert!(decision.reason().contains("worse: slow requests 9.00 %"), "{}", decision.reason());
    assert!(decision.reason().ends_with("over a million to 1"), "{}", decision.reason());
}

/// Judges every ten seconds of counts that are exactly what is expected; gives
/// when the verdict came, and when it was told after 50 s that it would, both in
/// seconds.
fn told_and_true(worse: u64, verdict: &Verdict) -> (u64, u64) {
    let mut evidence = evidence(&[("1:9", Side::default(), Side::default())]);
    let (mut judge, mut told) = (Judge::default(), None);
    // Twice as many are not much more than these, so that it takes a while.
    judge.errors.tolerated_permille = 1_600;
    for seconds in (10..10_000u64).step_by(10) {
        // 20 and 180 requests a second, 1 % of them events.
        let (new, old) = (side(200, 2 * worse, 2), side(1_800, 18, 18));
        evidence.fold(10, Tallies { new, old });
        let decision = judge.decide(&evidence, &present(20, 180));
        if seconds == 50 {
            told = match verdict {
                Verdict::Promote => decision.promote_if_alike_ms,
                _ => decision.errors.roll_back_if_harmful_ms,
            };
        }
        if decision.verdict == *verdict {
            return (50 + told.unwrap() / 1_000, seconds);
        }
    }
    panic!("no verdict")
}

#[test]
fn the_time_that_is_told_is_about_the_time_that_it_takes() {
    for (worse, verdict) in [(1, Verdict::Promote), (2, Verdict::RollBack)] {
        let (told, taken) = told_and_true(worse, &verdict);
        assert!(taken > 100, "{verdict:?} after {taken} s is too soon to have been told");
        assert!(told.abs_diff(taken) <= 10 + taken / 10, "{verdict:?}: {told} s, {taken} s");
    }
}

#[test]
fn without_traffic_there_is_no_time_to_tell_and_a_verdict_needs_none() {
    let counted = evidence(&[("1:9", side(200, 2, 2), side(1_800, 18, 18))]);
    let still = Judge::default().decide(&counted, &Present::default());
    assert_eq!((still.promote_if_alike_ms, still.roll_back_if_harmful_ms), (None, None));
    let moving = Judge::default().decide(&counted, &present(2, 18));
    assert!(moving.promote_if_alike_ms > Some(0) && moving.roll_back_if_harmful_ms > Some(0));
    let faster = Judge::default().decide(&counted, &present(4, 36));
    assert!(faster.promote_if_alike_ms < moving.promote_if_alike_ms);
    // Nothing has failed yet: a multiple of nothing can't be waited for, while
    // good requests go on counting.
    let none = evidence(&[("1:9", side(200, 0, 0), side(1_800, 0, 0))]);
    let none = Judge::default().decide(&none, &present(2, 18));
    assert_eq!(none.errors.roll_back_if_harmful_ms, None);
    assert!(none.errors.promote_if_alike_ms > Some(0));
}
