//! Who owns whom (`graph_builder.go`). Pure: changes go in, uids to look at come out.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::{FOREGROUND, ORPHAN};
use crate::metadata::Metadata;

/// Identities that are known not to exist; more are forgotten, oldest first.
const ABSENT_MAX: usize = 500;

/// Where an object is. For owners that nobody has seen it is what a reference claims.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Identity {
    pub api_version: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl Identity {
    /// The owner that a reference of an object in `namespace` names.
    pub(crate) fn of(reference: &OwnerReference, namespace: &str) -> Self {
        Self {
            api_version: reference.api_version.clone(),
            kind: reference.kind.clone(),
            namespace: namespace.to_owned(),
            name: reference.name.clone(),
            uid: reference.uid.clone(),
        }
    }

    fn is_named_by(&self, reference: &OwnerReference) -> bool {
        self.uid == reference.uid
            && self.name == reference.name
            && self.kind == reference.kind
            && self.api_version == reference.api_version
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub identity: Identity,
    pub owners: Arc<[OwnerReference]>,
    pub deleting: bool,
    /// Being deleted in the foreground: waits for its dependants.
    pub deleting_dependents: bool,
    orphaning: bool,
    /// Only named by references so far.
    pub is_virtual: bool,
    dependents: HashSet<Arc<str>>,
    /// Number of the monitor that saw it.
    monitor: usize,
}

/// What to look at because of a change.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Todo {
    pub delete: Vec<String>,
    pub orphan: Vec<String>,
    /// Dependants in another namespace than the owner they name, and that owner.
    pub invalid: Vec<(Identity, Identity)>,
    /// Virtual owners to look at again, with back-off.
    pub later: Vec<String>,
}

#[derive(Default)]
pub(crate) struct Graph {
    nodes: HashMap<Arc<str>, Node>,
    absent: HashSet<Identity>,
    absent_order: VecDeque<Identity>,
}

impl Graph {
    pub(crate) fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The dependants that are known.
    pub(crate) fn dependents(&self, uid: &str) -> Vec<Node> {
        let Some(node) = self.nodes.get(uid) else { return Vec::new() };
        node.dependents.iter().filter_map(|uid| self.nodes.get(uid).cloned()).collect()
    }

    pub(crate) fn is_absent(&self, identity: &Identity) -> bool {
        self.absent.contains(identity)
    }

    pub(crate) fn note_absent(&mut self, identity: Identity) {
        if self.absent.insert(identity.clone()) {
            self.absent_order.push_back(identity);
        }
        while self.absent_order.len() > ABSENT_MAX {
            if let Some(oldest) = self.absent_order.pop_front() {
                self.absent.remove(&oldest);
            }
        }
    }

    /// An object was added or changed.
    pub(crate) fn observe(&mut self, monitor: usize, identity: Identity, metadata: &Metadata) -> Todo {
        let mut todo = Todo::default();
        let uid: Arc<str> = identity.uid.as_str().into();
        let deleting = metadata.is_deleting();
        let foreground = deleting && metadata.has_finalizer(FOREGROUND);
        let orphaning = deleting && metadata.has_finalizer(ORPHAN);
        let mut was = (false, false);
        let mut old_owners: Arc<[OwnerReference]> = Arc::from([]);
        match self.nodes.get_mut(&uid) {
            Some(node) => {
                was = (node.deleting_dependents, node.orphaning);
                old_owners = Arc::clone(&node.owners);
                if node.is_virtual && node.identity != identity {
                    let dependents = self.dependents(&uid);
                    self.check_namespaces(&identity, &dependents, &mut todo);
                }
            }
            None => {
                let node = Node {
                    identity: identity.clone(),
                    owners: Arc::from([]),
                    deleting: false,
                    deleting_dependents: false,
                    orphaning: false,
                    is_virtual: false,
                    dependents: HashSet::new(),
                    monitor,
                };
                self.nodes.insert(Arc::clone(&uid), node);
            }
        }
        let owners: Arc<[OwnerReference]> = if *old_owners == *metadata.owner_references {
            old_owners.clone()
        } else {
            metadata.owner_references.as_slice().into()
        };
        if let Some(node) = self.nodes.get_mut(&uid) {
            node.identity = identity.clone();
            node.is_virtual = false;
            node.monitor = monitor;
            node.owners = Arc::clone(&owners);
            node.deleting |= deleting;
            node.deleting_dependents |= foreground;
            node.orphaning = orphaning;
        }
        if !Arc::ptr_eq(&owners, &old_owners) || owners.is_empty() != old_owners.is_empty() {
            self.change_owners(&uid, &identity, &old_owners, &owners, &mut todo);
        }
        if orphaning && !was.1 {
            todo.orphan.push(identity.uid);
        } else if foreground && !was.0 {
            if let Some(node) = self.nodes.get(&uid) {
                todo.delete.extend(node.dependents.iter().map(|d| d.to_string()));
            }
            todo.delete.push(identity.uid);
        }
        todo
    }

    /// Dependants whose claims do not fit what the owner turned out to be must be looked at.
    fn check_namespaces(&self, owner: &Identity, dependents: &[Node], todo: &mut Todo) {
        for dependent in dependents {
            let elsewhere = !owner.namespace.is_empty() && dependent.identity.namespace != owner.namespace;
            if elsewhere && let Some(claim) = dependent.owners.iter().find(|o| o.uid == owner.uid) {
                let claimed = Identity::of(claim, &dependent.identity.namespace);
                todo.invalid.push((dependent.identity.clone(), claimed));
            }
            if elsewhere || dependent.owners.iter().any(|o| o.uid == owner.uid && !owner.is_named_by(o)) {
                todo.delete.push(dependent.identity.uid.clone());
            }
        }
    }

    fn change_owners(
        &mut self,
        uid: &Arc<str>,
        identity: &Identity,
        old: &[OwnerReference],
        new: &[OwnerReference],
        todo: &mut Todo,
    ) {
        for removed in old.iter().filter(|o| !new.iter().any(|n| n.uid == o.uid)) {
            if let Some(owner) = self.nodes.get_mut(removed.uid.as_str()) {
                owner.dependents.remove(uid);
                if removed.block_owner_deletion == Some(true) {
                    todo.delete.push(removed.uid.clone());
                }
            }
        }
        for reference in new {
            match old.iter().find(|o| o.uid == reference.uid) {
                Some(before) => {
                    // No longer in the way of the owner's deletion.
                    if before.block_owner_deletion == Some(true) && reference.block_owner_deletion != Some(true) {
                        todo.delete.push(reference.uid.clone());
                    }
                }
                None => self.add_dependent(uid, identity, reference, todo),
            }
        }
    }

    fn add_dependent(&mut self, uid: &Arc<str>, identity: &Identity, reference: &OwnerReference, todo: &mut Todo) {
        match self.nodes.get_mut(reference.uid.as_str()) {
            None => {
                let owner = Identity::of(reference, &identity.namespace);
                let node = Node {
                    identity: owner,
                    owners: Arc::from([]),
                    deleting: false,
                    deleting_dependents: false,
                    orphaning: false,
                    is_virtual: true,
                    dependents: HashSet::from([Arc::clone(uid)]),
                    monitor: usize::MAX,
                };
                self.nodes.insert(reference.uid.as_str().into(), node);
                // Whether it exists is for the API server to say.
                todo.delete.push(reference.uid.clone());
            }
            Some(owner) => {
                owner.dependents.insert(Arc::clone(uid));
                let elsewhere = !owner.identity.namespace.is_empty() && owner.identity.namespace != identity.namespace;
                if elsewhere && !owner.is_virtual {
                    todo.invalid.push((identity.clone(), Identity::of(reference, &identity.namespace)));
                }
                if elsewhere || !owner.identity.is_named_by(reference) {
                    todo.delete.push(identity.uid.clone());
                }
            }
        }
    }

    /// An object was deleted.
    pub(crate) fn remove(&mut self, uid: &str) -> Todo {
        let mut todo = Todo::default();
        let Some(node) = self.nodes.remove(uid) else { return todo };
        if !node.dependents.is_empty() {
            self.note_absent(node.identity.clone());
        }
        todo.delete.extend(node.dependents.iter().map(|d| d.to_string()));
        for reference in node.owners.iter() {
            let Some(owner) = self.nodes.get_mut(reference.uid.as_str()) else { continue };
            owner.dependents.remove(uid);
            if owner.deleting_dependents {
                todo.delete.push(reference.uid.clone());
            }
        }
        todo
    }

    /// The API server says that an object is not there. A virtual owner that others know by other coordinates stays,
    /// with those.
    pub(crate) fn confirm_absent(&mut self, identity: &Identity) -> Todo {
        let mut todo = Todo::default();
        let Some(node) = self.nodes.get(identity.uid.as_str()) else { return todo };
        if !node.is_virtual {
            return if node.identity == *identity { self.remove(&identity.uid) } else { todo };
        }
        let dependents = self.dependents(&identity.uid);
        let mut others: Vec<Identity> = Vec::new();
        for dependent in &dependents {
            for reference in dependent.owners.iter().filter(|o| o.uid == identity.uid) {
                let same_place = identity.namespace.is_empty() || identity.namespace == dependent.identity.namespace;
                if same_place && identity.is_named_by(reference) {
                    todo.delete.push(dependent.identity.uid.clone());
                } else {
                    others.push(Identity::of(reference, &dependent.identity.namespace));
                }
            }
        }
        others.sort();
        others.dedup();
        if !todo.delete.is_empty() {
            self.note_absent(identity.clone());
        }
        // The next one in order, then the first: every claim gets its turn.
        let next = others.iter().find(|o| *o > identity).or_else(|| others.first()).cloned();
        match next {
            None => return self.remove(&identity.uid),
            Some(next) => {
                if let Some(node) = self.nodes.get_mut(identity.uid.as_str())
                    && node.identity == *identity
                {
                    node.identity = next;
                    todo.later.push(identity.uid.clone());
                }
            }
        }
        todo
    }

    /// After a new list: what the monitor knew and the list does not name is gone.
    pub(crate) fn retain(&mut self, monitor: usize, listed: &HashSet<String>) -> Vec<Todo> {
        let gone: Vec<Arc<str>> = self
            .nodes
            .iter()
            .filter(|(uid, node)| node.monitor == monitor && !listed.contains(&***uid))
            .map(|(uid, _)| Arc::clone(uid))
            .collect();
        gone.iter().map(|uid| self.remove(uid)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn identity(kind: &str, name: &str) -> Identity {
        Identity {
            api_version: "v1".into(),
            kind: kind.into(),
            namespace: "n".into(),
            name: name.into(),
            uid: format!("u-{name}"),
        }
    }

    fn metadata(value: serde_json::Value) -> Metadata {
        serde_json::from_value(value).unwrap()
    }

    fn owned_by(owner: &str, blocks: bool) -> Metadata {
        metadata(json!({"ownerReferences": [
            {"apiVersion": "v1", "kind": "Owner", "name": owner, "uid": format!("u-{owner}"), "blockOwnerDeletion": blocks}]}))
    }

    #[test]
    fn an_unseen_owner_is_looked_at_and_its_absence_frees_the_dependants() {
        let mut graph = Graph::default();
        let todo = graph.observe(0, identity("Pod", "p"), &owned_by("o", true));
        assert_eq!(todo.delete, ["u-o"]);
        assert!(graph.get("u-o").unwrap().is_virtual);
        let todo = graph.confirm_absent(&identity("Owner", "o"));
        assert_eq!(todo.delete, ["u-p"]);
        assert!(graph.get("u-o").is_none() && graph.is_absent(&identity("Owner", "o")));
    }

    #[test]
    fn deleting_an_owner_brings_its_dependants_up() {
        let mut graph = Graph::default();
        graph.observe(0, identity("Owner", "o"), &Metadata::default());
        assert_eq!(graph.observe(1, identity("Pod", "p"), &owned_by("o", true)), Todo::default());
        assert_eq!(graph.remove("u-o").delete, ["u-p"]);
    }

    #[test]
    fn foreground_deletion_starts_once_and_the_owner_is_looked_at_when_a_dependant_goes() {
        let mut graph = Graph::default();
        graph.observe(0, identity("Owner", "o"), &Metadata::default());
        graph.observe(1, identity("Pod", "p"), &owned_by("o", true));
        let deleting = metadata(json!({"deletionTimestamp": "t", "finalizers": ["foregroundDeletion"]}));
        assert_eq!(graph.observe(0, identity("Owner", "o"), &deleting).delete, ["u-p", "u-o"]);
        assert_eq!(graph.observe(0, identity("Owner", "o"), &deleting), Todo::default());
        assert_eq!(graph.remove("u-p").delete, ["u-o"]);
    }

    #[test]
    fn an_unblocked_owner_is_looked_at() {
        let mut graph = Graph::default();
        graph.observe(0, identity("Owner", "o"), &Metadata::default());
        graph.observe(1, identity("Pod", "p"), &owned_by("o", true));
        assert_eq!(graph.observe(1, identity("Pod", "p"), &owned_by("o", false)).delete, ["u-o"]);
        assert_eq!(graph.observe(1, identity("Pod", "p"), &Metadata::default()).delete, Vec::<String>::new());
        assert!(graph.dependents("u-o").is_empty());
    }

    #[test]
    fn an_owner_in_another_namespace_is_reported() {
        let mut graph = Graph::default();
        graph.observe(0, identity("Owner", "o"), &Metadata::default());
        let mut elsewhere = identity("Pod", "p");
        elsewhere.namespace = "other".into();
        let todo = graph.observe(1, elsewhere, &owned_by("o", false));
        assert_eq!((todo.delete.as_slice(), todo.invalid.len()), (["u-p".to_owned()].as_slice(), 1));
    }

    #[test]
    fn a_virtual_owner_takes_each_claimed_identity_in_turn() {
        let mut graph = Graph::default();
        graph.observe(0, identity("Pod", "p"), &owned_by("o", false));
        let wrong =
            metadata(json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Wrong", "name": "o", "uid": "u-o"}]}));
        assert_eq!(graph.observe(0, identity("Pod", "q"), &wrong).delete, ["u-q"]);
        let todo = graph.confirm_absent(&identity("Owner", "o"));
        assert_eq!((todo.delete, todo.later), (vec!["u-p".to_owned()], vec!["u-o".to_owned()]));
        assert_eq!(graph.get("u-o").unwrap().identity.kind, "Wrong");
    }

    #[test]
    fn a_new_list_removes_what_it_does_not_name() {
        let mut graph = Graph::default();
        graph.observe(0, identity("Owner", "o"), &Metadata::default());
        graph.observe(1, identity("Pod", "p"), &owned_by("o", false));
        graph.retain(0, &HashSet::new());
        assert!(graph.get("u-o").is_none() && graph.get("u-p").is_some());
    }
}
