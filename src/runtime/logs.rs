//! Container output: from the shim's FIFOs to the CRI log file and to whoever is attached.
//!
//! The shim opens both ends of each FIFO, so a container whose reader (we) goes away just fills the pipe and then waits;
//! it gets no SIGPIPE, and what the pipe holds is read after a restart. An idle stream costs one task and no buffer.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{SharedClock, Shutdown};
use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

/// Longest line kept in one record, as containerd's `max_container_log_line_size`.
const LINE_BYTES_MAX: usize = 16 * 1024;
/// Bytes read from a FIFO at once.
const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks an attached reader may be behind by before the container waits for it.
const ATTACH_QUEUE: usize = 64;
/// How long a container waits for an attached reader that does not read; then that reader is cut off.
const ATTACH_PATIENCE: Duration = Duration::from_secs(10);

/// Which of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The log file of one container and its attached readers.
pub struct ContainerLog {
    path: PathBuf,
    clock: SharedClock,
    file: Mutex<Option<File>>,
    attached: Mutex<Vec<(Stream, mpsc::Sender<Bytes>)>>,
    /// The last write failed; said once, not for every chunk.
    failing: AtomicBool,
}

impl ContainerLog {
    /// Opens the log, appending to what is there. An empty path keeps no log.
    pub fn open(path: &Path, clock: SharedClock) -> io::Result<Arc<Self>> {
        let file = open_log(path)?;
        Ok(Arc::new(Self {
            path: path.into(),
            clock,
            file: Mutex::new(file),
            attached: Mutex::default(),
            failing: AtomicBool::new(false),
        }))
    }

    /// Goes on in a new file under the same path: the old one was renamed.
    pub fn reopen(&self) -> io::Result<()> {
        let file = open_log(&self.path)?;
        *self.file.lock() = file;
        Ok(())
    }

    /// Everything that the stream prints from now on.
    pub fn attach(&self, stream: Stream) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(ATTACH_QUEUE);
        self.attached.lock().push((stream, sender));
        receiver
    }

    /// Appends whole records. Writing to the page cache does not block for long, and one write per chunk is cheaper than
    /// a trip through the blocking pool.
    ///
    /// A full disk must not stop the container: then its output is lost, and goes on being read.
    fn write(&self, records: &[u8]) {
        let written = match &mut *self.file.lock() {
            Some(file) => file.write_all(records),
            None => Ok(()),
        };
        let failed_before = self.failing.swap(written.is_err(), Ordering::Relaxed);
        match written {
            Err(error) if !failed_before => {
                tracing::warn!(log = %self.path.display(), %error, "cannot write a container's log");
            }
            Ok(()) if failed_before => tracing::info!(log = %self.path.display(), "a container's log is written again"),
            _ => {}
        }
    }

    async fn broadcast(&self, stream: Stream, chunk: &[u8]) {
        let targets: Vec<_> = {
            let mut attached = self.attached.lock();
            attached.retain(|(_, sender)| !sender.is_closed());
            attached.iter().filter(|(of, _)| *of == stream).map(|(_, sender)| sender.clone()).collect()
        };
        if targets.is_empty() {
            return;
        }
        let chunk = Bytes::copy_from_slice(chunk);
        for target in targets {
            if target.send_timeout(chunk.clone(), ATTACH_PATIENCE).await.is_err() {
                self.attached.lock().retain(|(_, sender)| !sender.same_channel(&target));
            }
        }
    }

    /// Ends the streams of those attached to `stream`.
    fn finish(&self, stream: Stream) {
        self.attached.lock().retain(|(of, _)| *of != stream);
    }
}

fn open_log(path: &Path) -> io::Result<Option<File>> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().create(true).append(true).mode(0o640).open(path).map(Some)
}

/// Reads one stream until its writers are gone or `shutdown`. Afterwards everything read is in the log. `adopted`: the
/// container was started by a former run of ours, so its writers may be gone already, which no readiness event tells.
pub async fn pump(log: Arc<ContainerLog>, stream: Stream, fifo: pipe::Receiver, shutdown: Shutdown, adopted: bool) {
    let mut framer = Framer::new(stream);
    let mut ended = adopted && {
        let first = read_some(|buffer| nix::unistd::read(&fifo, buffer).map_err(io::Error::from), &mut framer, &log);
        matches!(first, Ok(Some(chunk)) if chunk.is_empty())
    };
    while !ended {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            ready = fifo.readable() => if ready.is_err() { break },
        }
        match read_some(|buffer| fifo.try_read(buffer), &mut framer, &log) {
            Ok(Some(chunk)) if chunk.is_empty() => ended = true,
            Ok(Some(chunk)) => log.broadcast(stream, &chunk).await,
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(log = %log.path.display(), stream = stream.name(), %error, "cannot go on with a container's log");
                break;
            }
        }
    }
    let rest = framer.rest(log.clock.now());
    log.write(&rest);
    log.finish(stream);
}

/// One read and its log records. Synchronous, so that an idle stream holds no buffer. `None`: nothing there after all;
/// an empty chunk: the end. Chunks are only copied out when somebody is attached.
fn read_some(
    read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    framer: &mut Framer,
    log: &ContainerLog,
) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = [0u8; CHUNK_BYTES];
    let length = match read(&mut buffer) {
        Ok(0) => return Ok(Some(Vec::new())),
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(error),
    };
    let chunk = &buffer[..length];
    let records = framer.push(chunk, log.clock.now());
    log.write(&records);
    let attached = log.attached.lock().iter().any(|(of, _)| *of == framer.stream);
    Ok(if attached { Some(chunk.to_vec()) } else { None })
}

/// Cuts a byte stream into CRI log records: `<time> <stream> <F|P> <line>`
/// (containerd's `internal/cri/io/logger.go`, `redirectLogs`).
struct Framer {
    stream: Stream,
    /// The beginning of a line whose end was not read yet. Holds no memory while a stream is between lines.
    partial: Vec<u8>,
}

impl Framer {
    fn new(stream: Stream) -> Self {
        Self { stream, partial: Vec::new() }
    }

    /// The records that `chunk` completes.
    fn push(&mut self, chunk: &[u8], now: Timestamp) -> Vec<u8> {
        let mut out = Vec::with_capacity(chunk.len() + 64);
        let mut lines = chunk.split(|byte| *byte == b'\n').peekable();
        while let Some(line) = lines.next() {
            let complete = lines.peek().is_some();
            let mut line = line;
            while self.partial.len() + line.len() > LINE_BYTES_MAX {
                let (head, tail) = line.split_at(LINE_BYTES_MAX - self.partial.len());
                self.record(&mut out, b'P', head, now);
                line = tail;
            }
            match complete {
                true => self.record(&mut out, b'F', line, now),
                false => self.partial.extend_from_slice(line),
            }
        }
        out
    }

    /// A line without its end, once no more can come.
    fn rest(&mut self, now: Timestamp) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.partial.is_empty() {
            self.record(&mut out, b'P', b"", now);
        }
        out
    }

    fn record(&mut self, out: &mut Vec<u8>, tag: u8, line: &[u8], now: Timestamp) {
        out.extend_from_slice(format!("{now:.9} {} ", self.stream.name()).as_bytes());
        out.extend_from_slice(&[tag, b' ']);
        out.append(&mut std::mem::take(&mut self.partial));
        out.extend_from_slice(line);
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2016-10-06T00:17:09.669794202Z";

    fn records(chunks: &[&[u8]]) -> String {
        let mut framer = Framer::new(Stream::Stdout);
        let now = TIME.parse().unwrap();
        let mut out = Vec::new();
        for chunk in chunks {
            out.extend(framer.push(chunk, now));
        }
        out.extend(framer.rest(now));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_become_records() {
        fn check(chunks: &[&[u8]], expected: &[&str]) {
            let expected: String = expected.iter().map(|record| format!("{TIME} stdout {record}\n")).collect();
            assert_eq!(records(chunks), expected, "{chunks:?}");
        }
        check(&[b"one\ntwo\n"], &["F one", "F two"]);
        check(&[b"on", b"e\n\n"], &["F one", "F "]);
        check(&[b"prompt> "], &["P prompt> "]);
        check(&[], &[]);
    }

    #[test]
    fn whole_seconds_keep_nine_digits() {
        let mut framer = Framer::new(Stream::Stderr);
        let out = framer.push(b"x\n", Timestamp::UNIX_EPOCH);
        assert_eq!(String::from_utf8(out).unwrap(), "1970-01-01T00:00:00.000000000Z stderr F x\n");
    }

    #[test]
    fn long_lines_are_cut() {
        let long = vec![b'a'; LINE_BYTES_MAX + 5];
        let text = records(&[&long[..10_000], &long[10_000..], b"\n"]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].len(), TIME.len() + " stdout P ".len() + LINE_BYTES_MAX);
        assert!(lines[1].ends_with("stdout F aaaaa"));
        let exact = records(&[&long[..LINE_BYTES_MAX], b"\n"]);
        assert_eq!(exact.lines().count(), 1);
        assert!(exact.contains(" F "));
    }

    #[tokio::test]
    async fn a_fifo_is_logged_and_broadcast_until_its_writer_closes() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("stdout");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let receiver = pipe::OpenOptions::new().open_receiver(&fifo).unwrap();
        let log = ContainerLog::open(&dir.path().join("0.log"), Arc::new(base::SystemClock)).unwrap();
        let mut attached = log.attach(Stream::Stdout);
        let task = tokio::spawn(pump(log.clone(), Stream::Stdout, receiver, Shutdown::new(), false));
        let mut writer = OpenOptions::new().write(true).open(&fifo).unwrap();
        writer.write_all(b"hello\n").unwrap();
        drop(writer);
        assert_eq!(attached.recv().await.unwrap(), "hello\n");
        assert_eq!(attached.recv().await, None);
        task.await.unwrap();
        assert!(std::fs::read_to_string(dir.path().join("0.log")).unwrap().ends_with(" stdout F hello\n"));
    }
}
