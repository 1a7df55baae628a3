//! What nobody may use without a quota (apiserver `admission/plugin/resourcequota/apis/resourcequota`).

use std::collections::BTreeSet;

use api::admission::Attributes;
use api::field::{Error, ErrorList, Path};
use api::{GroupResource, Object, Status};
use serde::Deserialize;
use serde_json::Value;

use crate::attributes::forbidden;
use crate::configuration::{Kind, decode, go_list};
use crate::limits::Amounts;
use crate::plain_error;
use crate::quota::{Measure, Scope};

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Configuration {
    #[serde(rename = "limitedResources")]
    pub(super) limited: Vec<Limited>,
}

/// A resource that a quota must cover.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Limited {
    api_group: String,
    resource: String,
    /// Parts of the names of what is used.
    match_contains: Vec<String>,
    match_scopes: Vec<Scope>,
}

impl Kind for Configuration {
    const NAMES: &'static [(&'static str, &'static str)] = &[
        ("apiserver.config.k8s.io/v1", "ResourceQuotaConfiguration"),
        ("resourcequota.admission.k8s.io/v1beta1", "Configuration"),
        ("resourcequota.admission.k8s.io/v1alpha1", "Configuration"),
    ];
    const STRICT: bool = true;
    const MEMBERS: &'static [&'static str] = &["limitedResources"];
}

impl Configuration {
    /// Reads what the configuration file says.
    pub(crate) fn read(document: Option<&Value>) -> Result<Self, String> {
        let read: Self = document.map(decode).transpose()?.unwrap_or_default();
        let at = |index| Path::new("limitedResources").index(index).child("resource");
        let nameless = read.limited.iter().enumerate().filter(|(_, limited)| limited.resource.is_empty());
        let errors: ErrorList = nameless.map(|(index, _)| Error::required(at(index), "")).collect();
        if errors.is_empty() { Ok(read) } else { Err(go_list(&errors)) }
    }
}

/// What of a request must be covered by quotas, and what is.
pub(super) struct Cover {
    measure: Measure,
    resources: BTreeSet<String>,
    scopes: Vec<Scope>,
    covered_resources: BTreeSet<String>,
    covered_scopes: Vec<Scope>,
}

impl Cover {
    pub(super) fn new(
        limited: &[Limited],
        measure: Measure,
        resource: &GroupResource,
        object: &Object,
        usage: &Amounts,
    ) -> Self {
        // `limitedByDefault`.
        let own = limited.iter().filter(|one| one.api_group == resource.group && one.resource == resource.resource);
        let parts: Vec<&String> = own.flat_map(|one| &one.match_contains).collect();
        let used = usage.iter().filter(|(_, amount)| amount.sign() > 0).map(|(name, _)| name);
        let resources = used.filter(|name| parts.iter().any(|part| name.contains(part.as_str()))).cloned().collect();
        // `getMatchedLimitedScopes` asks about those of every resource.
        let scopes = limited.iter().flat_map(|one| measure.matching_scopes(&one.match_scopes, object)).collect();
        Self { measure, resources, scopes, covered_resources: BTreeSet::new(), covered_scopes: Vec::new() }
    }

    pub(super) fn add_resources(&mut self, names: &[&str]) {
        self.covered_resources.extend(names.iter().map(|name| (*name).to_owned()));
    }

    pub(super) fn add_scopes(&mut self, scopes: Vec<Scope>) {
        self.covered_scopes.extend(scopes);
    }

    /// Refuses what nothing covers.
    pub(super) fn check(&self, attributes: &Attributes) -> Result<(), Status> {
        let bare: Vec<&str> = self.resources.difference(&self.covered_resources).map(String::as_str).collect();
        if !bare.is_empty() {
            return Err(forbidden(attributes, format!("insufficient quota to consume: {}", bare.join(","))));
        }
        let covered = |scope: &Scope| self.covered_scopes.iter().any(|other| other.scope_name == scope.scope_name);
        let bare: Vec<String> = self.scopes.iter().filter(|scope| !covered(scope)).map(go_struct).collect();
        if bare.is_empty() || !matches!(self.measure, Measure::Pod | Measure::Claim) {
            return Ok(());
        }
        Err(plain_error(format!("insufficient quota to match these scopes: [{}]", bare.join(" "))))
    }
}

/// As `%v` prints it.
fn go_struct(scope: &Scope) -> String {
    let values = scope.values.as_deref().unwrap_or_default().join(" ");
    format!("{{{} {} [{values}]}}", scope.scope_name, scope.operator)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn limited_resources_have_names() {
        let read = |limited: Value| {
            let file = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "ResourceQuotaConfiguration",
                "limitedResources": limited});
            Configuration::read(Some(&file)).map(|read| read.limited.len())
        };
        assert_eq!(read(json!([{"resource": "pods", "matchContains": ["cpu"]}])), Ok(1));
        assert_eq!(read(json!([{}])), Err("limitedResources[0].resource: Required value".to_owned()));
        assert!(read(json!([{"resources": "pods"}])).unwrap_err().contains("unknown field \"resources\""));
    }
}
