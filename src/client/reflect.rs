//! Follows one resource and tells a [`Sink`] about every object, as bytes.
//!
//! The requests and the framing are here; what to do next is [`crate::machine`]'s; what an object means is the sink's.

use std::borrow::Cow;
use std::time::Duration;

use base::Shutdown;
use bytes::{Bytes, BytesMut};
use http::Method;
use http_body_util::BodyExt;
use kube::client::Body;
use rand::Rng;
use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::{debug, warn};

use crate::client::{Client, JSON, list_query};
use crate::error::Error;
use crate::machine::{Effect, Failure, Input, Machine, Next, Request};
use crate::resource::raw_items;

/// Objects in a page of a list.
const PAGE: &str = "500";
/// A watch is asked to last for 5 to 10 minutes, so that watches of many do not end together (client-go reflector).
const WATCH_SECONDS_MIN: u64 = 300;
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// What is followed.
#[derive(Clone)]
pub struct Source {
    pub client: Client,
    /// The list path, e.g. `/apis/apps/v1/deployments`.
    pub path: String,
    /// Empty for all.
    pub field_selector: String,
    /// Ask for metadata only (`PartialObjectMetadata`).
    pub metadata_only: bool,
}

/// Receives a resource's state and changes, in order.
///
/// An error means that the object could not be decoded: it is logged and left out.
pub trait Sink: Send {
    /// An object of the initial state; only [`Sink::replace`] makes it count.
    ///
    /// # Errors
    /// The object cannot be decoded.
    fn initial(&mut self, object: &[u8]) -> Result<(), serde_json::Error>;
    /// The initial state is complete; what it did not name is gone.
    fn replace(&mut self);
    /// The initial state is about to come again from the beginning.
    fn discard(&mut self);
    /// An object was added or changed; returns its `resourceVersion`.
    ///
    /// # Errors
    /// The object cannot be decoded.
    fn changed(&mut self, object: &[u8]) -> Result<String, serde_json::Error>;
    /// Everything up to this version has been told.
    fn reached(&mut self, _version: &str) {}
    /// An object was deleted; returns the `resourceVersion` of that.
    ///
    /// # Errors
    /// The object cannot be decoded.
    fn deleted(&mut self, object: &[u8]) -> Result<String, serde_json::Error>;
}

/// Follows `source` until shutdown.
pub async fn run(source: Source, sink: &mut dyn Sink, shutdown: Shutdown) {
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = follow(&source, sink) => {}
    }
}

async fn follow(source: &Source, sink: &mut dyn Sink) {
    let (mut machine, mut request) = Machine::new();
    let mut stream: Option<Lines> = None;
    loop {
        let input = match stream.as_mut() {
            Some(lines) => read(lines, &machine, sink, source).await,
            None => match ask(source, &request, sink).await {
                Ok(Answer::Page(input)) => input,
                Ok(Answer::Stream(lines)) => {
                    stream = Some(lines);
                    continue;
                }
                Err(error) => {
                    let failure = classify(&error);
                    if failure == Failure::Other {
                        warn!(path = %source.path, error = %base::chain(&error), "cannot list or watch");
                    } else {
                        debug!(path = %source.path, error = %base::chain(&error), "list or watch refused");
                    }
                    Input::Failed(failure)
                }
            },
        };
        let reached = match &input {
            Input::Bookmark { version, .. } | Input::Page { version, .. } => version.clone(),
            _ => String::new(),
        };
        let step = machine.step(input);
        match step.effect {
            Effect::None => {}
            Effect::Replace => sink.replace(),
            Effect::Discard => sink.discard(),
        }
        if !machine.is_initial() && !reached.is_empty() {
            sink.reached(&reached);
        }
        match step.next {
            Next::Read => {}
            Next::Ask(next) => {
                stream = None;
                request = next;
            }
            Next::Wait(delay, next) => {
                stream = None;
                tokio::time::sleep(delay).await;
                request = next;
            }
        }
    }
}

enum Answer {
    Page(Input),
    Stream(Lines),
}

async fn ask(source: &Source, request: &Request, sink: &mut dyn Sink) -> Result<Answer, Error> {
    let mut query = list_query(&source.field_selector);
    let timeout = rand::rng().random_range(WATCH_SECONDS_MIN..=2 * WATCH_SECONDS_MIN).to_string();
    match request {
        Request::Page { continue_token } => {
            query.add("limit", PAGE);
            query.add_nonempty("continue", continue_token);
        }
        Request::Stream => {
            query.add("watch", "true");
            query.add("sendInitialEvents", "true");
            query.add("resourceVersionMatch", "NotOlderThan");
            query.add("allowWatchBookmarks", "true");
            query.add("timeoutSeconds", &timeout);
        }
        Request::Watch { version } => {
            query.add("watch", "true");
            query.add("allowWatchBookmarks", "true");
            query.add_nonempty("resourceVersion", version);
            query.add("timeoutSeconds", &timeout);
        }
    }
    let is_page = matches!(request, Request::Page { .. });
    let accept = match (source.metadata_only, is_page) {
        (false, _) => JSON,
        (true, true) => "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
        (true, false) => "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json",
    };
    let url = format!("{}{}", source.path, query.as_str());
    let answer = source.client.open(Method::GET, &url, accept, "", Vec::new()).await?;
    if !is_page {
        return Ok(Answer::Stream(Lines::new(answer.into_body())));
    }
    let body = answer.into_body().collect().await.map_err(|e| Error::Transport(Box::new(e)))?.to_bytes();
    let head: ListHead = serde_json::from_slice(&body).map_err(Error::Decode)?;
    for item in raw_items(&body).map_err(Error::Decode)? {
        if let Err(error) = sink.initial(item.get().as_bytes()) {
            warn!(path = %source.path, %error, "cannot decode an object");
        }
    }
    Ok(Answer::Page(Input::Page {
        continue_token: head.metadata.continue_token,
        version: head.metadata.resource_version,
    }))
}

/// Reads one event of a watch and gives its object to the sink.
async fn read(lines: &mut Lines, machine: &Machine, sink: &mut dyn Sink, source: &Source) -> Input {
    let line = match lines.next().await {
        Ok(Some(line)) => line,
        Ok(None) => return Input::Ended,
        Err(error) => {
            debug!(path = %source.path, %error, "watch broke");
            return Input::Ended;
        }
    };
    let frame: Frame<'_> = match serde_json::from_slice(&line) {
        Ok(frame) => frame,
        Err(error) => {
            // Half a line when the connection broke; a whole one that is no event would be a fault of the server.
            debug!(path = %source.path, %error, "watch brought something that is no event");
            return Input::Ended;
        }
    };
    let object = frame.object.get().as_bytes();
    let decoded = match &*frame.kind {
        "ADDED" | "MODIFIED" if machine.is_initial() => sink.initial(object).map(|()| String::new()),
        "ADDED" | "MODIFIED" => sink.changed(object),
        "DELETED" => sink.deleted(object),
        "BOOKMARK" => {
            return match serde_json::from_slice::<Head>(object) {
                Ok(head) => Input::Bookmark {
                    initial_end: head.metadata.annotations.get(INITIAL_EVENTS_END).is_some_and(|v| v == "true"),
                    version: head.metadata.resource_version,
                },
                Err(_) => Input::Event { version: String::new() },
            };
        }
        "ERROR" => {
            let error = Error::from_answer(500, None, object);
            debug!(path = %source.path, %error, "watch ended with an error");
            return Input::Failed(classify(&error));
        }
        _ => Ok(String::new()),
    };
    match decoded {
        Ok(version) => Input::Event { version },
        Err(error) => {
            warn!(path = %source.path, %error, "cannot decode an object");
            Input::Event { version: String::new() }
        }
    }
}

fn classify(error: &Error) -> Failure {
    match error {
        _ if error.is_gone() => Failure::Expired,
        Error::Api { code: 429 | 503, retry_after_s, .. } => {
            Failure::Busy(Duration::from_secs(retry_after_s.unwrap_or(1).clamp(1, 60)))
        }
        // How servers say that they do not stream the initial state (`sendInitialEvents` forbidden or unknown).
        Error::Api { code: 400 | 422, .. } => Failure::Unsupported,
        _ => Failure::Other,
    }
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct ListHead {
    #[serde(default)]
    metadata: ListMeta,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    continue_token: String,
}

#[derive(Deserialize)]
struct Head {
    metadata: HeadMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

/// A body cut at newlines.
struct Lines {
    body: Body,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no newline.
    searched: usize,
}

impl Lines {
    fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0 }
    }

    /// The next line; `None` at the end. A last line without newline is given too.
    async fn next(&mut self) -> Result<Option<Bytes>, kube::Error> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(self.searched + at + 1).freeze();
                self.searched = 0;
                if line.len() > 1 {
                    return Ok(Some(line));
                }
                continue;
            }
            self.searched = self.buffer.len();
            match self.body.frame().await {
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    self.searched = 0;
                    return Ok(Some(self.buffer.split().freeze()));
                }
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        if self.buffer.is_empty() {
                            // The usual case, a chunk of whole events, is not copied if nobody else holds it.
                            self.buffer = BytesMut::from(data);
                        } else {
                            self.buffer.extend_from_slice(&data);
                        }
                    }
                }
            }
        }
    }
}

/// The object without `metadata.managedFields`, which no component reads and which would be a good part of an
/// informer's memory. Whatever is not shaped as expected is returned as it is, for the decoder to judge.
pub fn without_managed_fields(object: &[u8]) -> Cow<'_, [u8]> {
    let Some((start, end)) = find_managed_fields(object) else { return Cow::Borrowed(object) };
    let mut bytes = Vec::with_capacity(object.len() - (end - start));
    bytes.extend_from_slice(&object[..start]);
    bytes.extend_from_slice(&object[end..]);
    Cow::Owned(bytes)
}

/// The range to cut, one of its commas included.
fn find_managed_fields(json: &[u8]) -> Option<(usize, usize)> {
    let metadata = member(json, 0, b"\"metadata\"")?;
    let found = member(json, metadata.value, b"\"managedFields\"")?;
    let end = skip_value(json, found.value)?;
    let after = skip_space(json, end);
    match (json.get(after), found.comma_before) {
        (Some(b','), _) => Some((found.key, after + 1)),
        (_, Some(comma)) => Some((comma, end)),
        _ => Some((found.key, end)),
    }
}

struct Member {
    comma_before: Option<usize>,
    key: usize,
    value: usize,
}

/// Finds a member of the object that begins at `at`.
fn member(json: &[u8], at: usize, name: &[u8]) -> Option<Member> {
    let mut at = skip_space(json, at);
    if json.get(at) != Some(&b'{') {
        return None;
    }
    at += 1;
    let mut comma_before = None;
    loop {
        let key = skip_space(json, at);
        if json.get(key) != Some(&b'"') {
            return None;
        }
        let key_end = skip_value(json, key)?;
        let colon = skip_space(json, key_end);
        if json.get(colon) != Some(&b':') {
            return None;
        }
        let value = skip_space(json, colon + 1);
        if &json[key..key_end] == name {
            return Some(Member { comma_before, key, value });
        }
        let comma = skip_space(json, skip_value(json, value)?);
        if json.get(comma) != Some(&b',') {
            return None;
        }
        comma_before = Some(comma);
        at = comma + 1;
    }
}

fn skip_space(json: &[u8], mut at: usize) -> usize {
    while json.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

/// Where the value that begins at `at` ends.
fn skip_value(json: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    loop {
        match json.get(at)? {
            b'"' => {
                at += 1;
                while *json.get(at)? != b'"' {
                    at += if json[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'{' | b'[' => {
                depth += 1;
                at += 1;
                continue;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                at += 1;
            }
            _ if depth > 0 => {
                at += 1;
                continue;
            }
            _ => {
                while json.get(at).is_some_and(|b| !b",}] \n\r\t".contains(b)) {
                    at += 1;
                }
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managed_fields_are_cut_wherever_they_stand() {
        let rest = r#"{"kind":"Pod","metadata":{"name":"a"},"spec":{"x":"managedFields"}}"#;
        for with in [
            r#"{"kind":"Pod","metadata":{"name":"a","managedFields":[{"f:\"}":{"a":[1,{}]}}]},"spec":{"x":"managedFields"}}"#,
            r#"{"kind":"Pod","metadata":{"managedFields":[{"m":"]"}],"name":"a"},"spec":{"x":"managedFields"}}"#,
            rest,
        ] {
            assert_eq!(String::from_utf8_lossy(&without_managed_fields(with.as_bytes())), rest);
        }
        let alone = br#"{ "metadata" : { "managedFields" : null } }"#;
        let cut = without_managed_fields(alone);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&cut).unwrap(), serde_json::json!({"metadata": {}}));
    }

    #[test]
    fn broken_json_is_left_alone() {
        for bad in
            [r#"{"metadata":{"managedFields":[{"#, "", "[]", r#"{"metadata":"x"}"#, r#"{"metadata":{"a":"\"#, "}"]
        {
            assert_eq!(&*without_managed_fields(bad.as_bytes()), bad.as_bytes());
        }
    }
}
