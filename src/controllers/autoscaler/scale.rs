//! The scale subresource of whatever an autoscaler names: any kind that has one, custom resources too.

use client::Client;
use http::Method;
use k8s_openapi::api::autoscaling::v2::CrossVersionObjectReference;
use serde_json::Value;

use crate::discovery;

const JSON: &str = "application/json";

/// An object's size, and what it selects.
pub(super) struct Scale {
    object: Value,
    /// `spec.replicas`.
    pub replicas: i32,
    /// `status.replicas`.
    pub status_replicas: i32,
    /// `status.selector`, empty if there is none.
    pub selector: String,
}

impl Scale {
    /// # Errors
    /// The object or its subresource is not there, or cannot be read.
    pub(super) async fn get(client: &Client, path: &str) -> Result<Self, client::Error> {
        let body = client.raw(Method::GET, path, "", Vec::new()).await?;
        let object: Value = serde_json::from_slice(&body).map_err(client::Error::Decode)?;
        Ok(Self::from(object))
    }

    /// Writes the size at the version that was read.
    ///
    /// # Errors
    /// A conflict if the object changed meanwhile, or whatever else the API server says.
    pub(super) async fn put(&mut self, client: &Client, path: &str, replicas: i32) -> Result<(), client::Error> {
        self.object["spec"]["replicas"] = replicas.into();
        let body = serde_json::to_vec(&self.object).map_err(client::Error::Decode)?;
        client.raw(Method::PUT, path, JSON, body).await.map(drop)
    }
}

impl From<Value> for Scale {
    fn from(object: Value) -> Self {
        let number = |part: &str| object[part]["replicas"].as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0);
        Self {
            replicas: number("spec"),
            status_replicas: number("status"),
            selector: object["status"]["selector"].as_str().unwrap_or_default().to_owned(),
            object,
        }
    }
}

/// Finds the target's scale and its path. The version in the reference matters little: any that the group serves does.
///
/// # Errors
/// The text for the condition.
pub(super) async fn find(
    client: &Client,
    namespace: &str,
    target: &CrossVersionObjectReference,
) -> Result<(Scale, String), String> {
    let api_version = target.api_version.as_deref().unwrap_or_default();
    let group = match api_version.split('/').collect::<Vec<_>>().as_slice() {
        [group, _] => *group,
        [_] => "",
        _ => return Err(format!("unexpected GroupVersion string: {api_version}")),
    };
    let found = discovery::group(client, group).await.map_err(|e| base::chain(&e).to_string())?;
    let mut first = None;
    for resource in found.iter().filter(|r| r.kind == target.kind) {
        let path = format!("{}/scale", resource.path(namespace, &target.name));
        match Scale::get(client, &path).await {
            Ok(scale) => return Ok((scale, path)),
            Err(error) => first = first.or(Some(base::chain(&error).to_string())),
        }
    }
    Err(first.unwrap_or_else(|| format!("no matches for kind {:?} in group {group:?}", target.kind)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn missing_numbers_are_zero() {
        let scale = Scale::from(json!({"spec": {"replicas": 3}, "status": {"selector": "a=b"}}));
        assert_eq!((scale.replicas, scale.status_replicas, scale.selector.as_str()), (3, 0, "a=b"));
    }
}
