//! The log of events: one line each, in a file that is rotated by size (as lumberjack does for upstream), or on standard
//! output.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base::SharedClock;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::{SignedDuration, Timestamp};

use super::AuditError;

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Legacy,
}

/// Where the log is and how much of it is kept.
#[derive(Debug, Clone)]
pub struct FileOptions {
    /// `-` is standard output.
    pub path: PathBuf,
    pub format: Format,
    /// Days to keep rotated files; 0: for ever.
    pub age_days_max: u32,
    /// Rotated files to keep; 0: all.
    pub backups_max: usize,
    /// Bytes of the file before it is rotated; 0: never.
    pub size_max: u64,
    /// Rotated files are compressed.
    pub compress: bool,
}

/// The open log.
pub(super) struct Writer {
    options: FileOptions,
    clock: SharedClock,
    /// `None`: standard output.
    file: Option<(File, u64)>,
}

/// The time in a rotated file's name.
const STAMP: &str = "%Y-%m-%dT%H-%M-%S%.3f";

impl Writer {
    pub fn open(options: &FileOptions, clock: SharedClock) -> Result<Self, AuditError> {
        let file = if options.path == Path::new("-") { None } else { Some(open(&options.path)?) };
        Ok(Self { options: options.clone(), clock, file })
    }

    /// Appends lines; `false` if they could not be written.
    pub fn write(&mut self, lines: &[Bytes]) -> bool {
        let mut text = Vec::with_capacity(lines.iter().map(|line| line.len() + 1).sum());
        for line in lines {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        match self.append(&text) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(error = %base::chain(&error), "cannot write the audit log");
                false
            }
        }
    }

    fn append(&mut self, text: &[u8]) -> Result<(), AuditError> {
        let path = self.options.path.clone();
        let failed = |source| AuditError::File { step: "write the audit log", path: path.clone(), source };
        let length = text.len() as u64;
        let Some((_, size)) = &self.file else { return std::io::stdout().write_all(text).map_err(failed) };
        if self.options.size_max > 0 && *size > 0 && size + length > self.options.size_max {
            self.rotate()?;
        }
        if let Some((file, size)) = &mut self.file {
            file.write_all(text).map_err(failed)?;
            *size += length;
        }
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), AuditError> {
        let path = &self.options.path;
        let now = self.clock.now();
        let old = self.named(&now.strftime(STAMP).to_string());
        let failed = |source| AuditError::File { step: "rotate the audit log", path: path.clone(), source };
        std::fs::rename(path, &old).map_err(failed)?;
        self.file = Some(open(path)?);
        if self.options.compress {
            compress(&old).map_err(failed)?;
        }
        self.clean(now);
        Ok(())
    }

    /// `audit-2026-01-01T00-00-00.000.log` of `audit.log`.
    fn named(&self, stamp: &str) -> PathBuf {
        let (prefix, suffix) = self.affixes();
        self.options.path.with_file_name(format!("{prefix}{stamp}{suffix}"))
    }

    fn affixes(&self) -> (String, String) {
        let part = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
        let path = &self.options.path;
        let suffix = path.extension().map(|_| format!(".{}", part(path.extension()))).unwrap_or_default();
        (format!("{}-", part(path.file_stem())), suffix)
    }

    /// Removes rotated files that are too many or too old.
    fn clean(&self, now: Timestamp) {
        let folder = self.options.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let (prefix, suffix) = self.affixes();
        let mut old: Vec<(Timestamp, PathBuf)> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let name = path.file_name()?.to_str()?;
                let name = name.strip_suffix(".gz").unwrap_or(name);
                let stamp = name.strip_prefix(&prefix)?.strip_suffix(&suffix)?;
                let time = jiff::civil::DateTime::strptime(STAMP, stamp).ok()?;
                Some((time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp(), path))
            })
            .collect();
        old.sort_by(|a, b| b.cmp(a));
        let age_max = SignedDuration::from_hours(24 * i64::from(self.options.age_days_max));
        for (index, (time, path)) in old.iter().enumerate() {
            let too_many = self.options.backups_max > 0 && index >= self.options.backups_max;
            let too_old = self.options.age_days_max > 0 && now.duration_since(*time) > age_max;
            if (too_many || too_old)
                && let Err(error) = std::fs::remove_file(path)
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove an old audit log");
            }
        }
    }
}

/// Opens the log to append to it, with its size; folders are made as upstream makes them.
fn open(path: &Path) -> Result<(File, u64), AuditError> {
    let failed = |source| AuditError::File { step: "open the audit log", path: path.to_owned(), source };
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
            .create(folder)
            .map_err(failed)?;
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    Ok((file, size))
}

fn compress(path: &Path) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    let target = OpenOptions::new().create_new(true).write(true).mode(0o600).open(PathBuf::from(name))?;
    let mut encoder = GzEncoder::new(target, Compression::default());
    std::io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base::ManualClock;

    use super::*;

    #[test]
    fn the_log_is_rotated_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new("2026-01-01T00:00:00Z".parse().unwrap()));
        let options = FileOptions {
            path: dir.path().join("logs/audit.log"),
            format: Format::Json,
            age_days_max: 10,
            backups_max: 2,
            size_max: 10,
            compress: true,
        };
        let mut writer = Writer::open(&options, clock.clone()).unwrap();
        for line in ["first one", "second one", "third one", "fourth one"] {
            assert!(writer.write(&[Bytes::from_static(line.as_bytes())]));
            clock.advance(SignedDuration::from_secs(1));
        }
        let mut names: Vec<String> = std::fs::read_dir(dir.path().join("logs"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            ["audit-2026-01-01T00-00-02.000.log.gz", "audit-2026-01-01T00-00-03.000.log.gz", "audit.log"]
        );
        assert_eq!(std::fs::read_to_string(&options.path).unwrap(), "fourth one\n");
        clock.advance(SignedDuration::from_hours(24 * 11));
        assert!(writer.write(&[Bytes::from_static(b"a long line that does not fit")]));
        assert_eq!(std::fs::read_dir(dir.path().join("logs")).unwrap().count(), 2);
    }
}
