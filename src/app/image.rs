//! `skiff image`: the node's images.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use base::{SharedClock, SystemClock};
use runtime::ImageStore;

use crate::containers;
use crate::layout::Layout;
use crate::options::{ImageCommand, ImageOptions};

/// Carries out one command.
pub async fn run(options: ImageOptions) -> anyhow::Result<()> {
    let layout = Layout::new(&options.data_dir);
    let clock: SharedClock = Arc::new(SystemClock);
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
    // Not the whole runtime: its state belongs to the server that runs.
    let images = ImageStore::at(&socket, clock);
    let registries = crate::registries::load(&options.private_registry)?;
    match options.command {
        ImageCommand::Import { archives } => {
            for archive in archives {
                let names = images
                    .import(&archive, &layout.containerd().join("scratch"))
                    .await
                    .with_context(|| archive.display().to_string())?;
                names.iter().for_each(|name| println!("{name}"));
            }
        }
        ImageCommand::List => {
            let mut rows: Vec<(String, String, u64)> = Vec::new();
            for image in images.images().await? {
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
                let image = images.pull(&reference, &[], &registries).await?;
                println!("{reference} {}", image.id);
            }
        }
        ImageCommand::Remove { references } => {
            for reference in references {
                images.remove(&reference).await?;
                println!("{reference} removed");
            }
        }
    }
    Ok(())
}
