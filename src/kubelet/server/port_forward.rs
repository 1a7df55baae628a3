//! `port-forward`: connections into the pod's network namespace (upstream `cri-streaming` `portforward`), over SPDY,
//! SPDY inside a WebSocket, or WebSocket channels.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::extract::ws::{Message, WebSocket};
use axum::response::Response;
use base::Shutdown;
use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use http::StatusCode;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::remote::{negotiate_spdy, run_beside, switching};
use super::{query, text, websocket};
use crate::context::Context;
use crate::spdy;

const PROTOCOL: &str = "portforward.k8s.io";
/// SPDY inside a WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const CHANNELS: &str = "v4.channel.k8s.io";
const CHANNELS_BASE64: &str = "v4.base64.channel.k8s.io";
const QUEUE: usize = 64;
const BUFFER: usize = 32 << 10;
/// Upstream's `DefaultStreamCreationTimeout`: how long one stream of a pair waits for the other.
const PAIR_WITHIN: Duration = Duration::from_secs(30);
/// Connections that one client may have forwarded at a time; further ones wait.
const PAIRS_MAX: usize = 1024;

/// Where the ports are: the pod's network namespace, or the node's.
#[derive(Debug, Clone)]
struct Namespace(Option<PathBuf>);

pub(super) async fn handle(ctx: &Arc<Context>, namespace: &str, pod: &str, request: Request) -> Response {
    let Some(slot) = ctx.table.by_name(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    let netns = match ctx.cache.pod(&slot.uid).sandbox {
        Some(sandbox) if sandbox.host_network => Namespace(None),
        Some(sandbox) if sandbox.netns.is_some() => Namespace(sandbox.netns),
        _ => return text(StatusCode::INTERNAL_SERVER_ERROR, format!("pod not found ({pod:?})")),
    };
    if websocket::is_wanted(request.headers()) {
        let ports: Vec<u16> = query(request.uri().query().unwrap_or_default(), "port")
            .iter()
            .flat_map(|v| v.split(','))
            .filter_map(|p| p.parse().ok())
            .collect();
        return over_websocket(request, netns, ports).await;
    }
    over_spdy(ctx, request, netns)
}

fn over_spdy(ctx: &Arc<Context>, mut request: Request, netns: Namespace) -> Response {
    let protocol = match negotiate_spdy(request.headers(), &[PROTOCOL]) {
        Ok(protocol) => protocol,
        Err(refused) => return *refused,
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let stop = ctx.shutdown.clone();
    ctx.tasks.spawn(async move {
        let work = async {
            match upgrade.await {
                Ok(upgraded) => serve_spdy(TokioIo::new(upgraded), netns).await,
                Err(error) => tracing::debug!(error = %error, "upgrade failed"),
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = work => {}
        }
    });
    switching(protocol)
}

/// Pairs each request's data and error streams and connects them to their port.
async fn serve_spdy<T: AsyncRead + AsyncWrite + Send + 'static>(io: T, netns: Namespace) {
    let closed = Shutdown::new();
    let (mut incoming, driver) = spdy::serve(io, closed);
    let session = async move {
        let mut unpaired = Unpaired::default();
        let mut running = FuturesUnordered::new();
        loop {
            let stream = tokio::select! {
                biased;
                Some(()) = running.next(), if !running.is_empty() => continue,
                () = unpaired.give_up_late() => continue,
                stream = incoming.recv(), if running.len() < PAIRS_MAX => stream,
            };
            let Some(stream) = stream else { break };
            match unpaired.add(stream) {
                Added::Waits => {}
                Added::Refused(stream) => drop(stream.writer.reset().await),
                Added::Pair { port, data, error } => {
                    running.push(forward_pair(netns.clone(), port, data, error).boxed());
                }
            }
        }
    };
    run_beside(driver, session).await;
}

/// Streams whose other half has not come yet (`httpStreamHandler` of upstream's `portforward/httpstream.go`).
#[derive(Default)]
struct Unpaired {
    streams: HashMap<String, Half>,
    /// When each gives up, in order; those that found their other half meanwhile too.
    deadlines: VecDeque<(Instant, String)>,
}

struct Half {
    stream: spdy::Stream,
    is_data: bool,
    until: Instant,
}

/// What became of a stream.
enum Added {
    Waits,
    Pair {
        port: u16,
        data: spdy::Stream,
        error: spdy::Stream,
    },
    /// Its headers are not what they should be, or there is one like it already.
    Refused(spdy::Stream),
}

impl Unpaired {
    fn add(&mut self, stream: spdy::Stream) -> Added {
        let header = |name: &str| stream.headers.get(name).map(String::as_str).unwrap_or_default();
        let port = header("port").parse::<u16>().unwrap_or_default();
        let is_data = match header("streamtype") {
            "data" => true,
            "error" => false,
            _ => return Added::Refused(stream),
        };
        if port == 0 {
            return Added::Refused(stream);
        }
        let id = match header("requestid") {
            // Old clients send no id: the error stream comes right before its data stream.
            "" if is_data => stream.writer.id().wrapping_sub(2).to_string(),
            "" => stream.writer.id().to_string(),
            id => id.to_owned(),
        };
        match self.streams.remove(&id) {
            None => {
                let until = Instant::now() + PAIR_WITHIN;
                self.deadlines.push_back((until, id.clone()));
                self.streams.insert(id, Half { stream, is_data, until });
                Added::Waits
            }
            Some(other) if other.is_data == is_data => {
                self.streams.insert(id, other);
                Added::Refused(stream)
            }
            Some(other) if is_data => Added::Pair { port, data: stream, error: other.stream },
            Some(other) => Added::Pair { port, data: other.stream, error: stream },
        }
    }

    /// Gives up those that have waited too long, when the next one has. May be cancelled at any time.
    async fn give_up_late(&mut self) {
        loop {
            let Some((until, _)) = self.deadlines.front() else { return std::future::pending().await };
            tokio::time::sleep_until(*until).await;
            let Some((until, id)) = self.deadlines.pop_front() else { continue };
            if self.streams.get(&id).is_none_or(|half| half.until != until) {
                continue;
            }
            let Some(Half { stream, is_data, .. }) = self.streams.remove(&id) else { continue };
            tracing::debug!(request = id, "the other stream of a forwarded connection did not come");
            if !is_data {
                let why = format!("(request={id}) timed out waiting for streams");
                stream.writer.send(Bytes::from(why)).await;
            }
            stream.writer.reset().await;
            return;
        }
    }
}

async fn forward_pair(netns: Namespace, port: u16, data: spdy::Stream, error: spdy::Stream) {
    let spdy::Stream { data: mut input, writer, .. } = data;
    let mut output = {
        let writer = writer.clone();
        move |bytes: Bytes| {
            let writer = writer.clone();
            async move { writer.send(bytes).await }
        }
    };
    if let Err(why) = forward(netns, port, &mut input, &mut output).await {
        error.writer.send(Bytes::from(why)).await;
    }
    writer.finish().await;
    error.writer.finish().await;
}

/// Connects to the port and copies both ways until either side has ended.
async fn forward<F, Fut>(
    netns: Namespace,
    port: u16,
    input: &mut mpsc::Receiver<Bytes>,
    output: &mut F,
) -> Result<(), String>
where
    F: FnMut(Bytes) -> Fut,
    Fut: Future<Output = bool>,
{
    let fail = |e: std::io::Error| format!("error forwarding port {port}: failed to connect to localhost:{port}: {e}");
    let stream = connect(netns, port).await.map_err(fail)?;
    let (mut read, mut write) = stream.into_split();
    let up = async {
        while let Some(bytes) = input.recv().await {
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // The client has finished: the pod may still answer.
        let _half = write.shutdown().await;
        std::future::pending::<()>().await;
    };
    let down = async {
        let mut buffer = vec![0; BUFFER];
        while let Ok(n) = read.read(&mut buffer).await {
            if n == 0 || !output(Bytes::copy_from_slice(&buffer[..n])).await {
                break;
            }
        }
    };
    tokio::select! {
        () = down => {}
        () = up => {}
    }
    Ok(())
}

/// Opens a connection inside a network namespace, on a thread of its own that ends with it.
async fn connect(netns: Namespace, port: u16) -> std::io::Result<TcpStream> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("port-forward".to_owned()).spawn(move || {
        // Nobody waits any more when the client has gone.
        let _sent = sender.send(connect_here(&netns, port));
    })?;
    let stream = receiver.await.map_err(std::io::Error::other)??;
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    TcpStream::from_std(stream)
}

fn connect_here(netns: &Namespace, port: u16) -> std::io::Result<std::net::TcpStream> {
    if let Some(path) = &netns.0 {
        let file = std::fs::File::open(path)?;
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
    }
    std::net::TcpStream::connect(("127.0.0.1", port)).or_else(|first| {
        // What listens on IPv6 only is reached there; otherwise the first error tells more.
        std::net::TcpStream::connect(("::1", port)).map_err(|_| first)
    })
}

async fn over_websocket(request: Request, netns: Namespace, ports: Vec<u16>) -> Response {
    let upgrade = match websocket::accept(request).await {
        Ok(upgrade) => upgrade,
        Err(refused) => return refused,
    };
    upgrade.protocols([TUNNEL, CHANNELS, CHANNELS_BASE64]).on_upgrade(move |socket| async move {
        let protocol = socket.protocol().and_then(|p| p.to_str().ok()).unwrap_or_default().to_owned();
        if protocol == TUNNEL {
            tunnel(socket, netns).await;
        } else {
            channels(socket, netns, ports, protocol == CHANNELS_BASE64).await;
        }
    })
}

/// A SPDY connection whose bytes are a WebSocket's binary messages.
async fn tunnel(socket: WebSocket, netns: Namespace) {
    let (inner, outer) = tokio::io::duplex(256 << 10);
    let (sink, mut source) = socket.split();
    let (out, queue) = mpsc::channel(QUEUE);
    let (mut from_spdy, mut to_spdy) = tokio::io::split(outer);
    let up = async move {
        while let Some(Ok(message)) = source.next().await {
            if let Message::Binary(bytes) = message
                && to_spdy.write_all(&bytes).await.is_err()
            {
                break;
            }
        }
        let _ended = to_spdy.shutdown().await;
    };
    let down = async move {
        let mut buffer = vec![0; BUFFER];
        while let Ok(n) = from_spdy.read(&mut buffer).await {
            if n == 0 || out.send(Message::binary(buffer[..n].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let both = async {
        tokio::join!(up, serve_spdy(inner, netns));
    };
    let write = websocket::write_all(sink, queue);
    tokio::select! {
        () = both => {}
        ((), ()) = async { tokio::join!(down, write) } => {}
    }
}

/// Two channels for each port: data and error; each begins with the port's number (upstream
/// `portforward/websocket.go`).
async fn channels(socket: WebSocket, netns: Namespace, ports: Vec<u16>, base64: bool) {
    let (sink, mut source) = socket.split();
    let (out, queue) = mpsc::channel(QUEUE);
    let mut inputs = Vec::new();
    let mut running = FuturesUnordered::new();
    for (i, port) in ports.into_iter().enumerate() {
        let Ok(first) = u8::try_from(i * 2) else { break };
        let data = websocket::ChannelWriter::new(first, base64, out.clone());
        let error = websocket::ChannelWriter::new(first + 1, base64, out.clone());
        let (sender, mut input) = mpsc::channel(QUEUE);
        inputs.push(sender);
        let netns = netns.clone();
        running.push(async move {
            let number = Bytes::copy_from_slice(&port.to_le_bytes());
            data.send(number.clone()).await;
            error.send(number).await;
            let mut output = |bytes: Bytes| {
                let data = data.clone();
                async move { data.send(bytes).await }
            };
            if let Err(why) = forward(netns, port, &mut input, &mut output).await {
                error.send(Bytes::from(why)).await;
            }
        });
    }
    drop(out);
    let read = async move {
        while let Some(Ok(message)) = source.next().await {
            let Some((channel, bytes)) = websocket::split(message, base64) else { continue };
            if let Some(input) = inputs.get(usize::from(channel / 2)).filter(|_| channel % 2 == 0) {
                // A port whose connection has ended takes nothing more.
                let _taken = input.send(bytes).await;
            }
        }
    };
    let forward_all = async move { while running.next().await.is_some() {} };
    let write = websocket::write_all(sink, queue);
    tokio::pin!(write);
    tokio::select! {
        () = forward_all => write.await,
        () = &mut write => {}
        () = read => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream without a connection; what it sends is dropped.
    fn stream(id: u32, headers: &[(&str, &str)]) -> spdy::Stream {
        let headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        spdy::Stream::alone(id, headers)
    }

    fn kind(added: &Added) -> &'static str {
        match added {
            Added::Waits => "waits",
            Added::Pair { .. } => "pair",
            Added::Refused(_) => "refused",
        }
    }

    #[tokio::test(start_paused = true)]
    async fn streams_are_paired_by_their_request_or_their_numbers() {
        let mut unpaired = Unpaired::default();
        let mut check = |id: u32, headers: &[(&str, &str)], want: &str| {
            assert_eq!(kind(&unpaired.add(stream(id, headers))), want, "{id} {headers:?}");
        };
        check(1, &[("streamtype", "error"), ("port", "80"), ("requestid", "0")], "waits");
        check(3, &[("streamtype", "error"), ("port", "80"), ("requestid", "1")], "waits");
        check(5, &[("streamtype", "error"), ("port", "80"), ("requestid", "1")], "refused");
        check(7, &[("streamtype", "data"), ("port", "80"), ("requestid", "1")], "pair");
        check(9, &[("streamtype", "data"), ("port", "80"), ("requestid", "0")], "pair");
        check(11, &[("streamtype", "error"), ("port", "80")], "waits");
        check(13, &[("streamtype", "data"), ("port", "80")], "pair");
        check(15, &[("streamtype", "data"), ("port", "0")], "refused");
        check(17, &[("streamtype", "data"), ("port", "x")], "refused");
        check(19, &[("port", "80")], "refused");
        check(21, &[("streamtype", "else"), ("port", "80")], "refused");
        assert!(unpaired.streams.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_stays_alone_is_given_up() {
        let mut unpaired = Unpaired::default();
        let began = Instant::now();
        let of = |id: &'static str, kind| [("streamtype", kind), ("port", "80"), ("requestid", id)];
        unpaired.add(stream(1, &of("0", "data")));
        unpaired.add(stream(3, &of("1", "error")));
        tokio::time::sleep(Duration::from_secs(10)).await;
        unpaired.add(stream(5, &of("2", "error")));
        assert_eq!(kind(&unpaired.add(stream(7, &of("0", "error")))), "pair");
        unpaired.give_up_late().await;
        assert_eq!((began.elapsed(), unpaired.streams.len()), (PAIR_WITHIN, 1));
        unpaired.give_up_late().await;
        assert_eq!(began.elapsed(), PAIR_WITHIN + Duration::from_secs(10));
        assert!(unpaired.streams.is_empty() && unpaired.deadlines.is_empty());
    }
}
