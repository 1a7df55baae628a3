//! The one place with `unsafe`: telling the reactor of a file descriptor that it does not own, and the allocator how to behave.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::sys::inotify::Inotify;
use tokio::io::unix::AsyncFd;

/// inotify in the form that tokio takes. Owns the descriptor and never gives it away.
pub struct Watcher(Inotify);

impl Watcher {
    /// Takes what has happened; `WouldBlock` if nothing has.
    pub fn take(&self) -> io::Result<()> {
        self.0.read_events().map(|_| ()).map_err(io::Error::from)
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Watcher {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Makes inotify wake tasks.
pub fn register(inotify: Inotify) -> io::Result<AsyncFd<Watcher>> {
    // SAFETY: the descriptor stays open and the same for as long as it is registered, because `Watcher` owns the only
    // handle to it and the `AsyncFd` owns the `Watcher`, deregistering before dropping it.
    unsafe { AsyncFd::register(Watcher(inotify)) }.map_err(io::Error::from)
}

/// Two arenas of glibc's allocator instead of eight a processor. Other C libraries have none.
pub fn limit_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only sets a number in the allocator; both values are valid (mallopt(3)).
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Gives memory that was freed back to the system (malloc_trim(3)).
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the allocator's own locks; may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
