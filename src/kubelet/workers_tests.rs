use super::*;
use crate::testing::{Harness, pod_from};
use runtime::Runtime;
use runtime::fake::FakeOutput;
use serde_json::{Value, json};

fn simple(policy: &str) -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"restartPolicy": policy, "terminationGracePeriodSeconds": 30,
        "containers": [{"name": "a", "image": "i:1"}]}})
}

fn deleted(mut pod: Value) -> Pod {
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    pod["metadata"]["deletionGracePeriodSeconds"] = 30.into();
    pod_from(pod)
}

fn is_running(status: &Value) -> bool {
    status["phase"] == "Running" && status["containerStatuses"][0]["ready"] == true
}

const POD: &str = "/api/v1/namespaces/default/pods/p";

#[tokio::test(start_paused = true)]
async fn a_pod_runs_and_its_status_is_published() {
    let harness = Harness::new().await;
    dispatch(&harness.ctx, Arc::new(pod_from(simple("Always"))));
    harness.until("p", "Running", is_running).await;
    let status = harness.status("p");
    assert_eq!(status["podIP"], "10.1.1.1");
    assert_eq!(status["hostIP"], "10.0.0.1");
    assert_eq!(harness.runtime.sandboxes().await.unwrap().len(), 1);
    let spec = harness.runtime.spec(&harness.container("a").await.id).unwrap();
    assert_eq!(spec.resources.oom_score_adj, Some(1000));
    assert!(spec.mounts.iter().any(|m| m.container_path == "/etc/hosts"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(harness.events(), ["Pulling", "Pulled", "Created", "Started"]);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_is_stopped_cleaned_up_and_removed_from_the_api() {
    let harness = Harness::new().await;
    dispatch(&harness.ctx, Arc::new(pod_from(simple("Always"))));
    harness.until("p", "Running", is_running).await;
    dispatch(&harness.ctx, Arc::new(deleted(simple("Always"))));
    let options = harness.until_request("DELETE", POD).await;
    assert_eq!(options["gracePeriodSeconds"], 0);
    assert_eq!(options["preconditions"]["uid"], "uid-1");
    assert!(harness.status("p")["containerStatuses"][0]["state"]["terminated"].is_object());
    assert!(harness.runtime.containers().await.unwrap().is_empty());
    assert!(harness.runtime.sandboxes().await.unwrap().is_empty());
    assert!(!harness.ctx.config.pod_dir("uid-1").exists());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_ended_keeps_its_container_until_it_is_deleted() {
    let harness = Harness::new().await;
    dispatch(&harness.ctx, Arc::new(pod_from(simple("Never"))));
    harness.until("p", "Running", is_running).await;
    harness.runtime.exit(&harness.container("a").await.id, 3);
    harness.until("p", "Failed", |s| s["phase"] == "Failed").await;
    let status = harness.status("p");
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(harness.runtime.containers().await.unwrap().len(), 1);
    dispatch(&harness.ctx, Arc::new(deleted(simple("Never"))));
    harness.until_request("DELETE", POD).await;
    assert!(harness.runtime.containers().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_crashing_container_is_restarted_after_ever_longer_pauses() {
    let harness = Harness::new().await;
    dispatch(&harness.ctx, Arc::new(pod_from(simple("Always"))));
    harness.until("p", "Running", is_running).await;
    let restarts = |n: i64| move |s: &Value| is_running(s) && s["containerStatuses"][0]["restartCount"] == n;
    harness.runtime.exit(&harness.container("a").await.id, 1);
    harness.until("p", "the first restart", restarts(1)).await;
    let begin = tokio::time::Instant::now();
    harness.runtime.exit(&harness.container("a").await.id, 1);
    let waits = |s: &Value| s["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff";
    harness.until("p", "CrashLoopBackOff", waits).await;
    let message = harness.status("p")["containerStatuses"][0]["state"]["waiting"]["message"].clone();
    assert_eq!(message, "back-off 10s restarting failed container=a pod=p_default(uid-1)");
    harness.until("p", "the second restart", restarts(2)).await;
    let pause = begin.elapsed();
    assert!(pause >= Duration::from_secs(10) && pause < Duration::from_secs(12), "{pause:?}");
    assert!(harness.runtime.containers().await.unwrap().len() <= 3);
}

#[tokio::test(start_paused = true)]
async fn a_failed_pull_is_tried_again() {
    let harness = Harness::new().await;
    harness.runtime.fail_pull("i:1", "no such image");
    dispatch(&harness.ctx, Arc::new(pod_from(simple("Always"))));
    let reason =
        |wanted: &'static str| move |s: &Value| s["containerStatuses"][0]["state"]["waiting"]["reason"] == wanted;
    harness.until("p", "ErrImagePull", reason("ErrImagePull")).await;
    harness.until("p", "ImagePullBackOff", reason("ImagePullBackOff")).await;
    harness.runtime.allow_pull("i:1");
    harness.until("p", "Running", is_running).await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_cannot_start_is_shown_and_tried_again() {
    let harness = Harness::new().await;
    let mut pod = simple("Never");
    pod["spec"]["containers"][0]["command"] = json!(["/nothing"]);
    let image = harness.runtime.pull_image("i:1", &[]).await.unwrap();
    harness.runtime.fail_start(&image.id, "exec: \"/nothing\": no such file or directory");
    dispatch(&harness.ctx, Arc::new(pod_from(pod)));
    harness.until("p", "Failed", |s| s["phase"] == "Failed").await;
    let ended = harness.status("p")["containerStatuses"][0]["state"]["terminated"].clone();
    assert_eq!((&ended["reason"], &ended["exitCode"]), (&json!("StartError"), &json!(128)));
}

#[tokio::test(start_paused = true)]
async fn failing_liveness_restarts_the_container() {
    let harness = Harness::new().await;
    let mut pod = simple("Always");
    pod["spec"]["containers"][0]["livenessProbe"] =
        json!({"exec": {"command": ["check"]}, "periodSeconds": 5, "failureThreshold": 3});
    let first = std::sync::OnceLock::new();
    harness.runtime.on_exec(move |id, _| {
        let bad = first.get_or_init(|| id.clone()) == id;
        Ok(FakeOutput { code: i32::from(bad), stdout: b"broken".to_vec(), ..FakeOutput::default() })
    });
    dispatch(&harness.ctx, Arc::new(pod_from(pod)));
    harness.until("p", "Running", is_running).await;
    harness.until("p", "a restart", |s| is_running(s) && s["containerStatuses"][0]["restartCount"] == 1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(harness.status("p")["containerStatuses"][0]["restartCount"], 1);
    assert!(harness.events().contains(&"Unhealthy".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn readiness_decides_whether_the_pod_is_ready() {
    let harness = Harness::new().await;
    let mut pod = simple("Always");
    pod["spec"]["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["check"]}, "periodSeconds": 1});
    let ready = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let answer = ready.clone();
    harness.runtime.on_exec(move |_, _| {
        let code = i32::from(!answer.load(std::sync::atomic::Ordering::Relaxed));
        Ok(FakeOutput { code, ..FakeOutput::default() })
    });
    dispatch(&harness.ctx, Arc::new(pod_from(pod)));
    harness.until("p", "Running", |s| s["phase"] == "Running").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(harness.status("p")["containerStatuses"][0]["ready"], false);
    ready.store(true, std::sync::atomic::Ordering::Relaxed);
    harness.until("p", "Ready", is_running).await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_agent_disturbs_nothing() {
    let harness = Harness::new().await;
    dispatch(&harness.ctx, Arc::new(pod_from(simple("Always"))));
    harness.until("p", "Running", is_running).await;
    let id = harness.container("a").await.id;
    let again = harness.restarted().await;
    again.runtime.clear_calls();
    dispatch(&again.ctx, Arc::new(pod_from(simple("Always"))));
    again.until("p", "Running", is_running).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(again.container("a").await.id, id);
    let changes = ["create", "start", "stop", "remove", "pull"];
    let calls = again.runtime.calls();
    assert!(!calls.iter().any(|call| changes.iter().any(|c| call.starts_with(c))), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_a_pod() {
    let harness = Harness::new().await;
    let mut pod = simple("Always");
    pod["spec"]["activeDeadlineSeconds"] = 20.into();
    dispatch(&harness.ctx, Arc::new(pod_from(pod)));
    harness.until("p", "Running", is_running).await;
    harness.until("p", "Failed", |s| s["phase"] == "Failed").await;
    assert_eq!(harness.status("p")["reason"], "DeadlineExceeded");
}

#[tokio::test(start_paused = true)]
async fn a_pre_stop_hook_runs_before_the_stop() {
    let harness = Harness::new().await;
    let mut pod = simple("Always");
    pod["spec"]["containers"][0]["lifecycle"] = json!({"preStop": {"exec": {"command": ["bye"]}}});
    dispatch(&harness.ctx, Arc::new(pod_from(pod.clone())));
    harness.until("p", "Running", is_running).await;
    harness.runtime.clear_calls();
    dispatch(&harness.ctx, Arc::new(deleted(pod)));
    harness.until_request("DELETE", POD).await;
    let calls = harness.runtime.calls();
    let at = |name: &str| calls.iter().position(|c| c.starts_with(name));
    assert!(at("exec") < at("stop_container") && at("exec").is_some(), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn init_containers_go_first_and_sidecars_last() {
    let harness = Harness::new().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"restartPolicy": "Never",
        "initContainers": [{"name": "s", "image": "s:1", "restartPolicy": "Always"}, {"name": "i", "image": "i:1"}],
        "containers": [{"name": "a", "image": "a:1"}]}});
    dispatch(&harness.ctx, Arc::new(pod_from(pod)));
    harness.until("p", "initialising", |s| s["initContainerStatuses"][1]["state"]["running"].is_object()).await;
    harness.runtime.exit(&harness.container("i").await.id, 0);
    harness.until("p", "Running", is_running).await;
    harness.runtime.exit(&harness.container("a").await.id, 0);
    harness.until("p", "Succeeded", |s| s["phase"] == "Succeeded").await;
    assert!(!matches!(harness.container("s").await.status, runtime::ContainerStatus::Running { .. }));
}
