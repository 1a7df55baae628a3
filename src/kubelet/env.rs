//! A container's environment: values, expansion, references, downward API and service variables.
//!
//! Follows upstream's `kubelet_pods.go` `makeEnvironmentVariables` and `envvars/envvars.go`.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, Pod, Service};

use crate::context::Context;
use crate::downward;
use crate::objects::ObjectError;
use crate::spec;

#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    MissingKey { key: String, kind: &'static str, namespace: String, name: String },
    #[error(transparent)]
    Downward(#[from] downward::DownwardError),
    #[error("environment variable {name:?} is not valid UTF-8")]
    NotText { name: String },
    #[error("couldn't read env file for {name:?}: {why}")]
    File { name: String, why: String },
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

/// What a container is given when everything that its texts refer to has been put in is larger than the kernel takes.
#[derive(Debug, thiserror::Error)]
#[error("the container's environment and arguments are longer than {EXPANDED_MAX} bytes")]
pub struct TooLong;

/// Linux gives a program at most 6 MiB of arguments and environment (`exec.c` `bprm_stack_limits`). A few variables that
/// refer to each other twice stand for more than there is memory, so their expansion ends here.
pub const EXPANDED_MAX: usize = 8 << 20;

/// The variables in order; later ones win.
pub async fn make(
    ctx: &Context,
    pod: &Pod,
    container: &Container,
    ips: &[IpAddr],
) -> Result<Vec<(String, String)>, EnvError> {
    let services = service_variables(ctx, pod).await;
    let mut room = EXPANDED_MAX;
    let mut known: HashMap<String, String> = HashMap::new();
    let mut result: Vec<(String, String)> = Vec::new();
    for (name, value) in env_from(ctx, pod, container).await? {
        put(&mut result, &name, value.clone());
        known.insert(name, value);
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(source) => from_source(ctx, pod, container, ips, variable, source).await?,
            None => {
                let text = variable.value.as_deref().unwrap_or_default();
                Some(expand(text, &mut room, |name| known.get(name).or_else(|| services.get(name)).cloned())?)
            }
        };
        // An optional reference to what is not there leaves the variable out.
        if let Some(value) = value {
            put(&mut result, &variable.name, value.clone());
            known.insert(variable.name.clone(), value);
        }
    }
    for (name, value) in services {
        if !known.contains_key(&name) {
            result.push((name, value));
        }
    }
    Ok(result)
}

fn put(result: &mut Vec<(String, String)>, name: &str, value: String) {
    match result.iter_mut().find(|(n, _)| n == name) {
        Some(slot) => slot.1 = value,
        None => result.push((name.to_owned(), value)),
    }
}

async fn env_from(ctx: &Context, pod: &Pod, container: &Container) -> Result<Vec<(String, String)>, EnvError> {
    let (uid, namespace) = (spec::uid(pod), spec::namespace(pod));
    let mut out = Vec::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            match ctx.config_maps.get(uid, namespace, &reference.name).await {
                Ok(map) => {
                    out.extend(map.data.iter().flatten().map(|(k, v)| (format!("{prefix}{k}"), v.clone())));
                }
                Err(ObjectError::NotFound { .. }) if reference.optional == Some(true) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(reference) = &source.secret_ref {
            match ctx.secrets.get(uid, namespace, &reference.name).await {
                Ok(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        let name = format!("{prefix}{key}");
                        let text =
                            String::from_utf8(value.0.clone()).map_err(|_| EnvError::NotText { name: name.clone() })?;
                        out.push((name, text));
                    }
                }
                Err(ObjectError::NotFound { .. }) if reference.optional == Some(true) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(out)
}

async fn from_source(
    ctx: &Context,
    pod: &Pod,
    container: &Container,
    ips: &[IpAddr],
    variable: &EnvVar,
    source: &EnvVarSource,
) -> Result<Option<String>, EnvError> {
    let (uid, namespace) = (spec::uid(pod), spec::namespace(pod));
    let missing = |kind, name: &str, key: &str| EnvError::MissingKey {
        key: key.to_owned(),
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    if let Some(field) = &source.field_ref {
        return Ok(Some(downward::field(ctx, pod, ips, &field.field_path)?));
    }
    if let Some(resource) = &source.resource_field_ref {
        return Ok(Some(downward::resource(ctx, pod, Some(container), resource)?));
    }
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let map = match ctx.config_maps.get(uid, namespace, &reference.name).await {
            Err(ObjectError::NotFound { .. }) if optional => return Ok(None),
            other => other?,
        };
        return match map.data.as_ref().and_then(|d| d.get(&reference.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(missing("ConfigMap", &reference.name, &reference.key)),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional == Some(true);
        let secret = match ctx.secrets.get(uid, namespace, &reference.name).await {
            Err(ObjectError::NotFound { .. }) if optional => return Ok(None),
            other => other?,
        };
        return match secret.data.as_ref().and_then(|d| d.get(&reference.key)) {
            Some(value) => {
                let text = String::from_utf8(value.0.clone());
                text.map(Some).map_err(|_| EnvError::NotText { name: variable.name.clone() })
            }
            None if optional => Ok(None),
            None => Err(missing("Secret", &reference.name, &reference.key)),
        };
    }
    if let Some(file) = &source.file_key_ref {
        return from_file(ctx, pod, variable, file).await;
    }
    Ok(None)
}

/// A variable from a file that an init container left in an emptyDir (`fileKeyRef`).
async fn from_file(
    ctx: &Context,
    pod: &Pod,
    variable: &EnvVar,
    reference: &k8s_openapi::api::core::v1::FileKeySelector,
) -> Result<Option<String>, EnvError> {
    let fail = |why: String| EnvError::File { name: variable.name.clone(), why };
    let optional = reference.optional == Some(true);
    let folder = crate::volumes::empty_dir::path(&ctx.config, spec::uid(pod), &reference.volume_name);
    let file = crate::volumes::subpath::resolve_existing(&folder, &reference.path);
    let text = match file.and_then(std::fs::read_to_string) {
        Ok(text) => text,
        Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error.to_string())),
    };
    let value = text.lines().find_map(|line| {
        let (key, value) = line.trim().split_once('=')?;
        (key.trim() == reference.key).then(|| value.trim().trim_matches(['"', '\'']).to_owned())
    });
    match value {
        None if !optional => {
            Err(fail(format!("environment variable key {:?} not found in file {:?}", reference.key, reference.path)))
        }
        other => Ok(other),
    }
}

/// `$(NAME)` becomes its value when known; `$$` is one `$` (upstream `third_party/forked/golang/expansion`). What it
/// makes is taken from `room`, in bytes.
///
/// # Errors
/// There was not so much room.
pub fn expand(text: &str, room: &mut usize, lookup: impl Fn(&str) -> Option<String>) -> Result<String, TooLong> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('(') {
            match after.split_once(')') {
                Some((name, tail)) => {
                    match lookup(name) {
                        Some(value) if out.len() + value.len() > *room => return Err(TooLong),
                        Some(value) => out.push_str(&value),
                        None => {
                            out.push_str("$(");
                            out.push_str(name);
                            out.push(')');
                        }
                    }
                    rest = tail;
                }
                None => {
                    out.push_str("$(");
                    rest = after;
                }
            }
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    *room = room.checked_sub(out.len()).ok_or(TooLong)?;
    Ok(out)
}

/// Variables for the API's service and, with service links, for every service of the namespace.
async fn service_variables(ctx: &Context, pod: &Pod) -> BTreeMap<String, String> {
    ctx.services.synced().await;
    let links = spec::spec(pod).enable_service_links != Some(false);
    let mut out = BTreeMap::new();
    if let Some(master) = ctx.services.get("default", "kubernetes") {
        variables_of(&master, &mut out);
    }
    if links {
        for service in ctx.services.namespace(spec::namespace(pod)) {
            variables_of(&service, &mut out);
        }
    }
    out
}

/// Variables of one service, also in the old Docker-links form.
fn variables_of(service: &Service, out: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let ip = match spec.cluster_ip.as_deref() {
        None | Some("" | "None") => return,
        Some(ip) => ip,
    };
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let prefix = name.to_uppercase().replace('-', "_");
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    out.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    for (i, port) in spec.ports.iter().flatten().enumerate() {
        let number = port.port;
        if i == 0 {
            out.insert(format!("{prefix}_SERVICE_PORT"), number.to_string());
        }
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            let upper = port_name.to_uppercase().replace('-', "_");
            out.insert(format!("{prefix}_SERVICE_PORT_{upper}"), number.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_lowercase();
        let url = format!("{lower}://{host}:{number}");
        if i == 0 {
            out.insert(format!("{prefix}_PORT"), url.clone());
        }
        let port_prefix = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
        out.insert(port_prefix.clone(), url);
        out.insert(format!("{port_prefix}_PROTO"), lower);
        out.insert(format!("{port_prefix}_PORT"), number.to_string());
        out.insert(format!("{port_prefix}_ADDR"), ip.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion_knows_references_and_escapes() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
        let check =
            |text: &str, expected: &str| assert_eq!(expand(text, &mut 100, lookup).unwrap(), expected, "{text}");
        check("$(A)-$(B)", "1-$(B)");
        check("$$(A)", "$(A)");
        check("$A $", "$A $");
        check("$(A", "$(A");
        check("$$$(A)", "$1");
        check("plain", "plain");
    }

    #[test]
    fn variables_that_double_each_other_end() {
        let (mut value, mut room, mut steps) = ("x".repeat(10), EXPANDED_MAX, 0);
        while let Ok(next) = expand("$(A)$(A)", &mut room, |_| Some(value.clone())) {
            (value, steps) = (next, steps + 1);
        }
        assert!(value.len() < EXPANDED_MAX && steps < 20, "{steps}");
        let mut room = 10;
        assert!(expand("123456", &mut room, |_| None).is_ok() && expand("12345", &mut room, |_| None).is_err());
    }
}
