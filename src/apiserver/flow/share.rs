//! How the server's seats are divided among priority levels (apiserver `util/flowcontrol/conc_alloc.go`,
//! `apf_controller.go` `updateBorrowingLocked`).

/// Targets below this count as this.
const TARGET_MIN: f64 = 0.001;
const EPSILON: f64 = 0.000_000_1;
/// `seatDemandSmoothingCoefficient`: a half-life of five minutes.
const SMOOTHING: f64 = 0.977;

/// One level's part of the problem.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item {
    pub lower: f64,
    pub upper: f64,
    pub target: f64,
}

/// The proportion at which targets, kept within their bounds, sum to `sum`, and what each gets; `None` if no proportion
/// does (`computeConcurrencyAllocation`).
pub(crate) fn allocate(sum: f64, items: &[Item]) -> Option<(Vec<f64>, f64)> {
    let target = |item: &Item| item.target.max(TARGET_MIN);
    let total = |of: fn(&Item) -> f64| items.iter().map(of).sum::<f64>();
    let (low, high) = (total(|i| i.lower), total(|i| i.upper));
    let sane = |i: &Item| i.lower >= 0.0 && i.upper >= i.lower && i.target >= i.lower;
    if !items.iter().all(sane) || low - sum > EPSILON || sum - high > EPSILON {
        return None;
    }
    let at = |proportion: f64| -> Vec<f64> {
        items.iter().map(|i| (proportion * target(i)).clamp(i.lower, i.upper)).collect()
    };
    // What is given out grows with the proportion, in straight pieces between the proportions at which a bound is met.
    let mut bounds: Vec<f64> = items.iter().flat_map(|i| [i.lower / target(i), i.upper / target(i)]).collect();
    bounds.sort_by(f64::total_cmp);
    let given = |proportion: f64| at(proportion).iter().sum::<f64>();
    let mut before = bounds.first().copied()?;
    if given(before) >= sum {
        return Some((at(before), before));
    }
    for bound in bounds {
        let (from, to) = (given(before), given(bound));
        if to >= sum {
            let proportion = if to > from { before + (bound - before) * (sum - from) / (to - from) } else { bound };
            return Some((at(proportion), proportion));
        }
        before = bound;
    }
    Some((at(before), before))
}

/// What a level asked for over time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Demand {
    pub average: f64,
    pub deviation: f64,
    pub high: f64,
    pub smoothed: f64,
}

impl Demand {
    /// `seatDemandStats.update`.
    pub fn update(&mut self, seen: &Seen) {
        self.high = seen.high.round();
        if seen.seconds <= 0.0 {
            return;
        }
        self.average = seen.sum / seen.seconds;
        self.deviation = (seen.squares / seen.seconds - self.average * self.average).max(0.0).sqrt();
        let envelope = self.average + self.deviation;
        self.smoothed = envelope.max(SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * envelope);
    }
}

/// The integrals of a number over a period.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    now: f64,
    pub high: f64,
    seconds: f64,
    sum: f64,
    squares: f64,
}

impl Seen {
    /// The number held for so many seconds and is `value` now.
    pub fn set(&mut self, held_seconds: f64, value: f64) {
        self.seconds += held_seconds;
        self.sum += self.now * held_seconds;
        self.squares += self.now * self.now * held_seconds;
        self.now = value;
        self.high = self.high.max(value);
    }

    /// A new period begins; answers with the one that ended.
    pub fn take(&mut self) -> Self {
        let ended = *self;
        *self = Self { now: ended.now, high: ended.now, ..Self::default() };
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sum: f64, items: &[(f64, f64, f64)], want: Option<&[f64]>) {
        let items: Vec<Item> =
            items.iter().map(|(lower, upper, target)| Item { lower: *lower, upper: *upper, target: *target }).collect();
        let got = allocate(sum, &items).map(|(shares, _)| shares);
        match (got, want) {
            (None, None) => {}
            (Some(got), Some(want)) => {
                let near = got.iter().zip(want).all(|(a, b)| (a - b).abs() < 0.001);
                assert!(near && got.len() == want.len(), "{got:?} {want:?}");
            }
            (got, want) => panic!("{got:?} {want:?}"),
        }
    }

    #[test]
    fn seats_go_where_they_are_wanted_within_bounds() {
        check(10.0, &[(0.0, 20.0, 1.0), (0.0, 20.0, 4.0)], Some(&[2.0, 8.0]));
        check(10.0, &[(5.0, 20.0, 5.0), (0.0, 20.0, 45.0)], Some(&[5.0, 5.0]));
        check(10.0, &[(0.0, 1.0, 5.0), (0.0, 20.0, 5.0)], Some(&[1.0, 9.0]));
        check(10.0, &[(0.0, 2.0, 0.0), (0.0, 3.0, 0.0)], None);
        check(1.0, &[(2.0, 3.0, 2.0)], None);
        check(5.0, &[(2.0, 3.0, 2.0), (1.0, 2.0, 1.5)], Some(&[3.0, 2.0]));
        check(3.0, &[(2.0, 3.0, 2.0), (1.0, 2.0, 1.5)], Some(&[2.0, 1.0]));
    }

    #[test]
    fn demand_is_smoothed_slowly_down_and_fast_up() {
        let mut seen = Seen::default();
        seen.set(5.0, 10.0);
        seen.set(5.0, 0.0);
        let mut demand = Demand::default();
        demand.update(&seen.take());
        assert_eq!((demand.average, demand.deviation, demand.high, demand.smoothed), (5.0, 5.0, 10.0, 10.0));
        seen.set(10.0, 0.0);
        demand.update(&seen.take());
        assert!((demand.smoothed - 9.77).abs() < 0.001 && demand.high == 0.0);
    }
}
