//! Users from claims: mappings and rules, by claim or by expression.

use std::collections::BTreeMap;

use api::UserInfo;
use api::cel::{Bindings, Budget, Decl, Env, Program, Type, Value as Cel};
use serde_json::{Map, Value};

/// Where a value comes from.
pub enum Source {
    /// A claim, and what is put before its values.
    Claim {
        name: String,
        prefix: String,
    },
    Expression(Box<Program>),
}

/// A rule, and what is said when it is broken.
pub struct Rule {
    pub program: Program,
    pub message: String,
}

/// How claims become a user.
pub struct Mapping {
    pub username: Source,
    pub groups: Option<Source>,
    pub uid: Option<Source>,
    /// By key.
    pub extra: Vec<(String, Program)>,
    /// Claims that must have these values.
    pub required: Vec<(String, String)>,
    pub claim_rules: Vec<Rule>,
    pub user_rules: Vec<Rule>,
}

/// The environment of expressions over claims.
pub fn claims_env() -> Env {
    Env::new().declare("claims", claims_decl())
}

fn claims_decl() -> Decl {
    Decl::map(Decl::new(Type::Any), None)
}

/// The environment of expressions over users.
pub fn user_env() -> Env {
    Env::new().declare("user", user_decl())
}

fn user_decl() -> Decl {
    let text = || Decl::new(Type::String);
    let texts = || Decl::list(text(), None);
    let fields = [("username", text()), ("uid", text()), ("groups", texts()), ("extra", Decl::map(texts(), None))];
    Decl::object("kubernetes.UserInfo", fields.map(|(name, decl)| (name.to_owned(), decl)))
}

impl Mapping {
    /// The user of a token.
    ///
    /// # Errors
    /// Why the claims make none, in upstream's words.
    pub fn user(&self, claims: &Map<String, Value>) -> Result<UserInfo, String> {
        let document = Value::Object(claims.clone());
        let bindings = Bindings::new().set("claims", Cel::from_json_typed(&document, &claims_decl()));
        let name = self.username(claims, &bindings)?;
        let groups = self.groups(claims, &bindings)?;
        let uid = match &self.uid {
            None => String::new(),
            Some(Source::Claim { name, .. }) => {
                text_of(claims, name).map_err(|why| format!("oidc: parse uid claim {name:?}: {why}"))?
            }
            Some(Source::Expression(program)) => match evaluate(program, &bindings) {
                Ok(Value::String(uid)) => uid,
                Ok(_) => {
                    return Err(
                        "oidc: error evaluating uid claim expression: uid claim expression must return a string"
                            .to_owned(),
                    );
                }
                Err(why) => return Err(format!("oidc: error evaluating uid claim expression: {why}")),
            },
        };
        let mut extra = BTreeMap::new();
        if let Some(id) = claims.get("jti").and_then(Value::as_str) {
            extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={id}")]);
        }
        for (key, program) in &self.extra {
            let values = evaluate(program, &bindings)
                .and_then(strings)
                .map_err(|why| format!("oidc: error evaluating extra claim expression: {}: {why}", program.source()))?;
            if !values.is_empty() {
                extra.insert(key.clone(), values);
            }
        }
        for (claim, wanted) in &self.required {
            if !claims.contains_key(claim) {
                return Err(format!("oidc: required claim {claim} not present in ID token"));
            }
            let found = text_of(claims, claim).map_err(|why| format!("oidc: parse claim {claim}: {why}"))?;
            if found != *wanted {
                return Err(format!(
                    "oidc: required claim {claim} value does not match. Got = {found}, want = {wanted}"
                ));
            }
        }
        check(&self.claim_rules, &bindings, "claim validation expression")?;
        let user = UserInfo { name, uid, groups, extra };
        if !self.user_rules.is_empty() {
            let document = serde_json::json!({
                "username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra,
            });
            let bindings = Bindings::new().set("user", Cel::from_json_typed(&document, &user_decl()));
            check(&self.user_rules, &bindings, "user info validation rule")?;
        }
        Ok(user)
    }

    fn username(&self, claims: &Map<String, Value>, bindings: &Bindings<'_>) -> Result<String, String> {
        let (claim, prefix) = match &self.username {
            Source::Claim { name, prefix } => (name, prefix),
            Source::Expression(program) => {
                return match evaluate(program, bindings) {
                    Ok(Value::String(name)) if name.is_empty() => {
                        Err("oidc: empty username via CEL expression is not allowed".to_owned())
                    }
                    Ok(Value::String(name)) => Ok(name),
                    Ok(_) => Err("oidc: error evaluating username claim expression: username claim expression must \
                                  return a string"
                        .to_owned()),
                    Err(why) => Err(format!("oidc: error evaluating username claim expression: {why}")),
                };
            }
        };
        let name = text_of(claims, claim).map_err(|why| format!("oidc: parse username claims {claim:?}: {why}"))?;
        if claim == "email" {
            match claims.get("email_verified") {
                None | Some(Value::Bool(true)) => {}
                Some(Value::Bool(false)) => return Err("oidc: email not verified".to_owned()),
                Some(_) => return Err("oidc: parse 'email_verified' claim: it is no boolean".to_owned()),
            }
        }
        Ok(format!("{prefix}{name}"))
    }

    fn groups(&self, claims: &Map<String, Value>, bindings: &Bindings<'_>) -> Result<Vec<String>, String> {
        match &self.groups {
            None => Ok(Vec::new()),
            Some(Source::Claim { name, prefix }) => {
                let Some(found) = claims.get(name) else { return Ok(Vec::new()) };
                let groups = match found {
                    Value::String(one) => vec![one.clone()],
                    Value::Null => Vec::new(),
                    Value::Array(many) if many.iter().all(Value::is_string) => {
                        many.iter().filter_map(Value::as_str).map(str::to_owned).collect()
                    }
                    _ => return Err(format!("oidc: parse groups claim {name:?}: it is no string or list of strings")),
                };
                Ok(groups.into_iter().map(|group| format!("{prefix}{group}")).collect())
            }
            Some(Source::Expression(program)) => evaluate(program, bindings)
                .and_then(strings)
                .map_err(|why| format!("oidc: error evaluating group claim expression: {why}")),
        }
    }
}

fn text_of(claims: &Map<String, Value>, name: &str) -> Result<String, &'static str> {
    match claims.get(name) {
        None => Err("claim not present"),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err("it is no string"),
    }
}

fn evaluate(program: &Program, bindings: &Bindings<'_>) -> Result<Value, String> {
    let mut budget = Budget::new(api::cel::RUNTIME_BUDGET);
    let value = program
        .evaluate(bindings, &mut budget)
        .map_err(|error| format!("expression '{}' resulted in error: {error}", program.source()))?;
    value.to_json()
}

/// `convertCELValueToStringList`.
fn strings(value: Value) -> Result<Vec<String>, String> {
    let wrong = || "expression must return a string or a list of strings".to_owned();
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) if text.is_empty() => Ok(Vec::new()),
        Value::String(text) => Ok(vec![text]),
        Value::Array(items) => {
            let texts: Result<Vec<String>, String> = items
                .into_iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text),
                    _ => Err(wrong()),
                })
                .collect();
            Ok(texts?.into_iter().filter(|text| !text.is_empty()).collect())
        }
        _ => Err(wrong()),
    }
}

fn check(rules: &[Rule], bindings: &Bindings<'_>, what: &str) -> Result<(), String> {
    for rule in rules {
        let why = match evaluate(&rule.program, bindings) {
            Ok(Value::Bool(true)) => continue,
            Ok(Value::Bool(false)) => {
                format!("validation expression '{}' failed: {}", rule.program.source(), rule.message)
            }
            Ok(_) => "validation expression must return a boolean".to_owned(),
            Err(why) => why,
        };
        return Err(format!("oidc: error evaluating {what}: {why}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn program(source: &str) -> Program {
        claims_env().compile(source, &[]).unwrap()
    }

    fn mapping() -> Mapping {
        Mapping {
            username: Source::Claim { name: "email".into(), prefix: "oidc:".into() },
            groups: Some(Source::Claim { name: "roles".into(), prefix: "r:".into() }),
            uid: Some(Source::Expression(Box::new(program("claims.sub")))),
            extra: vec![("example.org/team".into(), program("claims.?team.orValue('')"))],
            required: vec![("hd".into(), "example.org".into())],
            claim_rules: vec![Rule { program: program("claims.level > 1"), message: "too low".into() }],
            user_rules: vec![Rule {
                program: user_env().compile("!user.username.startsWith('system:')", &[Type::Bool]).unwrap(),
                message: "reserved".into(),
            }],
        }
    }

    #[test]
    fn claims_make_a_user_or_the_reason_why_not() {
        let check = |change: Value, want: Result<&str, &str>| {
            let mut claims = json!({
                "email": "ann@x", "roles": ["a", "b"], "sub": "7", "hd": "example.org", "level": 2, "jti": "t1",
            });
            for (key, value) in change.as_object().unwrap() {
                claims[key] = value.clone();
            }
            let got = mapping().user(claims.as_object().unwrap());
            match want {
                Ok(want) => {
                    let user = got.unwrap();
                    let extra: Vec<String> = user.extra.values().flatten().cloned().collect();
                    let all = [user.name, user.uid, user.groups.join("+"), extra.join("+")].join(" ");
                    assert_eq!(all, want, "{change}");
                }
                Err(why) => assert!(got.as_ref().is_err_and(|e| e.contains(why)), "{change}: {got:?}"),
            }
        };
        check(json!({}), Ok("oidc:ann@x 7 r:a+r:b JTI=t1"));
        check(json!({"roles": "one", "team": "t"}), Ok("oidc:ann@x 7 r:one JTI=t1+t"));
        check(json!({"email_verified": false}), Err("email not verified"));
        check(json!({"email": 3}), Err("parse username claims \"email\""));
        check(json!({"hd": "other"}), Err("value does not match"));
        check(json!({"level": 1}), Err("failed: too low"));
        check(json!({"roles": [1]}), Err("parse groups claim"));
        check(json!({"sub": 1}), Err("uid claim expression must return a string"));
        let mut reserved = mapping();
        reserved.username = Source::Expression(Box::new(program("'system:' + claims.sub")));
        let claims = json!({"sub": "7", "hd": "example.org", "level": 2});
        assert!(reserved.user(claims.as_object().unwrap()).unwrap_err().contains("failed: reserved"));
    }
}
