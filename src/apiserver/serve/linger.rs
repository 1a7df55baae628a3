//! Closing a connection so that the client gets what was sent last.
//!
//! A socket that is closed while bytes of the client wait in it is reset, and the client loses an answer that it has
//! not read yet. So after everything is written, only the sending half is closed, and the other is read for a bounded
//! time, until the client closes too (Go's `net/http` `closeWriteAndWait`, `rstAvoidanceDelay`). Connections that became
//! tunnels (exec, port-forward) close their halves one by one, and do not linger.
//!
//! The stream also knows what only a stream can: that the head of a request takes too long, and that its socket has to
//! follow a connection that moved to another runtime.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

use super::activity::Activity;
use super::lanes::Place;

/// Go's `rstAvoidanceDelay`.
const LINGER: Duration = Duration::from_millis(500);
/// Bytes that a connection may send at the front in [`FRONT_BYTES_PERIOD`]: those who ask for health send hundreds, for as
/// long as the server lives, and whoever floods goes where it takes turns with everybody.
const FRONT_BYTES_MAX: usize = 32 << 10;
const FRONT_BYTES_PERIOD: Duration = Duration::from_secs(1);
/// Bytes that are thrown away meanwhile; then the kernel holds the client back.
const LINGER_BYTES_MAX: usize = 1 << 20;

/// A socket that can be handed to another runtime.
pub(super) struct Socket(Option<TcpStream>);

impl Socket {
    pub fn new(stream: TcpStream) -> Self {
        Self(Some(stream))
    }

    fn stream(&mut self) -> io::Result<&mut TcpStream> {
        self.0.as_mut().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))
    }

    /// Lets the runtime that polls now tell when there is something to read or room to write.
    fn register_here(&mut self) -> io::Result<()> {
        if let Some(stream) = self.0.take() {
            self.0 = Some(TcpStream::from_std(stream.into_std()?)?);
        }
        Ok(())
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(self.stream()?).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.stream()?).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.stream()?).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream()?).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream()?).poll_shutdown(context)
    }
}

/// A connection that lingers when it is shut down.
pub(super) struct Lingering {
    stream: TlsStream<Socket>,
    /// Other protocols are spoken on it.
    tunnel: Arc<AtomicBool>,
    state: State,
    /// `None`: heads have no time of their own (HTTP/2).
    heads: Option<Heads>,
    place: Arc<Place>,
    /// The socket belongs to the runtime where the connection is polled.
    settled: bool,
    heard: Heard,
}

/// What came at the front lately.
struct Heard {
    bytes: usize,
    since: Instant,
}

impl Heard {
    fn new() -> Self {
        Self { bytes: 0, since: Instant::now() }
    }

    /// Whether it is too much with so many bytes more.
    fn is_flood(&mut self, more: usize) -> bool {
        let now = Instant::now();
        if now.duration_since(self.since) >= FRONT_BYTES_PERIOD {
            *self = Self { bytes: 0, since: now };
        }
        self.bytes += more;
        self.bytes > FRONT_BYTES_MAX
    }
}

/// The time for the heads of requests.
struct Heads {
    activity: Arc<Activity>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Heads {
    /// Ready when the head that is being sent is late.
    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.activity.head_deadline() else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(context)
    }
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
    /// `heads`: whose heads are timed, see [`Activity`].
    pub fn new(
        stream: TlsStream<Socket>,
        tunnel: Arc<AtomicBool>,
        place: Arc<Place>,
        heads: Option<Arc<Activity>>,
    ) -> Self {
        let heads = heads.map(|activity| Heads { activity, timer: None });
        let settled = place.has_moved();
        Self { stream, tunnel, state: State::Open, heads, place, settled, heard: Heard::new() }
    }

    fn settle(&mut self) -> io::Result<()> {
        if !self.settled && self.place.has_moved() {
            self.settled = true;
            self.stream.get_mut().0.register_here()?;
        }
        Ok(())
    }
}

impl AsyncRead for Lingering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.settle()?;
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, buffer) else {
            let Some(heads) = &mut self.heads else { return Poll::Pending };
            ready!(heads.poll_late(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        };
        if read.is_err() || (room > 0 && buffer.filled().len() == before) {
            self.state = State::Ended;
        } else if let Some(heads) = &self.heads {
            heads.activity.bytes_came();
        }
        if !self.settled && self.heard.is_flood(buffer.filled().len() - before) {
            self.place.ask_to_move();
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.settle()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.settle()?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.settle()?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.settle()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn health_checks_stay_at_the_front_for_ever_and_floods_do_not() {
        let mut heard = Heard::new();
        for check in 0..10_000 {
            assert!(!heard.is_flood(150), "check {check} was sent away");
            tokio::time::advance(Duration::from_millis(20)).await;
        }
        let taken = (0..1_000).take_while(|_| !heard.is_flood(150)).count();
        assert!((200..230).contains(&taken), "{taken} checks at once");
    }
}
