use super::*;
use crate::observed::{Exit, SandboxInfo};
use crate::testing::pod_from;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn container(name: &str, state: State) -> ObservedContainer {
    ObservedContainer {
        id: ContainerId(format!("id-{name}")),
        name: name.to_owned(),
        restart_count: 0,
        hash: spec::hash(&Container { name: name.to_owned(), image: Some("i".into()), ..Container::default() }),
        created: at(10),
        state,
        image: "i".into(),
        image_id: "i".into(),
        log_path: "/l".into(),
        user: None,
        pid: None,
        actuated: None,
        termination_grace_period: None,
    }
}

fn running(name: &str) -> ObservedContainer {
    container(name, State::Running { started: at(11) })
}

fn exited(name: &str, code: i32) -> ObservedContainer {
    let reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
    let exit = Exit { code, signal: 0, reason, message: String::new(), started: Some(at(11)), finished: at(12) };
    container(name, State::Exited(exit))
}

fn with(containers: Vec<ObservedContainer>) -> Observed {
    let sandbox = SandboxInfo { created: at(5), attempt: 0, host_network: false, netns: None, ready: true };
    Observed { sandbox: Some(sandbox), ips: Vec::new(), containers }
}

fn pod(policy: &str, init: &[(&str, bool)], regular: &[&str]) -> Pod {
    let init: Vec<_> = init
        .iter()
        .map(|(name, sidecar)| {
            let mut c = json!({"name": name, "image": "i"});
            if *sidecar {
                c["restartPolicy"] = "Always".into();
            }
            c
        })
        .collect();
    let regular: Vec<_> = regular.iter().map(|name| json!({"name": name, "image": "i"})).collect();
    pod_from(json!({"metadata": {"name": "p"},
        "spec": {"restartPolicy": policy, "initContainers": init, "containers": regular}}))
}

#[test]
fn a_new_pod_gets_a_sandbox_and_its_first_containers() {
    let plain = compute_pod_actions(&pod("Always", &[], &["a", "b"]), &Observed::default(), &ProbeFacts::default());
    assert!(plain.create_sandbox && plain.kill_pod);
    assert_eq!(plain.to_start, [0, 1]);
    let init = pod("Always", &[("i", false)], &["a"]);
    let first = compute_pod_actions(&init, &Observed::default(), &ProbeFacts::default());
    assert_eq!((first.init_to_start, first.to_start), (vec![0], vec![]));
}

#[test]
fn init_containers_run_one_after_another() {
    let pod = pod("Always", &[("i", false), ("j", false)], &["a"]);
    let check = |containers: Vec<ObservedContainer>, init: &[usize], regular: &[usize]| {
        let actions = compute_pod_actions(&pod, &with(containers.clone()), &ProbeFacts::default());
        assert_eq!((actions.init_to_start.as_slice(), actions.to_start.as_slice()), (init, regular), "{containers:?}");
        assert!(!actions.kill_pod);
    };
    check(vec![], &[0], &[]);
    check(vec![running("i")], &[], &[]);
    check(vec![exited("i", 1)], &[0], &[]);
    check(vec![exited("i", 0)], &[1], &[]);
    check(vec![running("j"), exited("i", 0)], &[], &[]);
    check(vec![exited("j", 0), exited("i", 0)], &[], &[0]);
    check(vec![running("a"), exited("j", 0)], &[], &[]);
    check(vec![running("a")], &[], &[]);
}

#[test]
fn sidecars_keep_running_beside_the_containers() {
    let pod = pod("Never", &[("s", true), ("i", false)], &["a"]);
    let check = |containers: Vec<ObservedContainer>, init: &[usize], regular: &[usize], kill: bool| {
        let actions = compute_pod_actions(&pod, &with(containers.clone()), &ProbeFacts::default());
        assert_eq!((actions.init_to_start.as_slice(), actions.to_start.as_slice()), (init, regular), "{containers:?}");
        assert_eq!(actions.kill_pod, kill, "{containers:?}");
    };
    check(vec![running("s")], &[1], &[], false);
    check(vec![exited("i", 0), running("s")], &[], &[0], false);
    check(vec![running("a"), exited("i", 0), exited("s", 1)], &[0], &[], false);
    check(vec![exited("a", 0), exited("i", 0), running("s")], &[], &[], true);
    check(vec![exited("i", 1), running("s")], &[], &[], true);
}

#[test]
fn failed_liveness_restarts_by_policy() {
    let check = |policy: &str, restart: &[usize], message: &str| {
        let mut facts = ProbeFacts::default();
        facts.liveness.insert(ContainerId("id-a".into()), ProbeResult::Failure);
        let actions = compute_pod_actions(&pod(policy, &[], &["a"]), &with(vec![running("a")]), &facts);
        assert_eq!(actions.to_kill[0].message, message);
        assert_eq!(actions.to_start, restart);
    };
    check("Always", &[0], "Container a failed liveness probe, will be restarted");
    check("Never", &[], "Container a failed liveness probe");
}

#[test]
fn a_changed_image_restarts_the_container() {
    let mut old = running("a");
    old.hash = "other".into();
    let actions = compute_pod_actions(&pod("Never", &[], &["a"]), &with(vec![old]), &ProbeFacts::default());
    assert_eq!(actions.to_kill[0].message, "Container a definition changed, will be restarted");
    assert_eq!(actions.to_start, [0]);
}

#[test]
fn an_exit_rule_may_restart_the_whole_pod() {
    let mut value = json!({"metadata": {"name": "p"}, "spec": {"restartPolicy": "Never", "containers": [
        {"name": "a", "image": "i", "restartPolicy": "Never", "restartPolicyRules": [
            {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]},
        {"name": "b", "image": "i"}]}});
    let check = |value: &serde_json::Value, code: i32, expected: &[&str]| {
        let pod = pod_from(value.clone());
        let observed = with(vec![running("b"), exited("a", code)]);
        let actions = compute_pod_actions(&pod, &observed, &ProbeFacts::default());
        let ids: Vec<&str> = actions.to_reset.iter().map(|id| id.0.as_str()).collect();
        assert_eq!(ids, expected);
    };
    check(&value, 42, &["id-b", "id-a"]);
    check(&value, 1, &[]);
    value["spec"]["containers"][0]["restartPolicyRules"][0]["action"] = "Restart".into();
    check(&value, 42, &[]);
}

/// A pod played forward: whatever the plan starts runs, and whatever runs ends with a code of the list.
fn play(pod: &Pod, codes: &[i32]) -> Observed {
    let mut observed = Observed::default();
    let mut codes = codes.iter().copied();
    let mut clock = 10;
    for _ in 0..60 {
        let actions = compute_pod_actions(pod, &observed, &ProbeFacts::default());
        if actions.create_sandbox {
            observed = with(Vec::new());
        }
        let init = actions.init_to_start.iter().filter_map(|i| spec::init_containers(pod).get(*i));
        let regular = actions.to_start.iter().filter_map(|i| spec::containers(pod).get(*i));
        let names: Vec<String> = init.chain(regular).map(|c| c.name.clone()).collect();
        if actions.kill_pod && !actions.create_sandbox {
            assert!(names.is_empty(), "a pod that is over starts nothing");
            break;
        }
        for name in &names {
            assert!(
                observed.latest(name).is_none_or(|c| !c.is_running()),
                "{name} is started while it runs: {observed:?}"
            );
            clock += 1;
            let mut new = running(name);
            new.created = at(clock);
            new.id = ContainerId(format!("{name}-{clock}"));
            observed.containers.insert(0, new);
        }
        let Some(code) = codes.next() else { break };
        let alive = observed.containers.iter_mut().filter(|c| c.is_running());
        if let Some(victim) = alive.last() {
            clock += 1;
            let template = exited(&victim.name, code);
            victim.state = template.state;
        }
    }
    observed
}

proptest! {
    /// Whatever ends how, no container runs twice, init containers precede regular ones, and `Never` means once.
    #[test]
    fn plans_keep_their_promises(
        policy in prop::sample::select(vec!["Always", "OnFailure", "Never"]),
        sidecars in prop::collection::vec(any::<bool>(), 0..3),
        regular in 1usize..3,
        codes in prop::collection::vec(0i32..2, 0..12),
    ) {
        let init_names: Vec<String> = (0..sidecars.len()).map(|i| format!("i{i}")).collect();
        let init: Vec<(&str, bool)> = init_names.iter().map(String::as_str).zip(sidecars.iter().copied()).collect();
        let regular_names: Vec<String> = (0..regular).map(|i| format!("c{i}")).collect();
        let names: Vec<&str> = regular_names.iter().map(String::as_str).collect();
        let pod = pod(policy, &init, &names);
        let observed = play(&pod, &codes);
        let any_regular = observed.containers.iter().any(|c| names.contains(&c.name.as_str()));
        for (name, sidecar) in &init {
            if any_regular && !sidecar {
                let done = observed.containers.iter().any(|c| {
                    c.name == *name && matches!(&c.state, State::Exited(exit) if exit.code == 0)
                });
                prop_assert!(done, "a regular container started before {} had succeeded", name);
            }
        }
        if policy == "Never" {
            for name in names {
                prop_assert!(observed.containers.iter().filter(|c| c.name == name).count() <= 1);
            }
        }
    }
}
