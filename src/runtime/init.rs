//! The first process of a pod that shares its PID namespace.
//!
//! The binary runs itself as `skiff pod-init PATH…`: each PATH is a namespace to join (named by its file name: `net`,
//! `ipc`, `uts`). It makes the PID namespace, prints the host's pid of its first process and goes; that process reaps
//! orphans until it is told to end, as upstream's pause does. It must be called before any thread is started.
//!
//! The first process runs the binary once more, as `skiff pod-init` alone: containers of the pod see its command line,
//! which shall not show the host's paths, and the memory it was forked with is given back.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use crate::sys;

/// Name of the hidden sub-command.
pub const COMMAND: &str = "pod-init";

/// Runs the init with the arguments after [`COMMAND`]; the exit code of the process that was started. In the pod's first
/// process it returns when that process was told to end.
pub fn main(namespaces: &[String]) -> i32 {
    match run(namespaces) {
        Ok(()) => 0,
        Err(error) => {
            // There is no log here: the caller reads standard error.
            let _ = writeln!(io::stderr(), "{error}");
            1
        }
    }
}

fn run(namespaces: &[String]) -> io::Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        signals.add(signal);
    }
    // Blocked signals stay blocked across exec, so that none is lost on the way.
    signals.thread_block()?;
    if std::process::id() == 1 && namespaces.is_empty() {
        return reap_until_told(&signals);
    }
    for path in namespaces {
        let kind = match path.rsplit('/').next() {
            Some("net") => CloneFlags::CLONE_NEWNET,
            Some("ipc") => CloneFlags::CLONE_NEWIPC,
            Some("uts") => CloneFlags::CLONE_NEWUTS,
            _ => return Err(io::Error::other(format!("{path} names no kind of namespace"))),
        };
        setns(File::open(path)?.as_fd(), kind)?;
    }
    unshare(CloneFlags::CLONE_NEWPID)?;
    match sys::fork_single_threaded()? {
        ForkResult::Parent { child } => {
            let mut out = io::stdout();
            writeln!(out, "{child}")?;
            out.flush()
        }
        ForkResult::Child => {
            nix::unistd::setsid()?;
            let null = File::options().read(true).write(true).open("/dev/null")?;
            nix::unistd::dup2_stdin(&null)?;
            nix::unistd::dup2_stdout(&null)?;
            nix::unistd::dup2_stderr(&null)?;
            Err(Command::new("/proc/self/exe").arg0("skiff").arg(COMMAND).exec())
        }
    }
}

fn reap_until_told(signals: &SigSet) -> io::Result<()> {
    loop {
        match signals.wait()? {
            Signal::SIGCHLD => {
                while !matches!(
                    waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)),
                    Ok(WaitStatus::StillAlive) | Err(_)
                ) {}
            }
            _ => return Ok(()),
        }
    }
}
