//! `skiff image`: the node's images.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use base::{SharedClock, Shutdown, SystemClock};
use runtime::Runtime;

use crate::containers;
use crate::layout::Layout;
use crate::options::{ImageCommand, ImageOptions};

/// Carries out one command.
pub async fn run(options: ImageOptions) -> anyhow::Result<()> {
    let layout = Layout::new(&options.data_dir);
    let clock: SharedClock = Arc::new(SystemClock);
    let shutdown = Shutdown::new();
    let socket: PathBuf = match options.containerd {
        Some(socket) => socket,
        None => {
            let socket = containers::child_options(&layout).socket();
            if !socket.exists() {
                bail!(
                    "no containerd runs for {}: start skiff server first, or name a socket with --containerd",
                    options.data_dir.display()
                );
            }
            socket
        }
    };
    let runtime = containers::open(&socket, &options.private_registry, &layout, &clock, &shutdown).await?;
    match options.command {
        ImageCommand::Import { archives } => {
            for archive in archives {
                let names = runtime.import_images(&archive).await.with_context(|| archive.display().to_string())?;
                names.iter().for_each(|name| println!("{name}"));
            }
        }
        ImageCommand::List => {
            let mut rows: Vec<(String, String, u64)> = Vec::new();
            for image in runtime.images().await? {
                let id = image.id.trim_start_matches("sha256:").chars().take(13).collect::<String>();
                let names = if image.tags.is_empty() { image.digests.clone() } else { image.tags.clone() };
                rows.extend(names.into_iter().map(|name| (name, id.clone(), image.size)));
            }
            rows.sort();
            let width = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0).max(5);
            println!("{:width$}  {:13}  SIZE", "IMAGE", "ID");
            for (name, id, size) in rows {
                println!("{name:width$}  {id:13}  {:.1} MiB", size as f64 / 1_048_576.0);
            }
        }
        ImageCommand::Pull { references } => {
            for reference in references {
                let image = runtime.pull_image(&reference, &[]).await?;
                println!("{reference} {}", image.id);
            }
        }
        ImageCommand::Remove { references } => {
            for reference in references {
                runtime.remove_image(&reference).await?;
                println!("{reference} removed");
            }
        }
    }
    shutdown.cancel();
    Ok(())
}
