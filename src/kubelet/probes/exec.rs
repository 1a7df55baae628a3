//! Probing by a command in the container.

use std::time::Duration;

use runtime::{ContainerId, ExecSpec};
use tokio::io::AsyncReadExt;

use super::{MAX_OUTPUT, Outcome};
use crate::context::Context;

/// What a command printed and how it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    pub code: i32,
    pub bytes: Vec<u8>,
}

impl Output {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Reads to the end, keeping the beginning.
async fn drain(reader: Option<runtime::Reader>) -> Vec<u8> {
    let Some(mut reader) = reader else { return Vec::new() };
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    // A stream that breaks off has said what it had to say.
    while let Ok(n) = reader.read(&mut buffer).await {
        if n == 0 {
            break;
        }
        let room = MAX_OUTPUT.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..n.min(room)]);
    }
    kept
}

/// Runs a command in a container and waits for its end.
pub async fn run(ctx: &Context, id: &ContainerId, command: Vec<String>) -> Result<Output, String> {
    let spec = ExecSpec { command, stdout: true, stderr: true, ..ExecSpec::default() };
    let session = ctx.runtime.exec(id, &spec).await.map_err(|e| base::chain(&e).to_string())?;
    let runtime::Session { stdin, stdout, stderr, resize, exit } = session;
    drop((stdin, resize));
    let (mut bytes, errors, code) = tokio::join!(drain(stdout), drain(stderr), exit);
    bytes.extend_from_slice(&errors);
    bytes.truncate(MAX_OUTPUT);
    let code = code.map_err(|_| "the container runtime went away".to_owned())?;
    Ok(Output { code, bytes })
}

pub async fn probe(ctx: &Context, id: &ContainerId, command: Vec<String>, timeout: Duration) -> Outcome {
    let shown = command.join(" ");
    match tokio::time::timeout(timeout, run(ctx, id, command)).await {
        Ok(Ok(output)) if output.code == 0 => Outcome::Success,
        Ok(Ok(output)) => Outcome::Failure(output.text()),
        Ok(Err(error)) => Outcome::Error(error),
        Err(_) => Outcome::Failure(format!("command timed out: {shown:?} timed out after {}s", timeout.as_secs())),
    }
}
