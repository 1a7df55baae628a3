//! `registries.yaml`: mirrors, credentials and TLS of registries, in k3s's form.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use base64::Engine;
use runtime::RegistryAuth;
use runtime::images::pull::{RegistryConfig, RegistryTls};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    mirrors: BTreeMap<String, Mirror>,
    configs: BTreeMap<String, Host>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Mirror {
    endpoint: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Host {
    auth: Option<Auth>,
    tls: Option<Tls>,
}

impl std::fmt::Debug for Host {
    /// Without the credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Auth {
    username: String,
    password: String,
    /// Base64 of `username:password`.
    auth: String,
    identity_token: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Tls {
    ca_file: Option<PathBuf>,
    insecure_skip_verify: bool,
}

/// Reads the file; no file means no settings.
pub fn load(path: &Path) -> anyhow::Result<RegistryConfig> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(RegistryConfig::default()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    parse(&text).with_context(|| format!("{} is not valid", path.display()))
}

fn parse(text: &str) -> anyhow::Result<RegistryConfig> {
    let file: File = if text.trim().is_empty() { File::default() } else { serde_saphyr::from_str(text)? };
    let mut config = RegistryConfig::default();
    for (host, mirror) in file.mirrors {
        config.mirrors.insert(host, mirror.endpoint);
    }
    for (host, settings) in file.configs {
        if let Some(auth) = settings.auth {
            config.auth.insert(host.clone(), credentials(&host, auth)?);
        }
        if let Some(tls) = settings.tls {
            let ca_pem = match tls.ca_file {
                Some(path) => Some(std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?),
                None => None,
            };
            config.tls.insert(host, RegistryTls { ca_pem, insecure_skip_verify: tls.insecure_skip_verify });
        }
    }
    Ok(config)
}

fn credentials(host: &str, auth: Auth) -> anyhow::Result<RegistryAuth> {
    if auth.auth.is_empty() {
        let Auth { username, password, identity_token, .. } = auth;
        return Ok(RegistryAuth { username, password, identity_token });
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(auth.auth.trim()).ok();
    let pair = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let (username, password) = pair
        .as_deref()
        .and_then(|pair| pair.split_once(':'))
        .with_context(|| format!("configs.{host}.auth.auth must be base64 of username:password"))?;
    Ok(RegistryAuth {
        username: username.to_owned(),
        password: password.to_owned(),
        identity_token: auth.identity_token,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_and_credentials_are_read() {
        let config = parse(
            "mirrors:\n  docker.io:\n    endpoint: [\"https://mirror.example\"]\n\
             configs:\n  mirror.example:\n    auth: {auth: YW5uOnNlY3JldA==}\n    tls: {insecure_skip_verify: true}\n",
        )
        .unwrap();
        assert_eq!(config.mirrors["docker.io"], ["https://mirror.example"]);
        assert_eq!(config.auth["mirror.example"].username, "ann");
        assert_eq!(config.auth["mirror.example"].password, "secret");
        assert!(config.tls["mirror.example"].insecure_skip_verify);
    }

    #[test]
    fn mistakes_are_named() {
        assert!(parse("mirors: {}").is_err());
        assert!(parse("configs: {h: {auth: {auth: '!'}}}").unwrap_err().to_string().contains("configs.h.auth.auth"));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]

        #[test]
        fn no_file_panics(words in proptest::collection::vec(proptest::sample::select(vec![
            "mirrors:\n", "configs:\n", "  docker.io:\n", "  \"*\":\n", "    endpoint:\n", "    - https://a.b\n", "    endpoint: [x]\n",
            "    auth: {username: a, password: b}\n", "    auth: {auth: YW5uOnNlY3JldA==}\n", "    tls: {insecure_skip_verify: true}\n",
            "    tls: {ca_file: /nothing}\n", "&a ", "*a", "<<: *a\n", "[", "{", "}", "null", "\t", "---\n", "!!binary ",
        ]), 0..14), any in "\\PC{0,80}") {
            let _read = (parse(&words.concat()), parse(&any));
        }
    }
}
