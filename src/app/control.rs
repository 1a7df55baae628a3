//! A socket by which commands reach the running server: `skiff snapshot save`, `skiff secrets-encrypt`.
//!
//! One request and one answer a connection, each a line of JSON. The socket is its owner's only.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use base::{SharedClock, Shutdown};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::encryption::Encryption;
use crate::snapshots::Snapshots;

/// A longer request is none of ours.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;
/// Connections served at once; more wait.
const CONNECTIONS_MAX: usize = 8;

/// What a command may ask.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    SnapshotSave { name: String },
    EncryptionStatus,
    EncryptionRotate,
    EncryptionReencrypt,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    /// What to print.
    Done(String),
    Failed(String),
}

/// What the requests work on.
pub struct Control {
    pub snapshots: Arc<Snapshots>,
    pub encryption: Option<Arc<Encryption>>,
    pub clock: SharedClock,
}

impl Control {
    async fn handle(&self, request: Request) -> anyhow::Result<String> {
        let encryption = || {
            let none =
                "nothing is encrypted: start the server with --secrets-encryption or --encryption-provider-config";
            self.encryption.as_ref().filter(|encryption| encryption.is_on()).context(none)
        };
        Ok(match request {
            Request::SnapshotSave { name } => {
                let (name, copied) = self.snapshots.save(&name).await?;
                format!("{name}: {} keys at revision {}, {} bytes", copied.keys, copied.revision.0, copied.size)
            }
            Request::EncryptionStatus => {
                let census = encryption()?.census().await?;
                format!(
                    "{} values are encrypted as they should be, {} are to be written anew, {} cannot be read",
                    census.current, census.stale, census.unreadable
                )
            }
            Request::EncryptionRotate => {
                let written = encryption()?.rotate(self.clock.as_ref()).await?;
                format!("a new key is in use; {written} values were written anew and the old keys are gone")
            }
            Request::EncryptionReencrypt => {
                let written = encryption()?.reencrypt().await?;
                format!("{written} values were written anew")
            }
        })
    }
}

/// Opens the socket. One that an earlier server left is replaced: the data folder's lock says that it is gone.
pub fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let named = || format!("cannot listen on {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(named)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).with_context(named),
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(named)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).with_context(named)?;
    Ok(listener)
}

/// Serves until `shutdown`.
pub async fn serve(listener: UnixListener, path: PathBuf, control: Control, shutdown: Shutdown) {
    let control = Arc::new(control);
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(_ended) = running.join_next() => {}
            accepted = listener.accept(), if running.len() < CONNECTIONS_MAX => {
                if let Ok((stream, _)) = accepted {
                    let control = control.clone();
                    running.spawn(async move {
                        if let Err(error) = answer(stream, &control).await {
                            tracing::debug!(error = format!("{error:#}"), "a command went away");
                        }
                    });
                }
            }
        }
    }
    running.shutdown().await;
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::debug!(path = %path.display(), %error, "could not remove the control socket");
    }
}

async fn answer(stream: UnixStream, control: &Control) -> anyhow::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(REQUEST_BYTES_MAX)).read_line(&mut line).await?;
    let done = match serde_json::from_str::<Request>(&line) {
        Ok(request) => control.handle(request).await,
        Err(error) => Err(error).context("the server does not know this request"),
    };
    let answer = match done {
        Ok(text) => Answer::Done(text),
        Err(error) => Answer::Failed(format!("{error:#}")),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    write.write_all(&text).await?;
    write.shutdown().await?;
    Ok(())
}

/// Asks the running server; `None` if none runs.
pub async fn ask(path: &Path, request: &Request) -> anyhow::Result<Option<String>> {
    let Ok(stream) = UnixStream::connect(path).await else { return Ok(None) };
    let (read, mut write) = stream.into_split();
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    write.write_all(&text).await.context("the server went away")?;
    let mut line = String::new();
    BufReader::new(read).read_line(&mut line).await.context("the server went away")?;
    match serde_json::from_str(&line).context("the server went away before it answered")? {
        Answer::Done(text) => Ok(Some(text)),
        Answer::Failed(why) => bail!("{why}"),
    }
}
