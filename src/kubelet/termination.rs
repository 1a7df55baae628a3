//! The message that a container leaves behind (upstream `kuberuntime_container.go` `getTerminationMessage`).

use std::path::Path;

use runtime::Container;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::logs;
use crate::names;

/// Bytes of a termination log that count.
pub const MAX_MESSAGE: u64 = 4096;
const MAX_LOG_BYTES: usize = 2048;
const MAX_LOG_LINES: usize = 80;

/// Reads the file mounted at the container's termination message path; with `FallbackToLogsOnError`, the end of the
/// log when that is empty and the container failed.
pub async fn message(container: &Container, code: i32, reason: &str) -> String {
    let note = |key: &str| container.annotations.get(key).map(String::as_str).unwrap_or_default();
    let file = note(names::TERMINATION_LOG_FILE);
    let mut text = String::new();
    if !file.is_empty() {
        match tail_bytes(Path::new(file), MAX_MESSAGE).await {
            Ok(bytes) => text = String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return format!("Error on reading termination log {file}: {error}"),
        }
    }
    let fall_back = note(names::TERMINATION_MESSAGE_POLICY) == "FallbackToLogsOnError";
    if text.is_empty() && fall_back && (code != 0 || reason == "ContainerCannotRun") {
        return match logs::tail_text(&container.log_path, MAX_LOG_LINES, MAX_LOG_BYTES).await {
            Ok(tail) => tail,
            Err(error) => {
                format!("Error on reading termination message from logs: {error}")
            }
        };
    }
    text
}

async fn tail_bytes(path: &Path, max: u64) -> std::io::Result<Vec<u8>> {
    let mut file = tokio::fs::File::open(path).await?;
    let length = file.metadata().await?.len();
    if length > max {
        file.seek(std::io::SeekFrom::Start(length - max)).await?;
    }
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes).await?;
    Ok(bytes)
}
