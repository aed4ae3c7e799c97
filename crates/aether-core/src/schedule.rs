//! The exact split: which version, and which of its instances, each numbered
//! call goes to.
//!
//! Version first, then instance. Ticket `i` goes to the new side when
//! `((i*new + phase) mod T) + new >= T` with `T = new + old`: Bresenham's line,
//! read as an accumulator that overflows `new` times in every `T` tickets. So
//! any `T` tickets in a row hold exactly `new` calls to the new side, and any
//! other run deviates from its share by less than one call. The instance is the
//! call's rank within its version modulo the number of instances, which is a
//! strict round robin; a flat weighted list over all instances can be neither.
//!
//! This module says what a ticket means. Who hands tickets out, and how threads
//! share them, is the invoker's business.

use crate::divisor::Divisor;
use crate::weights::Weights;

/// Bits of a [`Fraction`]. With weights up to 10,000 a product of a fraction
/// and a cycle fits in 63 bits, and one rounding is off by 2^-48 of a call.
const FRACTION_BITS: u32 = 48;
const ONE: u64 = 1 << FRACTION_BITS;

/// The side of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The side an update moves to.
    New,
    /// The side that serves outside of updates.
    Old,
}

impl Side {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::New => Self::Old,
            Self::Old => Self::New,
        }
    }

    /// 0 for new, 1 for old.
    #[inline]
    pub fn index(self) -> usize {
        match self {
            Self::New => 0,
            Self::Old => 1,
        }
    }
}

/// A part of one call, at least 0 and below 1, in units of 2^-48.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Fraction(u64);

impl Fraction {
    /// `part / whole`, rounded up so that multiplying it by `whole` gives back
    /// `part`. Invoker `j` of `k` starts at `j/k`: at equal rates a side of
    /// weight 1 in 100 is then reached within 100 calls of the whole fleet.
    ///
    /// # Panics
    /// If `part` is not below `whole`.
    pub fn of(part: u32, whole: u32) -> Self {
        assert!(part < whole, "{part}/{whole} is not a fraction below one");
        Self((u64::from(part) << FRACTION_BITS).div_ceil(u64::from(whole)))
    }

    /// The fraction that the upper bits of `seed` spell. For an invoker that
    /// knows no `j` and `k`: a hash of its name spreads the fleet by chance.
    pub fn from_seed(seed: u64) -> Self {
        Self(seed >> (64 - FRACTION_BITS))
    }

    /// The start of the `number`th of any number of parties that start one after the
    /// other, the first of them here: at multiples of the golden ratio, which leave no
    /// large gap however many there are (Knuth, "The Art of Computer Programming",
    /// volume 3, section 6.4, theorem S).
    pub fn spread(self, number: u64) -> Self {
        // 2^64 divided by the golden ratio.
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let seed = (self.0 << (64 - FRACTION_BITS)).wrapping_add(number.wrapping_mul(STEP));
        Self::from_seed(seed)
    }

    /// How many whole units of `1/total` it holds.
    fn units_of(self, total: u32) -> u32 {
        // Below `total`, because the fraction is below one.
        ((self.0 * u64::from(total)) >> FRACTION_BITS) as u32
    }
}

/// Where one ticket goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The side.
    pub side: Side,
    /// How many calls went to that side before. The instance is this modulo
    /// the side's number of instances.
    pub rank: u64,
}

/// What every ticket from `first_ticket` on means, under one pair of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    weights: Weights,
    /// The cycle: what the weights add up to.
    total: Divisor,
    /// Accumulator at `first_ticket`; below the cycle.
    phase: u32,
    /// The part of a call that the cycle was too coarse to hold in `phase`.
    residual: u64,
    first_ticket: u64,
    /// Ranks at `first_ticket`; they wrap, which only shifts a round robin.
    ranks: [u64; 2],
}

impl Schedule {
    /// The schedule of an invoker's first route of a slice.
    pub fn starting(weights: Weights, at: Fraction) -> Self {
        Self::from_parts(weights, at.0, 0, [0, 0])
    }

    fn from_parts(weights: Weights, fraction: u64, first_ticket: u64, ranks: [u64; 2]) -> Self {
        let total = weights.total();
        let phase = Fraction(fraction).units_of(total);
        // Rounded up like `Fraction::of`, so it can exceed the fraction by one.
        let held = (u64::from(phase) << FRACTION_BITS).div_ceil(u64::from(total));
        let residual = fraction.saturating_sub(held);
        Self {
            weights,
            total: Divisor::new(u64::from(total)),
            phase,
            residual,
            first_ticket,
            ranks,
        }
    }

    /// The weights it splits by.
    pub fn weights(&self) -> Weights {
        self.weights
    }

    /// The accumulator at its first ticket; below the weights' total.
    pub fn phase(&self) -> u32 {
        self.phase
    }

    /// The first ticket that it speaks of.
    pub fn first_ticket(&self) -> u64 {
        self.first_ticket
    }

    /// (calls to the new side among the tickets from the first one up to but
    /// without `ticket`, accumulator at `ticket`)
    #[inline]
    fn position(&self, ticket: u64) -> (u64, u32) {
        debug_assert!(ticket >= self.first_ticket, "ticket of an earlier schedule");
        let ticket = ticket.wrapping_sub(self.first_ticket);
        let new = u64::from(self.weights.new_side());
        let (cycles, within) = self.total.div_rem(ticket);
        // At most 20,000 * 10,000 + 20,000; `cycles * new` is at most `ticket`.
        let (carried, accumulator) = self.total.div_rem(within * new + u64::from(self.phase));
        (cycles * new + carried, accumulator as u32)
    }

    /// Where `ticket` goes.
    #[inline]
    pub fn slot(&self, ticket: u64) -> Slot {
        let (new_before, accumulator) = self.position(ticket);
        if accumulator + self.weights.new_side() >= self.weights.total() {
            Slot { side: Side::New, rank: self.ranks[0].wrapping_add(new_before) }
        } else {
            let old_before = ticket.wrapping_sub(self.first_ticket) - new_before;
            Slot { side: Side::Old, rank: self.ranks[1].wrapping_add(old_before) }
        }
    }

    /// The slots from `ticket` on, one after the other.
    pub fn walk(&self, ticket: u64) -> Walk {
        let (new_before, accumulator) = self.position(ticket);
        let old_before = ticket.wrapping_sub(self.first_ticket) - new_before;
        Walk {
            new: self.weights.new_side(),
            total: self.weights.total(),
            accumulator,
            ranks: [self.ranks[0].wrapping_add(new_before), self.ranks[1].wrapping_add(old_before)],
        }
    }

    /// Calls (new, old) among the tickets from the first one up to but without
    /// `ticket`.
    pub fn counts_before(&self, ticket: u64) -> (u64, u64) {
        let (new, _) = self.position(ticket);
        (new, ticket.wrapping_sub(self.first_ticket) - new)
    }

    /// The schedule from `ticket` on, under other weights. The part of a call
    /// that each side is owed carries over, and so do the ranks: over any
    /// number of changes the calls of a side deviate by less than one from the
    /// sum of its shares. Neither a light side nor the first instances are
    /// favoured by frequent changes, as they are when a change starts anew.
    pub fn carried(&self, ticket: u64, weights: Weights) -> Self {
        let (new_before, accumulator) = self.position(ticket);
        let old_before = ticket.wrapping_sub(self.first_ticket) - new_before;
        let ranks =
            [self.ranks[0].wrapping_add(new_before), self.ranks[1].wrapping_add(old_before)];
        let owed = (u64::from(accumulator) << FRACTION_BITS)
            .div_ceil(u64::from(self.weights.total()))
            .saturating_add(self.residual)
            // Roundings may add up to a whole.
            .min(ONE - 1);
        Self::from_parts(weights, owed, ticket, ranks)
    }
}

/// [Slots](Schedule::slot) of tickets in a row, by additions alone.
#[derive(Debug, Clone, Copy)]
pub struct Walk {
    new: u32,
    total: u32,
    accumulator: u32,
    ranks: [u64; 2],
}

impl Walk {
    /// Where the next ticket goes.
    #[inline]
    pub fn step(&mut self) -> Slot {
        let sum = self.accumulator + self.new;
        let (side, accumulator) =
            if sum >= self.total { (Side::New, sum - self.total) } else { (Side::Old, sum) };
        self.accumulator = accumulator;
        let rank = &mut self.ranks[side.index()];
        let slot = Slot { side, rank: *rank };
        *rank = rank.wrapping_add(1);
        slot
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn weights() -> impl Strategy<Value = Weights> {
        let side = || prop_oneof![0u64..6, 0u64..=10_000];
        (side(), side())
            .prop_filter("0:0", |(new, old)| new + old > 0)
            .prop_map(|(new, old)| Weights::new(new, old).unwrap())
    }

    fn fraction() -> impl Strategy<Value = Fraction> {
        any::<u64>().prop_map(Fraction::from_seed)
    }

    /// The definition, in 128 bits.
    fn is_new_by_definition(schedule: &Schedule, ticket: u64) -> bool {
        let new = u128::from(schedule.weights.new_side());
        let total = u128::from(schedule.weights.total());
        let i = u128::from(ticket - schedule.first_ticket);
        (i * new + u128::from(schedule.phase)) % total + new >= total
    }

    proptest! {
        #[test]
        fn slots_follow_the_definition_at_any_ticket(
            weights in weights(), at in fraction(), ticket in any::<u64>(),
        ) {
            let schedule = Schedule::starting(weights, at);
            let is_new = schedule.slot(ticket).side == Side::New;
            prop_assert_eq!(is_new, is_new_by_definition(&schedule, ticket));
            if weights.new_side() == 0 {
                prop_assert!(!is_new);
            }
            if weights.old_side() == 0 {
                prop_assert!(is_new);
            }
        }

        #[test]
        fn every_cycle_is_exact_and_any_window_deviates_by_less_than_one(
            weights in weights(), at in fraction(),
            start in any::<u64>().prop_map(|start| start >> 1), length in 0u64..50_000,
        ) {
            let schedule = Schedule::starting(weights, at);
            let (new, total) = (u64::from(weights.new_side()), u64::from(weights.total()));
            let count = |from: u64, to: u64| {
                schedule.counts_before(to).0 - schedule.counts_before(from).0
            };
            prop_assert_eq!(count(start, start + total), new);
            let deviation =
                i128::from(count(start, start + length)) * i128::from(total)
                    - i128::from(length) * i128::from(new);
            prop_assert!(deviation.abs() < i128::from(total));
        }

        #[test]
        fn counts_are_what_slots_add_up_to_and_ranks_are_round_robin(
            weights in weights(), at in fraction(), start in any::<u64>().prop_map(|s| s >> 1),
        ) {
            let schedule = Schedule::starting(weights, at);
            let (mut new, mut old) = schedule.counts_before(start);
            for ticket in start..start + 300 {
                prop_assert_eq!(schedule.counts_before(ticket), (new, old));
                let slot = schedule.slot(ticket);
                let rank = if slot.side == Side::New { &mut new } else { &mut old };
                prop_assert_eq!(slot.rank, *rank);
                *rank += 1;
            }
        }

        #[test]
        fn a_walk_gives_the_slots_in_turn(
            weights in weights(), at in fraction(), start in any::<u64>().prop_map(|s| s >> 1),
        ) {
            let schedule = Schedule::starting(weights, at);
            let mut walk = schedule.walk(start);
            for ticket in start..start + 300 {
                prop_assert_eq!(walk.step(), schedule.slot(ticket));
            }
        }

        #[test]
        fn ratio_changes_keep_the_deviation_below_one_call_and_ranks_in_step(
            at in fraction(),
            stages in prop::collection::vec((weights(), 0u64..400), 1..40),
        ) {
            let mut schedule = Schedule::starting(stages[0].0, at);
            let (mut ticket, mut counts) = (0u64, [0u64; 2]);
            // The sum of shares, in 2^-80 of a call.
            let mut share = 0u128;
            for (stage, (weights, calls)) in stages.iter().enumerate() {
                if stage > 0 {
                    schedule = schedule.carried(ticket, *weights);
                }
                for _ in 0..*calls {
                    let slot = schedule.slot(ticket);
                    let count = &mut counts[usize::from(slot.side == Side::Old)];
                    prop_assert_eq!(slot.rank, *count);
                    *count += 1;
                    ticket += 1;
                    share += (u128::from(weights.new_side()) << 80) / u128::from(weights.total());
                    let deviation = (u128::from(counts[0]) << 80).abs_diff(share);
                    // One call, and 40 roundings of 2^-48.
                    prop_assert!(deviation < (1 << 80) + (1 << 38), "after {ticket} tickets");
                }
            }
        }

        #[test]
        fn carrying_to_the_same_weights_changes_nothing(
            weights in weights(), at in fraction(), cut in 0u64..100_000,
        ) {
            let schedule = Schedule::starting(weights, at);
            let carried = schedule.carried(cut, weights);
            for ticket in cut..cut + 100 {
                prop_assert_eq!(carried.slot(ticket), schedule.slot(ticket));
            }
        }

        #[test]
        fn spread_phases_are_exact(weights in weights(), k in 1u32..5_000, j in any::<u32>()) {
            let j = j % k;
            let phase = Schedule::starting(weights, Fraction::of(j, k)).phase();
            let exact = u64::from(j) * u64::from(weights.total()) / u64::from(k);
            prop_assert_eq!(u64::from(phase), exact);
        }
    }

    #[test]
    fn parties_that_start_one_after_the_other_are_spread() {
        for count in 1..200u64 {
            let starts = (0..count).map(|number| Fraction::from_seed(12_345).spread(number).0);
            let mut starts: Vec<u64> = starts.collect();
            starts.sort_unstable();
            let around = starts[0] + ONE - starts[starts.len() - 1];
            let gaps = starts.windows(2).map(|pair| pair[1] - pair[0]).chain([around]);
            // Twice the golden ratio of the mean would be too much.
            assert!(gaps.max().unwrap() < ONE / count * 3, "{count}");
        }
    }

    #[test]
    fn a_spread_fleet_reaches_a_light_side_within_one_cycle() {
        let weights = Weights::new(1, 99).unwrap();
        let fleet: Vec<_> =
            (0..10).map(|j| Schedule::starting(weights, Fraction::of(j, 10))).collect();
        // Ten invokers, ten calls each, all at the same pace.
        let calls = (0..10u64).flat_map(|ticket| fleet.iter().map(move |s| s.slot(ticket)));
        assert_eq!(calls.filter(|slot| slot.side == Side::New).count(), 1);
    }

    #[test]
    fn an_interlude_at_zero_does_not_lose_what_a_side_is_owed() {
        let quarter = Weights::new(1, 3).unwrap();
        let mut schedule = Schedule::starting(quarter, Fraction::default());
        let (mut ticket, mut new) = (0, 0);
        for _ in 0..400 {
            // One call at 1:3, then three at 0:1: restarting would give none.
            new += u64::from(schedule.slot(ticket).side == Side::New);
            ticket += 1;
            schedule = schedule.carried(ticket, Weights::ALL_OLD);
            ticket += 3;
            schedule = schedule.carried(ticket, quarter);
        }
        assert_eq!(new, 100);
    }
}
