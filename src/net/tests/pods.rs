//! Two pods' namespaces attached to a real bridge.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use net::pods::{PodNetwork, PodNetworkConfig};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Makes a network namespace and pins it at `path`, as the runtime does for a pod.
fn make_netns(path: &Path) {
    std::fs::write(path, "").unwrap();
    let path = path.to_owned();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    })
    .join()
    .unwrap();
}

fn inside<T: Send + 'static>(path: &Path, work: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
    let namespace = std::fs::File::open(path).unwrap();
    std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}

#[tokio::test]
async fn pods_reach_each_other_and_a_restart_finds_them() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root to make network namespaces");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    make_netns(&a);
    make_netns(&b);
    let config = PodNetworkConfig {
        bridge: format!("skt{}", std::process::id() % 100_000),
        mtu: 1400,
        state_dir: dir.path().join("state"),
    };
    let network = PodNetwork::new(config.clone()).unwrap();
    assert!(network.ready().is_err());
    network.configure("10.213.7.0/24".parse().unwrap()).await.unwrap();
    network.configure("10.213.7.0/24".parse().unwrap()).await.unwrap();
    let first = network.attach("uid-a", &a).await.unwrap();
    let second = network.attach("uid-b", &b).await.unwrap();
    assert_eq!(network.attach("uid-a", &a).await.unwrap(), first, "attaching twice changes nothing");

    let (ready, listening) = std::sync::mpsc::channel();
    let server = inside(&b, move || {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).unwrap();
        ready.send(()).unwrap();
        let (mut stream, peer) = listener.accept().unwrap();
        stream.write_all(peer.ip().to_string().as_bytes()).unwrap();
    });
    listening.recv_timeout(Duration::from_secs(5)).unwrap();
    let client = inside(&a, move || {
        let target = SocketAddr::from((second, 8080));
        let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(5)).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    let seen = tokio::task::spawn_blocking(move || client.join().unwrap()).await.unwrap();
    server.join().unwrap();
    assert_eq!(seen, first.to_string());

    drop(network);
    let network = PodNetwork::new(config).unwrap();
    network.configure("10.213.7.0/24".parse().unwrap()).await.unwrap();
    assert_eq!(network.attachments().len(), 2);
    assert_eq!(network.attach("uid-b", &b).await.unwrap(), second);
    network.detach("uid-b").await.unwrap();
    network.detach("uid-b").await.unwrap();
    network.remove_all().await.unwrap();
    assert!(network.attachments().is_empty());
    for pin in [a, b] {
        umount2(&pin, MntFlags::MNT_DETACH).unwrap();
    }
}
