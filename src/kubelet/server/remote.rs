//! `exec`, `attach` and `run` (upstream `cri-streaming` `remotecommand`): the container's streams on one side, a
//! WebSocket or SPDY connection on the other.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use base::Shutdown;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use hyper_util::rt::TokioIo;
use runtime::{ContainerId, ExecSpec, Session};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::{flag, query, text, websocket};
use crate::context::Context;
use crate::probes::exec;
use crate::spdy::{self, StreamWriter};
use crate::spec;
use crate::table::Slot;

/// Longest wait for the client to open all its streams.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to close the connection when the session is over.
pub(super) const LINGER: Duration = Duration::from_secs(2);
/// How long a command without a terminal may go on after its client has left. Upstream leaves it alone for ever, with nobody to
/// take its output.
const AFTERLIFE: Duration = Duration::from_secs(30);
/// Protocols that SPDY clients may choose, the best first.
const SPDY_PROTOCOLS: [&str; 4] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// What the path names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub namespace: &'a str,
    pub pod: &'a str,
    pub uid: Option<&'a str>,
    pub container: &'a str,
}

/// Streams that the client asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Wanted {
    /// Upstream `NewOptions`, with the API's own parameter names as well.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let any = |a, b| flag(text, a) || flag(text, b);
        let tty = flag(text, "tty");
        let wanted = Self {
            stdin: any("input", "stdin"),
            stdout: any("output", "stdout"),
            // With a terminal both go one way.
            stderr: any("error", "stderr") && !tty,
            tty,
        };
        if !wanted.stdin && !wanted.stdout && !wanted.stderr {
            return Err("you must specify at least 1 of stdin, stdout, stderr");
        }
        Ok(wanted)
    }
}

/// Where bytes for the client go.
#[derive(Clone)]
pub(super) enum Out {
    Spdy(StreamWriter),
    WebSocket(websocket::ChannelWriter),
}

impl Out {
    async fn send(&self, data: Bytes) -> bool {
        match self {
            Self::Spdy(writer) => writer.send(data).await,
            Self::WebSocket(writer) => writer.send(data).await,
        }
    }

    async fn finish(&self) {
        if let Self::Spdy(writer) = self {
            // A connection that is gone needs no end.
            let _open = writer.finish().await;
        }
    }
}

/// The client's side of a session.
pub(super) struct Streams {
    pub stdin: Option<mpsc::Receiver<Bytes>>,
    pub resize: Option<mpsc::Receiver<Bytes>>,
    pub stdout: Option<Out>,
    pub stderr: Option<Out>,
    pub error: Option<Out>,
    /// The last word is a `Status` (v4 and later), not bare text.
    pub status: bool,
    /// Cancelled when the connection is gone.
    pub closed: Shutdown,
}

fn find(ctx: &Context, place: Place<'_>) -> Result<(Arc<Slot>, ContainerId), Response> {
    let slot = ctx.table.by_name(place.namespace, place.pod);
    let slot = slot.filter(|slot| place.uid.is_none_or(|uid| uid == slot.uid));
    let Some(slot) = slot else { return Err(text(StatusCode::NOT_FOUND, "pod does not exist")) };
    let observed = ctx.cache.pod(&slot.uid);
    let id = observed.latest(place.container).filter(|c| c.is_running()).map(|c| c.id.clone());
    match id {
        Some(id) => Ok((slot, id)),
        None => {
            let message = format!("container not found ({:?})", place.container);
            Err(text(StatusCode::INTERNAL_SERVER_ERROR, message))
        }
    }
}

/// What a session does in the container.
enum Action {
    Exec(Vec<String>),
    Attach,
}

pub(super) async fn exec(ctx: &Arc<Context>, place: Place<'_>, request: Request) -> Response {
    let id = match find(ctx, place) {
        Ok((_, id)) => id,
        Err(refused) => return refused,
    };
    let command = query(request.uri().query().unwrap_or_default(), "command");
    start(ctx, id, Action::Exec(command), request).await
}

pub(super) async fn attach(ctx: &Arc<Context>, place: Place<'_>, mut request: Request) -> Response {
    let (slot, id) = match find(ctx, place) {
        Ok(found) => found,
        Err(refused) => return refused,
    };
    // The container's own terminal decides, not the client's wish.
    let tty = spec::find(&slot.pod(), place.container).is_some_and(|(_, c)| c.tty == Some(true));
    let old = request.uri().query().unwrap_or_default();
    let kept: Vec<&str> = old.split('&').filter(|p| !p.starts_with("tty=")).collect();
    let query = format!("{}?{}&tty={}", request.uri().path(), kept.join("&"), u8::from(tty));
    if let Ok(uri) = query.parse() {
        *request.uri_mut() = uri;
    }
    start(ctx, id, Action::Attach, request).await
}

async fn start(ctx: &Arc<Context>, id: ContainerId, action: Action, request: Request) -> Response {
    let wanted = match Wanted::parse(request.uri().query().unwrap_or_default()) {
        Ok(wanted) => wanted,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    if websocket::is_wanted(request.headers()) {
        let ctx = ctx.clone();
        return websocket::upgrade_remote(request, wanted, move |streams| async move {
            serve(&ctx, &id, action, wanted, streams).await;
        })
        .await;
    }
    upgrade_spdy(ctx, id, action, wanted, request)
}

/// Whether the client asks for SPDY, and which of the protocols inside it is taken.
pub(super) fn negotiate_spdy(
    headers: &HeaderMap,
    supported: &[&'static str],
) -> Result<Option<&'static str>, Box<Response>> {
    let upgrade = headers.get(header::UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !upgrade.eq_ignore_ascii_case("SPDY/3.1") {
        let message = "unable to upgrade: missing upgrade headers in request";
        return Err(Box::new(text(StatusCode::BAD_REQUEST, message)));
    }
    let offered: Vec<&str> = headers
        .get_all("x-stream-protocol-version")
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .collect();
    if offered.is_empty() {
        return Ok(None);
    }
    match supported.iter().find(|s| offered.contains(*s)) {
        Some(protocol) => Ok(Some(*protocol)),
        None => {
            let message = format!(
                "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {supported:?}"
            );
            Err(Box::new(text(StatusCode::FORBIDDEN, message)))
        }
    }
}

/// The answer that lets the client go on in SPDY.
pub(super) fn switching(protocol: Option<&'static str>) -> Response {
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.clear();
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static("SPDY/3.1"));
    if let Some(protocol) = protocol {
        headers.insert("x-stream-protocol-version", header::HeaderValue::from_static(protocol));
    }
    response
}

fn upgrade_spdy(ctx: &Arc<Context>, id: ContainerId, action: Action, wanted: Wanted, mut request: Request) -> Response {
    let protocol = match negotiate_spdy(request.headers(), &SPDY_PROTOCOLS) {
        Ok(protocol) => protocol,
        Err(refused) => return *refused,
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let status = protocol == Some("v4.channel.k8s.io");
    let resize = matches!(protocol, Some("v4.channel.k8s.io" | "v3.channel.k8s.io")) && wanted.tty;
    let (task_ctx, stop) = (ctx.clone(), ctx.shutdown.clone());
    ctx.tasks.spawn(async move {
        let work = async {
            let upgraded = match upgrade.await {
                Ok(upgraded) => upgraded,
                Err(error) => return tracing::debug!(error = %error, "upgrade failed"),
            };
            let closed = Shutdown::new();
            let (streams, driver) = spdy::serve(TokioIo::new(upgraded), closed.clone());
            let session = async {
                if let Some(streams) = collect(streams, wanted, resize, status, closed).await {
                    serve(&task_ctx, &id, action, wanted, streams).await;
                }
            };
            run_beside(driver, session).await;
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = work => {}
        }
    });
    switching(protocol)
}

/// Runs a session while its connection is driven; what the session sent last still gets out.
pub(super) async fn run_beside(driver: impl Future<Output = std::io::Result<()>>, session: impl Future<Output = ()>) {
    tokio::pin!(driver);
    tokio::pin!(session);
    let ended = tokio::select! {
        biased;
        result = &mut driver => Some(result),
        () = &mut session => None,
    };
    match ended {
        Some(Ok(())) => session.await,
        Some(Err(error)) => {
            tracing::debug!(error = %error, "SPDY connection failed");
            session.await;
        }
        // The client closes the connection when it has read the end of every stream.
        None => {
            let _closed = tokio::time::timeout(LINGER, driver).await;
        }
    }
}

/// Waits for the streams that the client announced.
async fn collect(
    mut incoming: mpsc::Receiver<spdy::Stream>,
    wanted: Wanted,
    resize: bool,
    status: bool,
    closed: Shutdown,
) -> Option<Streams> {
    let mut out = Streams { stdin: None, resize: None, stdout: None, stderr: None, error: None, status, closed };
    let complete = |out: &Streams| {
        out.error.is_some()
            && out.stdin.is_some() == wanted.stdin
            && out.stdout.is_some() == wanted.stdout
            && out.stderr.is_some() == wanted.stderr
            && out.resize.is_some() == resize
    };
    let wait = async {
        while !complete(&out) {
            let stream = incoming.recv().await?;
            let writer = Some(Out::Spdy(stream.writer));
            match stream.headers.get("streamtype").map(String::as_str) {
                Some("error") => out.error = writer,
                Some("stdin") => out.stdin = Some(stream.data),
                Some("stdout") => out.stdout = writer,
                Some("stderr") => out.stderr = writer,
                Some("resize") => out.resize = Some(stream.data),
                other => tracing::debug!(kind = other, "unexpected stream"),
            }
        }
        Some(())
    };
    match tokio::time::timeout(STREAMS_TIMEOUT, wait).await {
        Ok(Some(())) => Some(out),
        Ok(None) | Err(_) => None,
    }
}

/// Runs the session and tells the client how it ended.
async fn serve(ctx: &Context, id: &ContainerId, action: Action, wanted: Wanted, streams: Streams) {
    let (error, status) = (streams.error.clone(), streams.status);
    let outs: Vec<Out> = [&streams.stdout, &streams.stderr].into_iter().flatten().cloned().collect();
    let result = session(ctx, id, &action, wanted, streams).await;
    let last_word = last_word(&action, result);
    for out in outs {
        out.finish().await;
    }
    if let Some(error) = error {
        let bytes = if status { Some(last_word.to_string()) } else { last_word["message"].as_str().map(str::to_owned) };
        if let Some(bytes) = bytes {
            let _open = error.send(Bytes::from(bytes)).await;
        }
        error.finish().await;
    }
}

fn last_word(action: &Action, result: Result<i32, String>) -> Value {
    match (action, result) {
        (Action::Attach, Ok(_)) | (Action::Exec(_), Ok(0)) => json!({"metadata": {}, "status": "Success"}),
        (Action::Exec(command), Ok(code)) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!(
                "command terminated with non-zero exit code: error executing command [{}], exit code {code}",
                command.join(" ")
            ),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        (action, Err(why)) => {
            let what = match action {
                Action::Exec(_) => "error executing command in container",
                Action::Attach => "error attaching to container",
            };
            let text = format!("{what}: {why}");
            json!({
                "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
                "message": format!("Internal error occurred: {text}"),
                "details": {"causes": [{"message": text}]},
            })
        }
    }
}

async fn session(
    ctx: &Context,
    id: &ContainerId,
    action: &Action,
    wanted: Wanted,
    streams: Streams,
) -> Result<i32, String> {
    let opened = match action {
        Action::Exec(command) => {
            let spec = ExecSpec {
                command: command.clone(),
                stdin: wanted.stdin,
                stdout: wanted.stdout,
                stderr: wanted.stderr,
                tty: wanted.tty,
            };
            ctx.runtime.exec(id, &spec).await
        }
        Action::Attach => ctx.runtime.attach(id).await,
    };
    let session = opened.map_err(|e| base::chain(&e).to_string())?;
    let outlives = matches!(action, Action::Exec(_)) && !wanted.tty;
    join(session, streams, outlives).await
}

/// Joins both sides until the process ends or the client leaves. `outlives`: the process may then go on for a while.
async fn join(session: Session, streams: Streams, outlives: bool) -> Result<i32, String> {
    let Session { stdin, stdout, stderr, resize, exit } = session;
    let output = async {
        // What a program complains of goes first: a client may leave at what it takes for the end of the output, as
        // `kubectl cp` does at the end of an archive.
        tokio::join!(biased; pump_out(stderr, streams.stderr), pump_out(stdout, streams.stdout));
        exit.await.map_err(|_| "the container runtime went away".to_owned())
    };
    let input = async { tokio::join!(pump_in(stdin, streams.stdin), pump_resize(resize, streams.resize)) };
    tokio::pin!(output, input);
    let mut fed = false;
    loop {
        tokio::select! {
            biased;
            result = &mut output => return result,
            _ = &mut input, if !fed => fed = true,
            () = streams.closed.cancelled() => break,
        }
    }
    let feed = async {
        if !fed {
            input.await;
        }
    };
    // What the client had sent is for the process even so: a client that uploads a file leaves when everything is sent.
    let rest = async {
        match outlives {
            true => drop(tokio::join!(feed, output)),
            false => feed.await,
        }
    };
    let _killed = tokio::time::timeout(AFTERLIFE, rest).await;
    Err("the client went away".to_owned())
}

async fn pump_out(from: Option<runtime::Reader>, to: Option<Out>) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; 32 << 10];
    // A stream that breaks off has said what it had to say. Without somebody who takes it the output is thrown away, so
    // that the process does not block.
    let mut to = to;
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 {
            break;
        }
        if let Some(out) = &to
            && !out.send(Bytes::copy_from_slice(&buffer[..n])).await
        {
            to = None;
        }
    }
}

async fn pump_in(to: Option<runtime::Writer>, from: Option<mpsc::Receiver<Bytes>>) {
    let (Some(mut to), Some(mut from)) = (to, from) else { return };
    while let Some(bytes) = from.recv().await {
        if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    if let Err(error) = to.shutdown().await {
        tracing::debug!(error = %error, "cannot close the standard input");
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TerminalSize {
    width: u16,
    height: u16,
}

/// Sizes come as JSON objects one after another, split anywhere.
async fn pump_resize(to: mpsc::Sender<(u16, u16)>, from: Option<mpsc::Receiver<Bytes>>) {
    let Some(mut from) = from else { return };
    let mut pending = Vec::new();
    while let Some(bytes) = from.recv().await {
        pending.extend_from_slice(&bytes);
        let mut sizes = serde_json::Deserializer::from_slice(&pending).into_iter::<TerminalSize>();
        let mut newest = None;
        while let Some(Ok(size)) = sizes.next() {
            newest = Some(size);
        }
        let read = sizes.byte_offset();
        pending.drain(..read);
        if let Some(size) = newest
            && to.send((size.width, size.height)).await.is_err()
        {
            return;
        }
        if pending.len() > 4096 {
            return;
        }
    }
}

/// `/run`: a command's output as the answer.
pub(super) async fn run(ctx: &Context, place: Place<'_>, uri: &http::Uri) -> Response {
    let id = match find(ctx, place) {
        Ok((_, id)) => id,
        Err(refused) => return refused,
    };
    let command = query(uri.query().unwrap_or_default(), "cmd").join(" ");
    let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    match exec::run(ctx, &id, command).await {
        Ok(output) if output.code == 0 => text(StatusCode::OK, output.text()),
        Ok(output) => text(StatusCode::INTERNAL_SERVER_ERROR, output.text()),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read_from_the_query() {
        let check = |text: &str, expected: Result<(bool, bool, bool, bool), &'static str>| {
            let found = Wanted::parse(text).map(|w| (w.stdin, w.stdout, w.stderr, w.tty));
            assert_eq!(found, expected, "{text}");
        };
        check("input=1&output=1&error=1", Ok((true, true, true, false)));
        check("stdin=true&stdout=true&stderr=true&tty=true", Ok((true, true, false, true)));
        check("command=x", Err("you must specify at least 1 of stdin, stdout, stderr"));
    }

    #[tokio::test]
    async fn sizes_are_read_however_they_are_split() {
        let (sizes, mut seen) = mpsc::channel(8);
        let (bytes, receiver) = mpsc::channel(8);
        for part in ["{\"Width\":80,\"Hei", "ght\":24}\n{\"Width\":100,\"Height\":30}"] {
            bytes.send(Bytes::from(part)).await.unwrap();
        }
        drop(bytes);
        pump_resize(sizes, Some(receiver)).await;
        assert_eq!(seen.recv().await, Some((100, 30)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_client_sent_before_it_left_reaches_the_process() {
        use tokio::io::AsyncReadExt;
        for outlives in [true, false] {
            let (mut process, stdin) = tokio::io::duplex(4);
            let (resize, _sizes) = mpsc::channel(1);
            let (ended, exit) = tokio::sync::oneshot::channel();
            let session = Session { stdin: Some(Box::pin(stdin)), stdout: None, stderr: None, resize, exit };
            let (client, receiver) = mpsc::channel(8);
            let closed = Shutdown::new();
            let streams = Streams {
                stdin: Some(receiver),
                resize: None,
                stdout: None,
                stderr: None,
                error: None,
                status: true,
                closed: closed.clone(),
            };
            for part in ["a long ", "text"] {
                client.send(Bytes::from(part)).await.unwrap();
            }
            drop(client);
            closed.cancel();
            let run = async {
                let mut text = String::new();
                process.read_to_string(&mut text).await.unwrap();
                // Nobody may wait any more.
                let waited_for = ended.send(0).is_ok();
                (text, waited_for)
            };
            let (result, (text, _)) = tokio::join!(join(session, streams, outlives), run);
            assert_eq!((result, text.as_str()), (Err("the client went away".to_owned()), "a long text"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_does_not_end_after_its_client_is_given_up() {
        let (resize, _sizes) = mpsc::channel(1);
        let (mut ended, exit) = tokio::sync::oneshot::channel();
        let session = Session { stdin: None, stdout: None, stderr: None, resize, exit };
        let closed = Shutdown::new();
        closed.cancel();
        let streams =
            Streams { stdin: None, resize: None, stdout: None, stderr: None, error: None, status: true, closed };
        let began = tokio::time::Instant::now();
        assert!(join(session, streams, true).await.is_err());
        assert_eq!(began.elapsed(), AFTERLIFE);
        // Which is what kills it.
        ended.closed().await;
    }
}
