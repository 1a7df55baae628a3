//! Create, get, update, patch, delete.

use http::Method;
use serde_json::json;

use super::harness::{Harness, WIDGETS, widget_named};

#[tokio::test]
async fn an_object_lives_from_create_to_delete() {
    let h = Harness::new().await;
    let created = h.widget("a").await;
    assert_eq!(created["metadata"]["namespace"], "ns");
    assert_eq!(created["metadata"]["generation"], 1);
    assert!(created["metadata"]["uid"].is_string() && created["metadata"]["creationTimestamp"].is_string());
    let path = format!("{WIDGETS}/a");
    assert_eq!(h.get(&path).await.expect(200), created);

    let mut changed = created.clone();
    changed["spec"]["size"] = json!(2);
    changed["status"] = json!({"size": 5});
    let updated = h.put(&path, &changed).await.expect(200);
    assert_eq!((&updated["spec"]["size"], &updated["metadata"]["generation"]), (&json!(2), &json!(2)));
    assert!(updated.get("status").is_none(), "status is not the main resource's: {updated}");
    let stale = h.put(&path, &changed).await.expect(409);
    assert_eq!(stale["reason"], "Conflict");
    assert!(stale["message"].as_str().unwrap().starts_with("Operation cannot be fulfilled on widgets.test.io \"a\": "));

    let again = h.put(&path, &updated).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], updated["metadata"]["resourceVersion"], "no change, no write");

    let gone = h.delete(&path).await.expect(200);
    assert_eq!((&gone["kind"], &gone["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!(h.get(&path).await.expect(404)["message"], "widgets.test.io \"a\" not found");
}

#[tokio::test]
async fn bad_requests_get_upstreams_answers() {
    let h = Harness::new().await;
    h.widget("a").await;
    let exists = h.post(WIDGETS, &widget_named("a")).await.expect(409);
    assert_eq!(exists["message"], "widgets.test.io \"a\" already exists");
    let invalid =
        json!({"apiVersion": "test.io/v1", "kind": "Widget", "metadata": {"name": "b"}, "spec": {"size": -1}});
    let invalid = h.post(WIDGETS, &invalid).await.expect(422);
    assert_eq!(
        invalid["message"],
        "Widget.test.io \"b\" is invalid: spec.size: Invalid value: -1: must be greater than or equal to 0"
    );
    let mut other = widget_named("c");
    other["metadata"]["namespace"] = json!("other");
    let mismatch = h.post(WIDGETS, &other).await.expect(400);
    assert_eq!(
        mismatch["message"],
        "the namespace of the provided object does not match the namespace sent on the request"
    );
    let name = h.put(&format!("{WIDGETS}/a"), &widget_named("z")).await.expect(400);
    assert_eq!(name["message"], "the name of the object (z) does not match the name on the URL (a)");
    let large = h.call(Method::POST, WIDGETS, "application/json", vec![b' '; (3 << 20) + 1]).await.expect(413);
    assert_eq!(large["message"], "Request entity too large: limit is 3145728");
    assert_eq!(h.get("/apis/test.io/v1/nothing").await.code, 404);
    h.call(Method::POST, &format!("{WIDGETS}/a"), "application/json", Vec::new()).await.expect(405);
}

#[tokio::test]
async fn names_are_generated_and_dry_runs_write_nothing() {
    let h = Harness::new().await;
    let generated = json!({"apiVersion": "test.io/v1", "kind": "Widget", "metadata": {"generateName": "g-"}});
    let one = h.post(WIDGETS, &generated).await.expect(201);
    assert_eq!(one["metadata"]["name"].as_str().unwrap().len(), 7);
    let dry = h.post(&format!("{WIDGETS}?dryRun=All"), &widget_named("dry")).await.expect(201);
    assert!(dry["metadata"]["uid"].is_string());
    h.get(&format!("{WIDGETS}/dry")).await.expect(404);
}

#[tokio::test]
async fn patches_and_subresources_change_their_part() {
    let h = Harness::new().await;
    h.widget("a").await;
    let path = format!("{WIDGETS}/a");
    let merged = h.patch(&path, "application/merge-patch+json", &json!({"spec": {"color": "red"}})).await.expect(200);
    assert_eq!(merged["spec"], json!({"size": 1, "color": "red"}));
    let patch = json!([{"op": "replace", "path": "/spec/size", "value": 3}]);
    let patched = h.patch(&path, "application/json-patch+json", &patch).await.expect(200);
    assert_eq!(patched["spec"]["size"], 3);
    let status = json!({"status": {"size": 7}, "spec": {"size": 100}});
    let status = h.patch(&format!("{path}/status"), "application/merge-patch+json", &status).await.expect(200);
    assert_eq!((&status["status"]["size"], &status["spec"]["size"]), (&json!(7), &json!(3)));
    let scale = h.get(&format!("{path}/scale")).await.expect(200);
    assert_eq!(
        (&scale["kind"], &scale["spec"]["replicas"], &scale["status"]["replicas"]),
        (&json!("Scale"), &json!(3), &json!(7))
    );
    h.patch(&format!("{path}/scale"), "application/merge-patch+json", &json!({"spec": {"replicas": 9}}))
        .await
        .expect(200);
    assert_eq!(h.get(&path).await.expect(200)["spec"]["size"], 9);
    h.patch(&path, "text/plain", &json!({})).await.expect(415);
}

#[tokio::test]
async fn deletion_waits_for_grace_and_finalizers() {
    let h = Harness::new().await;
    let mut graceful = widget_named("g");
    graceful["metadata"]["labels"] = json!({"graceful": "yes"});
    graceful["metadata"]["finalizers"] = json!(["test.io/hold"]);
    h.post(WIDGETS, &graceful).await.expect(201);
    let path = format!("{WIDGETS}/g");
    let marked = h.delete(&path).await.expect(200);
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    let exists = h.post(WIDGETS, &widget_named("g")).await.expect(409);
    assert_eq!(exists["message"], "object is being deleted: widgets.test.io \"g\" already exists");
    h.delete(&format!("{path}?gracePeriodSeconds=0")).await.expect(200);
    h.get(&path).await.expect(200);
    let patch = json!({"metadata": {"finalizers": null}});
    h.patch(&path, "application/merge-patch+json", &patch).await.expect(200);
    h.get(&path).await.expect(404);

    h.widget("f").await;
    let path = format!("{WIDGETS}/f");
    let foreground = h.delete(&format!("{path}?propagationPolicy=Foreground")).await.expect(200);
    assert_eq!(foreground["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    let conflict = json!({"preconditions": {"uid": "other"}});
    h.call(Method::DELETE, &path, "application/json", conflict.to_string().into_bytes()).await.expect(409);
}

#[tokio::test]
async fn a_stranger_is_refused_with_the_reason() {
    let h = Harness::new().await;
    let mut request = Harness::request(Method::GET, WIDGETS, "", Vec::new());
    request.extensions_mut().insert(api::UserInfo::new("nobody", &[]));
    let refused = Harness::read(h.send(request).await).await.expect(403);
    assert_eq!(
        refused["message"],
        "widgets.test.io is forbidden: User \"nobody\" cannot list resource \"widgets\" in API group \"test.io\" in the \
         namespace \"ns\""
    );
}
