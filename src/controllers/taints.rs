//! Taints and tolerations (`component-helpers/scheduling/corev1`). Pure.

use k8s_openapi::api::core::v1::{Node, Taint, Toleration};

pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
pub(crate) const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
pub(crate) const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
pub(crate) const NO_SCHEDULE: &str = "NoSchedule";
pub(crate) const NO_EXECUTE: &str = "NoExecute";

pub(crate) fn of(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default()
}

/// Whether the toleration tolerates the taint.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let effect = text(&toleration.effect);
    let key = text(&toleration.key);
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    let value = || text(&taint.value);
    let compare = |less: bool| {
        let (Ok(wanted), Ok(actual)) = (text(&toleration.value).parse::<i64>(), value().parse::<i64>()) else {
            return false;
        };
        if less { actual < wanted } else { actual > wanted }
    };
    match text(&toleration.operator).as_str() {
        "" | "Equal" => text(&toleration.value) == value(),
        "Exists" => true,
        "Lt" => compare(true),
        "Gt" => compare(false),
        _ => false,
    }
}

/// How long a pod with these tolerations stays in spite of these taints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stay {
    Forever,
    /// Seconds, 0 or more.
    For(i64),
}

/// `getMatchingTolerations`, `getMinTolerationTime`.
pub(crate) fn stay(taints: &[Taint], tolerations: &[Toleration]) -> Stay {
    let mut shortest = None;
    for taint in taints {
        let Some(toleration) = tolerations.iter().find(|t| tolerates(t, taint)) else { return Stay::For(0) };
        if let Some(seconds) = toleration.toleration_seconds {
            let seconds = seconds.max(0);
            shortest = Some(shortest.map_or(seconds, |s: i64| s.min(seconds)));
        }
    }
    shortest.map_or(Stay::Forever, Stay::For)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_shortest_toleration_counts_and_an_untolerated_taint_ends_it() {
        let taint = |key: &str| Taint { key: key.into(), effect: NO_EXECUTE.into(), ..Default::default() };
        let tolerations: Vec<Toleration> = serde_json::from_value(json!([
            {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            {"key": "b", "operator": "Exists", "tolerationSeconds": 60},
            {"key": "c", "operator": "Exists"},
        ]))
        .unwrap();
        let check = |keys: &[&str], expected: Stay| {
            let taints: Vec<Taint> = keys.iter().map(|k| taint(k)).collect();
            assert_eq!(stay(&taints, &tolerations), expected, "{keys:?}");
        };
        check(&[], Stay::Forever);
        check(&["a"], Stay::For(300));
        check(&["a", "b"], Stay::For(60));
        check(&["c"], Stay::Forever);
        check(&["a", "d"], Stay::For(0));
    }
}
