//! `/metrics`: what requests, watches and lists leave there, and what they cannot.

use std::time::Duration;

use http::Method;
use serde_json::json;

use super::harness::{Events, Harness, WIDGETS};

async fn metrics(h: &Harness) -> Vec<String> {
    h.get("/metrics").await.text.lines().map(ToOwned::to_owned).collect()
}

#[track_caller]
fn check(metrics: &[String], line: &str) {
    let name = line.split('{').next().unwrap_or_default();
    let near: Vec<&String> = metrics.iter().filter(|l| l.starts_with(name) && !l.contains("_bucket")).collect();
    assert!(metrics.iter().any(|l| l == line), "{line}: {near:#?}");
}

#[tokio::test]
async fn requests_are_counted_when_their_answers_are_sent() {
    let h = Harness::new().await;
    h.widget("a").await;
    h.get(WIDGETS).await.expect(200);
    h.patch(&format!("{WIDGETS}/a"), "application/apply-patch+yaml", &json!({})).await.expect_code(422);
    h.get(&format!("{WIDGETS}/none")).await.expect_code(404);
    let labels = |scope: &str, verb: &str| {
        format!(
            "component=\"apiserver\",dry_run=\"\",group=\"test.io\",resource=\"widgets\",scope=\"{scope}\",subresource=\"\",verb=\"{verb}\",version=\"v1\""
        )
    };
    let mut events = Events::open(&h, &format!("{WIDGETS}?watch=1&timeoutSeconds=1")).await;
    assert_eq!(events.step().await, "ADDED a");
    let during = metrics(&h).await;
    check(&during, &format!("apiserver_request_total{{code=\"201\",{}}} 1", labels("resource", "POST")));
    check(&during, &format!("apiserver_request_total{{code=\"200\",{}}} 1", labels("namespace", "LIST")));
    check(&during, &format!("apiserver_request_total{{code=\"422\",{}}} 1", labels("resource", "APPLY")));
    check(&during, &format!("apiserver_request_total{{code=\"404\",{}}} 1", labels("resource", "GET")));
    let watching = labels("namespace", "WATCH");
    assert!(!during.iter().any(|l| l.starts_with("apiserver_request_total") && l.contains(&watching)));
    let open = watching.replace("dry_run=\"\",", "");
    check(&during, &format!("apiserver_longrunning_requests{{{open}}} 1"));
    let sizes = labels("namespace", "LIST").replace("dry_run=\"\",", "");
    check(&during, &format!("apiserver_response_sizes_count{{{sizes}}} 1"));
    check(&during, &format!("apiserver_request_sli_duration_seconds_count{{{sizes}}} 1"));
    assert!(events.next().await.is_none());
    drop(events);
    let after = metrics(&h).await;
    check(&after, &format!("apiserver_request_total{{code=\"200\",{watching}}} 1"));
    assert!(!after.iter().any(|l| l.starts_with("apiserver_longrunning_requests{")), "it is open for ever");
    check(&after, "apiserver_request_body_size_bytes_count{group=\"test.io\",resource=\"widgets\",verb=\"create\"} 1");
}

#[tokio::test]
async fn nobody_makes_series_by_asking_for_what_there_is_not() {
    let h = Harness::new().await;
    h.get("/metrics").await.expect_code(200);
    let before = metrics(&h).await.len();
    for n in 0..5 {
        let path = format!("/apis/made{n}.up/v1/namespaces/ns/things/x");
        h.get(&path).await.expect_code(404);
        h.get(&format!("{WIDGETS}/a/sub{n}")).await.expect_code(404);
        h.get(&format!("/made/up/{n}")).await.expect_code(404);
        let mut refused = Harness::request(Method::GET, &path, "", Vec::new());
        refused.extensions_mut().insert(api::UserInfo::new("nobody", &[]));
        Harness::read(h.send(refused).await).await.expect_code(403);
        let mut refused = Harness::request(Method::GET, &path, "", Vec::new());
        refused.extensions_mut().remove::<api::UserInfo>();
        Harness::read(h.send(refused).await).await.expect_code(401);
    }
    let after = metrics(&h).await;
    assert!(!after.iter().any(|l| l.contains("made") || l.contains("sub1")), "{after:#?}");
    // One series each for what was refused.
    check(&after, "authentication_attempts{result=\"failure\"} 5");
    check(&after, "authorization_attempts_total{result=\"no-opinion\"} 5");
    assert!(after.len() < before + 60, "{before} lines, and then {}", after.len());
}

#[tokio::test]
async fn the_watch_cache_tells_what_it_did() {
    let h = Harness::new().await;
    for name in ["a", "b", "c"] {
        h.widget(name).await;
    }
    h.get(&format!("{WIDGETS}?limit=2&labelSelector=none")).await.expect(200);
    h.get(&format!("{WIDGETS}?resourceVersion=0")).await.expect(200);
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = Events::open(&h, &format!("{WIDGETS}?{query}")).await;
    for _ in 0..4 {
        events.next().await.unwrap();
    }
    let seen = metrics(&h).await;
    let of = "group=\"test.io\",resource=\"widgets\"";
    check(&seen, &format!("apiserver_resource_objects{{{of}}} 3"));
    check(&seen, &format!("apiserver_watch_cache_initializations_total{{{of}}} 1"));
    check(&seen, &format!("apiserver_watch_cache_events_dispatched_total{{{of}}} 3"));
    check(&seen, &format!("apiserver_init_events_total{{{of}}} 3"));
    check(&seen, &format!("apiserver_storage_list_total{{index=\"\",{of},storage=\"watchcache\"}} 2"));
    check(&seen, &format!("apiserver_storage_list_fetched_objects_total{{index=\"\",{of},storage=\"watchcache\"}} 6"));
    check(&seen, &format!("apiserver_storage_list_evaluated_objects_total{{{of},storage=\"watchcache\"}} 3"));
    check(&seen, &format!("apiserver_storage_list_returned_objects_total{{{of},storage=\"watchcache\"}} 3"));
    check(&seen, &format!("apiserver_watch_cache_consistent_read_total{{fallback=\"false\",{of},success=\"true\"}} 1"));
    check(&seen, &format!("apiserver_watch_events_total{{{of},version=\"v1\"}} 4"));
    check(
        &seen,
        "apiserver_watch_list_duration_seconds_count{group=\"test.io\",resource=\"widgets\",scope=\"namespace\",version=\"v1\"} 1",
    );
}

#[tokio::test]
async fn a_request_that_its_client_gives_up_is_an_abort() {
    let h = Harness::new().await;
    h.widget("a").await;
    let (_never, body) = futures::channel::mpsc::channel::<Result<bytes::Bytes, std::io::Error>>(1);
    let mut request = Harness::request(Method::POST, WIDGETS, "application/json", Vec::new());
    *request.body_mut() = axum::body::Body::from_stream(body);
    let sending = h.send(request);
    assert!(tokio::time::timeout(Duration::from_millis(200), sending).await.is_err());
    let seen = metrics(&h).await;
    check(
        &seen,
        "apiserver_request_aborts_total{group=\"test.io\",resource=\"widgets\",scope=\"resource\",subresource=\"\",verb=\"POST\",version=\"v1\"} 1",
    );
}
