//! Stored values that cannot be read.

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use storage::{KeyRange, Op, Put, Txn};

use super::harness::{Events, Harness, WIDGETS, widget_named};

const ROOT: &str = "/registry/test.io/widgets/ns/";

async fn write(harness: &Harness, op: Op) {
    harness.server.objects.store.txn(Txn { success: vec![op], ..Txn::default() }).await.unwrap();
}

async fn store_raw(harness: &Harness, name: &str, value: &'static str) {
    let put = Put { key: format!("{ROOT}{name}").into(), value: Bytes::from(value), ..Put::default() };
    write(harness, Op::Put(put)).await;
}

fn corrupt(folder: &str, name: &str) -> String {
    format!(
        "StorageError: corrupt object, Code: 7, Key: {folder}/test.io/widgets/ns/{name}, ResourceVersion: 0, \
         AdditionalErrorMsg: data from the storage is not transformable revision=0: no matching prefix found"
    )
}

async fn delete_with(harness: &Harness, path: &str, options: Value) -> (u16, Value) {
    let body = serde_json::to_vec(&options).unwrap();
    let answer = harness.call(Method::DELETE, path, "application/json", body).await;
    (answer.code, answer.json())
}

#[tokio::test]
async fn an_unreadable_object_fails_its_readers_and_no_others() {
    let harness = Harness::new().await;
    let widgets = |name: &str| format!("{WIDGETS}/{name}");
    harness.post(WIDGETS, &widget_named("good")).await.expect_code(201);
    let mut watch = Events::open(&harness, &format!("{WIDGETS}?watch=1")).await;
    assert_eq!(watch.step().await, "ADDED good");
    store_raw(&harness, "bad", "k8s:enc:secretbox:v1:gone:xx").await;

    let answer = harness.get(&widgets("bad")).await.expect(500);
    assert_eq!(answer["message"], format!("Internal error occurred: {}", corrupt("", "bad")));
    assert_eq!(answer["reason"], "InternalError");
    harness.get(&widgets("good")).await.expect_code(200);
    let list = harness.get(WIDGETS).await.expect(500);
    let wanted =
        format!("failed to read one or more widgets.test.io from the storage: {}", corrupt("/registry", "bad"));
    assert_eq!((&list["message"], &list["reason"]), (&json!(wanted), &json!("StorageReadError")));
    let key = format!("{ROOT}bad");
    let cause = json!({"reason": "UnexpectedServerResponse", "message": corrupt("/registry", "bad"), "field": key});
    let details = json!({"name": "list", "group": "test.io", "kind": "widgets", "causes": [cause]});
    assert_eq!(list["details"], details);
    // Another namespace has nothing to hide, and a watcher must not take the object for deleted.
    harness.get(&WIDGETS.replace("/ns/", "/other/")).await.expect_code(200);
    assert_eq!(watch.next().await, None);
    harness.get(&format!("{WIDGETS}?watch=1")).await.expect_code(500);
    harness.put(&widgets("bad"), &widget_named("bad")).await.expect_code(500);
    harness.delete(&widgets("bad")).await.expect_code(500);
    harness.post(WIDGETS, &widget_named("bad")).await.expect_code(409);

    // With the right value it is back.
    let value = serde_json::to_string(&widget_named("bad")).unwrap();
    let put = Put { key: key.into(), value: value.into(), ..Put::default() };
    write(&harness, Op::Put(put)).await;
    harness.get(&widgets("bad")).await.expect_code(200);
    assert_eq!(harness.get(WIDGETS).await.expect(200)["items"].as_array().unwrap().len(), 2);
    harness.shutdown.cancel();
}

#[tokio::test]
async fn an_unreadable_object_can_be_deleted_on_purpose() {
    let harness = Harness::new().await;
    let widgets = |name: &str| format!("{WIDGETS}/{name}");
    harness.post(WIDGETS, &widget_named("good")).await.expect_code(201);
    store_raw(&harness, "bad", "no JSON").await;
    let ignore = json!({"ignoreStoreReadErrorWithClusterBreakingPotential": true});

    let (code, answer) = delete_with(&harness, &widgets("good"), ignore.clone()).await;
    assert_eq!((code, &answer["reason"]), (409, &json!("Conflict")));
    let why = "unsafe deletion is not allowed because the object is decodable from storage";
    assert!(answer["message"].as_str().unwrap().ends_with(why), "{answer}");
    assert_eq!(delete_with(&harness, &widgets("none"), ignore.clone()).await.0, 404);
    assert_eq!(delete_with(&harness, WIDGETS, ignore.clone()).await.0, 422);
    let mut graceful = ignore.clone();
    graceful["gracePeriodSeconds"] = json!(0);
    assert_eq!(delete_with(&harness, &widgets("bad"), graceful).await.0, 422);
    let mut dry = ignore.clone();
    dry["dryRun"] = json!(["All"]);
    assert_eq!(delete_with(&harness, &widgets("bad"), dry).await.0, 200);
    harness.get(WIDGETS).await.expect_code(500);

    let (code, answer) = delete_with(&harness, &widgets("bad"), ignore).await;
    assert_eq!((code, &answer["status"]), (200, &json!("Success")));
    assert_eq!(answer["details"], json!({"name": "bad", "kind": "Widget"}));
    harness.get(&widgets("bad")).await.expect_code(404);
    assert_eq!(harness.get(WIDGETS).await.expect(200)["items"].as_array().unwrap().len(), 1);
    let key = KeyRange::key(format!("{ROOT}bad"));
    assert_eq!(harness.server.objects.store.range(key, Default::default()).await.unwrap().count, 0);
    harness.shutdown.cancel();
}
