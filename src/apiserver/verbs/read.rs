//! Get and list, with upstream's meaning of resourceVersion, limit and continue.

use std::sync::Arc;

use api::Status;
use api::field::{Error, ErrorList, Path};
use api::selector::{FieldSelector, LabelSelector};
use api::status::Details;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use storage::{KeyRange, RangeOptions, Revision, StoreError};

use crate::cache::Listing;
use crate::cache::entry::Entry;
use crate::cache::view::Selection;
use crate::errors;
use crate::query::Query;
use crate::request::RequestInfo;
use crate::respond::ListMeta;
use crate::served::{Served, Stored};
use crate::server::ApiServer;

/// `ListOptions`.
pub struct ListOptions {
    pub selection: Selection,
    pub resource_version: String,
    pub version_match: String,
    pub limit: usize,
    pub continue_token: String,
    pub watch: bool,
    pub allow_bookmarks: bool,
    pub send_initial_events: Option<bool>,
    pub timeout_seconds: Option<i64>,
}

impl ListOptions {
    /// Reads and checks the query (apimachinery `internalversion/validation`).
    pub fn read(served: &Served, stored: &Stored, info: &RequestInfo, query: &Query) -> Result<Self, Status> {
        let watch = info.verb == "watch" || query.flag("watch");
        let labels =
            LabelSelector::parse(query.text("labelSelector")).map_err(|e| Status::bad_request(e.to_string()))?;
        let fields =
            FieldSelector::parse(query.text("fieldSelector")).map_err(|e| Status::bad_request(e.to_string()))?;
        for requirement in fields.requirements() {
            let path = requirement.field.as_str();
            // Conversion functions of cluster-scoped kinds know no namespace.
            let bare =
                served.def.namespaced || (served.def.selectable_fields.is_empty() && served.def.custom.is_none());
            let of_kind = served.def.selectable_fields.iter().any(|f| f.path == path);
            if path == "metadata.name" || of_kind {
                continue;
            }
            if let Some(text) = served.def.strategy.refuse_field(path) {
                return Err(Status::bad_request(text));
            }
            if path != "metadata.namespace" || !bare {
                return Err(unknown_field(served, path));
            }
        }
        let limit = query.number("limit")?.unwrap_or_default();
        let options = Self {
            selection: Selection {
                view: Arc::clone(&stored.view),
                namespace: if served.def.namespaced { info.namespace.clone() } else { String::new() },
                name: info.name.clone(),
                labels,
                fields,
                tells_previous: false,
            },
            resource_version: query.text("resourceVersion").to_owned(),
            version_match: query.text("resourceVersionMatch").to_owned(),
            limit: usize::try_from(limit).unwrap_or_default(),
            continue_token: query.text("continue").to_owned(),
            watch,
            allow_bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: query.optional_flag("sendInitialEvents"),
            timeout_seconds: query.number("timeoutSeconds")?,
        };
        options.validate()?;
        options.with_defaults().narrowed(info)
    }

    fn validate(&self) -> Result<(), Status> {
        let mut errors = ErrorList::new();
        let at_match = || Path::new("resourceVersionMatch");
        let matching = self.version_match.as_str();
        if self.watch {
            if self.send_initial_events.is_some() && matching != "NotOlderThan" {
                let detail = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
                errors.push(Error::forbidden(at_match(), detail));
            }
            if !matching.is_empty() {
                if self.send_initial_events.is_none() {
                    let detail = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                    errors.push(Error::forbidden(at_match(), detail));
                }
                if matching != "NotOlderThan" {
                    errors.push(Error::not_supported(at_match(), matching, &["NotOlderThan"]));
                }
            }
            if !self.continue_token.is_empty() {
                let detail = "resourceVersionMatch is forbidden when continue is provided";
                errors.push(Error::forbidden(at_match(), detail));
            }
        } else {
            if !matching.is_empty() {
                if self.resource_version.is_empty() {
                    let detail = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                    errors.push(Error::forbidden(at_match(), detail));
                }
                if !self.continue_token.is_empty() {
                    let detail = "resourceVersionMatch is forbidden when continue is provided";
                    errors.push(Error::forbidden(at_match(), detail));
                }
                if matching != "Exact" && matching != "NotOlderThan" {
                    errors.push(Error::not_supported(at_match(), matching, &["Exact", "NotOlderThan", ""]));
                }
                if matching == "Exact" && self.resource_version == "0" {
                    let detail = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                    errors.push(Error::forbidden(at_match(), detail));
                }
            }
            if self.send_initial_events.is_some() {
                errors
                    .push(Error::forbidden(Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list"));
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "ListOptions", "", &errors)) }
    }

    /// `SetListOptionsDefaults`: watches from nowhere begin with what there is, and say where it ends.
    fn with_defaults(mut self) -> Self {
        let from_nowhere = matches!(self.resource_version.as_str(), "" | "0");
        if self.watch && from_nowhere && self.send_initial_events.is_none() && self.version_match.is_empty() {
            self.send_initial_events = Some(true);
            "NotOlderThan".clone_into(&mut self.version_match);
        }
        self
    }

    /// Lets a name or namespace in the field selector stand for the URL's.
    fn narrowed(mut self, info: &RequestInfo) -> Result<Self, Status> {
        let by_field = self.selection.fields.requires_exact("metadata.name").map(ToOwned::to_owned);
        if !info.name.is_empty() && !self.selection.fields.is_empty() && by_field.as_deref() != Some(&*info.name) {
            return Err(Status::bad_request("fieldSelector metadata.name doesn't match requested name"));
        }
        if let Some(name) = by_field {
            self.selection.name = name;
        }
        if self.selection.namespace.is_empty()
            && self.selection.view.def.namespaced
            && let Some(namespace) = self.selection.fields.requires_exact("metadata.namespace")
        {
            self.selection.namespace = namespace.to_owned();
        }
        Ok(self)
    }

    /// The requested version as a number; `None` if unset.
    pub fn revision(&self) -> Result<Option<i64>, Status> {
        parse_version(&self.resource_version)
    }
}

fn unknown_field(served: &Served, path: &str) -> Status {
    // Conversion functions and the default (metadata only) word this differently upstream.
    if served.def.selectable_fields.is_empty() && served.def.custom.is_none() {
        Status::bad_request(format!(
            "{path:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        ))
    } else {
        Status::bad_request(format!("field label not supported: {path}"))
    }
}

/// `Versioner.ParseResourceVersion`.
pub fn parse_version(text: &str) -> Result<Option<i64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<u64>() {
        // What is beyond the numbers of revisions is as far away as the last of them.
        Ok(version) if !text.starts_with('+') => Ok(Some(i64::try_from(version).unwrap_or(i64::MAX))),
        _ => {
            let why = if text.bytes().all(|b| b.is_ascii_digit()) { "value out of range" } else { "invalid syntax" };
            Err(Status::bad_request(format!(
                "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing \
                 {text:?}: {why}"
            )))
        }
    }
}

/// A version that cannot be read, as upstream's storage tells it where no handler words it again.
pub(super) fn of_storage(status: &Status) -> Status {
    let why = status.message.strip_prefix("invalid resource version: ").unwrap_or(&status.message);
    Status::new(500, "", why)
}

/// The object by name, at least as new as `resourceVersion` asks.
pub async fn get(
    served: &Served,
    stored: &Stored,
    namespace: &str,
    name: &str,
    version: &str,
) -> Result<Arc<Entry>, Status> {
    // The storage says this here, not the handler, so nobody makes a bad request of it.
    match parse_version(version).map_err(|status| of_storage(&status))? {
        None => drop(stored.cache.fresh().await?),
        Some(0) => stored.cache.ready().await?,
        Some(version) => drop(stored.cache.not_older_than(version).await?),
    }
    let key = served.key(namespace, name);
    let entry = stored.cache.get(&key).ok_or_else(|| match stored.cache.unreadable(&key) {
        Some(found) => found.not_readable(&format!("{}{key}", stored.cache.prefix)),
        None => served.not_found(name),
    })?;
    stored.view.prepare(std::slice::from_ref(&entry)).await?;
    Ok(entry)
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct ContinueToken {
    v: String,
    rv: i64,
    start: String,
}

/// Where a continued list goes on: revision (-1: now) and key.
fn decode_continue(token: &str) -> Result<(i64, String), Status> {
    let bad = |why: &str| Status::bad_request(format!("invalid continue token: continue key is not valid{why}"));
    let data = URL_SAFE_NO_PAD
        .decode(token)
        .map_err(|_| bad(&format!(": illegal base64 data at input byte {}", first_illegal(token))))?;
    let token: ContinueToken = serde_json::from_slice(&data).map_err(|e| bad(&format!(": {e}")))?;
    if token.v != "meta.k8s.io/v1" {
        return Err(bad(&format!(": server does not recognize this encoded version {}", token.v)));
    }
    if token.rv == 0 {
        return Err(bad(": incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
    }
    if token.start.is_empty() {
        return Err(bad(": encoded start key empty (version meta.k8s.io/v1)"));
    }
    let key = token.start.strip_prefix('/').unwrap_or(&token.start);
    if key.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(bad(&format!(": {}", token.start)));
    }
    Ok((token.rv, key.to_owned()))
}

/// Where Go's decoder stops at a text that is no base64.
fn first_illegal(token: &str) -> usize {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    token.bytes().position(|b| !legal(b)).unwrap_or_else(|| token.len().saturating_sub(1))
}

fn encode_continue(last_key: &str, revision: i64) -> String {
    let token = ContinueToken { v: "meta.k8s.io/v1".to_owned(), rv: revision, start: format!("/{last_key}\0") };
    // Strings and numbers always serialise.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

/// A page of objects.
pub async fn list(
    server: &ApiServer,
    stored: &Stored,
    options: &ListOptions,
) -> Result<(ListMeta, Vec<Arc<Entry>>), Status> {
    let selection = &options.selection;
    // Who takes any version gets everything (`delegator.ShouldDelegateList`), or the rest of it (`computeListLimit`).
    let any = options.resource_version == "0";
    let limit = if any { 0 } else { options.limit };
    let mut listing = match selection.before_conversion() {
        None => page(server, stored, options, selection, limit).await?,
        Some(broad) => page(server, stored, options, &broad, 0).await?,
    };
    stored.cache.check_readable(selection)?;
    stored.view.prepare(&listing.entries).await?;
    if selection.before_conversion().is_some() {
        listing.entries.retain(|entry| selection.matches(entry));
        listing.more = limit > 0 && listing.entries.len() > limit;
        if listing.more {
            listing.entries.truncate(limit);
        }
    }
    let prefix = selection.key_prefix();
    let continue_token = match (listing.more, listing.entries.last()) {
        (true, Some(last)) => encode_continue(last.key.strip_prefix(&*prefix).unwrap_or(&last.key), listing.revision),
        _ => String::new(),
    };
    let meta = ListMeta { revision: listing.revision, continue_token, remaining: listing.remaining };
    Ok((meta, listing.entries))
}

/// What a list request selects, up to a limit.
async fn page(
    server: &ApiServer,
    stored: &Stored,
    options: &ListOptions,
    selection: &Selection,
    limit: usize,
) -> Result<Listing, Status> {
    let cache = &stored.cache;
    if options.continue_token.is_empty() {
        return match options.revision()? {
            None => {
                let fresh = cache.fresh().await;
                let stats = &cache.stats;
                if fresh.is_ok() { &stats.consistent } else { &stats.consistent_failed }.add(1);
                fresh?;
                Ok(cache.list(selection, "", limit))
            }
            Some(0) => {
                cache.ready().await?;
                Ok(cache.list(selection, "", limit))
            }
            // A limit with a version means exactly that version unless the client says otherwise (legacy behaviour).
            Some(version)
                if options.version_match == "Exact" || (options.version_match.is_empty() && options.limit > 0) =>
            {
                list_at(server, stored, selection, version, "", limit).await.map_err(errors_of_list)
            }
            Some(version) => {
                cache.not_older_than(version).await?;
                Ok(cache.list(selection, "", limit))
            }
        };
    }
    if !matches!(options.resource_version.as_str(), "" | "0") {
        return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
    }
    let (version, start) = decode_continue(&options.continue_token)?;
    // The token's key is relative to the namespace, as upstream's key prefix is.
    let prefix = selection.key_prefix();
    let start = format!("{prefix}{start}");
    if options.resource_version == "0" {
        cache.ready().await?;
        return Ok(cache.list(selection, &start, limit));
    }
    if version < 0 {
        cache.fresh().await?;
        return Ok(cache.list(selection, &start, limit));
    }
    list_at(server, stored, selection, version, &start, limit)
        .await
        .map_err(|e| continue_error(e, start.strip_prefix(&prefix).unwrap_or_default()))
}

enum ListError {
    Store(StoreError),
    Status(Status),
}

fn errors_of_list(error: ListError) -> Status {
    match error {
        ListError::Store(error) => errors::store(error),
        ListError::Status(status) => status,
    }
}

/// `handleCompactedErrorForPaging`: the answer carries a token that goes on at the newest state.
fn continue_error(error: ListError, start: &str) -> Status {
    if !matches!(error, ListError::Store(StoreError::Compacted { .. })) {
        return errors_of_list(error);
    }
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    status.details = Some(Box::new(Details {
        continue_token: encode_continue(start.trim_end_matches('\0'), -1),
        ..Details::default()
    }));
    status
}

/// The state at exactly `revision`: from the cache if nothing changed since, else from the store's history.
async fn list_at(
    server: &ApiServer,
    stored: &Stored,
    selection: &Selection,
    revision: i64,
    start: &str,
    limit: usize,
) -> Result<Listing, ListError> {
    let cache = &stored.cache;
    let now = cache.not_older_than(revision).await.map_err(ListError::Status)?;
    cache.fresh().await.map_err(ListError::Status)?;
    if cache.newest_change() <= revision && now >= revision {
        let listing = cache.list(selection, start, limit);
        // Nothing may have slipped in between the two looks.
        if cache.newest_change() <= revision {
            return Ok(Listing { revision, ..listing });
        }
    }
    history(server, stored, selection, revision, start, limit).await
}

async fn history(
    server: &ApiServer,
    stored: &Stored,
    selection: &Selection,
    revision: i64,
    start: &str,
    limit: usize,
) -> Result<Listing, ListError> {
    let root = &stored.cache.prefix;
    let mut range = KeyRange::prefix(format!("{root}{}", selection.key_prefix()).into_bytes());
    if !start.is_empty() {
        range.start = format!("{root}{start}").into();
    }
    let page = if limit > 0 && !selection.is_filtered() { limit + 1 } else { 1000 };
    let mut listing = Listing { entries: Vec::new(), revision, remaining: None, more: false };
    let lists = &stored.cache.stats.history;
    lists.total.add(1);
    loop {
        let options = RangeOptions { revision: Revision(revision), limit: page, ..RangeOptions::default() };
        let found = server.objects.store.range(range.clone(), options).await.map_err(ListError::Store)?;
        lists.fetched.add(found.kvs.len());
        let mut seen = 0;
        for kv in &found.kvs {
            let key = kv.key.strip_prefix(root.as_bytes()).and_then(|k| std::str::from_utf8(k).ok());
            let entry = key.and_then(|key| Entry::new(key, &kv.value, kv.mod_revision.0));
            lists.evaluated.add(usize::from(selection.is_filtered()));
            let Some(entry) = entry.filter(|e| selection.matches(e)) else {
                seen += 1;
                continue;
            };
            if limit > 0 && listing.entries.len() == limit {
                listing.more = true;
                if !selection.is_filtered() {
                    listing.remaining = usize::try_from(found.count).ok().map(|c| c.saturating_sub(seen));
                }
                return Ok(listing);
            }
            seen += 1;
            lists.returned.add(1);
            listing.entries.push(Arc::new(entry));
        }
        match found.kvs.last() {
            Some(last) if found.more => {
                let mut next = last.key.to_vec();
                next.push(0);
                range.start = next.into();
            }
            _ => return Ok(listing),
        }
    }
}
