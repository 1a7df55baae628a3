//! Exec and attach: the streams of a process in a container.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use containerd_client::services::v1 as services;
use prost_types::Any;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

use super::ContainerdRuntime;
use super::connection::{CallError, Connection};
use super::lifecycle::{failed, make_fifo, path_text};
use super::record::{Entry, State};
use crate::contract::*;
use crate::files;
use crate::logs::Stream;
use crate::spec::PROCESS_TYPE_URL;

/// Resizes that may wait; only the newest counts, so a full queue drops nothing of worth.
const RESIZE_QUEUE: usize = 4;
const SIGKILL: u32 = 9;

impl ContainerdRuntime {
    pub(super) async fn start_exec(&self, id: &ContainerId, spec: &ExecSpec) -> Result<Session, RuntimeError> {
        let entry = self.entry(id)?;
        if !entry.state().is_running() {
            return Err(failed("exec in container", &id.0, "container is not running"));
        }
        let exec = uuid::Uuid::new_v4().simple().to_string();
        let dir = ExecDir(self.state_dir.join("exec").join(&exec));
        std::fs::create_dir_all(&dir.0).map_err(|error| failed("make the pipes of an exec in", &id.0, error))?;
        let streams =
            Streams::open(&dir.0, spec).map_err(|error| failed("make the pipes of an exec in", &id.0, error))?;
        let process = self.exec_process(&entry, spec).await?;
        let fifo = |name: &str, wanted: bool| if wanted { path_text(&dir.0.join(name)) } else { String::new() };
        let request = services::ExecProcessRequest {
            container_id: id.0.clone(),
            stdin: fifo("stdin", spec.stdin),
            stdout: fifo("stdout", true),
            stderr: fifo("stderr", !spec.tty),
            terminal: spec.tty,
            spec: Some(process),
            exec_id: exec.clone(),
        };
        let created = self.connection.tasks().exec(request).await;
        created.map_err(|status| self.start_failed("failed to create exec", status))?;
        let process = Process { connection: self.connection.clone(), container: id.0.clone(), exec };
        // Asked before the start, so that no end is missed.
        let (ended_sender, ended) = oneshot::channel();
        self.tasks.spawn(process.clone().wait(ended_sender));
        let start = services::StartRequest { container_id: id.0.clone(), exec_id: process.exec.clone() };
        if let Err(status) = self.connection.tasks().start(start).await {
            let what = format!("failed to start exec {:?}", process.exec);
            process.delete().await;
            return Err(self.start_failed(&what, status));
        }
        let (resize, sizes) = mpsc::channel(RESIZE_QUEUE);
        let (exit_sender, exit) = oneshot::channel();
        let stdin =
            streams.stdin(&process, &self.tasks).map_err(|error| failed("write to an exec in", &id.0, error))?;
        self.tasks.spawn(supervise(process, ended, sizes, exit_sender, dir));
        Ok(Session { stdin, stdout: streams.stdout, stderr: streams.stderr, resize, exit })
    }

    /// The container's own process with other arguments: same user, environment, folder and rights.
    async fn exec_process(&self, entry: &Entry, spec: &ExecSpec) -> Result<Any, RuntimeError> {
        let id = &entry.info.id;
        let request = services::GetContainerRequest { id: id.clone() };
        let found = self.connection.containers().get(request).await;
        let found = found.map_err(|status| self.connection.failed("find container", id, status))?.into_inner();
        let oci = found.container.and_then(|container| container.spec).unwrap_or_default();
        let oci: serde_json::Value =
            serde_json::from_slice(&oci.value).map_err(|error| failed("read the specification of", id, error))?;
        let mut process = oci.get("process").cloned().unwrap_or_default();
        let Some(fields) = process.as_object_mut() else {
            return Err(failed("read the specification of", id, "it has no process"));
        };
        fields.insert("args".into(), spec.command.clone().into());
        fields.insert("terminal".into(), spec.tty.into());
        if spec.tty
            && let Some(env) = fields.get_mut("env").and_then(|env| env.as_array_mut())
            && !env.iter().any(|entry| entry.as_str().is_some_and(|entry| entry.starts_with("TERM=")))
        {
            env.push("TERM=xterm".into());
        }
        let value = serde_json::to_vec(&process).map_err(|error| failed("encode an exec in", id, error))?;
        Ok(Any { type_url: PROCESS_TYPE_URL.into(), value })
    }

    pub(super) async fn start_attach(&self, id: &ContainerId) -> Result<Session, RuntimeError> {
        let entry = self.entry(id)?;
        let log = entry.io.lock().as_ref().map(|io| io.log.clone());
        let (true, Some(log)) = (entry.state().is_running(), log) else {
            return Err(failed("attach to container", &id.0, "container is not running"));
        };
        let stdout = Box::pin(ChunkReader::new(log.attach(Stream::Stdout))) as Reader;
        let stderr = (!entry.info.tty).then(|| Box::pin(ChunkReader::new(log.attach(Stream::Stderr))) as Reader);
        let process = Process { connection: self.connection.clone(), container: id.0.clone(), exec: String::new() };
        let stdin = match entry.info.stdin {
            true => {
                let fifo = match pipe::OpenOptions::new().open_sender(entry.dir.join("stdin")) {
                    Ok(fifo) => Some(fifo),
                    // The input was closed for good: output can be attached to all the same.
                    Err(error) if error.raw_os_error() == Some(libc::ENXIO) => None,
                    Err(error) => return Err(failed("write to container", &id.0, error)),
                };
                let closing = entry.info.stdin_once.then(|| close_later(&process, &self.tasks));
                Some(Box::pin(Stdin { fifo, closing }) as Writer)
            }
            false => None,
        };
        let (resize, mut sizes) = mpsc::channel(RESIZE_QUEUE);
        let (exit_sender, exit) = oneshot::channel::<i32>();
        self.tasks.spawn(async move {
            let mut exit_sender = exit_sender;
            let mut state = entry.watch();
            // It may have ended since it was looked at.
            state.mark_changed();
            let mut resizable = true;
            loop {
                tokio::select! {
                    biased;
                    () = exit_sender.closed() => return,
                    changed = state.changed() => {
                        let now = state.borrow_and_update().clone();
                        match now {
                            State::Running { .. } if changed.is_ok() => {}
                            State::Exited { code, .. } => {
                                // The client may be gone; nobody else wants to know.
                                let _ = exit_sender.send(code);
                                return;
                            }
                            _ => return,
                        }
                    }
                    size = sizes.recv(), if resizable => match size {
                        Some(size) => process.resize(size).await,
                        None => resizable = false,
                    },
                }
            }
        });
        Ok(Session { stdin, stdout: Some(stdout), stderr, resize, exit })
    }
}

/// Waits for the end of an exec, passing on resizes; kills it when nobody waits any more.
async fn supervise(
    process: Process,
    mut ended: oneshot::Receiver<Option<u32>>,
    mut sizes: mpsc::Receiver<(u16, u16)>,
    mut exit: oneshot::Sender<i32>,
    dir: ExecDir,
) {
    let mut wanted = true;
    let mut resizable = true;
    let code = loop {
        tokio::select! {
            biased;
            code = &mut ended => break code.ok().flatten(),
            () = exit.closed(), if wanted => {
                wanted = false;
                process.kill().await;
            }
            size = sizes.recv(), if resizable => match size {
                Some(size) => process.resize(size).await,
                None => resizable = false,
            },
        }
    };
    // Told before the deletion, which waits for whoever still holds the output.
    if let Some(code) = code {
        // Nobody waits after a kill.
        let _ = exit.send(i32::try_from(code).unwrap_or(255));
    }
    process.delete().await;
    drop(dir);
}

/// A process of a container; with an empty `exec`, its first one.
#[derive(Clone)]
struct Process {
    connection: Connection,
    container: String,
    exec: String,
}

impl Process {
    async fn wait(self, ended: oneshot::Sender<Option<u32>>) {
        let request = services::WaitRequest { container_id: self.container.clone(), exec_id: self.exec.clone() };
        let code = match self.connection.tasks().wait(request).await {
            Ok(waited) => Some(waited.into_inner().exit_status),
            Err(status) => {
                self.log("wait for", status);
                None
            }
        };
        // The exec may not have started after all.
        let _ = ended.send(code);
    }

    async fn kill(&self) {
        let request = services::KillRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            signal: SIGKILL,
            all: false,
        };
        if let Err(status) = self.connection.tasks().kill(request).await {
            self.log("kill", status);
        }
    }

    async fn resize(&self, (width, height): (u16, u16)) {
        let request = services::ResizePtyRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            width: width.into(),
            height: height.into(),
        };
        if let Err(status) = self.connection.tasks().resize_pty(request).await {
            self.log("resize", status);
        }
    }

    async fn delete(&self) {
        let request =
            services::DeleteProcessRequest { container_id: self.container.clone(), exec_id: self.exec.clone() };
        if let Err(status) = self.connection.tasks().delete_process(request).await {
            self.log("delete", status);
        }
    }

    async fn close_stdin(&self) {
        let request =
            services::CloseIoRequest { container_id: self.container.clone(), exec_id: self.exec.clone(), stdin: true };
        if let Err(status) = self.connection.tasks().close_io(request).await {
            self.log("close the input of", status);
        }
    }

    /// A process that is gone already is the usual reason, so this is no warning.
    fn log(&self, step: &'static str, status: tonic::Status) {
        let error = CallError::from(status);
        tracing::debug!(container = self.container, exec = self.exec, step, %error, "a call about a process failed");
    }
}

/// The folder of an exec's FIFOs, removed with it.
struct ExecDir(PathBuf);

impl Drop for ExecDir {
    fn drop(&mut self) {
        if let Err(error) = files::remove_dir_all(&self.0) {
            tracing::warn!(dir = %self.0.display(), %error, "cannot remove the pipes of an exec");
        }
    }
}

/// Our ends of an exec's FIFOs.
struct Streams {
    stdin_path: Option<PathBuf>,
    stdout: Option<Reader>,
    stderr: Option<Reader>,
}

impl Streams {
    fn open(dir: &Path, spec: &ExecSpec) -> std::io::Result<Self> {
        let reader = |name: &str| -> std::io::Result<Reader> {
            let path = dir.join(name);
            make_fifo(&path)?;
            Ok(Box::pin(pipe::OpenOptions::new().open_receiver(&path)?))
        };
        let stdin_path = match spec.stdin {
            true => {
                make_fifo(&dir.join("stdin"))?;
                Some(dir.join("stdin"))
            }
            false => None,
        };
        // The shim wants both outputs; one that nobody asked for is read and thrown away by whoever made the exec.
        let stdout = Some(reader("stdout")?);
        let stderr = if spec.tty { None } else { Some(reader("stderr")?) };
        let unwanted = |wanted: bool, reader: Option<Reader>| match (wanted, reader) {
            (true, reader) => reader,
            (false, Some(reader)) => {
                tokio::spawn(discard(reader));
                None
            }
            (false, None) => None,
        };
        Ok(Self { stdin_path, stdout: unwanted(spec.stdout, stdout), stderr: unwanted(spec.stderr, stderr) })
    }

    /// The input, which the shim reads since the start.
    fn stdin(&self, process: &Process, tasks: &tokio_util::task::TaskTracker) -> std::io::Result<Option<Writer>> {
        let Some(path) = &self.stdin_path else { return Ok(None) };
        // Read and write, so that opening succeeds whether or not the shim has opened its end yet.
        let fifo = pipe::OpenOptions::new().read_write(true).open_sender(path)?;
        Ok(Some(Box::pin(Stdin { fifo: Some(fifo), closing: Some(close_later(process, tasks)) })))
    }
}

async fn discard(mut reader: Reader) {
    // An error is an end, too.
    let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
}

/// Closes the process's input when the returned sender is dropped.
fn close_later(process: &Process, tasks: &tokio_util::task::TaskTracker) -> oneshot::Sender<()> {
    let (sender, dropped) = oneshot::channel::<()>();
    let process = process.clone();
    tasks.spawn(async move {
        // Being dropped is the signal.
        let _ = dropped.await;
        process.close_stdin().await;
    });
    sender
}

/// A FIFO that tells when the client has no more input.
struct Stdin {
    fifo: Option<pipe::Sender>,
    closing: Option<oneshot::Sender<()>>,
}

impl AsyncWrite for Stdin {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        match &mut self.fifo {
            Some(fifo) => Pin::new(fifo).poll_write(cx, bytes),
            None => Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        // First our end, then the shim's: what is in the pipe is still read before the end is seen.
        self.fifo = None;
        self.closing = None;
        Poll::Ready(Ok(()))
    }
}

/// Chunks as a byte stream.
struct ChunkReader {
    chunks: mpsc::Receiver<bytes::Bytes>,
    rest: bytes::Bytes,
}

impl ChunkReader {
    fn new(chunks: mpsc::Receiver<bytes::Bytes>) -> Self {
        Self { chunks, rest: bytes::Bytes::new() }
    }
}

impl AsyncRead for ChunkReader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        while self.rest.is_empty() {
            match self.chunks.poll_recv(cx) {
                Poll::Ready(Some(chunk)) => self.rest = chunk,
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
        let length = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest.split_to(length));
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn chunks_are_read_as_bytes() {
        let (sender, receiver) = mpsc::channel(4);
        for chunk in ["ab", "", "cde"] {
            sender.send(bytes::Bytes::from(chunk)).await.unwrap();
        }
        drop(sender);
        let mut text = String::new();
        ChunkReader::new(receiver).read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "abcde");
    }

    #[tokio::test]
    async fn closing_the_input_is_told_once_the_pipe_is_closed() {
        use tokio::io::AsyncWriteExt;
        let (fifo, mut reader) = pipe::pipe().unwrap();
        let (closing, told) = oneshot::channel();
        let mut stdin = Stdin { fifo: Some(fifo), closing: Some(closing) };
        stdin.write_all(b"x").await.unwrap();
        stdin.shutdown().await.unwrap();
        assert!(told.await.is_err());
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, b"x");
        assert!(stdin.write_all(b"y").await.is_err());
    }
}
