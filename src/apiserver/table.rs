//! `meta.k8s.io` `Table`: rows of a kind's columns (upstream's `printers/storage` and `tableconvertor`).

use std::sync::Arc;

use api::Object;
use api::kind::{ColumnValue, KindDef};
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

/// A table being filled.
pub struct Table {
    def: Arc<KindDef>,
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
        Self { def, version, include, now, rows: Vec::new(), with_columns: true }
    }

    pub fn push(&mut self, object: Object) {
        let mut cells: Vec<Value> = if self.def.columns.is_empty() {
            // Upstream's default convertor: name and creation time.
            vec![object.name().into(), object.str(&["metadata", "creationTimestamp"]).unwrap_or_default().into()]
        } else {
            Vec::with_capacity(self.def.columns.len())
        };
        let by_path = self.def.columns.iter().any(|c| matches!(c.value, ColumnValue::JsonPath(_)));
        let root = if by_path { Value::Object(object.0.clone()) } else { Value::Null };
        for column in &self.def.columns {
            cells.push(match &column.value {
                ColumnValue::Compute(value) => value(&object, self.now),
                ColumnValue::JsonPath(path) => jsonpath::cell(path, &column.kind, &root, self.now),
            });
        }
        let mut row = json!({"cells": cells});
        match self.include {
            IncludeObject::None => {}
            IncludeObject::Object => row["object"] = object.into_value(),
            IncludeObject::Metadata => {
                let metadata = object.get(&["metadata"]).cloned().unwrap_or_else(|| json!({}));
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
        if with_columns {
            if self.def.columns.is_empty() {
                columns.push(json!({"name": "Name", "type": "string", "format": "name", "priority": 0,
                    "description": "Name must be unique within a namespace."}));
                columns.push(json!({"name": "Created At", "type": "date", "format": "", "priority": 0,
                    "description": "CreationTimestamp is a timestamp representing the server time when this object was created."}));
            }
            for c in &self.def.columns {
                columns.push(json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description,
                    "priority": c.priority}));
            }
        }
        json!({"kind": "Table", "apiVersion": self.version, "metadata": metadata, "columnDefinitions": if with_columns { Value::Array(columns) } else { Value::Null },
            "rows": self.rows})
    }
}
