//! Files that every pod gets: `/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname` (upstream `kubelet_pods.go`
//! `managedHostsFileContent`, `network/dns/dns.go`).

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{HostAlias, Pod};

use crate::config::KubeletConfig;
use crate::spec;

/// Longest host name the kernel takes.
const MAX_HOSTNAME: usize = 64;
const MAX_LABEL: usize = 63;
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error(
        "Failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long (64 is the max \
         characters allowed, {length} characters requested)"
    )]
    LongName { name: String, length: usize },
    #[error("invalid DNS policy: {0}")]
    Policy(String),
    #[error("cannot write {0}")]
    Write(PathBuf, #[source] std::io::Error),
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] std::io::Error),
}

/// The pod's host name, and its domain when it has one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    pub hostname: String,
    pub domain: String,
    /// What the kernel is given.
    pub uts: String,
}

/// Upstream `GeneratePodHostNameAndDomain`.
pub fn names(config: &KubeletConfig, pod: &Pod) -> Result<Names, FileError> {
    let s = spec::spec(pod);
    let given = |value: &Option<String>| value.clone().filter(|v| !v.is_empty());
    if let Some(hostname) = given(&s.hostname_override) {
        return Ok(Names { uts: hostname.clone(), hostname, domain: String::new() });
    }
    let hostname = given(&s.hostname).unwrap_or_else(|| {
        let name: String = spec::name(pod).chars().take(MAX_LABEL).collect();
        name.trim_end_matches(['-', '.']).to_owned()
    });
    let domain = given(&s.subdomain)
        .map(|sub| format!("{sub}.{}.svc.{}", spec::namespace(pod), config.cluster_domain))
        .unwrap_or_default();
    let mut uts = hostname.clone();
    if s.set_hostname_as_fqdn == Some(true) && !domain.is_empty() {
        uts = format!("{hostname}.{domain}");
        if uts.len() > MAX_HOSTNAME {
            return Err(FileError::LongName { length: uts.len(), name: uts });
        }
    }
    Ok(Names { hostname, domain, uts })
}

fn aliases(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut out = "\n# Entries added by HostAliases.\n".to_owned();
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        out.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    out
}

/// Content of `/etc/hosts`.
pub fn hosts(pod: &Pod, names: &Names, ips: &[IpAddr]) -> Result<String, FileError> {
    let list = spec::spec(pod).host_aliases.as_deref().unwrap_or_default();
    if spec::is_host_network(pod) {
        let path = Path::new("/etc/hosts");
        let own = std::fs::read_to_string(path).map_err(|e| FileError::Read(path.to_owned(), e))?;
        return Ok(format!("# Kubernetes-managed hosts file (host network).\n{own}{}", aliases(list)));
    }
    let mut out = "# Kubernetes-managed hosts file.\n\
                   127.0.0.1\tlocalhost\n\
                   ::1\tlocalhost ip6-localhost ip6-loopback\n\
                   fe00::0\tip6-localnet\n\
                   fe00::0\tip6-mcastprefix\n\
                   fe00::1\tip6-allnodes\n\
                   fe00::2\tip6-allrouters\n"
        .to_owned();
    let Names { hostname, domain, .. } = names;
    for ip in ips {
        if domain.is_empty() {
            out.push_str(&format!("{ip}\t{hostname}\n"));
        } else {
            out.push_str(&format!("{ip}\t{hostname}.{domain}\t{hostname}\n"));
        }
    }
    out.push_str(&aliases(list));
    Ok(out)
}

/// A resolver configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads a `resolv.conf`.
    pub fn parse(text: &str) -> Self {
        let mut out = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => out.servers.extend(words.next().map(str::to_owned)),
                // The last search line counts.
                Some("search" | "domain") => out.searches = words.map(str::to_owned).collect(),
                Some("options") => out.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        out
    }

    fn text(&self) -> String {
        let mut out = String::new();
        if !self.searches.is_empty() {
            out.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.servers {
            out.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            out.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        out
    }
}

/// Content of `/etc/resolv.conf` by `dnsPolicy` and `dnsConfig` (upstream `GetPodDNS`).
pub fn resolv_conf(config: &KubeletConfig, pod: &Pod) -> Result<String, FileError> {
    let host = || match std::fs::read_to_string(&config.resolv_conf) {
        Ok(text) => Ok(Resolver::parse(&text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Resolver::default()),
        Err(error) => Err(FileError::Read(config.resolv_conf.clone(), error)),
    };
    let s = spec::spec(pod);
    let policy = s.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirst" => !spec::is_host_network(pod) && !config.cluster_dns.is_empty(),
        "ClusterFirstWithHostNet" => !config.cluster_dns.is_empty(),
        "Default" | "None" => false,
        other => return Err(FileError::Policy(other.to_owned())),
    };
    let mut resolver = match (policy, cluster) {
        ("None", _) => Resolver::default(),
        (_, true) => cluster_resolver(config, pod, host()?),
        (_, false) => host()?,
    };
    if let Some(extra) = &s.dns_config {
        resolver.servers.extend(extra.nameservers.iter().flatten().cloned());
        resolver.searches.extend(extra.searches.iter().flatten().cloned());
        for option in extra.options.iter().flatten() {
            let Some(name) = option.name.as_deref() else { continue };
            resolver.options.retain(|o| o.split(':').next() != Some(name));
            resolver.options.push(match option.value.as_deref().filter(|v| !v.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name.to_owned(),
            });
        }
    }
    resolver.servers = unique(resolver.servers);
    resolver.searches = unique(resolver.searches);
    resolver.servers.truncate(MAX_NAMESERVERS);
    resolver.searches.truncate(MAX_SEARCHES);
    while resolver.searches.join(" ").len() > MAX_SEARCH_CHARS {
        resolver.searches.pop();
    }
    Ok(resolver.text())
}

fn cluster_resolver(config: &KubeletConfig, pod: &Pod, host: Resolver) -> Resolver {
    let domain = &config.cluster_domain;
    let mut searches = Vec::new();
    if !domain.is_empty() {
        let namespace = spec::namespace(pod);
        searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    }
    searches.extend(host.searches);
    Resolver {
        servers: config.cluster_dns.iter().map(ToString::to_string).collect(),
        searches,
        options: vec!["ndots:5".to_owned()],
    }
}

fn unique(list: Vec<String>) -> Vec<String> {
    let mut out: Vec<String> = Vec::with_capacity(list.len());
    for item in list {
        if !out.contains(&item) {
            out.push(item);
        }
    }
    out
}

/// Writes a file in the pod's folder, in place: it may be mounted in a running container.
pub fn write(path: &Path, content: &str) -> Result<(), FileError> {
    let fail = |e| FileError::Write(path.to_owned(), e);
    if std::fs::read_to_string(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(fail)?;
    }
    std::fs::write(path, content).map_err(fail)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(path, mode).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_from;
    use serde_json::json;

    fn config() -> KubeletConfig {
        let mut config = KubeletConfig::new("n", [10, 0, 0, 1].into(), "/k".into(), "/l".into());
        config.cluster_dns = vec![[10, 43, 0, 10].into()];
        config.resolv_conf = "/nonexistent/resolv.conf".into();
        config
    }

    #[test]
    fn resolv_conf_follows_the_policy() {
        let check = |spec: serde_json::Value, expected: &str| {
            let pod = pod_from(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec}));
            assert_eq!(resolv_conf(&config(), &pod).unwrap(), expected, "{spec}");
        };
        let cluster = "search ns.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.43.0.10\n\
                       options ndots:5\n";
        check(json!({}), cluster);
        check(json!({"hostNetwork": true}), "");
        check(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}), cluster);
        check(
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a.b"],
                "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
            "search a.b\nnameserver 1.1.1.1\noptions ndots:2 edns0\n",
        );
    }

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let pod = pod_from(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"hostname": "h",
            "subdomain": "sub", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}}));
        let names = names(&config(), &pod).unwrap();
        let text = hosts(&pod, &names, &[[10, 1, 1, 1].into()]).unwrap();
        assert!(
            text.ends_with(
                "10.1.1.1\th.sub.ns.svc.cluster.local\th\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
            )
        );
    }
}
