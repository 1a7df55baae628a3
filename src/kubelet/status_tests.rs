use super::*;
use crate::observed::{Exit, ObservedContainer, SandboxInfo, State};
use crate::testing::pod_from;
use runtime::ContainerId;
use serde_json::json;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn observed(states: &[(&str, State)]) -> Observed {
    let containers = states
        .iter()
        .map(|(name, state)| ObservedContainer {
            id: ContainerId(format!("id-{name}")),
            name: (*name).to_owned(),
            restart_count: 0,
            hash: String::new(),
            created: at(10),
            state: state.clone(),
            image: "i".into(),
            image_id: "sha256:i".into(),
            log_path: "/l".into(),
            user: None,
            pid: None,
            actuated: None,
            termination_grace_period: None,
        })
        .collect();
    let sandbox = SandboxInfo { created: at(5), attempt: 0, host_network: false, netns: None, ready: true };
    Observed { sandbox: Some(sandbox), ips: vec![[10, 1, 1, 1].into()], containers }
}

fn run(pod: &Pod, observed: &Observed, waiting: &WaitingReasons) -> PodStatus {
    generate(&Input {
        pod,
        observed,
        previous: &PodStatus::default(),
        waiting,
        probes: &ProbeStates::default(),
        terminal: false,
        overrule: None,
        extra_conditions: &[],
        host_ips: &[[10, 0, 0, 1].into()],
        now: at(100),
    })
}

fn simple(policy: &str) -> Pod {
    pod_from(json!({"metadata": {"name": "p"}, "spec": {"restartPolicy": policy,
        "containers": [{"name": "a", "image": "i"}]}}))
}

fn exit(code: i32) -> State {
    let reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
    State::Exited(Exit { code, signal: 0, reason, message: String::new(), started: Some(at(11)), finished: at(12) })
}

fn condition(status: &PodStatus, type_: &str) -> (String, Option<String>, Option<String>) {
    let c = status.conditions.iter().flatten().find(|c| c.type_ == type_).unwrap();
    (c.status.clone(), c.reason.clone(), c.message.clone())
}

#[test]
fn a_running_pod_is_ready() {
    let status = run(&simple("Always"), &observed(&[("a", State::Running { started: at(11) })]), &HashMap::new());
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(condition(&status, "Ready"), ("True".into(), None, None));
    assert_eq!(condition(&status, "PodReadyToStartContainers").0, "True");
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!((container.ready, container.started), (true, Some(true)));
    assert_eq!(container.container_id.as_deref(), Some("containerd://id-a"));
    assert_eq!((status.pod_ip.as_deref(), status.host_ip.as_deref()), (Some("10.1.1.1"), Some("10.0.0.1")));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
}

#[test]
fn a_pod_that_has_nothing_yet_is_pending() {
    let status = run(&simple("Always"), &Observed::default(), &HashMap::new());
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let (ready, reason, message) = condition(&status, "Ready");
    assert_eq!((ready.as_str(), reason.as_deref()), ("False", Some("ContainersNotReady")));
    assert_eq!(message.as_deref(), Some("containers with unready status: [a]"));
    let state = status.container_statuses.unwrap()[0].state.clone().unwrap();
    assert_eq!(state.waiting.unwrap().reason.as_deref(), Some("ContainerCreating"));
}

#[test]
fn ends_decide_the_phase_by_policy() {
    let check = |policy: &str, code: i32, phase: &str| {
        let status = run(&simple(policy), &observed(&[("a", exit(code))]), &HashMap::new());
        assert_eq!(status.phase.as_deref(), Some(phase), "{policy} {code}");
    };
    check("Always", 0, "Running");
    check("Always", 1, "Running");
    check("OnFailure", 0, "Succeeded");
    check("OnFailure", 1, "Running");
    check("Never", 0, "Succeeded");
    check("Never", 1, "Failed");
}

#[test]
fn a_crashing_container_waits_with_its_reason() {
    let waiting = HashMap::from([("a".to_owned(), ("CrashLoopBackOff".to_owned(), "back-off 10s".to_owned()))]);
    let status = run(&simple("Always"), &observed(&[("a", exit(1))]), &waiting);
    let container = &status.container_statuses.unwrap()[0];
    let state = container.state.clone().unwrap();
    assert_eq!(state.waiting.unwrap().reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(container.last_state.clone().unwrap().terminated.unwrap().exit_code, 1);
    assert_eq!(status.phase.as_deref(), Some("Running"));
}

#[test]
fn a_patch_names_only_what_changed() {
    let pod = simple("Always");
    let old = run(&pod, &Observed::default(), &HashMap::new());
    assert_eq!(publish::patch("u", &old, &old), None);
    let new = run(&pod, &observed(&[("a", State::Running { started: at(11) })]), &HashMap::new());
    let patch = publish::patch("u", &old, &new).unwrap();
    assert_eq!(patch["metadata"]["uid"], "u");
    assert_eq!(patch["status"]["phase"], "Running");
    assert!(patch["status"].get("hostIP").is_none());
    let types: Vec<&str> =
        patch["status"]["conditions"].as_array().unwrap().iter().filter_map(|c| c["type"].as_str()).collect();
    assert!(types.contains(&"Ready") && !types.contains(&"PodScheduled"), "{types:?}");
}
