//! `metadata.managedFields`: reading, writing, capping (apimachinery `managedfields/internal`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::set::FieldSet;
use crate::object::Object;

const PATH: &[&str] = &["metadata", "managedFields"];
/// Update entries beyond this many are merged, oldest first.
const UPDATE_MANAGERS_MAX: usize = 10;
const ANCIENT: &str = "ancient-changes";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// Who owns: what makes an entry distinct from others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Manager {
    pub(super) name: String,
    pub(super) operation: Operation,
    /// Empty for appliers: they have one entry whatever the version.
    pub(super) api_version: String,
    pub(super) subresource: String,
}

/// What a manager owns.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Owned {
    pub(super) set: FieldSet,
    /// The version whose field names these are.
    pub(super) api_version: String,
    /// As in the object: RFC 3339 in seconds.
    pub(super) time: Option<String>,
}

pub(super) type Managers = BTreeMap<Manager, Owned>;

/// Reads the entries of an object; the error says which entry is no good.
pub(super) fn decode(object: &Object) -> Result<Managers, String> {
    let mut managers = Managers::new();
    for (i, entry) in object.array(PATH).iter().enumerate() {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        let operation = match text("operation") {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return Err("operation must be `Apply` or `Update`".to_owned()),
        };
        let api_version = text("apiVersion");
        if api_version.is_empty() {
            return Err("apiVersion must not be empty".to_owned());
        }
        match text("fieldsType") {
            "FieldsV1" => {}
            "" => return Err(format!("missing fieldsType in managed fields entry {i}")),
            other => return Err(format!("invalid fieldsType {other:?} in managed fields entry {i}")),
        }
        let set = match entry.get("fieldsV1").and_then(Value::as_object) {
            Some(fields) => FieldSet::from_json(fields).map_err(|e| format!("error decoding set: {e}"))?,
            None => FieldSet::default(),
        };
        let manager = Manager {
            name: text("manager").to_owned(),
            operation,
            api_version: if operation == Operation::Apply { String::new() } else { api_version.to_owned() },
            subresource: text("subresource").to_owned(),
        };
        let time = entry.get("time").and_then(Value::as_str).map(str::to_owned);
        managers.insert(manager, Owned { set, api_version: api_version.to_owned(), time });
    }
    Ok(managers)
}

/// Whether a request empties `managedFields` on purpose: an empty list, or one empty entry.
pub(super) fn is_reset(object: &Object) -> bool {
    match object.get(PATH) {
        Some(Value::Array(entries)) => match entries.as_slice() {
            [] => true,
            [one] => one.as_object().is_some_and(Map::is_empty),
            _ => false,
        },
        _ => false,
    }
}

/// The entries to start from: those of the request if it has good ones, else those of the live object.
pub(super) fn decode_live_or_new(live: Option<&Object>, new: &Object, subresource: &str) -> Managers {
    let of_live = || live.and_then(|live| decode(live).ok()).unwrap_or_default();
    if !subresource.is_empty() {
        return of_live();
    }
    if is_reset(new) {
        return Managers::new();
    }
    match decode(new) {
        Ok(managers) if !managers.is_empty() => managers,
        _ => of_live(),
    }
}

/// Writes the entries, in upstream's order; removes the list if there are none.
pub(super) fn encode(object: &mut Object, managers: Managers) {
    if managers.is_empty() {
        object.remove(PATH);
        return;
    }
    let mut entries: Vec<(Manager, Owned)> = managers.into_iter().collect();
    entries.sort_by_cached_key(|(manager, owned)| {
        let (name, version) = (manager.name.clone(), owned.api_version.clone());
        (manager.operation, seconds(owned), name, version, manager.subresource.clone())
    });
    let entries: Vec<Value> = entries
        .into_iter()
        .map(|(manager, owned)| {
            let mut entry = json!({
                "operation": manager.operation.as_str(),
                "apiVersion": owned.api_version,
                "fieldsType": "FieldsV1",
                "fieldsV1": owned.set.to_json(),
            });
            for (name, value) in
                [("manager", Some(manager.name)), ("subresource", Some(manager.subresource)), ("time", owned.time)]
            {
                if let Some(value) = value.filter(|v| !v.is_empty()) {
                    entry[name] = value.into();
                }
            }
            entry
        })
        .collect();
    object.set(PATH, entries);
}

fn seconds(owned: &Owned) -> i64 {
    owned.time.as_ref().and_then(|t| t.parse::<Timestamp>().ok()).map_or(0, Timestamp::as_second)
}

/// Takes the entries out of an object, so that they are not owned themselves.
pub(super) fn strip(object: &mut Object) -> Option<Value> {
    object.remove(PATH)
}

/// Merges the oldest update entries of each version until there are few enough (`capUpdateManagers`).
pub(super) fn cap(managers: &mut Managers) {
    let mut updaters: Vec<Manager> = managers.keys().filter(|m| m.operation == Operation::Update).cloned().collect();
    if updaters.len() <= UPDATE_MANAGERS_MAX {
        return;
    }
    updaters.sort_by_cached_key(|m| (managers.get(m).map_or(0, seconds), m.clone()));
    let mut count = updaters.len();
    let mut first_of_version: BTreeMap<String, Manager> = BTreeMap::new();
    for manager in updaters {
        if count <= UPDATE_MANAGERS_MAX {
            return;
        }
        let version = manager.api_version.clone();
        let Some(first) = first_of_version.get(&version) else {
            first_of_version.insert(version, manager);
            continue;
        };
        let bucket = Manager {
            name: ANCIENT.to_owned(),
            operation: Operation::Update,
            api_version: version,
            subresource: String::new(),
        };
        if !managers.contains_key(&bucket)
            && let Some(owned) = managers.remove(first)
        {
            managers.insert(bucket.clone(), owned);
        }
        if manager == bucket {
            continue;
        }
        if let Some(owned) = managers.remove(&manager) {
            if let Some(ancient) = managers.get_mut(&bucket) {
                ancient.set.add_all(&owned.set);
                ancient.time = owned.time;
            }
            count -= 1;
        }
    }
}

/// A moment as entries have it.
pub(super) fn time_text(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
