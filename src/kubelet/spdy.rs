//! SPDY/3.1, the server's side: what `exec`, `attach` and `port-forward` of kubectl up to v1.33 speak after an upgrade,
//! and port-forward of later ones inside a WebSocket.
//!
//! Streams come only from the client. As in upstream's library (`moby/spdystream`), windows are not counted: a reader
//! that is slow holds up the whole connection, by bounded queues. How many streams are open and how many bytes wait for
//! their readers is bounded for each connection.

mod dictionary;
mod headers;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use base::Shutdown;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use headers::{Compressor, Decompressor};

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const FIN: u8 = 1;
/// Status of a RST_STREAM: the stream is no longer wanted.
const CANCEL: u32 = 5;
/// Longest payload of a frame that is not data.
const MAX_CONTROL: usize = 1 << 20;
/// Frames and streams that wait to be taken.
const QUEUE: usize = 64;
/// Bytes in one data frame that we send.
const CHUNK: usize = 64 << 10;
/// Bytes of all streams that wait to be read; then nothing is read from the connection.
const BYTES_WAITING_MAX: usize = 4 << 20;
/// Streams that a client may have open; one more ends the connection. A forwarded connection takes two.
const STREAMS_MAX: usize = 8192;

/// One stream that the client opened.
pub struct Stream {
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    /// What the client sends; ends when the client has finished.
    pub data: mpsc::Receiver<Bytes>,
    pub writer: StreamWriter,
}

/// Sends on one stream.
#[derive(Clone)]
pub struct StreamWriter {
    id: u32,
    out: mpsc::Sender<Frame>,
}

impl StreamWriter {
    /// The stream's number: the client gives odd ones, in order.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Returns whether the connection still takes data.
    pub async fn send(&self, data: Bytes) -> bool {
        self.out.send(Frame::Data { id: self.id, data, fin: false }).await.is_ok()
    }

    /// Nothing more will be sent.
    pub async fn finish(&self) -> bool {
        self.out.send(Frame::Data { id: self.id, data: Bytes::new(), fin: true }).await.is_ok()
    }

    /// Gives the stream up.
    pub async fn reset(&self) -> bool {
        self.out.send(Frame::Reset(self.id)).await.is_ok()
    }
}

#[cfg(test)]
impl Stream {
    /// One without a connection.
    pub fn alone(id: u32, headers: HashMap<String, String>) -> Self {
        let (out, _) = mpsc::channel(1);
        Self { headers, data: mpsc::channel(1).1, writer: StreamWriter { id, out } }
    }
}

enum Frame {
    Reply(u32),
    Data { id: u32, data: Bytes, fin: bool },
    Reset(u32),
    Ping(u32),
}

/// Serves a connection: new streams go to the returned receiver while the returned future runs. `closed` is cancelled
/// at its end.
pub fn serve<T>(io: T, closed: Shutdown) -> (mpsc::Receiver<Stream>, impl Future<Output = io::Result<()>>)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (streams, incoming) = mpsc::channel(QUEUE);
    let driver = async move {
        let (reader, writer) = tokio::io::split(io);
        let (out, frames) = mpsc::channel(QUEUE);
        let _at_end = closed.drop_guard();
        tokio::select! {
            result = read_all(BufReader::new(reader), streams, out) => result,
            result = write_all(BufWriter::new(writer), frames) => result,
        }
    };
    (incoming, driver)
}

async fn write_all<W: AsyncWrite + Unpin>(
    mut writer: BufWriter<W>,
    mut frames: mpsc::Receiver<Frame>,
) -> io::Result<()> {
    let mut compressor = Compressor::new();
    while let Some(frame) = frames.recv().await {
        match frame {
            Frame::Reply(id) => {
                let block = compressor.compress(&[])?;
                let length = u32::try_from(4 + block.len()).map_err(io::Error::other)?;
                control(&mut writer, SYN_REPLY, 0, length).await?;
                writer.write_u32(id).await?;
                writer.write_all(&block).await?;
            }
            Frame::Data { id, data, fin } => {
                let mut rest = data;
                loop {
                    let part = rest.split_to(rest.len().min(CHUNK));
                    let flags = if fin && rest.is_empty() { FIN } else { 0 };
                    writer.write_u32(id).await?;
                    let length = u32::try_from(part.len()).map_err(io::Error::other)?;
                    writer.write_u32(u32::from(flags) << 24 | length).await?;
                    writer.write_all(&part).await?;
                    if rest.is_empty() {
                        break;
                    }
                }
            }
            Frame::Reset(id) => {
                control(&mut writer, RST_STREAM, 0, 8).await?;
                writer.write_u32(id).await?;
                writer.write_u32(CANCEL).await?;
            }
            Frame::Ping(id) => {
                control(&mut writer, PING, 0, 4).await?;
                writer.write_u32(id).await?;
            }
        }
        if frames.is_empty() {
            writer.flush().await?;
        }
    }
    Ok(())
}

async fn control<W: AsyncWrite + Unpin>(writer: &mut W, kind: u16, flags: u8, length: u32) -> io::Result<()> {
    writer.write_u16(0x8000 | VERSION).await?;
    writer.write_u16(kind).await?;
    writer.write_u32(u32::from(flags) << 24 | length).await
}

async fn read_all<R: AsyncRead + Unpin>(
    mut reader: R,
    streams: mpsc::Sender<Stream>,
    out: mpsc::Sender<Frame>,
) -> io::Result<()> {
    let mut decompressor = Decompressor::new();
    let mut open = Open::default();
    loop {
        let first = match reader.read_u32().await {
            Ok(first) => first,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let second = reader.read_u32().await?;
        let [flags, ..] = second.to_be_bytes();
        let length = (second & 0x00ff_ffff) as usize;
        if first & 0x8000_0000 == 0 {
            // In pieces, so that a length alone takes no memory.
            let mut rest = length;
            loop {
                let mut data = vec![0; rest.min(CHUNK)];
                reader.read_exact(&mut data).await?;
                rest -= data.len();
                open.deliver(first, data, if rest == 0 { flags } else { 0 }).await;
                if rest == 0 {
                    break;
                }
            }
            continue;
        }
        if length > MAX_CONTROL {
            return Err(io::Error::other("control frame is too long"));
        }
        let mut payload = vec![0; length];
        reader.read_exact(&mut payload).await?;
        let kind = u16::try_from(first & 0xffff).unwrap_or(0);
        let id = word(&payload, 0).map(|id| id & 0x7fff_ffff);
        match (kind, id) {
            (SYN_STREAM, Ok(id)) => {
                let block = payload.get(10..).ok_or_else(short)?;
                let headers = decompressor.read(block)?;
                let (sender, data) = mpsc::channel(QUEUE);
                if flags & FIN == 0 {
                    open.insert(id, sender)?;
                }
                let writer = StreamWriter { id, out: out.clone() };
                let gone = out.send(Frame::Reply(id)).await.is_err();
                if gone || streams.send(Stream { headers, data, writer }).await.is_err() {
                    return Ok(());
                }
            }
            // The compression's state spans all header blocks.
            (HEADERS | SYN_REPLY, Ok(_)) => {
                decompressor.read(payload.get(4..).ok_or_else(short)?)?;
            }
            (RST_STREAM, Ok(id)) => {
                open.streams.remove(&id);
            }
            (PING, Ok(id)) => {
                if out.send(Frame::Ping(id)).await.is_err() {
                    return Ok(());
                }
            }
            (GOAWAY, _) => return Ok(()),
            (_, Ok(_)) => {}
            (SYN_STREAM | RST_STREAM | PING | HEADERS | SYN_REPLY, Err(error)) => return Err(error),
            (_, Err(_)) => {}
        }
    }
}

/// Streams on which the client may send.
struct Open {
    streams: HashMap<u32, mpsc::Sender<Bytes>>,
    /// Bytes that may still wait.
    room: Arc<Semaphore>,
}

impl Default for Open {
    fn default() -> Self {
        Self { streams: HashMap::new(), room: Arc::new(Semaphore::new(BYTES_WAITING_MAX)) }
    }
}

/// Bytes that count against the connection's until they have been read.
struct Counted {
    data: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Open {
    fn insert(&mut self, id: u32, sender: mpsc::Sender<Bytes>) -> io::Result<()> {
        if self.streams.len() >= STREAMS_MAX {
            // The client has not ended those that were given up here.
            self.streams.retain(|_, sender| !sender.is_closed());
            if self.streams.len() >= STREAMS_MAX {
                return Err(io::Error::other("too many streams are open"));
            }
        }
        self.streams.insert(id, sender);
        Ok(())
    }

    /// Hands data on when there is room for it. Data for streams that nobody reads is thrown away.
    async fn deliver(&mut self, id: u32, data: Vec<u8>, flags: u8) {
        if !data.is_empty()
            && let Some(sender) = self.streams.get(&id)
        {
            let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
            let hand_on = async {
                // Nobody closes it, and no piece is larger than all there is.
                let Ok(room) = Arc::clone(&self.room).acquire_many_owned(size).await else { return false };
                sender.send(Bytes::from_owner(Counted { data, _room: room })).await.is_ok()
            };
            let taken = tokio::select! {
                biased;
                () = sender.closed() => false,
                taken = hand_on => taken,
            };
            if !taken {
                // Nobody reads it any more.
                self.streams.remove(&id);
            }
        }
        if flags & FIN != 0 {
            self.streams.remove(&id);
        }
    }
}

fn short() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "frame is too short")
}

fn word(payload: &[u8], at: usize) -> io::Result<u32> {
    let bytes = payload.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()).ok_or_else(short)?;
    Ok(u32::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's SYN_STREAM with headers, as Go's library writes it.
    fn syn_stream(compressor: &mut Compressor, id: u32, headers: &[(&str, &str)]) -> Vec<u8> {
        let block = compressor.compress(headers).unwrap();
        let mut frame = vec![0x80, 3, 0, 1, 0];
        frame.extend_from_slice(&u32::try_from(10 + block.len()).unwrap().to_be_bytes()[1..]);
        frame.extend_from_slice(&id.to_be_bytes());
        frame.extend_from_slice(&[0; 6]);
        frame.extend_from_slice(&block);
        frame
    }

    #[tokio::test]
    async fn streams_carry_data_both_ways() {
        let (client, server) = tokio::io::duplex(1 << 16);
        let closed = Shutdown::new();
        let (mut streams, driver) = serve(server, closed.clone());
        let driver = tokio::spawn(driver);
        let (mut read, mut write) = tokio::io::split(client);
        let mut compressor = Compressor::new();
        write.write_all(&syn_stream(&mut compressor, 1, &[("streamtype", "data"), ("port", "80")])).await.unwrap();
        write.write_all(&syn_stream(&mut compressor, 3, &[("streamtype", "error")])).await.unwrap();
        write.write_all(&[0, 0, 0, 1, FIN, 0, 0, 2, b'h', b'i']).await.unwrap();
        let mut first = streams.recv().await.unwrap();
        assert_eq!((first.headers["streamtype"].as_str(), first.headers["port"].as_str()), ("data", "80"));
        assert_eq!(streams.recv().await.unwrap().headers["streamtype"], "error");
        assert_eq!(first.data.recv().await.unwrap(), "hi");
        assert_eq!(first.data.recv().await, None);
        first.writer.send(Bytes::from_static(b"yo")).await;
        first.writer.finish().await;
        let mut seen = Vec::new();
        while !seen.ends_with(&[0, 0, 0, 1, 0, 0, 0, 2, b'y', b'o', 0, 0, 0, 1, FIN, 0, 0, 0]) {
            seen.push(read.read_u8().await.unwrap());
        }
        assert_eq!(&seen[..4], [0x80, 3, 0, 2], "the stream is answered first");
        drop((read, write));
        driver.await.unwrap().unwrap();
        assert!(closed.is_cancelled());
    }

    #[tokio::test]
    async fn what_waits_to_be_read_is_bounded() {
        let (client, server) = tokio::io::duplex(1 << 16);
        let (mut streams, driver) = serve(server, Shutdown::new());
        let driver = tokio::spawn(driver);
        let (mut read, mut write) = tokio::io::split(client);
        let drain = tokio::spawn(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
        let mut compressor = Compressor::new();
        let mut held = Vec::new();
        for n in 0..4 {
            write.write_all(&syn_stream(&mut compressor, 2 * n + 1, &[("streamtype", "data")])).await.unwrap();
            held.push(streams.recv().await.unwrap());
        }
        // More than may wait, to streams that nobody reads: the connection stops taking it.
        let sending = tokio::spawn(async move {
            for n in 0..4u32 {
                for _ in 0..BYTES_WAITING_MAX / CHUNK / 2 {
                    write.write_all(&(2 * n + 1).to_be_bytes()).await.unwrap();
                    write.write_all(&u32::try_from(CHUNK).unwrap().to_be_bytes()).await.unwrap();
                    write.write_all(&vec![7; CHUNK]).await.unwrap();
                }
            }
            write
        });
        let waiting = |held: &[Stream]| held.iter().map(|stream| stream.data.len()).sum::<usize>();
        while waiting(&held) < BYTES_WAITING_MAX / CHUNK {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(waiting(&held) == BYTES_WAITING_MAX / CHUNK && !sending.is_finished());
        // Whoever gives its stream up frees what it held.
        held.clear();
        sending.await.unwrap().shutdown().await.unwrap();
        driver.await.unwrap().unwrap();
        drain.abort();
    }

    #[tokio::test]
    async fn streams_that_are_too_many_end_the_connection() {
        let (sender, _kept) = mpsc::channel(1);
        let mut open = Open::default();
        for id in 0..u32::try_from(STREAMS_MAX).unwrap() {
            open.insert(id, sender.clone()).unwrap();
        }
        assert!(open.insert(u32::MAX, sender).is_err());
        drop(_kept);
        let (sender, _kept) = mpsc::channel(1);
        open.insert(u32::MAX, sender).unwrap();
        assert_eq!(open.streams.len(), 1, "those that were given up still count");
    }

    /// Lets a server read what a client may send, to its end.
    fn read_to_end(bytes: &[u8]) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut client, server) = tokio::io::duplex(1 << 20);
            let (mut streams, driver) = serve(server, Shutdown::new());
            client.write_all(bytes).await.unwrap();
            client.shutdown().await.unwrap();
            // Streams are taken and dropped, as by a server that has nothing to do with them.
            let drain = async { while streams.recv().await.is_some() {} };
            let _ = tokio::join!(driver, drain);
        });
    }

    /// Frames that are right but for what they hold.
    fn frames() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
        use proptest::prelude::*;
        let frame = (any::<bool>(), 0u16..12, 0u32..4, any::<u8>(), prop::collection::vec(any::<u8>(), 0..40));
        prop::collection::vec(frame, 0..6).prop_map(|frames| {
            let mut out = Vec::new();
            for (control, kind, id, flags, payload) in frames {
                let first = if control { 0x8003_0000 | u32::from(kind) } else { id };
                out.extend_from_slice(&first.to_be_bytes());
                let length = u32::try_from(payload.len() + 4 * usize::from(control)).unwrap();
                out.extend_from_slice(&(u32::from(flags) << 24 | length).to_be_bytes());
                if control {
                    out.extend_from_slice(&id.to_be_bytes());
                }
                out.extend_from_slice(&payload);
            }
            out
        })
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            read_to_end(&bytes);
        }

        #[test]
        fn no_frames_panic(bytes in frames()) {
            read_to_end(&bytes);
        }
    }
}
