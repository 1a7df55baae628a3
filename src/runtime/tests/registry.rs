//! A registry on loopback that serves the image of an archive, badly: it breaks off the first transfer of each larger
//! blob, and wants a password for names that begin with `private/`.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Blobs beyond this break off once.
const WHOLE_BYTES: usize = 100_000;

pub struct Registry {
    pub address: String,
    state: Arc<State>,
}

struct State {
    blobs: HashMap<String, Vec<u8>>,
    manifest: String,
    broken: Mutex<HashSet<String>>,
    ranges: AtomicUsize,
}

impl Registry {
    /// How many requests began in the middle of a blob.
    pub fn ranges(&self) -> usize {
        self.state.ranges.load(Ordering::Relaxed)
    }
}

/// Files of a tar archive.
fn files(archive: &Path) -> HashMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(std::fs::File::open(archive).unwrap());
    let mut files = HashMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        files.insert(name, bytes);
    }
    files
}

/// The blobs of a layout by digest, and the digest of its manifest.
fn layout(archive: &Path) -> (HashMap<String, Vec<u8>>, String) {
    let files = files(archive);
    let index: serde_json::Value = serde_json::from_slice(&files["index.json"]).unwrap();
    let manifest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let blobs = files
        .into_iter()
        .filter_map(|(name, bytes)| name.strip_prefix("blobs/sha256/").map(|hex| (format!("sha256:{hex}"), bytes)));
    (blobs.collect(), manifest)
}

pub async fn serve(archive: &Path) -> Registry {
    let (blobs, manifest) = layout(archive);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let state = Arc::new(State { blobs, manifest, broken: Mutex::default(), ranges: AtomicUsize::new(0) });
    let served = state.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, served.clone()));
        }
    });
    Registry { address, state }
}

/// Answers one request and closes.
async fn answer(stream: TcpStream, state: Arc<State>) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader.take(65536)).lines();
    let request = lines.next_line().await?.unwrap_or_default();
    let mut headers = HashMap::new();
    while let Some(line) = lines.next_line().await? {
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let reply = |status: &str, extra: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{extra}\r\n", body.len());
        [head.as_bytes(), body].concat()
    };
    let allowed = headers.get("authorization").is_some_and(|value| value == "Basic dXNlcjpzZWNyZXQ=");
    let realm = "WWW-Authenticate: Basic realm=\"test\"\r\n";
    let bytes = if path == "/v2/" {
        // A registry that has private names asks for a password at its door; anonymous clients may try all the same.
        match allowed {
            true => reply("200 OK", "", b"{}"),
            false => reply("401 Unauthorized", realm, b"{}"),
        }
    } else if path.starts_with("/v2/private/") && !allowed {
        reply("401 Unauthorized", realm, br#"{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}"#)
    } else if let Some((_, reference)) = path.split_once("/manifests/") {
        let digest = if reference == "v1" { &state.manifest } else { reference };
        match state.blobs.get(digest) {
            Some(bytes) => reply("200 OK", "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n", bytes),
            None => reply("404 Not Found", "", br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no"}]}"#),
        }
    } else if let Some((_, digest)) = path.split_once("/blobs/") {
        blob(&state, digest, headers.get("range"), reply)
    } else {
        reply("404 Not Found", "", b"{}")
    };
    writer.write_all(&bytes).await?;
    writer.shutdown().await
}

fn blob(state: &State, digest: &str, range: Option<&String>, reply: impl Fn(&str, &str, &[u8]) -> Vec<u8>) -> Vec<u8> {
    let Some(bytes) = state.blobs.get(digest) else {
        return reply("404 Not Found", "", br#"{"errors":[{"code":"BLOB_UNKNOWN","message":"no"}]}"#);
    };
    let start = range.and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse::<usize>().ok());
    if let Some(start) = start {
        state.ranges.fetch_add(1, Ordering::Relaxed);
        let extra = format!("Content-Range: bytes {start}-{}/{}\r\n", bytes.len() - 1, bytes.len());
        return reply("206 Partial Content", &extra, &bytes[start..]);
    }
    let mut whole = reply("200 OK", "", bytes);
    if bytes.len() > WHOLE_BYTES && state.broken.lock().insert(digest.to_owned()) {
        whole.truncate(whole.len() - bytes.len() / 2);
    }
    whole
}

/// The same image as `docker save` writes it.
pub fn save_as_docker(archive: &Path, path: &Path, tag: &str) {
    let (blobs, manifest) = layout(archive);
    let manifest: serde_json::Value = serde_json::from_slice(&blobs[&manifest]).unwrap();
    let config = manifest["config"]["digest"].as_str().unwrap();
    let mut out = tar::Builder::new(std::fs::File::create(path).unwrap());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        out.append_data(&mut header, name, bytes).unwrap();
    };
    let config_name = format!("{}.json", &config["sha256:".len()..]);
    add(&config_name, &blobs[config]);
    let mut names = Vec::new();
    for (n, layer) in manifest["layers"].as_array().unwrap().iter().enumerate() {
        let name = format!("{n}/layer.tar");
        add(&name, &blobs[layer["digest"].as_str().unwrap()]);
        names.push(name);
    }
    let saved = serde_json::json!([{"Config": config_name, "RepoTags": [tag], "Layers": names}]);
    add("manifest.json", &serde_json::to_vec(&saved).unwrap());
    out.finish().unwrap();
}
