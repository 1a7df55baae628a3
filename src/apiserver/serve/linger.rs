//! Closing a connection so that the client gets what was sent last.
//!
//! A socket that is closed while bytes of the client wait in it is reset, and the client loses an answer that it has
//! not read yet. So after everything is written, only the sending half is closed, and the other is read for a bounded
//! time, until the client closes too (Go's `net/http` `closeWriteAndWait`, `rstAvoidanceDelay`). Connections that became
//! tunnels (exec, port-forward) close their halves one by one, and do not linger.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;

/// Go's `rstAvoidanceDelay`.
const LINGER: Duration = Duration::from_millis(500);
/// Bytes that are thrown away meanwhile; then the kernel holds the client back.
const LINGER_BYTES_MAX: usize = 1 << 20;

/// A connection that lingers when it is shut down.
pub(super) struct Lingering {
    stream: TlsStream<TcpStream>,
    /// Other protocols are spoken on it.
    tunnel: Arc<AtomicBool>,
    state: State,
}

enum State {
    Open,
    /// The client has closed its half: nothing can come that would reset the connection.
    Ended,
    Waiting {
        until: Pin<Box<Sleep>>,
        left: usize,
    },
}

impl Lingering {
    pub fn new(stream: TlsStream<TcpStream>, tunnel: Arc<AtomicBool>) -> Self {
        Self { stream, tunnel, state: State::Open }
    }
}

impl AsyncRead for Lingering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        if read.is_err() || (room > 0 && buffer.filled().len() == before) {
            self.state = State::Ended;
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.tunnel.load(Ordering::Relaxed) {
            return Pin::new(&mut this.stream).poll_shutdown(context);
        }
        if let State::Open = this.state {
            // TLS's own word of the end, and then the end of the sending half.
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
            let until = Box::pin(tokio::time::sleep(LINGER));
            this.state = State::Waiting { until, left: LINGER_BYTES_MAX };
        }
        match &mut this.state {
            State::Open | State::Ended => Pin::new(&mut this.stream).poll_shutdown(context),
            State::Waiting { until, left } => {
                if until.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Ok(()));
                }
                // Below TLS: nobody reads it.
                let socket = this.stream.get_mut().0;
                while *left > 0 {
                    let mut room = [0; 8 << 10];
                    let mut buffer = ReadBuf::new(&mut room);
                    match ready!(Pin::new(&mut *socket).poll_read(context, &mut buffer)) {
                        Ok(()) if !buffer.filled().is_empty() => *left = left.saturating_sub(buffer.filled().len()),
                        Ok(()) | Err(_) => return Poll::Ready(Ok(())),
                    }
                }
                Poll::Pending
            }
        }
    }
}
