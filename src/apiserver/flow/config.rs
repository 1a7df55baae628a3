//! From FlowSchema and PriorityLevelConfiguration objects to what requests read, and back to the objects' status
//! (apiserver `util/flowcontrol/apf_controller.go`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use api::services::Registry;
use api::{Gvr, Object, Status, UserInfo};
use axum::body::Body;
use base::{Backoff, Shutdown};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request};
use jiff::Timestamp;
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::level::{Kind, Level, Limits};
use super::rules::Schema;
use super::share::{Item, allocate};
use super::{Config, Flow, HeldLevel};
use crate::cache::WatchStart;
use crate::cache::view::Selection;
use crate::cache::watcher::Watcher;
use crate::server::ApiServer;

/// `borrowingAdjustmentPeriod`.
const ADJUST_EVERY: Duration = Duration::from_secs(10);
const EXEMPT: &str = "exempt";
const CATCH_ALL: &str = "catch-all";
const MANAGER: &str = "api-priority-and-fairness-config-consumer-v1";
/// Who owns what a new cluster has of them (`controlplane.apfBootstrapFieldManager`).
const PRODUCER: &str = "api-priority-and-fairness-config-producer-v1";
/// More queues than this make no difference but in memory.
const QUEUES_MAX: usize = 1 << 16;
/// Of one schema's status in a minute.
const WRITES_MAX: usize = 6;

fn resource(plural: &str) -> Gvr {
    Gvr::new("flowcontrol.apiserver.k8s.io", "v1", plural)
}

/// The objects that must be there, if they are not (`internalbootstrap`).
fn mandatory() -> [Object; 4] {
    let all =
        json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}]);
    let urls = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
    let schema = |name: &str, precedence: i64, groups: &[&str]| {
        let subjects: Vec<Value> = groups.iter().map(|g| json!({"kind": "Group", "group": {"name": g}})).collect();
        json!({"metadata": {"name": name}, "spec": {
            "matchingPrecedence": precedence, "priorityLevelConfiguration": {"name": name},
            "rules": [{"subjects": subjects, "resourceRules": all, "nonResourceRules": urls}],
        }})
    };
    let everybody = [api::user::AUTHENTICATED, api::user::UNAUTHENTICATED];
    [
        json!({"metadata": {"name": EXEMPT}, "spec": {
            "type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0},
        }}),
        json!({"metadata": {"name": CATCH_ALL}, "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"},
        }}}),
        schema(EXEMPT, 1, &[api::user::MASTERS]),
        schema(CATCH_ALL, 10_000, &everybody),
    ]
    .map(|value| Object::from_value(value).unwrap_or_default())
}

/// Reads a priority level; `None` for one that contradicts itself.
fn read_level(object: &Object) -> Option<(Kind, HeldLevel)> {
    let spec = object.get(&["spec"])?;
    let exempt = spec.get("type").and_then(Value::as_str) == Some("Exempt");
    if exempt != (object.name() == EXEMPT) {
        return None;
    }
    let number = |value: &Value, member: &str| value.get(member).and_then(Value::as_f64);
    let size = spec.get(if exempt { "exempt" } else { "limited" })?;
    let count = |value: &Value, member: &str| number(value, member).map_or(0, |n| n as usize);
    let kind = match size.pointer("/limitResponse/queuing") {
        _ if exempt => Kind::Exempt,
        Some(queuing) => Kind::Queue {
            queues: count(queuing, "queues").clamp(1, QUEUES_MAX),
            hand: count(queuing, "handSize").max(1),
            length_max: count(queuing, "queueLengthLimit").max(1),
        },
        None => Kind::Reject,
    };
    let held = HeldLevel {
        level: Level::new(object.name(), kind),
        uid: object.uid().into(),
        shares: number(size, "nominalConcurrencyShares").unwrap_or(if exempt { 0.0 } else { 30.0 }),
        lendable_percent: number(size, "lendablePercent").unwrap_or_default(),
        borrowing_percent: number(size, "borrowingLimitPercent"),
        leaving: false,
    };
    Some((kind, held))
}

impl Flow {
    /// Takes in all objects (`digestConfigObjects`).
    pub(crate) fn digest(&self, levels: &[Object], schemas: &[Object]) {
        let old = self.config.load_full();
        let [exempt, catch_all, exempt_schema, catch_all_schema] = mandatory();
        let mut held: BTreeMap<String, HeldLevel> = BTreeMap::new();
        for object in [&exempt, &catch_all].into_iter().chain(levels) {
            let Some((kind, mut new)) = read_level(object) else {
                tracing::warn!(name = object.name(), "a priority level contradicts itself and is left out");
                continue;
            };
            if let Some(known) = old.levels.get(object.name()) {
                known.level.configure(kind);
                new.level = Arc::clone(&known.level);
            }
            held.insert(object.name().to_owned(), new);
        }
        for (name, known) in &old.levels {
            if !held.contains_key(name) && !known.level.leave() {
                // Its requests go on until they are done.
                held.insert(name.clone(), HeldLevel { leaving: true, ..known.clone() });
            }
        }
        let sum: f64 = held.values().map(|h| h.shares).sum();
        let mut nominal = 0;
        for (name, held) in &held {
            let mut limits = limits(held, self.seats, sum);
            if old.levels.contains_key(name) {
                limits.current = held.level.limits().current;
            }
            nominal += limits.nominal;
            held.level.set_limits(limits);
        }
        let waiting = held.values().map(|held| held.level.kind().waiting_max()).sum();
        self.kinds.set_most(waiting, nominal);
        let mut all: BTreeMap<String, Arc<Schema>> = BTreeMap::new();
        for object in [&exempt_schema, &catch_all_schema].into_iter().chain(schemas) {
            let name = object.str(&["spec", "priorityLevelConfiguration", "name"]).unwrap_or_default();
            let Some(level) = held.get(name).filter(|level| !level.leaving) else { continue };
            let counters = self.counters(object.name(), name);
            let schema = Schema::of(object, Arc::clone(&level.level), Arc::clone(&level.uid), counters);
            all.insert(object.name().to_owned(), Arc::new(schema));
        }
        let mut schemas: Vec<Arc<Schema>> = all.into_values().collect();
        schemas.sort_by(|a, b| a.precedence.cmp(&b.precedence).then_with(|| a.name.cmp(&b.name)));
        self.config.store(Arc::new(Config { schemas, levels: held, nominal }));
        self.adjust();
    }

    /// Divides the seats by what was asked for lately (`updateBorrowingLocked`).
    pub(crate) fn adjust(&self) {
        let config = self.config.load_full();
        let mut borrowing = self.borrowing.lock();
        borrowing.levels.retain(|name, _| config.levels.contains_key(name));
        let mut left = config.nominal as f64;
        let (mut names, mut items) = (Vec::new(), Vec::new());
        let (mut lower_sum, mut least_sum) = (0.0, 0.0);
        for (name, held) in &config.levels {
            let (demand, target) = borrowing.levels.entry(name.clone()).or_default();
            held.level.demand(demand);
            let limits = held.level.limits();
            let lower = limits.lower as f64;
            if held.level.kind() == Kind::Exempt {
                let least = lower.max(demand.high);
                held.level.set_limits(Limits { current: least as usize, ..limits });
                *target = least;
                left -= least;
                continue;
            }
            let least = lower.max(demand.high.min(limits.nominal as f64));
            *target = least.max(demand.smoothed);
            lower_sum += lower;
            least_sum += least;
            names.push((held, limits, least));
            items.push(Item { lower: least, upper: limits.upper as f64, target: *target });
        }
        borrowing.fair = 0.0;
        let shares: Vec<f64> = if left <= lower_sum {
            names.iter().map(|(_, limits, _)| limits.lower as f64).collect()
        } else if left <= least_sum {
            let part = (left - lower_sum) / (least_sum - lower_sum);
            let share = |lower: f64, least: f64| lower + (least - lower) * part;
            names.iter().map(|(_, limits, least)| share(limits.lower as f64, *least)).collect()
        } else {
            match allocate(config.nominal as f64, &items) {
                Some((shares, fair)) => {
                    borrowing.fair = fair;
                    shares
                }
                None => names.iter().map(|(_, limits, _)| limits.current as f64).collect(),
            }
        };
        for ((held, limits, _), share) in names.into_iter().zip(shares) {
            held.level.set_limits(Limits { current: share.round() as usize, ..limits });
        }
    }

    pub(crate) fn has_left(&self) -> bool {
        self.config.load().levels.values().any(|held| held.leaving && held.level.leave())
    }
}

/// `finishQueueSetReconfigsLocked`.
fn limits(held: &HeldLevel, seats: usize, sum: f64) -> Limits {
    let seats_f = seats as f64;
    let nominal = if sum > 0.0 { (seats_f * held.shares / sum).ceil() } else { 0.0 };
    let lendable = (nominal * held.lendable_percent / 100.0).round();
    let borrowed = held.borrowing_percent.map_or(seats_f, |percent| (nominal * percent / 100.0).round());
    Limits {
        nominal: nominal as usize,
        lower: (nominal - lendable).max(0.0) as usize,
        upper: (nominal + borrowed) as usize,
        current: (nominal - (lendable / 2.0).floor()).max(0.0) as usize,
    }
}

/// The condition that a schema should have; `None` if it has it (`presyncFlowSchemaStatus`).
fn wanted_condition(schema: &Object, levels: &[Object], now: Timestamp) -> Option<Value> {
    let name = schema.str(&["spec", "priorityLevelConfiguration", "name"]).unwrap_or_default();
    let found = levels.iter().any(|level| level.name() == name);
    let text = format!("This FlowSchema references the PriorityLevelConfiguration object named {name:?} ");
    let (status, reason, message) = match found {
        true => ("False", "Found", format!("{text}and it exists")),
        false => ("True", "NotFound", format!("{text}but there is no such object")),
    };
    let conditions = schema.array(&["status", "conditions"]);
    let same = |c: &Value| {
        c["type"] == "Dangling" && c["status"] == status && c["reason"] == reason && c["message"] == message.as_str()
    };
    if conditions.iter().any(same) {
        return None;
    }
    Some(json!({
        "type": "Dangling", "status": status, "lastTransitionTime": api::codec::print_time(now), "reason": reason,
        "message": message,
    }))
}

struct Follower {
    server: Arc<ApiServer>,
    /// Objects that every cluster has.
    defaults: Vec<Object>,
    /// When each schema's status was written lately.
    written: BTreeMap<String, VecDeque<Instant>>,
    again_at: Option<Instant>,
}

/// Follows the objects until shutdown, and brings back `defaults` that somebody deletes.
pub async fn run(server: Arc<ApiServer>, defaults: Vec<Object>, shutdown: Shutdown) {
    let mut follower = Follower { server, defaults, written: BTreeMap::new(), again_at: None };
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5)).with_jitter(0.2);
    let mut adjust = tokio::time::interval(ADJUST_EVERY);
    adjust.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let watch = async {
            let levels = follower.watch("prioritylevelconfigurations").await?;
            Ok::<_, Status>((levels, follower.watch("flowschemas").await?))
        };
        let watchers = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            watchers = watch => watchers,
        };
        if let Ok((mut levels, mut schemas)) = watchers {
            backoff.reset();
            loop {
                if let Err(status) = follower.settle().await {
                    tracing::warn!(error = %status, "flow control cannot be brought up to date");
                    follower.again_at = Some(Instant::now() + Duration::from_secs(5));
                }
                let event = loop {
                    let again = follower.again_at.unwrap_or_else(|| Instant::now() + Duration::from_secs(86_400));
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => return,
                        event = levels.receiver.recv() => break event,
                        event = schemas.receiver.recv() => break event,
                        () = tokio::time::sleep_until(again) => {
                            follower.again_at = None;
                            if follower.settle().await.is_err() {
                                follower.again_at = Some(Instant::now() + Duration::from_secs(5));
                            }
                        }
                        _ = adjust.tick() => {
                            follower.server.flow.adjust();
                            if follower.server.flow.has_left() {
                                follower.again_at = Some(Instant::now());
                            }
                        }
                    }
                };
                if event.is_none() {
                    break;
                }
                // Many objects are often written together; one look takes them all in.
                while levels.receiver.try_recv().is_some() || schemas.receiver.try_recv().is_some() {}
            }
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(backoff.step()) => {}
        }
    }
}

impl Follower {
    async fn watch(&self, plural: &str) -> Result<Watcher, Status> {
        let stored = self.server.served(&resource(plural))?.stored()?.clone();
        stored.cache.fresh().await?;
        stored.cache.watch(Selection::everything(Arc::clone(&stored.view), ""), &WatchStart::Now)
    }

    async fn settle(&mut self) -> Result<(), Status> {
        let levels = Registry::list(&*self.server, &resource("prioritylevelconfigurations"), "").await?;
        let schemas = Registry::list(&*self.server, &resource("flowschemas"), "").await?;
        self.server.flow.digest(&levels, &schemas);
        self.restore(&levels, &schemas).await?;
        for schema in &schemas {
            if let Some(condition) = wanted_condition(schema, &levels, self.server.clock.now()) {
                self.write(schema.name(), &condition).await?;
            }
        }
        self.written.retain(|name, _| schemas.iter().any(|schema| schema.name() == name));
        Ok(())
    }

    async fn restore(&self, levels: &[Object], schemas: &[Object]) -> Result<(), Status> {
        for object in &self.defaults {
            let (plural, known) = match object.kind() {
                "FlowSchema" => ("flowschemas", schemas),
                _ => ("prioritylevelconfigurations", levels),
            };
            if known.iter().any(|held| held.name() == object.name()) {
                continue;
            }
            match self.server.create_as(PRODUCER, &resource(plural), "", object.clone()).await {
                Err(status) if status.reason != "AlreadyExists" => return Err(status),
                _ => {}
            }
        }
        Ok(())
    }

    /// Applies a condition, unless somebody fights over it.
    async fn write(&mut self, name: &str, condition: &Value) -> Result<(), Status> {
        let now = Instant::now();
        let times = self.written.entry(name.to_owned()).or_default();
        while times.front().is_some_and(|at| now.duration_since(*at) > Duration::from_secs(60)) {
            times.pop_front();
        }
        if times.len() >= WRITES_MAX {
            let seconds = rand::rng().random_range(30..75);
            self.again_at = Some(now + Duration::from_secs(seconds));
            return Ok(());
        }
        times.push_back(now);
        let body = json!({
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": name},
            "status": {"conditions": [condition]},
        });
        let path = format!("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/{name}/status");
        let request = Request::builder()
            .method(Method::PATCH)
            .uri(format!("{path}?fieldManager={MANAGER}&force=true"))
            .header(CONTENT_TYPE, "application/apply-patch+yaml")
            .header(ACCEPT, "application/json")
            .extension(UserInfo::new("system:apiserver", &[api::user::MASTERS]))
            .body(Body::from(body.to_string()))
            .map_err(Status::internal)?;
        let response = crate::router::handle(Arc::clone(&self.server), request).await;
        match response.status().as_u16() {
            200 | 201 | 404 => Ok(()),
            code => Err(Status::internal(format_args!("the status of FlowSchema {name} was refused: {code}"))),
        }
    }
}
