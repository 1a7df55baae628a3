//! `meta.k8s.io` `Table`: rows of a kind's columns (upstream's `printers/storage` and `tableconvertor`).

use std::sync::Arc;

use api::Object;
use api::kind::{AGE_TEXT, Column, ColumnValue, KindDef, NAME_TEXT};
use jiff::Timestamp;
use serde_json::{Value, json};

pub(crate) mod jsonpath;

/// What a row carries besides its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IncludeObject {
    None,
    Metadata,
    Object,
}

impl IncludeObject {
    /// The `includeObject` parameter; `None` for a value upstream does not know.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// Whose columns a table has.
enum Columns {
    Kind(Arc<KindDef>),
    /// Those of scales are the same for all kinds.
    Scale(Vec<Column>),
}

impl Columns {
    fn all(&self) -> &[Column] {
        match self {
            Self::Kind(def) => &def.columns,
            Self::Scale(columns) => columns,
        }
    }
}

/// A table being filled.
pub struct Table {
    columns: Columns,
    version: &'static str,
    include: IncludeObject,
    now: Timestamp,
    rows: Vec<Value>,
    /// Watches send the columns once.
    pub with_columns: bool,
}

impl Table {
    /// `version` is the table's apiVersion.
    pub fn new(def: Arc<KindDef>, version: &'static str, include: IncludeObject, now: Timestamp) -> Self {
        Self { columns: Columns::Kind(def), version, include, now, rows: Vec::new(), with_columns: true }
    }

    /// The table of a scale: `printScale` of a built-in kind, the columns of apiextensions' `scaleTableConvertor` of a custom one.
    pub fn of_scale(custom: bool, version: &'static str, include: IncludeObject, now: Timestamp) -> Self {
        let columns = Columns::Scale(scale_columns(custom));
        Self { columns, version, include, now, rows: Vec::new(), with_columns: true }
    }

    pub fn push(&mut self, object: Object) {
        let columns = self.columns.all();
        let mut cells: Vec<Value> = if columns.is_empty() {
            // Upstream's default convertor: name and creation time.
            vec![object.name().into(), object.str(&["metadata", "creationTimestamp"]).unwrap_or_default().into()]
        } else {
            Vec::with_capacity(columns.len())
        };
        let by_path = columns.iter().any(|c| matches!(c.value, ColumnValue::JsonPath(_)));
        let root = if by_path { Value::Object(object.0.clone()) } else { Value::Null };
        for column in columns {
            cells.push(match &column.value {
                ColumnValue::Compute(value) => value(&object, self.now),
                ColumnValue::JsonPath(path) => jsonpath::cell(path, &column.kind, &root, self.now),
            });
        }
        let mut row = json!({"cells": cells});
        match self.include {
            IncludeObject::None => row["object"] = Value::Null,
            IncludeObject::Object => row["object"] = object.into_value(),
            IncludeObject::Metadata => {
                let mut metadata = object.get(&["metadata"]).cloned().unwrap_or_else(|| json!({}));
                if let Columns::Kind(def) = &self.columns {
                    hide_annotations(&mut metadata, def.strategy.hidden_annotations());
                }
                row["object"] =
                    json!({"kind": "PartialObjectMetadata", "apiVersion": self.version, "metadata": metadata});
            }
        }
        self.rows.push(row);
    }

    /// The document; `metadata` is the list's.
    pub fn finish(self, metadata: Value) -> Value {
        let mut columns = Vec::new();
        let with_columns = self.with_columns;
        let known = self.columns.all();
        if with_columns {
            if known.is_empty() {
                columns.push(json!({"name": "Name", "type": "string", "format": "name", "priority": 0,
                    "description": "Name must be unique within a namespace."}));
                columns.push(json!({"name": "Created At", "type": "date", "format": "", "priority": 0,
                    "description": "CreationTimestamp is a timestamp representing the server time when this object was created."}));
            }
            for c in known {
                columns.push(json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description,
                    "priority": c.priority}));
            }
        }
        json!({"kind": "Table", "apiVersion": self.version, "metadata": metadata, "columnDefinitions": if with_columns { Value::Array(columns) } else { Value::Null },
            "rows": self.rows})
    }
}

/// Leaves annotations out of metadata, and the member if it has no others.
pub(crate) fn hide_annotations(metadata: &mut Value, hidden: &[&str]) {
    let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else { return };
    annotations.retain(|key, _| !hidden.contains(&key.as_str()));
    if annotations.is_empty()
        && let Some(members) = metadata.as_object_mut()
    {
        members.remove("annotations");
    }
}

fn scale_columns(custom: bool) -> Vec<Column> {
    let column = |name: &'static str,
                  kind: &'static str,
                  format: &'static str,
                  description: &'static str,
                  value: fn(&Object, Timestamp) -> Value| Column {
        name: name.into(),
        kind: kind.into(),
        format: format.into(),
        description: description.into(),
        priority: 0,
        value: ColumnValue::Compute(value),
    };
    let (format, age, desired, available) = if custom {
        ("name", "date", "Number of desired replicas", "Number of actual replicas")
    } else {
        (
            "",
            "string",
            "replicas is the desired number of instances for the scaled object.",
            "replicas is the actual number of observed instances of the scaled object.",
        )
    };
    vec![
        column("Name", "string", format, NAME_TEXT, |o, _| o.name().into()),
        column("Desired", "integer", "", desired, |o, _| replicas(o, "spec")),
        column("Available", "integer", "", available, |o, _| replicas(o, "status")),
        column("Age", age, "", AGE_TEXT, |o, now| {
            let root = Value::Object(o.0.clone());
            jsonpath::cell(".metadata.creationTimestamp", "date", &root, now)
        }),
    ]
}

fn replicas(scale: &Object, part: &str) -> Value {
    scale.i64(&[part, "replicas"]).unwrap_or_default().into()
}
