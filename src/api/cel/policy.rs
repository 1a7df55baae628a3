//! What expressions of webhooks and policies may name: `object`, `request`, `variables` … (apiserver
//! `admission/plugin/cel/compile.go`).

use std::sync::{Arc, LazyLock};

use super::{CompileError, Decl, Env, Program, Stage, Type};

/// Which of the optional variables there are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Declarations {
    /// `params`: the policy has a `paramKind`.
    pub params: bool,
    /// `authorizer` and `authorizer.requestResource`.
    pub authorizer: bool,
    /// `Object{}` and `JSONPatch{}`.
    pub mutations: bool,
}

/// The name under which the request's own resource is asked about.
pub const REQUEST_RESOURCE: &str = "authorizer.requestResource";

fn text() -> Decl {
    Decl::new(Type::String)
}

fn texts() -> Decl {
    Decl::list(text(), None)
}

fn named(name: &str, fields: Vec<(&str, Decl)>) -> Decl {
    Decl::object(name, fields.into_iter().map(|(name, decl)| (name.to_owned(), decl)))
}

/// `BuildRequestType`.
static REQUEST: LazyLock<Decl> = LazyLock::new(|| {
    let kind = || named("kubernetes.GroupVersionKind", vec![("group", text()), ("version", text()), ("kind", text())]);
    let resource =
        || named("kubernetes.GroupVersionResource", vec![("group", text()), ("version", text()), ("resource", text())]);
    let user = named(
        "kubernetes.UserInfo",
        vec![("username", text()), ("uid", text()), ("groups", texts()), ("extra", Decl::map(texts(), None))],
    );
    named(
        "kubernetes.AdmissionRequest",
        vec![
            ("kind", kind()),
            ("resource", resource()),
            ("subResource", text()),
            ("requestKind", kind()),
            ("requestResource", resource()),
            ("requestSubResource", text()),
            ("name", text()),
            ("namespace", text()),
            ("operation", text()),
            ("userInfo", user),
            ("dryRun", Decl::new(Type::Bool)),
            ("options", Decl::dynamic()),
        ],
    )
});

/// `BuildNamespaceType`.
static NAMESPACE: LazyLock<Decl> = LazyLock::new(|| {
    let time = || Decl::new(Type::Timestamp);
    let metadata = named(
        "kubernetes.NamespaceMetadata",
        vec![
            ("name", text()),
            ("generateName", text()),
            ("namespace", text()),
            ("labels", Decl::map(text(), None)),
            ("annotations", Decl::map(text(), None)),
            ("UID", text()),
            ("creationTimestamp", time()),
            ("deletionGracePeriodSeconds", Decl::new(Type::Int)),
            ("deletionTimestamp", time()),
            ("generation", Decl::new(Type::Int)),
            ("resourceVersion", text()),
            ("finalizers", texts()),
        ],
    );
    named(
        "kubernetes.Namespace",
        vec![
            ("metadata", metadata),
            ("spec", named("kubernetes.NamespaceSpec", vec![("finalizers", texts())])),
            ("status", named("kubernetes.NamespaceStatus", vec![("phase", text())])),
        ],
    )
});

/// The declaration of `namespaceObject`.
pub fn namespace_decl() -> &'static Decl {
    &NAMESPACE
}

/// An environment for an expression of a webhook or policy. `variables` are those that the policy defined before it, in
/// their order.
pub fn env(declarations: Declarations, variables: &[(String, Type)]) -> Env {
    let mut env = Env::new()
        .declare("object", Decl::dynamic())
        .declare("oldObject", Decl::dynamic())
        .declare("request", REQUEST.clone())
        .declare("namespaceObject", NAMESPACE.clone());
    if declarations.params {
        env = env.declare("params", Decl::dynamic());
    }
    if declarations.authorizer {
        let authz = |name| Decl::new(Type::Named(name));
        env = env
            .declare("authorizer", authz("kubernetes.authorization.Authorizer"))
            .declare(REQUEST_RESOURCE, authz("kubernetes.authorization.ResourceCheck"));
    }
    if declarations.mutations {
        env = env.with_mutations();
    }
    if variables.is_empty() && !declarations.mutations {
        return env;
    }
    let fields = variables.iter().map(|(name, ty)| (name.clone(), Decl::new(ty.clone())));
    env.declare("variables", Decl::object("kubernetes.variables", fields))
}

/// Compiles with the text that upstream gives an error.
///
/// # Errors
/// `compilation failed: …`, or what the expression should evaluate to.
pub fn compile(env: &Env, source: &str, wanted: &[Type]) -> Result<Program, String> {
    env.compile(source, wanted).map_err(|error| describe(&error))
}

/// The text of a compile error as validation and evaluation show it.
pub fn describe(error: &CompileError) -> String {
    match error.stage {
        Stage::Check => format!("compilation failed: {}", error.text()),
        Stage::Result => error.text(),
        Stage::Program => format!("program instantiation failed: {}", error.text()),
    }
}

/// The type of `applyConfiguration` expressions.
pub fn object_type() -> Type {
    Type::Object(Arc::new(super::ObjectType { name: "Object".to_owned(), ..Default::default() }))
}

/// The type of `jsonPatch` expressions.
pub fn json_patch_type() -> Type {
    Type::List(Arc::new(Type::Named("JSONPatch")))
}
