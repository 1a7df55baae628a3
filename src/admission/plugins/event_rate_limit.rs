//! `EventRateLimit`: nobody floods the server with events (`plugin/pkg/admission/eventratelimit`). Off unless asked for,
//! and then it must be told its limits.

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::field::{Error, ErrorList, Path};
use api::{Gvr, Object, Status};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::configuration::{Kind, decode, go_list};
use crate::lru::Lru;

/// How many names a limit remembers if it is not told (`defaultCacheSize`).
const CACHE_SIZE: usize = 4096;
const TYPES: [&str; 4] = ["Server", "Namespace", "User", "SourceAndObject"];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Configuration {
    limits: Vec<Limit>,
}

impl Kind for Configuration {
    const NAMES: &'static [(&'static str, &'static str)] =
        &[("eventratelimit.admission.k8s.io/v1alpha1", "Configuration")];
    const STRICT: bool = false;
    const MEMBERS: &'static [&'static str] = &["limits"];
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Limit {
    #[serde(rename = "type")]
    of: String,
    /// Events a second in the long run.
    qps: i32,
    /// Events at once after a while without any.
    burst: i32,
    cache_size: i32,
}

impl Configuration {
    /// Reads what the configuration file says.
    pub(crate) fn read(document: Option<&Value>) -> Result<Self, String> {
        let read: Self = document.map(decode).transpose()?.unwrap_or_default();
        match read.problems().as_slice() {
            [] => Ok(read),
            problems => Err(go_list(problems)),
        }
    }

    /// `ValidateConfiguration`.
    fn problems(&self) -> ErrorList {
        let path = Path::new("limits");
        let mut errors = ErrorList::new();
        if self.limits.is_empty() {
            errors.push(Error::invalid(path.clone(), Value::Null, "must not be empty"));
        }
        for (index, limit) in self.limits.iter().enumerate() {
            let at = path.index(index);
            if !TYPES.contains(&limit.of.as_str()) {
                errors.push(Error::not_supported(at.child("type"), limit.of.as_str(), &TYPES));
            }
            if limit.burst <= 0 {
                errors.push(Error::invalid(at.child("burst"), limit.burst, "must be positive"));
            }
            if limit.qps <= 0 {
                errors.push(Error::invalid(at.child("qps"), limit.qps, "must be positive"));
            }
            if limit.of != "Server" && limit.cache_size < 0 {
                errors.push(Error::invalid(at.child("cacheSize"), limit.cache_size, "must not be negative"));
            }
        }
        errors
    }
}

/// A token bucket (client-go `flowcontrol.NewTokenBucketRateLimiter`).
struct Tokens {
    left: f64,
    since: Instant,
}

struct Enforcer {
    limit: Limit,
    /// By what is limited; of a limit of the whole server there is one.
    buckets: Mutex<Lru<Tokens>>,
}

impl Enforcer {
    fn new(limit: &Limit) -> Self {
        let size = usize::try_from(limit.cache_size).ok().filter(|size| *size > 0).unwrap_or(CACHE_SIZE);
        Self { limit: limit.clone(), buckets: Mutex::new(Lru::new(size)) }
    }

    fn accept(&self, attributes: &Attributes) -> Result<(), String> {
        let key = match self.limit.of.as_str() {
            "Namespace" => attributes.namespace.clone(),
            "User" => attributes.user.name.clone(),
            "SourceAndObject" => attributes.object.as_ref().map(source_and_object).unwrap_or_default(),
            _ => String::new(),
        };
        let (rate, burst) = (f64::from(self.limit.qps), f64::from(self.limit.burst));
        let now = Instant::now();
        let mut buckets = self.buckets.lock();
        let left = match buckets.get(&key) {
            Some(tokens) => (tokens.left + now.duration_since(tokens.since).as_secs_f64() * rate).min(burst),
            None => burst,
        };
        let accepted = left >= 1.0;
        buckets.insert(&key, Tokens { left: if accepted { left - 1.0 } else { left }, since: now });
        if accepted { Ok(()) } else { Err(format!("limit reached on type {} for key {key}", self.limit.of)) }
    }
}

fn source_and_object(event: &Object) -> String {
    const PARTS: [&[&str]; 7] = [
        &["source", "component"],
        &["source", "host"],
        &["involvedObject", "kind"],
        &["involvedObject", "namespace"],
        &["involvedObject", "name"],
        &["involvedObject", "uid"],
        &["involvedObject", "apiVersion"],
    ];
    PARTS.into_iter().filter_map(|path| event.str(path)).collect()
}

pub(crate) struct EventRateLimit {
    enforcers: Vec<Enforcer>,
}

impl EventRateLimit {
    pub(crate) fn new(configuration: &Configuration) -> Self {
        Self { enforcers: configuration.limits.iter().map(Enforcer::new).collect() }
    }
}

#[async_trait]
impl AdmissionPlugin for EventRateLimit {
    fn name(&self) -> &'static str {
        "EventRateLimit"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, _: &str) -> bool {
        // Events of events.k8s.io are of another kind, which upstream does not limit.
        matches!(operation, Operation::Create | Operation::Update)
            && resource.group.is_empty()
            && resource.resource == "events"
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        if attributes.dry_run {
            return Ok(());
        }
        let refused: Vec<String> = self.enforcers.iter().filter_map(|e| e.accept(attributes).err()).collect();
        if refused.is_empty() {
            return Ok(());
        }
        Err(Status::new(429, "TooManyRequests", format!("Too many requests: {}", go_list(&refused))))
    }
}
