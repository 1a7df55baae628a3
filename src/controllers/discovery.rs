//! What resources the API server has, built-in and from extensions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::Client;
use http::Method;
use serde::Deserialize;
use tokio::sync::watch;
use tracing::debug;

/// Tells that kinds came or went. The garbage collector, which watches the metadata of every kind and so of
/// CustomResourceDefinitions and APIServices too, says so; whoever keeps what discovery said listens.
#[derive(Clone)]
pub(crate) struct KindsChanged(Arc<watch::Sender<u64>>);

impl Default for KindsChanged {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl KindsChanged {
    pub(crate) fn tell(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    pub(crate) fn listen(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

/// A resource that can be listed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ApiResource {
    pub group: String,
    pub version: String,
    pub resource: String,
    pub kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl ApiResource {
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    pub(crate) fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.iter().any(|v| v == verb))
    }

    /// The URL path of the resource, in a namespace, or of one object, by which parts are empty.
    pub(crate) fn path(&self, namespace: &str, name: &str) -> String {
        let namespace = if self.namespaced { namespace } else { "" };
        client::client::resource_path(&self.group, &self.version, &self.resource, namespace, name, "")
    }
}

/// Everything that discovery says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Discovered {
    /// One version of each resource: the group's preferred one, if that has it.
    pub preferred: Vec<Arc<ApiResource>>,
    /// Every version, by `apiVersion` and kind.
    pub by_kind: HashMap<(String, String), Arc<ApiResource>>,
    /// Group versions that could not be read, and why.
    pub failures: Vec<String>,
}

/// Asks the server. An extension that does not answer is among the failures; only a server that says nothing at all is an
/// error.
pub(crate) async fn discover(client: &Client) -> Result<Discovered, client::Error> {
    let mut found = Discovered::default();
    let groups: GroupList = get(client, "/apis").await?;
    let mut versions = vec![("".to_owned(), "v1".to_owned())];
    for group in groups.groups {
        let preferred = group.preferred_version.map(|v| v.version).unwrap_or_default();
        let mut of_group: Vec<String> = group.versions.into_iter().map(|v| v.version).collect();
        of_group.sort_by_key(|version| *version != preferred);
        versions.extend(of_group.into_iter().map(|version| (group.name.clone(), version)));
    }
    // By group and resource; the first version that has it counts.
    let mut preferred: BTreeMap<(String, String), Arc<ApiResource>> = BTreeMap::new();
    for (group, version) in versions {
        let path = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        let list: ResourceList = match get(client, &path).await {
            Ok(list) => list,
            Err(error) if error.is_not_found() => continue,
            Err(error) => {
                debug!(group, version, error = %base::chain(&error), "cannot discover a group version");
                found.failures.push(format!("{group}/{version}: {}", base::chain(&error)));
                continue;
            }
        };
        for resource in list.resources.into_iter().filter(|r| !r.name.contains('/')) {
            let resource = Arc::new(resource.of(&group, &version));
            found.by_kind.insert((resource.api_version(), resource.kind.clone()), Arc::clone(&resource));
            let key = (resource.group.clone(), resource.resource.clone());
            preferred.entry(key).or_insert(resource);
        }
    }
    found.preferred = preferred.into_values().collect();
    Ok(found)
}

/// The resources of one group, in the version that it prefers, without those of no kind that can be read.
///
/// # Errors
/// There is no such group, or it does not answer.
pub(crate) async fn group(client: &Client, group: &str) -> Result<Vec<ApiResource>, client::Error> {
    let (version, path) = if group.is_empty() {
        ("v1".to_owned(), "/api/v1".to_owned())
    } else {
        let found: Group = get(client, &format!("/apis/{group}")).await?;
        let version = found.preferred_version.map(|v| v.version).unwrap_or_default();
        let path = format!("/apis/{group}/{version}");
        (version, path)
    };
    let list: ResourceList = get(client, &path).await?;
    let plain = list.resources.into_iter().filter(|r| !r.name.contains('/'));
    Ok(plain.map(|r| r.of(group, &version)).collect())
}

async fn get<T: for<'de> Deserialize<'de>>(client: &Client, path: &str) -> Result<T, client::Error> {
    let body = client.raw(Method::GET, path, "", Vec::new()).await?;
    serde_json::from_slice(&body).map_err(client::Error::Decode)
}

#[derive(Deserialize)]
struct GroupList {
    #[serde(default)]
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    name: String,
    #[serde(default)]
    versions: Vec<Version>,
    preferred_version: Option<Version>,
}

#[derive(Deserialize)]
struct Version {
    version: String,
}

#[derive(Deserialize)]
struct ResourceList {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    namespaced: bool,
    #[serde(default)]
    verbs: Vec<String>,
}

impl Resource {
    fn of(self, group: &str, version: &str) -> ApiResource {
        ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            resource: self.name,
            kind: self.kind,
            namespaced: self.namespaced,
            verbs: self.verbs,
        }
    }
}
