//! Sets of field paths and their `FieldsV1` form (structured-merge-diff `fieldpath`).

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

/// One step of a path, in its serialised form: `f:NAME`, `k:{"KEY":VALUE}` or `v:VALUE`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Element(String);

impl Element {
    pub(super) fn field(name: &str) -> Self {
        Self(format!("f:{name}"))
    }

    /// An item of a list with keys; the members must be in the order of their names.
    pub(super) fn key(members: &Map<String, Value>) -> Self {
        Self(format!("k:{}", html_safe(&Value::Object(members.clone()).to_string())))
    }

    /// An item of a set.
    pub(super) fn value(value: &Value) -> Self {
        Self(format!("v:{}", html_safe(&value.to_string())))
    }

    /// Reads the serialised form; `None` for kinds of elements that are not known (they are dropped).
    fn parse(text: &str) -> Result<Option<Self>, String> {
        let (Some(kind), Some(rest)) = (text.get(..2), text.get(2..)) else {
            return Err("key must be 2 characters long:".to_owned());
        };
        let json = || serde_json::from_str::<Value>(rest).map_err(|e| format!("parsing key as path element: {e}"));
        match kind {
            "f:" => Ok(Some(Self(text.to_owned()))),
            "v:" => Ok(Some(Self::value(&json()?))),
            "k:" => match json()? {
                Value::Object(members) => Ok(Some(Self::key(&members))),
                _ => Err("parsing key as path element: not an object".to_owned()),
            },
            "i:" => rest.parse::<i64>().map(|_| Some(Self(text.to_owned()))).map_err(|e| e.to_string()),
            _ if kind.ends_with(':') => Ok(None),
            _ => Err(format!("missing colon: {text}")),
        }
    }

    pub(super) fn field_name(&self) -> Option<&str> {
        self.0.strip_prefix("f:")
    }

    fn is_key(&self) -> bool {
        self.0.starts_with("k:")
    }
}

impl fmt::Display for Element {
    /// As conflicts name it: `.spec`, `[name="a"]`, `[="x"]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = self.field_name() {
            return write!(f, ".{name}");
        }
        let value = serde_json::from_str::<Value>(self.0.get(2..).unwrap_or_default()).unwrap_or_default();
        match value {
            Value::Object(members) if self.is_key() => {
                let members: Vec<String> = members.iter().map(|(k, v)| format!("{k}={v}")).collect();
                write!(f, "[{}]", members.join(","))
            }
            value if self.0.starts_with("v:") => write!(f, "[={value}]"),
            value => write!(f, "[{value}]"),
        }
    }
}

/// Go's JSON encoder escapes these; keys must be the same text to be the same path.
fn html_safe(json: &str) -> String {
    if !json.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return json.to_owned();
    }
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

/// A set of paths as a tree. No node is neither a member nor a parent of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FieldSet(BTreeMap<Element, Node>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Node {
    /// The path that ends here is in the set.
    member: bool,
    children: FieldSet,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.children.0.is_empty()
    }
}

impl FieldSet {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A set of one path of field names.
    pub(super) fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            set.insert(&path.iter().map(|name| Element::field(name)).collect::<Vec<_>>());
        }
        set
    }

    /// The empty path is never a member: nobody owns a whole object.
    pub(super) fn insert(&mut self, path: &[Element]) {
        let Some((last, parents)) = path.split_last() else { return };
        let mut set = self;
        for element in parents {
            set = &mut set.0.entry(element.clone()).or_default().children;
        }
        set.0.entry(last.clone()).or_default().member = true;
    }

    pub(super) fn has(&self, path: &[Element]) -> bool {
        let Some((last, parents)) = path.split_last() else { return false };
        let mut set = self;
        for element in parents {
            match set.0.get(element) {
                Some(node) => set = &node.children,
                None => return false,
            }
        }
        set.has_member(last)
    }

    pub(super) fn has_member(&self, element: &Element) -> bool {
        self.0.get(element).is_some_and(|node| node.member)
    }

    /// What is in the set under an element; `None` if nothing is.
    pub(super) fn under(&self, element: &Element) -> Option<&Self> {
        self.0.get(element).map(|node| &node.children).filter(|set| !set.is_empty())
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.add_all(other);
        out
    }

    pub(super) fn add_all(&mut self, other: &Self) {
        for (element, node) in &other.0 {
            let own = self.0.entry(element.clone()).or_default();
            own.member |= node.member;
            own.children.add_all(&node.children);
        }
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        self.filtered(|element, node| {
            let theirs = other.0.get(element)?;
            Some(Node { member: node.member && theirs.member, children: node.children.intersection(&theirs.children) })
        })
    }

    /// Paths in this set and not in the other; what lies under a path of the other stays.
    pub(super) fn difference(&self, other: &Self) -> Self {
        self.filtered(|element, node| match other.0.get(element) {
            None => Some(node.clone()),
            Some(theirs) => Some(Node {
                member: node.member && !theirs.member,
                children: node.children.difference(&theirs.children),
            }),
        })
    }

    /// Paths in this set that neither are in the other nor lie under one of its paths.
    pub(super) fn recursive_difference(&self, other: &Self) -> Self {
        self.filtered(|element, node| match other.0.get(element) {
            None => Some(node.clone()),
            Some(theirs) if theirs.member => None,
            Some(theirs) => {
                Some(Node { member: node.member, children: node.children.recursive_difference(&theirs.children) })
            }
        })
    }

    fn filtered(&self, keep: impl Fn(&Element, &Node) -> Option<Node>) -> Self {
        let kept = self.0.iter().filter_map(|(element, node)| {
            let node = keep(element, node).filter(|node| !node.is_empty())?;
            Some((element.clone(), node))
        });
        Self(kept.collect())
    }

    /// Elements with what is under them, and a way to make them members: for `ensure_named_fields`.
    pub(super) fn map_nodes(&self, change: &dyn Fn(&Element, bool, &Self) -> (bool, Self)) -> Self {
        let nodes = self.0.iter().map(|(element, node)| {
            let (member, children) = change(element, node.member, &node.children);
            (element.clone(), Node { member, children })
        });
        Self(nodes.collect())
    }

    /// Changes what is known of every element: whether it is a member, and what lies under it. What it leaves must be a
    /// member or have something under it.
    pub(super) fn each(&mut self, change: &mut dyn FnMut(&Element, &mut bool, &mut Self)) {
        for (element, node) in &mut self.0 {
            change(element, &mut node.member, &mut node.children);
        }
    }

    /// Every path, parents' members first within a level, as upstream iterates.
    pub(super) fn paths(&self) -> Vec<Vec<Element>> {
        let mut out = Vec::new();
        self.collect(&mut Vec::new(), &mut out);
        out
    }

    fn collect(&self, prefix: &mut Vec<Element>, out: &mut Vec<Vec<Element>>) {
        for (element, _) in self.0.iter().filter(|(_, node)| node.member) {
            let mut path = prefix.clone();
            path.push(element.clone());
            out.push(path);
        }
        for (element, node) in &self.0 {
            prefix.push(element.clone());
            node.children.collect(prefix, out);
            prefix.pop();
        }
    }

    /// The `fieldsV1` object.
    pub(super) fn to_json(&self) -> Map<String, Value> {
        let members = self.0.iter().map(|(element, node)| {
            let mut value = node.children.to_json();
            if node.member && !node.children.is_empty() {
                value.insert(".".to_owned(), Value::Object(Map::new()));
            }
            (element.0.clone(), Value::Object(value))
        });
        members.collect()
    }

    /// Reads a `fieldsV1` object.
    pub(super) fn from_json(fields: &Map<String, Value>) -> Result<Self, String> {
        let mut set = BTreeMap::new();
        for (key, value) in fields.iter().filter(|(key, _)| *key != ".") {
            let Some(element) = Element::parse(key)? else { continue };
            let Value::Object(value) = value else { return Err(format!("expected an object at {key}")) };
            let children = Self::from_json(value)?;
            let member = children.is_empty() || value.contains_key(".");
            set.insert(element, Node { member, children });
        }
        Ok(Self(set))
    }
}

/// A whole path as conflicts name it: `.spec.containers[name="a"].image`.
pub(super) fn path_text(path: &[Element]) -> String {
    path.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn set(fields: Value) -> FieldSet {
        FieldSet::from_json(fields.as_object().unwrap()).unwrap()
    }

    #[test]
    fn the_json_form_survives() {
        let fields = json!({"f:spec": {".": {}, "f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}},
            "f:finalizers": {"v:\"a&b\"": {}}}});
        let read = set(fields.clone());
        let texts: Vec<String> = read.paths().iter().map(|p| path_text(p)).collect();
        assert_eq!(
            texts,
            [
                ".spec",
                ".spec.finalizers[=\"a&b\"]",
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.ports[port=80,protocol=\"TCP\"].port",
            ]
        );
        let written = Value::Object(read.to_json());
        assert_eq!(written["f:spec"]["f:finalizers"], json!({"v:\"a\\u0026b\"": {}}));
        assert_eq!(set(written), read);
    }

    #[test]
    fn recursive_difference_takes_what_lies_under() {
        let all = set(json!({"f:a": {".": {}, "f:b": {"f:c": {}}}, "f:d": {}}));
        let gone = set(json!({"f:a": {"f:b": {}}}));
        assert_eq!(all.recursive_difference(&gone), set(json!({"f:a": {}, "f:d": {}})));
        assert_eq!(all.difference(&gone), all);
    }

    proptest! {
        // A file of failures beside the crates would be taken for a workspace member.
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn sets_behave_as_sets(a in paths(), b in paths()) {
            let (x, y) = (build(&a), build(&b));
            prop_assert_eq!(x.union(&y), y.union(&x));
            prop_assert_eq!(x.difference(&y).union(&x.intersection(&y)), x.clone());
            prop_assert!(x.difference(&y).intersection(&y).is_empty());
            prop_assert_eq!(FieldSet::from_json(&x.to_json()).unwrap(), x.clone());
            for path in &a {
                let path: Vec<Element> = path.iter().map(|n| Element::field(n)).collect();
                prop_assert!(x.has(&path));
                prop_assert_eq!(x.difference(&y).has(&path), !y.has(&path));
            }
        }
    }

    fn paths() -> impl Strategy<Value = Vec<Vec<String>>> {
        prop::collection::vec(prop::collection::vec("[a-c]", 1..4), 0..8)
    }

    fn build(paths: &[Vec<String>]) -> FieldSet {
        let mut set = FieldSet::default();
        for path in paths {
            set.insert(&path.iter().map(|n| Element::field(n)).collect::<Vec<_>>());
        }
        set
    }
}
