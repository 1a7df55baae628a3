//! kubeconfig files with a client certificate inside.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::Leaf;

/// A kubeconfig for `server` (an `https://` URL) whose one context is called `name`. The text holds a private key.
pub fn render(name: &str, server: &str, ca_pem: &str, leaf: &Leaf) -> String {
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: {name}\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {}\nusers:\n- name: {name}\n  user:\n    client-certificate-data: {}\n    \
         client-key-data: {}\ncontexts:\n- name: {name}\n  context:\n    cluster: {name}\n    user: {name}\n\
         current-context: {name}\n",
        STANDARD.encode(ca_pem),
        STANDARD.encode(&leaf.cert_pem),
        STANDARD.encode(&leaf.key_pem),
    )
}
