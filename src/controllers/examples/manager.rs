//! Runs the controllers against any API server: `manager KUBECONFIG [CONTROLLER...]`.
//!
//! They all use the kubeconfig's identity here; in skiff each has its own.

use std::path::Path;
use std::sync::Arc;

use base::{Shutdown, SystemClock};
use client::{Client, Informers};
use controllers::{ControllersConfig, Settings};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let mut arguments = std::env::args().skip(1);
    let kubeconfig = arguments.next().ok_or("usage: manager KUBECONFIG [CONTROLLER...]")?;
    let client = Client::remote(Path::new(&kubeconfig)).await?;
    let shutdown = Shutdown::new();
    let mut settings = Settings::new("-----BEGIN CERTIFICATE-----\n");
    settings.cluster_cidrs = vec!["10.244.0.0/16".parse()?];
    let config = ControllersConfig {
        client_for: Arc::new({
            let client = client.clone();
            move |_| client.clone()
        }),
        informers: Informers::new(client, shutdown.clone()),
        clock: Arc::new(SystemClock),
        settings,
        enabled: arguments.collect(),
    };
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    controllers::run(config, shutdown).await;
    Ok(())
}
