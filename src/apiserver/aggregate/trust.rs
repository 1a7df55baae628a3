//! What aggregated servers must know to trust requests: the ConfigMap `extension-apiserver-authentication`
//! (`pkg/controlplane/controller/clusterauthenticationtrust`).

use std::sync::Arc;

use api::{Object, Status};
use base::Shutdown;
use serde_json::json;

use crate::auth::front_proxy::{ALLOWED_NAME, EXTRA_PREFIX, GROUP, UID, USER};
use crate::own_maps;
use crate::server::ApiServer;

const NAME: &str = "extension-apiserver-authentication";

/// The authorities in force, as PEM.
#[derive(Debug, Clone)]
pub struct Trust {
    /// Signs clients' certificates.
    pub client_ca: String,
    /// Signs front proxies' certificates.
    pub front_proxy_ca: String,
}

/// Keeps the ConfigMap as it must be, until shutdown. What others put there stays.
pub async fn run(server: Arc<ApiServer>, trust: Trust, shutdown: Shutdown) {
    own_maps::keep(&server, NAME, || settle(&server, &trust), shutdown).await;
}

/// `syncConfigMap`.
async fn settle(server: &ApiServer, trust: &Trust) -> Result<(), Status> {
    let change = |object: &mut Object| {
        for (key, value) in data(object, trust) {
            object.set(&["data", &key], value);
        }
        Ok(())
    };
    own_maps::write(server, NAME, &change).await
}

/// The members, each joined with what is there.
fn data(object: &Object, trust: &Trust) -> Vec<(String, String)> {
    let held = |key: &str| object.str(&["data", key]).unwrap_or_default();
    let names = |key: &str, own: &str| {
        let mut all: Vec<String> = serde_json::from_str(held(key)).unwrap_or_default();
        if !all.iter().any(|name| name == own) {
            all.push(own.to_owned());
        }
        (key.to_owned(), json!(all).to_string())
    };
    let bundle = |key: &str, own: &str| {
        let mut all = String::new();
        for certificate in blocks(held(key)).into_iter().chain(blocks(own)) {
            if !all.contains(&certificate) {
                all += &certificate;
            }
        }
        (key.to_owned(), all)
    };
    vec![
        bundle("client-ca-file", &trust.client_ca),
        names("requestheader-username-headers", USER),
        names("requestheader-uid-headers", UID),
        names("requestheader-group-headers", GROUP),
        names("requestheader-extra-headers-prefix", EXTRA_PREFIX),
        names("requestheader-allowed-names", ALLOWED_NAME),
        bundle("requestheader-client-ca-file", &trust.front_proxy_ca),
    ]
}

/// The certificates of a bundle, each with its own lines.
fn blocks(bundle: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let parts = bundle.replace('\r', "");
    let whole = parts.split_inclusive(END).filter(|part| part.ends_with(END));
    whole.filter_map(|part| Some(format!("{}\n", part[part.find("-----BEGIN")?..].trim()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_put_there_stays() {
        let block = |text: &str| format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        let trust = Trust { client_ca: block("own"), front_proxy_ca: block("proxy") };
        let mut object = Object::from_value(json!({"data": {
            "client-ca-file": block("other"), "requestheader-allowed-names": "[\"aggregator\"]",
        }}))
        .unwrap();
        for _ in 0..2 {
            for (key, value) in data(&object, &trust) {
                object.set(&["data", &key], value);
            }
        }
        assert_eq!(
            object.str(&["data", "client-ca-file"]),
            Some(format!("{}{}", block("other"), block("own")).as_str())
        );
        let names = object.str(&["data", "requestheader-allowed-names"]);
        assert_eq!(names, Some("[\"aggregator\",\"front-proxy-client\"]"));
        assert_eq!(object.str(&["data", "requestheader-username-headers"]), Some("[\"X-Remote-User\"]"));
    }
}
