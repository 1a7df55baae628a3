//! Processes of others: waiting for the end of one, child or not.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// A process that can be waited for, child or not.
#[derive(Debug)]
pub struct ProcessEnd(AsyncFd<OwnedFd>);

impl ProcessEnd {
    /// Names the process that has this id now, also when the id is given to another one later.
    ///
    /// # Errors
    /// There is no such process. Needs a tokio runtime.
    pub fn of(pid: i32) -> io::Result<Self> {
        sys::watch_process(pid).map(Self)
    }

    /// Returns when the process has ended: its pidfd becomes readable.
    pub async fn ended(&self) {
        // An error here means that the event loop is gone, and with it whoever waits.
        let _ = self.0.readable().await;
    }
}

/// Collects the exit status, if it is our child.
pub fn reap(pid: i32) {
    // Not a child: it was started by a former run of ours, and its parent collects it.
    let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
}
