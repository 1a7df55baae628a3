//! Many writers at once: whoever wrote reads its write, and a watch tells the whole story.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::harness::{Events, Harness, WIDGETS, widget_named};

const WRITERS: usize = 8;
const ROUNDS: usize = 25;

async fn write(h: Arc<Harness>, writer: usize) {
    let name = format!("w{writer}");
    let path = format!("{WIDGETS}/{name}");
    for round in 0..ROUNDS {
        h.post(WIDGETS, &widget_named(&name)).await.expect(201);
        let patch = json!({"spec": {"size": round}});
        let patched = h.patch(&path, "application/merge-patch+json", &patch).await.expect(200);
        let read = h.get(&path).await.expect(200);
        assert_eq!(read["metadata"]["resourceVersion"], patched["metadata"]["resourceVersion"]);
        let list = h.get(WIDGETS).await.expect(200);
        let listed = list["items"].as_array().unwrap().iter().find(|i| i["metadata"]["name"] == *name).unwrap();
        assert_eq!(listed["metadata"]["resourceVersion"], patched["metadata"]["resourceVersion"]);
        if round + 1 < ROUNDS {
            h.delete(&path).await.expect(200);
            h.get(&path).await.expect(404);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_read_their_writes_and_a_watch_sees_them_all() {
    let h = Arc::new(Harness::new().await);
    let mut events = Events::open(&h, &format!("{WIDGETS}?watch=1")).await;
    let writers: Vec<_> = (0..WRITERS).map(|w| tokio::spawn(write(Arc::clone(&h), w))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
    // One that comes last ends the story.
    h.widget("zz").await;
    let mut seen: BTreeMap<String, Value> = BTreeMap::new();
    let mut last = 0;
    loop {
        let event = events.next().await.expect("the watch ended");
        let object = event["object"].clone();
        let version: i64 = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert!(version > last, "versions only grow: {version} after {last}");
        last = version;
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let known = match event["type"].as_str().unwrap() {
            "ADDED" => seen.insert(name.clone(), object).is_none(),
            "MODIFIED" => seen.insert(name.clone(), object).is_some(),
            "DELETED" => seen.remove(&name).is_some(),
            other => panic!("unexpected event {other}"),
        };
        assert!(known, "{} of {name} does not follow from what came before", event["type"]);
        if name == "zz" {
            break;
        }
    }
    let list = h.get(WIDGETS).await.expect(200);
    // A typed list's items leave it to the list to say their type.
    let mut items: Vec<Value> = seen.into_values().collect();
    for item in items.iter_mut().filter_map(Value::as_object_mut) {
        item.remove("apiVersion");
        item.remove("kind");
    }
    assert_eq!(list["items"], json!(items));
}
