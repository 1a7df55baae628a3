//! Reading container logs in the CRI format: `<time> <stream> <P|F> <text>` lines (upstream `kuberuntime/logs`).

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader, SeekFrom};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

/// What of a log is wanted (`PodLogOptions`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    pub timestamps: bool,
    pub previous: bool,
    pub since: Option<Timestamp>,
    pub tail_lines: Option<u64>,
    pub limit_bytes: Option<u64>,
    /// `Stdout`, `Stderr`; `None` for both.
    pub stream: Option<String>,
}

/// One line of a log file, without its line feed unless it ended one.
struct Line<'a> {
    time: &'a str,
    stream: &'a str,
    partial: bool,
    text: &'a [u8],
}

fn parse(raw: &[u8]) -> Option<Line<'_>> {
    let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
    let mut parts = raw.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tag = parts.next()?;
    Some(Line { time, stream, partial: tag.starts_with(b"P"), text: parts.next().unwrap_or_default() })
}

/// Turns raw lines into what the reader gets, and counts the limit down.
struct Output {
    options: LogOptions,
    left: Option<u64>,
    /// The line before was partial: this one continues it, without a timestamp of its own.
    continues: bool,
}

impl Output {
    fn new(options: &LogOptions) -> Self {
        Self { options: options.clone(), left: options.limit_bytes, continues: false }
    }

    fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    fn add(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        let Some(line) = parse(raw) else { return };
        if let Some(since) = self.options.since
            && line.time.parse::<Timestamp>().is_ok_and(|t| t < since)
        {
            return;
        }
        if let Some(wanted) = &self.options.stream
            && !wanted.eq_ignore_ascii_case(line.stream)
        {
            return;
        }
        let start = out.len();
        if self.options.timestamps && !self.continues {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
        self.continues = line.partial;
        if let Some(left) = &mut self.left {
            let length = out.len() - start;
            let keep = usize::try_from(*left).unwrap_or(usize::MAX).min(length);
            out.truncate(start + keep);
            *left -= keep as u64;
        }
    }
}

/// Offset at which the last `lines` lines begin.
async fn tail_offset(file: &mut tokio::fs::File, lines: u64) -> std::io::Result<u64> {
    const BLOCK: u64 = 32 << 10;
    let length = file.metadata().await?.len();
    if lines == 0 {
        return Ok(length);
    }
    let mut end = length;
    let mut seen = 0;
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(start)).await?;
        block.clear();
        (&mut *file).take(end - start).read_to_end(&mut block).await?;
        for (i, byte) in block.iter().enumerate().rev() {
            let at = start + i as u64;
            // The feed that ends the file ends a line, and begins none.
            if *byte == b'\n' && at + 1 != length {
                seen += 1;
                if seen == lines {
                    return Ok(at + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

/// The last text of a log, for termination messages: at most so many lines and bytes.
pub async fn tail_text(path: &Path, lines: usize, max: usize) -> std::io::Result<String> {
    let mut file = tokio::fs::File::open(path).await?;
    let offset = tail_offset(&mut file, lines as u64).await?;
    file.seek(SeekFrom::Start(offset)).await?;
    let mut raw = Vec::new();
    file.read_to_end(&mut raw).await?;
    let mut output = Output::new(&LogOptions::default());
    let mut text = Vec::new();
    for line in raw.split_inclusive(|b| *b == b'\n') {
        output.add(line, &mut text);
    }
    let from = text.len().saturating_sub(max);
    Ok(String::from_utf8_lossy(&text[from..]).into_owned())
}

/// Streams a log into `sender` until its end, the limit, or the reader's departure. With `follow`, until `ended` says
/// that the container has stopped and everything written was read.
pub async fn stream(
    path: PathBuf,
    options: LogOptions,
    sender: mpsc::Sender<Bytes>,
    mut ended: impl FnMut() -> bool + Send,
) -> std::io::Result<()> {
    let mut file = tokio::fs::File::open(&path).await?;
    let offset = match options.tail_lines {
        Some(lines) => tail_offset(&mut file, lines).await?,
        None => 0,
    };
    file.seek(SeekFrom::Start(offset)).await?;
    let mut watcher = if options.follow { Some(Watcher::new(&path)?) } else { None };
    let mut output = Output::new(&options);
    let mut reader = BufReader::with_capacity(32 << 10, file);
    let mut raw = Vec::new();
    let mut chunk = Vec::new();
    let mut last_look = false;
    // Lines that come while these are read are not part of the tail (cri-client `ReadLogs`, its limited mode).
    let mut left = options.tail_lines.filter(|_| !options.follow);
    loop {
        if left == Some(0) && chunk.is_empty() {
            return Ok(());
        }
        let read = reader.read_until(b'\n', &mut raw).await?;
        let complete = raw.ends_with(b"\n");
        if complete {
            output.add(&raw, &mut chunk);
            raw.clear();
            left = left.map(|lines| lines.saturating_sub(1));
        }
        let flush = chunk.len() >= 16 << 10 || read == 0 || !complete || output.is_full() || left == Some(0);
        if flush && !chunk.is_empty() && sender.send(Bytes::from(std::mem::take(&mut chunk))).await.is_err() {
            return Ok(());
        }
        if output.is_full() {
            return Ok(());
        }
        if read > 0 && complete {
            continue;
        }
        let Some(watcher) = &mut watcher else { return Ok(()) };
        if watcher.was_rotated(&path, &reader).await {
            reader = BufReader::with_capacity(32 << 10, tokio::fs::File::open(&path).await?);
            raw.clear();
            continue;
        }
        if last_look {
            return Ok(());
        }
        if ended() {
            // What was written between the read above and the end is still to come.
            last_look = true;
            continue;
        }
        tokio::select! {
            biased;
            () = sender.closed() => return Ok(()),
            () = watcher.changed() => {}
        }
    }
}

/// Wakes when the log grows or is replaced, by inotify; and now and then, to see that the container has ended.
struct Watcher {
    /// The inotify descriptor; it is read like a pipe.
    inotify: pipe::Receiver,
}

impl Watcher {
    fn new(path: &Path) -> std::io::Result<Self> {
        use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        // Log pumps append to the file; rotation renames it within its folder.
        inotify.add_watch(folder, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)?;
        let descriptor = inotify.as_fd().try_clone_to_owned()?;
        Ok(Self { inotify: pipe::Receiver::from_owned_fd_unchecked(descriptor)? })
    }

    async fn changed(&mut self) {
        const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);
        // A container's end is no write: it is noticed on the next look.
        let ready = tokio::time::timeout(LOOK_AGAIN, self.inotify.readable()).await;
        if let Ok(Ok(())) = ready {
            let mut events = [0; 4096];
            while self.inotify.try_read(&mut events).is_ok_and(|n| n > 0) {}
        }
    }

    async fn was_rotated(&self, path: &Path, reader: &BufReader<tokio::fs::File>) -> bool {
        use std::os::unix::fs::MetadataExt;
        let open = reader.get_ref().metadata().await;
        let named = tokio::fs::metadata(path).await;
        match (open, named) {
            (Ok(open), Ok(named)) => open.ino() != named.ino(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr P tw\n\
                       2026-01-01T00:00:01Z stderr F o\n2026-01-01T00:00:02Z stdout F three\n";

    async fn read(options: LogOptions) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), LOG).unwrap();
        let (sender, mut receiver) = mpsc::channel(8);
        stream(file.path().to_owned(), options, sender, || true).await.unwrap();
        let mut out = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            out.extend_from_slice(&chunk);
        }
        String::from_utf8(out).unwrap()
    }

    #[tokio::test]
    async fn options_choose_what_is_read() {
        let all = LogOptions::default;
        assert_eq!(read(all()).await, "one\ntwo\nthree\n");
        assert_eq!(read(LogOptions { tail_lines: Some(1), ..all() }).await, "three\n");
        assert_eq!(read(LogOptions { tail_lines: Some(0), ..all() }).await, "");
        assert_eq!(read(LogOptions { tail_lines: Some(99), ..all() }).await, "one\ntwo\nthree\n");
        assert_eq!(read(LogOptions { limit_bytes: Some(5), ..all() }).await, "one\nt");
        assert_eq!(read(LogOptions { stream: Some("Stderr".into()), ..all() }).await, "two\n");
        let since = "2026-01-01T00:00:02Z".parse().ok();
        assert_eq!(read(LogOptions { since, timestamps: true, ..all() }).await, "2026-01-01T00:00:02Z three\n");
        assert_eq!(read(LogOptions { follow: true, ..all() }).await, "one\ntwo\nthree\n");
    }

    #[tokio::test]
    async fn the_tail_as_text_is_bounded() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), LOG).unwrap();
        assert_eq!(tail_text(file.path(), 1, 100).await.unwrap(), "three\n");
        assert_eq!(tail_text(file.path(), 80, 4).await.unwrap(), "ree\n");
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]

        #[test]
        fn no_log_line_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..100), text in "[0-9TZ:.-]{0,35} (stdout|stderr|) ?[PF:]{0,2} ?[ -~]{0,20}", limit in proptest::option::of(0u64..50)) {
            for raw in [bytes, text.into_bytes()] {
                let mut output = Output::new(&LogOptions { limit_bytes: limit, timestamps: true, ..LogOptions::default() });
                let mut out = Vec::new();
                output.add(&raw, &mut out);
                proptest::prop_assert!(limit.is_none_or(|limit| out.len() as u64 <= limit));
            }
        }
    }
}
