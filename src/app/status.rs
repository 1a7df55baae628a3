//! `skiff status`: the server, its node and what does not run.

use client::k8s_openapi::api::core::v1::{Node, Pod};
use client::{Client, ListParams};
use http::Method;

use crate::layout::Layout;
use crate::members;
use crate::options::ClientOptions;

/// Prints a few lines; `false` if the server does not answer or a node is not ready.
pub async fn run(options: &ClientOptions) -> anyhow::Result<bool> {
    let layout = Layout::new(&options.data_dir);
    let path = layout.admin_kubeconfig();
    if !path.exists() {
        println!("server   no server has run with {}", options.data_dir.display());
        return Ok(false);
    }
    let client = Client::remote(&path).await?;
    match client.raw(Method::GET, "/readyz", "", Vec::new()).await {
        Ok(_) => println!("server   ready"),
        Err(error) => {
            println!("server   not ready: {}", base::chain(&error));
            return Ok(false);
        }
    }
    let mut good = match members::cluster_of(&layout).await {
        Ok(Some(cluster)) => members::print_health(&cluster).await?,
        Ok(None) => true,
        Err(error) => {
            println!("etcd     {error:#}");
            false
        }
    };
    for node in client.list::<Node>("", &ListParams::default()).await? {
        let name = node.metadata.name.unwrap_or_default();
        let conditions = node.status.and_then(|s| s.conditions).unwrap_or_default();
        match conditions.iter().find(|c| c.type_ == "Ready") {
            Some(ready) if ready.status == "True" => println!("node     {name}: ready"),
            Some(ready) => {
                good = false;
                println!("node     {name}: not ready: {}", ready.message.as_deref().unwrap_or("no reason given"));
            }
            None => {
                good = false;
                println!("node     {name}: has not reported yet");
            }
        }
    }
    let pods = client.list::<Pod>("", &ListParams::default()).await?;
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
    let running = pods.iter().filter(|pod| matches!(phase(pod).as_str(), "Running" | "Succeeded")).count();
    println!("pods     {running} of {} running or done", pods.len());
    for pod in pods.iter().filter(|pod| !matches!(phase(pod).as_str(), "Running" | "Succeeded")) {
        let metadata = &pod.metadata;
        println!(
            "         {}/{}: {}",
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.name.as_deref().unwrap_or_default(),
            phase(pod)
        );
    }
    Ok(good)
}
