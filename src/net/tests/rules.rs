//! The kernel takes the transactions, and packets go where they should.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use client::k8s_openapi::api::core::v1::Service;
use client::k8s_openapi::api::discovery::v1::EndpointSlice;
use net::nft::{Change, Socket, TableConfig, transaction};
use net::services::{Input, Rules, plan_rules};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;

fn rules(endpoints: &[&str], affinity: &str) -> Rules {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {
            "clusterIP": "10.43.0.7", "type": "NodePort", "sessionAffinity": affinity,
            "ports": [
                {"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"},
                {"name": "none", "port": 81, "nodePort": 30081, "protocol": "TCP"},
            ],
        },
    }))
    .unwrap();
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": endpoints.iter().map(|a| json!({"addresses": [a]})).collect::<Vec<_>>(),
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }))
    .unwrap();
    let (services, slices) = ([Arc::new(service)], [Arc::new(slice)]);
    plan_rules(&Input { node_name: "a", zone: "", services: &services, slices: &slices, pods: &[], local: &[] })
}

fn services(rules: &Rules, fresh: bool) -> Change<'_> {
    Change { services: Some(rules), fresh, ..Change::default() }
}

fn ask(address: [u8; 4], port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address, port)), Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// In a network namespace of its own, where nothing else is disturbed.
#[test]
fn packets_reach_endpoints_or_are_refused() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root to make a network namespace");
        return;
    }
    std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            handle.link().set(rtnetlink::LinkUnspec::new_with_index(1).up().build()).execute().await.unwrap();
            let own = Ipv4Addr::new(192, 0, 2, 1).into();
            handle.address().add(1, own, 32).execute().await.unwrap();
            // Service addresses must be routed somewhere before they are rewritten.
            let route = rtnetlink::RouteMessageBuilder::<Ipv4Addr>::new().output_interface(1).build();
            handle.route().add(route).execute().await.unwrap();
        });
        for endpoint in ["127.0.0.2", "127.0.0.3"] {
            let listener = TcpListener::bind((endpoint, 8080)).unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    stream.unwrap().write_all(endpoint.as_bytes()).unwrap();
                }
            });
        }
        let config = TableConfig {
            table: "skiff-test".into(),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            service_cidr: "10.43.0.0/16".parse().unwrap(),
        };
        let socket = Socket::open().unwrap();
        let both = ["127.0.0.2", "127.0.0.3"];
        let (batch, chains) = transaction(&config, services(&rules(&both, "None"), true), &BTreeSet::new());
        socket.send(batch).unwrap();
        let answers: BTreeSet<String> = (0..40).map(|_| ask([10, 43, 0, 7], 80).unwrap()).collect();
        assert_eq!(answers.len(), 2, "{answers:?}");
        assert!(ask([127, 0, 0, 1], 30080).is_ok());
        for (address, port) in [([10, 43, 0, 7], 81), ([10, 43, 0, 9], 80), ([127, 0, 0, 1], 30081)] {
            let error = ask(address, port).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{address:?}:{port}");
        }

        let (batch, chains) = transaction(&config, services(&rules(&both, "ClientIP"), false), &chains);
        socket.send(batch).unwrap();
        let answers: BTreeSet<String> = (0..20).map(|_| ask([10, 43, 0, 7], 80).unwrap()).collect();
        assert_eq!(answers.len(), 1, "a client keeps its endpoint");
        let other = if answers.contains("127.0.0.2") { "127.0.0.3" } else { "127.0.0.2" };
        let (batch, chains) = transaction(&config, services(&rules(&[other], "ClientIP"), false), &chains);
        socket.send(batch).unwrap();
        assert_eq!(ask([10, 43, 0, 7], 80).unwrap(), other, "until the endpoint is gone");

        let (batch, chains) = transaction(&config, services(&rules(&[], "None"), false), &chains);
        socket.send(batch).unwrap();
        assert!(chains.is_empty());
        assert!(ask([10, 43, 0, 7], 80).is_err());
        net::nft::remove("skiff-test").unwrap();
        net::nft::remove("skiff-test").unwrap();
    })
    .join()
    .unwrap();
}
