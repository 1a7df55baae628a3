//! Rotation of container logs (upstream `kubelet/logs/container_log_manager.go`): a log that grew too long is renamed
//! and begun anew; older ones are compressed, the oldest removed.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::context::Context;

/// How often sizes are looked at.
const PERIOD: Duration = Duration::from_secs(10);
const COMPRESSED: &str = "gz";

/// Looks after the logs of running containers until cancelled.
pub async fn run(ctx: &Arc<Context>) {
    let mut interval = tokio::time::interval(PERIOD);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        for pod in ctx.cache.pods() {
            for container in ctx.cache.pod(&pod.uid).containers.iter().filter(|c| c.is_running()) {
                if let Err(error) = rotate(ctx, &container.id, &container.log_path).await {
                    tracing::warn!(path = %container.log_path.display(), error, "cannot rotate a log");
                }
            }
        }
    }
}

async fn rotate(ctx: &Context, id: &runtime::ContainerId, log: &Path) -> Result<(), String> {
    let length = match tokio::fs::metadata(log).await {
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    if length < ctx.config.container_log_max_size {
        return Ok(());
    }
    let keep = ctx.config.container_log_max_files.saturating_sub(2);
    let stamp = ctx.clock.now().strftime("%Y%m%d-%H%M%S").to_string();
    let log = log.to_owned();
    let renamed = tokio::task::spawn_blocking(move || make_room(&log, keep, &stamp).map(|new| (log, new)))
        .await
        .map_err(|e| e.to_string())?;
    let (log, renamed) = renamed.map_err(|e| e.to_string())?;
    if let Err(error) = ctx.runtime.reopen_log(id).await {
        // Without a new file the old one must keep its name, or what is written would be lost to readers.
        let back = tokio::fs::rename(&renamed, &log).await;
        return Err(format!("{}; renamed back: {back:?}", base::chain(&error)));
    }
    Ok(())
}

/// Compresses what was rotated before, removes the oldest, and renames the current log. Returns its new name.
fn make_room(log: &Path, keep: usize, stamp: &str) -> io::Result<PathBuf> {
    let mut old = rotated(log)?;
    // Stamps sort by time.
    old.sort();
    while old.len() > keep {
        std::fs::remove_file(old.remove(0))?;
    }
    for path in old.iter().filter(|p| p.extension().is_none_or(|e| e != COMPRESSED)) {
        compress(path)?;
    }
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{stamp}"));
    let renamed = PathBuf::from(name);
    std::fs::rename(log, &renamed)?;
    Ok(renamed)
}

/// Files that were rotated out of this log.
fn rotated(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(folder), Some(name)) = (log.parent(), log.file_name().and_then(|n| n.to_str())) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{name}.");
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            out.push(entry.path());
        }
    }
    Ok(out)
}

fn compress(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(COMPRESSED);
    let target = PathBuf::from(name);
    let unfinished = target.with_extension("tmp");
    let mut encoder = GzEncoder::new(std::fs::File::create(&unfinished)?, Compression::default());
    io::copy(&mut std::fs::File::open(path)?, &mut encoder)?;
    encoder.finish()?.flush()?;
    std::fs::rename(&unfinished, &target)?;
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_logs_are_compressed_and_the_oldest_removed() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        for i in 0..5 {
            std::fs::write(&log, format!("{i}")).unwrap();
            make_room(&log, 3, &format!("2026010{i}-000000")).unwrap();
        }
        let mut names: Vec<String> =
            rotated(&log).unwrap().into_iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect();
        names.sort();
        assert_eq!(
            names,
            [
                "0.log.20260101-000000.gz",
                "0.log.20260102-000000.gz",
                "0.log.20260103-000000.gz",
                "0.log.20260104-000000"
            ]
        );
    }
}
