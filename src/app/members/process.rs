//! The process of this server's etcd member.
//!
//! A skiff that is killed leaves its member running: the member goes on voting, and the other servers notice nothing. The
//! next start finds it by the file `etcd.pid` beside its data and takes it over if it runs as this start would run it;
//! otherwise it is stopped in order first. An orderly stop of skiff stops the member too.

use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use base::{Backoff, Shutdown};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime::process::{ProcessEnd, reap};

/// How long a member may take to stop in order.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// A log of a run that went on and on is not kept for ever.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// A member that ran so long did not fail at its start.
const RAN_WELL: Duration = Duration::from_secs(60);

/// How the member is run.
pub(super) struct MemberProcess {
    pub binary: PathBuf,
    pub arguments: Vec<String>,
    /// Its data folder, as it stands in `arguments`.
    pub data: PathBuf,
    /// Where the process id is kept. Not in the data folder: etcd wants that for itself.
    pub pid_file: PathBuf,
    pub log: PathBuf,
}

/// A running member.
struct Running {
    pid: i32,
    end: ProcessEnd,
}

impl MemberProcess {
    /// Runs etcd and starts it again when it ends, until `shutdown`, or until `removed` says that there is no such member
    /// any more.
    pub async fn supervise<F: Future<Output = bool>>(self, removed: impl Fn() -> F, shutdown: Shutdown) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let mut adopted = self.take_over().await;
        let mut failures = 0;
        loop {
            let started = tokio::time::Instant::now();
            let running = match adopted.take() {
                Some(running) => Ok(running),
                None => self.start(),
            };
            match running {
                Ok(running) => {
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => {
                            self.stop(&running).await;
                            return;
                        }
                        () = running.end.ended() => reap(running.pid),
                    }
                    tracing::error!(log = %self.log.display(), "the etcd member ended: starting it again");
                }
                Err(error) => {
                    tracing::error!(binary = %self.binary.display(), %error, "cannot run the etcd member");
                }
            }
            if started.elapsed() > RAN_WELL {
                backoff.reset();
                failures = 0;
            }
            failures += 1;
            let pause = async {
                tokio::time::sleep(backoff.step()).await;
                // Asking may take a while, and most members that end just start again.
                failures > 1 && removed().await
            };
            let gone = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                gone = pause => gone,
            };
            if gone {
                tracing::error!(
                    data = %self.data.display(),
                    "this server's etcd member was removed from the cluster and is not started any more: to join again, \
                     stop the server, move this folder away and start with --server"
                );
                return;
            }
        }
    }

    /// The member that an earlier run left, if it runs as it should. One that runs otherwise is stopped.
    async fn take_over(&self) -> Option<Running> {
        let pid = std::fs::read_to_string(&self.pid_file).ok()?.trim().parse::<i32>().ok().filter(|pid| *pid > 1)?;
        // The process first and its command line then: if the id has gone to another, this one tells.
        let running = Running { pid, end: ProcessEnd::of(pid).ok()? };
        let found = command_line(pid)?;
        if !found.iter().any(|argument| *argument == format!("--data-dir={}", self.data.display())) {
            return None;
        }
        // What the cluster was made of matters only to a member without data.
        let matters = |argument: &&String| !argument.starts_with("--initial-");
        let same_binary = std::fs::read_link(format!("/proc/{pid}/exe")).ok() == self.binary.canonicalize().ok();
        if same_binary && found.iter().skip(1).filter(matters).eq(self.arguments.iter().filter(matters)) {
            tracing::info!(pid, "took over the etcd member that an earlier run left");
            return Some(running);
        }
        tracing::info!(pid, "stopping the etcd member that an earlier run left: it runs with other settings");
        self.stop(&running).await;
        None
    }

    fn start(&self) -> std::io::Result<Running> {
        let open = || std::fs::File::options().create(true).append(true).mode(0o600).open(&self.log);
        if std::fs::metadata(&self.log).is_ok_and(|meta| meta.len() > LOG_BYTES_MAX) {
            std::fs::remove_file(&self.log)?;
        }
        // In a process group of its own: a Ctrl-C is for skiff, which stops it in order.
        let child = Command::new(&self.binary)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(open()?)
            .stderr(open()?)
            .process_group(0)
            .spawn()?;
        let pid = i32::try_from(child.id()).map_err(std::io::Error::other)?;
        // It neither waits nor kills when dropped: it is waited for by its id, as one that was taken over.
        drop(child);
        let end = ProcessEnd::of(pid)?;
        pki::files::write(&self.pid_file, &pid.to_string(), pki::files::PRIVATE).map_err(std::io::Error::other)?;
        Ok(Running { pid, end })
    }

    async fn stop(&self, running: &Running) {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            if let Err(error) = kill(Pid::from_raw(running.pid), signal) {
                tracing::debug!(%error, "the etcd member has ended already");
            }
            if tokio::time::timeout(STOP_WITHIN, running.end.ended()).await.is_ok() {
                break;
            }
        }
        reap(running.pid);
        if let Err(error) = std::fs::remove_file(&self.pid_file) {
            tracing::debug!(%error, "cannot remove the file with the etcd member's process id");
        }
    }
}

fn command_line(pid: i32) -> Option<Vec<String>> {
    let bytes = std::fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).ok()?;
    let parts = bytes.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
    let mut parts: Vec<String> = parts.collect();
    // Every argument ends with a zero.
    parts.pop();
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that takes etcd's arguments and does nothing.
    fn member(dir: &Path, more: &str) -> MemberProcess {
        let data = dir.join("etcd");
        let arguments = vec![
            "-c".to_owned(),
            "while :; do sleep 0.2; done".to_owned(),
            format!("--data-dir={}", data.display()),
            more.to_owned(),
        ];
        let binary = ["/bin/bash", "/usr/bin/bash"].iter().map(PathBuf::from).find(|path| path.exists()).unwrap();
        MemberProcess { binary, arguments, data, pid_file: dir.join("etcd.pid"), log: dir.join("log") }
    }

    fn pid(member: &MemberProcess) -> i32 {
        std::fs::read_to_string(&member.pid_file).unwrap().trim().parse().unwrap()
    }

    #[tokio::test]
    async fn a_member_that_a_killed_run_left_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let first = member(dir.path(), "--initial-cluster=a");
        // As a killed run leaves it.
        let left = first.start().unwrap();
        let second = member(dir.path(), "--initial-cluster=b");
        let found = second.take_over().await.expect("it runs as it should");
        assert_eq!(found.pid, left.pid);
        second.stop(&found).await;
        left.end.ended().await;
        assert!(!second.pid_file.exists());
        assert!(second.take_over().await.is_none());
    }

    #[tokio::test]
    async fn a_member_with_other_settings_is_stopped_and_a_stranger_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let left = member(dir.path(), "--log-level=info").start().unwrap();
        assert!(member(dir.path(), "--log-level=warn").take_over().await.is_none());
        left.end.ended().await;

        let elsewhere = tempfile::tempdir().unwrap();
        let stranger = member(elsewhere.path(), "");
        let running = stranger.start().unwrap();
        let own = member(dir.path(), "");
        // The id has gone to another process.
        std::fs::write(&own.pid_file, pid(&stranger).to_string()).unwrap();
        assert!(own.take_over().await.is_none());
        assert!(command_line(running.pid).is_some_and(|line| !line.is_empty()), "a stranger was stopped");
        stranger.stop(&running).await;
    }

    #[tokio::test]
    async fn a_member_that_was_removed_is_not_started_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut removed = member(dir.path(), "");
        removed.arguments[1] = "exit 1".to_owned();
        let ended = removed.supervise(async || true, Shutdown::new());
        tokio::time::timeout(Duration::from_secs(20), ended).await.expect("it goes on");
    }
}
