//! Metadata of objects of any kind.

use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use client::{Client, Error};
use http::Method;
use serde::Deserialize;

const ACCEPT: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
const ACCEPT_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
const PAGE: usize = 500;

/// The part of an object's metadata that the generic controllers look at.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub namespace: String,
    #[serde(default)]
    pub uid: String,
    #[serde(default)]
    pub resource_version: String,
    #[serde(default)]
    pub deletion_timestamp: Option<String>,
    #[serde(default)]
    pub finalizers: Vec<String>,
    #[serde(default)]
    pub owner_references: Vec<OwnerReference>,
}

impl Metadata {
    pub(crate) fn is_deleting(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    pub(crate) fn has_finalizer(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|f| f == finalizer)
    }
}

#[derive(Deserialize)]
struct Partial {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct PartialList {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default)]
    items: Option<Vec<Partial>>,
}

#[derive(Deserialize, Default)]
struct ListMeta {
    #[serde(default, rename = "continue")]
    continue_token: String,
    #[serde(default, rename = "resourceVersion")]
    resource_version: String,
}

/// Reads an object's metadata.
pub(crate) fn decode(object: &[u8]) -> Result<Metadata, serde_json::Error> {
    Ok(serde_json::from_slice::<Partial>(object)?.metadata)
}

/// Asks for one object's metadata; `None` if it does not exist.
pub(crate) async fn get(client: &Client, path: &str) -> Result<Option<Metadata>, Error> {
    match fetch(client, path, ACCEPT).await {
        Ok(body) => decode(&body).map(Some).map_err(Error::Decode),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Asks for the metadata of every object of a resource.
pub(crate) async fn list(client: &Client, path: &str) -> Result<Vec<Metadata>, Error> {
    let mut all = Vec::new();
    let mut token = String::new();
    loop {
        let page = if token.is_empty() {
            format!("{path}?limit={PAGE}")
        } else {
            format!("{path}?limit={PAGE}&continue={token}")
        };
        let body = fetch(client, &page, ACCEPT_LIST).await?;
        let list: PartialList = serde_json::from_slice(&body).map_err(Error::Decode)?;
        all.extend(list.items.into_iter().flatten().map(|item| item.metadata));
        token = list.metadata.continue_token;
        if token.is_empty() {
            return Ok(all);
        }
    }
}

/// Asks for the newest version of a resource.
pub(crate) async fn list_version(client: &Client, path: &str) -> Result<String, Error> {
    let body = fetch(client, &format!("{path}?limit=1"), ACCEPT_LIST).await?;
    Ok(serde_json::from_slice::<PartialList>(&body).map_err(Error::Decode)?.metadata.resource_version)
}

async fn fetch(client: &Client, path: &str, accept: &str) -> Result<Vec<u8>, Error> {
    let answer = client.open(Method::GET, path, accept, "", Vec::new()).await?;
    let body = answer.into_body().collect_bytes().await.map_err(|e| Error::Transport(Box::new(e)))?;
    Ok(body.to_vec())
}
