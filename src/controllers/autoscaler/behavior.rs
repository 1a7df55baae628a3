//! How fast, and how steadily, an autoscaler may follow its metrics (`horizontal.go`, "normalize" and what it calls). Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// `--horizontal-pod-autoscaler-downscale-stabilization`.
const DOWNSCALE_WINDOW: SignedDuration = SignedDuration::from_mins(5);
const UP_FACTOR: i32 = 2;
const UP_MINIMUM: i32 = 4;

/// What was proposed and done.
#[derive(Debug, Default)]
pub(super) struct History {
    recommendations: Vec<(Timestamp, i32)>,
    ups: Vec<(Timestamp, i32)>,
    downs: Vec<(Timestamp, i32)>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub min: i32,
    pub max: i32,
    pub current: i32,
    pub desired: i32,
}

/// A decision, with reason and message of the conditions `AbleToScale` and `ScalingLimited` (and the latter's state).
pub(super) struct Normalized {
    pub desired: i32,
    pub stabilized: (&'static str, &'static str),
    pub limited: (bool, &'static str, &'static str),
}

const READY: (&str, &str) = ("ReadyForNewScale", "recommended size matches current size");
const DOWN_STABILIZED: (&str, &str) = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const UP_STABILIZED: (&str, &str) = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const IN_RANGE: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_FEW: (&str, &str) = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const TOO_MANY: (&str, &str) = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const UP_LIMIT: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");

impl History {
    /// The size at the first look counts as a recommendation, so that a restart scales nothing down at once.
    pub(super) fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, current));
        }
    }

    /// Notes a change of size, for the rates.
    pub(super) fn scaled(
        &mut self,
        behavior: &HorizontalPodAutoscalerBehavior,
        before: i32,
        after: i32,
        now: Timestamp,
    ) {
        let up = after > before;
        let rules = if up { &behavior.scale_up } else { &behavior.scale_down };
        let policies = rules.as_ref().and_then(|r| r.policies.as_deref()).unwrap_or_default();
        let longest = policies.iter().map(|p| p.period_seconds).max().unwrap_or(0);
        let events = if up { &mut self.ups } else { &mut self.downs };
        let cutoff = now - SignedDuration::from_secs(i64::from(longest));
        events.retain(|(at, _)| *at >= cutoff);
        events.push((now, (after - before).abs()));
    }

    pub(super) fn normalize(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        bounds: Bounds,
        now: Timestamp,
    ) -> Normalized {
        let (stable, why) = match behavior {
            None => (self.stabilize(bounds.desired, now), DOWN_STABILIZED),
            Some(behavior) => self.stabilize_by(behavior, bounds, now),
        };
        let stabilized = if stable == bounds.desired { READY } else { why };
        let bounds = Bounds { desired: stable, ..bounds };
        let (desired, (reason, message)) = match behavior {
            None => limit(bounds),
            Some(behavior) => self.limit_by(behavior, bounds, now),
        };
        Normalized { desired, stabilized, limited: (desired != stable, reason, message) }
    }

    /// `stabilizeRecommendation`: the highest of the last five minutes.
    fn stabilize(&mut self, desired: i32, now: Timestamp) -> i32 {
        self.recommendations.retain(|(at, _)| *at >= now - DOWNSCALE_WINDOW);
        let highest = self.recommendations.iter().map(|(_, count)| *count).fold(desired, i32::max);
        self.recommendations.push((now, desired));
        highest
    }

    /// `stabilizeRecommendationWithBehaviors`.
    fn stabilize_by(
        &mut self,
        behavior: &HorizontalPodAutoscalerBehavior,
        bounds: Bounds,
        now: Timestamp,
    ) -> (i32, (&'static str, &'static str)) {
        let window = |rules: Option<&HPAScalingRules>, default: SignedDuration| {
            let seconds = rules.and_then(|r| r.stabilization_window_seconds);
            seconds.map_or(default, |s| SignedDuration::from_secs(i64::from(s)))
        };
        let up_cutoff = now - window(behavior.scale_up.as_ref(), SignedDuration::ZERO);
        let down_cutoff = now - window(behavior.scale_down.as_ref(), DOWNSCALE_WINDOW);
        self.recommendations.retain(|(at, _)| *at >= up_cutoff || *at >= down_cutoff);
        let (mut up, mut down) = (bounds.desired, bounds.desired);
        for (at, count) in &self.recommendations {
            if *at > up_cutoff {
                up = up.min(*count);
            }
            if *at > down_cutoff {
                down = down.max(*count);
            }
        }
        self.recommendations.push((now, bounds.desired));
        let recommendation = bounds.current.max(up).min(down);
        (recommendation, if bounds.desired >= bounds.current { UP_STABILIZED } else { DOWN_STABILIZED })
    }

    /// `convertDesiredReplicasWithBehaviorRate`.
    fn limit_by(
        &self,
        behavior: &HorizontalPodAutoscalerBehavior,
        bounds: Bounds,
        now: Timestamp,
    ) -> (i32, (&'static str, &'static str)) {
        let Bounds { min, max, current, desired } = bounds;
        if desired > current {
            let limit = self.rate(behavior.scale_up.as_ref(), current, true, now).max(current);
            let (allowed, why) = if max > limit { (limit, UP_LIMIT) } else { (max, TOO_MANY) };
            if desired > allowed {
                return (allowed, why);
            }
        } else if desired < current {
            let limit = self.rate(behavior.scale_down.as_ref(), current, false, now).min(current);
            let (allowed, why) = if min < limit { (limit, DOWN_LIMIT) } else { (min, TOO_FEW) };
            if desired < allowed {
                return (allowed, why);
            }
        }
        (desired, IN_RANGE)
    }

    /// The size that the policies allow (`calculateScaleUpLimitWithScalingRules`, `calculateScaleDownLimitWithBehaviors`).
    fn rate(&self, rules: Option<&HPAScalingRules>, current: i32, up: bool, now: Timestamp) -> i32 {
        let select = rules.and_then(|r| r.select_policy.as_deref()).unwrap_or("Max");
        if select == "Disabled" {
            return current;
        }
        let changed = |events: &[(Timestamp, i32)], seconds: i32| {
            let cutoff = now - SignedDuration::from_secs(i64::from(seconds));
            events.iter().filter(|(at, _)| *at > cutoff).map(|(_, count)| count).sum::<i32>()
        };
        let policies = rules.and_then(|r| r.policies.as_deref()).unwrap_or_default();
        let proposals = policies.iter().map(|policy| {
            let period = policy.period_seconds;
            let start = current - changed(&self.ups, period) + changed(&self.downs, period);
            let share = f64::from(policy.value) / 100.0;
            match (policy.type_.as_str(), up) {
                ("Pods", true) => start.saturating_add(policy.value),
                ("Pods", false) => start.saturating_sub(policy.value),
                (_, true) => to_i32((f64::from(start) * (1.0 + share)).ceil()),
                (_, false) => to_i32((f64::from(start) * (1.0 - share)).trunc()),
            }
        });
        // The largest change upwards is the largest size, downwards the smallest.
        let largest = (select == "Max") == up;
        if largest { proposals.max().unwrap_or(i32::MIN) } else { proposals.min().unwrap_or(i32::MAX) }
    }
}

/// Saturates, as far as sizes go.
pub(super) fn to_i32(value: f64) -> i32 {
    // `as` saturates, and takes what is no number for zero.
    #[expect(clippy::cast_possible_truncation, reason = "saturating is what is wanted")]
    let value = value as i32;
    value
}

/// `convertDesiredReplicasWithRules`.
fn limit(bounds: Bounds) -> (i32, (&'static str, &'static str)) {
    let Bounds { min, max, current, desired } = bounds;
    let up = current.saturating_mul(UP_FACTOR).max(UP_MINIMUM);
    let (allowed, why) = if max > up { (up, UP_LIMIT) } else { (max, TOO_MANY) };
    if desired < min {
        (min, TOO_FEW)
    } else if desired > allowed {
        (allowed, why)
    } else {
        (desired, IN_RANGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    #[test]
    fn limits_without_rules_are_upstreams() {
        let check = |current: i32, desired: i32, expected: i32, reason: &str| {
            let (count, (why, _)) = limit(Bounds { min: 2, max: 20, current, desired });
            assert_eq!((count, why), (expected, reason), "{current} {desired}");
        };
        check(5, 6, 6, "DesiredWithinRange");
        check(5, 1, 2, "TooFewReplicas");
        check(5, 11, 10, "ScaleUpLimit");
        check(15, 25, 20, "TooManyReplicas");
        check(1, 5, 4, "ScaleUpLimit");
    }

    #[test]
    fn a_smaller_size_waits_for_five_minutes() {
        let mut history = History::default();
        let bounds = |desired| Bounds { min: 1, max: 20, current: 10, desired };
        history.begin(10, at(0));
        let first = history.normalize(None, bounds(3), at(15));
        assert_eq!((first.desired, first.stabilized.0), (10, "ScaleDownStabilized"));
        let later = history.normalize(None, bounds(3), at(301));
        assert_eq!((later.desired, later.stabilized.0), (3, "ReadyForNewScale"));
    }

    #[test]
    fn policies_limit_the_rate() {
        let check = |rules: Value, current: i32, desired: i32, done: &[(i64, i32, i32)], expected: (i32, &str)| {
            let behavior: HorizontalPodAutoscalerBehavior = serde_json::from_value(rules.clone()).unwrap();
            let mut history = History::default();
            for (second, before, after) in done {
                history.scaled(&behavior, *before, *after, at(*second));
            }
            let normalized = history.normalize(Some(&behavior), Bounds { min: 1, max: 100, current, desired }, at(100));
            assert_eq!((normalized.desired, normalized.limited.1), expected, "{rules} {current} {desired}");
        };
        let pods = |value: i32, select: &str| {
            let rules = json!({"policies": [{"type": "Pods", "value": value, "periodSeconds": 60}],
                "selectPolicy": select, "stabilizationWindowSeconds": 0});
            json!({"scaleUp": rules, "scaleDown": rules})
        };
        check(pods(4, "Max"), 10, 50, &[], (14, "ScaleUpLimit"));
        check(pods(4, "Max"), 10, 50, &[(90, 8, 10)], (12, "ScaleUpLimit"));
        check(pods(4, "Max"), 10, 50, &[(10, 8, 10)], (14, "ScaleUpLimit"));
        check(pods(4, "Max"), 10, 1, &[], (6, "ScaleDownLimit"));
        check(pods(4, "Disabled"), 10, 1, &[], (10, "ScaleDownLimit"));
        let percent = json!({"scaleDown": {"policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}],
            "stabilizationWindowSeconds": 0}});
        check(percent, 15, 1, &[], (13, "ScaleDownLimit"));
    }
}
