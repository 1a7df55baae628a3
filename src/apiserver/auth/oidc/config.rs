//! The file of `--authentication-config`: `AuthenticationConfiguration` of `apiserver.config.k8s.io` (apiserver
//! `apis/apiserver/validation`).

use std::collections::BTreeSet;

use api::cel::{Env, Program, Type};
use api::field::Path;
use api::validation::domain_prefixed_path;
use serde::Deserialize;

use super::claims::{self, Mapping, Rule, Source};
use crate::auth::config_file::{self, ConfigFile};

/// Who may come without credentials.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Anonymous {
    pub enabled: bool,
    /// If there are any, only these paths.
    #[serde(default)]
    pub conditions: Vec<AnonymousCondition>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnonymousCondition {
    pub path: String,
}

impl Anonymous {
    /// Everybody, or nobody.
    pub fn all(enabled: bool) -> Self {
        Self { enabled, conditions: Vec::new() }
    }

    /// Whether a request for this path may come without credentials.
    pub fn admits(&self, path: &str) -> bool {
        self.enabled && (self.conditions.is_empty() || self.conditions.iter().any(|c| c.path == path))
    }
}

/// A configuration as it stands in a file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Configuration {
    api_version: String,
    kind: String,
    pub jwt: Vec<Jwt>,
    pub anonymous: Option<Anonymous>,
}

impl ConfigFile for Configuration {
    const KIND: &'static str = "AuthenticationConfiguration";

    fn type_meta(&self) -> (&str, &str) {
        (&self.api_version, &self.kind)
    }
}

/// One identity provider.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Jwt {
    pub issuer: Issuer,
    pub claim_validation_rules: Vec<ClaimRule>,
    pub claim_mappings: Mappings,
    pub user_validation_rules: Vec<UserRule>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Issuer {
    pub url: String,
    #[serde(rename = "discoveryURL")]
    pub discovery_url: String,
    /// PEM; empty: the system's roots.
    pub certificate_authority: String,
    pub audiences: Vec<String>,
    pub audience_match_policy: String,
    pub egress_selector_type: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ClaimRule {
    pub claim: String,
    pub required_value: String,
    pub expression: String,
    pub message: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct UserRule {
    pub expression: String,
    pub message: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Mappings {
    pub username: Prefixed,
    pub groups: Prefixed,
    pub uid: Prefixed,
    pub extra: Vec<Extra>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Prefixed {
    pub claim: String,
    pub prefix: Option<String>,
    pub expression: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Extra {
    pub key: String,
    pub value_expression: String,
}

/// The problems of a configuration, as upstream lists them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join(", "))]
pub struct Problems(pub Vec<String>);

impl Configuration {
    /// With these providers and nothing else.
    pub fn of(jwt: Vec<Jwt>) -> Self {
        Self { jwt, ..Self::default() }
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// [`Problems`] with one entry. What its parts say is checked by [`Self::compile`].
    pub fn parse(text: &str) -> Result<Self, Problems> {
        config_file::read(text).map_err(|why| Problems(vec![why]))
    }

    /// Compiles every provider. `own_issuers` are the API server's, which no provider may have.
    ///
    /// # Errors
    /// Every problem there is.
    pub fn compile(&self, own_issuers: &[String]) -> Result<Vec<(Issuer, Mapping)>, Problems> {
        let mut problems = Vec::new();
        let mut compiled = Vec::new();
        let (mut issuers, mut discoveries) = (BTreeSet::new(), BTreeSet::new());
        if self.jwt.len() > 64 {
            problems.push(format!("jwt: Too many: {}: must have at most 64 items", self.jwt.len()));
        }
        for (index, jwt) in self.jwt.iter().enumerate() {
            let at = format!("jwt[{index}]");
            jwt.issuer.validate(&format!("{at}.issuer"), own_issuers, &mut problems);
            if !issuers.insert(&jwt.issuer.url) {
                problems.push(format!("{at}.issuer.url: Duplicate value: {:?}", jwt.issuer.url));
            }
            if !jwt.issuer.discovery_url.is_empty() && !discoveries.insert(&jwt.issuer.discovery_url) {
                problems.push(format!("{at}.issuer.discoveryURL: Duplicate value: {:?}", jwt.issuer.discovery_url));
            }
            let mut compiler = Compiler { problems: &mut problems, programs: Vec::new() };
            if let Some(mapping) = jwt.mapping(&at, &mut compiler) {
                compiled.push((jwt.issuer.clone(), mapping));
            }
        }
        if let Some(anonymous) = &self.anonymous
            && !anonymous.enabled
            && !anonymous.conditions.is_empty()
        {
            problems.push(
                "anonymous.conditions: Invalid value: enabled should be set to true when conditions are defined"
                    .to_owned(),
            );
        }
        if problems.is_empty() { Ok(compiled) } else { Err(Problems(problems)) }
    }
}

impl Issuer {
    fn validate(&self, at: &str, own_issuers: &[String], problems: &mut Vec<String>) {
        if self.url.is_empty() {
            problems.push(format!("{at}.url: Required value"));
        } else {
            if own_issuers.contains(&self.url) {
                let own = super::quoted(own_issuers).replace('"', "");
                problems.push(format!(
                    "{at}.url: Invalid value: {:?}: URL must not overlap with disallowed issuers: {own}",
                    self.url
                ));
            }
            validate_url(&self.url, &format!("{at}.url"), problems);
        }
        if !self.discovery_url.is_empty() {
            let at = format!("{at}.discoveryURL");
            if self.url.trim_end_matches('/') == self.discovery_url.trim_end_matches('/') {
                let url = &self.discovery_url;
                problems.push(format!("{at}: Invalid value: {url:?}: discoveryURL must be different from URL"));
            }
            validate_url(&self.discovery_url, &at, problems);
        }
        if self.audiences.is_empty() {
            problems.push(format!("{at}.audiences: Required value: at least one {at}.audiences is required"));
        }
        let mut seen = BTreeSet::new();
        for (index, audience) in self.audiences.iter().enumerate() {
            if audience.is_empty() {
                problems.push(format!("{at}.audiences[{index}]: Required value"));
            }
            if !seen.insert(audience) {
                problems.push(format!("{at}.audiences[{index}]: Duplicate value: {audience:?}"));
            }
        }
        let policy = self.audience_match_policy.as_str();
        if self.audiences.len() > 1 && policy != "MatchAny" {
            problems.push(format!(
                "{at}.audienceMatchPolicy: Invalid value: {policy:?}: audienceMatchPolicy must be MatchAny for multiple \
                 audiences"
            ));
        }
        if self.audiences.len() == 1 && !matches!(policy, "" | "MatchAny") {
            problems.push(format!(
                "{at}.audienceMatchPolicy: Invalid value: {policy:?}: audienceMatchPolicy must be empty or MatchAny for \
                 single audience"
            ));
        }
        if !self.certificate_authority.is_empty() && !pki::authority::is_bundle(&self.certificate_authority) {
            problems.push(format!(
                "{at}.certificateAuthority: Invalid value: \"<omitted>\": data does not contain any valid RSA or ECDSA \
                 certificates"
            ));
        }
        if !matches!(self.egress_selector_type.as_str(), "" | "controlplane" | "cluster") {
            problems.push(format!(
                "{at}.egressSelectorType: Invalid value: {:?}: egress selector must be either controlplane or cluster",
                self.egress_selector_type
            ));
        }
    }
}

fn validate_url(url: &str, at: &str, problems: &mut Vec<String>) {
    let mut invalid = |why: &str| problems.push(format!("{at}: Invalid value: {url:?}: {why}"));
    let Some(rest) = url.strip_prefix("https://") else {
        invalid("URL scheme must be https");
        return;
    };
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if rest.split('/').next().unwrap_or_default().contains('@') {
        invalid("URL must not contain a username or password");
    }
    if !query.is_empty() {
        invalid("URL must not contain a query");
    }
    if !fragment.is_empty() {
        invalid("URL must not contain a fragment");
    }
}

/// Compiles expressions and keeps what is wrong with them.
struct Compiler<'p> {
    problems: &'p mut Vec<String>,
    /// What the compiled expressions over claims use of `claims`.
    programs: Vec<Vec<String>>,
}

impl Compiler<'_> {
    fn compile(&mut self, env: &Env, source: &str, wanted: &[Type], at: &str) -> Option<Program> {
        match api::cel::policy::compile(env, source, wanted) {
            Ok(program) => {
                self.programs.push(program.fields_of("claims"));
                Some(program)
            }
            Err(why) => {
                self.problems.push(format!("{at}: Invalid value: {source:?}: {why}"));
                None
            }
        }
    }

    fn problem(&mut self, text: String) {
        self.problems.push(text);
    }

    /// A claim with prefix, an expression, or nothing.
    fn source(&mut self, value: &Prefixed, at: &str, required: bool) -> Option<Source> {
        match (value.claim.is_empty(), value.expression.is_empty()) {
            (false, false) => {
                self.problem(format!("{at}: Invalid value: \"\": claim and expression can't both be set"))
            }
            (true, true) if required => self.problem(format!("{at}: Required value: claim or expression is required")),
            (true, true) => {}
            (true, false) => {
                if let Some(prefix) = &value.prefix {
                    self.problem(format!(
                        "{at}.prefix: Invalid value: {prefix:?}: may not be specified when expression is set"
                    ));
                }
                let program =
                    self.compile(&claims::claims_env(), &value.expression, &[], &format!("{at}.expression"))?;
                return Some(Source::Expression(Box::new(program)));
            }
            (false, true) => match &value.prefix {
                Some(prefix) => return Some(Source::Claim { name: value.claim.clone(), prefix: prefix.clone() }),
                None => self.problem(format!(
                    "{at}.prefix: Required value: prefix is required when claim is set. It can be set to an empty \
                     string to disable prefixing"
                )),
            },
        }
        None
    }
}

impl Jwt {
    fn mapping(&self, at: &str, compiler: &mut Compiler<'_>) -> Option<Mapping> {
        let (required, claim_rules) = self.claim_rules(&format!("{at}.claimValidationRules"), compiler);
        let at_mappings = format!("{at}.claimMappings");
        let mappings = &self.claim_mappings;
        let before = compiler.programs.len();
        let username = compiler.source(&mappings.username, &format!("{at_mappings}.username"), true);
        let uses_email = compiler.programs[before..].iter().flatten().any(|field| field == "email");
        let groups = compiler.source(&mappings.groups, &format!("{at_mappings}.groups"), false);
        let uid = match (mappings.uid.claim.is_empty(), mappings.uid.expression.is_empty()) {
            (false, false) => {
                compiler
                    .problem(format!("{at_mappings}.uid: Invalid value: \"\": claim and expression can't both be set"));
                None
            }
            (false, true) => Some(Source::Claim { name: mappings.uid.claim.clone(), prefix: String::new() }),
            (true, false) => compiler.source(&mappings.uid, &format!("{at_mappings}.uid"), false),
            (true, true) => None,
        };
        let extra = self.extra(&format!("{at_mappings}.extra"), compiler);
        let verified = compiler.programs.iter().flatten().any(|field| field == "email_verified");
        if uses_email && !verified {
            compiler.problem(format!(
                "{at_mappings}.username.expression: Invalid value: {:?}: claims.email_verified must be used in \
                 claimMappings.username.expression or claimMappings.extra[*].valueExpression or \
                 claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression",
                mappings.username.expression
            ));
        }
        let user_rules = self.user_rules(&format!("{at}.userValidationRules"), compiler);
        Some(Mapping { username: username?, groups, uid, extra, required, claim_rules, user_rules })
    }

    fn claim_rules(&self, at: &str, compiler: &mut Compiler<'_>) -> (Vec<(String, String)>, Vec<Rule>) {
        let (mut required, mut rules) = (Vec::new(), Vec::new());
        let (mut claims_seen, mut expressions) = (BTreeSet::new(), BTreeSet::new());
        for (index, rule) in self.claim_validation_rules.iter().enumerate() {
            let at = format!("{at}[{index}]");
            match (rule.claim.is_empty(), rule.expression.is_empty()) {
                (false, false) => compiler
                    .problem(format!("{at}: Invalid value: {:?}: claim and expression can't both be set", rule.claim)),
                (true, true) => compiler.problem(format!("{at}: Required value: claim or expression is required")),
                (false, true) => {
                    if !rule.message.is_empty() {
                        let message = &rule.message;
                        compiler.problem(format!(
                            "{at}.message: Invalid value: {message:?}: may not be specified when claim is set"
                        ));
                    }
                    if !claims_seen.insert(&rule.claim) {
                        compiler.problem(format!("{at}.claim: Duplicate value: {:?}", rule.claim));
                    }
                    required.push((rule.claim.clone(), rule.required_value.clone()));
                }
                (true, false) => {
                    if !rule.required_value.is_empty() {
                        compiler.problem(format!(
                            "{at}.requiredValue: Invalid value: {:?}: may not be specified when expression is set",
                            rule.required_value
                        ));
                    }
                    if !expressions.insert(&rule.expression) {
                        compiler.problem(format!("{at}.expression: Duplicate value: {:?}", rule.expression));
                        continue;
                    }
                    let at = format!("{at}.expression");
                    let env = claims::claims_env();
                    if let Some(program) = compiler.compile(&env, &rule.expression, &[Type::Bool], &at) {
                        rules.push(Rule { program, message: rule.message.clone() });
                    }
                }
            }
        }
        (required, rules)
    }

    fn extra(&self, at: &str, compiler: &mut Compiler<'_>) -> Vec<(String, Program)> {
        let mut all = Vec::new();
        let mut seen = BTreeSet::new();
        for (index, extra) in self.claim_mappings.extra.iter().enumerate() {
            let (at, key) = (format!("{at}[{index}]"), &extra.key);
            for error in domain_prefixed_path(&Path::new(&at).child("key"), key) {
                compiler.problem(format!("{}: {}", error.path, error.body()));
            }
            let domain = key.split_once('/').map_or("", |(domain, _)| domain);
            if *key != key.to_lowercase() {
                compiler.problem(format!("{at}.key: Invalid value: {key:?}: must be lowercase"));
            }
            let reserved = ["kubernetes.io", "k8s.io"];
            if reserved.iter().any(|own| domain == *own || domain.ends_with(&format!(".{own}"))) {
                compiler.problem(format!(
                    "{at}.key: Invalid value: {key:?}: k8s.io, kubernetes.io and their subdomains are reserved for \
                     Kubernetes use"
                ));
            }
            if !seen.insert(key) {
                compiler.problem(format!("{at}.key: Duplicate value: {key:?}"));
                continue;
            }
            let at = format!("{at}.valueExpression");
            if extra.value_expression.is_empty() {
                compiler.problem(format!("{at}: Required value"));
            } else if let Some(program) = compiler.compile(&claims::claims_env(), &extra.value_expression, &[], &at) {
                all.push((key.clone(), program));
            }
        }
        all
    }

    fn user_rules(&self, at: &str, compiler: &mut Compiler<'_>) -> Vec<Rule> {
        let mut rules = Vec::new();
        let mut seen = BTreeSet::new();
        for (index, rule) in self.user_validation_rules.iter().enumerate() {
            let at = format!("{at}[{index}].expression");
            if rule.expression.is_empty() {
                compiler.problem(format!("{at}: Required value"));
            } else if !seen.insert(&rule.expression) {
                compiler.problem(format!("{at}: Duplicate value: {:?}", rule.expression));
            } else if let Some(program) = compiler.compile(&claims::user_env(), &rule.expression, &[Type::Bool], &at) {
                rules.push(Rule { program, message: rule.message.clone() });
            }
        }
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(jwt: &str) -> Vec<String> {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- {}\n",
            jwt.replace('\n', "\n  ")
        );
        let own = ["https://own".to_owned()];
        match Configuration::parse(&text).and_then(|read| read.compile(&own)) {
            Ok(_) => Vec::new(),
            Err(Problems(all)) => all,
        }
    }

    #[test]
    fn configurations_are_checked_as_upstream_does() {
        let good = "issuer: {url: 'https://idp', audiences: [a]}\nclaimMappings: {username: {claim: sub, prefix: ''}}";
        assert_eq!(problems(good), Vec::<String>::new());
        let check = |from: &str, to: &str, want: &str| {
            let all = problems(&good.replace(from, to));
            assert!(all.iter().any(|problem| problem.contains(want)), "{all:?}");
        };
        check(
            "https://idp",
            "http://idp",
            "jwt[0].issuer.url: Invalid value: \"http://idp\": URL scheme must be https",
        );
        check("https://idp", "https://own", "must not overlap with disallowed issuers");
        check("https://idp", "https://u@idp?x#y", "must not contain a username");
        check("audiences: [a]", "audiences: [a, b]", "must be MatchAny for multiple audiences");
        check("audiences: [a]", "audiences: []", "jwt[0].issuer.audiences: Required value");
        check("claim: sub, prefix: ''", "claim: sub", "prefix is required when claim is set");
        check("claim: sub, prefix: ''", "expression: claims.email", "claims.email_verified must be used");
        check(
            "claim: sub, prefix: ''",
            "expression: 'claims.'",
            "jwt[0].claimMappings.username.expression: Invalid value",
        );
        check("}}", "}, extra: [{key: a, valueExpression: '1'}]}", "must be a domain-prefixed path");
        check("}}", "}, extra: [{key: k8s.io/a, valueExpression: '1'}]}", "are reserved for Kubernetes use");
        check("}}", "}}\nuserValidationRules: [{expression: user.nothing}]", "undefined field 'nothing'");
        check("}}", "}}\nclaimValidationRules: [{}]", "claim or expression is required");
        check("issuer:", "isuer:", "failed decoding");
    }

    #[test]
    fn anonymous_requests_may_be_kept_to_some_paths() {
        let text = "{apiVersion: apiserver.config.k8s.io/v1, kind: AuthenticationConfiguration, anonymous: {enabled: \
                    true, conditions: [{path: /livez}]}}";
        let anonymous = Configuration::parse(text).unwrap().anonymous.unwrap();
        assert!(anonymous.admits("/livez") && !anonymous.admits("/livez/ping"));
        assert!(Anonymous::all(true).admits("/") && !Anonymous::all(false).admits("/"));
    }
}
