//! Discovery, OpenAPI, health, version, metrics.

use http::Method;
use http::header::{ACCEPT, ETAG, IF_NONE_MATCH, LAST_MODIFIED};
use serde_json::json;

use super::harness::{Harness, WIDGETS};

#[tokio::test]
async fn discovery_tells_what_is_served() {
    let h = Harness::new().await;
    let list = h.get("/apis/test.io/v1").await.expect(200);
    let names: Vec<&str> = list["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["widgets", "widgets/scale", "widgets/status"]);
    assert_eq!(list["resources"][1]["group"], "autoscaling");
    assert_eq!(h.get("/apis").await.expect(200)["groups"][0]["preferredVersion"]["groupVersion"], "test.io/v1");
    assert_eq!(h.get("/apis/test.io").await.expect(200)["kind"], "APIGroup");
    assert_eq!(h.get("/api").await.expect(200)["versions"], json!(["v1"]));
    h.get("/apis/none.io").await.expect_code(404);
}

#[tokio::test]
async fn aggregated_discovery_has_an_etag() {
    let h = Harness::new().await;
    let ask = |etag: Option<http::HeaderValue>| {
        let mut request = Harness::request(Method::GET, "/apis", "", Vec::new());
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        request.headers_mut().insert(ACCEPT, accept.parse().unwrap());
        if let Some(etag) = etag {
            request.headers_mut().insert(IF_NONE_MATCH, etag);
        }
        request
    };
    let response = h.send(ask(None)).await;
    let etag = response.headers()[ETAG].clone();
    let list = Harness::read(response).await.expect(200);
    assert_eq!(list["items"][0]["versions"][0]["resources"][0]["subresources"][0]["subresource"], "scale");
    assert_eq!(h.send(ask(Some(etag))).await.status(), 304);
}

#[tokio::test]
async fn openapi_documents_have_one_tag_in_every_form_and_the_index_names_it() {
    let h = Harness::new().await;
    let ask = |path: &str, accept: &str, etag: Option<http::HeaderValue>| {
        let mut request = Harness::request(Method::GET, path, "", Vec::new());
        request.headers_mut().insert(ACCEPT, accept.parse().unwrap());
        if let Some(etag) = etag {
            request.headers_mut().insert(IF_NONE_MATCH, etag);
        }
        request
    };
    let index = h.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["apis/test.io/v1"]["serverRelativeURL"].as_str().unwrap();
    for version in ["v2", "v3"] {
        let path = if version == "v2" { "/openapi/v2" } else { url };
        let protobuf = format!("application/com.github.proto-openapi.spec.{version}.v1.0+protobuf");
        let response = h.send(ask(path, "application/json", None)).await;
        let etag = response.headers()[ETAG].clone();
        assert!(response.headers().contains_key(LAST_MODIFIED));
        let response = h.send(ask(path, &protobuf, None)).await;
        assert_eq!((response.status().as_u16(), &response.headers()[ETAG]), (200, &etag));
        assert_eq!(h.send(ask(path, &protobuf, Some(etag.clone()))).await.status(), 304);
        if version == "v3" {
            assert_eq!(format!("\"{}\"", url.rsplit('=').next().unwrap()), etag.to_str().unwrap());
        }
    }
}

#[tokio::test]
async fn health_version_and_metrics_answer() {
    let h = Harness::new().await;
    h.widget("a").await;
    h.get(WIDGETS).await.expect(200);
    assert_eq!(h.get("/healthz").await.text, "ok");
    let verbose = h.get("/readyz?verbose&exclude=etcd").await;
    assert!(verbose.text.contains("[+]ping ok\n") && verbose.text.contains("[+]etcd excluded: ok\n"));
    assert!(verbose.text.ends_with("readyz check passed\n"));
    assert_eq!(h.get("/version").await.expect(200)["minor"], "37");
    let metrics = h.get("/metrics").await.text;
    assert!(metrics.contains("apiserver_storage_objects{resource=\"widgets.test.io\"} 1\n"), "{metrics}");
    assert!(metrics.contains("verb=\"POST\",version=\"v1\"} 1\n"), "{metrics}");
    let index = h.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["apis/test.io/v1"]["serverRelativeURL"].as_str().unwrap();
    assert!(h.get(url).await.expect(200)["paths"].is_object());
    assert_eq!(h.get("/openapi/v2").await.expect(200)["swagger"], "2.0");
}
