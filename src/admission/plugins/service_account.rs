//! `ServiceAccount`: every pod has a service account that exists, its token mounted and its pull secrets
//! (`plugin/pkg/admission/serviceaccount`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::{GroupResource, Gvr, Object, Status};
use async_trait::async_trait;
use client::Resource;
use client::k8s_openapi::api::core::v1::ServiceAccount as Account;
use rand::Rng;
use serde_json::{Value, json};

use crate::attributes::{containers, forbidden, is_mirror_pod, list_mut, text};
use crate::cluster::Cluster;

const DEFAULT_NAME: &str = "default";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const ENFORCE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";
/// The default account of a new namespace is made by a controller: so often is it looked for.
const DEFAULT_ATTEMPTS: usize = 10;
/// Upstream's `WarnOnlyBoundTokenExpirationSeconds`: an hour and a few seconds tell these tokens from others.
const TOKEN_SECONDS: i64 = 3607;

pub(crate) struct ServiceAccount {
    cluster: Cluster,
}

impl ServiceAccount {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster }
    }

    async fn account(&self, namespace: &str, name: &str) -> Result<Arc<Account>, Status> {
        if let Some(account) = self.cluster.known(namespace, name) {
            return Ok(account);
        }
        let attempts = if name == DEFAULT_NAME { DEFAULT_ATTEMPTS } else { 1 };
        let pause = Duration::from_millis(rand::rng().random_range(100..200));
        for attempt in 0..attempts {
            if attempt > 0 {
                tokio::time::sleep(pause).await;
            }
            if let Some(account) = self.cluster.live(namespace, name).await? {
                return Ok(account);
            }
        }
        Err(Status::not_found(&GroupResource::new("", "serviceaccount"), name))
    }

    async fn account_of(&self, attributes: &Attributes, name: &str) -> Result<Arc<Account>, Status> {
        let namespace = &attributes.namespace;
        let refused =
            |why: String| forbidden(attributes, format!("error looking up service account {namespace}/{name}: {why}"));
        // Upstream's client does not ask for what is no part of a path (client-go `Request.Name`).
        let problems = api::validation::path_segment(name, false);
        if !problems.is_empty() {
            return Err(refused(format!("invalid resource name {name:?}: [{}]", problems.join(" "))));
        }
        self.account(namespace, name).await.map_err(|status| refused(status.to_string()))
    }

    async fn check(&self, attributes: &Attributes, pod: &Object) -> Result<(), Status> {
        if is_mirror_pod(pod) {
            return check_mirror_pod(attributes, pod);
        }
        let name = account_name(pod);
        if name.is_empty() {
            let (namespace, pod) = (&attributes.namespace, pod.name());
            return Err(forbidden(attributes, format!("no service account specified for pod {namespace}/{pod}")));
        }
        let account = self.account_of(attributes, name).await?;
        if !enforces_secrets(&account) {
            return Ok(());
        }
        if attributes.subresource == "ephemeralcontainers" {
            check_containers(&account, pod, "ephemeralContainers", "ephemeral container")
        } else {
            check_secrets(&account, pod)
        }
        .map_err(|why| forbidden(attributes, why))
    }
}

#[async_trait]
impl AdmissionPlugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        let expected = match operation {
            Operation::Create => "",
            Operation::Update => "ephemeralcontainers",
            Operation::Delete | Operation::Connect => return false,
        };
        resource.group.is_empty() && resource.resource == "pods" && subresource == expected
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        if attributes.operation != Operation::Create {
            return Ok(());
        }
        let Some(mut pod) = attributes.object.take() else { return Ok(()) };
        let result = if is_mirror_pod(&pod) {
            check_mirror_pod(attributes, &pod)
        } else {
            if account_name(&pod).is_empty() {
                pod.set(&["spec", "serviceAccountName"], DEFAULT_NAME);
                pod.set(&["spec", "serviceAccount"], DEFAULT_NAME);
            }
            match self.account_of(attributes, account_name(&pod)).await {
                Err(status) => Err(status),
                Ok(account) => {
                    complete(&account, &mut pod);
                    Ok(())
                }
            }
        };
        attributes.object = Some(pod);
        result
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        match &attributes.object {
            Some(pod) => self.check(attributes, pod).await,
            None => Ok(()),
        }
    }
}

fn account_name(pod: &Object) -> &str {
    pod.str(&["spec", "serviceAccountName"]).unwrap_or_default()
}

/// Token and pull secrets.
fn complete(account: &Account, pod: &mut Object) {
    let wanted = pod.bool(&["spec", "automountServiceAccountToken"]).or(account.automount_service_account_token);
    if wanted.unwrap_or(true) {
        mount_token(pod);
    }
    if pod.array(&["spec", "imagePullSecrets"]).is_empty() {
        let secrets = account.image_pull_secrets.iter().flatten();
        let secrets: Vec<Value> = secrets.map(|secret| json!({"name": secret.name})).collect();
        if !secrets.is_empty() {
            pod.set(&["spec", "imagePullSecrets"], secrets);
        }
    }
}

/// `mountServiceAccountToken`.
fn mount_token(pod: &mut Object) {
    let volumes = pod.array(&["spec", "volumes"]);
    let existing = volumes.iter().map(|v| text(v, "name")).find(|n| n.starts_with(VOLUME_PREFIX)).map(str::to_owned);
    let name = existing.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", random_suffix()));
    let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        if containers(pod, list).is_empty() {
            continue;
        }
        for container in list_mut(pod, &["spec", list]).into_iter().flatten().filter_map(Value::as_object_mut) {
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            if mounts.is_null() {
                *mounts = json!([]);
            }
            let Value::Array(mounts) = mounts else { continue };
            if !mounts.iter().any(|m| text(m, "mountPath") == MOUNT_PATH) {
                mounts.push(mount.clone());
                needed = true;
            }
        }
    }
    if needed
        && existing.is_none()
        && let Some(volumes) = list_mut(pod, &["spec", "volumes"])
    {
        volumes.push(json!({"name": name, "projected": token_source()}));
    }
}

/// `TokenVolumeSource`.
fn token_source() -> Value {
    json!({
        "defaultMode": 0o644,
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
            ]}},
        ],
    })
}

/// Five characters as `generateName` makes them.
fn random_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    (0..5).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

fn check_mirror_pod(attributes: &Attributes, pod: &Object) -> Result<(), Status> {
    if !account_name(pod).is_empty() {
        return Err(forbidden(attributes, "a mirror pod may not reference service accounts"));
    }
    if crate::plugins::node_restriction::references_secrets(pod) {
        return Err(forbidden(attributes, "a mirror pod may not reference secrets"));
    }
    let sources = pod.array(&["spec", "volumes"]).iter().filter_map(|v| v.get("projected")?.get("sources")?.as_array());
    if sources.flatten().any(|source| source.get("serviceAccountToken").is_some()) {
        return Err(forbidden(attributes, "a mirror pod may not use ServiceAccountToken volume projections"));
    }
    Ok(())
}

fn enforces_secrets(account: &Account) -> bool {
    // Go's ParseBool.
    matches!(account.annotation(ENFORCE_SECRETS), Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
}

/// `limitSecretReferences`.
fn check_secrets(account: &Account, pod: &Object) -> Result<(), String> {
    let mountable = mountable(account);
    let name = account.name();
    for volume in pod.array(&["spec", "volumes"]) {
        if let Some(secret) = volume.get("secret").map(|s| text(s, "secretName"))
            && !mountable.contains(secret)
        {
            return Err(format!(
                "volume with secret.secretName=\"{secret}\" is not allowed because service account {name} does not \
                 reference that secret"
            ));
        }
    }
    check_containers(account, pod, "initContainers", "init container")?;
    check_containers(account, pod, "containers", "container")?;
    let pulls: BTreeSet<&str> = account.image_pull_secrets.iter().flatten().map(|s| s.name.as_str()).collect();
    for (i, secret) in pod.array(&["spec", "imagePullSecrets"]).iter().map(|s| text(s, "name")).enumerate() {
        if !pulls.contains(secret) {
            return Err(format!(
                "imagePullSecrets[{i}].name=\"{secret}\" is not allowed because service account {name} does not \
                 reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}

fn mountable(account: &Account) -> BTreeSet<&str> {
    account.secrets.iter().flatten().filter_map(|s| s.name.as_deref()).collect()
}

fn check_containers(account: &Account, pod: &Object, list: &str, word: &str) -> Result<(), String> {
    let mountable = mountable(account);
    let account = account.name();
    for container in containers(pod, list) {
        let name = text(container, "name");
        let members = |list: &str| container.get(list).and_then(Value::as_array).into_iter().flatten();
        for env in members("env") {
            if let Some(secret) = env.get("valueFrom").and_then(|v| v.get("secretKeyRef")).map(|s| text(s, "name"))
                && !mountable.contains(secret)
            {
                return Err(format!(
                    "{word} {name} with envVar {} referencing secret.secretName=\"{secret}\" is not allowed because \
                     service account {account} does not reference that secret",
                    text(env, "name")
                ));
            }
        }
        for from in members("envFrom") {
            if let Some(secret) = from.get("secretRef").map(|s| text(s, "name"))
                && !mountable.contains(secret)
            {
                return Err(format!(
                    "{word} {name} with envFrom referencing secret.secretName=\"{secret}\" is not allowed because \
                     service account {account} does not reference that secret"
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: Value) -> Object {
        Object::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    #[test]
    fn the_token_is_mounted_where_nothing_is() {
        let mut pod = pod(json!({"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [
            {"name": "own", "mountPath": MOUNT_PATH}]}], "initContainers": [{"name": "i"}]}));
        complete(&Account::default(), &mut pod);
        let volume = &pod.array(&["spec", "volumes"])[0];
        let name = text(volume, "name").to_owned();
        assert!(name.starts_with(VOLUME_PREFIX) && name.len() == VOLUME_PREFIX.len() + 5, "{name}");
        assert_eq!(volume["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
        assert_eq!(volume["projected"]["defaultMode"], 420);
        let mounts = |list: &str, i: usize| pod.array(&["spec", list])[i]["volumeMounts"].clone();
        let expected = json!([{"name": name, "readOnly": true, "mountPath": MOUNT_PATH}]);
        assert_eq!((mounts("containers", 0), mounts("initContainers", 0)), (expected.clone(), expected));
        assert_eq!(mounts("containers", 1).as_array().unwrap().len(), 1);
    }

    #[test]
    fn the_pods_word_on_mounting_goes_before_the_accounts() {
        let account = Account { automount_service_account_token: Some(true), ..Account::default() };
        let mut pod = pod(json!({"automountServiceAccountToken": false, "containers": [{"name": "a"}]}));
        complete(&account, &mut pod);
        assert!(pod.array(&["spec", "volumes"]).is_empty());
    }

    #[test]
    fn secrets_must_be_the_accounts() {
        let account = Account::default();
        let pod = pod(json!({"volumes": [{"secret": {"secretName": "s"}}]}));
        assert_eq!(
            check_secrets(&account, &pod).unwrap_err(),
            "volume with secret.secretName=\"s\" is not allowed because service account  does not reference that secret"
        );
    }
}
