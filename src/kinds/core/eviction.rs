//! `pods/eviction`: deletion that asks the disruption budgets (`pkg/registry/core/pod/storage/eviction.go`).

use api::kind::Action;
use api::services::ActionContext;
use api::status::{Cause, Details};
use api::{GroupResource, Gvr, Object, Status};
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::checks::selector_matches;
use crate::json::{Json, dig};
use crate::timestamp;

use super::binding::{set_condition, success};
use super::pod_columns::phase;

const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
/// Evictions that the disruption controller has not seen yet.
const PENDING_MAX: usize = 2000;

pub(super) struct Eviction;

fn budgets() -> Gvr {
    Gvr::new("policy", "v1", "poddisruptionbudgets")
}

#[async_trait]
impl Action for Eviction {
    fn accepts(&self) -> &'static [&'static str] {
        &["policy/v1beta1"]
    }

    async fn run(&self, ctx: &ActionContext<'_>, namespace: &str, name: &str, body: Object) -> Result<Object, Status> {
        if body.name() != name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        let mut options = body.at("deleteOptions").as_object().cloned().unwrap_or_default();
        let dry_run = ctx.dry_run || options.count("dryRun") > 0;
        if dry_run {
            options.insert("dryRun".to_owned(), json!(["All"]));
        }
        let pods = Gvr::new("", "v1", "pods");
        let pod = ctx.registry.get(&pods, namespace, name).await?;
        let free = matches!(phase(&pod), "Succeeded" | "Failed" | "Pending") || pod.is_deleting();
        if !free {
            self.ask_budgets(ctx, namespace, &pod, dry_run).await?;
        }
        if !dry_run {
            let now = timestamp(ctx.now);
            let wanted = options.at("preconditions").clone();
            let mark = |pod: &mut Object| {
                preconditions(pod, &wanted)?;
                let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
                    "message": "Eviction API: evicting"});
                set_condition(pod, condition, &now);
                Ok(())
            };
            let marked = ctx.registry.update(&pods, namespace, name, &mark).await?;
            if wanted.has("resourceVersion") {
                // The mark moved the version that the caller knows.
                options.insert("preconditions".to_owned(), json!({"resourceVersion": marked.resource_version()}));
            }
        }
        ctx.registry.delete(&pods, namespace, name, Object(options)).await?;
        Ok(success())
    }
}

fn preconditions(pod: &Object, wanted: &Value) -> Result<(), Status> {
    for (member, noun, own, past) in [
        ("uid", "UID", pod.uid(), "deleted and then recreated"),
        ("resourceVersion", "ResourceVersion", pod.resource_version(), "modified"),
    ] {
        let value = wanted.text(member);
        if !value.is_empty() && value != own {
            let why = format!(
                "the {noun} in the precondition ({value}) does not match the {noun} in record ({own}). The object might \
                 have been {past}"
            );
            return Err(Status::conflict(&GroupResource::new("", "Pod"), pod.name(), why));
        }
    }
    Ok(())
}

impl Eviction {
    async fn ask_budgets(
        &self,
        ctx: &ActionContext<'_>,
        namespace: &str,
        pod: &Object,
        dry_run: bool,
    ) -> Result<(), Status> {
        let labels = dig(pod, &["metadata", "labels"]);
        let all = ctx.registry.list(&budgets(), namespace).await?;
        let mut matching = all.iter().filter(|b| selector_matches(dig(*b, &["spec", "selector"]), labels));
        let Some(budget) = matching.next() else { return Ok(()) };
        if matching.next().is_some() {
            let text =
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status::new(500, "", text));
        }
        if !is_ready(pod) && unhealthy_may_go(budget) {
            return Ok(());
        }
        let now = timestamp(ctx.now);
        if dry_run {
            return decrement(&mut budget.clone(), pod.name(), &now);
        }
        let change = |budget: &mut Object| decrement(budget, pod.name(), &now);
        ctx.registry.update(&budgets(), namespace, budget.name(), &change).await?;
        Ok(())
    }
}

fn is_ready(pod: &Object) -> bool {
    let conditions = pod.array(&["status", "conditions"]);
    conditions.iter().any(|c| c.text("type") == "Ready" && c.text("status") == "True")
}

/// A pod that is not ready disrupts nothing as long as enough others are.
fn unhealthy_may_go(budget: &Object) -> bool {
    if budget.at("spec").text("unhealthyPodEvictionPolicy") == "AlwaysAllow" {
        return true;
    }
    let status = budget.at("status");
    let desired = status.int("desiredHealthy").unwrap_or_default();
    desired > 0 && status.int("currentHealthy").unwrap_or_default() >= desired
}

fn with_cause(mut status: Status, message: String) -> Status {
    let cause = Cause { reason: "DisruptionBudget".to_owned(), message, field: String::new() };
    match &mut status.details {
        Some(details) => details.causes.push(cause),
        None => status = status.with_details(Details { causes: vec![cause], ..Details::default() }),
    }
    status
}

/// `checkAndDecrement`: takes one disruption from a budget and notes the pod.
fn decrement(budget: &mut Object, pod: &str, now: &str) -> Result<(), Status> {
    let name = budget.name().to_owned();
    let status = budget.at("status");
    if status.int("observedGeneration").unwrap_or_default() < budget.generation() {
        let text = format!("The disruption budget {name} is still being processed by the server.");
        return Err(with_cause(Status::too_many_requests(REFUSED, 10), text));
    }
    let resource = GroupResource::new("policy", "poddisruptionbudget");
    let allowed = status.int("disruptionsAllowed").unwrap_or_default();
    if allowed < 0 {
        let text = format!(
            "The disruption budget {name} does not allow evicting pods currently: pdb disruptions allowed is negative"
        );
        return Err(with_cause(Status::forbidden(&resource, &name, "pdb disruptions allowed is negative"), text));
    }
    if status.count("disruptedPods") > PENDING_MAX {
        let text = format!(
            "The disruption budget {name} does not allow evicting pods currently: too many pending evictions not \
             confirmed by PDB controller"
        );
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(with_cause(Status::forbidden(&resource, &name, why), text));
    }
    if allowed == 0 {
        return Err(with_cause(Status::too_many_requests(REFUSED, 0), why_not(&name, status)));
    }
    budget.set(&["status", "disruptionsAllowed"], allowed - 1);
    budget.set(&["status", "disruptedPods", pod], now);
    if allowed == 1 {
        insufficient(budget, now);
    }
    Ok(())
}

fn why_not(name: &str, status: &Value) -> String {
    let condition = status.list("conditions").iter().find(|c| c.text("type") == "DisruptionAllowed");
    let refused = condition.filter(|c| c.text("status") == "False" && !c.text("message").is_empty());
    let (desired, current) =
        (status.int("desiredHealthy").unwrap_or_default(), status.int("currentHealthy").unwrap_or_default());
    match refused {
        Some(c) if c.text("reason") == "SyncFailed" => format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {}",
            c.text("message")
        ),
        _ if current <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently")
        }
        Some(c) => format!(
            "The disruption budget {name} does not allow evicting pods currently ({}): {}",
            c.text("reason"),
            c.text("message")
        ),
        None => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

/// `UpdateDisruptionAllowedCondition` of a budget that is used up.
fn insufficient(budget: &mut Object, now: &str) {
    let generation = dig(budget, &["status", "observedGeneration"]).clone();
    let mut conditions = budget.array(&["status", "conditions"]).to_vec();
    let condition = json!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
        "lastTransitionTime": now, "observedGeneration": generation});
    match conditions.iter_mut().find(|c| c.text("type") == "DisruptionAllowed") {
        Some(old) if old.text("status") == "False" => {}
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
    budget.set(&["status", "conditions"], conditions);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(status: Value) -> Object {
        Object::from_value(json!({"metadata": {"name": "b", "generation": 1}, "status": status})).unwrap()
    }

    #[test]
    fn a_budget_with_room_is_used() {
        let mut object = budget(json!({"observedGeneration": 1, "disruptionsAllowed": 1}));
        decrement(&mut object, "p", "2026-01-01T00:00:00Z").unwrap();
        assert_eq!(object.i64(&["status", "disruptionsAllowed"]), Some(0));
        assert_eq!(object.str(&["status", "disruptedPods", "p"]), Some("2026-01-01T00:00:00Z"));
        assert_eq!(object.array(&["status", "conditions"])[0].text("reason"), "InsufficientPods");
    }

    #[test]
    fn a_used_up_budget_refuses_with_a_cause() {
        let mut object =
            budget(json!({"observedGeneration": 1, "disruptionsAllowed": 0, "desiredHealthy": 2, "currentHealthy": 2}));
        let status = decrement(&mut object, "p", "").unwrap_err();
        assert_eq!((status.code, status.message.as_str()), (429, REFUSED));
        let cause = &status.details.unwrap().causes[0];
        assert_eq!(cause.reason, "DisruptionBudget");
        assert_eq!(cause.message, "The disruption budget b needs 2 healthy pods and has 2 currently");
    }
}
