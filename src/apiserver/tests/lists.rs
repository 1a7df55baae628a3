//! Lists: selectors, pages, versions, forms.

use http::Method;
use serde_json::{Value, json};

use super::harness::{Harness, WIDGETS};

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn selectors_narrow_and_pages_follow_each_other() {
    let h = Harness::new().await;
    for name in ["a", "b", "c", "d", "e"] {
        h.widget(name).await;
    }
    let patch = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"color": "red"}});
    h.patch(&format!("{WIDGETS}/c"), "application/merge-patch+json", &patch).await.expect(200);
    let list = |query: &str| format!("{WIDGETS}?{query}");
    assert_eq!(names(&h.get(&list("labelSelector=app%3Dx")).await.expect(200)), ["c"]);
    assert_eq!(names(&h.get(&list("fieldSelector=spec.color%3Dred")).await.expect(200)), ["c"]);
    assert_eq!(names(&h.get(&list("fieldSelector=metadata.name%3Dd")).await.expect(200)), ["d"]);
    let unknown = h.get(&list("fieldSelector=spec.size%3D1")).await.expect(400);
    assert_eq!(unknown["message"], "field label not supported: spec.size");

    let first = h.get(&list("limit=2")).await.expect(200);
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    h.delete(&format!("{WIDGETS}/d")).await.expect(200);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = h.get(&list(&format!("limit=2&continue={token}"))).await.expect(200);
    assert_eq!(names(&second), ["c", "d"], "a page shows the state of the first one");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = h.get(&list(&format!("limit=2&continue={token}"))).await.expect(200);
    assert_eq!(names(&third), ["e"]);
    assert!(third["metadata"].get("continue").is_none());
}

#[tokio::test]
async fn versions_mean_what_upstream_says() {
    let h = Harness::new().await;
    let a = h.widget("a").await;
    h.widget("b").await;
    let version = a["metadata"]["resourceVersion"].as_str().unwrap();
    let exact = h.get(&format!("{WIDGETS}?resourceVersion={version}&resourceVersionMatch=Exact")).await.expect(200);
    assert_eq!(names(&exact), ["a"]);
    let newer =
        h.get(&format!("{WIDGETS}?resourceVersion={version}&resourceVersionMatch=NotOlderThan")).await.expect(200);
    assert_eq!(names(&newer), ["a", "b"]);
    assert_eq!(names(&h.get(&format!("{WIDGETS}?resourceVersion=0")).await.expect(200)), ["a", "b"]);
    let invalid = h.get(&format!("{WIDGETS}?resourceVersionMatch=Exact")).await.expect(422);
    assert_eq!(
        invalid["message"],
        "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden \
         unless resourceVersion is provided"
    );
    let future = h.get(&format!("{WIDGETS}?resourceVersion=100000")).await.expect(504);
    assert_eq!(future["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
}

#[tokio::test]
async fn other_forms_come_from_the_same_bytes() {
    let h = Harness::new().await;
    h.widget("a").await;
    let with_accept = |path: &str, accept: &str| {
        let mut request = Harness::request(Method::GET, path, "", Vec::new());
        request.headers_mut().insert(http::header::ACCEPT, accept.parse().unwrap());
        request
    };
    let table = with_accept(WIDGETS, "application/json;as=Table;v=v1;g=meta.k8s.io,application/json");
    let table = Harness::read(h.send(table).await).await.expect(200);
    assert_eq!((&table["kind"], &table["rows"][0]["cells"]), (&json!("Table"), &json!(["a"])));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let scale = with_accept(&format!("{WIDGETS}/a/scale"), "application/json;as=Table;v=v1;g=meta.k8s.io");
    let scale = Harness::read(h.send(scale).await).await.expect(200);
    let names: Vec<&Value> = scale["columnDefinitions"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(json!(names), json!(["Name", "Desired", "Available", "Age"]));
    assert_eq!(json!(scale["rows"][0]["cells"].as_array().unwrap()[..3]), json!(["a", 1, 0]));
    assert_eq!(scale["metadata"]["resourceVersion"], scale["rows"][0]["object"]["metadata"]["resourceVersion"]);
    let partial = with_accept(WIDGETS, "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io");
    let partial = Harness::read(h.send(partial).await).await.expect(200);
    assert_eq!(partial["items"][0]["kind"], "PartialObjectMetadata");
    assert!(partial["items"][0].get("spec").is_none());
    let yaml = Harness::read(h.send(with_accept(&format!("{WIDGETS}/a"), "application/yaml")).await).await;
    assert!(yaml.text.contains("kind: Widget"), "{}", yaml.text);
    let none = Harness::read(h.send(with_accept(WIDGETS, "text/html")).await).await;
    assert_eq!(none.code, 406);
}

#[tokio::test]
async fn a_collection_goes_together() {
    let h = Harness::new().await;
    for name in ["a", "b"] {
        h.widget(name).await;
    }
    let gone = h.delete(WIDGETS).await.expect(200);
    assert_eq!(names(&gone), ["a", "b"]);
    assert_eq!(names(&h.get(WIDGETS).await.expect(200)), [""; 0]);
}
