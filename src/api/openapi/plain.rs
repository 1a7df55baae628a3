//! What is served beside resources, as documents describe it: the discovery of groups, the version, the keys of tokens.

use serde_json::{Map, Value, json};

use super::schemas::reference;
use super::{Definition, Definitions, Resource};
use crate::names::GroupVersion;

/// A path beside resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plain {
    /// `/api/`
    Core,
    /// `/apis/`
    Groups,
    /// `/apis/GROUP/`
    Group(String),
    Version,
    /// The service-account issuer's configuration, and its keys.
    Issuer,
    Keys,
}

const VERSION_INFO: &str = "io.k8s.apimachinery.pkg.version.Info";
const DISCOVERY: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

impl Plain {
    /// Every one, for these groups.
    pub fn all(groups: &[(GroupVersion, Vec<Resource>)]) -> Vec<Self> {
        let built_in = groups.iter().filter(|(gv, resources)| {
            !gv.group.is_empty() && resources.iter().any(|r| matches!(r.definition, Definition::Types(_)))
        });
        let mut names: Vec<&str> = built_in.map(|(gv, _)| gv.group.as_str()).collect();
        names.dedup();
        if names.is_empty() {
            return Vec::new();
        }
        let mut all = vec![Self::Core, Self::Groups, Self::Version, Self::Issuer, Self::Keys];
        all.extend(names.into_iter().map(|name| Self::Group(name.to_owned())));
        all
    }

    /// The path below `/openapi/v3/`.
    pub fn path(&self) -> String {
        match self {
            Self::Core => "api".to_owned(),
            Self::Groups => "apis".to_owned(),
            Self::Group(group) => format!("apis/{group}"),
            Self::Version => "version".to_owned(),
            Self::Issuer => ".well-known/openid-configuration".to_owned(),
            Self::Keys => "openid/v1/jwks".to_owned(),
        }
    }
}

pub(super) fn paths(place: &Plain, definitions: &mut Definitions<'_>) -> Map<String, Value> {
    let of_type = |name: String| reference(&name);
    let text = || json!({"type": "string"});
    let (description, id, tag, media, schema): (_, _, _, &[&str], _) = match place {
        Plain::Core => {
            let schema = of_type(definitions.meta("APIVersions"));
            ("get available API versions", "getCoreAPIVersions".to_owned(), "core".to_owned(), DISCOVERY, schema)
        }
        Plain::Groups => {
            definitions.meta("APIGroup");
            let schema = of_type(definitions.meta("APIGroupList"));
            ("get available API versions", "getAPIVersions".to_owned(), "apis".to_owned(), DISCOVERY, schema)
        }
        Plain::Group(group) => {
            let (id, tag) = super::identifiers::names(group);
            let schema = of_type(definitions.meta("APIGroup"));
            ("get information of a group", format!("get{id}APIGroup"), tag, DISCOVERY, schema)
        }
        Plain::Version => {
            definitions.done.insert(VERSION_INFO.to_owned(), version_info(definitions));
            let schema = of_type(VERSION_INFO.to_owned());
            let description = "get the version information for this server";
            (description, "getCodeVersion".to_owned(), "version".to_owned(), &DISCOVERY[..1], schema)
        }
        Plain::Issuer => (
            "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'",
            "getServiceAccountIssuerOpenIDConfiguration".to_owned(),
            "WellKnown".to_owned(),
            &DISCOVERY[..1],
            text(),
        ),
        Plain::Keys => (
            "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
            "getServiceAccountIssuerOpenIDKeyset".to_owned(),
            "openid".to_owned(),
            &["application/jwk-set+json"],
            text(),
        ),
    };
    let content: Map<String, Value> = media.iter().map(|m| ((*m).to_owned(), json!({"schema": schema}))).collect();
    let operation = json!({
        "description": description,
        "operationId": id,
        "tags": [tag],
        "responses": {"200": {"description": "OK", "content": content}, "401": {"description": "Unauthorized"}},
    });
    [(format!("/{}/", place.path()), json!({"get": operation}))].into_iter().collect()
}

/// apimachinery `version.Info`, which is no API type.
fn version_info(definitions: &Definitions<'_>) -> Value {
    let required =
        ["major", "minor", "gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"];
    let more = ["emulationMajor", "emulationMinor", "minCompatibilityMajor", "minCompatibilityMinor"];
    let text = definitions.builder.texts.get(VERSION_INFO);
    let property = |name: &&str| {
        let mut schema = json!({"type": "string"});
        if required.contains(name) {
            schema["default"] = "".into();
        }
        super::schemas::describe(&mut schema, text.and_then(|t| t.1.get(*name)).map(String::as_str));
        ((*name).to_owned(), schema)
    };
    let properties: Map<String, Value> = required.iter().chain(&more).map(property).collect();
    let mut schema = json!({"type": "object", "required": required, "properties": properties});
    super::schemas::describe(&mut schema, text.map(|t| t.0.as_str()));
    schema
}
