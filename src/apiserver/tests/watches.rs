//! Watches: initial events, selections, resumption.

use serde_json::json;

use super::harness::{Events, Harness, WIDGETS};

#[tokio::test]
async fn a_watch_shows_what_is_there_and_what_comes() {
    let h = Harness::new().await;
    h.widget("a").await;
    let mut events = Events::open(&h, &format!("{WIDGETS}?watch=true")).await;
    assert_eq!(events.step().await, "ADDED a");
    h.widget("b").await;
    assert_eq!(events.step().await, "ADDED b");
    h.patch(&format!("{WIDGETS}/a"), "application/merge-patch+json", &json!({"spec": {"size": 2}})).await.expect(200);
    assert_eq!(events.step().await, "MODIFIED a");
    h.delete(&format!("{WIDGETS}/a")).await.expect(200);
    let deleted = events.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    let now = h.get(WIDGETS).await.expect(200);
    assert_eq!(deleted["object"]["metadata"]["resourceVersion"], now["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn selections_turn_changes_into_additions_and_deletions() {
    let h = Harness::new().await;
    let from = h.widget("a").await["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut events = Events::open(&h, &format!("{WIDGETS}?watch=1&labelSelector=app&resourceVersion={from}")).await;
    let label = |value: serde_json::Value| json!({"metadata": {"labels": {"app": value}}});
    let path = format!("{WIDGETS}/a");
    for value in [json!("x"), json!("y"), json!(null)] {
        h.patch(&path, "application/merge-patch+json", &label(value)).await.expect(200);
    }
    assert_eq!(events.step().await, "ADDED a");
    assert_eq!(events.step().await, "MODIFIED a");
    let gone = events.next().await.unwrap();
    assert_eq!((&gone["type"], &gone["object"]["metadata"]["labels"]["app"]), (&json!("DELETED"), &json!("y")));
}

#[tokio::test]
async fn the_end_of_initial_events_is_marked() {
    let h = Harness::new().await;
    h.widget("a").await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = Events::open(&h, &format!("{WIDGETS}?{query}")).await;
    assert_eq!(events.step().await, "ADDED a");
    let mark = events.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn a_watch_resumes_and_an_old_version_is_expired() {
    let h = Harness::new().await;
    let from = h.widget("a").await["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    h.widget("b").await;
    let mut events = Events::open(&h, &format!("{WIDGETS}?watch=1&resourceVersion={from}")).await;
    assert_eq!(events.step().await, "ADDED b");
    h.delete(&format!("{WIDGETS}/b")).await.expect(200);
    assert_eq!(events.step().await, "DELETED b");
    let mut expired = Events::open(&h, &format!("{WIDGETS}?watch=1&resourceVersion=1")).await;
    // Whatever is older than the cache's first list cannot be told any more.
    let event = expired.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["code"], &event["object"]["reason"]),
        (&json!("ERROR"), &json!(410), &json!("Expired"))
    );
    assert!(event["object"]["message"].as_str().unwrap().starts_with("too old resource version: 1 ("));
}

#[tokio::test]
async fn a_watch_ends_with_its_timeout_and_with_the_server() {
    let h = Harness::new().await;
    let mut events = Events::open(&h, &format!("{WIDGETS}?watch=1&timeoutSeconds=1")).await;
    assert!(events.next().await.is_none());
    let mut events = Events::open(&h, &format!("{WIDGETS}?watch=1")).await;
    h.shutdown.cancel();
    assert!(events.next().await.is_none());
    h.server.closed().await;
}
