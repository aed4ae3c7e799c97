//! A mixture of e-processes, as logarithms: a weighted mean of what each rival
//! hypothesis makes of the same data. A mean of e-processes is one, so that no
//! rival has to be chosen before the data is seen (Robbins 1970).

/// One rival hypothesis.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// The rate, or the ratio of rates, that it supposes.
    pub rival: f64,
    /// Natural logarithm of its e-value times its weight.
    pub ln: f64,
}

/// The weighted mean of several.
#[derive(Debug, Clone, Default)]
pub(super) struct Mixture {
    pub parts: Vec<Part>,
    /// Weight that stands for what has not begun, whose e-value is 1.
    pub idle: f64,
}

impl Mixture {
    /// Natural logarithm of the mean.
    pub fn ln(&self) -> f64 {
        let idle = (self.idle > 0.0).then(|| self.idle.ln());
        ln_sum(self.parts.iter().map(|part| part.ln).chain(idle))
    }

    /// The same with all weights multiplied by `weight`.
    pub fn weighted(mut self, weight: f64) -> Self {
        self.parts.iter_mut().for_each(|part| part.ln += weight.ln());
        self.idle *= weight;
        self
    }

    /// Milliseconds until a part alone reaches `needed_ln`, where `per_second`
    /// says how much a part gains at the present traffic; `None` if none does.
    pub fn reaches_ms(&self, needed_ln: f64, per_second: impl Fn(f64) -> f64) -> Option<u64> {
        if self.ln() >= needed_ln {
            return Some(0);
        }
        let times = self.parts.iter().filter_map(|part| {
            let gain = per_second(part.rival);
            // A gain of rounding errors is none.
            (gain > 1e-12).then(|| (needed_ln - part.ln) / gain)
        });
        let seconds = times.fold(f64::INFINITY, f64::min);
        // The conversion stops at the largest number of milliseconds.
        seconds.is_finite().then_some((seconds * 1_000.0).ceil() as u64)
    }
}

/// Natural logarithm of the sum of what `values` are the logarithms of.
/// Negative infinity for none.
fn ln_sum(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = values.clone().fold(f64::NEG_INFINITY, f64::max);
    if !largest.is_finite() {
        return largest;
    }
    largest + values.map(|value| (value - largest).exp()).sum::<f64>().ln()
}

/// The same of two.
pub(super) fn ln_add(a: f64, b: f64) -> f64 {
    let (less, more) = if a < b { (a, b) } else { (b, a) };
    // The first of a sum is added to nothing.
    if less == f64::NEG_INFINITY { more } else { more + (less - more).exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_logarithms_hold_at_any_size() {
        assert_eq!(ln_sum(std::iter::empty()), f64::NEG_INFINITY);
        let sum = ln_sum([2f64.ln(), 3f64.ln(), f64::NEG_INFINITY].into_iter());
        assert!((sum - 5f64.ln()).abs() < 1e-12);
        assert!((ln_add(3f64.ln(), 2f64.ln()) - 5f64.ln()).abs() < 1e-12);
        assert_eq!(ln_add(f64::NEG_INFINITY, 7.0), 7.0);
        assert!((ln_sum([1e18, 1e18].into_iter()) - 1e18).abs() <= 1e3);
        assert!((ln_sum([-1e18, -1e18].into_iter()) + 1e18).abs() <= 1e3);
    }

    #[test]
    fn the_first_part_to_arrive_tells_the_time() {
        let parts = vec![Part { rival: 2.0, ln: 0.0 }, Part { rival: 5.0, ln: -3.0 }];
        let mixture = Mixture { parts, idle: 0.0 };
        assert_eq!(mixture.reaches_ms(4.0, |rival| rival - 1.0), Some(1_750));
        assert_eq!(mixture.reaches_ms(4.0, |rival| rival - 5.0), None);
        assert_eq!(mixture.reaches_ms(-1.0, |_| 0.0), Some(0));
        assert_eq!(mixture.reaches_ms(1e300, |_| 1.0), Some(u64::MAX));
    }
}
