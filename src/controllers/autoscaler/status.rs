//! An autoscaler's conditions (`horizontal.go` `setConditionInList`).

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Its time of transition moves with its status alone.
pub(super) fn set_condition(
    object: &mut HorizontalPodAutoscalerStatus,
    kind: &str,
    status: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let status = if status { "True" } else { "False" };
    let conditions = object.conditions.get_or_insert_default();
    let at = conditions.iter().position(|c| c.type_ == kind).unwrap_or_else(|| {
        conditions.push(HorizontalPodAutoscalerCondition { type_: kind.to_owned(), ..Default::default() });
        conditions.len() - 1
    });
    let condition = &mut conditions[at];
    if condition.status != status {
        condition.last_transition_time = Some(Time(now));
    }
    status.clone_into(&mut condition.status);
    condition.reason = Some(reason.to_owned());
    condition.message = Some(message.to_owned());
}

pub(super) fn is_true(object: &HorizontalPodAutoscaler, kind: &str) -> bool {
    let conditions = object.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == kind && c.status == "True")
}

/// Equal, but for fractions of seconds, which the API server does not keep.
pub(super) fn same(
    before: Option<&HorizontalPodAutoscalerStatus>,
    now: Option<&HorizontalPodAutoscalerStatus>,
) -> bool {
    let plain = |status: Option<&HorizontalPodAutoscalerStatus>| {
        let mut status = status.cloned().unwrap_or_default();
        status.current_replicas = Some(status.current_replicas.unwrap_or(0));
        status.conditions = status.conditions.filter(|c| !c.is_empty());
        status.current_metrics = status.current_metrics.filter(|m| !m.is_empty());
        status
    };
    plain(before) == plain(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let mut status = HorizontalPodAutoscalerStatus::default();
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        set_condition(&mut status, "AbleToScale", true, "A", "a", at(1));
        set_condition(&mut status, "AbleToScale", true, "B", "b", at(2));
        let conditions = status.conditions.clone().unwrap();
        assert_eq!(conditions.len(), 1);
        assert_eq!(
            (conditions[0].reason.as_deref(), conditions[0].last_transition_time.clone()),
            (Some("B"), Some(Time(at(1))))
        );
        set_condition(&mut status, "AbleToScale", false, "C", "c", at(3));
        assert_eq!(status.conditions.unwrap()[0].last_transition_time, Some(Time(at(3))));
    }
}
