//! The binary, with stock clients and real containers. Run one at a time: `--test-threads=1`.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::{Instance, here, output, tool};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn a_person_with_kubectl_finds_what_they_expect() {
    let instance = Instance::start("walk", 0).unwrap();
    let mut script = Command::new(here().join("kubectl.sh"));
    let text = output(script.arg(instance.kubeconfig()).arg(tool("kubectl").unwrap())).unwrap();
    println!("{text}");
}

#[test]
fn kubectls_rarer_commands_work() {
    let instance = Instance::start("more", 5).unwrap();
    let mut script = Command::new(here().join("kubectl-more.sh"));
    println!("{}", output(script.arg(instance.kubeconfig()).arg(tool("kubectl").unwrap())).unwrap());
}

#[test]
fn the_previous_kubectl_finds_it_too() {
    let instance = Instance::start("walk33", 2).unwrap();
    let mut script = Command::new(here().join("kubectl.sh"));
    println!("{}", output(script.arg(instance.kubeconfig()).arg(tool("kubectl-1.33").unwrap())).unwrap());
}

#[test]
fn helm_3_and_4_install_upgrade_roll_back_and_uninstall() {
    let instance = Instance::start("helm", 3).unwrap();
    for helm in ["helm", "helm4"] {
        let mut script = Command::new(here().join("helm.sh"));
        println!("{}", output(script.arg(instance.kubeconfig()).arg(tool(helm).unwrap())).unwrap());
    }
}

#[test]
fn programs_on_client_go_and_controller_runtime_find_no_difference() {
    let instance = Instance::start("clients", 4).unwrap();
    let mut script = Command::new(here().join("clients.sh"));
    println!("{}", output(script.arg(instance.kubeconfig()).arg("go")).unwrap());
}

#[test]
fn bad_input_and_a_machine_that_lacks_something_are_told_plainly() {
    println!("{}", output(Command::new(here().join("faults.sh")).arg("/var/tmp/skiff-e2e-fault")).unwrap());
}

#[test]
fn killing_the_server_loses_no_acknowledged_object_and_disturbs_no_pod() {
    const ROUNDS: usize = 20;
    const OBJECTS: usize = 50;
    let instance = Instance::start("crash", 1).unwrap();
    let image = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";
    instance.kubectl(&format!("run steady --image={image} -- pause")).unwrap();
    instance.kubectl("wait --for=condition=Ready pod/steady --timeout=60s").unwrap();
    let started = |instance: &Instance| {
        instance.kubectl("get pod steady -o jsonpath={.status.containerStatuses[0].state.running.startedAt}").unwrap()
    };
    let before = started(&instance);
    let revision = |instance: &Instance| -> u64 {
        let list = instance.kubectl("get --raw /api/v1/namespaces/default/configmaps?limit=1").unwrap();
        let value: serde_json::Value = serde_json::from_str(&list).unwrap();
        value["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    };
    let mut newest = revision(&instance);
    let mut acknowledged: Vec<String> = Vec::new();
    let mut slowest = Duration::ZERO;
    for round in 0..ROUNDS {
        let pid = Pid::from_raw(instance.pid().unwrap());
        let kubeconfig = instance.kubeconfig();
        let kubectl = tool("kubectl").unwrap();
        let writer = std::thread::spawn(move || {
            let names: Vec<String> = (0..OBJECTS).map(|i| format!("r{round}-{i}")).collect();
            let list: String = names
                .iter()
                .map(|n| format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {n}, namespace: default}}\n"))
                .collect();
            let path = std::env::temp_dir().join(format!("skiff-crash-{round}.yaml"));
            std::fs::write(&path, list).unwrap();
            // The server dies in the middle, so this may fail: what it printed as created was acknowledged.
            let result = Command::new(kubectl)
                .env("KUBECONFIG", kubeconfig)
                .arg("create")
                .arg("-f")
                .arg(&path)
                .output()
                .unwrap();
            std::fs::remove_file(path).unwrap();
            let text = String::from_utf8_lossy(&result.stdout).into_owned();
            let created = text.lines().filter_map(|l| l.strip_prefix("configmap/")?.strip_suffix(" created"));
            created.map(str::to_owned).collect::<Vec<_>>()
        });
        // Somewhere between the first and the last write, at another place every round.
        std::thread::park_timeout(Duration::from_millis(120 + 17 * round as u64));
        kill(pid, Signal::SIGKILL).unwrap();
        acknowledged.extend(writer.join().unwrap());
        let begin = Instant::now();
        instance.restart().unwrap();
        slowest = slowest.max(begin.elapsed());
        let now = revision(&instance);
        assert!(now >= newest, "the revision went back from {newest} to {now}");
        newest = now;
        let held = instance.kubectl("get cm -n default -o name").unwrap();
        let held: std::collections::HashSet<&str> = held.lines().collect();
        for name in &acknowledged {
            assert!(held.contains(format!("configmap/{name}").as_str()), "{name} was acknowledged and is gone");
        }
    }
    assert_eq!(started(&instance), before, "the pod was started again");
    println!(
        "{} acknowledged objects kept over {ROUNDS} kills; slowest start to Ready {slowest:?}",
        acknowledged.len()
    );
    assert!(!acknowledged.is_empty());
}

/// The program that serves a database as etcd does, with nothing else around it.
fn shim() -> PathBuf {
    let root = here().parent().unwrap();
    // With the whole workspace's features, so that what the binary was built from is used again.
    output(Command::new("cargo").current_dir(root).args(["build", "-q", "--workspace", "--example", "etcd"])).unwrap();
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    target.join("debug/examples/etcd")
}

#[test]
fn etcdctl_finds_no_difference_to_etcd() {
    tool("etcd").unwrap();
    println!("{}", output(Command::new(here().join("etcdctl.sh")).env("SHIM", shim())).unwrap());
}

#[test]
fn two_servers_on_three_etcd_members_lose_nothing_when_one_of_them_goes() {
    tool("etcd").unwrap();
    let mut script = Command::new(here().join("cluster.sh"));
    println!("{}", output(script.arg("short").env("DIR", "/var/tmp/skiff-e2e-cluster")).unwrap());
}

#[test]
fn servers_with_their_own_etcd_members_join_share_and_leave() {
    tool("etcd").unwrap();
    let mut script = Command::new(here().join("members.sh"));
    println!("{}", output(script.env("DIR", "/var/tmp/skiff-e2e-members")).unwrap());
}

#[test]
fn a_stock_api_server_works_on_the_store() {
    tool("kube-apiserver").unwrap();
    println!("{}", output(Command::new(here().join("stock-apiserver-on-shim.sh")).env("SHIM", shim())).unwrap());
}
