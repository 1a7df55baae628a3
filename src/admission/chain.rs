//! Which plugins there are, in which order they run, which of them are on, and how they are configured (kubernetes
//! `pkg/kubeapiserver/options/plugins.go`, apiserver `server/options/admission.go`).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use api::admission::AdmissionPlugin;
use api::services::{Authorizer, Kinds};
use api::webhook::Asker;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::configuration::{ChainError, PluginConfigurations};
use crate::dynamic::manifests::Manifests;
use crate::dynamic::policy::Evaluator;
use crate::dynamic::webhook::Caller;
use crate::plugins::{self, MakeReviewer};

/// What operators say of admission: kube-apiserver's flags.
#[derive(Debug, Clone)]
pub struct ChainOptions {
    /// `--enable-admission-plugins`.
    pub enable: Vec<String>,
    /// `--disable-admission-plugins`.
    pub disable: Vec<String>,
    /// The deprecated `--admission-control`: these plugins and no others.
    pub only: Option<Vec<String>>,
    /// `--admission-control-config-file`.
    pub config_file: Option<PathBuf>,
    /// Seconds that pods stay on a node that is not ready, and on one that nobody reaches.
    pub toleration_seconds: (i64, i64),
}

impl Default for ChainOptions {
    fn default() -> Self {
        Self { enable: Vec::new(), disable: Vec::new(), only: None, config_file: None, toleration_seconds: (300, 300) }
    }
}

/// What the plugins are told in the configuration file and by flags.
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) toleration_seconds: (i64, i64),
    pub(crate) pod_security: plugins::PodSecurityConfiguration,
    pub(crate) quota: plugins::ResourceQuotaConfiguration,
    pub(crate) events: plugins::EventRateLimitConfiguration,
    pub(crate) selectors: plugins::PodNodeSelectorConfiguration,
    pub(crate) tolerations: plugins::PodTolerationRestrictionConfiguration,
    /// There is one if the plugin is on.
    pub(crate) images: Option<plugins::ImagePolicyConfiguration>,
    /// Kubeconfigs with which webhooks are called, by who calls them.
    pub(crate) webhooks: Vec<(Asker, PathBuf)>,
    /// Folders with webhooks and policies, by the plugin that reads them.
    pub(crate) manifests: Vec<(&'static str, PathBuf)>,
}

/// What plugins are made from.
pub(crate) struct Parts<'a> {
    pub(crate) cluster: Cluster,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    pub(crate) kinds: Arc<dyn Kinds>,
    pub(crate) caller: Caller,
    pub(crate) evaluator: Evaluator,
    /// By plugin.
    pub(crate) manifests: Vec<(&'static str, Arc<Manifests>)>,
    pub(crate) settings: &'a Settings,
}

impl Parts<'_> {
    fn manifests(&self, plugin: &str) -> Option<Arc<Manifests>> {
        self.manifests.iter().find(|(name, _)| *name == plugin).map(|(_, manifests)| Arc::clone(manifests))
    }
}

type Plugin = Arc<dyn AdmissionPlugin>;

struct Entry {
    name: &'static str,
    /// On unless it is switched off.
    is_default: bool,
    /// `None`: it is on and has nothing to do.
    make: fn(&Parts<'_>) -> Option<Plugin>,
}

const fn on(name: &'static str, make: fn(&Parts<'_>) -> Option<Plugin>) -> Entry {
    Entry { name, is_default: true, make }
}

const fn off(name: &'static str, make: fn(&Parts<'_>) -> Option<Plugin>) -> Entry {
    Entry { name, is_default: false, make }
}

fn some(plugin: impl AdmissionPlugin + 'static) -> Option<Plugin> {
    Some(Arc::new(plugin))
}

/// Every plugin in upstream's order (`AllOrderedPlugins`). `NodeRestriction` is off there; with a node in the same program
/// it is on.
const TABLE: &[Entry] = &[
    off("AlwaysAdmit", |_| some(plugins::AlwaysAdmit)),
    off("NamespaceAutoProvision", |p| some(plugins::NamespaceAutoProvision::new(p.cluster.clone()))),
    on("NamespaceLifecycle", |p| some(plugins::NamespaceLifecycle::new(p.cluster.clone()))),
    off("NamespaceExists", |p| some(plugins::NamespaceExists::new(p.cluster.clone()))),
    off("LimitPodHardAntiAffinityTopology", |_| some(plugins::LimitPodHardAntiAffinityTopology)),
    on("LimitRanger", |p| some(plugins::LimitRanger::new(p.cluster.clone()))),
    on("ServiceAccount", |p| some(plugins::ServiceAccount::new(p.cluster.clone()))),
    on("NodeRestriction", |p| some(plugins::NodeRestriction::new(p.cluster.clone(), Arc::clone(&p.authorizer)))),
    on("TaintNodesByCondition", |_| some(plugins::TaintNodesByCondition)),
    off("AlwaysPullImages", |_| some(plugins::AlwaysPullImages)),
    off("ImagePolicyWebhook", |p| p.settings.images.clone().and_then(|c| some(plugins::ImagePolicyWebhook::new(c)))),
    on("PodSecurity", |p| some(plugins::PodSecurity::new(p.cluster.clone(), p.settings.pod_security.clone()))),
    off("PodNodeSelector", |p| some(plugins::PodNodeSelector::new(p.cluster.clone(), p.settings.selectors.clone()))),
    on("Priority", |p| some(plugins::Priority::new(p.cluster.clone()))),
    on("DefaultTolerationSeconds", |p| some(plugins::DefaultTolerationSeconds::new(p.settings.toleration_seconds))),
    off("PodTolerationRestriction", |p| {
        some(plugins::PodTolerationRestriction::new(p.cluster.clone(), p.settings.tolerations.clone()))
    }),
    off("EventRateLimit", |p| some(plugins::EventRateLimit::new(&p.settings.events))),
    off("ExtendedResourceToleration", |_| some(plugins::ExtendedResourceToleration)),
    on("DefaultStorageClass", |p| some(plugins::DefaultStorageClass::new(p.cluster.clone()))),
    on("StorageObjectInUseProtection", |_| some(plugins::StorageObjectInUseProtection)),
    // Of the feature GenericWorkload, which is off in v1.37.
    on("PodGroupProtection", |_| None),
    off("OwnerReferencesPermissionEnforcement", |p| {
        let (authorizer, kinds) = (Arc::clone(&p.authorizer), Arc::clone(&p.kinds));
        some(plugins::OwnerReferencesPermissionEnforcement::new(authorizer, kinds))
    }),
    on("PersistentVolumeClaimResize", |p| some(plugins::PersistentVolumeClaimResize::new(p.cluster.clone()))),
    on("RuntimeClass", |p| some(plugins::RuntimeClass::new(p.cluster.clone()))),
    on("CertificateApproval", |p| some(plugins::CertificateApproval::new(Arc::clone(&p.authorizer)))),
    on("CertificateSigning", |p| some(plugins::CertificateSigning::new(Arc::clone(&p.authorizer)))),
    on("ClusterTrustBundleAttest", |p| some(plugins::ClusterTrustBundleAttest::new(Arc::clone(&p.authorizer)))),
    on("CertificateSubjectRestriction", |_| some(plugins::CertificateSubjectRestriction)),
    on("DefaultIngressClass", |p| some(plugins::DefaultIngressClass::new(p.cluster.clone()))),
    off("DenyServiceExternalIPs", |_| some(plugins::DenyServiceExternalIps)),
    on("PodTopologyLabels", |p| some(plugins::PodTopologyLabels::new(p.cluster.clone()))),
    on("NodeDeclaredFeatureValidator", |p| some(plugins::NodeDeclaredFeatureValidator::new(p.cluster.clone()))),
    on("PodResizeValidator", |p| some(plugins::PodResizeValidator::new(p.cluster.clone()))),
    on(MUTATING_POLICY, |p| {
        some(plugins::MutatingAdmissionPolicy::new(p.evaluator.clone(), p.manifests(MUTATING_POLICY)))
    }),
    on(MUTATING_WEBHOOK, |p| {
        some(plugins::MutatingAdmissionWebhook::new(p.caller.clone(), p.manifests(MUTATING_WEBHOOK)))
    }),
    on(VALIDATING_POLICY, |p| {
        some(plugins::ValidatingAdmissionPolicy::new(p.evaluator.clone(), p.manifests(VALIDATING_POLICY)))
    }),
    on(VALIDATING_WEBHOOK, |p| {
        some(plugins::ValidatingAdmissionWebhook::new(p.caller.clone(), p.manifests(VALIDATING_WEBHOOK)))
    }),
    // Last, so that nothing is charged that another plugin refuses.
    on("ResourceQuota", |p| some(plugins::ResourceQuota::new(p.cluster.clone(), p.settings.quota.clone()))),
    off("AlwaysDeny", |_| some(plugins::AlwaysDeny)),
];

const MUTATING_WEBHOOK: &str = "MutatingAdmissionWebhook";
const VALIDATING_WEBHOOK: &str = "ValidatingAdmissionWebhook";
const MUTATING_POLICY: &str = "MutatingAdmissionPolicy";
const VALIDATING_POLICY: &str = "ValidatingAdmissionPolicy";

/// The plugins that are on, and what they are told.
pub struct Chain {
    enabled: Vec<&'static Entry>,
    settings: Settings,
}

impl Default for Chain {
    /// As without any flag.
    fn default() -> Self {
        let settings =
            Settings { toleration_seconds: ChainOptions::default().toleration_seconds, ..Settings::default() };
        Self { enabled: TABLE.iter().filter(|entry| entry.is_default).collect(), settings }
    }
}

impl Chain {
    /// Chooses plugins and reads their configuration. `make` makes the client of an image policy's service.
    ///
    /// # Errors
    /// [`ChainError`], with upstream's texts.
    pub fn read(options: &ChainOptions, make: &MakeReviewer) -> Result<Self, ChainError> {
        let enabled = choose(options)?;
        let file = match &options.config_file {
            Some(path) => PluginConfigurations::read(path)?,
            None => PluginConfigurations::default(),
        };
        let mut settings = Settings { toleration_seconds: options.toleration_seconds, ..Settings::default() };
        for entry in &enabled {
            let document = file.of(entry.name)?;
            let read = settings.read(entry.name, document.as_ref(), make);
            read.map_err(|why| ChainError::Plugin { plugin: entry.name, why })?;
        }
        for deprecated in enabled.iter().filter(|entry| matches!(entry.name, "AlwaysAdmit" | "AlwaysDeny")) {
            tracing::warn!(plugin = deprecated.name, "this admission plugin is deprecated");
        }
        Ok(Self { enabled, settings })
    }

    /// Kubeconfigs whose users are the server's identities at admission webhooks, by who calls them.
    pub fn webhook_kubeconfigs(&self) -> &[(Asker, PathBuf)] {
        &self.settings.webhooks
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn make(&self, parts: &Parts<'_>) -> Vec<Plugin> {
        self.enabled.iter().filter_map(|entry| (entry.make)(parts)).collect()
    }
}

impl Settings {
    fn read(&mut self, plugin: &'static str, document: Option<&Value>, make: &MakeReviewer) -> Result<(), String> {
        match plugin {
            "PodSecurity" => self.pod_security = plugins::PodSecurityConfiguration::read(document)?,
            "ResourceQuota" => self.quota = plugins::ResourceQuotaConfiguration::read(document)?,
            "EventRateLimit" => self.events = plugins::EventRateLimitConfiguration::read(document)?,
            "PodNodeSelector" => self.selectors = plugins::PodNodeSelectorConfiguration::read(document)?,
            "PodTolerationRestriction" => {
                self.tolerations = plugins::PodTolerationRestrictionConfiguration::read(document)?;
            }
            "ImagePolicyWebhook" => self.images = Some(plugins::ImagePolicyConfiguration::read(document, make)?),
            MUTATING_WEBHOOK | VALIDATING_WEBHOOK => {
                let asker = match plugin {
                    MUTATING_WEBHOOK => Asker::MutatingAdmission,
                    _ => Asker::ValidatingAdmission,
                };
                let read = plugins::webhook_configuration(document)?;
                self.webhooks.extend(read.kubeconfig.map(|file| (asker, file)));
                self.manifests.extend(read.manifests.map(|folder| (plugin, folder)));
            }
            MUTATING_POLICY | VALIDATING_POLICY => {
                let read = plugins::policy_manifests(document, plugin == MUTATING_POLICY)?;
                self.manifests.extend(read.map(|folder| (plugin, folder)));
            }
            _ => {}
        }
        Ok(())
    }
}

/// `AdmissionOptions.Validate` and `enabledPluginNames`.
fn choose(options: &ChainOptions) -> Result<Vec<&'static Entry>, ChainError> {
    let mut problems = Vec::new();
    if options.only.is_some() && !(options.enable.is_empty() && options.disable.is_empty()) {
        problems.push(
            "admission-control and enable-admission-plugins/disable-admission-plugins flags are mutually exclusive"
                .to_owned(),
        );
    }
    let flags = [
        ("admission-control", options.only.as_deref().unwrap_or_default()),
        ("enable-admission-plugins", &options.enable),
        ("disable-admission-plugins", &options.disable),
    ];
    for (flag, names) in flags {
        for name in names.iter().filter(|name| TABLE.iter().all(|entry| entry.name != **name)) {
            problems.push(format!("{flag} plugin {name:?} is unknown"));
        }
    }
    let both: BTreeSet<&str> =
        options.enable.iter().filter(|name| options.disable.contains(name)).map(String::as_str).collect();
    if !both.is_empty() {
        let both = both.into_iter().collect::<Vec<_>>().join(" ");
        problems.push(format!("[{both}] in enable-admission-plugins and disable-admission-plugins overlapped"));
    }
    if !problems.is_empty() {
        return Err(ChainError::Flags(problems));
    }
    let named = |names: &[String], entry: &Entry| names.iter().any(|name| name == entry.name);
    let is_on = |entry: &&Entry| match &options.only {
        Some(only) => named(only, entry),
        None => named(&options.enable, entry) || (entry.is_default && !named(&options.disable, entry)),
    };
    Ok(TABLE.iter().filter(is_on).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(enable: &[&str], disable: &[&str], only: Option<&[&str]>) -> Result<Vec<&'static str>, String> {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let options =
            ChainOptions { enable: own(enable), disable: own(disable), only: only.map(own), ..ChainOptions::default() };
        choose(&options).map(|all| all.iter().map(|entry| entry.name).collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn plugins_keep_their_order_whatever_the_flags_say() {
        let all = names(&["AlwaysDeny", "AlwaysPullImages"], &["PodSecurity"], None).unwrap();
        let place = |name: &str| all.iter().position(|other| *other == name);
        assert!(
            place("TaintNodesByCondition") < place("AlwaysPullImages") && place("AlwaysPullImages") < place("Priority")
        );
        assert_eq!(all.last(), Some(&"AlwaysDeny"));
        assert_eq!((place("PodSecurity"), place("AlwaysAdmit")), (None, None));
        assert_eq!(names(&[], &[], Some(&["ResourceQuota", "Priority"])).unwrap(), ["Priority", "ResourceQuota"]);
        assert_eq!(names(&[], &[], None).unwrap().len(), 26);
    }

    #[test]
    fn mistakes_in_flags_are_named() {
        let check = |enable: &[&str], disable: &[&str], why: &str| {
            assert_eq!(names(enable, disable, None).unwrap_err(), why);
        };
        check(&["Foo"], &[], "enable-admission-plugins plugin \"Foo\" is unknown");
        check(
            &["Foo"],
            &["Bar"],
            "[enable-admission-plugins plugin \"Foo\" is unknown, disable-admission-plugins plugin \"Bar\" is unknown]",
        );
        check(
            &["Priority", "LimitRanger"],
            &["LimitRanger", "Priority"],
            "[LimitRanger Priority] in enable-admission-plugins and disable-admission-plugins overlapped",
        );
        let why = names(&["Priority"], &[], Some(&["Priority"])).unwrap_err();
        assert!(why.contains("flags are mutually exclusive"));
    }
}
