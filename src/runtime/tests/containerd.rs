//! The runtime against a real containerd, started here with root, state and socket of its own.
//!
//! Runs as root where containerd is installed and says why when it skips. `SKIFF_TEST_CONTAINERD_DIR` names the folder of
//! another containerd; `SKIFF_TEST_FILTER` a part of the names to run; `SKIFF_TEST_ARCHIVE` an OCI archive of an image
//! with a shell, instead of one made from the machine's static busybox.

mod registry;
mod support;

use std::time::Duration;

use runtime::*;
use support::*;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|argument| argument == runtime::init::COMMAND) {
        std::process::exit(runtime::init::main(&arguments[2..]));
    }
    let tests: Vec<(&str, Test)> = vec![
        ("a container runs, prints, exits and is removed", |n| Box::pin(runs_and_exits(n))),
        ("stop sends the signal and kills after the grace", |n| Box::pin(stops(n))),
        ("a command that does not exist fails to start with containerd's words", |n| Box::pin(bad_command(n))),
        ("exec gives output, exit code, input and its end", |n| Box::pin(execs(n))),
        ("exec with a terminal can be resized", |n| Box::pin(exec_tty(n))),
        ("an exec that nobody waits for is killed", |n| Box::pin(exec_dropped(n))),
        ("attach reads output and writes input", |n| Box::pin(attaches(n))),
        ("containers of a sandbox share network, ipc, hostname and shm", |n| Box::pin(shares(n))),
        ("a shared PID namespace is held by the pod's init", |n| Box::pin(shares_pids(n))),
        ("a memory hog is killed and told", |n| Box::pin(oom(n))),
        ("running containers and their output survive our restart", |n| Box::pin(restart(n))),
        ("a container that ended while we were away is told", |n| Box::pin(ended_while_away(n))),
        ("containerd's restart is a resync", |n| Box::pin(containerd_restart(n))),
        ("security settings reach the process", |n| Box::pin(security(n))),
        ("resources are set, changed and counted", |n| Box::pin(resources(n))),
        ("mounts are mounted as asked", |n| Box::pin(mounts(n))),
        ("logs go on in a new file", |n| Box::pin(rotates(n))),
        ("images are listed, found and removed", |n| Box::pin(images(n))),
        ("images are pulled, resumed where a transfer broke off", |n| Box::pin(pulls(n))),
        ("docker save archives are imported, compressed or not", |n| Box::pin(imports_saved(n))),
        ("the host's namespaces are used when asked for", |n| Box::pin(host_namespaces(n))),
        ("many at once are all served and leave nothing behind", |n| Box::pin(many(n))),
        ("after a reboot nothing is known to run", |n| Box::pin(reboot(n))),
        ("instances on one containerd do not see each other", |n| Box::pin(instances(n))),
        ("sysctls and devices are given", |n| Box::pin(sysctls_and_devices(n))),
        ("pods start quickly", |n| Box::pin(starts_quickly(n))),
    ];
    run(tests);
}

async fn runs_and_exits(mut node: Node) {
    let mut events = node.runtime.events();
    let id = node.start("echo hello; echo oops >&2; exit 3", |_| {}).await;
    assert_eq!(next(&mut events).await, RuntimeEvent::Started(id.clone()));
    assert_eq!(next(&mut events).await, RuntimeEvent::Exited(id.clone()));
    let container = node.runtime.container(&id).await.unwrap().unwrap();
    let ContainerStatus::Exited { code, oom_killed, started, .. } = container.status else {
        panic!("{:?}", container.status)
    };
    assert_eq!((code, oom_killed, started.is_some()), (3, false, true));
    let log = node.log(&id).await;
    assert!(log.contains(" stdout F hello\n") && log.contains(" stderr F oops\n"), "{log}");
    let before = node.runtime.containers().await.unwrap().len();
    node.runtime.remove_container(&id).await.unwrap();
    node.runtime.remove_container(&id).await.unwrap();
    assert_eq!(node.runtime.containers().await.unwrap().len(), before - 1);
}

async fn stops(mut node: Node) {
    let gentle = node.start("trap 'exit 7' TERM; while :; do sleep 0.1; done", |_| {}).await;
    let stubborn = node.start("trap '' TERM; while :; do sleep 0.1; done", |_| {}).await;
    let own = node
        .start("trap 'exit 8' USR1; while :; do sleep 0.1; done", |spec| spec.stop_signal = Some("SIGUSR1".into()))
        .await;
    node.settle().await;
    node.runtime.stop_container(&gentle, Duration::from_secs(20)).await.unwrap();
    assert_eq!(node.exit_code(&gentle).await, 7);
    node.runtime.stop_container(&own, Duration::from_secs(20)).await.unwrap();
    assert_eq!(node.exit_code(&own).await, 8);
    node.runtime.stop_container(&stubborn, Duration::from_millis(300)).await.unwrap();
    assert_eq!(node.exit_code(&stubborn).await, 137);
    node.runtime.stop_container(&stubborn, Duration::from_secs(1)).await.unwrap();
}

async fn bad_command(mut node: Node) {
    let id = node.create(|spec| spec.command = vec!["/no/such".into()]).await;
    let error = node.runtime.start_container(&id).await.unwrap_err().to_string();
    assert!(
        error.starts_with("failed to create containerd task: failed to create shim task: OCI runtime create failed: "),
        "{error}"
    );
    assert!(error.contains("no such file or directory") && error.ends_with(": unknown"), "{error}");
    assert_eq!(node.exit_code(&id).await, 128);
    node.runtime.remove_container(&id).await.unwrap();
}

async fn execs(mut node: Node) {
    let id = node.start("sleep 1000", |_| {}).await;
    let (code, out, err) = node.exec(&id, "echo out; echo err >&2; exit 5").await;
    assert_eq!((code, out.as_str(), err.as_str()), (5, "out\n", "err\n"));
    let spec = ExecSpec { command: vec!["cat".into()], stdin: true, stdout: true, stderr: true, tty: false };
    let mut session = node.runtime.exec(&id, &spec).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let big = vec![b'x'; 300_000];
    let sent = big.clone();
    let writer = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        stdin.write_all(&sent).await.unwrap();
        stdin.shutdown().await.unwrap();
    });
    let out = read_all(session.stdout.take().unwrap()).await;
    writer.await.unwrap();
    assert_eq!(out.len(), big.len());
    assert_eq!(deadline(session.exit).await.unwrap(), 0);
    let missing = ExecSpec { command: vec!["nope".into()], stdout: true, ..Default::default() };
    let error = node.runtime.exec(&id, &missing).await.err().unwrap().to_string();
    assert!(error.contains("executable file not found in $PATH"), "{error}");
    node.without_execs().await;
}

async fn exec_tty(mut node: Node) {
    let id = node.start("sleep 1000", |_| {}).await;
    let spec = ExecSpec {
        command: vec!["sh".into(), "-c".into(), "read line; stty size; echo got $line".into()],
        stdin: true,
        stdout: true,
        stderr: true,
        tty: true,
    };
    let mut session = node.runtime.exec(&id, &spec).await.unwrap();
    assert!(session.stderr.is_none());
    session.resize.send((123, 45)).await.unwrap();
    node.settle().await;
    let mut stdin = session.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, b"hi\n").await.unwrap();
    let out = read_all(session.stdout.take().unwrap()).await;
    assert!(out.contains("45 123") && out.contains("got hi"), "{out}");
    assert_eq!(deadline(session.exit).await.unwrap(), 0);
}

async fn exec_dropped(mut node: Node) {
    let id = node.start("sleep 1000", |_| {}).await;
    let spec = ExecSpec { command: vec!["sleep".into(), "777".into()], stdout: true, ..Default::default() };
    drop(node.runtime.exec(&id, &spec).await.unwrap());
    for attempt in 0.. {
        let (_, out, _) = node.exec(&id, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").await;
        if !out.contains("sleep 777") {
            break;
        }
        assert!(attempt < 50, "the exec goes on: {out}");
        node.settle().await;
    }
}

async fn attaches(mut node: Node) {
    let id = node
        .start("echo ready; while read line; do echo got $line; done; echo end; exit 4", |spec| {
            (spec.stdin, spec.stdin_once) = (true, true);
        })
        .await;
    let mut session = node.runtime.attach(&id).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, b"one\n").await.unwrap();
    drop(stdin);
    let out = read_all(session.stdout.take().unwrap()).await;
    assert!(out.contains("got one\nend\n"), "{out}");
    assert_eq!(deadline(session.exit).await.unwrap(), 4);
    assert!(node.log(&id).await.contains("F got one\n"));
}

async fn shares(mut node: Node) {
    let first = node.start("echo x > /dev/shm/file; sleep 1000", |_| {}).await;
    node.settle().await;
    let second = node.start("sleep 1000", |_| {}).await;
    let script = "hostname; cat /etc/hostname; echo $HOSTNAME; cat /dev/shm/file; readlink /proc/self/ns/net /proc/self/ns/ipc; ip link show lo 2>/dev/null || cat /sys/class/net/lo/flags";
    let (_, a, _) = node.exec(&first, script).await;
    let (_, b, _) = node.exec(&second, script).await;
    assert_eq!(a, b);
    assert!(a.starts_with("the-host\nthe-host\nthe-host\nx\n"), "{a}");
    assert!(a.contains("UP") || a.contains("0x9"), "{a}");
    let host = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert!(!a.contains(&*host.to_string_lossy()));
    assert_eq!(node.shims(), 1);
    let (_, pids, _) = node.exec(&second, "ls -d /proc/[0-9]*").await;
    assert!(pids.lines().count() < 6, "{pids}");
}

async fn shares_pids(mut node: Node) {
    let pod = SandboxSpec { share_process_namespace: true, ..node.pod("shared") };
    node.use_sandbox(&pod).await;
    let first = node.start("sleep 1000", |_| {}).await;
    let second = node.start("sleep 1001", |_| {}).await;
    let (_, out, _) = node.exec(&first, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").await;
    assert!(out.starts_with("skiff pod-init "), "{out}");
    assert!(out.contains("sleep 1000") && out.contains("sleep 1001"), "{out}");
    node.restart().await;
    let again = node.runtime.create_sandbox(&pod).await.unwrap();
    assert!(again.netns.is_some());
    assert!(node.running(&second).await && node.running(&first).await);
    for id in [first, second] {
        node.runtime.stop_container(&id, Duration::ZERO).await.unwrap();
        node.runtime.remove_container(&id).await.unwrap();
    }
    node.runtime.remove_sandbox(&again.id).await.unwrap();
    node.runtime.remove_sandbox(&again.id).await.unwrap();
}

async fn oom(mut node: Node) {
    let mut events = node.runtime.events();
    let id = node
        .start("x=a; while :; do x=$x$x$x$x; done", |spec| {
            spec.resources.memory_limit_bytes = Some(20 << 20);
        })
        .await;
    loop {
        if next(&mut events).await == RuntimeEvent::Exited(id.clone()) {
            break;
        }
    }
    let container = node.runtime.container(&id).await.unwrap().unwrap();
    assert!(matches!(container.status, ContainerStatus::Exited { code: 137, oom_killed: true, .. }), "{container:?}");
}

async fn restart(mut node: Node) {
    // Nine lines of 10 kB a second: while we are away more is written than a pipe holds.
    let script = "i=0; line=$(head -c 9990 /dev/zero | tr '\\0' x); while :; do i=$((i+1)); echo $i $line; [ $((i%9)) = 0 ] && sleep 0.2; done";
    let id = node.start(script, |_| {}).await;
    node.settle().await;
    node.disconnect().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    node.reconnect().await;
    assert!(node.running(&id).await);
    node.settle().await;
    node.runtime.stop_container(&id, Duration::ZERO).await.unwrap();
    let log = node.log(&id).await;
    // A line cut by our end is two records; joined again, no number is missing and none comes twice.
    let mut text = String::new();
    for line in log.lines() {
        let mut fields = line.splitn(4, ' ');
        let (tag, rest) = (fields.nth(2).unwrap(), fields.next().unwrap());
        text.push_str(rest);
        if tag == "F" {
            text.push('\n');
        }
    }
    let numbers: Vec<u32> =
        text.lines().filter_map(|line| line.split(' ').next().and_then(|n| n.parse().ok())).collect();
    let expected: Vec<u32> = (1..=numbers.len() as u32).collect();
    assert_eq!(numbers, expected);
    assert!(numbers.len() > 30, "{}", numbers.len());
}

async fn ended_while_away(mut node: Node) {
    let id = node.start("sleep 0.5; echo bye; exit 6", |_| {}).await;
    let other = node.start("sleep 1000", |_| {}).await;
    node.disconnect().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    node.reconnect().await;
    assert_eq!(node.exit_code(&id).await, 6);
    assert!(node.running(&other).await);
}

async fn containerd_restart(mut node: Node) {
    let id = node.start("sleep 1000", |_| {}).await;
    let mut events = node.runtime.events();
    node.kill_containerd().await;
    while next(&mut events).await != RuntimeEvent::Resync {}
    assert!(node.running(&id).await);
    node.runtime.stop_container(&id, Duration::ZERO).await.unwrap();
    assert_eq!(node.exit_code(&id).await, 137);
}

async fn security(mut node: Node) {
    let id = node
        .start("sleep 1000", |spec| {
            spec.security.run_as_user = Some(1234);
            spec.security.run_as_group = Some(2345);
            spec.security.supplemental_groups = vec![777];
            spec.security.drop_capabilities = vec!["ALL".into()];
            spec.security.add_capabilities = vec!["NET_BIND_SERVICE".into()];
            spec.security.no_new_privileges = true;
            spec.security.read_only_rootfs = true;
            spec.security.seccomp = Seccomp::RuntimeDefault;
            spec.working_dir = Some("/made/for/it".into());
            spec.security.read_only_rootfs = false;
        })
        .await;
    let (_, out, err) = node.exec(&id, "id -u; id -g; id -G; pwd; cat /proc/1/status").await;
    assert!(out.starts_with("1234\n2345\n"), "{out} {err}");
    assert!(out.lines().nth(2).unwrap().contains("777"), "{out}");
    assert!(out.contains("/made/for/it"), "{out}");
    assert!(out.contains("NoNewPrivs:\t1") && out.contains("Seccomp:\t2"), "{out}");
    assert!(out.contains("CapBnd:\t0000000000000400"), "{out}");
    let container = node.runtime.container(&id).await.unwrap().unwrap();
    assert_eq!(container.user, Some((1234, 2345, vec![777, 2345])));
    let privileged = node.start("sleep 1000", |spec| spec.security.privileged = true).await;
    let (_, out, _) = node.exec(&privileged, "cat /proc/1/status; ls /dev; [ -w /sys/kernel ] && echo writable").await;
    assert!(out.contains("Seccomp:\t0") && out.contains("kmsg"), "{out}");
    let read_only = node.start("sleep 1000", |spec| spec.security.read_only_rootfs = true).await;
    let (code, _, err) = node.exec(&read_only, "touch /x").await;
    assert!(code != 0 && err.contains("Read-only"), "{err}");
}

async fn resources(mut node: Node) {
    let id = node
        .start("while :; do :; done", |spec| {
            spec.resources = Resources {
                cpu_shares: Some(512),
                cpu_quota_us: Some(50_000),
                cpu_period_us: Some(100_000),
                memory_limit_bytes: Some(64 << 20),
                oom_score_adj: Some(-998),
                ..Default::default()
            };
        })
        .await;
    let path = node.cgroup_file(&id, "memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), (64 << 20).to_string());
    let more = Resources { memory_limit_bytes: Some(96 << 20), cpu_shares: Some(256), ..Default::default() };
    node.runtime.update_resources(&id, &more).await.unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), (96 << 20).to_string());
    node.settle().await;
    let stats = node.runtime.stats(&id).await.unwrap();
    assert!(stats.cpu_usage_ns > 0 && stats.memory_usage_bytes > 0 && stats.pids >= 1, "{stats:?}");
    assert!(stats.rootfs_inodes > 0, "{stats:?}");
}

async fn mounts(mut node: Node) {
    let dir = node.scratch("volume");
    std::fs::write(dir.join("file"), "text").unwrap();
    let id = node
        .start("sleep 1000", |spec| {
            let mount = |path: &str, read_only| Mount {
                host_path: dir.clone(),
                container_path: path.into(),
                read_only,
                ..Default::default()
            };
            spec.mounts = vec![mount("/rw", false), mount("/ro", true)];
        })
        .await;
    let (code, out, err) = node.exec(&id, "cat /ro/file; echo new > /rw/made; touch /ro/x").await;
    assert!(code != 0 && out == "text" && err.contains("Read-only"), "{code} {out} {err}");
    assert_eq!(std::fs::read_to_string(dir.join("made")).unwrap(), "new\n");
    let (_, out, _) = node
        .exec(&id, "grep -E ' (/proc|/dev/mqueue|/sys/fs/cgroup|/dev/shm|/sys) ' /proc/mounts; ls /proc/kcore -l")
        .await;
    for path in [" /proc ", " /dev/mqueue ", " /sys/fs/cgroup ", " /dev/shm ", " /sys "] {
        assert!(out.contains(path), "{path}: {out}");
    }
}

async fn rotates(mut node: Node) {
    let id = node.start("while :; do echo tick; sleep 0.1; done", |_| {}).await;
    node.settle().await;
    let path = node.log_path(&id).await;
    let old = path.with_extension("log.1");
    std::fs::rename(&path, &old).unwrap();
    node.runtime.reopen_log(&id).await.unwrap();
    node.settle().await;
    assert!(std::fs::read_to_string(&path).unwrap().contains("F tick"));
    assert!(std::fs::read_to_string(&old).unwrap().contains("F tick"));
}

async fn images(mut node: Node) {
    let name = node.image.clone();
    let found = node.runtime.image(&name).await.unwrap().unwrap();
    assert!(found.tags.contains(&name) && found.pinned && found.size > 0, "{found:?}");
    assert!(found.digests.iter().all(|digest| digest.contains("@sha256:")) && !found.digests.is_empty());
    assert_eq!(node.runtime.image(&found.id).await.unwrap().unwrap(), found);
    assert_eq!(node.runtime.image(&found.digests[0]).await.unwrap().unwrap(), found);
    assert!(node.runtime.image("absent/image:1").await.unwrap().is_none());
    assert!(matches!(node.runtime.image("Not An Image").await, Err(RuntimeError::InvalidReference { .. })));
    let id = node.create(|_| {}).await;
    let container = node.runtime.container(&id).await.unwrap().unwrap();
    assert_eq!((container.image, container.image_id), (name.clone(), found.digests[0].clone()));
    node.runtime.remove_container(&id).await.unwrap();
    assert_eq!(node.runtime.images().await.unwrap(), vec![found.clone()]);
    let error = node.runtime.pull_image("127.0.0.1:1/none:1", &[]).await.unwrap_err().to_string();
    assert!(error.contains("failed to pull and unpack image"), "{error}");
    assert!(matches!(node.runtime.pull_image("Invalid Name", &[]).await, Err(RuntimeError::InvalidReference { .. })));
    node.runtime.remove_image(&name).await.unwrap();
    node.runtime.remove_image(&name).await.unwrap();
    assert!(node.runtime.images().await.unwrap().is_empty());
    node.import().await;
}

async fn pulls(mut node: Node) {
    let registry = registry::serve(&node.archive).await;
    node.runtime.remove_image(&node.image).await.unwrap();
    let name = format!("{}/some/app:v1", registry.address);
    let image = node.runtime.pull_image(&name, &[]).await.map_err(|error| error.to_string()).unwrap();
    assert_eq!(image.tags, vec![name.clone()]);
    assert!(!image.pinned && image.digests.len() == 1, "{image:?}");
    assert!(registry.ranges() > 0, "nothing was resumed");
    assert_eq!(node.runtime.pull_image(&name, &[]).await.unwrap(), image);
    let by_digest = node.runtime.pull_image(&image.digests[0], &[]).await.unwrap();
    assert_eq!(by_digest, image);
    node.image = name;
    let id = node.start("echo pulled", |_| {}).await;
    assert_eq!(node.exit_code(&id).await, 0);

    let private = format!("{}/private/app:v1", registry.address);
    let error = node.runtime.pull_image(&private, &[]).await.unwrap_err().to_string();
    assert!(error.contains("authorization failed"), "{error}");
    let auth =
        |password: &str| RegistryAuth { username: "user".into(), password: password.into(), ..Default::default() };
    node.runtime.pull_image(&private, &[auth("wrong"), auth("secret")]).await.unwrap();
    let missing = format!("{}/some/app:absent", registry.address);
    let error = node.runtime.pull_image(&missing, &[]).await.unwrap_err().to_string();
    assert!(error.ends_with(&format!("failed to resolve reference {missing:?}: {missing}: not found")), "{error}");
    let changed = format!("{}/some/app@sha256:{}", registry.address, "0".repeat(64));
    assert!(node.runtime.pull_image(&changed, &[]).await.is_err());

    let mirrors = [("example.net".to_owned(), vec![format!("http://{}", registry.address)])].into();
    node.disconnect().await;
    node.reconnect_with(Options { registries: RegistryConfig { mirrors, ..Default::default() }, ..Options::new() })
        .await;
    let mirrored = node.runtime.pull_image("example.net/some/app:v1", &[]).await.unwrap();
    assert!(mirrored.tags.contains(&"example.net/some/app:v1".to_owned()), "{mirrored:?}");
}

async fn imports_saved(mut node: Node) {
    node.runtime.remove_image(&node.image).await.unwrap();
    let plain = node.scratch("saved").join("saved.tar");
    registry::save_as_docker(&node.archive, &plain, "library/saved:1");
    let zstd = plain.with_extension("tar.zst");
    std::fs::write(&zstd, zstd::encode_all(std::fs::File::open(&plain).unwrap(), 1).unwrap()).unwrap();
    for archive in [&plain, &zstd] {
        let names = node.runtime.import_images(archive).await.map_err(|e| base::chain(&e).to_string()).unwrap();
        assert_eq!(names, ["docker.io/library/saved:1"]);
        node.image = names[0].clone();
        let id = node.start("exit 9", |_| {}).await;
        assert_eq!(node.exit_code(&id).await, 9);
        node.runtime.remove_container(&id).await.unwrap();
        node.runtime.remove_image("saved:1").await.unwrap();
    }
    let scratch = node.state_dir().join("scratch");
    assert!(std::fs::read_dir(scratch).unwrap().next().is_none());
}

async fn host_namespaces(mut node: Node) {
    let pod = SandboxSpec { host_network: true, host_pid: true, host_ipc: true, ..node.pod("host") };
    node.use_sandbox(&pod).await;
    let id = node.start("sleep 1000", |_| {}).await;
    let (_, out, _) = node.exec(&id, "for n in net pid ipc uts; do readlink /proc/self/ns/$n; done").await;
    for (kind, found) in ["net", "pid", "ipc", "uts"].into_iter().zip(out.lines()) {
        let own = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_eq!(found, own.to_string_lossy(), "{kind}");
    }
}

async fn starts_quickly(mut node: Node) {
    let mut times = Vec::new();
    for n in 0..10 {
        let begun = std::time::Instant::now();
        let pod = node.pod(&format!("quick{n}"));
        let sandbox = node.runtime.create_sandbox(&pod).await.unwrap();
        let made = begun.elapsed();
        node.use_sandbox(&sandbox.spec).await;
        let id = node.create(|spec| spec.args = vec!["sleep 1000".into()]).await;
        let created = begun.elapsed();
        node.runtime.start_container(&id).await.unwrap();
        times.push((begun.elapsed(), created, made));
    }
    times.sort();
    println!("sandbox, container and start, created, sandbox: median {:.1?}, all {:.1?}", times[5], times);
    assert!(times[5].0 < Duration::from_secs(5));
    node.settle().await;
    let before = node.cpu_ticks();
    tokio::time::sleep(Duration::from_secs(10)).await;
    println!("idle with {} pods: {} ticks of CPU in 10 s, {}", times.len(), node.cpu_ticks() - before, node.memory());
}

async fn many(node: Node) {
    let mut pods = tokio::task::JoinSet::new();
    for n in 0..12 {
        let mut node = node.beside();
        pods.spawn(async move {
            let pod = SandboxSpec { share_process_namespace: n % 3 == 0, ..node.pod(&format!("many{n}")) };
            node.use_sandbox(&pod).await;
            let mut ids = Vec::new();
            for _ in 0..2 {
                let script = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo line $i; done; sleep 1000";
                ids.push(node.start(script, |_| {}).await);
            }
            for id in &ids {
                let mut text = String::new();
                for _ in 0..200 {
                    text = node.log(id).await;
                    if text.contains("line 2000\n") {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                assert_eq!(text.lines().count(), 2000);
                let (code, out, _) = node.exec(id, "echo from the exec").await;
                assert_eq!((code, out.as_str()), (0, "from the exec\n"));
            }
            for id in &ids {
                node.runtime.stop_container(id, Duration::ZERO).await.unwrap();
                assert_eq!(node.exit_code(id).await, 137);
                node.runtime.remove_container(id).await.unwrap();
            }
            node.runtime.remove_sandbox(&SandboxId(pod.id)).await.unwrap();
        });
    }
    while let Some(done) = pods.join_next().await {
        done.unwrap();
    }
    assert!(node.runtime.containers().await.unwrap().is_empty());
    assert!(std::fs::read_dir(node.state_dir().join("containers")).unwrap().next().is_none());
    node.without_execs().await;
    // The node's own sandbox is still there.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours: Vec<&str> = mounts.lines().filter(|line| line.contains("/sandboxes/many")).collect();
    assert!(ours.is_empty(), "{ours:?}");
    assert_eq!(node.shims(), 0);
}

async fn sysctls_and_devices(mut node: Node) {
    let mut pod = node.pod("sysctls");
    pod.sysctls = [("kernel.shm_rmid_forced", "1"), ("net.core.somaxconn", "777")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    node.use_sandbox(&pod).await;
    let device = |path: &str, permissions: &str| Device {
        host_path: "/dev/null".into(),
        container_path: path.into(),
        permissions: permissions.into(),
    };
    let id = node
        .start("sleep 1000", |spec| {
            spec.devices = vec![device("/dev/mine", "rwm")];
            spec.env = vec![("A".into(), "b c".into())];
        })
        .await;
    let script = "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/core/somaxconn /proc/sys/net/ipv4/ip_unprivileged_port_start; [ -c /dev/mine ] && echo x > /dev/mine && echo $A";
    let (_, out, err) = node.exec(&id, script).await;
    assert_eq!(out, "1\n777\n0\nb c\n", "{err}");
    let mut bad = node.pod("bad-sysctl");
    bad.sysctls = [("net.core.no_such_thing".to_owned(), "1".to_owned())].into();
    let error = base::chain(&node.runtime.create_sandbox(&bad).await.unwrap_err()).to_string();
    assert!(error.contains("net.core.no_such_thing"), "{error}");
    assert!(node.runtime.sandboxes().await.unwrap().iter().all(|sandbox| sandbox.id.0 != bad.id));
}

async fn instances(mut node: Node) {
    let id = node.start("sleep 1000", |_| {}).await;
    let taken = node.try_connect("state").await.err().map(|error| base::chain(&error).to_string());
    assert!(taken.as_ref().is_some_and(|error| error.contains("another process uses it")), "{taken:?}");
    let other = node.try_connect("other-state").await.unwrap();
    assert!(other.containers().await.unwrap().is_empty());
    assert!(other.sandboxes().await.unwrap().is_empty());
    assert!(node.running(&id).await);
    // Images belong to the machine.
    assert_eq!(other.images().await.unwrap(), node.runtime.images().await.unwrap());
}

async fn reboot(mut node: Node) {
    // As the machine would: the processes, containerd's tasks and the state in memory are gone, its database is not.
    let id = node.start("sleep 1000", |_| {}).await;
    let created = node.create(|spec| spec.args = vec!["true".into()]).await;
    node.disconnect().await;
    std::fs::remove_file(node.state_dir().join("containers").join(&created.0).join("state.json")).unwrap();
    std::fs::remove_file(node.state_dir().join("containers").join(&id.0).join("state.json")).unwrap();
    node.kill_task(&id).await;
    node.reconnect().await;
    for id in [&id, &created] {
        let container = node.runtime.container(id).await.unwrap().unwrap();
        assert_eq!(container.status, ContainerStatus::Unknown);
        node.runtime.stop_container(id, Duration::from_secs(1)).await.unwrap();
        assert_eq!(node.exit_code(id).await, 255);
        node.runtime.remove_container(id).await.unwrap();
    }
}
