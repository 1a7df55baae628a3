//! What configMap, secret, downwardAPI and projected volumes contain.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccountTokenProjection, Volume, VolumeProjection,
};

use super::VolumeError;
use super::atomic::{File, Files};
use crate::context::Context;
use crate::{downward, spec};

/// Files of a volume, and when they are to be renewed.
#[derive(Default)]
pub struct Content {
    pub files: Files,
    pub refresh_after: Option<Duration>,
}

impl Content {
    fn refresh(&mut self, after: Duration) {
        self.refresh_after = Some(self.refresh_after.map_or(after, |known| known.min(after)));
    }
}

const DEFAULT_MODE: i32 = 0o644;

fn mode(mode: Option<i32>, default: Option<i32>) -> u32 {
    u32::try_from(mode.or(default).unwrap_or(DEFAULT_MODE)).unwrap_or(0o644) & 0o7777
}

/// Reads everything the volume shows. Objects that are referred to are watched from now on.
pub async fn collect(ctx: &Context, pod: &Pod, ips: &[IpAddr], volume: &Volume) -> Result<Content, VolumeError> {
    let mut content = Content::default();
    let out = &mut content.files;
    if let Some(source) = &volume.config_map {
        let optional = source.optional == Some(true);
        let map = config_map(ctx, pod, &source.name, optional).await?;
        from_config_map(out, map.as_deref(), source.items.as_deref(), source.default_mode, optional)?;
    } else if let Some(source) = &volume.secret {
        let optional = source.optional == Some(true);
        let name = source.secret_name.as_deref().unwrap_or_default();
        let secret = secret(ctx, pod, name, optional).await?;
        from_secret(out, secret.as_deref(), source.items.as_deref(), source.default_mode, optional)?;
    } else if let Some(source) = &volume.downward_api {
        from_downward(ctx, pod, ips, out, source.items.as_deref().unwrap_or_default(), source.default_mode)?;
    } else if let Some(source) = &volume.projected {
        for (index, projection) in source.sources.iter().flatten().enumerate() {
            let place = (volume.name.as_str(), index);
            project(ctx, pod, ips, (projection, place), source.default_mode, &mut content).await?;
        }
    }
    Ok(content)
}

async fn config_map(
    ctx: &Context,
    pod: &Pod,
    name: &str,
    optional: bool,
) -> Result<Option<Arc<ConfigMap>>, VolumeError> {
    let (uid, namespace) = (spec::uid(pod), spec::namespace(pod));
    if optional {
        return Ok(ctx.config_maps.get_opt(uid, namespace, name).await?);
    }
    Ok(Some(ctx.config_maps.get(uid, namespace, name).await?))
}

async fn secret(ctx: &Context, pod: &Pod, name: &str, optional: bool) -> Result<Option<Arc<Secret>>, VolumeError> {
    let (uid, namespace) = (spec::uid(pod), spec::namespace(pod));
    if optional {
        return Ok(ctx.secrets.get_opt(uid, namespace, name).await?);
    }
    Ok(Some(ctx.secrets.get(uid, namespace, name).await?))
}

/// All keys, or the chosen ones under their paths.
fn select(
    out: &mut Files,
    all: BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    default: Option<i32>,
    (kind, optional): (&'static str, bool),
) -> Result<(), VolumeError> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        for (key, data) in all {
            out.insert(key.to_owned(), File { data: data.to_owned(), mode: mode(None, default), user: None });
        }
        return Ok(());
    };
    for item in items {
        match all.get(item.key.as_str()) {
            Some(data) => {
                let file = File { data: (*data).to_owned(), mode: mode(item.mode, default), user: None };
                out.insert(item.path.clone(), file);
            }
            None if optional => {}
            None => return Err(VolumeError::MissingKey { kind, key: item.key.clone() }),
        }
    }
    Ok(())
}

fn from_config_map(
    out: &mut Files,
    map: Option<&ConfigMap>,
    items: Option<&[KeyToPath]>,
    default: Option<i32>,
    optional: bool,
) -> Result<(), VolumeError> {
    let mut all: BTreeMap<&str, &[u8]> = BTreeMap::new();
    if let Some(map) = map {
        all.extend(map.data.iter().flatten().map(|(k, v)| (k.as_str(), v.as_bytes())));
        all.extend(map.binary_data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice())));
    }
    select(out, all, items, default, ("config", optional))
}

fn from_secret(
    out: &mut Files,
    secret: Option<&Secret>,
    items: Option<&[KeyToPath]>,
    default: Option<i32>,
    optional: bool,
) -> Result<(), VolumeError> {
    let data = secret.and_then(|s| s.data.as_ref());
    let all = data.into_iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice())).collect();
    select(out, all, items, default, ("secret", optional))
}

fn from_downward(
    ctx: &Context,
    pod: &Pod,
    ips: &[IpAddr],
    out: &mut Files,
    items: &[DownwardAPIVolumeFile],
    default: Option<i32>,
) -> Result<(), VolumeError> {
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            downward::field(ctx, pod, ips, &field.field_path)?
        } else if let Some(resource) = &item.resource_field_ref {
            downward::resource(ctx, pod, None, resource)?
        } else {
            continue;
        };
        let file = File { data: text.into_bytes(), mode: mode(item.mode, default), user: None };
        out.insert(item.path.clone(), file);
    }
    Ok(())
}

async fn project(
    ctx: &Context,
    pod: &Pod,
    ips: &[IpAddr],
    (projection, place): (&VolumeProjection, (&str, usize)),
    default: Option<i32>,
    content: &mut Content,
) -> Result<(), VolumeError> {
    let out = &mut content.files;
    if let Some(source) = &projection.config_map {
        let optional = source.optional == Some(true);
        let map = config_map(ctx, pod, &source.name, optional).await?;
        return from_config_map(out, map.as_deref(), source.items.as_deref(), default, optional);
    }
    if let Some(source) = &projection.secret {
        let optional = source.optional == Some(true);
        let secret = secret(ctx, pod, &source.name, optional).await?;
        return from_secret(out, secret.as_deref(), source.items.as_deref(), default, optional);
    }
    if let Some(source) = &projection.downward_api {
        return from_downward(ctx, pod, ips, out, source.items.as_deref().unwrap_or_default(), default);
    }
    if let Some(source) = &projection.service_account_token {
        return token(ctx, pod, source, default, content).await;
    }
    if let Some(source) = &projection.cluster_trust_bundle {
        let data = ctx.trust.get(ctx, source).await?;
        content.files.insert(source.path.clone(), private_file(pod, data, default));
        return Ok(());
    }
    if let Some(source) = &projection.pod_certificate {
        let bundle = ctx.certificates.get(ctx, pod, place, source).await?;
        let mut put = |path: &Option<String>, text: String| {
            if let Some(path) = path.as_deref().filter(|p| !p.is_empty()) {
                content.files.insert(path.to_owned(), private_file(pod, text.into_bytes(), default));
            }
        };
        put(&source.credential_bundle_path, format!("{}{}", bundle.key, bundle.chain));
        put(&source.key_path, bundle.key);
        put(&source.certificate_chain_path, bundle.chain);
        content.refresh(bundle.refresh_after);
        return Ok(());
    }
    Err(VolumeError::Unsupported)
}

async fn token(
    ctx: &Context,
    pod: &Pod,
    source: &ServiceAccountTokenProjection,
    default: Option<i32>,
    content: &mut Content,
) -> Result<(), VolumeError> {
    let token = ctx.tokens.get(ctx, pod, source).await?;
    content.files.insert(source.path.clone(), private_file(pod, token.text.into_bytes(), default));
    content.refresh(token.refresh_after);
    Ok(())
}

/// A file for the pod's own user, when there is one (upstream `projected.go` `collectData`): who alone may read it is
/// known, or the group gets it later.
fn private_file(pod: &Pod, data: Vec<u8>, default: Option<i32>) -> File {
    let user = sole_user(pod);
    let restricted = user.is_some() || super::fs_group(pod).is_some();
    File { data, mode: if restricted { 0o600 } else { mode(None, default) }, user }
}

/// The user that all containers run as, when the spec names one and the same for all (upstream `FsUserFrom`).
fn sole_user(pod: &Pod) -> Option<u32> {
    let pod_user = spec::spec(pod).security_context.as_ref().and_then(|s| s.run_as_user);
    let all = spec::init_containers(pod).iter().chain(spec::containers(pod));
    let mut users = all.map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(pod_user));
    let first = users.next()??;
    users.all(|u| u == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}
