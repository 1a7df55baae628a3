//! What the kernel wants to be asked without a safe wrapper.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::unistd::ForkResult;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Brings up `lo` in the calling thread's network namespace.
pub fn loopback_up() -> io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0").or_else(|_| UdpSocket::bind("0.0.0.0:0"))?;
    // SAFETY: `ifreq` is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    // SAFETY: both calls get an open socket and a pointer to an `ifreq` that lives across the call, as SIOCGIFFLAGS and
    // SIOCSIFFLAGS require; the union's `ifru_flags` is what they read and write.
    let result = unsafe {
        match libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &mut request) {
            0 => {
                request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
                libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &mut request)
            }
            error => error,
        }
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Forks a process that has one thread. The caller makes sure of that.
pub fn fork_single_threaded() -> nix::Result<ForkResult> {
    // SAFETY: with one thread no lock can be held by another one, so the child may do anything.
    unsafe { nix::unistd::fork() }
}

/// Makes the process about to be executed the leader of its own session, so that it outlives us and our terminal.
pub fn detach(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: setsid is async-signal-safe, which is all that may run between fork and exec.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from));
    }
}

/// A descriptor that becomes readable when the process ends. Needs a tokio runtime.
pub fn watch_process(pid: i32) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the call takes two integers and returns a new descriptor or -1.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor as i32) };
    // SAFETY: the OwnedFd moves into the AsyncFd and stays open, the same descriptor, until that is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE)? })
}
