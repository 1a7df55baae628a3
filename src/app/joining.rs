//! What machines that join with a bootstrap token need, as kubeadm leaves it (`phases/bootstraptoken`): the ConfigMap
//! `kube-public/cluster-info`, which bootstrap tokens sign, and the permissions to ask for a node's certificate.
//!
//! The permissions are given to the group that kubeadm's tokens name, so that a token without it can nothing but know
//! itself; the group has no members until somebody makes such a token.

use std::net::IpAddr;

use api::Object;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::{Client, Error};
use http::Method;
use serde_json::{Value, json};

use crate::bootstrap;

/// The group of kubeadm's node tokens.
const TOKEN_GROUP: &str = "system:bootstrappers:kubeadm:default-node-token";
const CLUSTER_INFO: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";

/// The roles and bindings, for [`bootstrap::apply_all`].
pub fn permissions() -> Vec<Object> {
    let group = |name: &str| json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": name}]);
    let binding = |name: &str, role: &str, subjects: Value| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": subjects,
        })
    };
    let public = json!({"namespace": "kube-public", "name": "kubeadm:bootstrap-signer-clusterinfo"});
    [
        binding("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", group(TOKEN_GROUP)),
        binding(
            "kubeadm:node-autoapprove-bootstrap",
            "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
            group(TOKEN_GROUP),
        ),
        binding(
            "kubeadm:node-autoapprove-certificate-rotation",
            "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
            group(api::user::NODES),
        ),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "kubeadm:get-nodes"},
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["nodes"]}],
        }),
        binding("kubeadm:get-nodes", "kubeadm:get-nodes", group(TOKEN_GROUP)),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": public,
            "rules": [{
                "verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["cluster-info"],
            }],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": public,
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "kubeadm:bootstrap-signer-clusterinfo",
            },
            "subjects": [{
                "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": api::user::ANONYMOUS,
            }],
        }),
    ]
    .into_iter()
    .filter_map(Object::from_value)
    .collect()
}

/// Where this cluster is, and what to trust it by.
pub struct Place<'a> {
    /// Every API server of the cluster, this one first.
    pub addresses: &'a [IpAddr],
    pub port: u16,
    pub ca_pem: &'a str,
}

impl Place<'_> {
    /// Whether a published kubeconfig still leads here: to the same authority, by an address that is still in use.
    fn is_told_by(&self, text: &str) -> bool {
        text.contains(&STANDARD.encode(self.ca_pem))
            && self.addresses.iter().any(|address| text.contains(&format!("server: {}\n", self.url(*address))))
    }

    fn url(&self, address: IpAddr) -> String {
        format!("https://{}", std::net::SocketAddr::new(address, self.port))
    }

    /// A kubeconfig with a cluster and no user.
    fn kubeconfig(&self) -> String {
        let server = self.addresses.first().map(|address| self.url(*address)).unwrap_or_default();
        format!(
            "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: {server}\n  name: \
             \"\"\ncontexts: []\ncurrent-context: \"\"\nkind: Config\nusers: []\n",
            STANDARD.encode(self.ca_pem),
        )
    }
}

/// Writes the ConfigMap `cluster-info` unless it already leads here. The signatures in it are the bootstrap signer's.
pub async fn publish(client: &Client, place: &Place<'_>) -> Result<(), Error> {
    let (method, path, body) = match client.raw(Method::GET, CLUSTER_INFO, "", Vec::new()).await {
        Ok(bytes) => {
            let mut held: Object = serde_json::from_slice(&bytes).map_err(Error::Decode)?;
            if held.str(&["data", "kubeconfig"]).is_some_and(|text| place.is_told_by(text)) {
                return Ok(());
            }
            held.set(&["data", "kubeconfig"], place.kubeconfig());
            (Method::PUT, CLUSTER_INFO, held.into_value())
        }
        Err(error) if error.is_not_found() => {
            let map = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"namespace": "kube-public", "name": "cluster-info"},
                "data": {"kubeconfig": place.kubeconfig()},
            });
            (Method::POST, "/api/v1/namespaces/kube-public/configmaps", map)
        }
        Err(error) => return Err(error),
    };
    let body = serde_json::to_vec(&body).map_err(Error::Decode)?;
    match client.raw(method, path, "application/json", body).await {
        // Another server was first.
        Err(error) if error.is_already_exists() || error.is_conflict() => Ok(()),
        result => result.map(|_| ()),
    }
}

/// [`permissions`] and [`publish`].
pub async fn prepare(client: &Client, place: &Place<'_>) -> Result<(), Error> {
    bootstrap::apply_all(client, permissions()).await?;
    publish(client, place).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_here_is_left_alone() {
        let addresses = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let place = |addresses| Place { addresses, port: 6443, ca_pem: "authority" };
        let text = place(&addresses[..1]).kubeconfig();
        assert!(text.contains("server: https://10.0.0.1:6443\n"), "{text}");
        assert!(place(&addresses).is_told_by(&text));
        assert!(!place(&addresses[1..]).is_told_by(&text));
        assert!(!Place { ca_pem: "another", ..place(&addresses) }.is_told_by(&text));
        assert_eq!(permissions().len(), 7);
    }
}
