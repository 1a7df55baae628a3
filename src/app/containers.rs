//! The connection to containerd: a running one, or one of our own.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use base::{SharedClock, Shutdown};
use runtime::containerd::child::{self, ChildOptions};
use runtime::containerd::{ContainerdRuntime, Options};

use crate::layout::Layout;

/// How a containerd of our own is run.
pub fn child_options(layout: &Layout) -> ChildOptions {
    let home = layout.containerd();
    ChildOptions {
        binary_dir: None,
        root: home.join("root"),
        state: layout.containerd_state(),
        log: home.join("containerd.log"),
    }
}

/// Connects to the containerd at `socket`, or starts one (or finds the one that an earlier run started).
pub async fn connect(
    socket: Option<&Path>,
    registries: &Path,
    layout: &Layout,
    clock: &SharedClock,
    shutdown: &Shutdown,
) -> anyhow::Result<Arc<ContainerdRuntime>> {
    let socket = match socket {
        Some(socket) => socket.to_owned(),
        None => child::ensure(child_options(layout), shutdown.clone()).await.context("cannot start containerd")?,
    };
    open(&socket, registries, layout, clock, shutdown).await
}

/// Connects to a containerd that runs.
pub async fn open(
    socket: &Path,
    registries: &Path,
    layout: &Layout,
    clock: &SharedClock,
    shutdown: &Shutdown,
) -> anyhow::Result<Arc<ContainerdRuntime>> {
    let options = Options {
        clock: clock.clone(),
        registries: crate::registries::load(registries)?,
        // The state is in memory; volumes that images declare must not be.
        data_dir: Some(layout.containerd()),
        ..Options::new()
    };
    let runtime = ContainerdRuntime::connect(socket.to_owned(), layout.runtime_state(), options, shutdown.clone());
    runtime.await.with_context(|| {
        format!("cannot use containerd at {}: is it running? (systemctl start containerd)", socket.display())
    })
}
